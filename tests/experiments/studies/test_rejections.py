"""The taxonomy of rejections: tables by hand, and the whole study on the small desk with an untrained policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from handrail import cli
from handrail.envs.errors import HandrailError
from handrail.experiments.report.rejections import section
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies.rejections import critic_metrics, deployed, taxonomy_metrics

CAUSES = ["", "", "model_error", "model_error", "acceptable", "environment", "other", "rubber_stamp"]


def table(split: str = "test") -> pd.DataFrame:
    """Eight suggestions of four sessions; `good` scores by the truth, `blind` not at all."""
    right = np.array([cause not in ("model_error", "rubber_stamp") for cause in CAUSES])
    verdict = ["accept" if cause in ("", "rubber_stamp") else "reject" for cause in CAUSES]
    return pd.DataFrame(
        {
            "session_id": list("aabbccdd"),
            "split": split,
            "cause": CAUSES,
            "verdict": verdict,
            "correct": [one == "accept" for one in verdict],
            "right": right,
            "score_good": np.where(right, 0.9, 0.1) + 0.01 * np.arange(8),
            "score_blind": 0.5,
        }
    )


def test_shares_of_causes_by_hand() -> None:
    """Five of eight were rejected; two of the five for errors of the model."""
    found = taxonomy_metrics(table(), np.random.default_rng(0))
    assert found["rejections.count"] == 5
    assert found["rejections.suggestions"] == 8
    assert found["rejections.rate"] == pytest.approx(5 / 8)
    assert found["rejections.wrong_rate"] == pytest.approx(3 / 8)
    assert found["rejections.model_error.share"] == pytest.approx(2 / 5)
    for cause in ("acceptable", "environment", "other"):
        assert found[f"rejections.{cause}.share"] == pytest.approx(1 / 5)
        assert found[f"rejections.{cause}.share.ci_low"] <= 1 / 5 <= found[f"rejections.{cause}.share.ci_high"]
    assert found["rejections.rubber_stamp.count"] == 1


def test_what_each_critic_catches_by_hand() -> None:
    found = critic_metrics(table(), {"good": 0.5, "blind": 0.5}, np.random.default_rng(0))
    # `good` holds back the three wrong ones, `blind` runs everything.
    assert found["critic_truth.good.auroc"] == 1.0
    assert found["critic_truth.good.precision"] == 1.0
    assert found["critic_truth.good.coverage"] == pytest.approx(5 / 8)
    assert found["critic_feedback.good.precision"] == pytest.approx(2 / 5)
    assert found["critic_truth.blind.auroc"] == 0.5
    assert found["critic_truth.blind.precision"] == pytest.approx(5 / 8)
    assert found["critic_feedback.blind.precision"] == pytest.approx(3 / 8)
    # Against the verdicts: accepted at 0.90, 0.91 and 0.17 (the stamp), rejected at 0.12, 0.13, 0.94, 0.95, 0.96.
    assert found["critic_feedback.good.auroc"] == pytest.approx((2 + 2 + 2) / 15)
    for cause, good in (("model_error", 1), ("rubber_stamp", 1), ("acceptable", 0), ("environment", 0), ("other", 0)):
        assert found[f"rejections.{cause}.caught.good"] == good
        assert found[f"rejections.{cause}.caught.blind"] == 0


def test_thresholds_let_the_same_share_run() -> None:
    frame = pd.concat([table("calibration"), table("test").assign(score_good=7.0)])
    # The top five of eight score 0.90, 0.91, 0.94, 0.95 and 0.96; blind gives all one score, so none may run.
    assert deployed(frame, 0.7) == {"good": pytest.approx(0.9), "blind": float("inf")}
    assert deployed(frame, 0.5)["good"] == pytest.approx(0.91)
    assert deployed(frame, 0.01)["good"] == float("inf")


TINY = [
    "domain=mock",
    "simulate.sessions=150",
    "simulate.workers=1",
    "policy.hidden_size=32",
    "policy.layers=1",
    "policy.heads=2",
    "policy.vocab_size=600",
    "sft.training.epochs=3",
]
SMALL = ["copilot.sessions=60", "critic.probe.folds=2", "critic.robust.folds=2", "critic=[probe,robust]", "threads=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained its own policy."""
    folder = tmp_path_factory.mktemp("source") / "run"
    assert cli.main(["run", "experiment=rejections", f"hydra.run.dir={folder}", *TINY, *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with the policy of another."""
    folder = tmp_path_factory.mktemp("rejections") / "run"
    assert cli.main(["run", "experiment=rejections", f"run={source}", f"hydra.run.dir={folder}", *SMALL]) == 0
    return RunDirectory.open(folder)


def test_the_policy_of_a_run_does_what_it_did_there(source: Path, finished: RunDirectory) -> None:
    """Same policy, people and cases: the same sessions, and the same metrics but for what training adds."""
    own = RunDirectory.open(source).metrics
    assert finished.metrics == {key: value for key, value in own.items() if key in finished.metrics}
    assert finished.metrics["rejections.suggestions"] > 50


def test_a_run_says_why_and_what_is_caught(finished: RunDirectory) -> None:
    metrics = finished.metrics
    shares = [metrics[f"rejections.{cause}.share"] for cause in ("model_error", "acceptable", "environment", "other")]
    assert sum(shares) == pytest.approx(1)
    frame = pd.read_parquet(finished.file("rejections.parquet"))
    assert set(frame["split"]) == {"learn", "calibration", "test"}
    assert frame.loc[frame["split"] == "learn", "score_probe"].isna().all()
    assert frame.loc[frame["split"] != "learn", "score_robust"].between(0, 1).all()
    assert (frame["correct"] == frame["cause"].isin(["", "rubber_stamp"])).all()
    for method in ("probe", "robust"):
        for prefix in ("critic_feedback", "critic_truth"):
            assert 0 <= metrics[f"{prefix}.{method}.auroc"] <= 1
        assert 0 <= metrics[f"rejections.model_error.caught.{method}"] <= 1


def test_the_section_tells_the_table(finished: RunDirectory, tmp_path: Path) -> None:
    page = section(finished.path, str.upper)
    assert page is not None
    for words in ("wrong suggestion", "43.2 %", "ROBUST", "Operator did", "mock"):
        assert words in page
    assert section(tmp_path, str.upper) is None
    (tmp_path / "rejections.json").write_text("{}")
    with pytest.raises(HandrailError, match="damaged"):
        section(tmp_path, str.upper)


def test_resuming_a_finished_run_changes_nothing(finished: RunDirectory, source: Path) -> None:
    before = {name: finished.file(name).read_bytes() for name in ("metrics.json", "rejections.json")}
    assert cli.main(["run", "experiment=rejections", f"resume={finished.path}", f"run={source}"]) == 0
    timings = json.loads(finished.file("summary.json").read_text())["timings"]
    assert set(timings) == {"copilot", "critic", "score"}
    assert {name: finished.file(name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["copilot.learn=0.9"], "leave sessions to test on"),
        (["coverage=1.0"], "coverage=1.0"),
        (["run=nowhere"], "nowhere is not a run directory"),
    ],
)
def test_mistakes_are_told(
    overrides: list[str], words: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "experiment=rejections", f"run={source}", f"hydra.run.dir={tmp_path / 'run'}", *overrides]
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_run_without_a_policy_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = RunDirectory.create(tmp_path / "other", {"experiment": {"name": "star"}, "seed": 0}, [])
    arguments = ["run", "experiment=rejections", f"run={other.path}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert cli.main(arguments) == 2
    assert "expected a finished run of experiment=bpm" in capsys.readouterr().err
