"""Searches: what may be searched, what a space means, what is told of trials, and a small real search."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray import tune as ray_tune
from wandb_records import recorded

from handrail import cli
from handrail.envs.errors import HandrailError
from handrail.experiments import tune
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.tune import CURVE, FIGURE, FILE, TABLE, Search, Trial, _number, _report, read_trials

RATE = "tune.space.sft.training.learning_rate"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing to search; give tune.space.KEY=VALUES"),
        ([f"{RATE}=0.1,0.2", "tune.metric=policy.action_accuracy"], "is no metric to search by"),
        ([f"{RATE}=0.1,0.2", "tune.metric=critic.probe.auroc"], "what runs measure on the test split"),
        ([f"{RATE}=0.1,0.2", "tune.metric=sft.validation_los"], "did you mean sft.validation_loss"),
        ([f"{RATE}=0.1,0.2", "tune.trials=0"], "tune.trials=0: expected at least 1"),
        ([f"{RATE}=0.1,0.2", "tune.grace=0"], r"tune.grace=0.0: expected a share in \(0, 1\]"),
        ([f"{RATE}=0.1,0.2", "tune.reduction=1"], "tune.reduction=1.0: expected a number above 1"),
        ([f"{RATE}=0.1,0.2", "tune.trails=3"], "did you mean tune.trials"),
        ([f"{RATE}=0.1,0.2", "ray=off"], "ray=off: a search runs on Ray"),
        ([f"{RATE}=0.1"], "learning_rate=0.1: expected values to draw from"),
        ([f"{RATE}=interval(2,1)"], r"expected interval\(A,B\) with A below B"),
        ([f"{RATE}=tag(log,interval(0,1))"], "above 0 where it is log"),
        ([f"{RATE}=interval(1"], "learning_rate=interval"),
        (["tune.space.sft.training.rate=1,2"], "unknown option 'sft.training.rate'"),
        (["tune.space.sft.training.epochs=interval(-1.0,2.0)"], "epochs=-1.0: expected passes over the data"),
        (["tune.space.policy=tiny,smal"], "unknown policy 'smal'; did you mean small"),
        (["tune.space.policy.heads=2,3"], "policy.heads=3: expected a hidden size that is a multiple"),
        (["experiment=star_sam", f"{RATE}=0.1,0.2"], "has no split `feedback`"),
        (["resume=nowhere"], "holds no search"),
    ],
)
def test_mistakes_are_found_before_any_work(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [] if any("=star_sam" in a for a in argv) else ["experiment=bpm"]
    assert cli.main(["tune", *chosen, *argv]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_space_is_drawn_from_as_it_is_written() -> None:
    argv = [
        "experiment=bpm",
        "seed=3",
        "tune.space.a=tag(log,interval(1e-4,1e-2))",
        "tune.space.b=int(interval(2,4))",
        "tune.space.c=interval(0.5,1.0)",
        "tune.space.d=1,two,'x y'",
        "tune.space.e=range(1,7,2)",
        "tune.judged=5",
    ]
    search = Search.parse(argv)
    assert search.overrides == ("experiment=bpm", "seed=3", "sft.training.watch=5")
    drawn = {key: [domain.sample() for _ in range(400)] for key, domain in search.domains().items()}
    below = sum(value < 1e-3 for value in drawn["a"])
    assert all(1e-4 <= value <= 1e-2 for value in drawn["a"])
    assert 140 <= below <= 260, "half are below the geometric middle; of 400, by chance outside once in 1e8"
    assert set(drawn["b"]) == {2, 3, 4}, "by chance not in 1e70"
    assert all(0.5 <= value <= 1 for value in drawn["c"])
    assert set(drawn["d"]) == {"1", "two", "'x y'"}
    assert set(drawn["e"]) == {"1", "3", "5"}
    assert search.with_values({"a": 0.001, "d": "'x y'"})[-2:] == ["a=0.001", "d='x y'"]
    assert isinstance(search.domains()["d"], ray_tune.search.sample.Categorical)


def test_the_number_of_a_trial_is_in_its_id() -> None:
    assert _number("1ab2c_00003") == 3
    assert _number("_trial_12345_00012_12_sft.x=1,y=2_2026-11-23_13-04-17") == 12


def trial_folder(folder: Path, number: int, curve: dict[int, float], rate: float) -> None:
    (folder / str(number)).mkdir(parents=True)
    content = {"values": {"sft.training.learning_rate": rate}, "curve": curve}
    (folder / str(number) / CURVE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("metric", "order"), [("sft.validation_accuracy", [10, 0, 2, 1, 3]), ("sft.validation_loss", [0, 10, 1, 2, 3])]
)
def test_the_table_has_the_best_that_finished_first(
    tmp_path: Path, metric: str, order: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search.parse(
        ["experiment=bpm", "data.splits={a: 1}", f"{RATE}=interval(0.1,0.9)", f"tune.metric={metric}"]
    )
    trial_folder(tmp_path, 0, {50: 0.75, 100: 0.5}, 0.125)
    trial_folder(tmp_path, 1, {50: 0.25}, 0.25)
    trial_folder(tmp_path, 2, {50: 0.875}, 0.375)
    trial_folder(tmp_path, 3, {}, 0.5)
    trial_folder(tmp_path, 10, {50: 0.25, 100: 0.625}, 0.625)
    (tmp_path / "ray").mkdir()
    trials = read_trials(search, tmp_path, {3: "a crash"})
    assert [trial.number for trial in trials] == order
    statuses = {0: "finished", 1: "stopped", 2: "stopped", 3: "failed", 10: "finished"}
    assert {trial.number: trial.status for trial in trials} == statuses
    assert math.isnan(next(trial for trial in trials if trial.number == 3).last)
    _report(search, tmp_path, trials)
    with (tmp_path / TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == order
    best = rows[0]
    assert best == {
        "trial": str(order[0]),
        "status": "finished",
        "percent": "100",
        metric: "0.625" if order[0] else "0.5",
        "sft.training.learning_rate": "0.625" if order[0] else "0.125",
    }
    assert (tmp_path / FIGURE).read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"search directory: {tmp_path}"
    rate = best["sft.training.learning_rate"]
    assert out[-2] == (
        f"the best, whole: handrail run experiment=bpm 'data.splits={{a: 1}}' sft.training.learning_rate={rate}"
    )


def test_a_search_without_a_finished_trial_names_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search.parse(["experiment=bpm", f"{RATE}=interval(0.1,0.9)"])
    _report(search, tmp_path, [Trial(0, {"sft.training.learning_rate": 0.5}, "failed", {})])
    assert "the best" not in capsys.readouterr().out


SMALL = [
    "experiment=bpm",
    "domain=mock",
    "simulate.sessions=80",
    "simulate.workers=1",
    "data.splits={train: 0.7, feedback: 0.1, calibration: 0.1, test: 0.1}",
    "policy.hidden_size=16",
    "policy.layers=1",
    "policy.heads=2",
    "policy.vocab_size=500",
    "sft.training.epochs=4",
    "critic=[probe]",
    "threads=1",
    "tune.metric=sft.validation_loss",
    f"{RATE}=tag(log,interval(1e-5,2e-2))",
    "tune.trials=4",
    "tune.judged=4",
]


@pytest.mark.slow
def test_a_killed_search_goes_on_and_tells_what_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four learning rates between far too low and good, ASHA may stop some; a kill loses no trial that had ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    command = [sys.executable, "-c", "import sys; from handrail import cli; sys.exit(cli.main(sys.argv[1:]))", "tune"]
    search = subprocess.Popen(
        [*command, *SMALL, "tune.dir=found"], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    assert search.stderr is not None
    for line in search.stderr:
        if line.startswith("trial ") and "100 %" in line:
            break
    os.killpg(search.pid, signal.SIGKILL)
    search.wait()
    time.sleep(5)  # Workers notice that the driver is gone.
    folder = tmp_path / "found"
    before = {path.parent: path.read_text() for path in folder.glob("[0-9]/provenance.json")}
    ended = {path: text for path, text in before.items() if "finished" in json.loads(text)}
    assert ended
    assert len(before) <= 4

    assert cli.main(["tune", "resume=found"]) == 0
    runs = [RunDirectory.open(folder / str(number)) for number in range(4)]
    for path, text in ended.items():
        assert (path / "provenance.json").read_text() == text, "what had ended was not done again"
    rows = list(csv.DictReader((folder / TABLE).open()))
    assert sorted(int(row["trial"]) for row in rows) == list(range(4))
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    losses = [float(row["sft.validation_loss"]) for row in rows if row["status"] == "finished"]
    assert losses == sorted(losses)
    for run in runs:
        assert set(run.metrics) == {"sft.validation_loss", "tune.percent"}, "no trial was evaluated"
        assert not run.file("decisions.parquet").exists()
        assert not run.file("checkpoints").exists()
    best = runs[int(rows[0]["trial"])]
    assert best.metrics["tune.percent"] == 100
    told: Any = recorded(best.path)
    assert told.run.run_group == "found"
    assert told.curve("sft/validation_loss", "sft/step")
    assert json.loads((folder / FILE).read_text())["argv"] == [*SMALL, "tune.dir=found"]
    with pytest.raises(HandrailError, match=r"leave tune\.trials=9 out"):
        tune.main(["resume=found", "tune.trials=9"])
