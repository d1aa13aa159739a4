"""The store: what goes in comes out, and damage is told."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import sessions

from handrail.envs.errors import HandrailError
from handrail.envs.logs.store import SCHEMA, VERSION, SessionWriter, load_sessions, merge, read_sessions
from handrail.envs.schema import (
    Action,
    Constraint,
    Control,
    Feedback,
    Message,
    Provenance,
    Result,
    Session,
    Step,
    UIState,
)

DESK = (
    Control("hello", "template", label="Hello!"),
    Control("book", "form", fields=(Control("size", "number"), Control("area", "select", options=("N",)))),
)


def booking(session_id: str = "7", steps: int = 2) -> Session:
    """A session that uses every column."""
    reply = Action("send_reply", "hello")
    query = Action("submit_form", "book", {"size": 3, "area": Constraint("all_of", [Constraint("is_not", "S"), "N"])})
    made = []
    for index in range(steps):
        action = query if index % 2 else reply
        made.append(
            Step(
                index,
                UIState("desk", "booking", DESK, {"book.size": 2}, {"Name": "Zoë's"} if index else None),
                (Message("customer", "hi 👋", 10.0 * index), Result("book", None, 0, None)),
                action,
                "operator",
                10.0 * index + 5.5,
                True,
                Feedback(reply, "reject", query, (query,), "nlu") if index % 2 else Feedback(reply, "accept"),
                (Message("operator", "draft", None),),
                {"size": Provenance("S.xlsx/Sheet1!A2", "3", 1.0)} if index % 2 else {},
            )
        )
    tail = (Message("system", "closed"),)
    return Session(session_id, "star", "booking", "op1", "be polite", tuple(made), tail, {"a": "b"})


def write(path: Path, *items: Session, **options: int) -> Path:
    with SessionWriter(path, **options) as writer:
        for item in items:
            writer.write(item)
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(items=st.lists(sessions(), max_size=4), row_group=st.integers(1, 8))
def test_round_trip(items: list[Session], row_group: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("store") / "s.parquet", *items, row_group=row_group)
    assert load_sessions(path) == items
    part, joined = path.with_name("part.arrow"), path.with_name("joined.parquet")
    write(part, *items, row_group=row_group)
    merge([part, part], joined)
    assert load_sessions(joined) == items + items


def test_columns_as_other_tools_see_them(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", booking("7", 3), booking("8", 1))
    frame = pd.read_parquet(path)
    assert list(frame.session_id) == ["7", "7", "7", "8"]
    assert list(frame.step) == [0, 1, 2, 0]
    assert list(frame.time) == [5.5, 15.5, 25.5, 5.5]
    assert list(frame.verdict) == ["accept", "reject", "accept", "accept"]
    assert list(frame.session.notna()) == [True, False, False, True]
    assert frame.args[0] == "{}"
    assert frame["values"][0] == '{"book.size":2}'
    assert frame.controls.nunique() == 1
    assert frame.provenance[1] == '{"size":{"source":"S.xlsx/Sheet1!A2","text":"3","time":1.0}}'
    assert list(frame.selected.isna()) == [True, False, False, True]
    where = "json_extract_string(suggestion, '$.source') = 'nlu'"
    rows = duckdb.sql(f"select tool, count(*) from '{path}' where {where} group by tool").fetchall()
    assert rows == [("submit_form", 1)]
    metadata = pq.read_metadata(path)
    assert metadata.metadata[b"handrail.store"] == VERSION.encode()
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}


@pytest.mark.slow
def test_datasets_reads_the_file_as_it_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = write(tmp_path / "s.parquet", booking())
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows["tool"][:] == ["send_reply", "submit_form"]


def test_row_groups_hold_whole_sessions(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", *(booking(str(i), 3) for i in range(10)), row_group=7)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [9, 9, 9, 3]


def test_equal_controls_are_one_object_after_reading(tmp_path: Path) -> None:
    items = [booking("1"), booking("2")]
    path = write(tmp_path / "s.parquet", *items, row_group=1)
    loaded = load_sessions(path)
    assert len({id(step.state.controls) for session in loaded for step in session.steps}) == 1


def test_merging_parts_gives_the_bytes_of_writing_at_once(tmp_path: Path) -> None:
    items = [booking(str(i), 3) for i in range(6)]
    whole = write(tmp_path / "whole.parquet", *items, row_group=6)
    parts = [write(tmp_path / f"{i}.arrow", *items[i : i + 2], row_group=6) for i in (0, 2, 4)]
    merge(parts, tmp_path / "merged.parquet")
    assert (tmp_path / "merged.parquet").read_bytes() == whole.read_bytes()
    parts[1].write_bytes(parts[1].read_bytes()[:-300])
    with pytest.raises(HandrailError, match=r"2\.arrow cannot be read"):
        merge(parts, tmp_path / "merged.parquet")


def test_controls_tuples_of_short_life_do_not_mix(tmp_path: Path) -> None:
    # Tuples made and dropped on the way get the same address again: codes must not be looked up by a dead one's.
    made = []
    with SessionWriter(tmp_path / "s.parquet", row_group=3) as writer:
        for i in range(50):
            step = Step(0, UIState("s", None, (Control(f"c{i}", "button"),)), (), Action("press", f"c{i}"))
            writer.write(Session(str(i), "x", "y", "z", steps=(step,)))
            made.append(f"c{i}")
            del step
    assert [s.steps[0].state.controls[0].id for s in read_sessions(tmp_path / "s.parquet")] == made


def test_loading_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", booking())
    load_sessions(path)
    assert gc.isenabled()
    with pytest.raises(HandrailError):
        load_sessions(tmp_path / "missing.parquet")
    assert gc.isenabled()


def test_same_sessions_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", booking("1"), booking("2"))
    second = write(tmp_path / "b.parquet", booking("1"), booking("2"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Session("1", "s", "i", "o"), "no step"),
        (Session("1", "s", "i", "o", brief="\ud800", steps=booking().steps), "surrogates"),
        (Session("1", "s", "i", "o", hidden={"x": object()}, steps=booking().steps), "object"),
        (
            Session("1", "s", "i", "o", steps=(*booking().steps, Step(2, UIState("\udc00", None), (), Action("a")))),
            "surrogates",
        ),
        (Session("1", "s", "i", "o", steps=(Step(0, UIState("a", None), (), Action(5)),)), "expected text, got int"),
        (Session("1", "s", "i", "o", steps=(Step(0, UIState("a", None), (), Action("a"), critical="yes"),)), "'yes'"),
        (Session("1", "s", "i", "o", steps=(Step("0", UIState("a", None), (), Action("a")),)), "index '0'"),
        (Session("1", "s", "i", "o", steps=(Step(0, UIState("a", None), (), Action("a"), time="9"),)), "time '9'"),
        (Session("1", "s", "i", "o", steps=(Step(0, UIState("a", None), (), Action("a"), actor=None),)), "NoneType"),
    ],
)
def test_what_cannot_be_stored_is_refused_whole(bad: Session, says: str, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with SessionWriter(path) as writer:
        writer.write(booking("before"))
        with pytest.raises(HandrailError, match=says):
            writer.write(bad)
        writer.write(booking("after"))
    assert load_sessions(path) == [booking("before"), booking("after")]
    assert (writer.sessions, writer.steps) == (2, 4)


def test_nothing_appears_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"

    def fail() -> None:
        with SessionWriter(path, row_group=1) as writer:
            writer.write(booking())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _scramble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:400] = os.urandom(396)
    path.write_bytes(bytes(data))


def _other_parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def _old_version(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"handrail.store": b"0"}), path)


def _without_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["screen", "args"]), path)


def _other_type(path: Path) -> None:
    table = pq.read_table(path)
    position = table.column_names.index("step")
    pq.write_table(table.set_column(position, "step", pa.array(["0", "1"])), path)


def _bad_cell(path: Path) -> None:
    table = pq.read_table(path)
    position = table.column_names.index("args")
    pq.write_table(table.set_column(position, SCHEMA.field("args"), pa.array(['{"a":', "{}"])), path)


def _headless(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_cut, "cut off"),
        (_scramble, "damaged"),
        (lambda path: path.write_text("session,step\n"), "no Parquet"),
        (lambda path: path.write_bytes(b""), "no Parquet"),
        (_other_parquet, "no Handrail store"),
        (_old_version, "version 0, expected 1"),
        (_without_column, "lacks the columns args, screen"),
        (_other_type, "column step is string, expected int32"),
        (_bad_cell, "does not fit"),
        (_headless, "begins within a session"),
        (lambda path: path.unlink(), "no file"),
    ],
)
def test_damage_is_told(damage, says: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "s.parquet", booking())
    damage(path)
    with pytest.raises(HandrailError, match=says):
        load_sessions(path)


def test_neither_writing_nor_reading_imports_pandas(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", booking())
    code = f"""
import sys
from handrail.envs.logs.store import SessionWriter, load_sessions
with SessionWriter({str(tmp_path / "t.parquet")!r}) as writer:
    for session in load_sessions({str(path)!r}):
        writer.write(session)
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_memory_does_not_grow_with_the_number_of_sessions(tmp_path: Path) -> None:
    code = """
import resource, sys
from handrail.envs.logs.store import SessionWriter, read_sessions
from handrail.envs.schema import *
def run(path, n):
    with SessionWriter(path, row_group=512) as w:
        for i in range(n):
            steps = tuple(Step(k, UIState("s", None, (Control("x" * 500, "button"),)),
                               (Message("customer", str(i) * 100),), Action("a", "x")) for k in range(10))
            w.write(Session(str(i), "s", "i", "o", steps=steps))
    assert sum(len(s.steps) for s in read_sessions(path)) == n * 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
run(sys.argv[1], 300)
small = run(sys.argv[1], 300)
large = run(sys.argv[1], 3000)
assert large < small + 25, (small, large)  # all 30,000 steps at once take over 60 MB
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.parquet")], check=True, timeout=120)
