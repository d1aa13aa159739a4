"""The gate: every reason by hand, and how often confident steps are audited."""

from __future__ import annotations

import numpy as np
import pytest

from handrail.agents.gate import Decision, Gate
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Control, UIState

STATE = UIState("desk", None, (Control("hello", "template"), Control("refund", "form")))
HELLO, REFUND = Action("send_reply", "hello"), Action("submit_form", "refund")


def no_refunds(state: UIState, action: Action) -> bool:
    assert state is STATE
    return action.target == "refund"


THRESHOLDS = {"bank": 0.8, "hotel": None}
OWN = Gate(THRESHOLDS)
POOLED = Gate(THRESHOLDS, pooled=0.6)
GUARDED = Gate(THRESHOLDS, pooled=0.6, guardrails=(no_refunds, lambda state, action: False))


@pytest.mark.parametrize(
    ("gate", "issue", "action", "critical", "score", "expected"),
    [
        (OWN, "bank", HELLO, True, 0.9, Decision(True, "confident")),
        (OWN, "bank", HELLO, True, 0.8, Decision(True, "confident")),
        (OWN, "bank", HELLO, True, 0.79, Decision(False, "low_confidence")),
        (OWN, "bank", HELLO, True, float("nan"), Decision(False, "low_confidence")),
        (OWN, "bank", HELLO, False, 0.0, Decision(True, "non_critical")),
        (OWN, "ride", HELLO, False, float("nan"), Decision(True, "non_critical")),
        (OWN, "hotel", HELLO, True, 1.0, Decision(False, "low_confidence")),
        (OWN, "ride", HELLO, True, 1.0, Decision(False, "unknown_issue")),
        (POOLED, "ride", HELLO, True, 0.6, Decision(True, "confident")),
        (POOLED, "ride", HELLO, True, 0.5, Decision(False, "low_confidence")),
        (POOLED, "bank", HELLO, True, 0.7, Decision(False, "low_confidence")),
        (POOLED, "hotel", HELLO, True, 1.0, Decision(False, "low_confidence")),
        (GUARDED, "bank", REFUND, True, 1.0, Decision(False, "guardrail")),
        (GUARDED, "bank", REFUND, False, 1.0, Decision(False, "guardrail")),
        (GUARDED, "bank", HELLO, True, 1.0, Decision(True, "confident")),
        (Gate(), "bank", HELLO, True, 1.0, Decision(False, "unknown_issue")),
        (Gate(THRESHOLDS, audit_share=1.0), "bank", HELLO, True, 0.9, Decision(False, "audit")),
        (Gate(THRESHOLDS, audit_share=1.0), "bank", HELLO, True, 0.7, Decision(False, "low_confidence")),
        (Gate(THRESHOLDS, audit_share=1.0), "bank", HELLO, False, 0.9, Decision(True, "non_critical")),
    ],
)
def test_reasons(gate: Gate, issue: str, action: Action, critical: bool, score: float, expected: Decision) -> None:
    assert gate.decide(issue, STATE, action, critical, score, np.random.default_rng(0)) == expected


def test_the_audit_takes_its_share_of_confident_steps() -> None:
    """20,000 draws at 0.1: the bound is five standard deviations, a false alarm in under 1e-6 of seeds."""
    gate, rng, steps = Gate({"bank": 0.5}, audit_share=0.1), np.random.default_rng(7), 20_000
    decisions = [gate.decide("bank", STATE, HELLO, True, 0.9, rng) for _ in range(steps)]
    audited = sum(decision.reason == "audit" for decision in decisions)
    assert abs(audited - 0.1 * steps) < 5 * np.sqrt(steps * 0.1 * 0.9)
    assert all(decision.execute == (decision.reason == "confident") for decision in decisions)
    again = np.random.default_rng(7)
    assert [gate.decide("bank", STATE, HELLO, True, 0.9, again) for _ in range(200)] == decisions[:200]


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_a_share_that_is_none_is_told(share: float) -> None:
    with pytest.raises(HandrailError, match=r"gate\.audit_share=.*between 0 and 1"):
        Gate(audit_share=share)
