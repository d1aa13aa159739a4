"""The embedded default on the small desk: from nothing to a report, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handrail import cli
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import bpm

SMALL = [
    "simulate.sessions=80",
    "simulate.workers=1",
    "policy.hidden_size=32",
    "policy.layers=1",
    "policy.heads=2",
    "policy.vocab_size=600",
    "sft.training.epochs=12",
    "closed_loop.cases=5",
    "rerank=null",  # with a second reader next to nothing is wrong here, and there is nothing for critics to learn
    "threads=1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("bpm") / "run"
    assert cli.main(["run", "experiment=bpm", "domain=mock", f"hydra.run.dir={folder}", *SMALL]) == 0
    return RunDirectory.open(folder)


def test_every_actor_works_the_same_cases(finished: RunDirectory) -> None:
    metrics = finished.metrics
    for actor in ("random", "backoff", "policy", "expert"):
        assert metrics[f"closed_loop.{actor}.sessions"] == 5
    assert metrics["closed_loop.expert.success_rate"] == 1.0
    assert metrics["closed_loop.random.success_rate"] == 0.0
    assert 0 <= metrics["policy.action_accuracy"] <= 1
    assert 0 < metrics["experts.agreement"] <= 1


def test_what_is_kept_can_be_read_again(finished: RunDirectory) -> None:
    told = json.loads(finished.file(bpm.CLOSED_LOOP).read_text())
    assert told["story"]["lines"][0]["who"] == "customer"
    assert "<main" in told["screen"]["page"]
    assert sum(row["sessions"] for row in told["issues"]) == 5
    assert list(finished.file(bpm.LOG).glob("*.jsonl*"))


def test_the_report_tells_of_the_closed_loop(finished: RunDirectory) -> None:
    page = finished.file("report.html").read_text()
    for text in (
        "Working alone",
        "an expert",
        "chance",
        "the assistant",
        "One session",
        "data:image/png",
        "Broke a rule",
    ):
        assert text in page or (text == "data:image/png" and "<iframe" in page)


def test_resuming_a_finished_run_changes_nothing(finished: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = finished.file("metrics.json").read_bytes()
    assert cli.main(["run", "experiment=bpm", "domain=mock", f"resume={finished.path}", *SMALL]) == 0
    assert finished.file("metrics.json").read_bytes() == before
    assert capsys.readouterr().out.splitlines()[-1] == f"run directory: {finished.path}"


def test_a_domain_nobody_knows_is_named_with_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "experiment=bpm", "domain=bnak", f"hydra.run.dir={tmp_path / 'run'}", *SMALL]) == 2
    error = capsys.readouterr().err
    assert "did you mean" in error
    assert "bank" in error
    assert "Traceback" not in error
