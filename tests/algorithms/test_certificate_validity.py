"""How often certificates are wrong: 1,000 recalibrations in worlds whose true precision is known in closed form.

Everywhere delta = 0.1. If wrong certificates had a chance of exactly 0.1, more than 141 of 1,000 would come with a
chance below 2e-5 (exact binomial tail, checked below); that is the chance of a false alarm of each test that asks for
at most 141. Where a method is shown to fail, it has more than 141.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import bdtrc, ndtr

from handrail.algorithms.certify import certify, certify_groups, select_threshold
from handrail.algorithms.session_risk import certify_issues, session_table

pytestmark = pytest.mark.slow

RUNS, DELTA, LIMIT, TARGET = 1000, 0.1, 141, 0.9
CORRELATIONS = [0.0, 0.3, 0.7]
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
World = tuple[Callable[[np.random.Generator, float], Drawn], Callable[[float], float]]


def test_the_limit_has_the_chance_that_is_claimed() -> None:
    assert bdtrc(LIMIT, RUNS, DELTA) < 2e-5


def outcomes(rng: np.random.Generator, sizes: np.ndarray, chances: np.ndarray, correlation: float) -> Drawn:
    """Sessions (n,), positions and outcomes of steps; any two steps of a session have this correlation.

    A step takes its session's outcome with chance sqrt(correlation), and its own otherwise.
    """
    names = np.repeat(np.arange(len(sizes)), sizes)
    common = rng.random(len(sizes)) < chances
    own = rng.random(len(names)) < chances[names]
    right = np.where(rng.random(len(names)) < np.sqrt(correlation), common[names], own)
    return names, rng.random(len(names)), right


def boundary(rng: np.random.Generator, correlation: float) -> Drawn:
    """Scores say nothing but are alike within a session, and 89.9 % are right: every certificate is wrong."""
    names, scores, right = outcomes(rng, np.full(120, 5), np.full(120, 0.899), correlation)
    return names, rng.random(120)[names] + 0.001 * scores, right


def sizes_matter(rng: np.random.Generator, correlation: float) -> Drawn:
    """Sessions of one step, 99 % right, and of nine, 88.88 % right: (0.99 + 9 · 0.8888) / 10 = 0.8989 of the steps."""
    sizes = np.where(rng.random(150) < 0.5, 1, 9)
    return outcomes(rng, sizes, np.where(sizes == 1, 0.99, 0.8888), correlation)


SEPARATION, ACCURACY = 1.5, 0.8


def crossing(rng: np.random.Generator, correlation: float) -> Drawn:
    """Scores say much, and precision falls below the target at some coverage."""
    names, _, right = outcomes(rng, np.full(120, 5), np.full(120, ACCURACY), correlation)
    return names, rng.normal(size=len(names)) + SEPARATION * right, right


def crossing_precision(threshold: float) -> float:
    right = ACCURACY * ndtr(SEPARATION - threshold)
    return float(right / (right + (1 - ACCURACY) * ndtr(-threshold)))


WORLDS: dict[str, World] = {
    "boundary": (boundary, lambda _: 0.899),
    "sizes_matter": (sizes_matter, lambda _: 0.8989),
    "crossing": (crossing, crossing_precision),
}


@pytest.mark.parametrize(("world", "cap"), [*((world, None) for world in WORLDS), ("boundary", 3), ("crossing", 3)])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_certificates_with_sessions(world: str, cap: int | None, correlation: float) -> None:
    """A cap would change the precision that is certified in `sizes_matter`, and no other."""
    draw, precision = WORLDS[world]
    rng = np.random.default_rng(21)
    wrong = 0
    for _ in range(RUNS):
        names, scores, right = draw(rng, correlation)
        threshold = certify(scores, right, TARGET, DELTA, sessions=names, cap=cap).threshold
        wrong += threshold is not None and precision(threshold) < TARGET
    assert wrong <= LIMIT


@pytest.mark.parametrize("world", ["boundary", "crossing"])
def test_certificates_of_independent_steps(world: str) -> None:
    """The binomial certificate is wrong about as often as it may be at the boundary, so the test has power."""
    draw, precision = WORLDS[world]
    rng = np.random.default_rng(22)
    wrong = 0
    for _ in range(RUNS):
        _, scores, right = draw(rng, 0.0)
        threshold = certify(scores, right, TARGET, DELTA).threshold
        wrong += threshold is not None and precision(threshold) < TARGET
    assert wrong <= LIMIT
    assert world != "boundary" or wrong >= 30


@pytest.mark.parametrize("correlation", [0.3, 0.7])
def test_taking_steps_as_independent_fails_where_they_are_not(correlation: float) -> None:
    rng = np.random.default_rng(23)
    wrong = 0
    for _ in range(RUNS):
        _, scores, right = boundary(rng, correlation)
        wrong += certify(scores, right, TARGET, DELTA).threshold is not None
    assert wrong > LIMIT


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_reading_the_threshold_off_the_curve_fails(world: str, correlation: float) -> None:
    draw, precision = WORLDS[world]
    rng = np.random.default_rng(24)
    wrong = 0
    for _ in range(RUNS):
        _, scores, right = draw(rng, correlation)
        threshold = select_threshold(scores, right, TARGET)
        wrong += threshold is not None and precision(threshold) < TARGET
    assert wrong > LIMIT


ISSUES = np.array(["a", "b", "c", "d", "e", "f"])
SESSIONS = np.array([150, 120, 100, 80, 10, 10])
CHANCES = np.array([0.899, 0.899, 1.0, 0.899, 0.899, 0.899])
"""All but c are wrong to certify; c is certified for all its steps and passes its level on. e and f share the pool."""


def of_issues(rng: np.random.Generator, correlation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    kinds = np.repeat(ISSUES, SESSIONS)
    names, scores, right = outcomes(rng, np.full(len(kinds), 3), np.repeat(CHANCES, SESSIONS), correlation)
    return names, scores, right, kinds[names]


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_certificates_of_issues_hold_all_at_once(correlation: float) -> None:
    """A run is wrong if any issue but c has a threshold; without the correction far more runs are."""
    rng = np.random.default_rng(25)
    wrong = passed_on = 0
    for _ in range(RUNS):
        names, scores, right, kinds = of_issues(rng, correlation)
        found = certify_groups(scores, right, kinds, TARGET, DELTA, sessions=names)
        wrong += any(threshold is not None for issue, threshold in found.thresholds.items() if issue != "c")
        passed_on += found["a"].delta > DELTA / len(found.own) - 1e-12
    assert wrong <= LIMIT
    assert passed_on > 0.99 * RUNS


def test_certificates_of_issues_hold_all_at_once_for_independent_steps() -> None:
    rng = np.random.default_rng(26)
    wrong = uncorrected = 0
    for _ in range(RUNS):
        _, scores, right, kinds = of_issues(rng, 0.0)
        found = certify_groups(scores, right, kinds, TARGET, DELTA)
        wrong += any(threshold is not None for issue, threshold in found.thresholds.items() if issue != "c")
        uncorrected += any(
            certify(scores[kinds == issue], right[kinds == issue], TARGET, DELTA).threshold is not None
            for issue in ("a", "b", "d")
        )
    assert wrong <= LIMIT
    assert uncorrected > LIMIT


def test_certificates_of_sessions_of_issues_hold_all_at_once() -> None:
    """A tenth and a little more of the sessions of each issue but c is all wrong, with the highest scores."""
    rng = np.random.default_rng(27)
    wrong = 0
    for _ in range(RUNS):
        kinds = np.repeat(ISSUES, SESSIONS)
        bad = rng.random(len(kinds)) < np.where(kinds == "c", 0.0, 0.101)
        table = session_table(np.arange(len(kinds)), np.where(bad, 1.0, rng.random(len(kinds))), ~bad, kinds)
        found = certify_issues(table, 1 - TARGET, DELTA)
        wrong += any(threshold is not None for issue, threshold in found.thresholds.items() if issue != "c")
    assert wrong <= LIMIT
