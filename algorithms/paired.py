"""Two yes-or-no outcomes of the same cases: by how much their rates differ, and whether one is no worse than the other.

Of `n` pairs only those count in which the two differ: `losses`, good with the reference and bad with what is on trial,
and `gains`, the other way round. Where outcomes are rare there are few of them or none, and a bootstrap of them has no
width; what is here stays right.

`score_interval` and the order of outcomes in `non_inferiority` come from the score statistic of Tango (1998): how far
the difference is from the margin, in standard errors at the likeliest rates for which it *is* the margin. Its normal
approximation is good but errs to either side. The p-value is therefore exact and unconditional (as in Sidik 2003): the
chance of an outcome at least as good, at the worst of the rates on the edge of the hypothesis. The worst inside the
hypothesis lies on its edge, because an outcome gets no worse if a loss becomes a gain or a tie.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.algorithms.bootstrap import Interval
from handrail.algorithms.selective import check_level
from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_GRID = 81
_REFINED = 3
_REACH = 7.5
"""Standard deviations beyond which a binomial count is left out: less than 1e-12 in all."""


class Pairs(NamedTuple):
    """What became of `n` cases that were worked twice.

    Attributes:
        n: cases.
        losses: good with the reference, bad with what is on trial.
        gains: bad with the reference, good with what is on trial.
    """

    n: int
    losses: int
    gains: int

    @property
    def difference(self) -> float:
        """By how much the rate of good outcomes is higher on trial; NaN without cases."""
        return (self.gains - self.losses) / self.n if self.n else math.nan


def pairs(trial: npt.ArrayLike, reference: npt.ArrayLike) -> Pairs:
    """Count pairs that differ.

    Args:
        trial: (n,) whether the outcome was good.
        reference: (n,) the same of the reference, on the same cases.

    Raises:
        HandrailError: the two have different lengths.
    """
    one, two = np.asarray(trial, dtype=bool).reshape(-1), np.asarray(reference, dtype=bool).reshape(-1)
    if len(one) != len(two):
        raise HandrailError(f"pairs: {len(one)} outcomes against {len(two)}; expected the same cases")
    return Pairs(len(one), int((~one & two).sum()), int((one & ~two).sum()))


def score(losses: npt.ArrayLike, gains: npt.ArrayLike, n: int, margin: float) -> FloatArray:
    """Return Tango's score statistic: large where the rate of losses less that of gains is surely below `margin`.

    Args:
        losses: counts of any shape.
        gains: counts of the same shape.
        n: pairs.
        margin: in (-1, 1).

    Returns:
        Standard normal in large samples at the margin; 0 where there is nothing to tell from.
    """
    lost, won = np.asarray(losses, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    if margin < 0:
        return -score(won, lost, n, -margin)
    # The likeliest rate of gains, if that of losses is higher by the margin: the positive root of a quadratic.
    half = lost * (1 + margin) + won * (1 - margin) - 2 * n * margin
    rate = (np.sqrt(half**2 + 8 * n * won * margin * (1 - margin)) + half) / (4 * n)
    spread = np.sqrt(n * np.maximum(2 * rate + margin * (1 - margin), 0))
    above = n * margin - (lost - won)
    found: FloatArray = np.divide(above, spread, out=np.zeros(np.broadcast(lost, won).shape), where=spread > 0)
    return found


def score_interval(found: Pairs, level: float = 0.95) -> Interval:
    """Return the difference of rates, trial less reference, with the margins that the score test does not reject.

    Args:
        found: what became of the pairs.
        level: confidence level in (0, 1).

    Raises:
        HandrailError: `level` is out of range.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    check_level("score_interval: level", level)
    n, losses, gains = found
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    reach = float(norm.ppf((1 + level) / 2))
    loss = (losses - gains) / n
    edge = 1 - 1e-12

    def beyond(margin: float, sign: int) -> float:
        return sign * float(score(losses, gains, n, margin)) - reach

    # Of a margin equal to the loss the statistic is 0; it grows with the margin.
    worst = brentq(beyond, loss, edge, args=(1,)) if loss < edge and beyond(edge, 1) > 0 else 1.0
    best = brentq(beyond, -edge, loss, args=(-1,)) if loss > -edge and beyond(-edge, -1) > 0 else -1.0
    return Interval(found.difference, -float(worst), -float(best))


def non_inferiority(found: Pairs, margin: float) -> float:
    """Return the exact p-value against "the rate of good outcomes is lower than the reference's by `margin` or more".

    If it is, a p-value of at most a level comes up with at most that chance, whatever the rates. One-sided.

    Args:
        found: what became of the pairs.
        margin: in [0, 1), settled before the pairs were seen.

    Raises:
        HandrailError: `margin` is out of range.
    """
    if not 0 <= margin < 1:
        raise HandrailError(f"margin={margin}: expected a difference of rates of at least 0 and below 1, e.g. 0.01")
    n, losses, gains = found
    if n == 0:
        return 1.0
    allowed = _allowed(n, margin, float(score(losses, gains, n, margin)))
    most = (1 - margin) / 2
    grid = most * np.linspace(0, 1, _GRID) ** 2
    chance = [_chance(n, margin, rate, allowed) for rate in grid]
    for _ in range(_REFINED):
        top = int(np.argmax(chance))
        grid = np.linspace(grid[max(top - 1, 0)], grid[min(top + 1, len(grid) - 1)], 13)
        chance = [_chance(n, margin, rate, allowed) for rate in grid]
    return float(min(1.0, max(chance)))


def _allowed(n: int, margin: float, least: float) -> IntArray:
    """Return for each number of gains the most losses at which the statistic is at least `least`, -1 for none."""
    gains = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - gains
    while (low < high).any():
        middle = (low + high + 1) // 2
        # Rounding must not drop the outcome itself.
        inside = score(middle, gains, n, margin) >= least - 1e-9
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return np.where(low >= 0, low, -1).astype(np.int64)


def _chance(n: int, margin: float, rate: float, allowed: IntArray) -> float:
    """Return the chance of at most the allowed losses, if gains have the rate `rate` and losses more by the margin."""
    from scipy.stats import binom

    reach = _REACH * math.sqrt(n * rate * (1 - rate)) + _REACH**2
    gains = np.arange(max(0, math.floor(n * rate - reach)), min(n, math.ceil(n * rate + reach)) + 1)
    lost = min((rate + margin) / (1 - rate), 1.0)
    return float((binom.pmf(gains, n, rate) * binom.cdf(allowed[gains], n - gains, lost)).sum())
