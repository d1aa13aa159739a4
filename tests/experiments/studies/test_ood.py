"""Scores of strangeness on a small desk: every shift is judged, nothing is trained twice, and mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handrail import cli
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import ood

SMALL = [
    "domain=mock",
    "simulate.sessions=30",
    "simulate.judged=6",
    "shifts=[renamed,reordered]",
    "severities=[0.5,1.0]",
    "policies.simulator.policy.hidden_size=16",
    "policies.simulator.policy.layers=1",
    "policies.simulator.policy.heads=2",
    "policies.simulator.policy.vocab_size=400",
    "policies.simulator.sft.training.epochs=4",
    "logger=none",
    "threads=1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("ood") / "run"
    assert cli.main(["run", "experiment=ood", *SMALL, "star.task=null", f"hydra.run.dir={folder}"]) == 0
    return RunDirectory.open(folder)


def test_every_shift_and_severity_is_judged_by_every_score(finished: RunDirectory) -> None:
    told = json.loads(finished.file(ood.RESULT).read_text())
    rows = told["simulator"]["rows"]
    expected = [("renamed", 0.5), ("renamed", 1.0), ("reordered", 0.5), ("reordered", 1.0)]
    assert [(row["shift"], row["severity"]) for row in rows] == expected
    for row in rows:
        for name in told["scores"]:
            value, low, high = row["session_auroc"][name]
            assert 0 <= low <= value <= high <= 1
    metrics = finished.metrics
    assert metrics["ood.reordered.50.energy.auroc"] == rows[2]["auroc"]["energy"][0]
    assert metrics["ood.renamed.100.knn.session_auroc.ci_low"] == rows[1]["session_auroc"]["knn"][1]


def test_a_desk_with_other_names_is_strange(finished: RunDirectory) -> None:
    """Everything is called otherwise: what is read looks like nothing that was learned."""
    assert finished.metrics["ood.renamed.100.relative_mahalanobis.session_auroc"] > 0.9


def test_the_report_shows_the_map(finished: RunDirectory) -> None:
    page = finished.file("report.html").read_text()
    for text in ("Has the desk changed?", "relative Mahalanobis", "names changed", "order changed", "<svg"):
        assert text in page


def test_a_finished_run_trains_nothing_again(finished: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from handrail.algorithms import sft

    before = finished.metrics
    monkeypatch.setattr(sft, "fine_tune", lambda *_: pytest.fail("trained again"))
    assert cli.main(["run", "experiment=ood", f"resume={finished.path}"]) == 0
    assert RunDirectory.open(finished.path).metrics == before


def test_a_task_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], star_root: Path) -> None:
    options = ["shifts=[renamed]", "severities=[1.0]", "star.task=hotel_buch", f"data.path={star_root}"]
    folder = tmp_path / "run"
    assert cli.main(["run", "experiment=ood", *SMALL, *options, f"hydra.run.dir={folder}"]) == 2
    assert "star.task=hotel_buch: no session has this task" in capsys.readouterr().err
