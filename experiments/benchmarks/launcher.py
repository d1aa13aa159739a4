"""What a job costs more as one of a sweep on Ray than as a command of its own, from start to end.

The job ends as soon as its study begins (it asks for logs that do not exist), so what is timed is everything
else: composing, starting a process, importing, opening the run directory. One CPU is given out, so one job runs at a
time, but the two sides do not do the same: a sweep composes and checks in one process for all its jobs, its workers do
not compose again, and Ray starts the next worker while a job runs; on the other hand Ray itself has to start and end.
The difference can therefore be negative, and depends on how busy the machine is. Plain processes are timed before and
after each sweep, so that work that comes or goes beside them weighs on both sides.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from handrail.experiments.benchmarks import Measurement, Options, seconds

KEYS = ("ray.launcher_overhead_s",)
JOBS = 8
_COMMAND = (sys.executable, "-c", "import sys; from handrail.cli import main; sys.exit(main())")


def measure(options: Options) -> Iterator[Measurement]:
    """Yield the seconds by which a job of a sweep on Ray takes longer than a plain process, and what both take."""
    swept, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder, "first"))  # The first to read the libraries times the disk.
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            before = seconds(_run, Path(folder, "before"))
            swept.append(seconds(_sweep, Path(folder, "swept")) / JOBS)
            plain.append((before + seconds(_run, Path(folder, "after"))) / 2)
    yield Measurement("plain process", tuple(plain), "s a job", written=False)
    yield Measurement("job of a sweep", tuple(swept), f"s a job, of {JOBS}", written=False)
    overheads = tuple(one - other for one, other in zip(swept, plain, strict=True))
    yield Measurement(KEYS[0], overheads, f"s a job more than a plain process, of {JOBS} jobs")


def _run(folder: Path) -> None:
    _call(f"hydra.run.dir='{folder}'", "seed=0", runs=[folder])


def _sweep(folder: Path) -> None:
    _call(
        "--multirun",
        "hydra/launcher=ray",
        "hydra.launcher.total_cpus=1",
        f"hydra.sweep.dir='{folder}'",
        f"seed=range({JOBS})",
        runs=[folder / str(number) for number in range(JOBS)],
    )


def _call(*argv: str, runs: list[Path]) -> None:
    """Run the command, and see that every job came as far as its study."""
    job = ("experiment=star", "data.path=/nowhere", "logger=none")
    done = subprocess.run([*_COMMAND, "run", *job, *argv], capture_output=True, text=True, check=False)
    missing = [run for run in runs if not (run / "config.yaml").is_file()]
    if missing or done.returncode != 2:
        raise RuntimeError(f"handrail run ended with {done.returncode}; no run in {missing}: {done.stderr[-2000:]}")
