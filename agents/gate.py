"""The gate: which suggestions run alone and which go to the operator, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Step
from handrail.envs.spaces import Observation

Reason = Literal["non_critical", "confident", "low_confidence", "handed_over", "guardrail", "not_certified", "audit"]
Guardrail = Callable[[Observation, Action], bool]

STUCK = 12
"""Actions in a row without a new message after which `stuck` calls the operator."""


@dataclass(frozen=True)
class Decision:
    """What happens to a suggestion.

    Attributes:
        execute: whether it runs without the operator.
        reason: why; `audit` is a confident step that goes to the operator all the same, to keep labels coming.
        probability: the chance, before the draw, that the operator sees the step: 1 for steps that are deferred in any
            case, the audit share for confident ones, 0 for steps that are never audited. Estimates from audited steps
            weigh by its inverse.
    """

    execute: bool
    reason: Reason
    probability: float


@dataclass(frozen=True)
class Gate:
    """Lets critical suggestions run alone where the critic's score reaches a certified threshold.

    Once an operator has acted in a session, or overridden the policy, what is critical in it stays with them; the rest
    goes on running.

    Attributes:
        thresholds: issue -> certified threshold, `None` where nothing could be certified: those issues stay with the
            operator.
        pooled: the threshold of issues that have none of their own; `None` defers them.
        guardrails: forbid an action in a state whatever its score.
        audit_share: share of confident steps that go to the operator at random, in [0, 1].
        keeps: whether an operator who was called keeps what is critical; otherwise only one who did anything else than
            accept a suggestion does. From there on a session goes a way that the policy did not choose and that
            calibration sessions did not take.
    """

    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    pooled: float | None = None
    guardrails: Sequence[Guardrail] = ()
    audit_share: float = 0.0
    keeps: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.audit_share <= 1:
            raise HandrailError(f"gate.audit_share={self.audit_share}: expected a share between 0 and 1")

    def decide(
        self, issue: str, seen: Observation, action: Action, critical: bool, score: float, rng: np.random.Generator
    ) -> Decision:
        """Decide on one suggestion.

        Args:
            issue: of the session.
            seen: what the operator would see.
            action: the suggestion.
            critical: whether it has effects outside the screen; others run.
            score: the critic's p(accept); NaN is never confident.
            rng: draws the audit.
        """
        threshold = self.thresholds.get(issue, self.pooled)
        if threshold is None:
            return Decision(False, "not_certified", 1.0)
        if any(forbids(seen, action) for forbids in self.guardrails):
            return Decision(False, "guardrail", 1.0)
        if not critical:
            return Decision(True, "non_critical", 0.0)
        if any(step.actor == "operator" if self.keeps else _overrides(step) for step in seen.history):
            return Decision(False, "handed_over", 1.0)
        if not score >= threshold:
            return Decision(False, "low_confidence", 1.0)
        if self.audit_share and rng.random() < self.audit_share:
            return Decision(False, "audit", self.audit_share)
        return Decision(True, "confident", self.audit_share)


def _overrides(step: Step) -> bool:
    return step.actor == "operator" and (step.feedback is None or step.feedback.verdict != "accept")


def refused(seen: Observation, action: Action) -> bool:
    """Guardrail: the screen refused the action before; an operator should see why."""
    return "error" in seen.state.values


def stuck(seen: Observation, action: Action) -> bool:
    """Guardrail: much was done since anything was last heard, or the same is to be done again on the same screen.

    A question may be asked again where the answer was none, once.
    """
    since, again, silent, row = 0, 0, not seen.events, True
    for step in reversed(seen.history):
        if step.actor == "operator":
            break
        same = step.action == action and step.state == seen.state
        if same and silent:
            return True
        row = row and same
        again += row
        since += silent
        silent = silent and not step.events
    return since >= STUCK or again >= 2


def contested(seen: Observation, action: Action) -> bool:
    """Guardrail: the policy did the same in the same situation before, and an operator has overridden it since.

    Left to themselves, the policy would undo what the operator does, and the operator do it again.
    """
    since = False
    for step in reversed(seen.history):
        since = since or _overrides(step)
        if since and step.actor == "policy" and step.action == action and step.state == seen.state:
            return True
    return False


GUARDRAILS: Sequence[Guardrail] = (refused, stuck, contested)
"""What studies gate by."""
