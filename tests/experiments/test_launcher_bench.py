from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from handrail.experiments.benchmarks import Options, launcher


def test_the_overhead_is_what_a_job_of_a_sweep_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"_run": iter([1.0, 2.0, 2.5, 1.5]), "_sweep": iter([16.0, 24.0])}

    def seconds(work: Callable[[Path], None], folder: Path) -> float:
        return next(taken[work.__name__])

    monkeypatch.setattr(launcher, "seconds", seconds)
    monkeypatch.setattr(launcher, "_call", lambda *argv, runs: None)  # What is run before the clock starts.
    monkeypatch.setattr(launcher, "JOBS", 8)
    plain, swept, overhead = launcher.measure(Options(repeats=2))
    assert (plain.values, swept.values) == ((1.5, 2.0), (2.0, 3.0))
    assert (overhead.key, overhead.values, overhead.written) == ("ray.launcher_overhead_s", (0.5, 1.0), True)
    assert not plain.written
    assert not swept.written


def test_a_command_that_did_not_come_as_far_as_its_study_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no run in"):
        launcher._call("no_such_key=1", runs=[tmp_path / "run"])
