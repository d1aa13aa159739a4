from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from handrail.envs.bpm.clock import PARTS, Clock, Seconds, Spent
from handrail.envs.bpm.gaps import measure, median_regression
from handrail.envs.errors import HandrailError
from handrail.envs.logs.readers.star import Reader
from handrail.envs.schema import Action, Control, Feedback, Message, Result, Session, Step, UIState

# Round figures without noise, so that sums can be done by hand.
ROUND = Seconds(
    reading=1,
    deciding=10,
    routine=5,
    typing=0.5,
    pointing=2,
    confirming=3,
    correcting=4,
    switching=20,
    judging=0.5,
    answering=7,
    listening=2,
    writing=0.1,
    machine=1.5,
    spread=0,
    pace=1,
)
OPEN = Action("navigate", "cards")
SEND = Action("send_reply", "hello")


def field(name: str, value: str | bool | float) -> Action:
    return Action("set_field", f"block.{name}", {"value": value})


def test_an_action_without_news_costs_routine_and_pointing() -> None:
    clock = Clock(ROUND, start=100)
    assert clock.act(OPEN) == 107
    assert clock.spent == Spent(deciding=5, pointing=2)


def test_a_message_is_read_once_and_decided_upon() -> None:
    clock = Clock(ROUND)
    # The customer reads two words and writes ten characters: 7 + 2 * 2 + 10 * 0.1.
    assert clock.message("my card go", heard="and now?") == 12
    assert clock.act(SEND) == 12 + 3 + 10 + 2
    assert clock.act(SEND) == 27 + 5 + 2
    assert clock.spent == Spent(reading=3, deciding=15, pointing=4)


def test_two_messages_are_read_together() -> None:
    clock = Clock(ROUND)
    clock.message("one two")
    clock.message("three")
    before = clock.now
    assert clock.act(SEND) == before + 3 + 10 + 2


def test_the_fields_of_a_form_are_decided_upon_once() -> None:
    clock = Clock(ROUND)
    clock.act(field("number", "1234"))
    assert clock.spent == Spent(deciding=5, typing=2, pointing=2)
    clock.act(field("urgent", True))
    clock.act(Action("click", "block"))
    assert clock.spent == Spent(deciding=5, typing=2, pointing=6)
    clock.act(Action("click", "block"))
    assert clock.spent == Spent(deciding=10, typing=2, pointing=8)


def test_another_form_is_decided_upon_anew() -> None:
    clock = Clock(ROUND)
    clock.act(field("number", "1"))
    clock.act(Action("click", "close:resolved"))
    assert clock.spent.deciding == 10


def test_typing_counts_what_is_typed() -> None:
    clock = Clock(ROUND)
    clock.act(Action("send_message", "message", {"text": "hello"}))
    clock.act(field("amount", 12.5))
    assert clock.spent.typing == (5 + 4) * 0.5


def test_accepting_costs_judging_and_confirming_instead_of_doing() -> None:
    clock = Clock(ROUND)
    clock.message("one two")
    clock.act(Action("send_message", "message", {"text": "hello"}), verdict="accept")
    assert clock.spent == Spent(reading=2, deciding=5, confirming=3)


def test_rejecting_costs_correcting_beside_doing() -> None:
    clock = Clock(ROUND)
    clock.act(field("number", "12"), verdict="reject")
    assert clock.spent == Spent(deciding=5, typing=1, pointing=2, correcting=4)


def test_a_policy_takes_machine_time_and_no_operator() -> None:
    clock = Clock(ROUND)
    assert clock.act(OPEN, actor="policy") == 1.5
    assert clock.spent.total == 0


def test_taking_over_costs_switching_once() -> None:
    clock = Clock(ROUND)
    clock.message("one")
    clock.act(OPEN, actor="policy")
    clock.act(OPEN)
    clock.act(OPEN)
    # What the customer wrote before the policy acted is still unread.
    assert clock.spent == Spent(reading=1, deciding=15, pointing=4, switching=20)


def test_coming_back_costs_switching() -> None:
    clock = Clock(ROUND)
    clock.switch()
    clock.act(OPEN)
    assert clock.spent.switching == 20


def test_pace_and_speed_are_factors_on_the_operator_alone() -> None:
    slow = Clock(Seconds(**{**{name: getattr(ROUND, name) for name in Seconds.__struct_fields__}, "pace": 2}), speed=3)
    assert slow.message("one") == pytest.approx(7.3)
    assert slow.act(OPEN, actor="policy") == pytest.approx(7.3 + 1.5)
    slow.now = 0
    slow.act(OPEN)
    assert slow.spent.total == slow.now == pytest.approx(6 * (1 + 10 + 2 + 20))


def test_noise_is_log_normal_around_the_median() -> None:
    clock = Clock(Seconds(spread=0.5, pace=1), seed=3)
    clock.act(OPEN)
    times = []
    for _ in range(20_000):
        before = clock.now
        clock.act(OPEN)
        times.append(clock.now - before)
    logs = np.log(np.array(times) / 4.0)
    # Chance of a false alarm: mean within 4.2 and deviation within 6 standard errors, less than 1 in 10,000.
    assert abs(logs.mean()) < 4.2 * 0.5 / math.sqrt(20_000)
    assert abs(logs.std() - 0.5) < 6 * 0.5 / math.sqrt(40_000)


def test_equal_seeds_give_equal_times_and_other_seeds_others() -> None:
    def times(seed: int) -> list[float]:
        clock = Clock(Seconds(), seed=seed)
        return [clock.act(OPEN) for _ in range(5)]

    assert times(1) == times(1)
    assert times(1) != times(2)


def test_going_on_from_a_snapshot_is_going_on() -> None:
    clock = Clock(Seconds(), start=5, seed=9)
    clock.message("hello there")
    clock.act(field("number", "1"))
    clock.act(OPEN, actor="policy")
    state = pickle.loads(pickle.dumps(clock.snapshot()))
    actions = [field("name", "Ann"), Action("click", "block"), SEND]

    def rest() -> list[float]:
        return [clock.act(action) for action in actions] + [clock.message("yes"), *clock.spent]

    first = rest()
    clock.restore(state)
    assert rest() == first


def test_domains_override_costs_by_name() -> None:
    assert Seconds.of({"typing": 1}) == Seconds(typing=1)
    with pytest.raises(HandrailError, match=r"unknown cost 'tpying'; did you mean typing"):
        Seconds.of({"tpying": 1})
    for value in (-1, math.nan, math.inf, "4"):
        with pytest.raises(HandrailError, match=r"desk.seconds.typing is .*expected a number"):
            Seconds.of({"typing": value})  # type: ignore[dict-item]


def test_the_parts_are_the_fields_of_what_was_spent() -> None:
    assert Spent._fields == PARTS


def test_median_regression_finds_the_weights_of_most_rows() -> None:
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(400), rng.uniform(0, 20, 400), rng.uniform(0, 50, 400)])
    target = features @ np.array([6.0, 0.3, 0.2])
    target[::5] += 100  # A fifth of the operators went for coffee.
    assert median_regression(features, target) == pytest.approx([6.0, 0.3, 0.2], abs=0.02)


def test_median_regression_has_no_negative_weights() -> None:
    features = np.column_stack([np.ones(50), np.arange(50.0)])
    weights = median_regression(features, 100 - np.arange(50.0))
    # The best line may not fall, so it is the median, 100 - 24.5.
    assert weights[0] == pytest.approx(75.5, abs=0.6)
    assert weights[1] == pytest.approx(0, abs=1e-6)


def chat(count: int) -> list[Session]:
    """Sessions with one reply, one reply in own words and one selection; 3 s + 0.5 a word + 0.25 a character."""
    controls = (Control("hello", "template"),)
    found = []
    rng = np.random.default_rng(1)
    for number in range(count):
        words, typed, own = (int(x) for x in rng.integers(1, 30, 3))
        question = Message("customer", " ".join(["word"] * words), 10.0)
        drafted = 10.0 + 3 + 0.5 * words + 0.25 * typed
        state = UIState("desk", None, controls)
        first = Step(
            0,
            state,
            (question,),
            SEND,
            time=drafted + 2,
            feedback=Feedback(SEND, "accept"),
            drafts=(Message("operator", "x" * typed, drafted),),
        )
        answer = Message("customer", "y" * own, drafted + 2 + 8 + 0.5 * own)
        asked = drafted + 10 + 0.5 * own + 3 + 0.5 + 0.25 * own
        text = "z" * own
        second = Step(
            1,
            state,
            (Message("operator", "Hello", drafted + 2), answer),
            Action("send_message", "chat", {"text": text}),
            time=asked + 6,
            drafts=(Message("operator", text, asked),),
        )
        third = Step(
            2, state, (Result("find", {"a": 1}, 1),), Action("select_item", "results", {"result": 1}), time=asked + 11
        )
        found.append(Session(f"s{number}", "toy", "chat", "ann", steps=(first, second, third)))
    return found


def test_gaps_are_told_apart() -> None:
    gaps = measure(chat(60))
    assert gaps.deciding == pytest.approx(3, abs=0.1)
    assert gaps.reading == pytest.approx(0.5, abs=0.02)
    assert gaps.typing == pytest.approx(0.25, abs=0.02)
    assert (gaps.confirming, gaps.correcting) == (pytest.approx(2), pytest.approx(6))
    # The customer reads one word in each of their gaps: 8 s are spread over answering and listening.
    assert gaps.answering + gaps.listening == pytest.approx(8, abs=0.1)
    assert gaps.writing == pytest.approx(0.5, abs=0.02)
    # The selection comes 5 s after the result; nobody replied without a message, so routine is not known and 0.
    assert (gaps.pointing, gaps.routine) == (pytest.approx(5), 0)
    assert gaps.counts == {
        "replies": 120,
        "selections": 60,
        "confirmations": 60,
        "corrections": 60,
        "customers": 60,
        "operators": 1,
    }


def test_too_few_gaps_are_refused() -> None:
    with pytest.raises(HandrailError, match=r"hold 10 replies with times, and measuring takes 20"):
        measure(chat(5))


@pytest.mark.slow
def test_the_defaults_are_what_star_shows(star_root) -> None:
    reader = Reader(star_root)
    sessions = [found for unit in reader.units() for found in reader.read(unit) if isinstance(found, Session)]
    gaps = measure(sessions)
    usual = Seconds()
    for name in ("reading", "deciding", "routine", "typing", "pointing", "confirming", "correcting", "answering"):
        assert getattr(usual, name) == pytest.approx(getattr(gaps, name), rel=0.1), name
    for name in ("listening", "writing", "spread", "people"):
        assert getattr(usual, name) == pytest.approx(getattr(gaps, name), rel=0.1), name
    # Neither records nor the start of a session cost STAR's operators much beside their messages.
    assert gaps.looking < 0.02
    assert gaps.first < 1.5
