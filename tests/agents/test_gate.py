"""The gate: every reason by hand, and how often confident steps are audited."""

from __future__ import annotations

import numpy as np
import pytest

from handrail.agents.gate import STUCK, Decision, Gate, Reason, contested, refused, stuck
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Actor, Control, Feedback, Message, Step, UIState, Verdict
from handrail.envs.spaces import Observation

STATE = UIState("desk", None, (Control("hello", "template"), Control("refund", "form")))
SEEN = Observation("bank", "", 0, STATE, (), ())
HELLO, REFUND = Action("send_reply", "hello"), Action("submit_form", "refund")


def no_refunds(seen: Observation, action: Action) -> bool:
    assert seen is SEEN
    return action.target == "refund"


THRESHOLDS = {"bank": 0.8, "hotel": None}
OWN = Gate(THRESHOLDS)
POOLED = Gate(THRESHOLDS, pooled=0.6)
GUARDED = Gate(THRESHOLDS, pooled=0.6, guardrails=(no_refunds, lambda seen, action: False))


@pytest.mark.parametrize(
    ("gate", "issue", "action", "critical", "score", "expected"),
    [
        (OWN, "bank", HELLO, True, 0.9, Decision(True, "confident", 0.0)),
        (OWN, "bank", HELLO, True, 0.8, Decision(True, "confident", 0.0)),
        (OWN, "bank", HELLO, True, 0.79, Decision(False, "low_confidence", 1.0)),
        (OWN, "bank", HELLO, True, float("nan"), Decision(False, "low_confidence", 1.0)),
        (OWN, "bank", HELLO, False, 0.0, Decision(True, "non_critical", 0.0)),
        (OWN, "ride", HELLO, False, float("nan"), Decision(False, "not_certified", 1.0)),
        (OWN, "hotel", HELLO, True, 1.0, Decision(False, "not_certified", 1.0)),
        (OWN, "ride", HELLO, True, 1.0, Decision(False, "not_certified", 1.0)),
        (POOLED, "ride", HELLO, True, 0.6, Decision(True, "confident", 0.0)),
        (POOLED, "ride", HELLO, True, 0.5, Decision(False, "low_confidence", 1.0)),
        (POOLED, "bank", HELLO, True, 0.7, Decision(False, "low_confidence", 1.0)),
        (POOLED, "hotel", HELLO, True, 1.0, Decision(False, "not_certified", 1.0)),
        (GUARDED, "bank", REFUND, True, 1.0, Decision(False, "guardrail", 1.0)),
        (GUARDED, "bank", REFUND, False, 1.0, Decision(False, "guardrail", 1.0)),
        (GUARDED, "bank", HELLO, True, 1.0, Decision(True, "confident", 0.0)),
        (Gate(), "bank", HELLO, True, 1.0, Decision(False, "not_certified", 1.0)),
        (Gate(THRESHOLDS, audit_share=1.0), "bank", HELLO, True, 0.9, Decision(False, "audit", 1.0)),
        (Gate(THRESHOLDS, audit_share=1.0), "bank", HELLO, True, 0.7, Decision(False, "low_confidence", 1.0)),
        (Gate(THRESHOLDS, audit_share=1.0), "bank", HELLO, False, 0.9, Decision(True, "non_critical", 0.0)),
    ],
)
def test_reasons(gate: Gate, issue: str, action: Action, critical: bool, score: float, expected: Decision) -> None:
    assert gate.decide(issue, SEEN, action, critical, score, np.random.default_rng(0)) == expected


def test_the_audit_takes_its_share_of_confident_steps() -> None:
    """20,000 draws at 0.1: the bound is five standard deviations, a false alarm in under 1e-6 of seeds."""
    gate, rng, steps = Gate({"bank": 0.5}, audit_share=0.1), np.random.default_rng(7), 20_000
    decisions = [gate.decide("bank", SEEN, HELLO, True, 0.9, rng) for _ in range(steps)]
    audited = sum(decision.reason == "audit" for decision in decisions)
    assert abs(audited - 0.1 * steps) < 5 * np.sqrt(steps * 0.1 * 0.9)
    assert all(decision.execute == (decision.reason == "confident") for decision in decisions)
    again = np.random.default_rng(7)
    assert [gate.decide("bank", SEEN, HELLO, True, 0.9, again) for _ in range(200)] == decisions[:200]


def acted(verdict: Verdict | None, actor: Actor = "operator") -> Observation:
    """Return what is seen after two actions, the last by somebody with a verdict on a suggestion, if there was one."""
    feedback = None if verdict is None else Feedback(HELLO, verdict)
    steps = (Step(0, STATE, (), HELLO, "policy"), Step(1, STATE, (), HELLO, actor, feedback=feedback))
    return Observation("bank", "", 2, STATE, (), steps)


@pytest.mark.parametrize(
    ("seen", "kept", "after_an_override"),
    [
        (acted("accept"), "handed_over", "confident"),
        (acted(None, "policy"), "confident", "confident"),
        (acted("reject", "policy"), "confident", "confident"),  # a label of what ran alone, which changed nothing
        (acted("reject"), "handed_over", "handed_over"),
        (acted(None), "handed_over", "handed_over"),
    ],
)
def test_what_is_critical_stays_with_an_operator_who_was_called(
    seen: Observation, kept: Reason, after_an_override: Reason
) -> None:
    rng = np.random.default_rng(0)
    for keeps, reason in ((True, kept), (False, after_an_override)):
        gate = Gate(THRESHOLDS, keeps=keeps)
        critical = gate.decide("bank", seen, HELLO, True, 1.0, rng)
        assert critical == Decision(reason == "confident", reason, 0.0 if reason == "confident" else 1.0)
        assert gate.decide("bank", seen, HELLO, False, 0.0, rng) == Decision(True, "non_critical", 0.0)


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_a_share_that_is_none_is_told(share: float) -> None:
    with pytest.raises(HandrailError, match=r"gate\.audit_share=.*between 0 and 1"):
        Gate(audit_share=share)


def observed(count: int, actor: Actor = "policy", said_at: int = -1, **values: str) -> Observation:
    """Return what is seen after `count` actions, each on a screen of its own, with a message before one of them."""
    steps = tuple(
        Step(
            index,
            UIState(f"screen {index}", None),
            (Message("customer", "well?"),) if index == said_at else (),
            Action("navigate", f"screen {index + 1}"),
            actor,
        )
        for index in range(count)
    )
    return Observation("bank", "", count, UIState(f"screen {count}", None, (), dict(values)), (), steps)


def test_what_the_screen_refused_is_for_the_operator() -> None:
    assert refused(observed(1, error="no such card"), HELLO)
    assert not refused(observed(1, notice="saved"), HELLO)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (observed(STUCK - 1), False),
        (observed(STUCK), True),
        (observed(STUCK, actor="operator"), False),
        (observed(STUCK + 3, said_at=STUCK), False),
        (observed(0), False),
    ],
)
def test_much_work_without_a_word_from_anybody_is_stuck(seen: Observation, expected: bool) -> None:
    assert stuck(seen, HELLO) is expected


@pytest.mark.parametrize(("done", "heard", "expected"), [(1, False, True), (1, True, False), (2, True, True)])
def test_the_same_again_on_the_same_screen_is_stuck(done: int, heard: bool, expected: bool) -> None:
    """A question is asked again where the customer said something else; a third time is for an operator."""
    state = UIState("desk", None)
    steps = tuple(Step(n, state, (Message("customer", "hm"),), HELLO, "policy") for n in range(done))
    seen = Observation("bank", "", done, state, (Message("customer", "hm"),) if heard else (), steps)
    assert stuck(seen, HELLO) is expected
    assert not stuck(seen, REFUND)


def test_what_was_done_before_somebody_spoke_may_be_done_again() -> None:
    state = UIState("desk", None)
    steps = (
        Step(0, state, (), HELLO, "policy"),
        Step(1, state, (Message("customer", "hm"),), REFUND, "policy"),
    )
    assert not stuck(Observation("bank", "", 2, state, (), steps), HELLO)
    assert stuck(Observation("bank", "", 2, state, (), steps), REFUND)


@pytest.mark.parametrize(
    ("verdict", "target", "values", "expected"),
    [
        ("reject", "mobiles", {}, True),
        (None, "mobiles", {}, True),
        ("accept", "mobiles", {}, False),  # what the operator did was the policy's own suggestion
        ("reject", "orders", {}, False),  # something else
        ("reject", "mobiles", {"reason": "paid"}, False),  # somewhere else
    ],
)
def test_what_an_operator_has_undone_is_not_done_alone_again(
    verdict: Verdict | None, target: str, values: dict[str, str], expected: bool
) -> None:
    bills, mobiles = UIState("bills", None), UIState("mobiles", None)
    feedback = None if verdict is None else Feedback(REFUND, verdict)
    steps = (
        Step(0, bills, (), Action("navigate", "mobiles"), "policy"),
        Step(1, mobiles, (), Action("navigate", "bills"), "operator", feedback=feedback),
    )
    seen = Observation("bank", "", 2, UIState("bills", None, (), values), (), steps)
    assert contested(seen, Action("navigate", target)) is expected


def test_an_override_before_contests_nothing() -> None:
    bills = UIState("bills", None)
    steps = (
        Step(0, UIState("start", None), (), Action("navigate", "bills"), "operator"),
        Step(1, bills, (), Action("navigate", "mobiles"), "policy"),
    )
    assert not contested(Observation("bank", "", 2, bills, (), steps), Action("navigate", "mobiles"))
