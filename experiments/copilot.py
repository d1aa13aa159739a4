"""`handrail copilot`: a person works simulated cases at the terminal, and a copilot suggests.

Their verdicts are stored as those of simulated operators are: sessions with `Step.feedback`, actor `operator`. The
store is written anew after each session, and at the end with the one that is open, however the end comes.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from handrail.envs.errors import HandrailError
from handrail.experiments.options import option, parse_options

if TYPE_CHECKING:
    from handrail.agents.operators.seat import Seat
    from handrail.agents.operators.terminal import Console
    from handrail.envs.bpm.env import BPMEnv
    from handrail.envs.schema import Action, Session
    from handrail.envs.spaces import Observation

DESCRIPTION = (
    "You work simulated cases, and a copilot suggests what to do: accept it or correct it. Sessions with your verdicts "
    "go to a Parquet store; one that exists is continued with cases it does not hold yet. q or Ctrl-C ends it at any "
    "point, and the open session is stored as open."
)


@dataclass(frozen=True)
class Options:
    """Options of `handrail copilot`."""

    domain: str | None = option(
        None, help="shipped domain or a domain's folder; by default that of the policy, or bank"
    )
    policy: Path | None = option(
        None, help="run directory whose policy suggests; by default a stand-in that knows the procedures does"
    )
    out: Path | None = option(
        None, help="store (.parquet) to begin or continue; by default outputs/copilot/DOMAIN.parquet"
    )
    sessions: int | None = option(None, help="sessions to work, at least 1; by default until you quit")
    seed: int = option(0, help="seed of the first case; those that follow have the next ones")
    show: Literal["critical", "all"] = option(
        "critical", help="suggest only actions with effects outside the screen, or at every step"
    )
    issues: tuple[str, ...] | None = option(None, help="kinds of case that come in, by default all")
    error: float | None = option(
        None, help="share of the stand-in's critical suggestions that are wrong, 0 to 1; by default as in simulations"
    )
    operator: str = option("person", help="your pseudonym in the log")


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: arguments after `copilot`.

    Returns:
        Exit status: 0 after the last session or `q`, 130 after Ctrl-C; everything is stored in all cases.

    Raises:
        HandrailError: an option is wrong, or the store cannot be continued.
    """
    options = parse_options(argv, Options, prog="handrail copilot", description=DESCRIPTION)
    _check(options)
    from handrail.agents.operators.terminal import Console, LeaveError, TerminalSeat
    from handrail.envs.bpm.env import BPMEnv

    with suppress(ImportError):
        # Importing it gives `input` cursor keys and a history.
        import readline  # noqa: F401
    console = Console()
    copilot = _StandIn(options.error) if options.policy is None else _Trained(options.policy)
    domain = options.domain or copilot.domain
    console.say(f"opening {domain} …")
    env = BPMEnv(domain, options.issues)
    store = Store(options.out or Path("outputs", "copilot", f"{env.domain.name}.parquet"), f"bpm.{env.domain.name}")
    seat = TerminalSeat(options.operator, copilot.name, console)
    where = "at critical steps" if options.show == "critical" else "at every step"
    console.say(f"suggestions {where}, by {copilot.name}")
    console.say(f"store: {store.path}, {_counted(store.held, 'session')} so far")
    status, before = 0, store.held
    sitting: Sitting | None = None
    with _hangups_as_interrupts():
        try:
            for number, seed in enumerate(_fresh(env, options.seed, store), start=1):
                if number > 1:
                    console.ask("\nEnter for the next case, q to quit: ")
                sitting = Sitting(env, seat, copilot, options.show == "all")
                try:
                    sitting.work(seed)
                finally:
                    if env.session().steps:
                        store.add(sitting.session())
                _tell(console, sitting.session())
                if number == options.sessions:
                    break
        except LeaveError:
            pass
        except KeyboardInterrupt:
            status = 130
        finally:
            store.save()
    console.say(f"\n{_counted(store.held - before, 'session')} added, {store.held} in all")
    left = len(env.session().steps)
    if sitting is not None and not sitting.over and left:
        console.say(f"the last is open: you left it after {_counted(left, 'step')}")
    console.say(f"store: {store.path}")
    return status


class Copilot(Protocol):
    """What suggests.

    Attributes:
        name: for the log.
        domain: where it is at home.
    """

    name: str
    domain: str

    def begin(self, seed: int) -> None:
        """Take in a case."""
        ...

    def suggest(self, env: BPMEnv, observation: Observation) -> Action:
        """Return a suggestion for the present state."""
        ...


class Sitting:
    """One session of a person and a copilot.

    Args:
        env: where it is worked.
        seat: of the person.
        copilot: suggests.
        everywhere: whether suggestions that are not critical are shown too.

    Attributes:
        over: whether it came to its end.
    """

    def __init__(self, env: BPMEnv, seat: Seat, copilot: Copilot, everywhere: bool = False) -> None:
        self.env, self.seat, self.copilot, self.everywhere = env, seat, copilot, everywhere
        self._causes: dict[str, str] = {}
        self._gated: list[int] = []
        self._started = time.monotonic()
        self.over = False

    def work(self, seed: int) -> None:
        """Work the case that `env.reset(seed=seed)` draws, to its end or until the environment truncates it."""
        env = self.env
        observation, _ = env.reset(seed=seed)
        env.actor, env.operator = "operator", self.seat.name
        self.copilot.begin(seed)
        while not self.over:
            suggestion = self.copilot.suggest(env, observation)
            if self.everywhere or env.world.critical(suggestion):
                review = self.seat.review(env, suggestion)
                action, step = review.action, observation.index
                env.note(review.feedback)
                if review.cause:
                    self._causes[str(step)] = review.cause
                if review.critical:
                    self._gated.append(step)
            else:
                action = self.seat.act(env)
            observation, _, terminated, truncated, _ = env.step(action)
            self.over = terminated or truncated

    def session(self) -> Session:
        """Return what was done so far, told as `handrail.agents.simulate` tells simulated sessions.

        `outcome.active_seconds` is what the simulator's clock gives for these actions, `outcome.wall_seconds` the
        seconds that the person took.
        """
        import msgspec

        session = self.env.session()
        return msgspec.structs.replace(
            session,
            source=f"bpm.{self.env.domain.name}",
            outcome={**session.outcome, "wall_seconds": time.monotonic() - self._started},
            hidden={
                **session.hidden,
                **self.seat.truth(),
                "causes": dict(self._causes),
                "critical_suggestions": list(self._gated),
            },
        )


@dataclass
class Store:
    """A store to which sessions are added one by one.

    Args:
        path: the file; one that exists is continued.
        source: what its sessions are of.

    Attributes:
        ids: of the sessions that it holds.

    Raises:
        HandrailError: the file cannot be written, is no store, or holds sessions of something else.
    """

    path: Path
    source: str
    ids: set[str] = field(init=False, default_factory=set)
    _waiting: list[Session] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        from handrail.envs.logs.store import open_store

        if self.path.suffix != ".parquet":
            raise HandrailError(f"handrail copilot: out={self.path}: expected a name that ends in .parquet")
        if self.path.exists():
            with open_store(self.path) as file:
                columns = file.read(columns=["session_id", "source"])
            others = sorted(set(columns["source"].to_pylist()) - {self.source})
            if others:
                raise HandrailError(
                    f"handrail copilot: out={self.path} holds sessions of {others[0]}, and these would be of "
                    f"{self.source}; choose another out="
                )
            self.ids = set(columns["session_id"].to_pylist())
        # Hours of work are no time to learn that a folder is write-protected.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise HandrailError(f"handrail copilot: out={self.path} cannot be written: {error}") from None

    @property
    def held(self) -> int:
        """How many sessions it holds."""
        return len(self.ids)

    def add(self, session: Session) -> None:
        """Add a session and write the store."""
        self._waiting.append(session)
        self.save()

    def save(self) -> None:
        """Write what is not written yet, behind what the file holds."""
        from handrail.envs.logs.store import SessionWriter, read_sessions

        if not self._waiting:
            return
        held: set[str] = set()
        with SessionWriter(self.path) as writer:
            if self.path.exists():
                for session in read_sessions(self.path):
                    writer.write(session)
                    held.add(session.id)
            for session in self._waiting:
                # An interrupt may have come after they were written and before they were forgotten.
                if session.id not in held:
                    writer.write(session)
                    held.add(session.id)
        self.ids = held
        self._waiting.clear()


class _StandIn:
    """A copilot that knows the procedures, and is wrong at a set rate.

    Args:
        error: share of its critical suggestions that are wrong; the default of simulations if None.
    """

    name = "simulated"
    domain = "bank"

    def __init__(self, error: float | None) -> None:
        from handrail.agents.operators.verdicts import ERROR

        self._error = ERROR if error is None else error

    def begin(self, seed: int) -> None:
        import numpy as np

        from handrail.agents.operators.expert import Expert
        from handrail.agents.operators.verdicts import Suggester

        # The environment draws from the seed itself.
        self._suggester = Suggester(Expert(), self._error, np.random.default_rng([seed, 2]))

    def suggest(self, env: BPMEnv, observation: Observation) -> Action:
        return self._suggester.suggest(env.world)


class _Trained:
    """The policy of a run.

    Args:
        folder: the run directory.

    Raises:
        HandrailError: it is no run, or has no policy.
    """

    def __init__(self, folder: Path) -> None:
        from omegaconf import OmegaConf

        from handrail.agents.desk import Desk
        from handrail.agents.policy import Policy
        from handrail.experiments.rundir import RunDirectory

        run = RunDirectory.open(folder)
        config = run.config
        policy = Policy.load(run.file("checkpoints") / "policy")
        self.domain = str(OmegaConf.select(config, "domain") or _StandIn.domain)
        self.name = "/".join(run.path.resolve().parts[-2:])
        decoding = {name: bool(config[name]) for name in ("constrained", "copied") if name in config}
        self._desk = Desk(policy, _busiest(run.path), **decoding)

    def begin(self, seed: int) -> None:
        if len(self._desk):
            self._desk.finish(0)
        self._desk.begin(0)

    def suggest(self, env: BPMEnv, observation: Observation) -> Action:
        from handrail.agents.spelling import spelled

        return spelled(self._desk.suggest({0: observation})[0].action, observation)


def _busiest(run: Path) -> str:
    """Return the operator who worked most sessions of a run's own log: whose way of working the policy is to follow."""
    from collections import Counter

    from handrail.envs.logs.store import open_store
    from handrail.experiments.studies.bpm import STORE

    if not (run / STORE).is_file():
        return ""
    with open_store(run / STORE) as file:
        columns = file.read(columns=["session_id", "operator"])
    operators = dict(zip(columns["session_id"].to_pylist(), columns["operator"].to_pylist(), strict=True))
    return str(Counter(operators.values()).most_common(1)[0][0])


def _check(options: Options) -> None:
    if options.sessions is not None and options.sessions < 1:
        raise HandrailError(f"handrail copilot: sessions={options.sessions}, expected at least 1")
    if options.seed < 0:
        raise HandrailError(f"handrail copilot: seed={options.seed}, expected at least 0")
    if options.error is not None and not 0 <= options.error <= 1:
        raise HandrailError(f"handrail copilot: error={options.error}, expected a share from 0 to 1")
    if options.error is not None and options.policy is not None:
        raise HandrailError("handrail copilot: error= is of the stand-in; leave it out, or leave out policy=")


def _fresh(env: BPMEnv, seed: int, store: Store) -> Iterator[int]:
    """Yield the seeds from `seed` on whose cases the store does not hold yet."""
    while True:
        env.reset(seed=seed)
        if env.world.case.id not in store.ids:
            yield seed
        seed += 1


def _tell(console: Console, session: Session) -> None:
    """Say how a session ended."""
    verdicts = [step.feedback.verdict for step in session.steps if step.feedback is not None]
    outcome: dict[str, Any] = session.outcome
    end = f"closed as {outcome['closed']}" if outcome["closed"] else f"given up after {len(session.steps)} steps"
    right = "as it should be" if outcome["success"] else "not as it should be"
    given = f"{verdicts.count('accept')} accepted, {verdicts.count('reject')} corrected"
    broken = f" · rules broken: {', '.join(outcome['violations'])}" if outcome["violations"] else ""
    console.rule(f"{session.issue} · {end}")
    console.say(
        f"{right}{broken} · {_counted(len(session.steps), 'step')} in {outcome['wall_seconds']:.0f} s · "
        f"{_counted(len(verdicts), 'suggestion')}: {given}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextmanager
def _hangups_as_interrupts() -> Iterator[None]:
    """Let a closed window or a `kill` end a sitting as Ctrl-C does, so that the open session is stored."""
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
