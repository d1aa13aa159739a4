"""Scores as probabilities: how far they are from what happens, and how to make probabilities of other scores.

Shapes and words as in `risk_coverage`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.algorithms.risk_coverage import BoolArray, FloatArray, IntArray, checked, divide, histogram, ratio
from handrail.envs.errors import HandrailError


def brier(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Mean squared difference between probability and outcome (Brier 1950); NaN if empty.

    Raises:
        HandrailError: a score is no probability; map it first (`calibrated`).
    """
    values, outcome = _checked_probabilities(scores, correct, "brier")
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    return ratio(float(mass @ (values - outcome) ** 2), float(mass.sum()))


def ece(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 15,
    equal_mass: bool = True,
) -> float:
    """Expected calibration error: sum over bins of the bin's share of steps times |mean score − share correct|.

    Bins of equal mass adapt to where the scores lie (Nixon et al. 2019, "Measuring Calibration in Deep Learning");
    bins of equal width are the classical ones (Guo et al. 2017), which leave most scores of a sharp critic in one bin.
    See `bin_of`. NaN if empty.

    Raises:
        HandrailError: a score is no probability; map it first (`calibrated`).
    """
    reliability = reliability_bins(scores, correct, weights, bins=bins, equal_mass=equal_mass)
    gaps = np.abs(reliability.mean_score - reliability.precision)
    return ratio(float(np.nansum(reliability.steps * gaps)), float(reliability.steps.sum()))


class Reliability(NamedTuple):
    """Per bin (b,): steps in it, their mean score and share correct; the latter two are NaN in empty bins."""

    steps: FloatArray
    mean_score: FloatArray
    precision: FloatArray


def reliability_bins(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 15,
    equal_mass: bool = False,
) -> Reliability:
    """Bins for a reliability diagram, of equal width by default.

    Raises:
        HandrailError: a score is no probability.
    """
    values, outcome = _checked_probabilities(scores, correct, "ece")
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    which = bin_of(values, mass, bins=bins, equal_mass=equal_mass)
    steps = histogram(which, mass, bins)
    return Reliability(
        steps=steps,
        mean_score=divide(histogram(which, mass * values, bins), steps),
        precision=divide(histogram(which, mass * outcome, bins), steps),
    )


def bin_of(values: FloatArray, mass: FloatArray, *, bins: int, equal_mass: bool) -> IntArray:
    """The bin (n,) in [0, bins) of each probability (n,), given how often it counts (n,).

    Equal width: bin i holds (i/bins, (i + 1)/bins], the first also 0. Equal mass: of the probabilities in ascending
    order each bin gets the same share; all steps with one probability go to the bin in which their middle lies, so
    bins may be empty where there are ties.
    """
    if not equal_mass:
        return np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    _, index = np.unique(values, return_inverse=True)
    index = index.reshape(-1)
    steps = np.bincount(index, weights=mass)
    middle = np.cumsum(steps) - steps / 2
    return np.clip((middle * bins / max(float(mass.sum()), 1.0)).astype(np.int64), 0, bins - 1)[index]


def platt(scores: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[float, float]:
    """Fit p(correct) = sigmoid(slope · score + intercept) by Newton's method (Platt 1999; Lin, Lin & Weng 2007).

    Platt's smoothed targets, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), keep the fit finite where the classes are separable
    or only one is present. Scores of −inf count as the lowest finite score.

    Returns:
        slope and intercept; slope 0 if all scores are equal.

    Raises:
        HandrailError: there are no steps with a finite score.
    """
    values, outcome = checked(scores, correct)
    if not np.isfinite(values).any():
        raise HandrailError(
            f"platt: none of {len(values)} calibration steps has a finite score; expected at least one, "
            "look at the method that made the scores"
        )
    values = _finite(values, values)
    positives = int(outcome.sum())
    goal = np.where(outcome, (positives + 1) / (positives + 2), 1 / (len(outcome) - positives + 2))
    centre, spread = float(values.mean()), float(values.std())
    if spread == 0:
        return 0.0, _logit(float(goal.mean()))
    design = np.stack([(values - centre) / spread, np.ones(len(values))], axis=1)
    beta = np.array([0.0, _logit(float(goal.mean()))])
    loss = _logistic_loss(design @ beta, goal)
    for _ in range(100):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (p - goal)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-10 * np.eye(2)
        direction = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (lower := _logistic_loss(design @ (beta - size * direction), goal)) > loss and size > 1e-10:
            size /= 2
        beta = beta - size * direction
        if loss - lower <= 1e-12 * abs(loss):
            break
        loss = lower
    return float(beta[0] / spread), float(beta[1] - beta[0] * centre / spread)


def calibrated(
    scores_calibration: npt.ArrayLike, correct_calibration: npt.ArrayLike, scores: npt.ArrayLike
) -> FloatArray:
    """Turn any scores (m,) into probabilities with `platt`, fitted on calibration steps only."""
    slope, intercept = platt(scores_calibration, correct_calibration)
    reference = np.asarray(scores_calibration, dtype=np.float64).reshape(-1)
    return _sigmoid(slope * _finite(np.asarray(scores, dtype=np.float64).reshape(-1), reference) + intercept)


def are_probabilities(scores: npt.ArrayLike) -> bool:
    """Whether all scores lie in [0, 1]."""
    values = np.asarray(scores, dtype=np.float64)
    return bool(((values >= 0) & (values <= 1)).all())


def _checked_probabilities(scores: npt.ArrayLike, correct: npt.ArrayLike, name: str) -> tuple[FloatArray, BoolArray]:
    values, outcome = checked(scores, correct)
    outside = (values < 0) | (values > 1)
    if outside.any():
        row = int(outside.argmax())
        raise HandrailError(
            f"{name}: score {values[row]!r} at row {row} is no probability; expected [0, 1], "
            "map other scores with selective.calibrated first"
        )
    return values, outcome


def _finite(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Clip infinite scores to the range of the finite ones in `reference`."""
    finite = reference[np.isfinite(reference)]
    return np.where(np.isfinite(values), values, np.clip(values, finite.min(), finite.max()))


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _logistic_loss(x: FloatArray, goal: FloatArray) -> float:
    return float((np.logaddexp(0.0, x) - goal * x).sum())
