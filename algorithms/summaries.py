"""Statistics of scores in the session bootstrap: resampled together, compared in pairs.

Every tie-aware statistic of a score is a function of one histogram: how many right and wrong steps have which score.
So all statistics of a score, its curve and its thresholds share one set of resamples, and two scores of the same steps
are compared on the same resampled sessions.

Over `MAX_BLOCKS` distinct scores, neighbouring ones are merged into that many groups of equal size for the resampling
only, with an edge at every threshold that is asked about, and the resampled values are shifted by what merging does to
the estimate. Over 100,000 steps this moved the ends of intervals by less than 0.001 of their width, those of the risk
at a coverage by less than 0.01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.algorithms.bootstrap import Cells, Interval, p_value, percentile_bounds, resampled_histograms
from handrail.algorithms.calibration import bin_of, brier, ece
from handrail.algorithms.risk_coverage import (
    RANK,
    Blocks,
    accepted,
    apply_threshold,
    blocks,
    checked,
    divide,
    histogram,
    percent,
    rank_statistics,
    reached_risk,
    risk_at_coverage,
)
from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_BLOCKS = 4096
ECE_BINS = 15


class Difference(NamedTuple):
    """One method less another on the same steps.

    Attributes:
        estimate: the difference.
        low: lower bound of its interval; NaN where the bootstrap says nothing.
        high: upper bound.
        p_value: two-sided, of "no difference"; see `bootstrap.p_value`.
    """

    estimate: float
    low: float
    high: float
    p_value: float


class Counts(NamedTuple):
    """Steps per group of equal or neighbouring scores, most confident group first, each (b, groups).

    Attributes:
        steps: in the group.
        right: correct ones among them.
        executed: steps in this group and all before it.
        hits: correct ones among those.
    """

    steps: FloatArray
    right: FloatArray
    executed: FloatArray
    hits: FloatArray


@dataclass(frozen=True)
class Summary:
    """Statistics of one score on some steps, and what it takes to resample them.

    Attributes:
        names: (k,) of the statistics.
        estimates: (k,) on the steps themselves.
        centred: (k,) those whose resamples are moved so that their mean is the estimate.
        cells: the cell of each step: twice the group of its score, plus one if it is right.
        compute: the statistics (b, k) from (b, cells) numbers of steps.
        grid: (g,) coverages at which the curve is resampled.
    """

    names: tuple[str, ...]
    estimates: FloatArray
    centred: npt.NDArray[np.bool_]
    cells: Cells
    compute: Callable[[FloatArray], FloatArray]
    grid: FloatArray


@dataclass(frozen=True)
class Resampled:
    """A summary with its values in each resample.

    Attributes:
        summary: what was resampled.
        draws: (b, k) its statistics; no rows if there were fewer than two sessions.
        curves: (b, g) precision at the coverages of its grid.
    """

    summary: Summary
    draws: FloatArray
    curves: FloatArray

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Percentile intervals by name."""
        return {
            name: Interval(float(estimate), *percentile_bounds(self.draws[:, j], level))
            for j, (name, estimate) in enumerate(zip(self.summary.names, self.summary.estimates, strict=True))
        }

    def band(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Low and high (g,) of the precision at each coverage of the grid by itself; NaN without resamples."""
        if len(self.curves) == 0:
            return np.full(len(self.summary.grid), np.nan), np.full(len(self.summary.grid), np.nan)
        low, high = np.quantile(self.curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high


def summarize(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    thresholds: Mapping[str, float | None] | None = None,
    coverages: Sequence[float] = (),
    probabilities: npt.ArrayLike | None = None,
    grid: npt.ArrayLike = (),
) -> Summary:
    """Prepare the statistics of one score for resampling.

    Named are the `rank_statistics`; `risk_at_coverage_80` and the like; `NAME` and `NAME.precision`, coverage and
    precision of the threshold called so; and `brier` and `ece`. In the resamples a calibration error is taken over
    the bins of the estimate. Each resample adds the noise that biases it upwards once more, so its resamples are moved
    down by that; its interval tells the spread around the estimate.

    Args:
        scores: (n,).
        correct: (n,).
        thresholds: thresholds chosen elsewhere, by name; None executes nothing.
        coverages: at which to take the selective risk, in (0, 1].
        probabilities: (n,) what the scores say as probabilities, a monotone function of them; None for no `brier` and
            `ece`.
        grid: (g,) coverages in (0, 1] at which to read the curve; between two scores it is read as if the tied steps
            entered in random order.

    Raises:
        HandrailError: as in `blocks`, `brier` and `risk_at_coverage`.
    """
    grouped = blocks(scores, correct)
    outcome = np.asarray(correct).astype(np.bool_).reshape(-1)
    chosen = dict(thresholds or {})
    accepts = {name: _accepted_blocks(grouped, threshold) for name, threshold in chosen.items()}
    p = None if probabilities is None else np.asarray(probabilities, dtype=np.float64).reshape(-1)
    bins = None if p is None else _bins_of_blocks(grouped, p)
    cuts = [np.asarray([*accepts.values(), grouped.runnable], dtype=np.int64)]
    if bins is not None:
        cuts.append(np.flatnonzero(np.diff(bins)) + 1)
    group, groups = _groups(grouped, np.concatenate(cuts))
    runnable = int(group[grouped.runnable]) if grouped.runnable < len(group) else groups
    cells = Cells(2 * group[grouped.index] + outcome, 2 * groups)

    names = list(RANK)
    estimates = list(rank_statistics(scores, correct).values())
    for coverage in coverages:
        names.append(f"risk_at_coverage_{percent(coverage)}")
        estimates.append(risk_at_coverage(scores, correct, coverage))
    for name, threshold in chosen.items():
        names += [name, f"{name}.precision"]
        estimates += apply_threshold(scores, correct, threshold)[:2]
    # Groups of a score that no threshold divides: 0 of them are executed without a threshold.
    executed = [int(group[k]) if k < len(group) else groups for k in accepts.values()]
    gaps = None
    if p is not None and bins is not None:
        names += ["brier", "ece"]
        estimates += [brier(p, correct), ece(p, correct, bins=ECE_BINS)]
        gaps = _gaps(p, outcome, cells, bins[grouped.index])

    def compute(histogram: FloatArray) -> FloatArray:
        counts = _counts(histogram)
        columns = [statistic(counts.steps, counts.right) for statistic in RANK.values()]
        columns += [reached_risk(counts.executed, counts.hits, coverage, runnable) for coverage in coverages]
        total = histogram.sum(axis=1)
        for last in executed:
            n = counts.executed[:, last - 1] if last else np.zeros(len(histogram))
            columns += [divide(n, total), divide(counts.hits[:, last - 1] if last else n, n)]
        if gaps is not None:
            sums = histogram @ gaps
            columns += [divide(sums[:, 0], total), divide(np.abs(sums[:, 1:]).sum(axis=1), total)]
        return np.stack(columns, axis=1)

    return Summary(
        names=tuple(names),
        estimates=np.array(estimates, dtype=np.float64),
        centred=np.array([name == "ece" for name in names]),
        cells=cells,
        compute=compute,
        grid=np.asarray(grid, dtype=np.float64),
    )


def summarize_groups(
    scores: npt.ArrayLike, correct: npt.ArrayLike, groups: npt.ArrayLike, thresholds: Mapping[str, float | None]
) -> Summary:
    """Prepare what a threshold a group does in its group: `NAME` (coverage), `NAME.precision`, `NAME.correct`.

    The last is the share of the group's steps that are right. All are NaN where the group has no steps.

    Args:
        scores: (n,).
        correct: (n,).
        groups: (n,) place of each step's group in `thresholds`.
        thresholds: group name → threshold, or None to execute nothing.
    """
    values, outcome = checked(scores, correct)
    codes = np.asarray(groups, dtype=np.int64).reshape(-1)
    # No score reaches NaN.
    limits = np.array([np.nan if one is None else one for one in thresholds.values()], dtype=np.float64)
    executed = (values >= limits[codes]) & (values > -np.inf)
    cells = Cells(4 * codes + 2 * executed + outcome, 4 * len(limits))

    def compute(histogram: FloatArray) -> FloatArray:
        counts = histogram.reshape(len(histogram), len(limits), 4)
        ran, total = counts[..., 2] + counts[..., 3], counts.sum(axis=2)
        rates = (divide(ran, total), divide(counts[..., 3], ran), divide(counts[..., 1] + counts[..., 3], total))
        return np.stack(rates, axis=2).reshape(len(histogram), -1)

    return Summary(
        names=tuple(f"{name}{what}" for name in thresholds for what in ("", ".precision", ".correct")),
        estimates=compute(histogram(cells.index, None, cells.count)[None, :])[0],
        centred=np.zeros(3 * len(limits), dtype=np.bool_),
        cells=cells,
        compute=compute,
        grid=np.zeros(0),
    )


def resample(
    summaries: Sequence[Summary],
    clusters: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
) -> list[Resampled]:
    """Resample one or more scores of the same steps on the same sessions.

    Args:
        summaries: from `summarize`, all of the same n steps in the same order.
        clusters: (n,) session ids, or None for independent steps.
        rng: source of the resamples.
        resamples: number of resamples.

    Returns:
        One for each summary; their rows belong together, so differences of them are paired.
    """
    draws: list[list[FloatArray]] = [[np.zeros((0, len(one.names)))] for one in summaries]
    curves: list[list[FloatArray]] = [[np.zeros((0, len(one.grid)))] for one in summaries]
    cells = [one.cells for one in summaries]
    for parts in resampled_histograms(cells, clusters, rng, resamples=resamples):
        for j, (one, part) in enumerate(zip(summaries, parts, strict=True)):
            draws[j].append(one.compute(part))
            if len(one.grid):
                curves[j].append(_curves(_counts(part), one.grid))
    return [
        Resampled(one, _moved(one, np.concatenate(drawn)), np.concatenate(drawn_curves))
        for one, drawn, drawn_curves in zip(summaries, draws, curves, strict=True)
    ]


def compare(first: Resampled, second: Resampled, level: float = 0.95) -> dict[str, Difference]:
    """First less second, statistic by statistic, for the names that both have.

    The sessions that are hard for one score are hard for the other, and both were resampled together: the interval of
    the difference is narrower than what two intervals side by side suggest.

    Raises:
        HandrailError: the two do not come from one call of `resample`.
    """
    if len(first.draws) != len(second.draws):
        raise HandrailError(
            f"compare: {len(first.draws)} resamples against {len(second.draws)}; expected two of one call of resample"
        )
    places = {name: j for j, name in enumerate(second.summary.names)}
    found = {}
    for i, name in enumerate(first.summary.names):
        if name in places:
            j = places[name]
            drawn = first.draws[:, i] - second.draws[:, j]
            estimate = float(first.summary.estimates[i] - second.summary.estimates[j])
            found[name] = Difference(estimate, *percentile_bounds(drawn, level), p_value(drawn))
    return found


def _groups(grouped: Blocks, cuts: IntArray) -> tuple[IntArray, int]:
    """Group of each distinct score (k,), ascending from 0, and their number: about MAX_BLOCKS of equal size.

    A group begins at each place in `cuts` (places beyond the last score mean nothing).
    """
    count = len(grouped.scores)
    if count <= MAX_BLOCKS:
        return np.arange(count), count
    before = np.cumsum(grouped.steps) - grouped.steps
    starts = np.diff((before * (MAX_BLOCKS / grouped.steps.sum())).astype(np.int64), prepend=-1) > 0
    starts[cuts[cuts < count]] = True
    return np.cumsum(starts) - 1, int(starts.sum())


def _accepted_blocks(grouped: Blocks, threshold: float | None) -> int:
    """How many of the distinct scores a threshold executes."""
    return int(accepted(grouped.scores, threshold).sum())


def _bins_of_blocks(grouped: Blocks, p: FloatArray) -> IntArray:
    """Bin of the calibration error for each distinct score (k,)."""
    bins = np.zeros(len(grouped.scores), dtype=np.int64)
    bins[grouped.index] = bin_of(p, np.ones(len(p)), bins=ECE_BINS, equal_mass=True)
    return bins


def _gaps(p: FloatArray, outcome: npt.NDArray[np.bool_], cells: Cells, bins: IntArray) -> FloatArray:
    """Mean per cell of the squared gap between probability and outcome, and of the gap, in the column of its bin."""
    gap = p - outcome
    size = np.maximum(histogram(cells.index, None, cells.count), 1.0)
    table = np.zeros((cells.count, 1 + ECE_BINS))
    table[:, 0] = histogram(cells.index, gap**2, cells.count) / size
    column = np.zeros(cells.count, dtype=np.int64)
    column[cells.index] = bins
    table[np.arange(cells.count), 1 + column] = histogram(cells.index, gap, cells.count) / size
    return table


def _counts(histogram: FloatArray) -> Counts:
    right = histogram[:, 1::2]
    steps = histogram[:, ::2] + right
    return Counts(steps, right, np.cumsum(steps, axis=1), np.cumsum(right, axis=1))


def _curves(counts: Counts, grid: FloatArray) -> FloatArray:
    """Precision (b, g) at each coverage of the grid."""
    rows = []
    for executed, hits in zip(counts.executed, counts.hits, strict=True):
        wanted = grid * executed[-1]
        rows.append(np.interp(wanted, np.append(0.0, executed), np.append(0.0, hits)) / wanted)
    return np.stack(rows)


def _moved(summary: Summary, draws: FloatArray) -> FloatArray:
    """Undo in the resamples what merging scores does to a statistic, and what resampling does to a centred one."""
    if len(draws) == 0:
        return draws
    observed = summary.compute(histogram(summary.cells.index, None, summary.cells.count)[None, :])[0]
    shift = summary.estimates - observed
    shift[summary.centred] = (summary.estimates - draws.mean(axis=0))[summary.centred]
    moved: FloatArray = np.where(summary.centred, np.maximum(draws + shift, 0.0), draws + shift)
    return moved
