"""The reader of low-level UI events: what becomes of each kind of row, and that all rows add up."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.envs.errors import HandrailError
from handrail.envs.logs.readers.ui_events import COLUMNS, Reader
from handrail.envs.logs.validate import Validator
from handrail.envs.schema import Action, Problem, Provenance, Result, Session

NEW = "https://forms.example/desk/New?x=1"
THANKS = "https://forms.example/desk/New/thankyou"


def at(second: float) -> str:
    return f"2020-01-01T00:00:{second:06.3f}Z"


def cell(second: float, where: str, value: str) -> dict[str, str]:
    about = {"user": "ann", "workbook": "S.xlsx", "sheet": "T"}
    return {"time": at(second), "event": "getCell", **about, "id": where, "value": value}


def copy(second: float, content: str, **more: str) -> dict[str, str]:
    return {"time": at(second), "event": "copy", "content": content, **more}


def field(second: float, event: str, name: str, value: str = "", content: str = "", **more: str) -> dict[str, str]:
    about = {"user": "ann", "url": NEW, "type": "text", "name": name, "value": value, "content": content}
    return {"time": at(second), "event": event, **about, **more}


def submit(second: float) -> dict[str, str]:
    return {"time": at(second), "user": "ann", "event": "clickButton", "url": NEW, "type": "submit", "text": "Submit"}


def link(second: float, url: str = THANKS, href: str = "/desk/New") -> dict[str, str]:
    return {"time": at(second), "user": "ann", "event": "clickLink", "url": url, "text": "Another", "href": href}


def log(path: Path, rows: list[dict[str, str]], columns: dict[str, str] | None = None) -> Path:
    heads = columns or {k: str(v) for k, v in COLUMNS.items()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(heads.values()))
        writer.writeheader()
        writer.writerows({heads[k]: v for k, v in row.items()} for row in rows)
    return path


def read(path: Path, **options: Any) -> tuple[Reader, list[Session], list[Problem]]:
    reader = Reader(path, **options)
    items = [item for unit in reader.units() for item in reader.read(unit)]
    return reader, [i for i in items if isinstance(i, Session)], [i for i in items if isinstance(i, Problem)]


def rows_counted(reader: Reader) -> int:
    return sum(count for name, count in reader.counts.items() if name.startswith("row_"))


RECORD = [
    cell(1, "A2", "Ann"),
    copy(2, "Ann"),
    field(3, "clickTextField", "First"),
    field(4, "paste", "First", content="Ann"),
    field(5, "editField", "First", "ann"),
    submit(6),
]


def test_one_record(tmp_path: Path) -> None:
    reader, [session], problems = read(log(tmp_path / "log.csv", RECORD))
    assert problems == []
    assert (session.id, session.issue, session.operator, session.file) == ("log-00001", "New", "ann", "log.csv")
    assert session.tags == {"completion": "submitted"}
    read_cell, set_field, submitted = session.steps
    assert read_cell.action == Action("select_cell", "S.xlsx/T", {"cell": "A2"})
    assert set_field.action == Action("set_field", "First", {"value": "ann"})
    assert set_field.events == (Result("S.xlsx/T", {"cell": "A2", "value": "Ann"}, None, set_field.time - 4),)
    assert set_field.provenance == {"value": Provenance("S.xlsx/T!A2", "Ann", set_field.time - 3)}
    assert submitted.action == Action("submit_form", "New", {"First": "ann"})
    assert [s.critical for s in session.steps] == [False, False, True]
    assert [s.time - session.steps[0].time for s in session.steps] == [0.0, 4.0, 5.0]
    assert dict(reader.counts) == {
        "reordered": 0,
        "row_select_cell": 1,
        "row_set_field": 1,
        "row_edit_merged": 0,
        "row_paste_merged": 1,
        "row_focus_merged": 1,
        "row_submit_form": 1,
        "row_copy_pasted": 1,
        "row_copy_never_pasted": 0,
    }


def test_a_state_shows_only_what_was_known_before_its_action(tmp_path: Path) -> None:
    second = [
        link(10),
        cell(11, "A3", "Bob"),
        field(12, "editField", "First", "bob"),
        field(13, "editField", "Last", "B"),
        submit(14),
        link(15),
        cell(16, "A4", ""),
    ]
    _, sessions, _ = read(log(tmp_path / "log.csv", RECORD + second))
    shown = [
        [(s.action.tool, [c.id for c in s.state.controls], dict(s.state.values)) for s in session.steps]
        for session in sessions
    ]
    assert shown[0] == [
        ("select_cell", [], {}),
        ("set_field", ["S.xlsx/T"], {}),
        ("submit_form", ["S.xlsx/T", "First"], {"First": "ann"}),
    ]
    assert shown[1] == [
        # Where a submission leads is not known before it was seen once.
        ("navigate", ["S.xlsx/T", "First", "New"], {}),
        ("select_cell", ["S.xlsx/T", "First", "New"], {}),
        ("set_field", ["S.xlsx/T", "First", "New"], {}),
        ("set_field", ["S.xlsx/T", "First", "New"], {"First": "bob"}),
        ("submit_form", ["S.xlsx/T", "First", "Last", "New"], {"First": "bob", "Last": "B"}),
    ]
    assert shown[2] == [
        ("navigate", ["S.xlsx/T", "Another"], {}),
        ("select_cell", ["S.xlsx/T", "First", "Last", "New"], {}),
    ]
    form = sessions[2].steps[1].state.controls[-1]
    assert [f.id for f in form.fields] == ["First", "Last"]
    assert [s.state.screen for s in sessions[1].steps] == ["forms.example/desk/New"] * 2 + ["S.xlsx/T"] + [
        "forms.example/desk/New"
    ] * 2
    assert [s.state.screen for s in sessions[2].steps] == ["forms.example/desk/New/thankyou", "forms.example/desk/New"]
    assert sessions[1].steps[2].state.selected == {"cell": "A3", "value": "Bob"}
    assert sessions[2].tags == {"completion": "end_of_log"}


def test_nothing_later_in_the_log_changes_an_earlier_step(tmp_path: Path, ui_log: Path) -> None:
    lines = ui_log.read_text(encoding="utf-8").splitlines(keepends=True)
    # Embedded line breaks: cut only where a row begins.
    starts = [i for i, line in enumerate(lines) if line.startswith('"2019-')]
    _, whole, _ = read(ui_log)
    for rows in (60, 300, 700):
        (tmp_path / "StudentRecord.csv").write_text("".join(lines[: starts[rows]]), encoding="utf-8")
        _, cut, _ = read(tmp_path / "StudentRecord.csv")
        # Late rows (the spreadsheet's) can still be missing from the last session of the cut.
        assert len(cut) > 1
        assert cut[:-1] == whole[: len(cut) - 1]


def test_late_rows_are_put_in_order(tmp_path: Path) -> None:
    straight = read(log(tmp_path / "log.csv", RECORD))[1]
    reader, shuffled, _ = read(log(tmp_path / "log.csv", [*RECORD[1:], RECORD[0]]))
    assert shuffled == straight
    assert reader.counts["reordered"] == 1


def test_repeated_edits_of_one_field_collapse(tmp_path: Path) -> None:
    rows = [
        field(1, "clickTextField", "First"),
        field(2, "editField", "First", "a"),
        copy(3, "zzz"),
        field(4, "editField", "First", "ab"),
        field(5, "editField", "Last", "c"),
        field(6, "editField", "First", "abc"),
    ]
    reader, [session], _ = read(log(tmp_path / "log.csv", rows))
    assert [s.action for s in session.steps] == [
        Action("set_field", "First", {"value": "ab"}),
        Action("set_field", "Last", {"value": "c"}),
        Action("set_field", "First", {"value": "abc"}),
    ]
    assert reader.counts["row_edit_merged"] == 1
    assert reader.counts["row_copy_never_pasted"] == 1
    assert rows_counted(reader) == 6


def test_an_undone_paste_is_no_action_and_no_provenance(tmp_path: Path) -> None:
    rows = [
        copy(1, "Ann"),
        field(2, "clickTextField", "Last"),
        field(3, "paste", "Last", content="Ann"),
        field(4, "clickTextField", "First"),
        field(5, "editField", "First", "typed"),
    ]
    reader, [session], _ = read(log(tmp_path / "log.csv", rows))
    assert [s.action.target for s in session.steps] == ["First"]
    assert session.steps[0].provenance == {}
    assert {k: v for k, v in reader.counts.items() if v} == {
        "row_paste_undone": 1,
        "row_focus_without_edit": 1,
        "row_set_field": 1,
        "row_focus_merged": 1,
        "row_copy_never_pasted": 1,
    }


@pytest.mark.parametrize(
    ("before", "pasted", "source"),
    [
        ([cell(1, "A2", "Ann"), copy(2, "Ann")], "Ann", "S.xlsx/T!A2"),
        ([cell(1, "A2", "Ann\u00a0Lee"), copy(2, "Ann Lee")], "Ann\u00a0Lee", "S.xlsx/T!A2"),
        ([cell(1, "A2", "Ann Lee"), copy(2, "Lee")], "Lee", "S.xlsx/T!A2"),
        ([cell(0, "A1", "Ann"), cell(1, "A2", "Bob"), copy(2, "Ann")], "Ann", "S.xlsx/T!A1"),
        ([cell(1, "A2", "Ann"), copy(2, "Ann"), copy(3, "")], "Ann", "S.xlsx/T!A2"),
        ([copy(2, "Ann", url=NEW, name="Last", user="ann")], "Ann", "forms.example/desk/New#Last"),
        ([copy(2, "from a mail")], "from a mail", ""),
        ([], "copied before the log began", ""),
    ],
)
def test_provenance(before: list[dict[str, str]], pasted: str, source: str, tmp_path: Path) -> None:
    rows = [*before, field(4, "paste", "First", content=pasted), field(5, "editField", "First", "changed")]
    _, [session], _ = read(log(tmp_path / "log.csv", rows))
    assert session.steps[-1].provenance["value"].source == source


def test_checkbox_button_and_leaving_the_page(tmp_path: Path) -> None:
    box = {"type": "checkbox", "id": "agree", "checked": "true"}
    rows = [
        field(1, "clickCheckbox", "Agree", "on", **box),
        field(2, "editField", "Agree", "on", **box),
        {**submit(3), "type": "button", "id": "help", "text": "Help"},
        link(4, NEW, "https://other.example/a/"),
        field(5, "editField", "Q", "x", url="https://other.example/a"),
    ]
    _, [first, second], _ = read(log(tmp_path / "log.csv", rows))
    assert first.steps[0].action == Action("set_field", "agree", {"value": True})
    assert first.steps[1].action == Action("press_button", "help")
    assert [(c.id, c.kind) for c in first.steps[1].state.controls] == [("agree", "checkbox")]
    assert first.tags == {"completion": "left"}
    assert [s.action.tool for s in second.steps] == ["navigate", "set_field"]
    assert second.issue == "a"


def test_a_session_that_only_reads(tmp_path: Path) -> None:
    _, [session], _ = read(log(tmp_path / "log.csv", [cell(1, "A1", "x")]))
    assert session.issue == "spreadsheet"
    assert session.tail == (Result("S.xlsx/T", {"cell": "A1", "value": "x"}, None, session.steps[0].time),)


def test_users_are_kept_apart(tmp_path: Path) -> None:
    theirs = [{**row, "time": row["time"].replace("00:00:", "00:01:")} for row in RECORD]
    for row in theirs:
        if "user" in row:
            row["user"] = "bob"
    _, sessions, _ = read(log(tmp_path / "log.csv", RECORD + theirs))
    assert [(s.id, s.operator) for s in sessions] == [("log-ann-00001", "ann"), ("log-bob-00001", "bob")]
    assert all(s.steps[1].provenance["value"].source == "S.xlsx/T!A2" for s in sessions)


def test_bad_rows_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = log(
        tmp_path / "log.csv",
        [
            {"time": "yesterday", "event": "getCell", "id": "A1"},
            {"time": at(1), "event": "dance", "id": "A1"},
            {"time": at(1), "event": "editField", "url": NEW},
            *RECORD,
        ],
    )
    with path.open("a") as file:
        file.write("short,row\n")
    reader, [session], problems = read(path)
    assert [(p.rule, p.step, p.quarantined) for p in problems] == [
        ("row_without_time", 0, False),
        ("row_unknown_event", 1, False),
        ("row_without_target", 2, False),
        ("row_malformed", 9, False),
    ]
    assert len(session.steps) == 3
    assert rows_counted(reader) + len(problems) == 10


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "missing_key"),
        (b"timestamp,eventType\n1,2\n", "missing_key"),
        (b"\xff\xfe\x00", "unreadable_file"),
    ],
)
def test_bad_files_are_told(content: bytes, rule: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    _, sessions, [problem] = read(tmp_path)
    assert sessions == []
    assert (problem.rule, problem.quarantined, problem.file) == (rule, True, "log.csv")


def test_other_names_by_option(tmp_path: Path) -> None:
    columns = {**{k: str(v) for k, v in COLUMNS.items()}, "time": "when", "event": "what"}
    rows = [{**row, "event": row["event"].upper()} for row in RECORD]
    path = log(tmp_path / "log.csv", rows, columns)
    events = {
        "read_cell": ["GETCELL"],
        "copy": ["COPY"],
        "focus": ["CLICKTEXTFIELD"],
        "paste": ["PASTE"],
        "edit": ["EDITFIELD"],
        "press": ["CLICKBUTTON"],
    }
    _, renamed, _ = read(path, columns={"time": "when", "event": "what"}, events=events)
    _, plain, _ = read(log(tmp_path / "log.csv", RECORD))
    assert renamed == plain


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="no UI event log"):
        Reader(tmp_path)
    path = log(tmp_path / "log.csv", RECORD)
    with pytest.raises(HandrailError, match=r"columns has no entry 'tyme'; did you mean .*time"):
        Reader(path, columns={"tyme": "x"})
    with pytest.raises(HandrailError, match="events has no entry 'edits'; did you mean edit"):
        Reader(path, events={"edits": ["x"]})


FOCUS = ["clickTextField", "clickCheckbox"]
EVENTS = ["getCell", "copy", *FOCUS, "paste", "editField", "clickButton", "clickLink", "dance"]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_log_adds_up_and_is_valid(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "time": st.integers(0, 20).map(at),
                    "event": st.sampled_from(EVENTS),
                    "user": st.sampled_from(["", "ann", "bob"]),
                    "url": st.sampled_from([NEW, THANKS, ""]),
                    "id": st.sampled_from(["", "A1", "First", "Last"]),
                    "type": st.sampled_from(["text", "submit", "checkbox", ""]),
                    "content": st.sampled_from(["", "Ann", "Bob"]),
                    "value": st.sampled_from(["", "Ann", "Ann Lee"]),
                    "href": st.sampled_from(["", "/desk/New"]),
                }
            ),
            max_size=25,
        )
    )
    reader, sessions, problems = read(log(tmp_path_factory.mktemp("log") / "log.csv", rows))
    assert rows_counted(reader) + len(problems) == len(rows)
    assert all(count >= 0 for count in reader.counts.values())
    validator = Validator()
    assert {p.rule for s in sessions for p in validator.check(s)} <= {"target_not_on_screen", "unknown_field"}


@pytest.fixture
def ui_log(ui_logs_root: Path) -> Path:
    return ui_logs_root / "StudentRecord.csv"


def test_student_record(ui_log: Path) -> None:
    reader, sessions, problems = read(ui_log)
    assert problems == []
    # 2,409 rows, of which 354 getCell, 364 copy, 556 clicks on fields and 40 on boxes, 504 pastes, 542 edits, 50, 49.
    counts = reader.counts
    assert rows_counted(reader) == 2409
    assert counts["row_select_cell"] == 354
    assert counts["row_copy_pasted"] + counts["row_copy_never_pasted"] + counts["row_copy_of_nothing"] == 357 + 7
    assert counts["row_focus_merged"] + counts["row_focus_without_edit"] == 506 + 40
    assert counts["row_paste_merged"] + counts["row_paste_undone"] == 504
    assert counts["row_set_field"] + counts["row_edit_merged"] == 502 + 40
    assert (counts["row_submit_form"], counts["row_navigate"]) == (50, 49)
    assert len(sessions) == 50
    assert {s.tags["completion"] for s in sessions} == {"submitted"}
    tools = Counter(step.action.tool for s in sessions for step in s.steps)
    assert tools == {"set_field": 541, "select_cell": 354, "submit_form": 50, "navigate": 49}
    # Each submission holds what the log says was typed last, e.g. that of the second record.
    assert sessions[1].steps[-1].action.args["Date-date"] == "11-04-1986"
    assert sessions[1].steps[-1].action.args["DecisionBox"] is True
    # The date was reformatted after pasting; its origin is kept.
    dates = [s for s in sessions[1].steps if s.action.target == "Date-date"]
    assert [(s.provenance["value"].source, s.provenance["value"].text) for s in dates] == [
        ("StudentRecords.xlsx/Sheet1!C3", "11/04/1986")
    ]
    pasted = [p for s in sessions for step in s.steps for p in step.provenance.values()]
    assert all(p.source.startswith("StudentRecords.xlsx/Sheet1!") for p in pasted)
    validator = Validator()
    found = [p for s in sessions for p in validator.check(s)]
    # One for the first use of each: sheet, ten fields, form, link.
    assert Counter(p.rule for p in found) == {"target_not_on_screen": 13}
    assert {p.session for p in found} == {"StudentRecord-00001", "StudentRecord-00002"}
