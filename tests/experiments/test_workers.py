"""Jobs done by several processes: all of them, after one setup each, and a process that dies is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from handrail.envs.errors import HandrailError
from handrail.experiments.workers import Workers


def working(folder: Path) -> Callable[[int], None]:
    """Set up: note the process; then each job writes who did it, and job 13 dies."""
    with (folder / "setups").open("a") as file:
        file.write(f"{os.getpid()}\n")

    def work(job: int) -> None:
        if job == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"job_{job}").write_text(str(os.getpid()))

    return work


def unexpected(job: int) -> None:
    raise AssertionError(f"job {job} was not to be done here")


def test_one_process_does_jobs_in_order_and_nobody_is_started(tmp_path: Path) -> None:
    done: list[int] = []
    with Workers(1, partial(working, tmp_path), done.append) as workers:
        assert list(workers.each([3, 1, 2])) == [3, 1, 2]
    assert done == [3, 1, 2]
    assert not list(tmp_path.iterdir())


def test_a_single_job_is_done_here(tmp_path: Path) -> None:
    done: list[int] = []
    with Workers(2, partial(working, tmp_path), done.append) as workers:
        assert list(workers.each([7])) == [7]
    assert done == [7]


def test_processes_set_up_once_and_stay_for_the_next_jobs(tmp_path: Path) -> None:
    with Workers(2, partial(working, tmp_path), unexpected) as workers:
        assert sorted(workers.each(range(4))) == [0, 1, 2, 3]
        assert sorted(workers.each([4, 5])) == [4, 5]
    setups = (tmp_path / "setups").read_text().split()
    assert len(setups) == len(set(setups)) <= 2
    assert {(tmp_path / f"job_{n}").read_text() for n in range(6)} <= set(setups)
    assert str(os.getpid()) not in setups


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with (
        Workers(2, partial(working, tmp_path), unexpected) as workers,
        pytest.raises(HandrailError, match=r"one of 2 processes died .* resume the run"),
    ):
        list(workers.each([0, 13]))
