"""Statistics of a confidence score: how much can run alone, and how right it is then.

Plain functions on arrays. Shapes and words, everywhere:

- `scores` (n,): higher means more confident. NaN is refused (replace it by −inf); −inf means "never execute this
  step": such a step counts in the coverage's denominator and comes last in every ranking, but no threshold accepts it.
- `correct` (n,): the operator would have accepted the step. Booleans, or 0 and 1.
- `weights` (n,), optional: how often each row counts, for resampling; rows of weight 0 are as if absent.
- A step is executed if `score >= threshold`, compared as float64.

Curves are tie-aware: all steps with one score enter together, so nothing depends on the order of the rows. A
statistic that is undefined (no rows, only one class) is NaN; the cases are listed function by function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.algorithms.bootstrap import (
    Interval,
    percentile_bounds,
    resampled_histograms,
)
from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

TARGETS = (0.90, 0.95, 0.98, 0.99)
MAX_BLOCKS = 4096


@dataclass(frozen=True)
class Blocks:
    """Steps grouped by equal score, most confident group first.

    Attributes:
        scores: (k,) the distinct scores, descending.
        steps: (k,) weight of the steps with that score.
        correct: (k,) weight of the correct ones among them.
        index: (n,) the group of each row.
    """

    scores: FloatArray
    steps: FloatArray
    correct: FloatArray
    index: IntArray


@dataclass(frozen=True)
class Curve:
    """What each possible threshold would do; entry i executes every step with score >= thresholds[i].

    Attributes:
        thresholds: (k,) the distinct scores, descending.
        coverage: (k,) share of all steps executed, ascending to 1.
        precision: (k,) share of the executed steps that are correct.
        steps: (k,) executed steps.
        errors: (k,) executed steps that are wrong.
    """

    thresholds: FloatArray
    coverage: FloatArray
    precision: FloatArray
    steps: FloatArray
    errors: FloatArray

    @property
    def risk(self) -> FloatArray:
        """(k,) selective risk, 1 − precision."""
        return 1.0 - self.precision

    @property
    def generalized_risk(self) -> FloatArray:
        """(k,) share of *all* steps that are executed and wrong (Traub et al. 2024)."""
        return self.coverage * self.risk


class Operating(NamedTuple):
    """What a threshold does on some steps: share executed, share of those correct (NaN if none), number executed."""

    coverage: float
    precision: float
    n: int


def blocks(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Blocks:
    """Group steps by equal score.

    Raises:
        HandrailError: lengths differ, a score is NaN, or `correct` holds something other than 0 and 1.
    """
    values, outcome = _checked(scores, correct)
    distinct, inverse = np.unique(values, return_inverse=True)
    index = len(distinct) - 1 - inverse.reshape(-1).astype(np.int64)
    mass = None if weights is None else np.asarray(weights, dtype=np.float64)
    hits = outcome.astype(np.float64) if mass is None else outcome * mass
    return Blocks(
        scores=distinct[::-1],
        steps=_histogram(index, mass, len(distinct)),
        correct=_histogram(index, hits, len(distinct)),
        index=index,
    )


def coverage_curve(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Curve:
    """The risk–coverage and precision–coverage curve, one entry per distinct score.

    Empty input gives empty arrays; one score for all gives one entry at coverage 1.

    Source: El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017.
    """
    grouped = blocks(scores, correct, weights)
    steps, hits = np.cumsum(grouped.steps), np.cumsum(grouped.correct)
    total = steps[-1] if len(steps) else 0.0
    return Curve(
        thresholds=grouped.scores,
        coverage=_divide(steps, np.full(len(steps), total)),
        precision=_divide(hits, steps),
        steps=steps,
        errors=steps - hits,
    )


def auroc(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Chance that a correct step scores above a wrong one, ties counting half (Fawcett 2006).

    NaN if all steps are correct, all are wrong, or there are none; 0.5 if all scores are equal.
    """
    grouped = blocks(scores, correct, weights)
    return float(_auroc(grouped.steps, grouped.correct))


def auprc(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Average precision with correct steps as positives: precision weighted by the recall each score adds.

    NaN without a correct step; 1 if all are correct; the base rate if all scores are equal.
    """
    grouped = blocks(scores, correct, weights)
    return float(_auprc(grouped.steps, grouped.correct))


def aurc(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Area under the risk–coverage curve: selective risk averaged over coverage, lower is better.

    Each score contributes the risk reached with it, weighted by the coverage it adds; without ties this is the mean
    over k of the error rate among the k most confident steps (Geifman, Uziel & El-Yaniv 2019).

    NaN if empty; 0 if all correct; 1 if all wrong; the error rate if all scores are equal.
    """
    grouped = blocks(scores, correct, weights)
    return float(_aurc(grouped.steps, grouped.correct))


def augrc(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Area under the generalized risk–coverage curve: mean chance of an undetected failure, lower is better.

    Trapezoids between the curve's points from (0, 0), as in fd-shifts. With accuracy a it equals
    (1 − AUROC)·a·(1 − a) + (1 − a)²/2 (Traub et al. 2024, "Overcoming Common Flaws in the Evaluation of Selective
    Classification Systems"), so it ranks like AUROC at equal accuracy and, unlike AURC, does not give the few
    most confident steps the most weight.

    NaN if empty; 0 if all correct; 0.5 if all wrong.
    """
    grouped = blocks(scores, correct, weights)
    return float(_augrc(grouped.steps, grouped.correct))


def brier(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Mean squared difference between probability and outcome (Brier 1950); NaN if empty.

    Raises:
        HandrailError: a score is no probability; map it first (`calibrated`).
    """
    values, outcome = _checked_probabilities(scores, correct, "brier")
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    return _ratio(float(mass @ (values - outcome) ** 2), float(mass.sum()))


def ece(
    scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, bins: int = 15
) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017); NaN if empty.

    Bin i of 1..bins holds scores in ((i − 1)/bins, i/bins], the first also 0. Sum over bins of the bin's share of
    steps times |mean score − share correct|.

    Raises:
        HandrailError: a score is no probability; map it first (`calibrated`).
    """
    reliability = reliability_bins(scores, correct, weights, bins=bins)
    gaps = np.abs(reliability.mean_score - reliability.precision)
    return _ratio(float(np.nansum(reliability.steps * gaps)), float(reliability.steps.sum()))


class Reliability(NamedTuple):
    """Per bin (b,): steps in it, their mean score and share correct; the latter two are NaN in empty bins."""

    steps: FloatArray
    mean_score: FloatArray
    precision: FloatArray


def reliability_bins(
    scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, bins: int = 15
) -> Reliability:
    """The bins of `ece`, for a reliability diagram.

    Raises:
        HandrailError: a score is no probability.
    """
    values, outcome = _checked_probabilities(scores, correct, "ece")
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    which = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    steps = _histogram(which, mass, bins)
    return Reliability(
        steps=steps,
        mean_score=_divide(_histogram(which, mass * values, bins), steps),
        precision=_divide(_histogram(which, mass * outcome, bins), steps),
    )


def apply_threshold(scores: npt.ArrayLike, correct: npt.ArrayLike, threshold: float | None) -> Operating:
    """What executing every step with `score >= threshold` does; None executes nothing.

    Coverage is NaN if there are no steps, precision is NaN if none is executed.
    """
    values, outcome = _checked(scores, correct)
    executed = accepted(values, threshold)
    n = int(executed.sum())
    return Operating(_ratio(n, len(values)), _ratio(int(outcome[executed].sum()), n), n)


def accepted(scores: npt.ArrayLike, threshold: float | None) -> BoolArray:
    """Which steps (n,) run without the operator: `score >= threshold`, never where the score is −inf or NaN."""
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if threshold is None:
        return np.zeros(len(values), dtype=np.bool_)
    return (values >= threshold) & (values > -np.inf)


def f1(scores: npt.ArrayLike, correct: npt.ArrayLike, threshold: float | None) -> float:
    """F1 of "execute" as a prediction of "correct", at a threshold chosen elsewhere: 2·TP / (2·TP + FP + FN).

    0 if nothing is executed though some steps are correct; NaN if there is nothing to find and nothing is executed.
    """
    values, outcome = _checked(scores, correct)
    executed = accepted(values, threshold)
    return _ratio(2.0 * float((executed & outcome).sum()), float(executed.sum() + outcome.sum()))


def select_threshold(scores: npt.ArrayLike, correct: npt.ArrayLike, target: float) -> float | None:
    """The threshold of largest coverage whose precision on *these* steps is at least `target`; no certificate.

    Use calibration steps here and other steps to report what it reaches: on the same steps the precision is
    optimistic, because the threshold was picked for it. `certify.certify` gives a threshold with a guarantee.

    Returns:
        A score, or None if no threshold reaches the target.

    Raises:
        HandrailError: `target` is not in (0, 1].
    """
    check_level("target", target, closed=True)
    curve = coverage_curve(scores, correct)
    reaching = np.flatnonzero((curve.precision >= target) & (curve.thresholds > -np.inf))
    return float(curve.thresholds[reaching[-1]]) if len(reaching) else None


def coverage_at_precision(scores: npt.ArrayLike, correct: npt.ArrayLike, target: float) -> float:
    """Largest coverage at which precision is at least `target`, read off these very steps; 0 if none reaches it.

    Optimistic on the steps it is read from (see `select_threshold`); NaN if empty.
    """
    return apply_threshold(scores, correct, select_threshold(scores, correct, target)).coverage


def rank_statistics(
    scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> dict[str, float]:
    """`auroc`, `auprc`, `aurc` and `augrc` from one sort."""
    grouped = blocks(scores, correct, weights)
    return {name: float(statistic(grouped.steps, grouped.correct)) for name, statistic in _RANK.items()}


def rank_intervals(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Session-bootstrap intervals of the `rank_statistics`.

    Over `MAX_BLOCKS` distinct scores, neighbouring scores are merged into that many groups of equal size for the
    resampling only, and the resampled values are shifted by what merging does to the estimate.

    Args:
        scores: (n,).
        correct: (n,).
        clusters: (n,) session ids, or None for independent steps.
        rng: source of the resamples.
        resamples: number of resamples.
        level: confidence level in (0, 1).
    """
    grouped = blocks(scores, correct)
    estimates = {name: float(statistic(grouped.steps, grouped.correct)) for name, statistic in _RANK.items()}
    merged, count = _merged(grouped)
    outcome = np.asarray(correct).astype(np.int64).reshape(-1)
    cells = 2 * merged + outcome
    observed = _histogram(cells, None, 2 * count)
    draws: dict[str, list[FloatArray]] = {name: [] for name in _RANK}
    for histogram in resampled_histograms(cells, 2 * count, clusters, rng, resamples=resamples):
        hits = histogram[:, 1::2]
        steps = histogram[:, ::2] + hits
        for name, statistic in _RANK.items():
            draws[name].append(statistic(steps, hits))
    intervals = {}
    for name, statistic in _RANK.items():
        shift = estimates[name] - float(statistic(observed[::2] + observed[1::2], observed[1::2]))
        values = np.concatenate(draws[name]) + shift if draws[name] else np.zeros(0)
        intervals[name] = Interval(estimates[name], *percentile_bounds(values, level))
    return intervals


def precision_band(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    coverages: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    resamples: int = 500,
    level: float = 0.95,
) -> tuple[FloatArray, FloatArray]:
    """Pointwise session-bootstrap band of the coverage–precision curve.

    Args:
        scores: (n,).
        correct: (n,).
        clusters: (n,) session ids, or None for independent steps.
        coverages: (g,) coverages in (0, 1] at which to read precision; between two scores it is read as if the tied
            steps entered in random order.
        rng: source of the resamples.
        resamples: number of resamples.
        level: confidence level in (0, 1), for each coverage by itself.

    Returns:
        low (g,) and high (g,); NaN with fewer than two sessions.
    """
    grid = np.asarray(coverages, dtype=np.float64)
    merged, count = _merged(blocks(scores, correct))
    cells = 2 * merged + np.asarray(correct).astype(np.int64).reshape(-1)
    rows = []
    for histogram in resampled_histograms(cells, 2 * count, clusters, rng, resamples=resamples):
        hits = np.cumsum(histogram[:, 1::2], axis=1)
        steps = np.cumsum(histogram[:, ::2], axis=1) + hits
        for one_steps, one_hits in zip(steps, hits, strict=True):
            wanted = grid * one_steps[-1]
            rows.append(np.interp(wanted, np.append(0.0, one_steps), np.append(0.0, one_hits)) / wanted)
    if not rows:
        return np.full(len(grid), np.nan), np.full(len(grid), np.nan)
    low, high = np.quantile(np.stack(rows), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def threshold_intervals(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    threshold: float | None,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Interval, Interval]:
    """Coverage and precision of a fixed threshold, with session-bootstrap intervals; arguments as in `rank_intervals`.

    The precision is NaN if nothing is executed.
    """
    values, outcome = _checked(scores, correct)
    executed = accepted(values, threshold)
    cells = executed.astype(np.int64) + (executed & outcome)
    rates = [_rates(_histogram(cells, None, 3)[None, :])]
    rates += [_rates(part) for part in resampled_histograms(cells, 3, clusters, rng, resamples=resamples)]
    (coverage, precision), draws = rates[0][0], np.concatenate(rates)[1:]
    return (
        Interval(float(coverage), *percentile_bounds(draws[:, 0], level)),
        Interval(float(precision), *percentile_bounds(draws[:, 1], level)),
    )


def _rates(histogram: FloatArray) -> FloatArray:
    """Coverage and precision (b, 2) from numbers of deferred, wrongly and rightly executed steps (b, 3)."""
    executed = histogram[:, 1] + histogram[:, 2]
    return np.stack([_divide(executed, histogram.sum(axis=1)), _divide(histogram[:, 2], executed)], axis=1)


def platt(scores: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[float, float]:
    """Fit p(correct) = sigmoid(slope · score + intercept) by Newton's method (Platt 1999; Lin, Lin & Weng 2007).

    Platt's smoothed targets, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), keep the fit finite where the classes are separable
    or only one is present. Scores of −inf count as the lowest finite score.

    Returns:
        slope and intercept; slope 0 if all scores are equal.

    Raises:
        HandrailError: there are no steps with a finite score.
    """
    values, outcome = _checked(scores, correct)
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


def selective_metrics(
    prefix: str,
    scores_calibration: npt.ArrayLike,
    correct_calibration: npt.ArrayLike,
    scores_test: npt.ArrayLike,
    correct_test: npt.ArrayLike,
    sessions_test: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    targets: Sequence[float] = TARGETS,
    probabilities: bool | None = None,
    resamples: int = 1000,
) -> dict[str, float]:
    """The metric keys of one confidence method, e.g. `critic.probe.auroc`, from calibration and test steps.

    - `auroc auprc aurc augrc` on test with intervals; `brier ece` on test; for scores that are no probabilities after
      `calibrated` on the calibration steps.
    - `coverage_at_precision_95` and the like: the threshold is `select_threshold` on calibration; the value is the
      coverage it has on test, `.precision` the precision it reaches there, `.threshold` the threshold; coverage is 0
      and the others are absent where no threshold reaches the target on calibration.
    - `f1`: on test, at the calibration threshold for 95 % precision; 0 if there is none.

    `x.ci_low` and `x.ci_high` bound `x`. Undefined values are left out.

    Args:
        prefix: what the keys start with, e.g. `critic.probe`; empty for none.
        scores_calibration: (m,).
        correct_calibration: (m,).
        scores_test: (n,).
        correct_test: (n,).
        sessions_test: (n,) session ids, or None for independent steps.
        rng: source of the resamples.
        targets: precisions to reach.
        probabilities: whether scores are probabilities of being correct; by default, if all lie in [0, 1].
        resamples: number of bootstrap resamples.
    """
    found: dict[str, float] = {}
    intervals = rank_intervals(scores_test, correct_test, sessions_test, rng, resamples=resamples)
    for name, interval in intervals.items():
        put_interval(found, name, interval)
    if probabilities is None:
        probabilities = are_probabilities(scores_calibration) and are_probabilities(scores_test)
    p = scores_test if probabilities else calibrated(scores_calibration, correct_calibration, scores_test)
    found["brier"] = brier(p, correct_test)
    found["ece"] = ece(p, correct_test)
    found["f1"] = f1(scores_test, correct_test, select_threshold(scores_calibration, correct_calibration, 0.95))
    for target in targets:
        threshold = select_threshold(scores_calibration, correct_calibration, target)
        coverage, precision = threshold_intervals(
            scores_test, correct_test, sessions_test, threshold, rng, resamples=resamples
        )
        key = f"coverage_at_precision_{percent(target)}"
        put_interval(found, key, coverage)
        put_interval(found, f"{key}.precision", precision)
        if threshold is not None:
            found[f"{key}.threshold"] = threshold
    return with_prefix(prefix, found)


def percent(target: float) -> str:
    """Name a target in a metric key: 0.95 is `95`, 0.995 is `99_5`."""
    return f"{100 * target:.6g}".replace(".", "_")


def put_interval(metrics: dict[str, float], key: str, interval: Interval) -> None:
    """Store an interval as `key`, `key.ci_low` and `key.ci_high`."""
    metrics[key] = interval.estimate
    metrics[f"{key}.ci_low"] = interval.low
    metrics[f"{key}.ci_high"] = interval.high


def with_prefix(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """Prefix the keys and leave out what is undefined (NaN) or infinite."""
    dot = f"{prefix}." if prefix else ""
    return {f"{dot}{key}": float(value) for key, value in metrics.items() if math.isfinite(value)}


def are_probabilities(scores: npt.ArrayLike) -> bool:
    """Whether all scores lie in [0, 1]."""
    values = np.asarray(scores, dtype=np.float64)
    return bool(((values >= 0) & (values <= 1)).all())


def check_level(name: str, value: float, *, closed: bool = False) -> None:
    """Raise HandrailError unless `value` is in (0, 1), or (0, 1] if `closed`."""
    if not (0 < value < 1 or (closed and value == 1)):
        raise HandrailError(f"{name} is {value!r}; expected a number in (0, 1{']' if closed else ')'}, e.g. 0.95")


def _auroc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    misses = steps - hits
    above = np.cumsum(hits, axis=-1) - hits / 2
    return _divide((misses * above).sum(axis=-1), hits.sum(axis=-1) * misses.sum(axis=-1))


def _auprc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    precision = _divide(np.cumsum(hits, axis=-1), np.cumsum(steps, axis=-1), empty=0.0)
    return _divide((hits * precision).sum(axis=-1), hits.sum(axis=-1))


def _aurc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    risk = _divide(np.cumsum(steps - hits, axis=-1), np.cumsum(steps, axis=-1), empty=0.0)
    return _divide((steps * risk).sum(axis=-1), steps.sum(axis=-1))


def _augrc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    misses = steps - hits
    middle = np.cumsum(misses, axis=-1) - misses / 2
    return _divide((steps * middle).sum(axis=-1), steps.sum(axis=-1) ** 2)


_RANK = {"auroc": _auroc, "auprc": _auprc, "aurc": _aurc, "augrc": _augrc}


def _merged(grouped: Blocks) -> tuple[IntArray, int]:
    """Group of each row (n,) with at most MAX_BLOCKS groups of neighbouring scores, and their number."""
    count = len(grouped.scores)
    if count <= MAX_BLOCKS:
        return grouped.index, count
    before = np.cumsum(grouped.steps) - grouped.steps
    target = (before * (MAX_BLOCKS / grouped.steps.sum())).astype(np.int64)
    return target[grouped.index], MAX_BLOCKS


def _checked(scores: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    outcome = np.asarray(correct).reshape(-1)
    if len(values) != len(outcome):
        raise HandrailError(f"{len(values)} scores but {len(outcome)} outcomes; expected one outcome a score")
    missing = np.isnan(values)
    if missing.any():
        raise HandrailError(
            f"{int(missing.sum())} of {len(values)} scores are NaN, the first at row {int(missing.argmax())}; "
            "replace them by -inf for steps that must go to the operator"
        )
    if outcome.dtype != np.bool_:
        strange = (outcome != 0) & (outcome != 1)
        if strange.any():
            row = int(strange.argmax())
            raise HandrailError(f"correct is {outcome[row]!r} at row {row}; expected 0 or 1, or true or false")
        outcome = outcome.astype(np.bool_)
    return values, outcome


def _checked_probabilities(scores: npt.ArrayLike, correct: npt.ArrayLike, name: str) -> tuple[FloatArray, BoolArray]:
    values, outcome = _checked(scores, correct)
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


def _histogram(index: IntArray, weights: FloatArray | None, count: int) -> FloatArray:
    return np.bincount(index, weights=weights, minlength=count).astype(np.float64)


def _divide(top: FloatArray, bottom: FloatArray, empty: float = np.nan) -> FloatArray:
    result: FloatArray = np.divide(top, bottom, out=np.full(np.shape(top), empty), where=np.asarray(bottom) != 0)
    return result


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _logistic_loss(x: FloatArray, goal: FloatArray) -> float:
    return float((np.logaddexp(0.0, x) - goal * x).sum())
