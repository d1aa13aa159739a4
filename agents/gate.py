"""The gate: which suggestions run alone and which go to the operator, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, UIState

Reason = Literal["non_critical", "confident", "low_confidence", "guardrail", "unknown_issue", "audit"]
Guardrail = Callable[[UIState, Action], bool]


@dataclass(frozen=True)
class Decision:
    """What happens to a suggestion.

    Attributes:
        execute: whether it runs without the operator.
        reason: why; `audit` is a confident step that goes to the operator all the same, to keep labels coming.
    """

    execute: bool
    reason: Reason


@dataclass(frozen=True)
class Gate:
    """Lets critical suggestions run alone where the critic's score reaches a certified threshold.

    Attributes:
        thresholds: issue -> certified threshold, `None` where nothing could be certified: those issues stay with the
            operator.
        pooled: the threshold of issues that have none of their own; `None` defers them.
        guardrails: forbid an action in a state whatever its score.
        audit_share: share of confident steps that go to the operator at random, in [0, 1].
    """

    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    pooled: float | None = None
    guardrails: Sequence[Guardrail] = ()
    audit_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.audit_share <= 1:
            raise HandrailError(f"gate.audit_share={self.audit_share}: expected a share between 0 and 1")

    def decide(
        self, issue: str, state: UIState, action: Action, critical: bool, score: float, rng: np.random.Generator
    ) -> Decision:
        """Decide on one suggestion.

        Args:
            issue: of the session.
            state: the screen.
            action: the suggestion.
            critical: whether it has effects outside the screen; others run.
            score: the critic's p(accept); NaN is never confident.
            rng: draws the audit.
        """
        if any(forbids(state, action) for forbids in self.guardrails):
            return Decision(False, "guardrail")
        if not critical:
            return Decision(True, "non_critical")
        threshold = self.thresholds.get(issue, self.pooled)
        if threshold is None:
            return Decision(False, "low_confidence" if issue in self.thresholds else "unknown_issue")
        if not score >= threshold:
            return Decision(False, "low_confidence")
        if self.audit_share and rng.random() < self.audit_share:
            return Decision(False, "audit")
        return Decision(True, "confident")
