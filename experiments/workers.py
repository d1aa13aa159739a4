"""Jobs of a study, done side by side by processes that stay for the next ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from handrail.envs.errors import HandrailError

J = TypeVar("J")
Work = Callable[[J], None]

_work: list[Callable[[Any], None]] = []
"""What this process does with a job, once it is one of `Workers`."""


class Workers(Generic[J]):
    """Processes that each set up once and then do jobs; started when there is more than one job to do.

    Jobs leave their results on disk, each in a file of its own, so it does not matter who did them or in which order.
    A process ends when this one does, however that ends.

    Args:
        count: processes, >= 1; with 1 jobs are done here.
        setup: called once in each process, returns what does a job; both are sent to the processes.
        here: does a job in this process.
    """

    def __init__(self, count: int, setup: Callable[[], Work[J]], here: Work[J]) -> None:
        self.count, self._setup, self._here = count, setup, here
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers[J]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            # Who is at a job finishes it, so that it need not be done again.
            self._pool.shutdown(wait=kind is None, cancel_futures=True)
            self._pool = None

    def each(self, jobs: Sequence[J]) -> Iterator[J]:
        """Do jobs; yield each when it is done.

        Raises:
            HandrailError: a process died; what it had finished is kept.
        """
        if self.count == 1 or len(jobs) < 2:
            for job in jobs:
                self._here(job)
                yield job
            return
        if self._pool is None:
            # Forking a process that has threads (torch, Arrow) can lock up its children; spawning never does.
            context = multiprocessing.get_context("spawn")
            threads = max(1, (os.cpu_count() or 1) // self.count)
            self._pool = ProcessPoolExecutor(self.count, context, partial(_begin, self._setup, threads))
        asked = {self._pool.submit(_do, job): job for job in jobs}
        try:
            for future in as_completed(asked):
                future.result()
                yield asked[future]
        except BrokenProcessPool as error:
            self._pool = None
            raise HandrailError(
                f"one of {self.count} processes died at its work, most often for lack of memory; what was finished is "
                "kept: resume the run, with fewer workers if it happens again"
            ) from error


def _begin(setup: Callable[[], Callable[[Any], None]], threads: int) -> None:
    from handrail.experiments.run import limit_threads

    # Ctrl-C reaches the whole group of processes; the first one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    limit_threads(threads)
    _work[:] = [setup()]


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: object) -> None:
    _work[0](job)
