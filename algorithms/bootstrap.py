"""Intervals by the session bootstrap: whole sessions are drawn with replacement, never single steps.

Steps of one session share a customer, an operator and a task, so an interval that treats them as independent is too
narrow. The cluster bootstrap (Davison & Hinkley 1997; Field & Welsh 2007) redraws the sessions and
recomputes the statistic; here a redrawn sample is never built: it is a vector of session counts, and a statistic
that is a function of sums (a rate, a histogram over scores, a curve) costs one matrix product.

Intervals are percentile intervals. With fewer than two sessions the spread is unknown and the bounds are NaN, rather
than an interval of width zero. `clusters=None` says that rows are independent; where rows are of few kinds, only the
kinds are drawn (a multinomial over them), which makes a million rows as cheap as a thousand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_CHUNK = 4_000_000
_ROWS_A_KIND = 8
"""Rows a kind from which a multinomial draw over the kinds is cheaper than a draw for every row."""


class Interval(NamedTuple):
    """A point estimate with its bounds; bounds are NaN where the bootstrap says nothing."""

    estimate: float
    low: float
    high: float


def cluster_codes(clusters: npt.ArrayLike) -> tuple[IntArray, int]:
    """Number the clusters.

    Args:
        clusters: (n,) session ids of the rows, of any sortable type.

    Returns:
        codes (n,) in [0, count), and the count.
    """
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    return codes.astype(np.int64).reshape(-1), len(names)


def draw_counts(count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw how often each of `count` clusters appears in each resample.

    Returns:
        (resamples, count) whole numbers as float64; each row sums to `count`.
    """
    counts = np.empty((resamples, count))
    for row, picks in zip(counts, rng.integers(count, size=(resamples, count)), strict=True):
        row[:] = np.bincount(picks, minlength=count)
    return counts


def percentile_bounds(draws: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central `level` range of resampled values (b,); NaN bounds if over half of them are undefined."""
    values = np.asarray(draws, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if len(defined) == 0 or 2 * len(defined) < len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(differences: npt.ArrayLike) -> float:
    """Two-sided bootstrap p-value of "no difference", from resampled differences (b,).

    Twice the share of resamples on the rarer side of 0, each side counting one resample more (Davison & Hinkley 1997,
    section 4.4), so it lies in [2/(b + 1), 1] and is below 1 − level about where the percentile interval leaves out 0.
    NaN if over half of the differences are undefined.
    """
    values = np.asarray(differences, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if len(defined) == 0 or 2 * len(defined) < len(values):
        return float("nan")
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(defined) + 1))


def ratio_interval(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> list[Interval]:
    """Intervals of ratios sum(numerator) / sum(denominator): precision, coverage, accuracy per tool, means.

    All ratios see the same resamples. Cost: resamples × sessions draws plus one matrix product.

    Args:
        numerators: (n,) or (n, m), e.g. accepted and correct.
        denominators: same shape, or (n,) for all ratios, e.g. accepted.
        clusters: (n,) session ids, or None for independent rows.
        rng: source of the resamples.
        resamples: number of resamples.
        level: confidence level in (0, 1).

    Returns:
        m intervals (one if `numerators` is one-dimensional); the estimate is NaN where the denominator sums to 0.

    Raises:
        HandrailError: lengths differ.
    """
    top = _columns(numerators)
    bottom = np.broadcast_to(_columns(denominators), top.shape) if len(top) == len(_columns(denominators)) else None
    if bottom is None or (clusters is not None and len(np.asarray(clusters)) != len(top)):
        raise HandrailError(
            f"ratio_interval: {len(top)} numerators, {len(_columns(denominators))} denominators and "
            f"{'no' if clusters is None else len(np.asarray(clusters))} cluster ids; expected equal lengths"
        )
    m = top.shape[1]
    rows = np.concatenate([top, bottom], axis=1)
    estimates = _divide(rows.sum(axis=0)[:m], rows.sum(axis=0)[m:])
    draws = [_divide(sums[:, :m], sums[:, m:]) for sums in _resampled_sums(rows, clusters, rng, resamples)]
    if not draws:
        return [Interval(float(estimate), float("nan"), float("nan")) for estimate in estimates]
    values = np.concatenate(draws)
    return [Interval(float(estimates[j]), *percentile_bounds(values[:, j], level)) for j in range(m)]


def mean_interval(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of the mean over rows of `values` (n,), sessions resampled; arguments as in `ratio_interval`."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return ratio_interval(flat, np.ones(len(flat)), clusters, rng, resamples=resamples, level=level)[0]


def paired_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    clusters: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of mean(first) − mean(second) over the same rows, e.g. policy against a baseline on the same steps.

    Both methods see the same resampled sessions, so what makes a session hard for both cancels.

    Args:
        first: (n,) outcomes of one method, e.g. correct or not.
        second: (n,) outcomes of the other on the same rows.
        clusters: (n,) session ids, or None for independent rows.
        rng: source of the resamples.
        resamples: number of resamples.
        level: confidence level in (0, 1).

    Raises:
        HandrailError: the two have different lengths.
    """
    one, two = np.asarray(first, dtype=np.float64).reshape(-1), np.asarray(second, dtype=np.float64).reshape(-1)
    if len(one) != len(two):
        raise HandrailError(f"paired_difference: {len(one)} rows against {len(two)}; expected the same rows")
    return mean_interval(one - two, clusters, rng, resamples=resamples, level=level)


def cluster_interval(
    statistic: Callable[[FloatArray], float],
    clusters: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Interval of any statistic that takes row weights.

    Args:
        statistic: maps weights (n,) to a number, e.g. `lambda w: auroc(scores, correct, w)`; a row drawn twice has
            weight 2. NaN marks a resample in which it is undefined; such resamples are left out.
        clusters: (n,) session ids.
        rng: source of the resamples.
        resamples: number of resamples, each one call of `statistic`.
        level: confidence level in (0, 1).
    """
    codes, count = cluster_codes(clusters)
    estimate = float(statistic(np.ones(len(codes))))
    if count < 2:
        return Interval(estimate, float("nan"), float("nan"))
    draws = [statistic(draw_counts(count, 1, rng)[0][codes]) for _ in range(resamples)]
    return Interval(estimate, *percentile_bounds(draws, level))


@dataclass(frozen=True)
class Cells:
    """What of the rows a statistic needs: which of `count` cells each one falls in.

    Attributes:
        index: (n,) cell of each row, in [0, count).
        count: number of cells.
    """

    index: IntArray
    count: int


def resampled_histograms(
    cells: Sequence[Cells],
    clusters: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int,
) -> Iterator[list[FloatArray]]:
    """Histograms of the rows over cells, one a resample; several ways to divide the rows share the resamples.

    Every tie-aware score statistic is a function of such a histogram (cells = score × correct or not), so this is
    all that resampling a curve, an AUROC or an AURC takes, and two scores of the same rows are compared in pairs.
    Cost: one draw a cluster and one addition a row, each per resample.

    Args:
        cells: one or more divisions of the same n rows.
        clusters: (n,) session ids, or None for independent rows.
        rng: source of the resamples.
        resamples: number of resamples in all.

    Yields:
        for each division (b, count) numbers of rows, b chosen to bound memory; nothing if there are fewer than two
        clusters.
    """
    from scipy.sparse import csr_array

    index = np.stack([one.index for one in cells])
    n, shares = index.shape[1], None
    if clusters is not None:
        codes, units = cluster_codes(clusters)
    else:
        codes, units = _kinds(cells)
        if units * _ROWS_A_KIND < n:
            # One row stands for all of its kind, and is drawn as often as they are.
            shares = np.bincount(codes, minlength=units) / n
            _, rows = np.unique(codes, return_index=True)
            index, codes = index[:, rows], np.arange(units)
        else:
            codes, units = np.arange(n), n
    if (units if shares is None else n) < 2:
        return
    edges = np.cumsum([0, *(one.count for one in cells)])
    places = (index + edges[:-1, None]).reshape(-1)
    by_cell = csr_array(
        (np.ones(len(places)), (places, np.tile(codes, len(cells)))), shape=(int(edges[-1]), units), dtype=np.float64
    )
    by_cell.sum_duplicates()
    for size in _chunks(resamples, max(int(edges[-1]), units)):
        drawn = draw_counts(units, size, rng) if shares is None else rng.multinomial(n, shares, size=size)
        found = np.ascontiguousarray((by_cell @ np.ascontiguousarray(drawn.T, dtype=np.float64)).T)
        yield [found[:, low:high] for low, high in itertools.pairwise(edges)]


def _kinds(cells: Sequence[Cells]) -> tuple[IntArray, int]:
    """Number the kinds of rows: rows of one kind fall in the same cells everywhere."""
    codes, count = np.zeros(len(cells[0].index), dtype=np.int64), 1
    for one in cells:
        codes, count = cluster_codes(codes * one.count + one.index)
    return codes, count


def _resampled_sums(
    rows: FloatArray, clusters: npt.ArrayLike | None, rng: np.random.Generator, resamples: int
) -> Iterator[FloatArray]:
    """Column sums (b, k) of resampled rows (n, k)."""
    if clusters is None:
        distinct, cells = np.unique(rows, axis=0, return_inverse=True)
        kinds = Cells(cells.reshape(-1).astype(np.int64), len(distinct))
        for (counts,) in resampled_histograms([kinds], None, rng, resamples=resamples):
            yield counts @ distinct
        return
    codes, count = cluster_codes(clusters)
    if count < 2:
        return
    sums = np.stack([np.bincount(codes, weights=column, minlength=count) for column in rows.T], axis=1)
    for size in _chunks(resamples, count):
        yield draw_counts(count, size, rng) @ sums


def _chunks(total: int, width: int) -> Iterator[int]:
    step = max(1, min(total, _CHUNK // max(width, 1)))
    for start in range(0, total, step):
        yield min(step, total - start)


def _columns(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    return array if array.ndim == 2 else array.reshape(-1, 1)


def _divide(top: FloatArray, bottom: FloatArray) -> FloatArray:
    result: FloatArray = np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)
    return result
