"""Benchmarks of `handrail bench`: one module a family, found by its file name.

A module has `KEYS`, the keys it can write, and `measure(options)`, which yields a `Measurement` or a `Skipped` for
each. Rates against an alternative are measured in turns with it, so that a busy machine slows both, and the ratio is
taken within each repetition.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.experiments.options import option


@dataclass(frozen=True)
class Options:
    """What `handrail bench` takes."""

    only: str = option("", help="measure only the keys that begin so, e.g. replay or ingest.star")
    data_path: Path | None = option(
        None, name="data.path", help="folder that holds star/ or star/ itself; HANDRAIL_DATA if left out"
    )
    repeats: int = option(5, help="repetitions, at least 1; the median is written, the range printed")
    out: Path = option(Path("outputs"), help="folder for the run directory bench/<date>_<time>")


@dataclass(frozen=True)
class Measurement:
    """One key, measured several times.

    Attributes:
        key: dotted key of `bench.json`.
        values: one value a repetition.
        unit: what it counts; a ratio says against what.
        written: False for a value that is only printed, for comparison.
    """

    key: str
    values: tuple[float, ...]
    unit: str
    written: bool = True

    @property
    def median(self) -> float:
        """The median over repetitions."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Skipped:
    """A key that could not be measured here.

    Attributes:
        key: dotted key that will be absent.
        reason: why, and what to do about it.
    """

    key: str
    reason: str


def seconds(work: Callable[..., object], *args: Any) -> float:
    """Return how long `work(*args)` takes, in seconds of wall clock."""
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start
