"""A study on Ray is the study without it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from handrail import cli
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import bpm

SMALL = [
    "simulate.sessions=40",
    "simulate.workers=1",
    "policy.hidden_size=32",
    "policy.layers=1",
    "policy.heads=2",
    "policy.vocab_size=600",
    "sft.training.epochs=3",
    "closed_loop.cases=7",
    "closed_loop.slots=4",
    "rerank=null",
    "threads=1",
]


@pytest.mark.slow
def test_local_gives_the_metrics_of_off_byte_by_byte(tmp_path: Path) -> None:
    import ray

    for where in ("off", "local"):
        folder = tmp_path / where
        given = ["run", "experiment=bpm", "domain=mock", f"ray={where}", f"hydra.run.dir={folder}", *SMALL]
        assert cli.main(given) == 0
        assert not ray.is_initialized()
    off, local = (RunDirectory.open(tmp_path / where) for where in ("off", "local"))
    assert off.file("metrics.json").read_bytes() == local.file("metrics.json").read_bytes()
    assert json.loads(off.file(bpm.CLOSED_LOOP).read_text()) == json.loads(local.file(bpm.CLOSED_LOOP).read_text())
    pd.testing.assert_frame_equal(*(pd.read_parquet(run.file("closed_loop.parquet")) for run in (off, local)))
