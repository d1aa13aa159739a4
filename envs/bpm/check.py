"""Checking a domain: every mistake that can be found, told with file, path and value.

`check_domain` runs at load. It looks up every name, compiles every expression and text (`handrail.envs.bpm.parts`),
follows every procedure (`handrail.envs.bpm.graphs`), and then tries the guards and works some cases
(`handrail.envs.bpm.probe`). `python -m handrail.envs.bpm.check FOLDER` does the same from a shell and reports how often
cases take each way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.graphs import Graphs, worked_in
from handrail.envs.bpm.load import Source
from handrail.envs.errors import HandrailError


def check_domain(domain: Domain, source: Source | None = None, tried: bool = True) -> None:
    """Check a domain.

    Args:
        domain: of the right form, as `handrail.envs.bpm.load.read_domain` returns it.
        source: where its values were read from, to name file and line.
        tried: whether to draw and work cases too, which finds guards that never hold and procedures that never end.

    Raises:
        HandrailError: it has mistakes; each is listed with its path and value, what was expected and nearest names.
    """
    check = Graphs(domain, source)
    stages: tuple[Callable[[], None], ...] = (
        check.records,
        check.desk,
        check.screens,
        check.reachable,
        check.templates,
        check.kinds_of_case,
        check.procedures,
        check.rules,
        check.small,
    )
    for stage in stages:
        stage()
    check.problems.raise_any()
    check.flow()
    check.problems.raise_any()
    if tried:
        from handrail.envs.bpm.probe import try_domain

        try_domain(domain, check.problems, check.issues)
        check.problems.raise_any()


def main(arguments: Sequence[str]) -> int:
    """Check the domain named on the command line, and tell how often its cases take each way.

    Args:
        arguments: name or folder of a domain and, if wanted, the number of cases of each issue (200).

    Returns:
        Exit status: 0 if the domain is sound.
    """
    from handrail.envs.bpm.load import load_domain
    from handrail.envs.bpm.probe import coverage

    if not 1 <= len(arguments) <= 2 or not all(number.isdigit() for number in arguments[1:]):
        print("usage: python -m handrail.envs.bpm.check DOMAIN [CASES]", file=sys.stderr)
        return 2
    try:
        domain = load_domain(arguments[0])
        worked = coverage(domain, int(arguments[1]) if len(arguments) > 1 else 200)
    except HandrailError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"domain {domain.name}: no mistakes found")
    for issue, found in worked.items():
        ends = ", ".join(f"{outcome} {count / found.cases:.0%}" for outcome, count in found.outcomes.most_common())
        print(
            f"\n{issue}: {found.cases} cases, {found.successes / found.cases:.1%} succeed, "
            f"{found.steps / found.cases:.1f} actions each; {ends}"
        )
        for name in _followed(domain, issue):
            for key, node in domain.procedures[name].nodes.items():
                if node.run is None and node.decide is None and node.exit is None:
                    share = found.visits[f"{name}.{key}"] / found.cases
                    print(f"  {share:6.1%}  {name}.{key}{'  <- never reached in these cases' if not share else ''}")
    return 0


def _followed(domain: Domain, issue: str) -> list[str]:
    """Return the procedures that cases of `issue` are worked in."""
    return [name for name, issues in worked_in(domain).items() if issue in issues]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
