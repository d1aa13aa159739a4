"""What a confidence score is worth: named metrics with session-bootstrap intervals.

The statistics themselves are in `risk_coverage` (rankings, curves, thresholds), `calibration` (probabilities) and
`summaries` (resampled together, two scores compared); what users need of them can be imported from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from handrail.algorithms.bootstrap import Cells, Interval, percentile_bounds, resampled_histograms
from handrail.algorithms.calibration import (
    Reliability,
    are_probabilities,
    brier,
    calibrated,
    ece,
    platt,
    reliability_bins,
)
from handrail.algorithms.risk_coverage import (
    Blocks,
    Curve,
    Operating,
    accepted,
    apply_threshold,
    augrc,
    auprc,
    aurc,
    auroc,
    blocks,
    check_level,
    checked,
    coverage_at_precision,
    coverage_curve,
    divide,
    eaurc,
    f1,
    histogram,
    percent,
    rank_statistics,
    risk_at_coverage,
    select_threshold,
)
from handrail.algorithms.summaries import Difference, Resampled, Summary, compare, resample, summarize, summarize_groups

__all__ = [
    "COVERAGES",
    "TARGETS",
    "Blocks",
    "Curve",
    "Difference",
    "Operating",
    "Reliability",
    "Resampled",
    "Summary",
    "accepted",
    "apply_threshold",
    "are_probabilities",
    "augrc",
    "auprc",
    "aurc",
    "auroc",
    "blocks",
    "brier",
    "calibrated",
    "check_level",
    "compare",
    "coverage_at_precision",
    "coverage_curve",
    "eaurc",
    "ece",
    "f1",
    "percent",
    "platt",
    "precision_band",
    "put_difference",
    "put_interval",
    "rank_intervals",
    "rank_statistics",
    "reliability_bins",
    "resample",
    "risk_at_coverage",
    "select_threshold",
    "selective_metrics",
    "summarize",
    "summarize_groups",
    "summarize_method",
    "threshold_intervals",
    "with_prefix",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TARGETS = (0.90, 0.95, 0.98, 0.99)
COVERAGES = (0.5, 0.8, 0.9)
"""Coverages at which selective risk is reported."""


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

    Args:
        scores: (n,).
        correct: (n,).
        clusters: (n,) session ids, or None for independent steps.
        rng: source of the resamples.
        resamples: number of resamples.
        level: confidence level in (0, 1).
    """
    return resample([summarize(scores, correct)], clusters, rng, resamples=resamples)[0].intervals(level)


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
        coverages: (g,) coverages in (0, 1], as the grid of `summarize`.
        rng: source of the resamples.
        resamples: number of resamples.
        level: confidence level in (0, 1), for each coverage by itself.

    Returns:
        low (g,) and high (g,); NaN with fewer than two sessions.
    """
    return resample([summarize(scores, correct, grid=coverages)], clusters, rng, resamples=resamples)[0].band(level)


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
    values, outcome = checked(scores, correct)
    executed = accepted(values, threshold)
    cells = Cells(executed.astype(np.int64) + (executed & outcome), 3)
    rates = [_rates(histogram(cells.index, None, 3)[None, :])]
    rates += [_rates(part) for (part,) in resampled_histograms([cells], clusters, rng, resamples=resamples)]
    (coverage, precision), draws = rates[0][0], np.concatenate(rates)[1:]
    return (
        Interval(float(coverage), *percentile_bounds(draws[:, 0], level)),
        Interval(float(precision), *percentile_bounds(draws[:, 1], level)),
    )


def _rates(counts: FloatArray) -> FloatArray:
    """Coverage and precision (b, 2) from numbers of deferred, wrongly and rightly executed steps (b, 3)."""
    executed = counts[:, 1] + counts[:, 2]
    return np.stack([divide(executed, counts.sum(axis=1)), divide(counts[:, 2], executed)], axis=1)


def summarize_method(
    scores_calibration: npt.ArrayLike,
    correct_calibration: npt.ArrayLike,
    scores_test: npt.ArrayLike,
    correct_test: npt.ArrayLike,
    *,
    targets: Sequence[float] = TARGETS,
    probabilities: bool | None = None,
    thresholds: Mapping[str, float | None] | None = None,
    grid: npt.ArrayLike = (),
) -> Summary:
    """Summarize a score on test steps, with thresholds and probabilities from calibration steps.

    Args:
        scores_calibration: (m,).
        correct_calibration: (m,).
        scores_test: (n,).
        correct_test: (n,).
        targets: precisions; the threshold for 0.95, by `select_threshold`, is called `coverage_at_precision_95`.
        probabilities: whether scores are probabilities of being correct; by default, if all lie in [0, 1]. Others are
            mapped by `calibrated`.
        thresholds: further thresholds, by name.
        grid: as in `summarize`.
    """
    if probabilities is None:
        probabilities = are_probabilities(scores_calibration) and are_probabilities(scores_test)
    p = scores_test if probabilities else calibrated(scores_calibration, correct_calibration, scores_test)
    chosen = {
        f"coverage_at_precision_{percent(target)}": select_threshold(scores_calibration, correct_calibration, target)
        for target in targets
    }
    return summarize(
        scores_test,
        correct_test,
        thresholds={**chosen, **(thresholds or {})},
        coverages=COVERAGES,
        probabilities=p,
        grid=grid,
    )


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

    - `auroc auprc aurc eaurc augrc`, `brier ece` and `risk_at_coverage_{50,80,90}` on test; for scores that are no
      probabilities the middle two after `calibrated` on the calibration steps.
    - `coverage_at_precision_95` and the like: the threshold is `select_threshold` on calibration; the value is the
      coverage it has on test, `.precision` the precision it reaches there, `.threshold` the threshold; coverage is 0
      and the others are absent where no threshold reaches the target on calibration.
    - `f1`: on test, at the calibration threshold for 95 % precision; 0 if there is none; without an interval.

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
    summary = summarize_method(
        scores_calibration, correct_calibration, scores_test, correct_test, targets=targets, probabilities=probabilities
    )
    found: dict[str, float] = {}
    for name, interval in resample([summary], sessions_test, rng, resamples=resamples)[0].intervals().items():
        put_interval(found, name, interval)
    for target in targets:
        threshold = select_threshold(scores_calibration, correct_calibration, target)
        if threshold is not None:
            found[f"coverage_at_precision_{percent(target)}.threshold"] = threshold
    found["f1"] = f1(scores_test, correct_test, select_threshold(scores_calibration, correct_calibration, 0.95))
    return with_prefix(prefix, found)


def put_interval(metrics: dict[str, float], key: str, interval: Interval) -> None:
    """Store an interval as `key`, `key.ci_low` and `key.ci_high`."""
    metrics[key] = interval.estimate
    metrics[f"{key}.ci_low"] = interval.low
    metrics[f"{key}.ci_high"] = interval.high


def put_difference(metrics: dict[str, float], key: str, difference: Difference) -> None:
    """Store a difference as `key`, `key.ci_low`, `key.ci_high` and `key.p_value`."""
    put_interval(metrics, key, Interval(*difference[:3]))
    metrics[f"{key}.p_value"] = difference.p_value


def with_prefix(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """Prefix the keys and leave out what is undefined (NaN) or infinite."""
    dot = f"{prefix}." if prefix else ""
    return {f"{dot}{key}": float(value) for key, value in metrics.items() if math.isfinite(value)}
