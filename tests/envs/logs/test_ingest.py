"""Ingestion: streaming, resumable, and every problem told once."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handrail.envs.errors import HandrailError
from handrail.envs.logs import ingest as module
from handrail.envs.logs.ingest import ingest, load_report, open_source, report_path
from handrail.envs.logs.store import load_sessions
from handrail.envs.schema import Action, Control, Message, Problem, Session, Step, UIState

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _fake_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(module, "READERS", "fake_readers")


def made(number: int, **changes: Any) -> Session:
    controls = (Control("hello", "template", label="Hello"),)
    state, reply = UIState("desk", None, controls), Action("send_reply", "hello")
    steps = tuple(
        Step(i, state, (Message("customer", f"hi {number}", 10.0 * i),), reply, time=10.0 * i + 5) for i in range(3)
    )
    session = Session(f"s{number:03d}", "lines", "greeting", "op", steps=steps, file=f"{number:03d}.json")
    return msgspec.structs.replace(session, **changes)


def put(folder: Path, number: int, session: Session) -> None:
    (folder / f"{number:03d}.json").write_bytes(msgspec.json.encode(session))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(20):
        put(folder, number, made(number))
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_sessions_and_report(logs: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = ingest("lines", logs, tmp_path / "new" / "out.parquet", progress=lambda *c: calls.append(c), block=7)
    assert load_sessions(tmp_path / "new" / "out.parquet") == [made(number) for number in range(20)]
    assert (report.kept, report.steps, report.quarantined, report.rules) == (20, 60, 0, {})
    assert report.handled == {"files_read": 20}
    assert calls == [(n, 20) for n in range(1, 21)]
    assert names(tmp_path / "new") == {"out.parquet", "out.validation.json"}
    assert load_report(tmp_path / "new" / "out.parquet") == report


def _text(old: str, new: str) -> Any:
    def change(folder: Path) -> None:
        file = folder / "005.json"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


FAULTS = {
    "corrupt_json": lambda folder: (folder / "005.json").write_bytes(b'{"id": "s005", '),
    "corrupt_json (empty)": lambda folder: (folder / "005.json").write_bytes(b""),
    "corrupt_json (not UTF-8)": lambda folder: (folder / "005.json").write_bytes(b'{"id": "\xff"}'),
    "wrong_type": _text('"index":1', '"index":"one"'),
    "wrong_type (list)": lambda folder: (folder / "005.json").write_bytes(b"[]"),
    "missing_key": _text('"issue":"greeting",', ""),
    "time_backwards": _text('"time":25.0', '"time":3.0'),
    "duplicate_id": _text('"id":"s005"', '"id":"s004"'),
    "step_index": _text('"index":2', '"index":3'),
    "empty_id": _text('"id":"s005"', '"id":""'),
    "no_steps": lambda folder: put(folder, 5, made(5, steps=())),
    "not_storable": lambda folder: (folder / "005.json").write_bytes(b"surrogate"),
    "reader_failed": lambda folder: (folder / "005.json").write_bytes(b"raise"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line_and_one_quarantined_session(fault: str, logs: Path, tmp_path: Path) -> None:
    FAULTS[fault](logs)
    out = tmp_path / "out.parquet"
    report = ingest("lines", logs, out)
    assert (report.kept, report.quarantined, report.rules) == (19, 1, {fault.split()[0]: 1})
    assert [s.id for s in load_sessions(out)] == [f"s{n:03d}" for n in range(20) if n != 5]
    [problem] = load_report(out).problems
    assert problem.rule == fault.split()[0]
    assert problem.quarantined
    assert problem.value or fault == "corrupt_json (empty)"


def test_a_reported_problem_keeps_the_session(logs: Path, tmp_path: Path) -> None:
    _text('"target":"hello"', '"target":"bye"')(logs)
    report = ingest("lines", logs, tmp_path / "out.parquet")
    assert (report.kept, report.quarantined, report.rules) == (20, 0, {"target_not_on_screen": 1})


def test_a_session_with_two_problems_is_quarantined_once(logs: Path, tmp_path: Path) -> None:
    put(logs, 5, made(4, issue=""))
    report = ingest("lines", logs, tmp_path / "out.parquet")
    assert (report.kept, report.quarantined, report.rules) == (19, 1, {"duplicate_id": 1, "empty_id": 1})


def test_duplicates_are_found_across_blocks_and_resumed_runs(logs: Path, tmp_path: Path) -> None:
    put(logs, 19, made(0))
    whole = ingest("lines", logs, tmp_path / "whole.parquet", block=4)
    assert whole.rules == {"duplicate_id": 1}
    killed(logs, tmp_path / "out.parquet", "unit:013")
    assert ingest("lines", logs, tmp_path / "out.parquet", block=4) == whole


def last_first(work: Callable[[int], None], numbers: Sequence[int]) -> Iterator[int]:
    """Do the last block first and each of them twice, each by a copy of the work."""
    for number in reversed(numbers):
        pickle.loads(pickle.dumps(work))(number)
        work(number)
        yield number


def test_blocks_read_apart_give_the_same_bytes(logs: Path, tmp_path: Path) -> None:
    """In blocks of four, 17 repeats a session of block 0, 18 one of its own block, 6 is damaged."""
    put(logs, 17, made(2))
    put(logs, 18, made(16))
    (logs / "006.json").write_text("{")
    whole, out = tmp_path / "a" / "out.parquet", tmp_path / "b" / "out.parquet"
    expected = ingest("lines", logs, whole, block=4)
    assert expected.rules == {"corrupt_json": 1, "duplicate_id": 2}
    calls: list[int] = []
    report = ingest("lines", logs, out, progress=lambda done, _: calls.append(done), block=4, spread=last_first)
    assert report == expected
    assert calls == [4, 8, 12, 16, 20]
    assert out.read_bytes() == whole.read_bytes()
    assert report_path(out).read_bytes() == report_path(whole).read_bytes()
    assert names(out.parent) == {"out.parquet", "out.validation.json"}


def test_an_ingest_apart_goes_on_with_blocks_that_are_there(logs: Path, tmp_path: Path) -> None:
    """What was read apart and not yet compared with earlier blocks is compared by the run that goes on."""
    put(logs, 17, made(2))
    whole, out = tmp_path / "a" / "out.parquet", tmp_path / "b" / "out.parquet"
    expected = ingest("lines", logs, whole, block=4)

    def stops(work: Callable[[int], None], numbers: Sequence[int]) -> Iterator[int]:
        yield from itertools.islice(last_first(work, numbers), 3)
        raise HandrailError("the cluster is gone")

    with pytest.raises(HandrailError, match="the cluster is gone"):
        ingest("lines", logs, out, block=4, spread=stops)
    asked: list[int] = []

    def told(work: Callable[[int], None], numbers: Sequence[int]) -> Iterator[int]:
        asked.extend(numbers)
        return last_first(work, numbers)

    assert ingest("lines", logs, out, block=4, spread=told) == expected
    assert asked == [0, 1]
    assert out.read_bytes() == whole.read_bytes()


CODE = """
import os, signal, sys
from pathlib import Path
from handrail.envs.logs import ingest as module
module.READERS = "fake_readers"
point, _, value = os.environ["POINT"].partition(":")
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
if point == "unit":
    os.environ["KILL_AT"] = value
if point == "before_report":
    finish = module._Parts.finish
    module._Parts.finish = lambda self, n, block: die() if n == int(value) else finish(self, n, block)
if point == "half_a_report":
    finish = module._Parts.finish
    def half(self, n, block):
        if n == int(value):
            self._report(n).write_bytes(b'{"report":{"kept":')
            die()
        finish(self, n, block)
    module._Parts.finish = half
if point == "merge":
    module.merge = die
if point == "publish":
    replace = os.replace
    def once(source, target):
        replace(source, target)
        if str(target).endswith(value):
            die()
    os.replace = once
module.ingest("lines", sys.argv[1], sys.argv[2], block=4)
"""


def killed(logs: Path, out: Path, point: str) -> None:
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(logs), str(out)],
        env={**os.environ, "POINT": point, "PYTHONPATH": path},
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    ("point", "blocks_done"),
    [
        ("unit:000", 0),
        ("unit:004", 1),
        ("unit:010", 2),
        ("unit:019", 4),
        ("before_report:2", 2),
        ("half_a_report:1", 1),
        ("merge", 5),
        ("publish:validation.json", 5),
        ("publish:out.parquet", 5),
    ],
)
def test_killed_and_resumed_gives_the_same_bytes(point: str, blocks_done: int, logs: Path, tmp_path: Path) -> None:
    FAULTS["corrupt_json"](logs)
    put(logs, 17, made(2))
    whole, out = tmp_path / "a" / "out.parquet", tmp_path / "b" / "out.parquet"
    expected = ingest("lines", logs, whole, block=4)
    assert expected.rules == {"corrupt_json": 1, "duplicate_id": 1}
    killed(logs, out, point)
    assert out.exists() == (point == "publish:out.parquet")
    calls: list[int] = []
    assert ingest("lines", logs, out, progress=lambda done, _: calls.append(done), block=4) == expected
    # Finished blocks are told at once, the others file by file.
    assert calls == [4 * (n + 1) for n in range(blocks_done)] + list(range(4 * blocks_done + 1, 21))
    assert out.read_bytes() == whole.read_bytes()
    assert report_path(out).read_bytes() == report_path(whole).read_bytes()
    assert names(out.parent) == {"out.parquet", "out.validation.json"}


def _touch(logs: Path) -> None:
    put(logs, 1, made(1, brief="changed"))


def _add(logs: Path) -> None:
    put(logs, 20, made(20))


@pytest.mark.parametrize(("change", "says"), [(_touch, "other files"), (_add, "other files")])
def test_parts_of_other_files_are_discarded(
    change: Any, says: str, logs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(logs, tmp_path / "out.parquet", "unit:010")
    change(logs)
    with caplog.at_level(logging.WARNING):
        ingest("lines", logs, tmp_path / "out.parquet", block=4)
    assert says in caplog.text
    assert load_sessions(tmp_path / "out.parquet") == [
        msgspec.json.decode(file.read_bytes(), type=Session) for file in sorted(logs.glob("*.json"))
    ]


def test_parts_of_another_path_option_or_block_are_discarded(
    logs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.parquet"
    other = tmp_path / "other"
    shutil.copytree(logs, other)
    killed(logs, out, "unit:010")
    with caplog.at_level(logging.WARNING):
        ingest("lines", other, out, {"kill": "never"}, block=5)
    assert "other path, options, files, block" in caplog.text


def test_a_folder_that_is_not_ours_is_left_alone(logs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "thesis.tex").write_text("the only copy")
    with pytest.raises(HandrailError, match="not from an ingest"):
        ingest("lines", logs, tmp_path / "out.parquet")
    assert names(folder) == {"thesis.tex"}


def test_nothing_to_read_gives_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    report = ingest("lines", tmp_path / "logs", tmp_path / "out.parquet")
    assert (report.kept, report.quarantined) == (0, 0)
    assert load_sessions(tmp_path / "out.parquet") == []
    assert load_report(tmp_path / "out.parquet").problems == []


def test_report_is_json_with_meanings(logs: Path, tmp_path: Path) -> None:
    FAULTS["step_index"](logs)
    ingest("lines", logs, tmp_path / "out.parquet")
    content = json.loads(report_path(tmp_path / "out.parquet").read_text())
    assert content["source"] == "lines"
    assert content["rules"] == {"step_index": {"count": 1, "meaning": "step indices do not count up from 0"}}
    assert content["problems"] == [
        {
            "file": "005.json",
            "session": "s005",
            "step": 2,
            "rule": "step_index",
            "value": "index 3 at position 2",
            "quarantined": True,
        }
    ]


def test_mistakes_name_the_nearest(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="did you mean lines"):
        ingest("line", logs, tmp_path / "out.parquet")
    with pytest.raises(HandrailError, match=r"no option 'kil'; did you mean kill"):
        ingest("lines", logs, tmp_path / "out.parquet", {"kil": 1})
    with pytest.raises(HandrailError, match=r"there is no .*logz \(in .*did you mean logs"):
        ingest("lines", tmp_path / "logz", tmp_path / "out.parquet")
    with pytest.raises(HandrailError, match="is a folder; name a file"):
        ingest("lines", logs, tmp_path)
    with pytest.raises(HandrailError, match="is no folder"):
        ingest("lines", logs / "001.json", tmp_path / "out.parquet")
    (tmp_path / "file").touch()
    with pytest.raises(HandrailError, match="cannot write beside out="):
        ingest("lines", logs, tmp_path / "file" / "out.parquet")
    assert names(tmp_path) == {"logs", "file"}


def test_missing_or_wrong_reports_are_told(tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="no validation report"):
        load_report(tmp_path / "out.parquet")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(HandrailError, match="is no validation report"):
        load_report(tmp_path / "x.json")


@pytest.mark.parametrize(("out", "report"), [("a.parquet", "a.validation.json"), ("a", "a.validation.json")])
def test_report_path(out: str, report: str) -> None:
    assert report_path(out) == Path(report)


def test_star_faults_are_one_line_each(star_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READERS", "handrail.envs.logs.readers")
    folder = tmp_path / "dialogues"
    folder.mkdir()
    files = sorted((star_root / "dialogues").glob("*.json"), key=lambda p: int(p.stem))
    rich = [f for f in files if sum(e["Action"] == "pick_suggestion" for e in json.loads(f.read_bytes())["Events"]) > 3]
    for file in rich[:8]:
        shutil.copy(file, folder / file.name)
        (folder / file.name).chmod(0o644)
    clean = ingest("star", folder, tmp_path / "clean.parquet", {"catalog": str(star_root)})
    assert clean.kept == 8

    def edit(file: Path, change: Any) -> None:
        content = json.loads(file.read_bytes())
        change(content)
        file.write_text(json.dumps(content))

    def late(content: dict[str, Any]) -> None:
        timed = [e for e in content["Events"] if e.get("UnixTime") and e["Agent"] != "UserGuide"]
        timed[0]["UnixTime"] = timed[-1]["UnixTime"] + 3600

    places = [folder / file.name for file in rich[:8]]
    places[0].write_bytes(places[0].read_bytes()[:500])
    edit(places[1], lambda c: c.update(Events=5))
    edit(places[2], lambda c: c.pop("Scenario"))
    edit(places[3], late)
    edit(places[4], lambda c: c.update(DialogueID=json.loads(places[5].read_bytes())["DialogueID"]))
    report = ingest("star", folder, tmp_path / "faulty.parquet", {"catalog": str(star_root)})
    assert (report.kept, report.quarantined) == (3, 5)
    quarantining = [p.rule for p in load_report(tmp_path / "faulty.parquet").problems if p.quarantined]
    assert sorted(quarantining) == ["corrupt_json", "duplicate_id", "missing_key", "time_backwards", "wrong_type"]


def test_every_reader_keeps_its_contract(monkeypatch: pytest.MonkeyPatch, star_root: Path, tmp_path: Path) -> None:
    from handrail.envs import registry
    from handrail.envs.logs.html_log import write_html_log

    monkeypatch.setattr(module, "READERS", "handrail.envs.logs.readers")
    step = Step(0, UIState("desk", None, (Control("ok", "button"),)), (), Action("click", "ok"))
    write_html_log([Session("s", "html", "fine", "ann", steps=(step,))], tmp_path / "log")
    for name in registry.names(module.READERS):
        reader = open_source(name, tmp_path / "log" if name == "html" else star_root.parent)
        assert reader.name == name
        units = reader.units()
        assert units == reader.units()
        items = list(reader.read(units[0]))
        assert items
        assert all(isinstance(item, Session | Problem) for item in items)
        assert all(item.source == name for item in items if isinstance(item, Session))
