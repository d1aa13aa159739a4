"""Configuration of what studies do beside learning: how much is measured, and how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from handrail.envs.errors import HandrailError


def _at_least_one(where: str, config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise HandrailError(f"{where}.{name}={getattr(config, name)}: expected at least 1")


@dataclass(frozen=True)
class LoggerConfig:
    """Who records runs beside their directories (`handrail.experiments.tracking`).

    Attributes:
        mode: `offline` records with Weights & Biases into the run directory, `online` on its server, `none` not at all.
        project: there.
        entity: whose project; `None` for that of the account.
        group: under which runs are shown together; `None` for the sweep or search they belong to, else the experiment.
    """

    mode: Literal["none", "offline", "online"] = "offline"
    project: str = "handrail"
    entity: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """Logs that a study reads.

    Attributes:
        path: where they are; `None` for what the study makes itself.
        source: the reader, one of `handrail.envs.logs.readers`; `None` where nothing is read.
        options: of the reader.
    """

    path: str | None = "${oc.env:HANDRAIL_DATA,null}"
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitConfig(DataConfig):
    """Logs of which some sessions are learned from and others are held out.

    Attributes:
        where: metadata -> value that sessions must have; others are left out.
        max_sessions: at most so many are kept, drawn at random; `None` keeps all.
        splits: name -> share of the sessions, above 0, at most 1 together; whole sessions are drawn.
    """

    where: dict[str, Any] = field(default_factory=dict)
    max_sessions: int | None = None
    splits: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_sessions is not None:
            _at_least_one("data", self, "max_sessions")
        shares = list(self.splits.values())
        numbers = all(isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in shares)
        if not numbers or sum(shares) > 1 + 1e-9:
            raise HandrailError(f"data.splits={self.splits}: expected shares above 0 that sum to at most 1")


@dataclass(frozen=True)
class SimulateConfig:
    """The desk whose work is logged.

    Attributes:
        sessions: how many.
        workers: processes that work them; `None` for one a core. The sessions are the same.
        html: whether the log is written as pages and clicks and read back, or stored as it is.
    """

    sessions: int = 3000
    workers: int | None = None
    html: bool = True

    def __post_init__(self) -> None:
        _at_least_one("simulate", self, "sessions", *(["workers"] if self.workers is not None else []))


@dataclass(frozen=True)
class CopilotConfig:
    """Sessions in which operators judge a copilot's suggestions (`handrail.experiments.studies.rejections`).

    Attributes:
        sessions: how many.
        first_seed: of the first case.
        slots: cases that are worked at once.
        learn: share of the sessions that critics learn from.
        calibration: share that thresholds are set on; the others are the test.
    """

    sessions: int = 1600
    first_seed: int = 3000000
    slots: int = 64
    learn: float = 0.5
    calibration: float = 0.2

    def __post_init__(self) -> None:
        _at_least_one("copilot", self, "sessions", "slots")
        if min(self.learn, self.calibration) <= 0 or self.learn + self.calibration >= 1:
            raise HandrailError(
                f"copilot.learn={self.learn}, copilot.calibration={self.calibration}: expected shares above 0 that "
                "leave sessions to test on"
            )


@dataclass(frozen=True)
class HardConfig:
    """Which cases count as hard for a policy (`handrail.experiments.studies.feedback`).

    Attributes:
        cases: on which the policy shows it.
        share: of all cases that are to count as hard, in (0, 1).
        least: a kind of case that came up less often is not judged.
    """

    cases: int = 400
    share: float = 0.25
    least: int = 6

    def __post_init__(self) -> None:
        _at_least_one("hard", self, "cases", "least")
        if not 0 < self.share < 1:
            raise HandrailError(f"hard.share={self.share}: expected a share of the cases in (0, 1)")


@dataclass(frozen=True)
class JudgeConfig:
    """On what the policies of a study are compared (`handrail.experiments.studies.feedback`).

    Attributes:
        cases: in each set.
        slots: cases that are worked at once.
    """

    cases: int = 200
    slots: int = 64

    def __post_init__(self) -> None:
        _at_least_one("judge", self, "cases", "slots")


@dataclass(frozen=True)
class ClosedLoopConfig:
    """Cases that actors work alone in the simulator (`handrail.experiments.closed_loop`).

    Attributes:
        cases: how many.
        first_seed: of the first case; a policy has learned from cases of other seeds.
        slots: cases that are worked at once.
        actors: who works them: `random`, `policy`, `expert` or a baseline.
    """

    cases: int = 200
    first_seed: int = 1000000
    slots: int = 64
    actors: tuple[str, ...] = ("random", "backoff", "policy", "expert")

    def __post_init__(self) -> None:
        _at_least_one("closed_loop", self, "cases", "slots")


@dataclass(frozen=True)
class FeedbackConfig:
    """Sessions in which operators review everything critical.

    Attributes:
        sessions: how many.
        learn: share that critics learn from; thresholds are certified on the others.
        second_look: whether rejections that critics learn from are looked at again, by somebody who finds out whether
            the suggestion was right after all; otherwise critics learn from the verdicts as they were given.
    """

    sessions: int = 4000
    learn: float = 0.5
    second_look: bool = True

    def __post_init__(self) -> None:
        _at_least_one("feedback", self, "sessions")
        if not 0 < self.learn < 1:
            raise HandrailError(f"feedback.learn={self.learn}: expected a share of the sessions in (0, 1)")


@dataclass(frozen=True)
class OnlineConfig:
    """The online test of arms.

    Attributes:
        cases: that every arm works.
        slots: cases that are worked at once.
        workers: processes that work the cases of feedback and arms; `None` for one a core, or one if the policy is on
            a GPU. The sessions are the same.
        success_margin: how much lower than that of operators alone success may be, at most.
        violation_margin: how much higher violations may be.
    """

    cases: int = 2000
    slots: int = 64
    workers: int | None = None
    success_margin: float = 0.01
    violation_margin: float = 0.005

    def __post_init__(self) -> None:
        _at_least_one("online", self, "cases", "slots", *(["workers"] if self.workers is not None else []))
        for name in ("success_margin", "violation_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise HandrailError(f"online.{name}={getattr(self, name)}: expected a difference of rates in [0, 1)")
