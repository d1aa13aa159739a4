"""Both sources of verdicts by hand: the policy's suggestions against the log, and the suggestions the log recorded."""

from __future__ import annotations

from handrail.agents.critic import Case, recorded_verdicts, replayed_verdicts
from handrail.agents.decoding import Suggestion
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
