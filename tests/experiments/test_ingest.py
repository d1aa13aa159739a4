"""`handrail ingest` as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from handrail.envs.errors import HandrailError
from handrail.envs.logs.ingest import load_report
from handrail.envs.logs.store import load_sessions
from handrail.experiments.ingest import main

LOG = """\
timeStamp,userID,eventType,url,content,target.workbookName,target.sheetName,target.id,target.type,target.name,\
target.value,target.innerText,target.checked,target.href
2020-01-01T00:00:01Z,ann,editField,https://x.example/New,,,,,text,First,Ann,,,
2020-01-01T00:00:02Z,ann,clickButton,https://x.example/New,,,,,submit,,,Submit,,
2020-01-01T00:00:03Z,ann,dance,https://x.example/New,,,,,,,,,,
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "ui_logs"
    folder.mkdir()
    (folder / "log.csv").write_text(LOG)
    return folder


def test_store_report_and_progress(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.parquet"
    assert main(["source=ui_events", f"path={log}", f"out={out}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "1 sessions kept (2 steps), 0 quarantined"
    assert printed.out.splitlines()[-2:] == [f"store: {out}", f"validation report: {tmp_path / 'out.validation.json'}"]
    assert "row_unknown_event" in printed.out
    assert "1/1" in printed.err
    assert [s.id for s in load_sessions(out)] == ["log-00001"]
    assert load_report(out).rules == {"row_unknown_event": 1, "target_not_on_screen": 2}


def test_path_from_the_environment(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDRAIL_DATA", str(tmp_path))
    assert main(["source=ui_events", f"out={tmp_path / 'out.parquet'}"]) == 0
    monkeypatch.delenv("HANDRAIL_DATA")
    with pytest.raises(HandrailError, match="path=… is missing"):
        main(["source=ui_events", f"out={tmp_path / 'out.parquet'}"])


def test_options_of_the_source(log: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    arguments = ["source=ui_events", f"path={log}", f"out={tmp_path / 'out.parquet'}", f"config={config}"]
    config.write_text("options: {events: {press: [clickButton, dance]}}")
    assert main(arguments) == 0
    assert load_report(tmp_path / "out.parquet").rules == {"row_without_target": 1, "target_not_on_screen": 2}
    for content, says in [
        ("options: 5", "expected a mapping"),
        ("[1, 2]", "expected a mapping"),
        ("options: {event: {}}", "no option 'event'; did you mean events"),
        ("options: {", "config="),
        ("options: ${nowhere}", "config="),
    ]:
        config.write_text(content)
        with pytest.raises(HandrailError, match=says):
            main(arguments)
    config.unlink()
    with pytest.raises(HandrailError, match=r"mine\.yaml"):
        main(arguments)


def test_mistakes_exit_with_2_and_a_hint(log: Path, tmp_path: Path) -> None:
    code = "import sys; from handrail.cli import main; sys.exit(main(sys.argv[1:]))"

    def call(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, "ingest", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stderr

    out = f"out={tmp_path / 'o.parquet'}"
    for arguments, says in [
        (["source=ui_event", f"path={log}", out], "did you mean ui_events"),
        (["source=ui_events", f"path={tmp_path / 'ui_log'}", out], "did you mean ui_logs"),
        (["source=ui_events", f"pth={log}", out], "did you mean path"),
        (["source=star", f"path={log}", out], "no STAR dialogues"),
        (["source=ui_events", f"path={log}"], "out=… is missing"),
    ]:
        status, error = call(*arguments)
        assert (status, "Traceback" in error) == (2, False)
        assert says in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ui_logs"]


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from handrail.experiments.ingest import main
try:
    main(["--help"])
finally:
    heavy = {"pyarrow", "torch", "pandas", "tqdm", "omegaconf"} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "source=" in done.stdout
