"""The study of corrections against plain logs: what is hard, intervals by hand, and a tiny run of all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from handrail import cli
from handrail.envs.errors import HandrailError
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import feedback

SMALL = [
    "experiment=feedback",
    "domain=mock",
    "threads=1",
    "seeds=[0,1]",
    "operator.people=2",
    "simulate.sessions=12",
    "simulate.workers=1",
    "policy.hidden_size=32",
    "policy.layers=1",
    "policy.heads=2",
    "policy.vocab_size=500",
    "sft.training.epochs=1",
    "dagger.rounds=2",
    "dagger.sessions=3",
    "~arms.weighted",
    "hard.cases=6",
    "hard.least=1",
    "judge.cases=3",
]
ARMS = ["first", "logs", "copilot"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before, threads = {name: os.environ.get(name) for name in names}, torch.get_num_threads()
    folder = tmp_path_factory.mktemp("feedback") / "run"
    assert cli.main(["run", *SMALL, f"hydra.run.dir={folder}"]) == 0
    torch.set_num_threads(threads)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return RunDirectory.open(folder)


def test_all_arms_are_judged_on_the_same_cases(finished: RunDirectory) -> None:
    frame = pd.read_parquet(finished.file("feedback.parquet"))
    assert len(frame) == 2 * len(ARMS) * len(feedback.SETS) * 3
    first = frame[frame["arm"] == "first"].reset_index(drop=True)
    for arm in ARMS[1:]:
        other = frame[frame["arm"] == arm].reset_index(drop=True)
        for column in ("seed", "set", "case", "kind", "steps"):
            assert (first[column] == other[column]).all(), column
    assert (frame["right"] <= frame["critical"]).all()
    assert (frame["same"] <= frame["steps"]).all()


def test_hard_cases_are_of_the_kinds_that_were_settled_before(finished: RunDirectory) -> None:
    told = json.loads(finished.file(feedback.RESULT).read_text())
    frame = pd.read_parquet(finished.file("feedback.parquet"))
    for seed, kinds in told["hard"].items():
        some = frame[(frame["seed"] == int(seed)) & (frame["set"] == "hard")]
        assert set(some["kind"]) <= set(kinds)


def test_arms_get_as_many_sessions_and_the_control_no_suggestions(finished: RunDirectory) -> None:
    told = json.loads(finished.file(feedback.RESULT).read_text())
    assert told["arms"] == ARMS
    for rounds in zip(*(told["rounds"][arm] for arm in ARMS[1:]), strict=True):
        for logs, copilot in zip(*rounds, strict=True):
            assert logs["sessions"] == copilot["sessions"] == 3
            assert logs["train.sessions"] == copilot["train.sessions"]
            assert logs["corrections"] == 0 < copilot["corrections"]
            assert "accepted_share" not in logs
            assert "accepted_share" in copilot


def test_every_comparison_is_a_metric(finished: RunDirectory) -> None:
    metrics = finished.metrics
    for name in feedback.SETS:
        for measure in feedback.MEASURES:
            key = f"feedback.{name}.copilot.{measure}"
            gap = metrics[key] - metrics[f"feedback.{name}.logs.{measure}"]
            assert metrics[f"{key}.over.logs"] == pytest.approx(gap, abs=1e-12)
            assert metrics[f"{key}.over.logs.ci_low"] <= gap <= metrics[f"{key}.over.logs.ci_high"]
            assert f"{key}.over.first" in metrics


def test_resuming_a_finished_run_changes_nothing(finished: RunDirectory) -> None:
    before = finished.file("metrics.json").read_bytes()
    assert cli.main(["run", f"resume={finished.path}"]) == 0
    assert finished.file("metrics.json").read_bytes() == before


def test_the_name_of_the_first_policy_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert cli.main(["run", *SMALL, "+arms.first={rule: copilot}", f"hydra.run.dir={folder}"]) == 2
    assert "arms.first" in capsys.readouterr().err


def test_the_hardest_kinds_by_hand() -> None:
    success = {
        "a/0": [True] * 8 + [False] * 2,
        "a/1": [False] * 3,
        "b/0": [True] * 5 + [False] * 5,
        "two_issues": [True, False, False, False, False, False],
        "b/1": [False],
    }
    # Of 30 cases, a third is 10: b/1 came up too seldom; a/1 has 3, two_issues 6 more, b/0 the rest.
    assert feedback.hardest(success, share=1 / 3, least=2) == ["a/1", "two_issues", "b/0"]
    assert feedback.hardest(success, share=0.3, least=2) == ["a/1", "two_issues"]
    assert feedback.hardest(success, share=0.01, least=1) == ["a/1"]
    with pytest.raises(HandrailError, match=r"hard\.least=20"):
        feedback.hardest(success, share=0.3, least=20)


def test_kinds_of_case() -> None:
    assert feedback.stratum(["recall"], [2]) == "recall/2"
    assert feedback.stratum(["recall", "limit"], [2, 0]) == "two_issues"


def test_the_interval_over_seeds_is_students() -> None:
    """t(0.975, 2) = 4.302653; the standard error of 1, 2, 3 is 1 / sqrt(3)."""
    half = 4.302653 / np.sqrt(3)
    assert feedback.seed_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-6)
    alone = feedback.seed_interval([0.5])
    assert alone.estimate == 0.5
    assert np.isnan(alone.low)
    assert np.isnan(alone.high)


def test_a_comparison_by_hand() -> None:
    """Two seeds of two cases: accuracies 6/10 and 8/10 against 5/10 and 9/10, successes 1/2 and 2/2 against none."""
    rows = []
    for arm, same, success in (("first", (2, 3, 4, 5), (0, 0, 0, 0)), ("copilot", (3, 3, 3, 5), (1, 0, 1, 1))):
        for place in range(4):
            row = {"seed": place // 2, "arm": arm, "set": "all", "case": place % 2, "success": bool(success[place])}
            rows.append({**row, "violated": False, "steps": 5, "same": same[place], "critical": 2, "right": 1})
    hard = [{**row, "set": "hard"} for row in rows]
    found = feedback.compare(pd.DataFrame(rows + hard), ["first", "copilot"], np.random.default_rng(0))
    assert len(found) == 2 * 4 * 2
    by = {(row["set"], row["measure"], row["arm"]): row for row in found}
    assert by["all", "action_accuracy", "first"]["by_seed"] == [0.5, 0.9]
    assert by["all", "action_accuracy", "copilot"]["by_seed"] == [0.6, 0.8]
    gap = by["all", "action_accuracy", "copilot"]["over"]["first"]
    assert gap["by_seed"] == pytest.approx([0.1, -0.1])
    assert gap["seeds"][0] == pytest.approx(0)
    assert gap["cases"][0] == pytest.approx(0)
    better = by["all", "success_rate", "copilot"]["over"]["first"]
    assert better["by_seed"] == [0.5, 1.0]
    assert better["cases"][0] == 0.75
    assert 0 <= better["cases"][1] <= 0.75 <= better["cases"][2] <= 1
    assert by["hard", "right_critical_rate", "first"]["by_seed"] == [0.5, 0.5]
    metrics = feedback.flat(found)
    assert metrics["feedback.all.copilot.success_rate.over.first"] == 0.75
    assert metrics["feedback.all.first.violation_rate"] == 0
