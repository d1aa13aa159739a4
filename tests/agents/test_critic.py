"""The sources of verdicts by hand: the policy's suggestions against the log, recorded ones, critical ones judged."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from handrail.agents.critic import (
    CLEAR,
    Case,
    Trail,
    before_override,
    feedback_verdicts,
    looked_at_again,
    recorded_verdicts,
    replayed_verdicts,
    trail,
    true_cause,
    truths,
)
from handrail.agents.decoding import Suggestion
from handrail.agents.simulate import Copilot, simulate
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Control, Feedback, Message, Session, Step, UIState

STATE = UIState(
    "desk", None, (Control("hello", "template"), Control("bye", "template"), Control("chat", "message_box"))
)
HELLO, BYE = Action("send_reply", "hello"), Action("send_reply", "bye")
TEXT = Action("send_message", "chat", {"text": "One moment"})
TYPED = (Message("operator", "first try"), Message("operator", "second try"))

SESSION = Session(
    "a",
    "toy",
    "desk",
    "ann",
    steps=(
        Step(0, STATE, (), HELLO, critical=True, feedback=Feedback(HELLO, "accept"), drafts=TYPED),
        Step(1, STATE, (), BYE, critical=True, feedback=Feedback(HELLO, "reject", BYE), drafts=TYPED[:1]),
        Step(2, STATE, (), TEXT, critical=True, feedback=Feedback(None, "reject", TEXT), drafts=TYPED),
        Step(3, STATE, (), Action("open_procedure", "returns")),
        Step(4, STATE, (), BYE, critical=True, feedback=Feedback(BYE, "accept")),
        Step(5, STATE, (), HELLO, critical=True),
    ),
)
OTHER = Session("b", "toy", "desk", "ann", steps=(Step(0, STATE, (), HELLO, critical=True),))


def suggest(session: str, step: int, action: Action) -> Suggestion:
    return Suggestion(session, step, action, (), 0.0, 1.0, 1.0, 0.0)


def test_replayed_suggestions_are_accepted_where_they_equal_the_log() -> None:
    made = [
        suggest("a", 0, HELLO),
        suggest("a", 1, HELLO),
        suggest("a", 2, Action("send_message", "chat", {"text": "one  MOMENT"})),
        suggest("a", 3, Action("open_procedure", "returns")),
        suggest("b", 0, BYE),
    ]
    assert replayed_verdicts([SESSION, OTHER], made) == [
        Case(SESSION, 0, HELLO, True),
        Case(SESSION, 1, HELLO, False),
        Case(SESSION, 2, made[2].action, True),
        Case(OTHER, 0, BYE, False),
    ]


def test_recorded_suggestions_with_the_draft_hidden() -> None:
    assert recorded_verdicts([OTHER, SESSION], draft_known=False) == [
        Case(SESSION, 0, HELLO, True),
        Case(SESSION, 1, HELLO, False),
        Case(SESSION, 4, BYE, True),
    ]


def test_recorded_suggestions_with_the_draft_known() -> None:
    assert recorded_verdicts([OTHER, SESSION], draft_known=True) == [
        Case(SESSION, 0, HELLO, True, "second try"),
        Case(SESSION, 1, HELLO, False, "first try"),
        Case(SESSION, 4, BYE, True, ""),
    ]


def judged(hidden: dict[str, Any]) -> Session:
    """Step 1's rejected suggestion was critical, though what the operator did instead is not; step 4's was harmless."""
    steps = list(SESSION.steps)
    steps[1] = msgspec.structs.replace(steps[1], critical=False)
    return msgspec.structs.replace(SESSION, steps=tuple(steps), hidden=hidden)


def test_judged_suggestions_are_those_that_were_critical() -> None:
    session = judged({"critical_suggestions": [0, 1], "causes": {"1": "acceptable"}})
    assert feedback_verdicts([OTHER, session]) == [Case(session, 0, HELLO, True), Case(session, 1, HELLO, False)]
    # A log that does not say what was critical has only the steps to go by.
    plain = judged({})
    assert feedback_verdicts([plain]) == [Case(plain, 0, HELLO, True), Case(plain, 4, BYE, True)]


def test_the_truth_of_a_verdict_is_that_of_its_cause() -> None:
    causes = {"0": "rubber_stamp", "1": "model_error", "2": "acceptable", "3": "environment", "4": "other"}
    session = judged({"causes": causes})
    cases = [Case(session, step, HELLO, False) for step in range(6)]
    assert [true_cause(case) for case in cases] == [*causes.values(), ""]
    assert truths(cases).tolist() == [False, False, True, True, True, True]
    assert truths([]).shape == (0,)
    with pytest.raises(HandrailError, match="session b: the true causes"):
        truths([Case(OTHER, 0, HELLO, True)])


def test_verdicts_up_to_the_first_override() -> None:
    verdicts = [("a", 0, True), ("b", 0, True), ("a", 1, False), ("b", 2, True), ("a", 4, True), ("a", 5, False)]
    cases = [Case({"a": SESSION, "b": OTHER}[name], step, HELLO, accepted) for name, step, accepted in verdicts]
    assert before_override(cases) == [cases[0], cases[1], cases[2], cases[3]]
    assert before_override(cases[4:]) == cases[4:]
    assert before_override([]) == []


def test_a_second_look_turns_rejections_of_what_was_right() -> None:
    causes = {"0": "rubber_stamp", "1": "model_error", "2": "acceptable", "3": "environment", "4": "other"}
    session = msgspec.structs.replace(SESSION, hidden={"causes": causes})
    cases = [Case(session, step, HELLO, accepted=step in {0, 5}) for step in range(6)]
    seen = looked_at_again(cases)
    assert [case.accepted for case in seen] == [True, False, True, True, True, True]
    assert [(case.session, case.step, case.suggestion) for case in seen] == [
        (case.session, case.step, case.suggestion) for case in cases
    ]
    with pytest.raises(HandrailError, match="true causes of its verdicts are unknown"):
        looked_at_again([Case(OTHER, 0, HELLO, False)])


def test_simulated_feedback_agrees_with_its_truth() -> None:
    """Accepted suggestions are right but for rubber stamps; rejected ones have a cause each."""
    sessions = list(simulate("mock", 60, seed=3, copilot=Copilot(error=0.3)))
    cases = feedback_verdicts(sessions)
    assert len(cases) == sum(len(session.hidden["critical_suggestions"]) for session in sessions)
    for case, right in zip(cases, truths(cases), strict=True):
        cause = true_cause(case)
        assert case.accepted == (cause in ("", "rubber_stamp"))
        assert right == (cause not in ("rubber_stamp", "model_error"))
    assert {True, False} == {case.accepted for case in cases}
    assert any(not case.session.steps[case.step].critical for case in cases)


def test_a_trail_goes_back_to_the_last_override() -> None:
    """Two steps as suggested after an override: sums of -1 and -2, the least of 0.5 and 0.25, of -3 and -4."""
    notes = [
        {"kept": True, "log_probability": -9.0, "min_probability": 0.01, "second": -9.0},
        {"kept": False, "log_probability": -9.0, "min_probability": 0.01, "second": -9.0},
        {"kept": True, "log_probability": -1.0, "min_probability": 0.5, "second": -4.0},
        {"kept": True, "log_probability": -2.0, "min_probability": 0.25, "second": -3.0},
    ]
    assert trail(notes) == Trail(-3.0, 0.25, -4.0)
    assert trail(notes[:2]) == CLEAR
    assert trail([]) == CLEAR
