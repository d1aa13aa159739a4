"""Logged work: simulated operators work simulated cases, and what they do is kept as sessions.

```python
from handrail.agents.simulate import simulate, simulate_store

for session in simulate("bank", 100, seed=0):
    ...
simulate_store("bank.parquet", "bank", 10_000, seed=0, workers=2)
```

Case i of a seed is the same whoever draws it and however many processes share the work: everything random in it comes
from generators seeded with the seed and i.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from handrail.agents.operators.expert import Expert, Style
from handrail.agents.operators.human import CREW, Operator, Person, Slips, crew
from handrail.agents.operators.verdicts import ERROR, SHARES, Rates, Reviewer, Suggester
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.clock import Seconds
from handrail.envs.bpm.customer import Options
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.load import load_domain
from handrail.envs.errors import HandrailError
from handrail.envs.logs.store import PART_SUFFIX, SessionWriter, merge
from handrail.envs.normalize import same_action
from handrail.envs.schema import Control, Session

CHUNK = 100
"""Sessions that a process works at a time; a store has a row group for each, so its bytes depend on it."""

_CASE, _PEOPLE, _COPILOT = 0, 1, 2

Progress = Callable[[int], None]
"""Called with the number of sessions that are done."""


@dataclass(frozen=True)
class Copilot:
    """A copilot that suggests every action, of which the operator accepts or corrects each.

    Attributes:
        error: share of its critical suggestions that are wrong.
        style: how it works where there is a choice.
        seed: of its habits.
        rates: how operators judge it.
        name: model id in the log.
    """

    error: float = ERROR
    style: Style | str = "thorough"
    seed: int = 0
    rates: Rates = field(default_factory=Rates)
    name: str = "simulated"


@dataclass(frozen=True)
class _Desk:
    """Everything a process needs to work cases."""

    domain: Domain | str | Path
    seed: int
    people: tuple[Person, ...]
    issues: tuple[str, ...] | None
    customer: Options | Mapping[str, Any] | None
    copilot: Copilot | None
    max_steps: int


def simulate(
    domain: Domain | str | Path,
    n: int,
    seed: int,
    workers: int = 1,
    *,
    operators: int | Sequence[Person] = CREW,
    issues: Sequence[str] | None = None,
    customer: Options | Mapping[str, Any] | None = None,
    copilot: Copilot | None = None,
    max_steps: int = 80,
    progress: Progress | None = None,
) -> Iterator[Session]:
    """Yield `n` sessions, one a case, in a fixed order.

    A session's `id` is that of its case, `source` is `bpm.DOMAIN`, `operator` the pseudonym of who worked it. Tags:
    `kind` (`single`, `two_issues`), `variant` (the courses the case takes, joined by `+`), `style` (that of the
    operator), `completion`. `outcome` says how it ended and how long the operator was active. `hidden` holds the truth
    of the case, the slips (step, kind), the true causes of verdicts (step -> cause), and the steps at which a
    critical action was suggested (what was done there instead may not be critical).

    Args:
        domain: name of a shipped domain, path of a domain's folder, or a domain.
        n: number of sessions, >= 0.
        seed: the same seed gives the same sessions, whatever `workers` is; the first sessions are the same for any `n`.
        workers: processes; 1 works in this one. More are spawned, so a script that asks for them does so under
            `if __name__ == "__main__":`.
        operators: who works, or how many people to draw for it (from `seed`).
        issues: the kinds of case that come in; all if left out.
        customer: how customers differ from the default ones.
        copilot: a copilot that suggests; without one, operators work alone.
        max_steps: a case that takes longer is logged as it is then, with `completion` `open`.
        progress: called after each session.

    Raises:
        HandrailError: an argument is out of range, or the domain or an issue is unknown.
    """
    desk = _desk(domain, n, seed, workers, operators, issues, customer, copilot, max_steps)
    if workers == 1:
        return _alone(desk, n, progress)
    return _shared(desk, n, workers, progress)


def simulate_store(
    path: str | os.PathLike[str],
    domain: Domain | str | Path,
    n: int,
    seed: int,
    workers: int = 1,
    *,
    progress: Progress | None = None,
    **more: Any,
) -> Path:
    """Write `n` sessions to a store (`handrail.envs.logs.store`); each process writes the rows of its own.

    The file's bytes do not depend on `workers`.

    Args:
        path: the file to write or replace.
        domain: as for `simulate`.
        n: as for `simulate`; >= 1.
        seed: as for `simulate`.
        workers: as for `simulate`.
        progress: called after each chunk of sessions.
        **more: other arguments of `simulate`.

    Raises:
        HandrailError: as `simulate`, or the file cannot be written.
    """
    if n < 1:
        raise HandrailError(f"n is {n!r}, expected at least 1 session to store")
    given: dict[str, Any] = {"operators": CREW, "issues": None, "customer": None, "copilot": None, "max_steps": 80}
    unknown = sorted(set(more) - set(given))
    if unknown:
        raise HandrailError(f"simulate_store: unknown argument {unknown[0]!r}; known: {', '.join(given)}")
    desk = _desk(domain, n, seed, workers, **{**given, **more})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        jobs = [(start, min(start + CHUNK, n), str(folder)) for start in range(0, n, CHUNK)]
        for done, _ in enumerate(_mapped(_store_chunk, desk, jobs, workers), start=1):
            if progress is not None:
                progress(min(done * CHUNK, n))
        merge([_part(folder, start) for start, *_ in jobs], target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


class Agreement(NamedTuple):
    """How often two operators would do the same in the same state.

    Attributes:
        equal: for each case, at how many steps they would.
        steps: for each case, at how many they were asked.
    """

    equal: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def share(self) -> float:
        """Over all steps."""
        return sum(self.equal) / max(sum(self.steps), 1)


def agreement(
    domain: Domain | str | Path,
    n: int,
    seed: int,
    *,
    first: Expert | None = None,
    second: Expert | None = None,
    redrawn: bool = False,
    issues: Sequence[str] | None = None,
    customer: Options | Mapping[str, Any] | None = None,
) -> Agreement:
    """Let two experts of different style decide in the same states: the ceiling for whoever imitates operators.

    The first works the cases, and at each of its steps the second is asked too. How often one pair agrees depends on
    the habits of its two people. Pairs drawn anew in each case tell how often such people agree on average, which is
    what a policy that imitates several of them is to be held against.

    Args:
        domain: as for `simulate`.
        n: number of cases, >= 1.
        seed: of the cases.
        first: who works; `thorough` if left out.
        second: who is asked; `brisk` if left out.
        redrawn: whether each case has two new people, of the styles of `first` and `second` but with habits of their
            own, instead of the same two in all cases.
        issues: the kinds of case that come in; all if left out.
        customer: how customers differ from the default ones.

    Raises:
        HandrailError: an argument is out of range, or the domain or an issue is unknown.
    """
    if n < 1:
        raise HandrailError(f"n is {n!r}, expected at least 1 case")
    pair = first or Expert("thorough", 1), second or Expert("brisk", 2)
    env = BPMEnv(domain, issues, customer)
    equal, steps = [], []
    for number in range(n):
        case = draw_case(env.domain, np.random.default_rng([seed, number, _CASE]), issues=env.issues)
        env.reset(options={"case": case})
        env.actor = "operator"
        if redrawn:
            pair = Expert(pair[0].style, 2 * number), Expert(pair[1].style, 2 * number + 1)
        same = asked = 0
        over = False
        while not over:
            wanted = [expert.act(env.world) for expert in pair]
            same += same_action(*wanted)
            asked += 1
            _, _, terminated, truncated, _ = env.step(wanted[0])
            over = terminated or truncated
        equal.append(same)
        steps.append(asked)
    return Agreement(tuple(equal), tuple(steps))


HUMAN_SECONDS, COPILOT_SECONDS = 227.4, 185.5
"""Operator-active seconds a session in the paper: operators alone, and with a copilot whose every action they confirm.

The second is derived: automation brought 139.1 s, a quarter less than confirming.
"""


def crew_of(domain: Domain | str | Path, seed: int, size: int = CREW, slips: Slips | None = None) -> tuple[Person, ...]:
    """Return the people who work the sessions that `simulate` draws with this seed.

    Args:
        domain: as for `simulate`.
        seed: of the sessions.
        size: how many people there are, >= 1.
        slips: how often they slip on average.

    Raises:
        HandrailError: the domain is unknown, or `size` is less than 1.
    """
    loaded = domain if isinstance(domain, Domain) else load_domain(domain)
    return crew(size, seed, Seconds.of(loaded.desk.seconds), slips)


def calibrate(
    domain: Domain | str | Path = "bank",
    n: int = 1000,
    seed: int = 0,
    human: float = HUMAN_SECONDS,
    copilot: float = COPILOT_SECONDS,
) -> dict[str, float]:
    """Return the `pace` and `judging` of `handrail.envs.bpm.clock.Seconds` that lead to given active seconds a session.

    Time is linear in both, so two runs with a copilot and one without are enough. The defaults of `Seconds` are what
    this returns for `bank`, rounded.

    Args:
        domain: as for `simulate`.
        n: sessions a run, >= 1.
        seed: of the sessions.
        human: mean active seconds a session that operators alone should need.
        copilot: the same with the default `Copilot`.

    Raises:
        HandrailError: as `simulate`.
    """
    loaded = domain if isinstance(domain, Domain) else load_domain(domain)

    def active(judging: float, helper: Copilot | None) -> float:
        seconds = {**loaded.desk.seconds, "pace": 1.0, "judging": judging}
        desk = msgspec.structs.replace(loaded.desk, seconds=seconds)
        # Many people, so that the figure is not that of a few.
        sessions = simulate(msgspec.structs.replace(loaded, desk=desk), n, seed, operators=100, copilot=helper)
        return float(np.mean([session.outcome["active_seconds"] for session in sessions]))

    pace = human / active(0.0, None)
    least, most = active(0.0, Copilot()), active(1.0, Copilot())
    return {"pace": pace, "judging": (copilot / pace - least) / (most - least)}


def work(env: BPMEnv, operator: Operator, copilot: tuple[Suggester, Reviewer] | None = None) -> Session:
    """Let an operator work the case that `env` was reset to, to its end or until it is truncated.

    Args:
        env: at the start of a case.
        operator: who works.
        copilot: what suggests, and the operator as who judges.
    """
    world = env.world
    operator.begin(world)
    env.actor, env.operator = "operator", operator.person.name
    found: dict[str, str] = {}
    gated: list[int] = []
    step = 0
    over = False
    while not over:
        if copilot is None:
            action = operator.act(world)
        else:
            suggester, reviewer = copilot
            review = reviewer.review(world, suggester.suggest(world))
            action = review.action
            env.note(review.feedback)
            if review.cause:
                found[str(step)] = review.cause
            if review.critical:
                gated.append(step)
        _, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        step += 1
    session = env.session()
    case = world.case
    return msgspec.structs.replace(
        session,
        source=f"bpm.{case.domain}",
        tags={
            **session.tags,
            "kind": "two_issues" if len(case.matters) > 1 else "single",
            "variant": "+".join(str(matter.variant) for matter in case.matters),
            "style": operator.person.trait,
        },
        outcome={**session.outcome, "active": world.clock.spent._asdict()},
        hidden={
            **session.hidden,
            "slips": [list(slip) for slip in operator.slipped],
            "causes": found,
            "critical_suggestions": gated,
        },
    )


def causes(session: Session) -> dict[int, str]:
    """Return the true causes of verdicts on critical suggestions in a simulated session, by step.

    Right suggestions that were accepted have none.
    """
    gated = set(session.hidden.get("critical_suggestions", ()))
    return {int(step): cause for step, cause in session.hidden.get("causes", {}).items() if int(step) in gated}


def shares(sessions: Iterable[Session]) -> dict[str, float]:
    """Return the causes' shares of the rejected critical suggestions, and `rejected` and `rubber_stamp`.

    Args:
        sessions: simulated with a copilot.

    Returns:
        For each cause its share of the rejections; `rejected` is the share of critical suggestions that were rejected,
        `rubber_stamp` the share of those accepted that were wrong. 0 where there is nothing to share.
    """
    count: Counter[str] = Counter()
    suggested = 0
    for session in sessions:
        count.update(causes(session).values())
        suggested += len(session.hidden.get("critical_suggestions", ()))
    rejected = sum(count[cause] for cause in SHARES)
    return {
        **{cause: count[cause] / max(rejected, 1) for cause in SHARES},
        "rejected": rejected / max(suggested, 1),
        "rubber_stamp": count["rubber_stamp"] / max(suggested - rejected, 1),
    }


def _desk(
    domain: Domain | str | Path,
    n: int,
    seed: int,
    workers: int,
    operators: int | Sequence[Person],
    issues: Sequence[str] | None,
    customer: Options | Mapping[str, Any] | None,
    copilot: Copilot | None,
    max_steps: int,
) -> _Desk:
    for name, value, least in (("n", n, 0), ("seed", seed, 0), ("workers", workers, 1)):
        if not isinstance(value, int) or value < least:
            raise HandrailError(f"{name} is {value!r}, expected a whole number of at least {least}")
    loaded = domain if isinstance(domain, Domain) else load_domain(domain)
    people = operators
    if isinstance(people, int):
        people = crew_of(loaded, seed, people)
    if not people:
        raise HandrailError("operators is empty; expected at least one person")
    desk = _Desk(
        domain if isinstance(domain, Domain) else str(domain),
        seed,
        tuple(people),
        None if issues is None else tuple(issues),
        customer,
        copilot,
        max_steps,
    )
    # Wrong arguments are told here, not by a worker.
    _bench(desk)
    return desk


class _Bench:
    """An environment with what works in it, kept by a process from chunk to chunk."""

    def __init__(self, desk: _Desk) -> None:
        self.desk = desk
        self.env = BPMEnv(desk.domain, desk.issues, desk.customer, desk.max_steps)

    def session(self, number: int) -> Session:
        desk, env = self.desk, self.env
        case = draw_case(env.domain, np.random.default_rng([desk.seed, number, _CASE]), issues=env.issues)
        env.reset(options={"case": case})
        rng = np.random.default_rng([desk.seed, number, _PEOPLE])
        operator = Operator(desk.people[int(rng.integers(len(desk.people)))], rng)
        if desk.copilot is None:
            return work(env, operator)
        chance = np.random.default_rng([desk.seed, number, _COPILOT])
        given = desk.copilot
        suggester = Suggester(Expert(given.style, given.seed), given.error, chance)
        return work(env, operator, (suggester, Reviewer(operator, given.rates, given.name)))


def _bench(desk: _Desk) -> _Bench:
    return _Bench(desk)


def _alone(desk: _Desk, n: int, progress: Progress | None) -> Iterator[Session]:
    bench = _bench(desk)
    for number in range(n):
        yield bench.session(number)
        if progress is not None:
            progress(number + 1)


def _shared(desk: _Desk, n: int, workers: int, progress: Progress | None) -> Iterator[Session]:
    jobs = [(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    known: dict[tuple[Control, ...], tuple[Control, ...]] = {}
    done = 0
    for sessions in _mapped(_work_chunk, desk, jobs, workers):
        for session in _joined(sessions, known):
            yield session
            done += 1
            if progress is not None:
                progress(done)


def _joined(sessions: list[Session], known: dict[tuple[Control, ...], tuple[Control, ...]]) -> list[Session]:
    """Let states with equal controls share one tuple again, which pickling each chunk by itself has undone."""
    mine: dict[int, tuple[Control, ...]] = {}
    for session in sessions:
        for step in session.steps:
            state = step.state
            controls = mine.get(id(state.controls))
            if controls is None:
                controls = mine[id(state.controls)] = known.setdefault(state.controls, state.controls)
            msgspec.structs.force_setattr(state, "controls", controls)
    return sessions


def _mapped(function: Callable[[Any], Any], desk: _Desk, jobs: list[Any], workers: int) -> Iterator[Any]:
    """Yield what `function` makes of each job, in order."""
    if workers == 1:
        _settle(desk)
        yield from map(function, jobs)
        return
    # Forking a process that has threads (torch, Arrow) can lock up its children; spawning never does.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, max(len(jobs), 1)), _settle, (desk,)) as pool:
        waiting: deque[Any] = deque()
        for job in jobs:
            # Workers run ahead of a slow consumer by a few chunks, not by all of them.
            if len(waiting) > 2 * workers:
                yield waiting.popleft().get()
            waiting.append(pool.apply_async(function, (job,)))
        while waiting:
            yield waiting.popleft().get()


_settled: list[_Bench] = []


def _settle(desk: _Desk) -> None:
    _settled[:] = [_bench(desk)]


def _work_chunk(job: tuple[int, int]) -> list[Session]:
    return [_settled[0].session(number) for number in range(*job)]


def _store_chunk(job: tuple[int, int, str]) -> None:
    start, stop, folder = job
    with SessionWriter(_part(Path(folder), start), row_group=1 << 30) as writer:
        for number in range(start, stop):
            writer.write(_settled[0].session(number))


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}{PART_SUFFIX}"
