"""Methods side by side: statistics by hand on a finished run made for it, and what is asked of a policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from handrail import cli
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import critic_vs_confidence as study

CORRECT = [True, True, False, True, False, False] * 10
PERFECT = [0.9, 0.8, 0.3, 0.7, 0.2, 0.1] * 10
BACKWARDS = [-score for score in PERFECT]
HALF = [0.9, 0.8, 0.85, 0.7, 0.2, 0.1] * 10


def decisions(split: str) -> pd.DataFrame:
    n = len(CORRECT)
    return pd.DataFrame(
        {
            "session_id": [f"{split}{k // 6}" for k in range(n)],
            "step": [k % 6 for k in range(n)],
            "issue": "loss",
            "split": split,
            "tool": "send_reply",
            "critical": True,
            "correct": CORRECT,
            "verdict": ["accept" if right else "reject" for right in CORRECT],
            "score_probe": PERFECT,
            "score_tfidf": HALF,
            "score_margin": BACKWARDS,
            "score_entropy": 0.0,
        }
    )


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    config = {"experiment": {"name": "star", "study": "star"}, "seed": 0, "critic": {"probe": {}, "tfidf": {}}}
    run = RunDirectory.create(tmp_path / "trained", config, ["experiment=star"])
    harmless = decisions("test").assign(critical=False, score_probe=np.nan, score_tfidf=np.nan, score_margin=np.nan)
    parts = [decisions("calibration"), decisions("test"), decisions("feedback"), harmless.assign(score_entropy=np.nan)]
    run.write_decisions(pd.concat(parts))
    return run.path


def command(folder: Path, *more: str) -> list[str]:
    return ["run", "experiment=critic_vs_confidence", "logger=none", f"hydra.run.dir={folder}", *more]


def test_statistics_by_hand(trained: Path, tmp_path: Path) -> None:
    """Three right and three wrong a session: a perfect order, its reverse, and one wrong step above two right ones.

    The thresholds for 95 % are 0.7 for the perfect score and 0.9 for the other, which run a half and a sixth.
    """
    folder = tmp_path / "run"
    assert cli.main(command(folder, f"runs=[{trained}]")) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["star.critic.probe.auroc"] == 1
    assert metrics["star.critic.margin.auroc"] == 0
    assert metrics["star.critic.tfidf.auroc"] == pytest.approx(7 / 9)
    assert metrics["star.critic.probe.coverage_at_precision_95"] == 0.5
    assert metrics["star.critic.tfidf.coverage_at_precision_95"] == pytest.approx(1 / 6)
    assert metrics["star.critic.margin.coverage_at_precision_95"] == 0
    assert metrics["star.critic.margin.auroc.over.probe"] == -1
    # All sessions are alike, so resampling them changes nothing.
    assert metrics["star.critic.tfidf.auroc.over.probe.ci_high"] == pytest.approx(-2 / 9)
    assert metrics["star.critic.probe.isotonic.brier"] == pytest.approx(0, abs=1e-9)
    assert "star.critic.probe.auroc.over.probe" not in metrics
    assert not any("entropy" in key for key in metrics), "it is the same everywhere"
    told = json.loads((folder / study.RESULT).read_text())
    (table,) = told["tables"]
    assert (table["best"], table["steps"], table["sessions"], table["right"]) == ("probe", 60, 10, 0.5)
    assert table["critics"] == ["probe", "tfidf"]
    page = (folder / "report.html").read_text()
    for text in ("Critics and confidence", "probe critic", "Venn–Abers", "reached 100.0"):
        assert text in page


def test_the_best_critic_is_chosen_on_calibration(trained: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(trained / "decisions.parquet")
    later = frame["split"] == "test"
    frame.loc[later, ["score_probe", "score_tfidf"]] = frame.loc[later, ["score_tfidf", "score_probe"]].to_numpy()
    RunDirectory.open(trained).write_decisions(frame)
    folder = tmp_path / "run"
    assert cli.main(command(folder, f"runs=[{trained}]")) == 0
    assert json.loads((folder / study.RESULT).read_text())["tables"][0]["best"] == "probe"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("runs=[]", "runs is empty; expected folders of finished runs"),
        ("runs=[{missing}]", "missing"),
        ("runs=[{empty}]", "has no decisions.parquet; expected a finished run"),
    ],
)
def test_mistakes_are_told(given: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = RunDirectory.create(tmp_path / "empty", {"experiment": {"name": "star"}, "seed": 0}, [])
    text = given.format(missing=tmp_path / "missing", empty=empty.path)
    assert cli.main(command(tmp_path / "run", text)) == 2
    assert message in capsys.readouterr().err


def test_a_policy_is_asked(tmp_path: Path) -> None:
    """Self-consistency of a small run of the simulator, beside what the run has."""
    trained, folder = tmp_path / "bpm", tmp_path / "run"
    small = ["simulate.sessions=90", "simulate.workers=1", "policy.hidden_size=16", "policy.layers=1", "policy.heads=2"]
    more = ["policy.vocab_size=500", "sft.training.epochs=3", "closed_loop.cases=2", "closed_loop.actors=[expert]"]
    critic = ["critic=[probe]", "rerank=null", "threads=1", "logger=none", "baselines=[majority]"]
    chosen = [*small, *more, *critic, f"hydra.run.dir={trained}"]
    assert cli.main(["run", "experiment=bpm", "domain=mock", *chosen]) == 0
    other = f"elicited.ensemble.policies=[{trained / 'checkpoints' / 'policy'}]"
    asked = ["+elicited=[self_consistency,ensemble]", "elicited.self_consistency.samples=2", other]
    assert cli.main(command(folder, f"runs=[{trained}]", *asked)) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["bpm.critic.self_consistency.auroc"] <= 1
    # A policy and itself are of one mind: the mixture orders suggestions as the policy's own log-probability does.
    assert metrics["bpm.critic.ensemble.auroc"] == pytest.approx(metrics["bpm.critic.log_probability.auroc"], abs=0.02)
