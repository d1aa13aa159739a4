"""Who acts at a step that policy and operator share, and why: one interface, a class a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from handrail.agents.decoding import Suggestion
from handrail.agents.gate import GUARDRAILS, Gate, Guardrail
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.schema import Action
from handrail.envs.spaces import Observation

Route = Literal["run", "review", "operator"]
"""The policy's action runs alone; the operator accepts or corrects it; the operator acts and sees no suggestion."""


@dataclass(frozen=True)
class Moment:
    """A step to be decided.

    Attributes:
        issue: of the session.
        observation: what is to be seen.
        action: what the policy would do, in the screen's spelling.
        suggestion: the same with the policy's confidence in it.
        critical: whether the action has effects outside the screen.
        score: the critic's p(accept), NaN without a critic or for an action that is not critical.
        rng: of the session, for whatever a rule draws.
        env: where the session runs.
    """

    issue: str
    observation: Observation
    action: Action
    suggestion: Suggestion
    critical: bool
    score: float
    rng: np.random.Generator
    env: BPMEnv


class Ruling(NamedTuple):
    """Who acts.

    Attributes:
        route: who.
        reason: why.
        probability: the chance, before any draw, that an operator sees the step, in [0, 1].
    """

    route: Route
    reason: str
    probability: float = 1.0


class Rule(Protocol):
    """Who acts."""

    @property
    def suggests(self) -> bool:
        """Whether the policy is asked at all."""
        ...

    @property
    def labels(self) -> bool:
        """Whether the operator says of every step that ran alone what they would have done."""
        ...

    def route(self, moment: Moment) -> Ruling:
        """Decide on one step."""
        ...


@dataclass(frozen=True)
class Alone:
    """The operator works alone."""

    suggests: ClassVar[bool] = False
    labels: ClassVar[bool] = False

    def route(self, moment: Moment) -> Ruling:
        """Return the operator."""
        return Ruling("operator", "alone")


@dataclass(frozen=True)
class Copilot:
    """The policy suggests and the operator accepts or corrects; what is executed is the operator's.

    Attributes:
        everywhere: whether steps that are not critical are suggested too, or the operator does those alone.
    """

    everywhere: bool = True
    suggests: ClassVar[bool] = True
    labels: ClassVar[bool] = False

    def route(self, moment: Moment) -> Ruling:
        """Return a review wherever there is a suggestion to show."""
        shown = self.everywhere or moment.critical
        return Ruling("review", "copilot") if shown else Ruling("operator", "not_critical")


@dataclass(frozen=True)
class Selective:
    """The gate's confident steps run alone, the rest goes to the operator as a suggestion, if it is likely right.

    Operators wave some wrong suggestions through, and no certificate of what runs alone says anything of those: it is
    safer to be silent than to suggest what is probably wrong.

    Attributes:
        gate: decides.
        confidence: of a suggestion, higher is surer; stands in place of the critic's score if it is given.
        shown: critical suggestions with a lower score are not shown; the operator acts by themself.
    """

    gate: Gate
    confidence: Callable[[Suggestion], float] | None = None
    shown: float = -math.inf
    suggests: ClassVar[bool] = True
    labels: ClassVar[bool] = False

    def route(self, moment: Moment) -> Ruling:
        """Return what the gate decides."""
        score = moment.score if self.confidence is None else self.confidence(moment.suggestion)
        made = self.gate.decide(moment.issue, moment.observation, moment.action, moment.critical, score, moment.rng)
        if made.reason in ("low_confidence", "handed_over") and score < self.shown:
            return Ruling("operator", "not_shown")
        return Ruling("run" if made.execute else "review", made.reason, made.probability)


def supervised(guardrails: Sequence[Guardrail] = GUARDRAILS) -> Selective:
    """Return the rule under which everything critical is reviewed and the rest runs alone.

    What comes of it is what a critic learns from and thresholds are certified on: sessions take the course they take
    under `Selective`, until something critical and wrong would have run.
    """
    return Selective(Gate(pooled=math.inf, guardrails=guardrails))
