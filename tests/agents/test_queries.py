"""When operators are asked: chance, thresholds with two levels, budgets, and a target share of the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handrail.agents.decoding import Suggestion
from handrail.agents.queries import NEVER, Bounds, Gated, Mixture, Scores, doubt, recorded
from handrail.agents.rules import Moment
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Session, Step, UIState
from handrail.envs.spaces import Observation

GO = Action("navigate", "there")
STATE = UIState("desk", None)
NAN = float("nan")


def moment(score: float, sure: float, actors: tuple[str, ...] = (), rng: Any = None) -> Moment:
    """A step at which the critic gives `score`, after steps of these actors."""
    history = tuple(Step(n, STATE, (), GO, actor) for n, actor in enumerate(actors))  # type: ignore[arg-type]
    seen = Observation("i", "", len(history), STATE, (), history)
    made = Suggestion("0", len(history), GO, (), -0.1, sure, 0.5, 0.2)
    nowhere: Any = None
    return Moment("i", seen, GO, made, True, score, rng or np.random.default_rng(0), nowhere)


def played(gate: Gated, risks: list[float]) -> tuple[list[bool], list[str]]:
    """A session under a gate: at which steps the operator acts, and why."""
    actors: list[str] = []
    reasons = []
    for risk in risks:
        ruling = gate.route(moment(1 - risk, 1.0, tuple(actors)))
        assert ruling.route in ("review", "run")
        assert ruling.probability == (ruling.route == "review")
        actors.append("operator" if ruling.route == "review" else "policy")
        reasons.append(ruling.reason)
    return [actor == "operator" for actor in actors], reasons


RISKS = [0.125, 0.75, 0.375, 0.25, 0.75, NAN, 0.75]


def test_the_operator_keeps_the_session_until_the_risk_is_low_again() -> None:
    asked, reasons = played(Gated(Bounds(0.5, 0.25)), RISKS)
    assert asked == [False, True, True, False, True, False, True]
    assert reasons == ["familiar", "risk", "held", "released", "risk", "released", "risk"]


def test_after_the_budget_the_policy_goes_on() -> None:
    asked, reasons = played(Gated(Bounds(0.5, 0.25), budget=2), RISKS)
    assert asked == [False, True, True, False, True, False, False]
    assert reasons[-1] == "budget_spent"
    assert not any(played(Gated(Bounds(0.5, 0.25), budget=0), RISKS)[0])


@pytest.mark.parametrize("budget", [None, 0, 1, 2])
def test_what_would_have_been_asked_is_what_is_asked(budget: int | None) -> None:
    gate = Gated(Bounds(0.5, 0.25), budget=budget)
    scores = Scores(np.array(RISKS * 2), np.zeros(14), np.repeat([0, 1], 7))
    assert gate.asked(scores).tolist() == played(gate, RISKS)[0] * 2


def test_novelty_alone_is_enough() -> None:
    gate = Gated(novelty=Bounds(0.5, 0.25))
    assert gate.route(moment(NAN, 0.25)).reason == "novelty"
    assert gate.route(moment(NAN, 0.75)).route == "run"
    assert gate.route(moment(NAN, 0.625, ("operator",))).reason == "held"
    assert gate.risk == NEVER


def test_any_novelty_can_be_measured() -> None:
    gate = Gated(novelty=Bounds(2.0, 1.0), measure=lambda seen: float(len(seen.observation.history)))
    assert gate.route(moment(NAN, 1.0, ("policy",) * 2)).route == "run"
    assert gate.route(moment(NAN, 1.0, ("policy",) * 3)).reason == "novelty"


def test_the_share_of_the_target_by_hand() -> None:
    """100 sessions of one step with novelties 0.00 to 0.99: a fifth are the 20 highest."""
    novelty = np.random.default_rng(0).permutation(100) / 100
    scores = Scores(np.full(100, NAN), novelty, np.arange(100))
    gate = Gated.for_share(scores, 0.2, release=0.5)
    assert gate.risk == NEVER
    assert 0.79 <= gate.novelty.ask < 0.8
    assert gate.novelty.release == pytest.approx(0.5 * gate.novelty.ask, abs=1e-9)
    assert gate.asked(scores).sum() == 20


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("budget", [None, 1])
def test_no_more_than_the_target_is_asked_and_not_much_less(share: float, budget: int | None) -> None:
    rng = np.random.default_rng(3)
    risk, novelty = rng.random((2, 2000))
    risk[rng.random(2000) < 0.6] = NAN
    scores = Scores(risk, novelty, np.repeat(np.arange(100), 20))
    asked = Gated.for_share(scores, share, budget=budget).asked(scores).mean()
    assert asked <= share
    if budget is None and share < 1:
        # One step more of quantile is one step more to ask, and those for which it is kept.
        assert asked > share - 0.02


def test_scores_are_read_from_what_the_runtime_notes() -> None:
    notes = [
        {"route": "review", "reason": "copilot", "score": 0.75, "min_probability": 0.5},
        {"route": "review", "reason": "copilot", "score": None, "min_probability": 0.875},
    ]
    alone = {"route": "operator", "reason": "alone"}
    sessions = [
        Session(name, "toy", "i", "ann", hidden={"runtime": kept})
        for name, kept in (("a", [alone]), ("b", notes), ("c", notes[1:]))
    ]
    found = recorded(sessions)
    np.testing.assert_array_equal(found.risk, [0.25, NAN, NAN])
    np.testing.assert_array_equal(found.novelty, [0.5, 0.125, 0.125])
    np.testing.assert_array_equal(found.session, [1, 1, 2])
    assert doubt(moment(NAN, 0.5)) == 0.5
    with pytest.raises(HandrailError, match="none of the 1 sessions says how sure"):
        recorded(sessions[:1])


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_operator_acts_by_chance(beta: float) -> None:
    """4,000 draws of a chance of 0.3 stray by 4.5 standard deviations (0.033) with a probability below 1e-5."""
    rng = np.random.default_rng(0)
    rule = Mixture(beta)
    routes = [rule.route(moment(NAN, 1.0, rng=rng)).route for _ in range(4000)]
    assert set(routes) <= {"operator", "run"}
    assert routes.count("operator") / 4000 == pytest.approx(beta, abs=0.033 if 0 < beta < 1 else 0)
    assert rule.labels


def test_impossible_numbers_are_refused() -> None:
    some = Scores(np.array([0.5]), np.array([0.5]), np.array([0]))
    with pytest.raises(HandrailError, match=r"beta=1\.5"):
        Mixture(1.5)
    with pytest.raises(HandrailError, match=r"expected a release of at most 0\.2"):
        Gated(Bounds(0.2, 0.4))
    with pytest.raises(HandrailError, match="budget=-1"):
        Gated(budget=-1)
    for options in ({"share": 1.2}, {"share": 0.5, "release": -0.1}):
        with pytest.raises(HandrailError, match="expected a share in"):
            Gated.for_share(some, **options)
    with pytest.raises(HandrailError, match="no earlier steps"):
        Gated.for_share(Scores(*(np.zeros(0) for _ in range(2)), np.zeros(0, dtype=np.int64)), 0.5)
