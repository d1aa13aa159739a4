"""`handrail bench`: speed and memory, as rates and as ratios against alternatives in the same process.

Each family of benchmarks is a module of `handrail.experiments.benchmarks`. The medians go to `bench.json` in a run
directory, after each family, so that a crash in a later one loses nothing; versions and machine go to
`provenance.json` beside it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType

from handrail.envs import registry
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.files import write_json
from handrail.experiments.benchmarks import Measurement, Options, Skipped
from handrail.experiments.options import parse_options
from handrail.experiments.rundir import environment

PACKAGE = "handrail.experiments.benchmarks"
"""Where the families are found."""


def main(argv: Sequence[str]) -> None:
    """Measure, print a table, write `bench.json` and print the run directory in the last line.

    Args:
        argv: `key=value` options; see `Options`.

    Raises:
        HandrailError: an option is wrong, or no key begins with `only`.
    """
    options = parse_options(
        argv, Options, prog="handrail bench", description="Measure speed and memory against alternatives."
    )
    if options.repeats < 1:
        raise HandrailError(f"handrail bench: repeats={options.repeats}, expected at least 1")
    families = select(options.only)
    directory = _run_directory(options.out)
    write_json(directory / "provenance.json", {"argv": list(argv), **environment()})
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs")
    print(f"median [lowest, highest] of {options.repeats} repetitions", flush=True)
    results: dict[str, float] = {}
    for number, (name, family) in enumerate(families, start=1):
        print(f"[{number}/{len(families)}] {name} …", file=sys.stderr, flush=True)
        for result in family.measure(options):
            if isinstance(result, Measurement) and not result.written:
                print(_row(result), flush=True)
            elif result.key not in family.KEYS:
                raise RuntimeError(f"benchmark {name} measured {result.key!r}, which is not in its KEYS")
            elif result.key.startswith(options.only):
                print(_row(result), flush=True)
                if isinstance(result, Measurement):
                    results[result.key] = result.median
        write_json(directory / "bench.json", results)
    print(f"run directory: {directory}")


def select(only: str) -> list[tuple[str, ModuleType]]:
    """Return name and module of the families that have a key beginning with `only`.

    Raises:
        HandrailError: there is none.
    """
    families = [(name, registry.load(PACKAGE, name, "benchmark")) for name in registry.names(PACKAGE)]
    chosen = [(name, family) for name, family in families if any(key.startswith(only) for key in family.KEYS)]
    if not chosen:
        raise HandrailError(f"handrail bench: no key begins with only={only!r}{nearest(only, list(_known(families)))}")
    return chosen


def _known(families: list[tuple[str, ModuleType]]) -> Iterator[str]:
    for _, family in families:
        for key in family.KEYS:
            yield key.split(".", 1)[0]
            yield key


def _row(result: Measurement | Skipped) -> str:
    if isinstance(result, Skipped):
        return f"{result.key:<32} skipped: {result.reason}"
    spread = f"[{_number(min(result.values))}, {_number(max(result.values))}]"
    return f"{result.key:<32} {_number(result.median):>12} {spread:<26} {result.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _run_directory(out: Path) -> Path:
    start = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        directory = out / "bench" / f"{start}{suffix}"
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise HandrailError(f"handrail bench: cannot write to out={out}: {error}") from None
        return directory
    raise HandrailError(f"handrail bench: {out / 'bench' / start} and a thousand more exist; choose another out=")
