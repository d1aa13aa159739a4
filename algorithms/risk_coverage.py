"""How well a score orders steps, and what a threshold on it does: plain functions on arrays.

Shapes and words, here and in `calibration` and `selective`:

- `scores` (n,): higher means more confident. NaN is refused (replace it by −inf); −inf means "never execute this
  step": such a step counts in the coverage's denominator and comes last in every ranking, but no threshold accepts it.
- `correct` (n,): the operator would have accepted the step. Booleans, or 0 and 1.
- `weights` (n,), optional: how often each row counts, for resampling; rows of weight 0 are as if absent.
- A step is executed if `score >= threshold`, compared as float64.

Curves are tie-aware: all steps with one score enter together, so nothing depends on the order of the rows. A
statistic that is undefined (no rows, only one class) is NaN; the cases are listed function by function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


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

    @property
    def runnable(self) -> int:
        """How many of the groups have a score above −inf."""
        return int((self.scores > -np.inf).sum())


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
    values, outcome = checked(scores, correct)
    distinct, inverse = np.unique(values, return_inverse=True)
    index = len(distinct) - 1 - inverse.reshape(-1).astype(np.int64)
    mass = None if weights is None else np.asarray(weights, dtype=np.float64)
    hits = outcome.astype(np.float64) if mass is None else outcome * mass
    return Blocks(
        scores=distinct[::-1],
        steps=histogram(index, mass, len(distinct)),
        correct=histogram(index, hits, len(distinct)),
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
        coverage=divide(steps, np.full(len(steps), total)),
        precision=divide(hits, steps),
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


def eaurc(scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Excess AURC: `aurc` less that of an ideal score, which puts every correct step before every wrong one.

    The ideal is taken at this number of steps, not in the limit: with a correct of n steps it is the mean over k of
    max(0, k − a)/k, so the excess is 0 exactly for an ideal ranking and never negative. Geifman, Uziel & El-Yaniv
    (2019) define the difference and approximate the ideal by r + (1 − r)·log(1 − r), r the error rate, which is lower
    by less than 1/n.

    NaN if empty; 0 if all correct or all wrong.
    """
    grouped = blocks(scores, correct, weights)
    return float(_eaurc(grouped.steps, grouped.correct))


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


def apply_threshold(scores: npt.ArrayLike, correct: npt.ArrayLike, threshold: float | None) -> Operating:
    """What executing every step with `score >= threshold` does; None executes nothing.

    Coverage is NaN if there are no steps, precision is NaN if none is executed.
    """
    values, outcome = checked(scores, correct)
    executed = accepted(values, threshold)
    n = int(executed.sum())
    return Operating(ratio(n, len(values)), ratio(int(outcome[executed].sum()), n), n)


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
    values, outcome = checked(scores, correct)
    executed = accepted(values, threshold)
    return ratio(2.0 * float((executed & outcome).sum()), float(executed.sum() + outcome.sum()))


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


def risk_at_coverage(scores: npt.ArrayLike, correct: npt.ArrayLike, coverage: float) -> float:
    """Selective risk of the smallest set of most confident steps that splits no tie and has at least `coverage`.

    NaN if there are no steps, or if so many have no score that the coverage cannot be reached.

    Raises:
        HandrailError: `coverage` is not in (0, 1].
    """
    check_level("coverage", coverage, closed=True)
    grouped = blocks(scores, correct)
    return float(reached_risk(np.cumsum(grouped.steps), np.cumsum(grouped.correct), coverage, grouped.runnable))


def rank_statistics(
    scores: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> dict[str, float]:
    """`auroc`, `auprc`, `aurc`, `eaurc` and `augrc` from one sort."""
    grouped = blocks(scores, correct, weights)
    return {name: float(statistic(grouped.steps, grouped.correct)) for name, statistic in RANK.items()}


def check_level(name: str, value: float, *, closed: bool = False) -> None:
    """Raise HandrailError unless `value` is in (0, 1), or (0, 1] if `closed`."""
    if not (0 < value < 1 or (closed and value == 1)):
        raise HandrailError(f"{name} is {value!r}; expected a number in (0, 1{']' if closed else ')'}, e.g. 0.95")


def percent(target: float) -> str:
    """Name a target in a metric key: 0.95 is `95`, 0.995 is `99_5`."""
    return f"{100 * target:.6g}".replace(".", "_")


def _auroc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    misses = steps - hits
    above = np.cumsum(hits, axis=-1) - hits / 2
    return divide((misses * above).sum(axis=-1), hits.sum(axis=-1) * misses.sum(axis=-1))


def _auprc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    precision = divide(np.cumsum(hits, axis=-1), np.cumsum(steps, axis=-1), empty=0.0)
    return divide((hits * precision).sum(axis=-1), hits.sum(axis=-1))


def _aurc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    risk = divide(np.cumsum(steps - hits, axis=-1), np.cumsum(steps, axis=-1), empty=0.0)
    return divide((steps * risk).sum(axis=-1), steps.sum(axis=-1))


def _eaurc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    from scipy.special import digamma

    n, right = steps.sum(axis=-1), hits.sum(axis=-1)
    # The sum over k from a + 1 to n of (k − a)/k, where the sum of 1/k is a difference of digammas.
    ideal = divide(n - right - right * (digamma(n + 1) - digamma(right + 1)), n)
    return np.maximum(_aurc(steps, hits) - ideal, 0.0)


def _augrc(steps: FloatArray, hits: FloatArray) -> FloatArray:
    misses = steps - hits
    middle = np.cumsum(misses, axis=-1) - misses / 2
    return divide((steps * middle).sum(axis=-1), steps.sum(axis=-1) ** 2)


RANK: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "auroc": _auroc,
    "auprc": _auprc,
    "aurc": _aurc,
    "eaurc": _eaurc,
    "augrc": _augrc,
}
"""Rank statistics by name, as functions of steps and correct steps per score (…, k), most confident first."""


def reached_risk(steps: FloatArray, hits: FloatArray, coverage: float, runnable: int) -> FloatArray:
    """Selective risk at a coverage, see `risk_at_coverage`.

    Args:
        steps: (…, k) steps executed down to each score, most confident first.
        hits: (…, k) correct ones among them.
        coverage: in (0, 1].
        runnable: how many of the k scores are above −inf; the others come last.

    Returns:
        (…), NaN where the coverage is not reached.
    """
    if steps.shape[-1] == 0:
        return np.full(steps.shape[:-1], np.nan)
    # Whole steps: 0.7 of 10 is 7 of them, not the next number above 7.000000000000001.
    wanted = np.ceil(coverage * steps[..., -1:] - 1e-9)
    place = (steps < wanted).sum(axis=-1, keepdims=True)
    n, right = (np.take_along_axis(values, place, axis=-1)[..., 0] for values in (steps, hits))
    return np.where(place[..., 0] < runnable, divide(n - right, n), np.nan)


def checked(scores: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Return scores and outcomes as flat arrays, or raise HandrailError for what `blocks` refuses."""
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


def histogram(index: IntArray, weights: FloatArray | None, count: int) -> FloatArray:
    """Sum weights (n,), or ones, over the cells (n,) that rows fall in; (count,)."""
    return np.bincount(index, weights=weights, minlength=count).astype(np.float64)


def divide(top: FloatArray, bottom: FloatArray, empty: float = np.nan) -> FloatArray:
    """Divide, with `empty` where the bottom is 0."""
    result: FloatArray = np.divide(top, bottom, out=np.full(np.shape(top), empty), where=np.asarray(bottom) != 0)
    return result


def ratio(top: float, bottom: float) -> float:
    """Divide, with NaN for a bottom of 0."""
    return top / bottom if bottom else float("nan")
