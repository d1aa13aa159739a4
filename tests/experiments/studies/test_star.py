"""The main study on a synthetic STAR folder: what a run leaves, that it repeats, resumes, and meets other sessions."""

from __future__ import annotations

import html
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from star_folder import write_dialogues, write_star

from handrail.envs.errors import HandrailError
from handrail.experiments import evaluate
from handrail.experiments import run as command
from handrail.experiments.rundir import DECISION_COLUMNS, RunDirectory
from handrail.experiments.studies.star import SOURCES, TABLES, Study

SESSIONS = 72
TRAINING = ["epochs=1.0", "save_steps=0"]
SMALL = [
    "experiment=star",
    "seed=3",
    "threads=1",
    "data.splits={train: 0.5, feedback: 0.2, calibration: 0.15, test: 0.15}",
    "policy.vocab_size=400",
    "policy.hidden_size=32",
    "policy.layers=1",
    "policy.heads=2",
    *(f"sft.training.{option}" for option in TRAINING),
    *(f"critic.full.training.{option}" for option in TRAINING),
    "critic.probe.inverse_regularisation=[0.01]",
    "critic.probe.folds=2",
    "critic.tfidf.inverse_regularisation=[1.0]",
    "critic.tfidf.folds=2",
    "critic.tfidf.min_df=1",
    "rerank=null",
]
METHODS = ("full", "probe", "tfidf", "log_probability", "min_probability", "margin", "entropy")
SPLITS = ("train", "feedback", "calibration", "test")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """`threads=1` of the runs here shall not outlive them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before, threads = {name: os.environ.get(name) for name in names}, torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds `star/`."""
    root = tmp_path_factory.mktemp("data")
    write_star(root / "star", SESSIONS)
    return root


def arguments(desk: Path, out: Path) -> list[str]:
    return [*SMALL, f"data.path={desk}", f"hydra.run.dir={out}"]


@pytest.fixture(scope="module")
def finished(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert command.main(arguments(desk, out)) == 0
    return RunDirectory.open(out)


def loaded(run: RunDirectory, name: str) -> Any:
    return json.loads(run.file(name).read_text())


def test_the_files_of_a_run(finished: RunDirectory) -> None:
    names = {"metrics.json", "report.html", "config.yaml", "provenance.json", "log.txt", "certificates.json"}
    names |= {"summary.json", "examples.json", "stages.json", "checkpoints", *TABLES.values()}
    assert {path.name for path in finished.path.iterdir()} == names
    assert set(loaded(finished, "stages.json")) == {"policy", "baselines", "suggestions", *SOURCES}
    assert finished.config.policy.hidden_size == 32
    assert {"commit", "dirty", "versions", "seed", "data_fingerprint", "finished"} <= set(finished.provenance)
    assert finished.provenance["seed"] == 3
    report = html.unescape(finished.file("report.html").read_text())
    assert finished.config.experiment.question in " ".join(report.split())
    examples = loaded(finished, "examples.json")
    assert examples[0]["group"] == "worst confident errors"
    assert str(finished.path) not in finished.file("metrics.json").read_text()


def test_the_metrics_of_a_run(finished: RunDirectory) -> None:
    metrics = finished.metrics
    for source in SOURCES:
        for method in METHODS:
            key = f"{source}.{method}"
            wanted = [f"{key}.{name}" for name in ("auroc", "auprc", "brier", "ece", "aurc", "augrc", "f1")]
            wanted += [f"{key}.coverage_at_precision_{target}" for target in (90, 95, 98, 99)]
            wanted += [
                f"{key}.certified.{target}.{name}" for target in (90, 95, 98, 99) for name in ("coverage", "delta")
            ]
            assert not [name for name in wanted if name not in metrics]
            certificate = loaded(finished, "certificates.json")[source][method]["0.95"]
            assert metrics.get(f"{key}.certified.95.threshold") == certificate["threshold"]
            reached = f"{key}.coverage_at_precision_90"
            if metrics[reached] > 0:
                assert {f"{reached}.precision", f"{reached}.threshold"} <= set(metrics)
    for target in (90, 95, 98, 99):
        deployed = f"critic.{finished.config.certify.method}.certified.{target}."
        ours = {
            k.removeprefix(f"certified.{target}."): v
            for k, v in metrics.items()
            if k.startswith(f"certified.{target}.")
        }
        assert ours == {k.removeprefix(deployed): v for k, v in metrics.items() if k.startswith(deployed)}
        assert {"coverage", "delta"} <= set(ours)
    for name in ("tool_accuracy", "action_accuracy"):
        assert metrics[f"policy.{name}.ci_low"] <= metrics[f"policy.{name}"] <= metrics[f"policy.{name}.ci_high"]
        assert {f"baseline.{other}.{name}" for other in ("majority", "backoff", "tfidf")} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["policy.steps"] == loaded(finished, "summary.json")["splits"]["test"]["steps"]
    assert metrics["baseline.tfidf.action_accuracy"] > metrics["baseline.majority.action_accuracy"] + 0.2


def test_the_decisions_of_a_run(finished: RunDirectory) -> None:
    learned = set(finished.stage_info("suggestions")["learned_from"])
    sizes = {name: part["sessions"] for name, part in loaded(finished, "summary.json")["splits"].items()}
    # Shares of 72 sessions, rounded down from the running sum 36, 50.4, 61.2, 72.
    assert sizes == {"train": 36, "feedback": 14, "calibration": 11, "test": 11}
    assert len(learned) == SESSIONS - sizes["test"]
    for name in TABLES.values():
        frame = pd.read_parquet(finished.file(name))
        assert set(DECISION_COLUMNS) <= set(frame)
        assert {f"score_{method}" for method in METHODS} <= set(frame)
        splits = {split: set(rows["session_id"]) for split, rows in frame.groupby("split")}
        assert set(splits) == {"calibration", "test"}
        assert splits["calibration"] <= learned
        assert not splits["test"] & learned
        assert not frame.duplicated(["session_id", "step"]).any()
        scores = frame.loc[frame["critical"], [f"score_{method}" for method in METHODS]]
        assert scores.notna().all(axis=None)
        probabilities = scores[["score_full", "score_probe", "score_tfidf"]]
        assert probabilities.to_numpy().min() >= 0
        assert probabilities.to_numpy().max() <= 1
    decisions = pd.read_parquet(finished.file("decisions.parquet"))
    assert decisions.loc[~decisions["critical"], "score_full"].isna().all()
    assert (decisions["split"] == "test").sum() == finished.metrics["policy.steps"]
    hidden, known = (pd.read_parquet(finished.file(TABLES[source])) for source in SOURCES[1:])
    columns = ["session_id", "step", "suggestion", "correct"]
    assert hidden[columns].equals(known[columns]), "both settings judge the same suggestions"
    assert not hidden["score_full"].equals(known["score_full"]), "the draft tells the critic something"
    assert hidden["score_log_probability"].equals(known["score_log_probability"]), "the policy reads no draft"


def test_a_run_that_was_stopped_cannot_be_evaluated_and_resumed_gives_the_same_metrics(
    desk: Path, finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_critics = Study.fit_critics

    def stop(study: Study, source: str) -> None:
        if source == SOURCES[1]:
            raise KeyboardInterrupt
        fit_critics(study, source)

    def again(study: Study) -> None:
        raise AssertionError("a finished stage is done again")

    out = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(Study, "fit_critics", stop)
        with pytest.raises(KeyboardInterrupt):
            command.main(arguments(desk, out))
    stopped = RunDirectory.open(out)
    assert set(loaded(stopped, "stages.json")) == {"policy", "baselines", "suggestions", SOURCES[0]}
    with pytest.raises(
        HandrailError, match=r"no finished run of experiment=star.*finish this one with handrail run .*resume="
    ):
        evaluate.main([f"run={out}", f"data.path={desk}", f"out={tmp_path / 'none'}"])
    assert not (tmp_path / "none").exists()
    with monkeypatch.context() as patched:
        for name in ("train_policy", "fit_baselines", "suggest"):
            patched.setattr(Study, name, again)
        assert command.main([f"resume={out}"]) == 0
    assert stopped.file("metrics.json").read_bytes() == finished.file("metrics.json").read_bytes()
    for name in TABLES.values():
        pd.testing.assert_frame_equal(pd.read_parquet(stopped.file(name)), pd.read_parquet(finished.file(name)))


def test_a_run_goes_on_only_with_the_same_sessions(
    finished: RunDirectory, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = desk / "star" / "dialogues" / "9999.json"
    extra.write_text(
        (desk / "star" / "dialogues" / "1.json").read_text().replace('"DialogueID": 1,', '"DialogueID": 9999,')
    )
    try:
        assert command.main([f"resume={finished.path}"]) == 2
    finally:
        extra.unlink()
    assert "was started on other sessions" in capsys.readouterr().err


def evaluated(finished: RunDirectory, data: Path, out: Path) -> RunDirectory:
    assert evaluate.main([f"run={finished.path}", f"data.path={data}", f"out={out}"]) == 0
    return RunDirectory.open(out)


def test_evaluating_on_dialogue_files_alone(finished: RunDirectory, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()}
    data = write_dialogues(tmp_path / "new", 12, seed=5, first=1001)
    found = evaluated(finished, data, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()} == before
    frame = pd.read_parquet(found.file("decisions.parquet"))
    assert set(frame["split"]) == {"test"}
    assert set(frame["session_id"]) == {str(number) for number in range(1001, 1013)}
    assert found.metrics["policy.steps"] == len(frame)
    trained = {key for key in finished.metrics if key.endswith((".threshold", ".delta"))}
    assert trained
    assert {key: found.metrics[key] for key in trained} == {key: finished.metrics[key] for key in trained}
    assert loaded(found, "certificates.json") == loaded(finished, "certificates.json")
    assert all(f"{source}.full.auroc" in found.metrics for source in SOURCES)
    assert found.provenance["evaluated_run"] == str(finished.path)
    assert found.provenance["data_fingerprint"] != finished.provenance["data_fingerprint"]
    assert loaded(found, "summary.json")["notes"][0].startswith("0 sessions")
    assert found.file("report.html").is_file()


def test_evaluating_on_the_runs_own_data_is_its_test_again(finished: RunDirectory, desk: Path, tmp_path: Path) -> None:
    found = evaluated(finished, desk, tmp_path / "out")
    assert loaded(found, "summary.json")["notes"][0].startswith("61 sessions the run had learned from")
    frame = pd.read_parquet(found.file("decisions.parquet"))
    assert not set(frame["session_id"]) & set(finished.stage_info("suggestions")["learned_from"])
    points = {k for k in finished.metrics if not k.endswith((".ci_low", ".ci_high")) and not k.startswith("train.")}
    same = {key: finished.metrics[key] for key in points}
    assert {key: found.metrics[key] for key in points} == pytest.approx(same, abs=1e-4)


def test_sessions_that_recorded_no_suggestion_are_evaluated_without_recorded_verdicts(
    finished: RunDirectory, tmp_path: Path
) -> None:
    data = write_star(tmp_path / "new", 8, seed=6, first=2001, suggestions=False)
    found = evaluated(finished, data, tmp_path / "out")
    assert found.metrics["policy.steps"] > 0
    assert "critic.full.brier" in found.metrics
    assert not any(key.startswith(SOURCES[1]) for key in found.metrics)


def test_what_cannot_be_evaluated_is_told(finished: RunDirectory, desk: Path, tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="is not a run directory"):
        evaluate.main([f"run={tmp_path}", f"data.path={desk}"])
    with pytest.raises(HandrailError, match="no STAR dialogues under"):
        evaluate.main([f"run={finished.path}", f"data.path={tmp_path}", f"out={tmp_path / 'a'}"])
    held = RunDirectory.open(finished.path).stage_info("suggestions")["learned_from"][0]
    known = tmp_path / "known"
    known.mkdir()
    (known / f"{held}.json").write_text((desk / "star" / "dialogues" / f"{held}.json").read_text())
    with pytest.raises(HandrailError, match=r"every session .* is one the run has learned from"):
        evaluate.main([f"run={finished.path}", f"data.path={known}", f"out={tmp_path / 'b'}"])


def test_an_evaluation_is_no_run_that_can_be_evaluated(finished: RunDirectory, desk: Path, tmp_path: Path) -> None:
    found = RunDirectory.create(tmp_path / "evaluation", finished.config, [])
    found.write_decisions(pd.read_parquet(finished.file("decisions.parquet")))
    with pytest.raises(HandrailError, match="no finished run"):
        evaluate.main([f"run={found.path}", f"data.path={desk}", f"out={tmp_path / 'a'}"])


def in_a_process(arguments: list[str], hash_seed: int) -> None:
    """Run the command in a process of its own, whose sets are ordered by `hash_seed`."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    code = "import sys; from handrail.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, "run", *arguments], env=environment, check=True)


@pytest.mark.slow
def test_another_process_gives_the_same_metrics(finished: RunDirectory, desk: Path, tmp_path: Path) -> None:
    in_a_process(arguments(desk, tmp_path / "run"), hash_seed=1)
    assert (tmp_path / "run" / "metrics.json").read_bytes() == finished.file("metrics.json").read_bytes()


@pytest.mark.slow
def test_another_seed_gives_other_splits(finished: RunDirectory, desk: Path, tmp_path: Path) -> None:
    given = ["seed=4" if argument.startswith("seed=") else argument for argument in arguments(desk, tmp_path / "run")]
    assert command.main(given) == 0
    other = RunDirectory.open(tmp_path / "run")
    mine, theirs = (set(run.stage_info("suggestions")["learned_from"]) for run in (finished, other))
    assert mine != theirs
    assert other.metrics != finished.metrics


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_star_fast_gives_the_same_metrics_twice(star_root: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        given = ["experiment=star_fast", f"data.path={star_root}", f"hydra.run.dir={tmp_path / str(number)}"]
        in_a_process(given, hash_seed=number)
    first, second = ((tmp_path / str(number) / "metrics.json").read_bytes() for number in (1, 2))
    assert first == second
    assert json.loads(first)["policy.steps"] > 1000
