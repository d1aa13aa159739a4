"""`handrail curves` on a million scores, 1,000 draws of whole sessions: wall clock and peak memory of the command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from handrail.experiments.benchmarks import Measurement, Options, Skipped

KEYS = ("curves.million_rows_s", "curves.million_rows_mb")

ROWS = 1_000_000
"""Rows of the file."""

# A child's ru_maxrss starts at its parent's, so the child reads its own peak, which begins with its program.
_CHILD = """
import sys
from handrail.experiments.curves import main
try:
    main(sys.argv[2:])
finally:
    peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    open(sys.argv[1], "w").write(peak[0].split()[1])
"""


def measure(options: Options, rows: int = ROWS) -> Iterator[Measurement | Skipped]:
    """Yield seconds and megabytes (2**20 bytes) of the command in a process of its own, imports included."""
    if not Path("/proc/self/status").exists():
        for key in KEYS:
            yield Skipped(key, "peak memory is read from /proc, which this system lacks")
        return
    times, peaks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        write_scores(Path(scratch) / "scores.parquet", rows)
        for _ in range(options.repeats):
            elapsed, peak = _run(Path(scratch))
            times.append(elapsed)
            peaks.append(peak)
    yield Measurement(KEYS[0], tuple(times), "s")
    yield Measurement(KEYS[1], tuple(peaks), "MB")


def write_scores(path: Path, rows: int) -> None:
    """Write `rows` calibrated scores, uniform on [0, 1] and right with that probability, in sessions of ten. Seeded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    scores = rng.random(rows)
    session = np.char.add("s", (np.arange(rows) // 10).astype(str))
    pq.write_table(pa.table({"session": session, "score": scores, "correct": rng.random(rows) < scores}), path)


def _run(scratch: Path) -> tuple[float, float]:
    import handrail

    home = str(Path(next(iter(handrail.__path__))).parent)
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    peak = scratch / "peak"
    columns = ["scores=scores.parquet", "score=score", "correct=correct", "cluster=session", "resamples=1000"]
    command = [sys.executable, "-P", "-c", _CHILD, str(peak), *columns]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=scratch, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    elapsed = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"handrail curves failed on {ROWS} rows:\n{done.stderr[-2000:]}")
    return elapsed, int(peak.read_text()) / 1024
