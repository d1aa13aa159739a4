"""Runs on Weights & Biases: what is recorded offline, read back, and what happens where it cannot be."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from toys import colour_sessions, tiny_policy
from wandb_records import recorded

from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.progress import Progress, tell
from handrail.algorithms.sft import fine_tune
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.settings import LoggerConfig
from handrail.experiments.sweep import Sweep
from handrail.experiments.tracking import FIGURE, group_of, tracked


@pytest.fixture(autouse=True)
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording is on, and its own folders are the test's; there is no account."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))


def config(mode: str, **options: Any) -> DictConfig:
    return OmegaConf.create({"experiment": {"name": "toy"}, "seed": 3, "logger": {"mode": mode, **options}})


def new_run(path: Path, cfg: DictConfig) -> RunDirectory:
    return RunDirectory.create(path, cfg, [])


def measured(run: RunDirectory) -> None:
    """Leave what a study leaves of one method: twenty steps, of which the surest ten are right."""
    import pandas as pd

    run.write_metrics({"critic.probe.auroc": 0.75, "policy.steps": 20})
    run.write_decisions(
        pd.DataFrame(
            {
                "session_id": [f"s{n // 2}" for n in range(20)],
                "step": [n % 2 for n in range(20)],
                "issue": "one",
                "split": "test",
                "tool": "send_reply",
                "critical": True,
                "correct": [n < 10 for n in range(20)],
                "verdict": ["accept" if n < 10 else "reject" for n in range(20)],
                "score_probe": [1 - n / 20 for n in range(20)],
            }
        )
    )
    run.file("certificates.json").write_text(json.dumps({"deployed": {"critic": "probe"}, "critic": {"probe": {}}}))
    run.file("report.html").write_text("<html></html>")


def test_a_finished_run_is_recorded_offline_as_its_directory_has_it(tmp_path: Path) -> None:
    cfg = config("offline", project="desk", entity=None)
    run = new_run(tmp_path / "toy" / "now", cfg)
    with tracked(cfg, run):
        tell(Progress("sft", 20, 0.5, {"loss": 2.5}))
        tell(Progress("critic", 10, 1.0, {"loss": 0.5}))
        tell(Progress("sft", 40, 1.0, {"loss": 1.5}))
        measured(run)
    found = recorded(run.path)
    assert (found.run.project, found.run.run_group, found.run.job_type) == ("desk", "toy", "toy")
    assert found.run.display_name == "toy/now"
    told = {item.key: json.loads(item.value_json) for item in found.run.config.update}
    assert (told["seed"], told["experiment"]) == (3, {"name": "toy"})
    assert found.curve("sft/loss", "sft/step") == {20: 2.5, 40: 1.5}
    assert found.curve("critic/loss", "critic/step") == {10: 0.5}
    assert {key: found.summary[key] for key in run.metrics} == run.metrics
    [picture] = [row[f"{FIGURE}.path"] for row in found.history if f"{FIGURE}.path" in row]
    [file] = run.path.glob(f"wandb/offline-run-*/files/{picture}")
    assert file.read_bytes().startswith(b"\x89PNG")
    [artifact] = found.artifacts
    assert artifact.type == "report"
    assert [entry.local_path for entry in artifact.manifest.contents] == [str(run.file("report.html"))]
    assert found.exit_code == 0


def test_curves_are_those_of_training(tmp_path: Path) -> None:
    cfg = config("offline")
    run = new_run(tmp_path / "run", cfg)
    sessions = colour_sessions(0, 20)
    training = TrainingConfig(epochs=12, token_budget=200, save_steps=0, bf16=False, watch=2)
    with tracked(cfg, run):
        fine_tune(tiny_policy(sessions), sessions, SFTConfig(training), tmp_path / "sft", 0, colour_sessions(1, 5))
    found = recorded(run.path)
    loss = found.curve("sft/loss", "sft/step")
    assert list(loss) == [20, 40]
    assert loss[40] < loss[20]
    assert list(found.curve("sft/validation_accuracy", "sft/step")) == [24, 48]


@pytest.mark.parametrize("error", [RuntimeError("a crash"), KeyboardInterrupt()])
def test_a_run_that_fails_is_recorded_as_failed(tmp_path: Path, error: BaseException) -> None:
    cfg = config("offline")
    run = new_run(tmp_path / "run", cfg)
    run.write_metrics({"first": 1})
    with pytest.raises(type(error)), tracked(cfg, run):
        raise error
    found = recorded(run.path)
    assert (found.exit_code, found.summary["first"], found.artifacts) == (1, 1, [])


def test_a_run_that_goes_on_keeps_its_id(tmp_path: Path) -> None:
    cfg = config("offline")
    run = new_run(tmp_path / "run", cfg)
    ids = set()
    for _ in range(2):
        with tracked(cfg, run):
            pass
        ids.add(recorded(run.path).run.run_id)
    assert len(ids) == 1
    other = new_run(tmp_path / "other", cfg)
    with tracked(cfg, other):
        pass
    assert recorded(other.path).run.run_id not in ids


def test_runs_of_a_sweep_are_a_group(tmp_path: Path) -> None:
    folder = tmp_path / "2026-01-31_12-00-00_sweep"
    Sweep.start(folder, []).write()
    run = new_run(folder / "0", config("offline"))
    assert group_of(LoggerConfig(), run, "toy") == folder.name
    assert group_of(LoggerConfig(group="mine"), run, "toy") == "mine"
    assert group_of(LoggerConfig(), new_run(tmp_path / "toy" / "0", config("offline")), "toy") == "toy"


@pytest.mark.parametrize(("mode", "variable"), [("none", None), ("offline", "disabled")])
def test_nothing_is_recorded_and_nothing_loaded_where_it_is_off(
    tmp_path: Path, mode: str, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setitem(sys.modules, "wandb", None)
    cfg = config(mode)
    run = new_run(tmp_path / "run", cfg)
    with tracked(cfg, run):
        tell(Progress("sft", 1, 1.0, {"loss": 1.0}))
    assert not run.file("wandb").exists()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "handrail"]


@pytest.mark.parametrize("broken", ["absent", "start", "log", "finish"])
def test_a_tracker_that_fails_is_one_line_and_the_run_goes_on(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if broken == "absent":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        import wandb

        class Session:
            id = "x"
            summary: dict[str, float] = {}

            def define_metric(self, *names: str, **options: str) -> None: ...

            def log(self, values: dict[str, float]) -> None:
                if broken == "log":
                    raise OSError("no space left on device")

            def finish(self, exit_code: int) -> None:
                if broken == "finish":
                    raise wandb.Error("no answer\nfrom the service")

        def init(**options: Any) -> Session:
            if broken == "start":
                raise wandb.Error("no answer")
            return Session()

        monkeypatch.setattr(wandb, "init", init)
    cfg = config("offline")
    run = new_run(tmp_path / "run", cfg)
    with caplog.at_level(logging.WARNING), tracked(cfg, run):
        for step in (1, 2):
            tell(Progress("sft", step, step / 2, {"loss": 1.0}))
        run.write_metrics({"first": 1})
    [line] = warnings(caplog)
    assert line.startswith("Weights & Biases could not ")
    assert "\n" not in line
    assert run.metrics == {"first": 1}


def test_without_an_account_online_becomes_offline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("online")
    run = new_run(tmp_path / "run", cfg)
    with caplog.at_level(logging.WARNING), tracked(cfg, run):
        run.write_metrics({"first": 1})
    assert recorded(run.path).summary["first"] == 1
    [line] = warnings(caplog)
    assert "recorded offline, `wandb sync` sends it later: no account" in line


@pytest.mark.slow
def test_without_a_network_online_becomes_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # Nobody answers there.
    cfg = config("online")
    run = new_run(tmp_path / "run", cfg)
    with caplog.at_level(logging.WARNING), tracked(cfg, run):
        run.write_metrics({"first": 1})
    assert recorded(run.path).summary["first"] == 1
    [line] = warnings(caplog)
    assert "recorded offline" in line
