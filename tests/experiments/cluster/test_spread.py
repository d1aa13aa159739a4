"""Pieces of work on Ray Data: each is done, errors come back, and a store is the same bytes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from handrail.envs.errors import HandrailError
from handrail.envs.logs.ingest import ingest, report_path
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.spread import Spread

# Workers of Ray cannot import tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Touch:
    """Leaves a file a piece; dies once at piece 3, before it does it."""

    def __init__(self, folder: Path, deadly: bool) -> None:
        self.folder, self.deadly = folder, deadly

    def __call__(self, number: int) -> None:
        if self.deadly and number == 3 and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(number)).touch()


def refuse(number: int) -> None:
    if number == 2:
        raise HandrailError("piece 2 cannot be done")


def test_no_work_needs_no_ray() -> None:
    assert list(Spread(RayConfig())(refuse, [])) == []


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_every_piece_is_done(local_ray: RayConfig, tmp_path: Path) -> None:
    assert sorted(Spread(local_ray)(Touch(tmp_path, deadly=True), range(6))) == list(range(6))
    assert {path.name for path in tmp_path.iterdir()} == {"died", *map(str, range(6))}


@pytest.mark.slow
def test_an_error_of_a_piece_is_that_error(local_ray: RayConfig) -> None:
    with pytest.raises(HandrailError, match="piece 2 cannot be done"):
        list(Spread(local_ray)(refuse, range(4)))


@pytest.mark.slow
def test_star_ingested_on_ray_is_the_same_bytes(local_ray: RayConfig, star_root: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    expected = ingest("star", star_root, whole, block=2048)
    assert ingest("star", star_root, out, block=2048, spread=Spread(local_ray)) == expected
    assert out.read_bytes() == whole.read_bytes()
    assert report_path(out).read_bytes() == report_path(whole).read_bytes()
