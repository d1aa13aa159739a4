"""The comparison of certificates: worlds in closed form, SGR by hand, and the whole study with two draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from handrail import cli
from handrail.algorithms.certify import binomial_tail
from handrail.envs.errors import HandrailError
from handrail.experiments.report.certificates import section
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies.certificate_power import (
    Draw,
    World,
    mapie,
    methods,
    naive,
    power_metrics,
    sgr,
    with_sessions,
    without_sessions,
)


def test_what_a_threshold_reaches_is_what_a_large_sample_shows() -> None:
    """400,000 steps: shares differ by more than 0.004 with a chance below 1e-5."""
    world = World(400_000, 0.8, 2.0)
    drawn = world.draw(np.random.default_rng(0))
    for threshold in (0.3, 0.8, 0.97):
        coverage, precision = world.reached(threshold)
        runs = drawn.scores >= threshold
        assert runs.mean() == pytest.approx(coverage, abs=0.004)
        assert drawn.correct[runs].mean() == pytest.approx(precision, abs=0.004)
    assert world.reached(None)[0] == 0.0
    assert world.reached(0.0) == pytest.approx((1.0, 0.8))
    assert world.reached(1.0)[0] == 0.0


def test_scores_are_the_chances_of_being_right() -> None:
    """Among 20,000 and more steps with scores from 0.85 to 0.9 the share of right ones lies there too."""
    drawn = World(400_000, 0.8, 2.0).draw(np.random.default_rng(1))
    near = (drawn.scores > 0.85) & (drawn.scores < 0.9)
    assert near.sum() > 10_000
    assert 0.85 < drawn.correct[near].mean() < 0.9


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.7])
def test_steps_of_a_session_have_the_correlation(correlation: float) -> None:
    """Of 100,000 sessions of two steps; the correlation's standard error is below 0.004."""
    drawn = World(200_000, 0.8, 0.0, correlation, 2).draw(np.random.default_rng(2))
    pairs = drawn.correct.reshape(-1, 2)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(correlation, abs=0.02)
    assert pairs.mean() == pytest.approx(0.8, abs=0.005)
    assert drawn.sessions.tolist()[:4] == [0, 0, 1, 1]


def test_scores_that_say_nothing_are_alike_within_a_session() -> None:
    """Their correlation is 1 / (1 + 0.1²); coverage is that of a normal variable."""
    world = World(200_000, 0.8, 0.0, 0.3, 2)
    drawn = world.draw(np.random.default_rng(5))
    assert np.corrcoef(drawn.scores.reshape(-1, 2).T)[0, 1] == pytest.approx(1 / 1.01, abs=0.001)
    assert world.reached(0.5) == pytest.approx(((drawn.scores >= 0.5).mean(), 0.8), abs=0.006)


def test_sgr_by_hand() -> None:
    """Eight steps take three tests at delta 0.3 / 3 = 0.1; with target 0.5 four right steps pass: 0.5 ** 4 = 0.0625.

    All right: 4, 6, 7 pass in turn. With the last two wrong, 7 has one error (8 / 128 = 0.0625) and passes. With five
    wrong at the end, 4 of 4 has one error (5 / 16), then 2 (1 / 4) and 1 fail.
    """
    scores = -np.arange(8.0)

    def found(right: list[int]) -> float | None:
        return sgr(Draw(scores, np.array(right, bool), np.arange(8)), 0.5, 0.3)

    assert float(binomial_tail(0, 4, 0.5)) == 0.0625
    assert found([1] * 8) == -6.0
    assert found([1] * 6 + [0] * 2) == -6.0
    assert found([1] * 3 + [0] * 5) is None


def test_what_is_compared() -> None:
    assert next(iter(methods("independent"))) == "handrail"
    assert set(methods("sessions")) == {"handrail", "handrail_sessions"}
    assert set(methods("boundary")) == {"handrail", "handrail_sessions", "naive"}


def test_thresholds_accept_what_they_say() -> None:
    drawn = World(1000, 0.9, 2.5).draw(np.random.default_rng(3))
    for method in (without_sessions, with_sessions, sgr, naive):
        threshold = method(drawn, 0.95, 0.05)
        assert threshold is not None
        assert drawn.correct[drawn.scores >= threshold].mean() >= 0.95


def test_mapie_finds_a_threshold() -> None:
    pytest.importorskip("mapie")
    drawn = World(2000, 0.9, 2.5).draw(np.random.default_rng(3))
    for sequence in (False, True):
        threshold = mapie(drawn, 0.95, 0.05, sequence=sequence)
        assert threshold is not None
        assert drawn.correct[drawn.scores >= threshold].mean() >= 0.95
    hopeless = World(50, 0.5, 0.0).draw(np.random.default_rng(3))
    assert mapie(hopeless, 0.99, 0.05) is None


@pytest.mark.slow
def test_more_is_certified_than_by_mapie_and_by_sgr() -> None:
    """100 draws of 1,000 steps: means 0.02 apart would be mistaken with a chance below 1e-3 if they were equal."""
    pytest.importorskip("mapie")
    rng = np.random.default_rng(4)
    world = World(1000, 0.85, 2.0)
    coverage: dict[str, list[float]] = {}
    for _ in range(100):
        drawn = world.draw(rng)
        for name, method in methods("independent").items():
            coverage.setdefault(name, []).append(world.reached(method(drawn, 0.95, 0.05))[0])
    means = {name: float(np.mean(values)) for name, values in coverage.items()}
    assert means["handrail"] > means["mapie"] + 0.02
    assert means["handrail"] > means["sgr"] + 0.02
    assert means["handrail"] >= means["mapie_sequence"] - 0.005


def test_metrics_by_hand() -> None:
    """Two worlds of two draws: 0.6 and 0.8, 0.2 and 0.4 against 0.5 and 0.7, 0.3 and 0.3."""
    found = {
        ("independent", 0.95, 0.0, "handrail"): [np.array([0.6, 0.8]), np.array([0.2, 0.4])],
        ("independent", 0.95, 0.0, "sgr"): [np.array([0.5, 0.7]), np.array([0.3, 0.3])],
        ("sessions", 0.95, 0.3, "handrail"): [np.array([0.5, 0.5])],
    }
    wrong = {("boundary", 0.3, "handrail"): [np.array([1.0, 0.0]), np.array([0.0, 0.0])]}
    metrics = power_metrics(found, wrong, np.random.default_rng(0))
    assert metrics["independent.95.handrail.coverage"] == pytest.approx(0.5)
    assert metrics["independent.95.over.sgr"] == pytest.approx(0.05)
    assert metrics["independent.95.over.sgr.least"] == pytest.approx(0.0)
    assert metrics["sessions.30.95.handrail.coverage"] == 0.5
    assert metrics["boundary.30.handrail.wrong"] == 0.25


SMALL = ["targets=[0.9]", "steps=[200]", "accuracy=[0.9]", "separation=[2.0]", "correlation=[0.0,0.5]", "draws=2"]


def test_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "experiment=certificate_power", "hydra.run.dir=out", *SMALL]) == 0
    run = RunDirectory.open(tmp_path / "out")
    for key in (
        "independent.90.handrail.coverage",
        "sessions.50.90.handrail_sessions.coverage",
        "boundary.0.naive.wrong",
    ):
        assert 0 <= run.metrics[key] <= 1
    told = json.loads(run.file("certificate_power.json").read_text())
    assert {row["data"] for row in told["rows"]} == {"independent", "sessions"}
    page = run.file("report.html").read_text()
    assert "How much can be certified" in page
    assert "Handrail, steps of sessions" in page
    assert "<svg" in page


def test_wrong_options_and_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "experiment=certificate_power", "hydra.run.dir=out", *SMALL, "delta=2"]) != 0
    assert "delta=2" in capsys.readouterr().err
    assert section(tmp_path, lambda *a, **k: None) is None
    (tmp_path / "certificate_power.json").write_text("{}")
    with pytest.raises(HandrailError, match="damaged"):
        section(tmp_path, lambda *a, **k: None)
