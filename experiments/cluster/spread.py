"""Numbered pieces of work on Ray Data, each done where there is room."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from handrail.experiments.cluster.config import RayConfig

Work = Callable[[int], None]


class Spread:
    """Does pieces of work in a pool of processes and yields their numbers as they are done.

    Ray has to be connected. A process that dies is replaced and its piece done again, so a piece has to leave the same
    files however often it is done; a piece that raises ends the work with its error.

    Args:
        config: `workers` says how many processes, `worker_cpus` what each takes.
    """

    def __init__(self, config: RayConfig) -> None:
        self._config = config

    def __call__(self, work: Work, numbers: Sequence[int]) -> Iterator[int]:
        """Do the work on each number.

        Args:
            work: copied to the processes once, so that what it opens can stay open.
            numbers: of the pieces.
        """
        if not numbers:
            return
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        pieces = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        pool = ray.data.ActorPoolStrategy(size=min(self._config.workers, len(numbers)))
        doing: Any = _Doing
        done = pieces.map(doing, fn_constructor_args=(work,), compute=pool, num_cpus=self._config.worker_cpus)
        for row in done.iter_rows():
            if row["error"]:
                raise pickle.loads(row["error"])
            yield int(row["number"])


class _Doing:
    """The work in one process of the pool."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self._work(int(row["number"]))
        except Exception as error:
            # Ray Data would wrap it in errors of its own, without the cause.
            return {**row, "error": pickle.dumps(error)}
        return {**row, "error": b""}
