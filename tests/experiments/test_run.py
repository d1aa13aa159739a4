"""`handrail run` on a small study of the test's own: directories, resuming, messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from handrail import cli
from handrail.experiments import run as command
from handrail.experiments import studies
from handrail.experiments.rundir import RunDirectory

EXPERIMENT = """\
# @package _global_
experiment: {name: probe}
sft: {lr: 0.1, layers: 2}
fail: none
"""

STUDY = """\
from handrail.envs.errors import HandrailError

ERRORS = {"mistake": HandrailError("a mistake"), "crash": RuntimeError("a crash"), "interrupt": KeyboardInterrupt()}

def run(cfg, run):
    run.log.info("layers %d", cfg.sft.layers)
    run.log.info("threads %s, ray %s with %d", cfg.threads, cfg.ray.address, cfg.ray.workers)
    if not run.done("count"):
        run.write_metrics({"runs": run.metrics.get("runs", 0) + 1, "seed": cfg.seed})
        run.mark("count")
    if cfg.fail in ERRORS and not run.file("mended").exists():
        raise ERRORS[cfg.fail]
    run.write_metrics({"finished": 1})
"""

Handrail = Callable[..., int]


@pytest.fixture
def handrail_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handrail:
    """`handrail run` in a folder of its own, with the experiment `probe`."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "probe.yaml").write_text(EXPERIMENT)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "probe.py").write_text(STUDY)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path / "studies")])
    monkeypatch.delitem(__import__("sys").modules, "handrail.experiments.studies.probe", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> int:
        flags = [] if any(a.startswith("resume=") for a in argv) else ["-cd", "conf"]
        return cli.main(["run", *argv, *flags])

    return call


def the_run(tmp_path: Path) -> RunDirectory:
    (path,) = (tmp_path / "outputs" / "probe").iterdir()
    return RunDirectory.open(path)


def test_a_run_leaves_its_directory_and_names_it_last(
    handrail_run: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handrail_run("experiment=probe", "seed=5", "sft.lr=0.5") == 0
    run = the_run(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"run directory: {run.path}"
    assert run.metrics == {"runs": 1, "seed": 5, "finished": 1}
    assert (run.config.sft.lr, run.config.sft.layers, run.config.seed) == (0.5, 2, 5)
    assert run.provenance["choices"] == {
        "experiment": "probe",
        "logger": "wandb_offline",
        "ray": "base",
        "data": "base",
    }
    assert run.provenance["seed"] == 5
    assert "layers 2" in run.file("log.txt").read_text()
    assert "finished" in run.provenance


@pytest.mark.parametrize(("fail", "status"), [("mistake", 2), ("crash", 1), ("interrupt", 130)])
def test_a_run_that_stopped_goes_on_where_it_was(
    handrail_run: Handrail, tmp_path: Path, fail: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handrail_run("experiment=probe", f"fail={fail}") == status
    run = the_run(tmp_path)
    captured = capsys.readouterr()
    assert f"go on with: handrail run experiment=probe resume={run.path}" in captured.err
    assert ("Traceback" in captured.err) == (fail == "crash")
    assert captured.out == ""
    assert run.metrics == {"runs": 1, "seed": 0}
    assert "finished" not in run.provenance

    run.file("mended").touch()
    assert handrail_run("experiment=probe", f"resume={run.path}") == 0
    assert run.metrics == {"runs": 1, "seed": 0, "finished": 1}
    assert len(run.provenance["continued"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"run directory: {run.path}"


@pytest.mark.parametrize(
    "repeated", ["seed=0", "sft.lr=0.1", "experiment.name=probe", "logger=wandb_offline", "resume=null"]
)
def test_resuming_accepts_overrides_that_repeat_the_run(handrail_run: Handrail, tmp_path: Path, repeated: str) -> None:
    assert handrail_run("experiment=probe") == 0
    assert handrail_run(f"resume={the_run(tmp_path).path}", repeated) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "was started with seed=0, now seed=3"),
        ("experiment=other", "was started with experiment=probe, now experiment=other"),
        ("logger=none", "was started with logger=wandb_offline, now logger=none"),
        ("sft.layers=3", "was started with sft.layers=2, now sft.layers=3"),
        ("sft.layer=3", "unknown option 'sft.layer'; did you mean sft.layers"),
        ("ray.worker=3", "unknown option 'ray.worker'; did you mean ray.workers"),
        ("ray.workers=0", "ray.workers=0: expected at least 1"),
        ("ray=locl", "unknown ray 'locl'; did you mean local"),
        ("ray=null", "ray=null: expected the name of an option of ray"),
        ("threads=many", "threads='many': expected a whole number"),
        ("--multirun", "leave --multirun out"),
    ],
)
def test_resuming_refuses_overrides_that_contradict_the_run(
    handrail_run: Handrail, tmp_path: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handrail_run("experiment=probe") == 0
    before = the_run(tmp_path).provenance
    assert handrail_run(f"resume={the_run(tmp_path).path}", override) == 2
    assert message in capsys.readouterr().err
    assert the_run(tmp_path).provenance == before


def test_a_run_may_go_on_elsewhere(handrail_run: Handrail, tmp_path: Path) -> None:
    assert handrail_run("experiment=probe", "ray.workers=5", "fail=mistake") == 2
    run = the_run(tmp_path)
    run.file("mended").touch()
    before = run.file("config.yaml").read_text()
    for overrides, placed in [
        ([], "threads None, ray None with 5"),
        (["threads=2", "ray.workers=3"], "threads 2, ray None with 3"),
        (["ray=local"], "threads None, ray local with 2"),
        (["ray=127.0.0.1:6379", "ray.workers=7"], "threads None, ray 127.0.0.1:6379 with 7"),
    ]:
        assert handrail_run(f"resume={run.path}", *overrides) == 0
        assert run.file("log.txt").read_text().splitlines()[-1].endswith(placed)
    assert run.file("config.yaml").read_text() == before
    assert run.provenance["continued"][1]["argv"][-2:] == ["threads=2", "ray.workers=3"]


def test_resuming_what_is_no_run(handrail_run: Handrail, capsys: pytest.CaptureFixture[str]) -> None:
    assert handrail_run("resume=nowhere") == 2
    assert "nowhere is not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["experiment=prob"], "unknown experiment 'prob'; did you mean probe"),
        (["experiment=probe", "sed=1"], "unknown option 'sed'; did you mean seed"),
        (["experiment=probe", "data.pth=d"], "unknown option 'data.pth'; did you mean data.path"),
        (["experiment=probe", "logger=wandb_ofline"], "unknown logger 'wandb_ofline'; did you mean wandb_offline"),
        (["experimnt=probe"], "unknown option 'experimnt'; did you mean experiment"),
        (["seed=1"], "no experiment is named"),
        (["probe"], "expected key=value, got 'probe'"),
        (["experiment=probe", "seed=[1"], "got 'seed=[1'"),
        (["experiment=probe", "logger=3"], "logger=3: expected the name of an option of logger"),
        (["experiment=probe", "ray=null"], "ray=null: expected the name of an option of ray"),
        (["experiment=bpm", "seed=1", "domain=0.5"], "domain=0.5: expected the name of an option of domain"),
        (["experiment=probe", "sft.lr=???"], "no value for sft.lr"),
        (["experiment=probe", "experiment.study=prbe"], "unknown study 'prbe'; did you mean probe"),
    ],
)
def test_mistakes_are_told_in_one_message(
    handrail_run: Handrail, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handrail_run(*argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert "Error executing job" not in captured.err
    assert captured.out == ""


def test_a_sweep_runs_every_job_even_if_one_fails(
    handrail_run: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handrail_run("experiment=probe", "--multirun", "fail=mistake,none", "seed=1,2") == 2
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    runs = [RunDirectory.open(sweep / str(number)) for number in range(4)]
    assert [(run.config.fail, run.config.seed) for run in runs] == [
        ("mistake", 1), ("mistake", 2), ("none", 1), ("none", 2),
    ]  # fmt: skip
    assert ["finished" in run.metrics for run in runs] == [False, False, True, True]
    assert capsys.readouterr().out.splitlines() == [f"run directory: {run.path}" for run in runs[2:]]


def test_help_and_cfg_run_nothing(handrail_run: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert handrail_run("--help") == 0
    assert "handrail run experiment=NAME" in capsys.readouterr().out
    assert handrail_run("experiment=probe", "--cfg", "job", "sft.layers=9") == 0
    assert "layers: 9" in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()


def test_every_experiment_composes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in command.experiments():
        assert cli.main(["run", f"experiment={name}", "--cfg", "job", "--resolve"]) == 0, capsys.readouterr().err
