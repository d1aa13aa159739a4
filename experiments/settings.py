"""Configuration of what studies do beside learning: how much is measured, and how long."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    sessions: int = 4000
    learn: float = 0.5

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
        success_margin: how much lower than that of operators alone success may be, at most.
        violation_margin: how much higher violations may be.
    """

    cases: int = 2000
    slots: int = 64
    success_margin: float = 0.01
    violation_margin: float = 0.005

    def __post_init__(self) -> None:
        _at_least_one("online", self, "cases", "slots")
        for name in ("success_margin", "violation_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise HandrailError(f"online.{name}={getattr(self, name)}: expected a difference of rates in [0, 1)")
