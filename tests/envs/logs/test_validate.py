"""Each rule: what breaks it, what does not, and what becomes of the session."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from strategies import sessions

from handrail.envs.logs.validate import READER_RULES, RULES, Report, Validator, rules_table, validate
from handrail.envs.schema import (
    Action,
    Constraint,
    Control,
    Feedback,
    Message,
    Problem,
    Result,
    Session,
    Step,
    UIState,
)

FORM = Control(
    "book",
    "form",
    fields=(Control("size", "number", required=True), Control("area", "select", options=("North", "South"))),
)
DESK = (Control("hello", "template"), Control("gone", "button", enabled=False), FORM)
REPLY = Action("send_reply", "hello")


def step(index: int = 0, action: Action = REPLY, controls: Any = DESK, **fields: Any) -> Step:
    return Step(index, UIState("desk", None, controls), fields.pop("events", ()), action, **fields)


def session(*steps: Step, **fields: Any) -> Session:
    about = {"id": "1", "source": "test", "issue": "booking", "operator": "op", **fields}
    return Session(**about, steps=steps or (step(),))


def book(**args: Any) -> Step:
    return step(action=Action("submit_form", "book", args), critical=True)


def said(time: Any, role: Any = "customer", text: Any = "hi") -> Message:
    return Message(role, text, time)


CASES = [
    ("empty_id", session(id=""), -1),
    ("empty_id", session(issue=""), -1),
    ("no_steps", Session("1", "test", "booking", "op"), -1),
    ("wrong_type", session(id=7), -1),
    ("wrong_type", session(operator=None), -1),
    ("wrong_type", session(step(critical="yes")), 0),
    ("wrong_type", session(step(critical=1)), 0),
    ("wrong_type", session(step(time="12:00")), 0),
    ("wrong_type", session(step(events=("hello",))), 0),
    ("wrong_type", session(step(events=(said(1.0, text=None),))), 0),
    ("wrong_type", session(step(events=(Result("book", None, None, "noon"),))), 0),
    ("wrong_type", session(step(drafts=(Message("operator", 5),))), 0),
    ("wrong_type", session(step(action=Action(None, "hello"))), 0),
    ("wrong_type", session(step(index="0")), 0),
    ("wrong_type", session(step(actor=None)), 0),
    ("wrong_type", session(step(), tail=(5,)), 1),
    ("step_index", session(step(1)), 0),
    ("step_index", session(step(0), step(0)), 1),
    ("step_index", session(step(0), step(2)), 1),
    ("no_tool", session(step(action=Action("", "hello"))), 0),
    ("unknown_actor", session(step(actor="robot")), 0),
    ("unknown_role", session(step(events=(said(None, "wizard"),))), 0),
    ("unknown_role", session(step(), tail=(said(None, "wizard"),)), 1),
    ("time_backwards", session(step(0, time=5.0), step(1, time=4.0)), 1),
    ("time_backwards", session(step(events=(said(6.0),), time=5.0)), 0),
    ("time_backwards", session(step(0, time=5.0), step(1, events=(said(4.0),), time=6.0)), 1),
    ("time_backwards", session(step(0, events=(said(6.0), said(5.0)), time=7.0)), 0),
    ("time_backwards", session(step(0, time=5.0), step(1, time=None), step(2, time=4.0)), 2),
    ("time_backwards", session(step(0, time=5.0), tail=(said(4.0),)), 1),
    ("time_backwards", session(step(time=5.0, drafts=(said(5.5, "operator"),))), 0),
    ("time_not_finite", session(step(time=math.nan)), 0),
    ("time_not_finite", session(step(time=math.inf)), 0),
    ("verdict_mismatch", session(step(feedback=Feedback(Action("send_reply", "bye"), "accept"))), 0),
    ("verdict_mismatch", session(step(feedback=Feedback(REPLY, "reject"))), 0),
    ("verdict_mismatch", session(step(feedback=Feedback(None, "accept"))), 0),
    ("verdict_mismatch", session(step(feedback=Feedback(REPLY, "accept", correction=REPLY))), 0),
    ("verdict_mismatch", session(step(feedback=Feedback(None, "reject", correction=Action("x")))), 0),
    ("verdict_mismatch", session(step(feedback=Feedback(REPLY, "maybe"))), 0),
    ("target_not_on_screen", session(step(action=Action("send_reply", "bye"))), 0),
    ("target_disabled", session(step(action=Action("press", "gone"))), 0),
    ("duplicate_control", session(step(controls=(*DESK, Control("hello", "template")))), 0),
    ("unknown_field", session(book(size=3, colour="red")), 0),
    ("option_not_offered", session(book(size=3, area="West")), 0),
    ("option_not_offered", session(book(size=3, area=Constraint("is_one_of", ["North", "West"]))), 0),
    ("option_not_offered", session(step(action=Action("set_field", "book.area", {"value": "West"}))), 0),
    ("required_field_missing", session(book(area="North")), 0),
]


@pytest.mark.parametrize(("rule", "bad", "where"), CASES)
def test_each_rule_gives_one_line(rule: str, bad: Session, where: int) -> None:
    problems = validate(bad)
    assert [(p.rule, p.step) for p in problems] == [(rule, where)]
    assert problems[0].quarantined == RULES[rule].quarantines


def test_every_rule_has_a_case() -> None:
    # The other two need a second session, or a writer.
    assert {rule for rule, _, _ in CASES} == set(RULES) - {"duplicate_id", "not_storable"}


GOOD = [
    session(book(size=3, area="NORTH ")),
    session(book(size=3, area=Constraint("all_of", [Constraint("is_not", "south"), "North"]))),
    session(book(size=None, area="North")),
    session(step(action=Action("submit_form", "book", {"area": "North"}))),
    session(step(action=Action("wait"))),
    session(step(0, time=5), step(1, events=(said(None), said(5.0)), time=5.0)),
    session(step(feedback=Feedback(Action("Send_Reply", " HELLO"), "accept"))),
    session(step(feedback=Feedback(None, "reject"))),
    session(step(feedback=Feedback(Action("send_reply", "bye"), "reject", correction=REPLY))),
    session(step(actor="customer")),
    session(step(action=Action("set_field", "book.area", {"value": "South"}))),
]


@pytest.mark.parametrize("good", GOOD)
def test_what_is_right_gives_no_line(good: Session) -> None:
    assert validate(good) == []


@given(item=sessions())
def test_arbitrary_valid_sessions_are_kept(item: Session) -> None:
    assert not [p for p in validate(item) if p.quarantined]


def test_one_wrong_time_is_one_problem() -> None:
    times = [1.0, 2.0, 99.0, 3.0, 4.0, 5.0]
    problems = validate(session(*(step(i, time=t) for i, t in enumerate(times))))
    assert [(p.step, p.value) for p in problems] == [(3, "3.0 after 99.0")]


def test_duplicated_ids_over_a_source() -> None:
    validator = Validator(seen=["0"])
    assert validator.check(session(id="1")) == []
    assert [p.rule for p in validator.check(session(id="1"))] == ["duplicate_id"]
    assert [p.rule for p in validator.check(session(id="0"))] == ["duplicate_id"]
    assert validator.check(session(id="2")) == []


def test_a_problem_names_its_place_and_stays_short() -> None:
    bad = session(step(), step(7, action=Action("x", "no" * 500)), file="12.json")
    problems = validate(bad)
    assert [(p.file, p.session, p.step, p.rule, p.value) for p in problems] == [
        ("12.json", "1", 1, "step_index", "index 7 at position 1"),
        ("12.json", "1", 1, "target_not_on_screen", "no" * 100),
    ]


def test_problems_are_json_whatever_the_session_holds() -> None:
    problems = validate(session(step(action=Action("x", "\ud83d")), id="\ud83d"))
    assert msgspec.json.decode(msgspec.json.encode(problems), type=list[Problem]) == problems


def test_screens_with_equal_addresses_in_turn_do_not_mix() -> None:
    validator = Validator()
    for i in range(600):
        made = session(step(action=Action("press", f"b{i}"), controls=(Control(f"b{i}", "button"),)), id=str(i))
        assert validator.check(made) == []


def test_report() -> None:
    report = Report()
    report.add(Problem("1.json", "1", 0, "step_index", "index 1 at position 0", True))
    part = Report(kept=2, steps=9, quarantined=1, rules={"step_index": 2, "odd": 1}, handled={"custom": 4})
    report.count(part)
    report.count(part)
    assert (report.kept, report.steps, report.quarantined) == (4, 18, 2)
    assert report.rules == {"step_index": 5, "odd": 2}
    assert report.summary().splitlines() == [
        "4 sessions kept (18 steps), 2 quarantined",
        "problems:",
        "          5  step_index  step indices do not count up from 0",
        "          2  odd",
        "oddities handled by rule:",
        "          8  custom",
    ]
    assert len(report.problems) == 1
    assert Report().summary() == "0 sessions kept (0 steps), 0 quarantined"
    assert Report().rules is not report.rules


def test_rules_table_lists_every_rule_once() -> None:
    lines = rules_table().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == [*READER_RULES, *RULES]
    assert all(line.endswith(("| yes |", "| no |")) for line in lines)
