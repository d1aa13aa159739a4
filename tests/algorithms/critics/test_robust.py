"""The noise-aware probe: what counts as evidence, by hand, and what becomes of the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from handrail.agents.critic import Case
from handrail.algorithms.config import RobustConfig
from handrail.algorithms.critics.robust import ACCEPTED, FOR_GOOD, REPLACED, RESUMED, beliefs, evidence, learn
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Actor, Message, Session, Step, UIState

SEND = Action("submit_form", "refund")
LOOK, BACK = Action("navigate", "orders"), Action("navigate", "case")
FILLED = {"refund.amount": 10, "case.identity": "confirmed"}
CONFIG = RobustConfig((0.1,), 3, 1000, resumed=0.5, replaced=0.2)


def worked(*steps: tuple[Action, dict[str, Any]]) -> Case:
    """The suggestion to send the form was rejected at the first of these steps (action, what else is so)."""
    made = []
    for index, (action, more) in enumerate(steps):
        values, actor = more.get("values", FILLED), more.get("actor", "operator")
        events = tuple(more.get("events", ()))
        made.append(
            Step(index, UIState("desk", None, (), values), events, action, actor, critical=more.get("critical", False))
        )
    return Case(Session("a", "toy", "refunds", "ann", steps=tuple(made)), 0, SEND, False)


SAID, NOTED = Message("customer", "Wait!"), Message("system", "Page loaded.")
POLICY: Actor = "policy"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(LOOK, {}), (SEND, {"critical": True})], RESUMED),
        ([(LOOK, {}), (BACK, {"actor": POLICY}), (SEND, {"critical": True, "events": [NOTED]})], RESUMED),
        # Other fields may have changed, the form's own may not.
        ([(LOOK, {}), (SEND, {"values": {**FILLED, "case.identity": "open"}})], RESUMED),
        ([(LOOK, {}), (SEND, {"values": {**FILLED, "refund.amount": 20}})], FOR_GOOD),
        # The form may be left and filled again on the way.
        ([(LOOK, {}), (BACK, {"values": {}}), (SEND, {})], RESUMED),
        ([(LOOK, {}), (SEND, {"events": [SAID]})], FOR_GOOD),
        ([(Action("send_reply", "sorry"), {"critical": True}), (SEND, {})], REPLACED),
        ([(LOOK, {}), (Action("send_reply", "sorry"), {"critical": True}), (SEND, {})], FOR_GOOD),
        ([(LOOK, {}), (SEND, {"actor": POLICY})], FOR_GOOD),
        ([(LOOK, {}), (BACK, {})], FOR_GOOD),
        ([(LOOK, {})], FOR_GOOD),
    ],
)
def test_what_operators_do_next_is_evidence(steps: list[tuple[Action, dict[str, Any]]], expected: int) -> None:
    assert evidence(worked(*steps)) == expected


def test_an_accepted_suggestion_is_evidence_by_itself() -> None:
    case = worked((SEND, {"critical": True}))
    assert evidence(Case(case.session, 0, SEND, True)) == ACCEPTED


def test_beliefs_stand_in_for_verdicts() -> None:
    resumed, good = worked((LOOK, {}), (SEND, {"critical": True})), worked((LOOK, {}))
    replaced = worked((Action("send_reply", "sorry"), {"critical": True}))
    accepted = Case(good.session, 0, SEND, True)
    assert beliefs([accepted, resumed, replaced, good], CONFIG).tolist() == [1.0, 0.5, 0.2, 0.0]
    with pytest.raises(HandrailError, match=r"critic\.robust\.resumed=1\.5"):
        RobustConfig((0.1,), 3, 1000, resumed=1.5, replaced=0.2)


def test_soft_labels_are_weights() -> None:
    """In a constant feature, a regression with a free intercept gives the mean label: (1 + 0.5 + 0.2 + 0) / 4."""
    model = learn(np.zeros((4, 1)), np.array([1.0, 0.5, 0.2, 0.0]), 1.0, seed=0)
    assert model.predict_proba([[0.0]])[0, 1] == pytest.approx(0.425, abs=1e-3)


def test_hard_labels_are_a_plain_regression() -> None:
    rng = np.random.default_rng(0)
    read = rng.normal(size=(200, 3))
    labels = (read[:, 0] + rng.normal(size=200) > 0).astype(float)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(read, labels)
    found = learn(read, labels, 0.1, seed=0)
    np.testing.assert_allclose(found.predict_proba(read), plain.predict_proba(read), atol=1e-3)


def test_noise_that_evidence_shows_is_told_from_errors() -> None:
    """Operators look first at half of the right suggestions with a high second feature, which is no sign of an error.

    The plain verdicts put a weight on it that is far from none; with full trust in the evidence nothing is left of it.
    A weight is known to about 0.06 from 4,000 cases, so 0.25 is over four standard errors.
    """
    rng = np.random.default_rng(0)
    read = rng.normal(size=(4000, 2))
    right = rng.random(4000) < 1 / (1 + np.exp(-(2 + 2 * read[:, 0])))
    looks = right & (read[:, 1] > 0) & (rng.random(4000) < 0.5)
    weights = [
        learn(read, np.where(looks, trust, right.astype(float)), 1.0, seed=0)[-1].coef_[0, 1] for trust in (0, 0.5, 1)
    ]
    assert weights[0] < -0.5
    assert weights[0] < weights[1] < weights[2]
    assert abs(weights[2]) < 0.25
