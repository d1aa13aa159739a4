"""Imitation and reinforcement learning on the small desk, from nothing to a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from handrail import cli
from handrail.algorithms.rl.learners import ppo
from handrail.experiments.rundir import RunDirectory

SMALL = [
    "simulate.sessions=60",
    "simulate.workers=1",
    "closed_loop.cases=6",
    "baselines=[backoff]",
    "algorithm.bc.epochs=6",
    "algorithm.ppo.iterations=1",
    "algorithm.ppo.batch=200",
    "algorithm.ppo.minibatch=100",
    "algorithm.ppo.envs=2",
    "logger=none",
    "threads=1",
]


@pytest.mark.slow
def test_learners_are_measured_on_the_same_steps_and_cases(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli.main(["run", "experiment=rl_baselines", "domain=mock", f"hydra.run.dir={folder}", *SMALL]) == 0
    finished = RunDirectory.open(folder)
    metrics = finished.metrics
    for name in ("backoff", "bc", "marwil", "ppo"):
        assert metrics[f"closed_loop.{name}.sessions"] == 6
        low, value, high = (metrics[f"agreement.{name}{end}"] for end in (".ci_low", "", ".ci_high"))
        assert 0 <= low <= value <= high <= 1
    gap = metrics["closed_loop.ppo.success_rate"] - metrics["closed_loop.bc.success_rate"]
    assert metrics["closed_loop.ppo.success_over.bc"] == pytest.approx(gap)
    page = finished.file("report.html").read_text(encoding="utf-8")
    assert "MARWIL" in page
    assert "Working alone" not in page, "one table is enough"


@pytest.mark.slow
def test_a_run_that_stopped_while_it_practised_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    call = ["run", "experiment=rl_baselines", "domain=mock", *SMALL]
    assert cli.main([*call, f"hydra.run.dir={whole}"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(ppo, "learn", stop)
        assert cli.main([*call, f"hydra.run.dir={broken}"]) == 130
    assert cli.main(["run", "experiment=rl_baselines", f"resume={broken}"]) == 0
    assert RunDirectory.open(broken).metrics == RunDirectory.open(whole).metrics


@pytest.mark.slow
def test_a_language_policy_works_beside_if_it_has_not_seen_the_held_out_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["domain=mock", "logger=none", "threads=1", "simulate.sessions=60", "simulate.workers=1"]
    few = ["closed_loop.cases=6", "baselines=[backoff]", "sft.training.epochs=0.1", "rerank=null"]
    for seed in (0, 1):
        folder = f"hydra.run.dir={tmp_path / str(seed)}"
        few_more = [*few, "critic=[]", "closed_loop.actors=[policy]", f"seed={seed}"]
        assert cli.main(["run", "experiment=bpm", *small, *few_more, folder]) == 0
    call = ["run", "experiment=rl_baselines", "domain=mock", *SMALL, "algorithm=[bc]"]
    call = [one for one in call if ".ppo." not in one]
    capsys.readouterr()
    assert cli.main([*call, f"policy_run={tmp_path / '0'}", f"hydra.run.dir={tmp_path / 'same'}"]) == 2
    assert "sessions that are held out here; give a run with another seed" in capsys.readouterr().err
    assert cli.main([*call, f"policy_run={tmp_path / '1'}", f"hydra.run.dir={tmp_path / 'other'}"]) == 0
    metrics = RunDirectory.open(tmp_path / "other").metrics
    assert 0 <= metrics["agreement.policy"] <= 1
    assert metrics["closed_loop.policy.sessions"] == 6
