"""The metrics against their definitions in the papers, written out naively, and against other packages' versions.

Jaeger et al. 2023, "A Call to Reflect on Evaluation Practices for Failure Detection in Image Classification" (the
fd-shifts benchmark); Traub et al. 2024, "Overcoming Common Flaws in the Evaluation of Selective Classification
Systems"; Geifman, Uziel & El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers".
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from handrail.algorithms import selective

tied = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=50)


def arrays(case: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in case]) / 8, np.array([right for _, right in case])


def points(scores: np.ndarray, correct: np.ndarray) -> list[tuple[float, float, float]]:
    """Coverage, selective risk and generalized risk at every threshold, from few steps to all."""
    found = []
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        errors = int((chosen & ~correct).sum())
        found.append((chosen.mean(), errors / chosen.sum(), errors / len(scores)))
    return found


def steps_area(xs: list[float], ys: list[float]) -> float:
    """Each point's value over the coverage that it adds."""
    return sum((x - before) * y for x, before, y in zip(xs, [0.0, *xs], ys, strict=False))


def trapezoids(xs: list[float], ys: list[float], start: float) -> float:
    area, x0, y0 = 0.0, 0.0, start
    for x, y in zip(xs, ys, strict=True):
        area, x0, y0 = area + (x - x0) * (y + y0) / 2, x, y
    return area


@given(tied)
def test_aurc_is_the_risk_averaged_over_coverage(case) -> None:
    """Geifman et al. 2019, equation 2, where a tie is one threshold."""
    scores, correct = arrays(case)
    coverage, risk, _ = map(list, zip(*points(scores, correct), strict=True))
    assert selective.aurc(scores, correct) == pytest.approx(steps_area(coverage, risk))


@given(tied)
def test_aurc_differs_from_fd_shifts_by_half_a_step(case) -> None:
    """Jaeger et al. draw straight lines between the points and begin with the first risk.

    The two areas differ by at most half of what the risk changes over the widest step.
    """
    scores, correct = arrays(case)
    coverage, risk, _ = map(list, zip(*points(scores, correct), strict=True))
    other = trapezoids(coverage, risk, start=risk[0])
    widest = max(np.diff([0.0, *coverage]))
    moved = np.abs(np.diff(risk)).sum()
    assert abs(selective.aurc(scores, correct) - other) <= widest * moved / 2 + 1e-12


def test_aurc_equals_that_of_fd_shifts_over_many_steps() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    correct = rng.random(20_000) < scores
    coverage, risk = selective.coverage_curve(scores, correct).coverage, selective.coverage_curve(scores, correct).risk
    other = trapezoids(list(coverage), list(risk), start=float(risk[0]))
    assert selective.aurc(scores, correct) == pytest.approx(other, abs=1e-3)


@given(tied)
def test_augrc_is_that_of_fd_shifts(case) -> None:
    """Traub et al. 2024: straight lines between the points of the generalized risk, from 0."""
    scores, correct = arrays(case)
    coverage, _, risk = map(list, zip(*points(scores, correct), strict=True))
    assert selective.augrc(scores, correct) == pytest.approx(trapezoids(coverage, risk, start=0.0))


@given(tied)
def test_augrc_is_the_chance_that_an_error_is_accepted_before_something_else(case) -> None:
    """Traub et al. 2024, equation 5: of two steps drawn with replacement, one is wrong and not less confident.

    Ties count half, and so does a step drawn twice.
    """
    scores, correct = arrays(case)
    total = 0.0
    for score, right in zip(scores, correct, strict=True):
        if not right:
            total += (scores < score).sum() + 0.5 * (scores == score).sum()
    assert selective.augrc(scores, correct) == pytest.approx(total / len(scores) ** 2)


@given(tied)
def test_excess_aurc_is_that_of_geifman(case) -> None:
    """Against the ideal ranking itself, and its approximation r + (1 − r)·log(1 − r), which is less than 1/n lower."""
    scores, correct = arrays(case)
    n, r = len(scores), float(1 - correct.mean())
    ideal = selective.aurc(np.arange(n, 0, -1), np.sort(correct)[::-1])
    found = selective.eaurc(scores, correct)
    assert found == pytest.approx(selective.aurc(scores, correct) - ideal, abs=1e-9)
    assert found >= 0
    approximate = r + (1 - r) * np.log(1 - r) if r < 1 else 1.0
    assert -1e-9 <= ideal - approximate < 1 / n


@given(tied, st.integers(1, 20))
def test_risk_at_coverage_is_the_first_point_that_reaches_it(case, tenths) -> None:
    scores, correct = arrays(case)
    wanted = tenths / 20
    risk = next(risk for coverage, risk, _ in points(scores, correct) if coverage >= wanted - 1e-12)
    assert selective.risk_at_coverage(scores, correct, wanted) == pytest.approx(risk)


@given(tied, st.sampled_from([0.5, 0.75, 0.9, 1.0]))
def test_coverage_at_precision_is_the_last_point_that_keeps_it(case, target) -> None:
    scores, correct = arrays(case)
    coverages = [coverage for coverage, risk, _ in points(scores, correct) if 1 - risk >= target - 1e-12]
    assert selective.coverage_at_precision(scores, correct, target) == pytest.approx(max(coverages, default=0.0))


@given(tied)
def test_scikit_learn_says_the_same(case) -> None:
    scores, correct = arrays(case)
    if correct.any() and not correct.all():
        assert selective.auroc(scores, correct) == pytest.approx(roc_auc_score(correct, scores))
    if correct.any():
        assert selective.auprc(scores, correct) == pytest.approx(average_precision_score(correct, scores))
    assert selective.brier(scores, correct) == pytest.approx(brier_score_loss(correct, scores))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(tied)
def test_torchmetrics_says_the_same(case) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    scores, correct = arrays(case)
    p, outcome = torch.tensor(scores, dtype=torch.float64), torch.tensor(correct.astype(int))
    if correct.any() and not correct.all():
        assert selective.auroc(scores, correct) == pytest.approx(float(functional.binary_auroc(p, outcome)), abs=1e-6)
        found = float(functional.binary_average_precision(p, outcome))
        assert selective.auprc(scores, correct) == pytest.approx(found, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_torchmetrics_has_the_same_bins_of_equal_width(seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    rng = np.random.default_rng(seed)
    scores = rng.beta(3, 1, size=500)
    correct = rng.random(500) < scores**2
    expected = functional.binary_calibration_error(
        torch.tensor(scores), torch.tensor(correct.astype(int)), n_bins=15, norm="l1"
    )
    assert selective.ece(scores, correct, bins=15, equal_mass=False) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_mapie_has_the_same_bins(seed: int) -> None:
    """MAPIE splits an array into bins of equal mass as it comes, so it comes sorted; k edges are k − 1 equal widths."""
    calibration = pytest.importorskip("mapie.metrics.calibration")
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.beta(3, 1, size=600))
    correct = rng.random(600) < scores**2
    for bins, strategy, equal_mass in ((15, "array split", True), (16, "uniform", False)):
        expected = calibration.expected_calibration_error(
            correct.astype(int), scores, num_bins=bins, split_strategy=strategy
        )
        assert selective.ece(scores, correct, bins=15, equal_mass=equal_mass) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), min_size=15, max_size=60, unique_by=lambda x: x[0]))
def test_bins_of_equal_mass_are_equal_without_ties(case) -> None:
    scores, correct = np.array([s for s, _ in case]) / 10_000, np.array([c for _, c in case])
    sizes = selective.reliability_bins(scores, correct, bins=15, equal_mass=True).steps
    assert sizes.sum() == len(scores)
    assert sizes.max() - sizes.min() <= 1
