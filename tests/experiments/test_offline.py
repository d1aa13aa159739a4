"""Tables and metrics of policies and critics, by hand on small frames and sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from star_folder import dialogue, write_star
from toys import colour_sessions, tiny_policy

from handrail.agents import assess as reading
from handrail.agents.critic import Case
from handrail.agents.decoding import Suggestion
from handrail.algorithms.config import ProbeConfig, TfidfConfig
from handrail.algorithms.critics import probe, tfidf
from handrail.envs.errors import HandrailError
from handrail.envs.logs.store import SessionWriter
from handrail.envs.schema import Action, Constraint, Control, Message, Result, Session, Step, UIState
from handrail.experiments import offline

DESK = (
    Control("hello", "template", label="Hello,\n how can  I help?"),
    Control("bye", "template"),
    Control("chat", "message_box"),
    Control("book", "form", fields=(Control("Name", "text"), Control("Guests", "number"))),
)
STATE = UIState("desk", "booking", DESK)
STEPS = (
    Step(0, STATE, (Message("customer", "hi"),), Action("send_reply", "hello"), critical=True),
    Step(
        1,
        STATE,
        (Message("operator", "Hello!"), Message("customer", "a room")),
        Action("submit_form", "book", {"Name": "Hyatt", "Guests": Constraint("is_at_most", 3)}),
        critical=True,
        drafts=(Message("operator", "DRAFT"),),
    ),
    Step(2, STATE, (Result("book", {"Name": "Hyatt", "id": 7}),), Action("open_procedure", "returns")),
    Step(
        3,
        STATE,
        (Result("book", None), Message("customer", "ok")),
        Action("send_message", "chat", {"text": "SECRET"}),
        critical=True,
        drafts=(Message("operator", "DRAFT"),),
    ),
)
SESSION = Session("a", "toy", "hotel_booking", "ann", steps=STEPS, tags={"kind": "happy"})


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (Action("send_reply", "hello"), "Reply “hello”: Hello, how can I help?"),
        (Action("send_reply", "bye"), "Reply “bye”"),
        (Action("send_reply", "unknown"), "Reply “unknown”"),
        (Action("send_message", "chat", {"text": "One moment."}), "Write: One moment."),
        (
            Action("submit_form", "book", {"Name": "Hyatt", "Guests": Constraint("is_at_most", 3)}),
            "Submit the form “book” with Name = Hyatt, Guests = is_at_most 3",
        ),
        (Action("submit_form", "book"), "Submit the form “book” with nothing filled in"),
        (Action("open_procedure", "returns"), "Open procedure returns"),
        (Action("select_item", "results", {"result": 2}), "Select item results result = 2"),
        (Action("invalid"), "Invalid"),
    ],
)
def test_actions_in_words(action: Action, text: str) -> None:
    assert offline.describe(action, SESSION, 0) == text


def test_the_context_of_a_step_ends_before_its_action() -> None:
    assert offline.context_of(SESSION, 0) == [{"who": "customer", "text": "hi"}]
    form = {"who": "operator", "text": "Submit the form “book” with Name = Hyatt, Guests = is_at_most 3"}
    assert offline.context_of(SESSION, 2) == [
        {"who": "customer", "text": "hi"},
        {"who": "operator", "text": "Hello!"},
        {"who": "customer", "text": "a room"},
        form,
        {"who": "back end", "text": "book: Name = Hyatt, id = 7"},
    ]
    assert offline.context_of(SESSION, 3, entries=3) == [
        {"who": "operator", "text": "Open procedure returns"},
        {"who": "back end", "text": "book: nothing found"},
        {"who": "customer", "text": "ok"},
    ]
    for step in range(4):
        shown = json.dumps(offline.context_of(SESSION, step, entries=99))
        assert "DRAFT" not in shown
        assert "SECRET" not in shown


def test_the_fingerprint_tells_what_was_done_and_not_in_which_order_sessions_come() -> None:
    other = msgspec.structs.replace(SESSION, id="b")
    mark = offline.fingerprint([SESSION, other])
    assert offline.fingerprint([other, SESSION]) == mark
    longer = (*STEPS[:3], msgspec.structs.replace(STEPS[3], action=Action("send_reply", "bye")))
    different = [
        [SESSION],
        [SESSION, msgspec.structs.replace(SESSION, id="c")],
        [SESSION, msgspec.structs.replace(other, steps=longer)],
        [SESSION, msgspec.structs.replace(other, steps=STEPS[:3])],
    ]
    assert len({mark, *(offline.fingerprint(sessions) for sessions in different)}) == 5


# ---- reading ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine complete dialogues, three given up, a corrupt one and one without events."""
    root = write_star(tmp_path_factory.mktemp("data") / "star", 9)
    rng = np.random.default_rng(1)
    for number in (101, 102, 103):
        text = json.dumps(dialogue(number, rng, completion="Incomplete"))
        (root / "dialogues" / f"{number}.json").write_text(text)
    (root / "dialogues" / "201.json").write_text("{")
    (root / "dialogues" / "202.json").write_text(json.dumps({**dialogue(202, rng), "Events": []}))
    return root


COMPLETE = {"completion": "Complete"}


def test_every_file_is_accounted_for(folder: Path) -> None:
    sessions, summary = offline.read_data("star", str(folder), {}, COMPLETE)
    assert [s.id for s in sessions] == [str(number) for number in range(1, 10)]
    counts = {name: summary[name] for name in ("path", "units", "sessions", "quarantined", "other_tags")}
    assert counts == {"path": "star", "units": 14, "sessions": 9, "quarantined": 2, "other_tags": 3}
    assert summary["sessions"] + summary["quarantined"] + summary["other_tags"] == summary["units"]
    assert summary["problems"] == {"corrupt_json": 1, "no_events": 1}
    assert summary["steps"] == sum(step.actor == "operator" for s in sessions for step in s.steps)
    assert summary["steps"] < sum(len(s.steps) for s in sessions), "the customer closes each case"
    assert (summary["operators"], summary["issues"]) == (len({s.operator for s in sessions}), 2)


def test_a_store_gives_the_same_sessions(folder: Path, tmp_path: Path) -> None:
    expected, _ = offline.read_data("star", str(folder), {}, {})
    assert len(expected) == 12
    with SessionWriter(tmp_path / "star.parquet") as writer:
        for session in expected:
            writer.write(session)
    sessions, summary = offline.read_data("none", str(tmp_path / "star.parquet"), {}, COMPLETE)
    assert sessions == expected[:9]
    assert (summary["sessions"], summary["quarantined"], summary["other_tags"]) == (9, 0, 3)


def test_nothing_to_read_is_told(folder: Path) -> None:
    with pytest.raises(HandrailError, match=r"set HANDRAIL_DATA .* or give data\.path="):
        offline.read_data("star", None, {}, {})
    with pytest.raises(HandrailError, match=r"none of 14 units gave a session with {'completion': 'Perfect'}"):
        offline.read_data("star", str(folder), {}, {"completion": "Perfect"})
    with pytest.raises(HandrailError, match=r"unknown source 'sta'.*star"):
        offline.read_data("sta", str(folder), {}, {})


# ---- tables ----------------------------------------------------------------------


def suggest(session: str, step: int, action: Action, log_probability: float = -1.0) -> Suggestion:
    return Suggestion(session, step, action, (), log_probability, 0.5, 0.1, 0.2)


def test_a_row_for_each_suggestion_of_the_splits() -> None:
    made = [
        suggest("a", 0, Action("send_reply", "HELLO"), -0.5),
        suggest("a", 1, Action("submit_form", "book", {"Name": "hyatt"})),
        suggest("a", 2, Action("open_procedure", "returns")),
        suggest("elsewhere", 0, Action("send_reply", "hello")),
    ]
    other = [suggest("a", 1, STEPS[1].action), suggest("a", 2, Action("open_procedure", "sales"))]
    frame = offline.policy_frame({"test": [SESSION]}, made, {"copy": other}, {"log": lambda s: s.log_probability})
    assert frame[["session_id", "step", "split", "issue"]].to_numpy().tolist() == [
        ["a", n, "test", "hotel_booking"] for n in range(3)
    ]
    assert frame["tool"].tolist() == ["send_reply", "submit_form", "open_procedure"]
    assert frame["critical"].tolist() == [True, True, False]
    assert frame["correct"].tolist() == [True, False, True]
    assert frame["verdict"].tolist() == ["accept", "reject", "accept"]
    assert frame["tool_correct"].tolist() == [True, True, True]
    assert frame["baseline_copy_tool_correct"].tolist() == [False, True, True]
    assert frame["baseline_copy_correct"].tolist() == [False, True, False]
    assert frame["score_log"].tolist()[:2] == [-0.5, -1.0]
    assert np.isnan(frame["score_log"][2]), "steps that are not critical are not gated"
    assert frame["logged"][2] == "Open procedure returns"
    assert set(frame["operator"]) == {"ann"}
    assert set(frame["kind"]) == {"happy"}


def outcomes(right: list[bool], tool: list[bool], other: list[bool], session: list[str], tools: list[str]) -> Any:
    frame = pd.DataFrame({"correct": right, "tool_correct": tool, "session_id": session, "tool": tools})
    frame = frame.assign(issue="i", operator="ann", kind="")
    return frame.assign(baseline_other_correct=other, baseline_other_tool_correct=True)


def test_policy_metrics_by_hand() -> None:
    frame = outcomes(
        [True] * 30 + [False] * 10,
        [True] * 35 + [False] * 5,
        [True] * 10 + [False] * 30,
        [f"s{n // 4}" for n in range(40)],
        ["send_reply"] * 32 + ["submit_form"] * 8,
    )
    found = offline.policy_metrics(frame, np.random.default_rng(0))
    expected = {
        "policy.steps": 40,
        "policy.tool_accuracy": 35 / 40,
        "policy.action_accuracy": 30 / 40,
        "baseline.other.tool_accuracy": 1.0,
        "baseline.other.action_accuracy": 10 / 40,
        "policy.action_accuracy_over.other": 20 / 40,
        "policy.by_tool.send_reply.steps": 32,
        "policy.by_tool.send_reply.tool_accuracy": 1.0,
        "policy.by_tool.send_reply.action_accuracy": 30 / 32,
        "policy.by_issue.i.steps": 40,
        "policy.by_issue.i.action_accuracy": 30 / 40,
        "policy.by_operator.ann.tool_accuracy": 35 / 40,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert not any("submit_form" in key or "by_kind" in key for key in found), "too few steps, or no value"
    for key in ("policy.action_accuracy", "policy.action_accuracy_over.other", "policy.by_issue.i.action_accuracy"):
        assert found[f"{key}.ci_low"] < found[key] < found[f"{key}.ci_high"]
    assert found["baseline.other.tool_accuracy.ci_low"] == found["baseline.other.tool_accuracy.ci_high"] == 1.0
    assert offline.policy_metrics(frame, np.random.default_rng(0)) == found


def test_recorded_verdicts_as_rows() -> None:
    cases = [
        Case(SESSION, 0, Action("send_reply", "hello"), True),
        Case(SESSION, 3, Action("send_reply", "bye"), False, "draft"),
    ]
    frame = offline.verdict_frame({"test": [SESSION]}, cases, {"full": [0.9, 0.2]})
    assert frame["correct"].tolist() == [True, False]
    assert frame["verdict"].tolist() == ["accept", "reject"]
    assert frame["score_full"].tolist() == [0.9, 0.2]
    assert frame["suggestion"].tolist() == ["Reply “hello”: Hello, how can I help?", "Reply “bye”"]
    assert frame["logged"].tolist() == ["Reply “hello”: Hello, how can I help?", "Write: SECRET"]
    empty = offline.verdict_frame({"test": [SESSION]}, [], {"full": []})
    assert empty.empty
    assert list(empty.columns) == list(frame.columns)


def judged(split: str, scores: list[float], right: list[bool]) -> Any:
    return pd.DataFrame(
        {"score_m": scores, "correct": right, "session_id": [f"{split}{n // 5}" for n in range(len(scores))]}
    )


def test_thresholds_come_from_calibration_alone() -> None:
    # 400 right suggestions at 0.9 and 100 wrong ones at 0.1: 0.9 is the lowest threshold that keeps the errors out.
    # Sessions of five steps: 80 of them are more than the 59 that suffice at 95 % where none has an error.
    known = judged("c", [0.9] * 400 + [0.1] * 100, [True] * 400 + [False] * 100)
    rng = np.random.default_rng(0)
    scores = rng.choice([0.1, 0.9, np.nan], size=60, p=[0.4, 0.5, 0.1]).tolist()
    new = judged("t", scores, (rng.random(60) < 0.5).tolist())
    flipped = new.assign(correct=~new["correct"])
    found, issued = offline.verdict_metrics("p", known, new, (0.9, 0.95), 0.05, (0.1,), np.random.default_rng(0))
    other, issued_again = offline.verdict_metrics(
        "p", known, flipped, (0.9, 0.95), 0.05, (0.1,), np.random.default_rng(0)
    )
    assert issued == issued_again
    assert issued["m"][0.95].threshold == found["p.m.certified.95.threshold"] == 0.9
    assert found["p.m.coverage_at_precision_95.threshold"] == other["p.m.coverage_at_precision_95.threshold"] == 0.9
    seen = new[new["score_m"].notna()]
    confident = seen["score_m"] == 0.9
    assert found["p.m.certified.95.coverage"] == other["p.m.certified.95.coverage"] == pytest.approx(confident.mean())
    assert found["p.m.certified.95.precision"] == pytest.approx(seen["correct"][confident].mean())
    assert other["p.m.certified.95.precision"] == pytest.approx(1 - seen["correct"][confident].mean())
    worse = known.assign(correct=~known["correct"])
    _, refused = offline.verdict_metrics("p", worse, new, (0.9, 0.95), 0.05, (0.1,), np.random.default_rng(0))
    assert refused["m"][0.95].threshold is None
    table = offline.certificate_table(refused)
    assert json.loads(json.dumps(table, allow_nan=False))["m"]["0.95"]["threshold"] is None


# ---- examples ----------------------------------------------------------------------


def many(count: int) -> tuple[Any, list[Session]]:
    """Rows of `count` sessions with one step each: every third is wrong, scores rise with the session's number."""
    sessions = [msgspec.structs.replace(SESSION, id=f"{number:03d}") for number in range(count)]
    frame = pd.DataFrame(
        [
            {
                "session_id": session.id,
                "step": 1,
                "issue": session.issue,
                "correct": number % 3 > 0,
                "verdict": "accept" if number % 3 else "reject",
                "suggestion": f"suggestion {number}",
                "logged": f"logged {number}",
                "score_m": float("nan") if number % 10 == 7 else number / count,
            }
            for number, session in enumerate(sessions)
        ]
    )
    return frame.sample(frac=1.0, random_state=0), sessions


def test_the_ten_worst_confident_errors_and_ten_others() -> None:
    frame, sessions = many(90)
    found = offline.example_decisions(frame, sessions, "score_m", 0.5, np.random.default_rng(0))
    groups = [example["group"] for example in found]
    assert groups == ["worst confident errors"] * 10 + ["ran alone, rightly"] * 5 + ["handed to the operator"] * 5
    wrong = [n for n in range(89, -1, -1) if n % 3 == 0 and n % 10 != 7][:10]
    assert [example["session_id"] for example in found[:10]] == [f"{n:03d}" for n in wrong]
    for example in found:
        number = int(example["session_id"])
        assert example["confidence"] == number / 90
        assert example["decision"] == ("run alone" if number >= 45 else "hand to operator")
        assert example["verdict"] == ("accept" if number % 3 else "reject")
        assert (example["suggestion"], example["operator_did"]) == (f"suggestion {number}", f"logged {number}")
        assert example["context"] == offline.context_of(SESSION, 1)
        assert example["title"] == "hotel booking, step 1"
    assert all(int(e["session_id"]) >= 45 and e["verdict"] == "accept" for e in found[10:15])
    assert all(int(e["session_id"]) < 45 for e in found[15:])
    assert len({e["session_id"] for e in found[10:]}) == 10
    assert offline.example_decisions(frame, sessions, "score_m", 0.5, np.random.default_rng(0)) == found


def test_without_a_threshold_everything_is_handed_over() -> None:
    frame, sessions = many(12)
    found = offline.example_decisions(frame, sessions, "score_m", None, np.random.default_rng(0))
    assert [e["group"] for e in found] == ["worst confident errors"] * 4 + ["handed to the operator"] * 5
    assert {e["decision"] for e in found} == {"hand to operator"}


def test_equal_confidence_is_broken_by_session_and_step() -> None:
    frame, sessions = many(60)
    frame = frame.assign(score_m=0.5)
    found = offline.example_decisions(frame, sessions, "score_m", 0.5, np.random.default_rng(0))
    assert [e["session_id"] for e in found[:10]] == [f"{n:03d}" for n in range(0, 30, 3)]


def test_cases_are_read_once_for_all_critics_and_scores_are_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = colour_sessions(0, 20)
    policy = tiny_policy(sessions)
    cases = [
        Case(s, step.index, step.action, (n + step.index) % 3 > 0) for n, s in enumerate(sessions) for step in s.steps
    ]
    critics = {
        "first": probe.fit(policy, cases, ProbeConfig(), tmp_path / "first", seed=0),
        "second": probe.fit(policy, cases[:40], ProbeConfig(), tmp_path / "second", seed=0),
        "words": tfidf.fit(policy, cases, TfidfConfig(min_df=1), tmp_path / "words", seed=0),
    }
    expected = {name: critic.score(cases).tolist() for name, critic in critics.items()}
    asked = []
    once = reading.assess
    monkeypatch.setattr(reading, "assess", lambda *given: (asked.append(1), once(*given))[1])
    assert offline.critic_scores(policy, critics, cases) == expected
    assert len(asked) == 1
