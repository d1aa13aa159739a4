from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from handrail.agents.operators.expert import Expert, Style, choices
from handrail.agents.operators.human import NONE, Operator, Person
from handrail.agents.operators.verdicts import SHARES, Rates, Reviewer, Suggester, is_right
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.load import load_domain, names
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action

STYLE = Style()
NEVER = Rates(rubber_stamp=0, acceptable=0, preference=0, environment=0, other=0)


def world(seed: int, domain: str = "mock") -> World:
    loaded = load_domain(domain)
    return World(loaded, draw_case(loaded, np.random.default_rng(seed)))


def reviewer(rates: Rates, seed: int = 0) -> Reviewer:
    return Reviewer(Operator(Person("ann", STYLE, slips=NONE), np.random.default_rng(seed)), rates, "toy")


def critical(seed: int = 0, domain: str = "mock") -> tuple[World, Action]:
    """A world in which the next thing to do is critical, and what that is."""
    desk, expert = world(seed, domain), Expert(STYLE)
    while not desk.critical(expert.act(desk)):
        desk.do(expert.act(desk))
    return desk, expert.act(desk)


def wrong_close(desk: World) -> Action:
    for outcome in desk.domain.desk.outcomes:
        action = Action("click", f"close:{outcome}")
        if not is_right(desk, action, Expert(STYLE)):
            return action
    raise AssertionError("every way to close is right")


@pytest.mark.parametrize("domain", names())
def test_what_the_procedure_allows_is_right_and_early_closing_is_wrong(domain: str) -> None:
    for seed in range(5):
        desk, expert = world(seed, domain), Expert(STYLE)
        while desk.outcome is None:
            action = expert.act(desk)
            allowed = choices(desk)
            assert all(is_right(desk, choice, expert) for choice in allowed)
            for outcome in desk.domain.desk.outcomes:
                close = Action("click", f"close:{outcome}")
                assert is_right(desk, close, expert) == any(same_action(close, choice) for choice in allowed)
            desk.do(action)


def test_the_impossible_and_the_useless_are_wrong() -> None:
    desk = world(0)
    expert = Expert(STYLE)
    assert not is_right(desk, Action("click", "no_such_button"), expert)
    assert not is_right(desk, Action("navigate", "no_such_screen"), expert)
    # Chatting leads to the right end too, but with a step more than the operator's own way.
    assert not is_right(desk, Action("send_message", "message", {"text": "One moment."}), expert)


def test_judging_leaves_the_world_as_it_is() -> None:
    desk, action = critical()

    def everything() -> tuple[object, ...]:
        ground, *rest = desk.snapshot()
        parts = (ground.records, ground.rows, ground.focus, ground.case, ground.said, ground.counts)
        return repr(parts), rest

    before = everything()
    is_right(desk, wrong_close(desk), Expert(STYLE))
    reviewer(Rates()).review(desk, action)
    assert everything() == before


def test_a_right_suggestion_is_accepted() -> None:
    desk, action = critical()
    review = reviewer(NEVER).review(desk, action)
    assert (review.action, review.cause, review.right, review.critical) == (action, "", True, True)
    assert (review.feedback.verdict, review.feedback.suggestion) == ("accept", action)
    assert (review.feedback.correction, review.feedback.source) == (None, "toy")


def test_a_wrong_suggestion_is_corrected() -> None:
    desk, action = critical()
    wrong = wrong_close(desk)
    review = reviewer(NEVER).review(desk, wrong)
    assert same_action(review.action, action)
    assert (review.cause, review.right) == ("model_error", False)
    assert (review.feedback.verdict, review.feedback.correction) == ("reject", review.action)


def test_rubber_stamping_accepts_what_is_wrong() -> None:
    desk, _ = critical()
    wrong = wrong_close(desk)
    review = reviewer(Rates(rubber_stamp=1)).review(desk, wrong)
    assert (review.action, review.cause, review.feedback.verdict) == (wrong, "rubber_stamp", "accept")


@pytest.mark.parametrize("cause", ["acceptable", "environment", "other"])
@pytest.mark.parametrize("domain", names())
def test_right_suggestions_are_rejected_for_each_cause(domain: str, cause: str) -> None:
    rates = Rates(**{"rubber_stamp": 0, "acceptable": 0, "preference": 1, "environment": 0, "other": 0, cause: 1})
    for seed in range(5):
        desk, action = critical(seed, domain)
        review = reviewer(rates).review(desk, action)
        assert (review.cause, review.right, review.feedback.verdict) == (cause, True, "reject")
        assert not same_action(review.action, action)
        # What they do instead is possible, and harmless: the case still comes to its expected end.
        assert desk.do(review.action).error is None
        expert = Expert(STYLE)
        while desk.outcome is None:
            desk.do(expert.act(desk))
        assert desk.success


def test_a_failing_page_is_loaded_again() -> None:
    desk, action = critical()
    review = reviewer(Rates(acceptable=0, environment=1, other=0)).review(desk, action)
    again = {("navigate", desk.screen), ("open_procedure", desk.procedure)}
    assert (review.action.tool, review.action.target) in again


def test_preference_is_their_own_way() -> None:
    """Where a suggestion is right but differs from their choice, rejecting it means doing what they would do."""
    found = 0
    rates = Rates(rubber_stamp=0, acceptable=0.5, preference=2, environment=0, other=0)
    for seed in range(40):
        desk, own = world(seed, "bank"), Expert(STYLE)
        while desk.outcome is None and found < 5:
            mine = own.act(desk)
            for other in choices(desk):
                if not same_action(other, mine):
                    review = reviewer(rates).review(desk, other)
                    assert (review.cause, review.right) == ("acceptable", True)
                    assert same_action(review.action, mine)
                    found += 1
            desk.do(mine)
    assert found >= 5


def test_suggestions_without_consequence_are_taken_where_they_agree() -> None:
    desk, expert = world(0), Expert(STYLE)
    action = expert.act(desk)
    assert not desk.critical(action)
    always = Rates(acceptable=1, preference=1, environment=0, other=0)
    assert reviewer(always).review(desk, action).feedback.verdict == "accept"


def test_rates_follow_from_shares_in_closed_form() -> None:
    # 20 wrong of 100, 15 of them seen: 15 are half of 30 rejections; the others are 6, 3 and 6 of 80 right ones.
    rates = Rates.for_shares(
        {"model_error": 0.5, "acceptable": 0.2, "environment": 0.1, "other": 0.2},
        error=0.2,
        own_way=0.25,
        rubber_stamp=0.25,
        preference=3,
    )
    assert rates.environment == pytest.approx(3 / 80)
    assert rates.other == pytest.approx(6 / 80)
    # 60 right ones as they would do it and 20 otherwise, rejected three times as often: 60 a + 20 * 3 a = 6.
    assert rates.acceptable == pytest.approx(6 / 120)


def test_the_default_rates_are_those_of_the_paper() -> None:
    paper, usual = Rates.for_shares(), Rates()
    assert sum(SHARES.values()) == pytest.approx(1)
    for name in ("rubber_stamp", "acceptable", "preference", "environment", "other"):
        assert getattr(usual, name) == pytest.approx(getattr(paper, name), rel=0.01), name


def test_rates_and_shares_are_checked() -> None:
    with pytest.raises(HandrailError, match=r"other is 1.2, expected a probability"):
        Rates(other=1.2)
    with pytest.raises(HandrailError, match=r"preference is -1, expected a factor"):
        Rates(preference=-1)
    with pytest.raises(HandrailError, match=r"rejected more than always"):
        Rates(acceptable=0.6, preference=2)
    with pytest.raises(HandrailError, match=r"expected model_error, acceptable, environment, other with sum 1"):
        Rates.for_shares({"model_error": 1.0})
    with pytest.raises(HandrailError, match=r"expected shares between 0 and 1"):
        Rates.for_shares(error=0)
    # With half of all suggestions wrong, there are more other rejections to make than right suggestions.
    with pytest.raises(HandrailError, match=r"rates of verdicts"):
        Rates.for_shares(error=0.6)


@pytest.mark.parametrize("domain", names())
def test_a_copilot_errs_at_its_rate(domain: str) -> None:
    suggester = Suggester(Expert(STYLE), 0.3, np.random.default_rng(0))
    count: Counter[str] = Counter()
    for seed in range(40):
        desk, expert = world(seed, domain), Expert(STYLE)
        while desk.outcome is None:
            suggestion, meant = suggester.suggest(desk), expert.act(desk)
            if not desk.critical(meant):
                assert same_action(suggestion, meant)
            else:
                assert desk.critical(suggestion)
                count["critical"] += 1
                if not same_action(suggestion, meant):
                    assert not is_right(desk, suggestion, expert)
                    count["wrong"] += 1
            desk.do(meant)
    # Binomial, 4.5 standard deviations: a false alarm in 100,000 seeds.
    assert abs(count["wrong"] - 0.3 * count["critical"]) < 4.5 * (0.3 * 0.7 * count["critical"]) ** 0.5
    assert count["critical"] >= 80


def test_a_copilot_is_checked() -> None:
    with pytest.raises(HandrailError, match=r"error=1.1; expected a share"):
        Suggester(Expert(), 1.1, np.random.default_rng(0))
