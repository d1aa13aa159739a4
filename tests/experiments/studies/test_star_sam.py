"""The published protocol: targets, history, splits and metrics on hand-written dialogues; the split on real ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Constraint, Control, Message, Result, Session, Step, UIState
from handrail.experiments.studies import star_sam

SCREEN = (
    Control("hello", "template", label="Hello!"),
    Control("hotel_ask_name", "template", label="Which hotel?"),
    Control("hotel_book", "form", fields=(Control("Name", "select", options=("Hyatt Hotel",)),)),
    Control("chat", "message_box"),
)


def dialogue(number: int, kind: str = "happy", domain: str = "hotel") -> Session:
    """Greeting, free text, a check that finds nothing, the question again, a booking, the customer leaves."""
    query = {"Name": Constraint("is_equal_to", "Hyatt Hotel"), "RequestType": "Check"}
    turns = [
        ((Message("customer", "hi"),), Action("send_reply", "hello"), "operator"),
        (
            (Message("operator", "Hello!"), Message("customer", "a room")),
            Action("send_message", "chat", {"text": "one moment"}),
            "operator",
        ),
        ((Message("operator", "one moment"),), Action("submit_form", "hotel_book", query), "operator"),
        ((Result("hotel_book", None),), Action("select_item", "results"), "operator"),
        ((), Action("send_reply", "hotel_ask_name"), "operator"),
        (
            (Message("operator", "Which hotel?"), Message("customer", "the Hyatt")),
            Action("submit_form", "hotel_book", {"RequestType": "Book"}),
            "operator",
        ),
        ((Result("hotel_book", {"Message": "Booked"}),), Action("close_case"), "customer"),
    ]
    steps = tuple(
        Step(
            n, UIState("desk", "hotel_book", SCREEN), events, action, actor=actor, drafts=(Message("operator", "LEAK"),)
        )
        for n, (events, action, actor) in enumerate(turns)
    )
    return Session(
        str(number),
        "star",
        "hotel_book",
        "w1",
        steps=steps,
        tail=(Message("customer", "bye"),),
        tags={"kind": kind, "domain": domain},
    )


def test_targets_and_history_of_a_dialogue() -> None:
    (session,) = star_sam.protocol_sessions([dialogue(1)])
    assert [(step.index, step.action) for step in session.steps] == [
        (0, Action("send_reply", "hello")),
        (1, Action("submit_form", "query_check")),
        (2, Action("send_reply", "hotel_ask_name")),
        (3, Action("submit_form", "query_book")),
    ]
    assert [step.events for step in session.steps] == [
        (Message("customer", "hi"),),
        (Message("operator", "Hello!"), Message("customer", "a room"), Message("operator", "one moment")),
        (Message("system", "Name = Hyatt Hotel ; RequestType = Check"), Result("hotel_book", None)),
        (Message("operator", "Which hotel?"), Message("customer", "the Hyatt")),
    ]
    assert session.tail == ()
    assert all(step.drafts == () and step.feedback is None for step in session.steps)


def test_the_labels_on_offer_are_the_schema_and_three_kinds_of_query() -> None:
    (session,) = star_sam.protocol_sessions([dialogue(1)])
    offered = [control.id for control in session.steps[0].state.controls]
    assert offered == ["hello", "hotel_ask_name", "query", "query_check", "query_book"]
    assert all(step.state.controls is session.steps[0].state.controls for step in session.steps)


@pytest.mark.parametrize(
    ("args", "label"),
    [
        ({}, "query"),
        ({"Name": "Check"}, "query"),
        ({"RequestType": "Check"}, "query_check"),
        ({"RequestType": Constraint("is_equal_to", "Book")}, "query_book"),
        ({"RequestType": Constraint("all_of", ["Book", "Check"])}, "query_check"),
        ({"RequestType": Constraint("all_of", [Constraint("is_equal_to", "Book")])}, "query_book"),
        ({"RequestType": None}, "query"),
    ],
)
def test_query_labels(args, label: str) -> None:
    assert star_sam.query_label(args) == label


def test_only_strictly_happy_dialogues_with_a_target_in_order_of_id() -> None:
    nothing = Session("4", "star", "hotel", "w1", tags={"kind": "happy"})
    read = [dialogue(10), dialogue(9), dialogue(2, "unhappy"), dialogue(3, "multi_task"), nothing]
    assert [s.id for s in star_sam.protocol_sessions(read)] == ["9", "10"]


@pytest.mark.parametrize(("n", "train", "test"), [(5, 4, 1), (10, 8, 2), (11, 8, 2), (1075, 860, 215)])
def test_standard_split_is_the_first_and_the_last_by_id(n: int, train: int, test: int) -> None:
    sessions = [Session(str(i), "star", "x", "w") for i in range(n)]
    first, last = star_sam.standard_split(sessions)
    assert [s.id for s in first] == [str(i) for i in range(train)]
    assert [s.id for s in last] == [str(i) for i in range(n - test, n)]


def test_too_few_sessions_to_split_are_told() -> None:
    with pytest.raises(HandrailError, match="4 strictly happy sessions are too few"):
        star_sam.standard_split([dialogue(i) for i in range(4)])


def test_leave_one_domain_out() -> None:
    sessions = [dialogue(1), dialogue(2, domain="bank"), dialogue(3)]
    train, test = star_sam.leave_out(sessions, "hotel")
    assert ([s.id for s in train], [s.id for s in test]) == (["2"], ["1", "3"])
    with pytest.raises(HandrailError, match="'hotels' cannot be left out; did you mean hotel"):
        star_sam.leave_out(sessions, "hotels")


def test_weighted_f1_by_hand_and_against_scikit_learn() -> None:
    # a: precision 1/2, recall 1/1, F1 2/3, support 1; b: precision 1/1, recall 1/2, F1 2/3, support 2; c only guessed.
    assert star_sam.weighted_f1(["a", "b", "b"], ["a", "a", "b"]) == pytest.approx(2 / 3)
    assert star_sam.weighted_f1(["a", "b"], ["c", "b"]) == pytest.approx(1 / 2)
    rng = np.random.default_rng(0)
    labels, guess, weights = rng.integers(5, size=200), rng.integers(6, size=200), rng.integers(4, size=200)
    expected = f1_score(labels, guess, average="weighted", sample_weight=weights, zero_division=0)
    assert star_sam.weighted_f1(labels, guess, weights) == pytest.approx(expected)


def table(split: str, labels: str, policy: str, other: str):
    import pandas as pd

    frame = pd.DataFrame({"label": list(labels), "predicted": list(policy), "predicted_other": list(other)})
    frame["session_id"] = [str(n // 2) for n in range(len(labels))]
    return frame.assign(split=split, correct=frame["label"] == frame["predicted"])


def test_metric_keys_and_values() -> None:
    import pandas as pd

    frame = pd.concat(
        [
            table("standard", "aabb", "aaba", "abab"),
            table("lodo.bank", "aabb", "bbbb", "aabb"),
            table("lodo.hotel", "aabb", "aabb", "bbaa"),
        ]
    )
    metrics = star_sam.all_metrics(frame, np.random.default_rng(0))
    assert metrics["policy.steps"] == 4
    assert metrics["policy.accuracy"] == 0.75
    assert metrics["baseline.other.accuracy"] == 0.5
    assert metrics["policy.accuracy_over.other"] == 0.25
    assert metrics["policy.lodo.bank.accuracy"] == 0.5
    assert metrics["policy.lodo.mean.accuracy"] == 0.75
    assert metrics["baseline.other.lodo.mean.weighted_f1"] == 0.5
    # a: F1 4/5 with support 2; b: F1 2/3 with support 2.
    assert metrics["policy.weighted_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert metrics["policy.accuracy.ci_low"] == 0.5
    assert metrics["policy.accuracy.ci_high"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_split_of_the_real_dialogues(star_root) -> None:
    """Counted on the raw files: happy, no stage direction, and at least one query or pick that is not free text."""
    import json

    from handrail.envs.logs.readers.star import Reader

    expected = {}
    for path in (star_root / "dialogues").glob("*.json"):
        raw = json.loads(path.read_text())
        if not raw["Scenario"]["Happy"] or any(e["Agent"] == "UserGuide" for e in raw["Events"]):
            continue
        targets = [
            event
            for event in raw["Events"]
            if event["Agent"] == "Wizard"
            and (event["Action"] == "query" or event["Action"] == "pick_suggestion")
            and event.get("ActionLabelOptions") != ["custom"]
        ]
        if targets:
            expected[str(raw["DialogueID"])] = [event.get("ActionLabel", "query")[:5] for event in targets]
    reader = Reader(star_root)
    read = [s for unit in reader.units() for s in reader.read(unit) if isinstance(s, Session)]
    sessions = star_sam.protocol_sessions(read)
    assert {s.id: [step.action.target[:5] for step in s.steps] for s in sessions} == expected
    train, test = star_sam.standard_split(sessions)
    assert max(int(s.id) for s in train) < min(int(s.id) for s in test)
    assert len(train) == int(0.8 * len(expected))
    assert len(test) == int(len(expected) * 0.2)
    assert all(any(c.id == step.action.target for c in step.state.controls) for s in sessions for step in s.steps)
