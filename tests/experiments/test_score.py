"""Scoring stores: a piece at a time, resumed where it stopped, the same rows as the run's own table."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from handrail import cli
from handrail.envs.errors import HandrailError
from handrail.envs.logs.store import SessionWriter, load_sessions, open_store
from handrail.experiments import score as module
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.score import pieces, score

OFF = RayConfig("off")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("bpm") / "run"
    small = ["simulate.sessions=80", "simulate.workers=1", "policy.hidden_size=32", "policy.layers=1", "policy.heads=2"]
    small += ["policy.vocab_size=600", "sft.training.epochs=4", "closed_loop.cases=2", "rerank=null", "threads=1"]
    assert cli.main(["run", "experiment=bpm", "domain=mock", f"hydra.run.dir={folder}", *small]) == 0
    return RunDirectory.open(folder)


@pytest.fixture(scope="module")
def store(finished: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's own sessions, in row groups of about 60 steps."""
    path = tmp_path_factory.mktemp("store") / "sessions.parquet"
    with SessionWriter(path, row_group=60) as writer:
        for session in load_sessions(finished.file("sessions.parquet")):
            writer.write(session)
    return path


def test_pieces_hold_every_row_group_once(store: Path) -> None:
    with open_store(store) as file:
        rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert len(rows) > 4
    cut = pieces(store, 150)
    assert [first for first, _ in cut] == [0, *(last for _, last in cut[:-1])]
    assert cut[-1][1] == len(rows)
    assert all(sum(rows[first:last]) >= 150 > sum(rows[first : last - 1]) for first, last in cut[:-1])
    assert pieces(store, 10**9) == [(0, len(rows))]


def test_scores_are_those_of_the_run(finished: RunDirectory, store: Path, tmp_path: Path) -> None:
    """What the run decided for its test sessions is decided again, whatever else is in the store."""
    out = tmp_path / "scores.parquet"
    steps = score(finished.path, store, out, 150, OFF)
    found, told = pd.read_parquet(out), pd.read_parquet(finished.file("decisions.parquet"))
    assert steps == len(found) == sum(len(session.steps) for session in load_sessions(store))
    assert {path.name for path in tmp_path.iterdir()} == {"scores.parquet"}
    both = found.merge(told, on=["session_id", "step"], suffixes=("", "_told"))
    assert len(both) == len(told)
    for column in [name for name in told if name.startswith("score_")]:
        assert both[column].to_numpy() == pytest.approx(both[f"{column}_told"].to_numpy(), nan_ok=True, abs=1e-4)
    assert (both["correct"] == both["correct_told"]).all()


def test_it_goes_on_where_it_stopped(
    finished: RunDirectory, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    score(finished.path, store, whole, 150, OFF)
    done: list[int] = []
    scored = module.Scoring.__call__

    def stops(self: module.Scoring, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        done.append(number)
        scored(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(module.Scoring, "__call__", stops)
        with pytest.raises(KeyboardInterrupt):
            score(finished.path, store, out, 150, OFF)
    assert done == [0, 1]
    assert not out.exists()
    before = (out.with_name("out.parquet.parts") / "000001.parquet").stat().st_mtime_ns
    kept: list[int] = []
    publish = module.Scoring.publish

    def looked(self: module.Scoring) -> int:
        kept.append(self.part(1).stat().st_mtime_ns)
        return publish(self)

    monkeypatch.setattr(module.Scoring, "publish", looked)
    score(finished.path, store, out, 150, OFF)
    assert kept == [before]
    assert out.read_bytes() == whole.read_bytes()


def test_parts_of_other_pieces_are_not_mixed_in(finished: RunDirectory, store: Path, tmp_path: Path) -> None:
    work = module.Scoring(finished.path, store, tmp_path / "out.parquet", pieces(store, 150))
    work.begin()
    work(0)
    os.utime(store)
    again = module.Scoring(finished.path, store, tmp_path / "out.parquet", pieces(store, 150))
    again.begin()
    assert not again.part(0).exists()


def test_mistakes_are_told(finished: RunDirectory, store: Path, tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="piece=0"):
        score(finished.path, store, tmp_path / "out.parquet", 0, OFF)
    (tmp_path / "out.parquet.parts").mkdir()
    (tmp_path / "out.parquet.parts" / "mine").touch()
    with pytest.raises(HandrailError, match="move it away"):
        score(finished.path, store, tmp_path / "out.parquet", 150, OFF)


@pytest.mark.slow
def test_on_ray_it_is_the_same_bytes(finished: RunDirectory, store: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    score(finished.path, store, whole, 150, OFF)
    given = [f"run={finished.path}", f"store={store}", f"out={out}", "piece=150", "ray=local", "workers=2"]
    assert cli.main(["score", *given]) == 0
    assert out.read_bytes() == whole.read_bytes()
