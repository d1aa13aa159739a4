"""Raw logs of pages: what is written comes back, and what is wrong is told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import strategies
from hypothesis import HealthCheck, given, settings

from handrail.envs.bpm.html import render
from handrail.envs.errors import HandrailError
from handrail.envs.logs.html_log import HtmlLogWriter, records, write_html_log
from handrail.envs.logs.ingest import ingest
from handrail.envs.logs.readers.html import Reader
from handrail.envs.logs.store import load_sessions
from handrail.envs.schema import (
    Action,
    Control,
    Feedback,
    Message,
    Problem,
    Provenance,
    Result,
    Session,
    Step,
    UIState,
)

CONTROLS = (
    Control("cards", "link", "Cards"),
    Control("lost", "tab", "Lost card"),
    Control("list", "table", "Cards", options=("44 21", "9910")),
    Control("block.why", "select", "Reason", options=("lost", "stolen"), required=True),
    Control("block.sure", "checkbox", "Sure"),
    Control("block", "button", "Block"),
    Control("off", "button", "Off", enabled=False),
    Control("hello", "template", "Hello"),
    Control("message", "message_box", "Message"),
    Control("close:resolved", "button", "resolved"),
)
EMPTY = UIState("home", None, CONTROLS, {"list.9910": "debit"})
FILLED = UIState(
    "home", "lost", CONTROLS, {"list.9910": "debit", "block.why": "lost"}, {"table": "list", "item": "9910"}
)

ACTIONS = [
    (Action("navigate", "cards"), ("click", "link:cards", None)),
    (Action("open_procedure", "lost"), ("click", "tab:lost", None)),
    (Action("select_item", "list", {"item": "44 21"}), ("click", "item:list:44%2021", None)),
    (Action("set_field", "block.why", {"value": "lost"}), ("change", "select:block.why", "lost")),
    (Action("set_field", "block.why", {"value": None}), ("change", "select:block.why", None)),
    (Action("set_field", "block.sure", {"value": False}), ("change", "checkbox:block.sure", False)),
    (Action("click", "block"), ("click", "button:block", None)),
    (Action("send_reply", "hello"), ("click", "template:hello", None)),
    (Action("send_message", "message", {"text": "One moment"}), ("submit", "message_box:message", "One moment")),
    (Action("click", "close:resolved"), ("click", "button:close:resolved", None)),
]
IMPOSSIBLE = [
    Action("click", "off"),
    Action("click", "nothing"),
    Action("click", "cards"),
    Action("select_item", "list", {"item": "1"}),
    Action("select_item", "list", {"item": 9910}),
    Action("select_item", "list"),
    Action("send_message", "message", {"text": 3}),
    Action("send_reply", "hello", {"text": "x"}),
    Action("dance"),
]


def session(*actions: Action, name: str = "s1", **more: Any) -> Session:
    steps = tuple(
        Step(i, EMPTY if i % 2 else FILLED, (Message("customer", "hi", 10.0 * i),), action, time=10.0 * i + 5)
        for i, action in enumerate(actions)
    )
    return Session(name, "desk", "lost_card", "op_1", steps=steps, **more)


def read(path: Path) -> tuple[list[Session], list[Problem], Reader]:
    reader = Reader(path)
    items = [item for unit in reader.units() for item in reader.read(unit)]
    return [i for i in items if isinstance(i, Session)], [i for i in items if isinstance(i, Problem)], reader


def lines(path: Path) -> list[dict[str, Any]]:
    with pa.input_stream(str(path), compression="zstd") as file:
        return [json.loads(line) for line in file.read().splitlines()]


def put(path: Path, *found: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps({"session": "s1", **record}) for record in found), encoding="utf-8")
    return path


def test_each_action_is_what_a_browser_would_see(tmp_path: Path) -> None:
    given = session(*(action for action, _ in ACTIONS))
    events = [record for record in records(given) if type(record).__name__ == "EventRecord"]
    assert [(e.event, e.element, e.value) for e in events] == [event for _, event in ACTIONS]
    write_html_log([given], tmp_path / "log")
    [found], problems, reader = read(tmp_path / "log")
    assert problems == []
    assert not reader.counts
    assert found == msgspec.structs.replace(given, file="sessions_000000.jsonl.zst")


def test_an_action_no_page_allows_is_logged_as_a_call(tmp_path: Path) -> None:
    given = session(*IMPOSSIBLE)
    assert {record.event for record in records(given) if type(record).__name__ == "EventRecord"} == {"call"}
    write_html_log([given], tmp_path / "log")
    [found], _, _ = read(tmp_path / "log")
    assert [step.action for step in found.steps] == IMPOSSIBLE


def test_all_that_a_session_holds(tmp_path: Path) -> None:
    block, reply = Action("click", "block"), Action("send_reply", "hello")
    step = Step(
        0,
        FILLED,
        (Message("customer", "<hi>", 1.5), Result("find", {"a": [1, {"b": None}]}, 2, None), Result("find", None)),
        block,
        "policy",
        2.25,
        True,
        Feedback(reply, "reject", block, (reply, block), "m1"),
        (Message("operator", "Helo", 2.0),),
        {"value": Provenance("mail", "x", 1.0)},
    )
    given = Session(
        "s/1",
        "desk",
        "lost_card",
        "op",
        "Be kind.",
        (step, Step(1, FILLED, (), reply)),
        (Message("customer", "bye", 9.0),),
        {"kind": "happy"},
        {"success": True},
        {"goal": {"card": "44"}},
    )
    write_html_log([given], tmp_path / "log")
    logged = lines(tmp_path / "log" / "sessions_000000.jsonl.zst")
    kinds = [
        "case",
        "chat",
        "result",
        "result",
        "snapshot",
        "copilot",
        "draft",
        "paste",
        "event",
        "event",
        "chat",
        "truth",
    ]
    assert [record["record"] for record in logged] == kinds
    assert logged[8]["effect"] is True
    assert "goal" not in json.dumps(logged[:-1])
    assert "success" not in json.dumps(logged[:-1])
    [found], _, _ = read(tmp_path / "log")
    assert found == msgspec.structs.replace(given, file="sessions_000000.jsonl.zst")


def test_a_page_is_logged_when_it_changes() -> None:
    one, true = (UIState("home", None, CONTROLS, {"x": value}) for value in (1, True))
    states = [EMPTY, EMPTY, FILLED, FILLED, EMPTY, one, true]
    steps = tuple(Step(i, state, (), Action("click", "block")) for i, state in enumerate(states))
    given = Session("s", "desk", "i", "op", steps=steps)
    assert [type(record).__name__[:4] for record in records(given)] == [
        *("Case", "Snap", "Even", "Even", "Snap", "Even", "Even", "Snap", "Even", "Snap", "Even", "Snap", "Even")
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.sessions())
def test_any_session_comes_back(tmp_path_factory: pytest.TempPathFactory, given: Session) -> None:
    encoded = msgspec.json.encode(given)
    if b"\\u0000" in encoded:
        # HTML cannot hold it; the page tests say what becomes of it.
        given = msgspec.json.decode(encoded.replace(b"\\u0000", b"0"), type=Session)
    folder = tmp_path_factory.mktemp("any") / "log"
    write_html_log([given], folder)
    [found], problems, _ = read(folder)
    assert problems == []
    expected = msgspec.structs.replace(given, file="sessions_000000.jsonl.zst")
    # As JSON: a constraint within a constraint is a plain mapping once decoded.
    assert msgspec.json.encode(found, order="sorted") == msgspec.json.encode(expected, order="sorted")


def test_through_the_store(tmp_path: Path) -> None:
    given = [session(*(action for action, _ in ACTIONS), name=f"s{i:03d}") for i in range(7)]
    assert write_html_log(given, tmp_path / "log", sessions_per_file=3) == 7
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        "desk.css",
        "sessions_000000.jsonl.zst",
        "sessions_000001.jsonl.zst",
        "sessions_000002.jsonl.zst",
    ]
    report = ingest("html", tmp_path / "log", tmp_path / "out.parquet")
    assert (report.kept, report.steps, report.quarantined, report.rules) == (7, 70, 0, {})
    found = load_sessions(tmp_path / "out.parquet")
    assert [msgspec.structs.replace(one, file="") for one in found] == given
    assert found[6].file == "sessions_000002.jsonl.zst"


def test_the_log_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Session]:
        yield session(Action("click", "block"))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_html_log(interrupted(), tmp_path / "log", sessions_per_file=1)
    assert list(tmp_path.iterdir()) == []
    write_html_log([session(Action("click", "block"))], tmp_path / "log")
    with pytest.raises(HandrailError, match="log is there already; remove it"):
        HtmlLogWriter(tmp_path / "log")


def test_a_session_that_cannot_be_logged_is_named(tmp_path: Path) -> None:
    lone = session(Action("set_field", "block.why", {"value": "\ud800"}))
    with HtmlLogWriter(tmp_path / "log") as writer:
        with pytest.raises(HandrailError, match="session 's1' cannot be logged"):
            writer.write(lone)
        writer.write(session(Action("click", "block")))
    [found], _, _ = read(tmp_path / "log")
    assert len(found.steps) == 1


SNAPSHOT = {"record": "snapshot", "page": render(EMPTY)}
CLICK = {"record": "event", "event": "click", "element": "button:block", "time": 3.0}


def test_sessions_interleave_and_files_are_plain_or_packed(tmp_path: Path) -> None:
    found = [
        {**SNAPSHOT, "session": "b"},
        {**SNAPSHOT, "session": "a"},
        {**CLICK, "session": "a"},
        CLICK,
        SNAPSHOT,
        CLICK,
    ]
    put(tmp_path / "x.jsonl", *[{**record, "session": record.get("session", "b")} for record in found])
    packed = put(tmp_path / "y", SNAPSHOT, CLICK).read_bytes()
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(packed))
    sessions, problems, _ = read(tmp_path)
    assert [(one.id, len(one.steps), one.file) for one in sessions] == [
        ("b", 2, "x.jsonl"),
        ("a", 1, "x.jsonl"),
        ("s1", 1, "y.jsonl.gz"),
    ]
    assert (sessions[2].issue, sessions[2].source, problems) == ("unknown", "html", [])


def test_events_that_do_nothing_are_counted(tmp_path: Path) -> None:
    nothing = [
        {"event": "focus", "element": "select:block.why"},
        {"event": "click", "element": "select:block.why"},
        {"event": "submit", "element": "button:block"},
        {"event": "change", "element": "message_box:message", "value": "dra"},
        {"event": "scroll"},
    ]
    put(tmp_path / "x.jsonl", SNAPSHOT, *({"record": "event", **event} for event in nothing), CLICK)
    [found], problems, reader = read(tmp_path)
    assert len(found.steps) == 1
    assert problems == []
    assert reader.counts == {
        "ignored_focus": 1,
        "ignored_click": 1,
        "ignored_submit": 1,
        "ignored_change": 1,
        "ignored_scroll": 1,
    }


@pytest.mark.parametrize(
    ("found", "step", "rule", "value"),
    [
        ([CLICK, SNAPSHOT], 0, "no_snapshot", "button:block"),
        ([SNAPSHOT, CLICK, {**CLICK, "element": "div:x"}], 1, "unknown_element", "div:x"),
        ([SNAPSHOT, CLICK, {"record": "event"}], -1, "corrupt_json", "line 3: Object missing required field `event`"),
        ([SNAPSHOT, {"record": "dance"}, CLICK], -1, "corrupt_json", "line 2: Invalid value 'dance' - at `$.record`"),
    ],
)
def test_a_session_with_a_gap_is_kept_out(
    tmp_path: Path, found: list[dict[str, Any]], step: int, rule: str, value: str
) -> None:
    put(tmp_path / "x.jsonl", *found, {**SNAPSHOT, "session": "s2"}, {**CLICK, "session": "s2"})
    sessions, problems, _ = read(tmp_path)
    assert [one.id for one in sessions] == ["s2"]
    assert problems == [Problem("x.jsonl", "s1", step, rule, value, True)]


def test_a_damaged_line_or_file_is_told(tmp_path: Path) -> None:
    put(tmp_path / "x.jsonl", SNAPSHOT, CLICK)
    with (tmp_path / "x.jsonl").open("ab") as file:
        file.write(b'\n\n{"session": "s9", \xff')
    (tmp_path / "y.jsonl.zst").write_bytes(b"no zstd")
    sessions, problems, _ = read(tmp_path)
    assert [one.id for one in sessions] == ["s1"]
    assert [(p.file, p.rule, p.quarantined) for p in problems] == [
        ("x.jsonl", "corrupt_json", True),
        ("y.jsonl.zst", "unreadable_file", True),
    ]
    assert problems[0].value.startswith("line 4: ")


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "desk.css").touch()
    with pytest.raises(HandrailError, match=r"no log of pages under .*expected \*\.jsonl, "):
        Reader(tmp_path)


def test_clicks_beside_the_controls_of_a_foreign_page(tmp_path: Path) -> None:
    foreign = {"record": "snapshot", "page": "<button id=go>Go</button><input id=q>", "url": "https://x.example/a?b"}
    beside, typed = {**CLICK, "element": "@9"}, {"record": "event", "event": "change", "element": "@9", "value": "x"}
    put(tmp_path / "x.jsonl", foreign, beside, {**CLICK, "element": "go"})
    [found], problems, reader = read(tmp_path)
    assert [(step.state.screen, step.action) for step in found.steps] == [("x.example/a", Action("click", "go"))]
    assert (problems, reader.counts) == ([], {"ignored_click": 1})
    put(tmp_path / "x.jsonl", foreign, typed)
    sessions, [problem], _ = read(tmp_path)
    assert (sessions, problem.rule) == ([], "unknown_element")
