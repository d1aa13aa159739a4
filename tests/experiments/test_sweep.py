"""Sweeps on a small study of the test's own: in turn and on Ray, killed, failing, resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handrail import cli
from handrail.envs.errors import HandrailError
from handrail.experiments import studies
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.sweep import FILE, Sweep, essential, latest

EXPERIMENT = """\
# @package _global_
experiment: {name: counted}
rate: 0.5
way: plain
"""

STUDY = """\
import os
import time
from pathlib import Path

def run(cfg, run):
    run.log.info("data at %s, in %s", cfg.data.path, os.getcwd())
    if not run.done("first"):
        run.write_metrics({"first": run.metrics.get("first", 0) + 1, "pid": os.getpid(), "value": cfg.seed * cfg.rate})
        run.mark("first")
    mended = Path("mended").exists()
    if cfg.way == "crash" and not mended:
        raise RuntimeError("a crash of seed %d" % cfg.seed)
    while cfg.way == "wait" and not mended and not Path("go").exists():
        time.sleep(0.1)
    run.write_metrics({"second": run.metrics.get("second", 0) + 1})
"""

Handrail = Callable[..., int]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handrail:
    """`handrail run experiment=counted --multirun` in a folder of its own, whose study workers find as well."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "counted.yaml").write_text(EXPERIMENT)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "counted.py").write_text(STUDY)
    # Python imports sitecustomize when it starts, so a worker of Ray has the study too.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path.append({str(Path(cli.__file__).resolve().parents[1])!r})\n"
        "import handrail.experiments.studies as studies\n"
        f"studies.__path__.append({str(tmp_path / 'studies')!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("HANDRAIL_DATA", str(tmp_path / "logs"))
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path / "studies")])
    monkeypatch.delitem(sys.modules, "handrail.experiments.studies.counted", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> int:
        return cli.main(["run", "experiment=counted", "--multirun", "-cd", "conf", *argv])

    return call


def the_sweep(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "outputs" / "counted").iterdir()
    return path


def runs(folder: Path, count: int) -> list[RunDirectory]:
    return [RunDirectory.open(folder / str(number)) for number in range(count)]


# ---- the record ------------------------------------------------------------------------------------------------------


def started(folder: Path, at: str, *argv: str) -> Sweep:
    sweep = Sweep(folder, argv, at, {0: ("experiment=x", "seed=0")})
    sweep.write()
    return sweep


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep = started(tmp_path, "2026-01-01T00:00:00", "experiment=x", "--multirun", "seed=0,1")
    assert Sweep.read(tmp_path) == sweep
    more = sweep.with_jobs({0: ["experiment=x", "seed=0"], 1: ["experiment=x", "seed=1"]})
    assert dict(more.jobs) == {0: ("experiment=x", "seed=0"), 1: ("experiment=x", "seed=1")}
    with pytest.raises(HandrailError, match=r"job 0 .*was experiment=x seed=0, now it is experiment=x seed=7"):
        sweep.with_jobs({0: ["experiment=x", "seed=7"]})


@pytest.mark.parametrize("text", ["", "[]", '{"argv": [], "started": "x"}', '{"argv": [], "started": "x", "jobs": []}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(HandrailError, match=r"sweep\.json is damaged"):
        Sweep.read(tmp_path)


def test_how_jobs_are_launched_is_no_part_of_what_a_sweep_is() -> None:
    argv = ["--multirun", "seed=0,1", "hydra/launcher=ray", "hydra.launcher.num_cpus=2", "experiment=x", "resume=true"]
    assert essential([*argv, "ray=off"]) == ["seed=0,1", "experiment=x"]


def test_the_last_sweep_with_the_same_overrides_is_found(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    started(outputs / "x" / "b_sweep", "2026-01-02T00:00:00", "experiment=x", "-m", "seed=0,1")
    started(outputs / "x" / "c_sweep", "2026-01-03T00:00:00", "experiment=x", "-m", "seed=0,2")
    started(outputs / "x" / "d_sweep", "2026-01-01T00:00:00", "experiment=x", "-m", "seed=0,1")
    wanted = ["seed=0,1", "--multirun", "experiment=x", "hydra/launcher=ray"]
    assert latest(wanted, outputs).path.name == "b_sweep"
    with pytest.raises(HandrailError, match=r"none of the 3 sweeps under .* was started with experiment=x seed=5"):
        latest(["experiment=x", "seed=5"], outputs)


# ---- in turn ---------------------------------------------------------------------------------------------------------


def test_a_rerun_does_only_what_is_missing(sweep: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["way=plain,crash", "seed=1,2"]
    assert sweep(*overrides) == 1
    folder = the_sweep(tmp_path)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"run directory: {folder / str(number)}" for number in (0, 1)]
    assert "[4/4, 2 failed] job 3 (way=crash seed=2) failed, see " in captured.err
    assert f"2 of 4 jobs done, 2 failed (2, 3); do what is missing with: handrail run resume={folder}" in captured.err
    for number, seed in ((2, 1), (3, 2)):
        log = (folder / str(number) / "log.txt").read_text()
        assert f"RuntimeError: a crash of seed {seed}" in log
        assert "Traceback" in log
    before = [run.provenance for run in runs(folder, 4)]

    Path("mended").touch()
    assert sweep("seed=1,2", "resume=true", "way=plain,crash") == 0  # In another order, as it may be typed.
    captured = capsys.readouterr()
    assert "4 jobs, 2 finished before" in captured.err
    assert captured.out.splitlines() == [f"run directory: {folder / str(number)}" for number in (2, 3)]
    after = runs(folder, 4)
    assert [run.provenance for run in after[:2]] == before[:2]
    assert all(len(run.provenance["continued"]) == 1 for run in after[2:])
    assert all(run.metrics["first"] == run.metrics["second"] == 1 for run in after)

    assert sweep(*overrides, "resume=true") == 0
    assert capsys.readouterr().out == ""


def test_a_sweep_goes_on_by_its_folder(sweep: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("way=crash", "seed=1,2", "hydra/launcher=ray", "hydra.launcher.num_cpus=2", "ray=off") == 1
    folder = the_sweep(tmp_path)
    Path("mended").touch()
    assert cli.main(["run", f"resume={folder}", "seed=1,3"]) == 2
    assert "leave seed=1,3 out to go on" in capsys.readouterr().err
    assert cli.main(["run", f"resume={folder}", "seed=1,2", "hydra/launcher=basic"]) == 0
    assert [run.metrics["value"] for run in runs(folder, 2)] == [0.5, 1.0]


def test_a_run_that_died_before_it_had_a_configuration_begins_anew(sweep: Handrail, tmp_path: Path) -> None:
    assert sweep("seed=1,2") == 0
    folder = the_sweep(tmp_path)
    for file in (folder / "1").iterdir():
        if file.name != "log.txt":
            file.unlink()
    assert sweep("seed=1,2", "resume=true") == 0
    assert RunDirectory.open(folder / "1").metrics["value"] == 1.0
    assert (folder / "1" / "log.txt").read_text().count("data at") == 2


def test_a_batch_that_fails_does_not_end_the_sweep(sweep: Handrail, tmp_path: Path) -> None:
    assert sweep("way=crash,plain", "hydra.sweeper.max_batch_size=1") == 1
    folder = the_sweep(tmp_path)
    assert [run.finished for run in runs(folder, 2)] == [False, True]
    assert sorted(Sweep.read(folder).jobs) == [0, 1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rate=0.1,high"], "rate='high': expected a number, as 0.5 is"),
        (["seed=0,1.5"], "seed=1.5: expected a whole number"),
        (["seed=0,true"], "seed=True: expected a whole number"),
        (["sed=0,1"], "unknown option 'sed'; did you mean seed"),
        (["experiment.study=counted,cuonted"], "unknown study 'cuonted'; did you mean counted"),
        (["rate=0.1,???"], "no value for rate"),
    ],
)
def test_a_mistake_in_one_job_is_told_before_any_has_started(
    sweep: Handrail, tmp_path: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*overrides) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not list((tmp_path / "outputs").glob("*/*"))


def test_a_sweep_takes_no_folder_that_holds_another(sweep: Handrail, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("seed=1,2", "hydra.sweep.dir=here") == 0
    assert sweep("seed=1,2", "hydra.sweep.dir=here") == 2
    assert "here already holds a sweep; resume=true goes on with it" in capsys.readouterr().err
    assert sweep("seed=1,3", "hydra.sweep.dir=here", "resume=true") == 2
    assert "here was started with experiment=counted seed=1,2; leave seed=1,3 out" in capsys.readouterr().err
    assert sweep("seed=1,2", "hydra.sweep.dir=here", "resume=true") == 0


def test_resuming_needs_something_to_go_on_with(sweep: Handrail, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("seed=1,2", "resume=true") == 2
    assert "none of the 0 sweeps" in capsys.readouterr().err
    assert cli.main(["run", "experiment=counted", "resume=true"]) == 2
    assert "add --multirun" in capsys.readouterr().err
    assert sweep("resume=true", "hydra.sweep.dir=nowhere") == 2
    assert "nowhere holds no sweep" in capsys.readouterr().err


# ---- on Ray ----------------------------------------------------------------------------------------------------------

RAY = ["hydra/launcher=ray", "hydra.launcher.num_cpus=1", "hydra.launcher.total_cpus=2"]


@pytest.fixture
def ray_off_again() -> Iterator[None]:
    import ray

    assert not ray.is_initialized()
    yield
    assert not ray.is_initialized()


def test_ray_off_runs_in_this_process(sweep: Handrail, tmp_path: Path) -> None:
    assert sweep("seed=1,2", "hydra/launcher=ray", "ray=off") == 0
    assert [run.metrics["pid"] for run in runs(the_sweep(tmp_path), 2)] == [os.getpid()] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_off_again")
def test_on_ray_jobs_have_processes_of_their_own_and_fail_alone(
    sweep: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("way=plain,crash", "seed=1,2", *RAY) == 1
    folder = the_sweep(tmp_path)
    done = runs(folder, 4)
    pids = {run.metrics["pid"] for run in done}
    assert len(pids) == 4
    assert os.getpid() not in pids
    assert [run.finished for run in done] == [True, True, False, False]
    assert [run.metrics["value"] for run in done] == [0.5, 1.0, 0.5, 1.0]
    assert "RuntimeError: a crash of seed 2" in (folder / "3" / "log.txt").read_text()
    for run in done:
        assert f"data at {tmp_path / 'logs'}, in {tmp_path}" in run.file("log.txt").read_text()
        assert "experiment=counted" in run.provenance["argv"]
    assert sorted(capsys.readouterr().out.splitlines()) == [f"run directory: {folder / n}" for n in ("0", "1")]

    Path("mended").touch()
    assert sweep("way=plain,crash", "seed=1,2", "resume=true") == 0  # Begun on Ray, ended in turn.
    assert all(run.metrics["first"] == run.metrics["second"] == 1 for run in runs(folder, 4))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_off_again")
def test_a_killed_worker_is_one_failed_job(sweep: Handrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for file in tmp_path.glob("outputs/counted/*/*/stages.json"):
                if "way: wait" in file.with_name("config.yaml").read_text():
                    pid = json.loads(file.with_name("metrics.json").read_text())["pid"]
                    os.kill(pid, signal.SIGKILL)
                    break
            else:
                time.sleep(0.1)
                continue
            break
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    assert sweep("way=plain,wait", "seed=1", "rate=0.5,0.25", *RAY, "hydra.sweep.dir=outputs/counted/s") == 1
    killer.join()
    folder = the_sweep(tmp_path)
    states = [run.finished for run in runs(folder, 4)]
    assert states[:2] == [True, True]
    assert sorted(states[2:]) == [False, True]
    dead = folder / str(states.index(False))
    assert "the worker process of this job died" in (dead / "log.txt").read_text()
    assert "[4/4, 1 failed]" in capsys.readouterr().err

    Path("mended").touch()
    before = {run.path: run.provenance for run in runs(folder, 4) if run.finished}
    assert cli.main(["run", f"resume={folder}"]) == 0
    assert capsys.readouterr().out == f"run directory: {dead}\n"
    assert {path: RunDirectory(path).provenance for path in before} == before
    assert RunDirectory(dead).metrics["first"] == RunDirectory(dead).metrics["second"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("ray_off_again")
def test_jobs_that_ask_for_more_than_there_is_are_refused(sweep: Handrail, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("seed=1,2", *RAY, "hydra.launcher.num_gpus=3") == 2
    assert "hydra.launcher.num_gpus=3: Ray has 0 here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("ray_off_again")
def test_an_address_without_a_ray_is_told(sweep: Handrail, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("seed=1,2", "hydra/launcher=ray", "ray=127.0.0.1:1") == 2
    assert "ray=127.0.0.1:1" in capsys.readouterr().err
