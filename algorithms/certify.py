"""Thresholds with a certificate: with probability 1 − delta over the calibration steps, precision is at least target.

A threshold read off a calibration curve (`selective.select_threshold`) is picked because it looked good, so its
precision on later steps tends to fall below the target. Here thresholds are tested instead. For a fixed threshold
that accepts n calibration steps with e errors, the chance of at most e errors if precision were below `target` is at
most the binomial tail P(Bin(n, 1 − target) <= e) (Clopper & Pearson 1934); where it is at most delta, "precision is
below target" is rejected. Without an error this takes n >= log(delta) / log(target): 59 steps for 95 % precision and
299 for 99 % at delta = 0.05.

Testing many thresholds would spend delta many times; **fixed-sequence testing** does not (Angelopoulos et al. 2021,
"Learn then Test"; Maurer et al. 1995): thresholds are tested in an order fixed beforehand, from few
accepted steps to many, each at the full level, until the first one that cannot be rejected. The largest coverage
rejected is certified. Several starting points are possible: delta is split over them, and a rejected threshold hands
its level on to the next (the fallback procedure, Wiens 2003), so a run of rejections that began elsewhere helps.

**What is fixed beforehand.** Number of calibration steps, target, delta, `starts` and `grid_size` fix a list of
accepted *counts*: from `starts[0]` of all steps (but no fewer than suffice) to all of them, evenly. The threshold for
a count comes from the order of the calibration scores alone, never from the labels. Steps with equal scores enter
together: a count becomes the largest set of at most so many top steps that splits no tie, and sets too small to be
certified even without an error are not tested.

The first threshold accepts a tenth of the steps by default, rather than the 59 most confident ones: there, a single
error in a large calibration set would end the sequence. Over simulated critics of various quality that start gave, on
the whole, more certified coverage than the smallest possible one and than splitting delta over two to ten starts.

**What is guaranteed.** Given the scores, every test is valid for the mean chance of being correct at the accepted
calibration steps (errors of unlike probability spread less than binomial ones: Hoeffding 1956), and so is the
sequence. For later steps from the same source: a set ends just above a score that its count has singled out, and
given that score, what lies above it is an independent sample of such steps, so a single test is exactly valid; the
sequence is where selective risk crosses 1 − target once as coverage grows (below the crossing, what else was accepted
only adds errors), and simulations in the tests put it below delta also where it crosses often.

**What is assumed.** Calibration and later steps come from one distribution, the score was not fitted on the
calibration steps, and steps are independent *also within a session*. The last is an approximation: where errors of
one session go together, the true chance of a wrong certificate exceeds delta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from handrail.algorithms.selective import (
    TARGETS,
    blocks,
    check_level,
    percent,
    put_interval,
    select_threshold,
    threshold_intervals,
    with_prefix,
)
from handrail.envs.errors import HandrailError

__all__ = [
    "Certificate",
    "binomial_tail",
    "certified_metrics",
    "certify",
    "certify_groups",
    "certify_targets",
    "required_steps",
    "select_threshold",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Certificate:
    """The answer to "may steps over some score run alone at this precision?", with its evidence.

    Where the answer is no, `threshold` is None and `coverage` 0; `n_accepted`, `n_errors`, `precision` and `p_value`
    then describe the first set that failed (0, 0, NaN and 1 if no set was large enough to be tested).

    Attributes:
        target: precision to hold.
        delta: accepted chance that the certificate is wrong.
        threshold: lowest score that may run, or None.
        n_accepted: calibration steps at or above the threshold.
        n_errors: wrong ones among them.
        coverage: share of the calibration steps accepted.
        precision: share of the accepted ones that are correct.
        p_value: binomial tail of the accepted set.
        reason: one sentence for a reader.
        n_calibration: calibration steps in all.
        scope: which steps it speaks of: `all`, a group's name, or the pool of small groups.
    """

    target: float
    delta: float
    threshold: float | None
    n_accepted: int
    n_errors: int
    coverage: float
    precision: float
    p_value: float
    reason: str
    n_calibration: int
    scope: str = "all"


def required_steps(target: float, delta: float, errors: int = 0) -> int:
    """Fewest accepted steps that certify `target` at level `delta` with that many errors among them.

    Examples:
        >>> required_steps(0.95, 0.05), required_steps(0.99, 0.05)
        (59, 299)
        >>> required_steps(0.95, 0.05, errors=1)
        93
    """
    check_level("target", target)
    check_level("delta", delta)
    low, high = errors, max(errors + 1, math.ceil(math.log(delta) / math.log(target)))
    while binomial_tail(errors, high, target) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_tail(errors, middle, target) > delta else (low, middle)
    return high


def binomial_tail(errors: npt.ArrayLike, steps: npt.ArrayLike, target: float) -> FloatArray:
    """P(Bin(steps, 1 − target) <= errors): p-value of "precision is below target", exact.

    Args:
        errors: (k,) or a number, 0 <= errors <= steps.
        steps: (k,) or a number.
        target: precision in (0, 1).

    Returns:
        The tail, shaped as the arguments; 1 where all steps are errors or there are none.
    """
    from scipy.special import bdtr

    e, n = np.broadcast_arrays(np.asarray(errors, dtype=np.float64), np.asarray(steps, dtype=np.int64))
    return np.where(e >= n, 1.0, bdtr(e, np.maximum(n, 1), 1.0 - target))


def certify(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    target: float,
    delta: float = 0.05,
    *,
    starts: Sequence[float] = (0.1,),
    grid_size: int = 100,
    scope: str = "all",
) -> Certificate:
    """Certify the largest coverage at which precision is at least `target`, on calibration steps.

    Args:
        scores: (n,) calibration scores; −inf marks steps that never run.
        correct: (n,) whether each step was right.
        target: precision to hold, in (0, 1).
        delta: accepted chance of a wrong certificate, in (0, 1).
        starts: coverages in [0, 1] at which testing starts, ascending; `delta` is split evenly over them. More than one
            helps only where precision is not highest at the top.
        grid_size: number of accepted counts to test; more gives finer coverage but stops more easily.
        scope: copied into the certificate.

    Returns:
        The certificate; `threshold` is None if nothing could be certified, with the reason.

    Raises:
        HandrailError: `target`, `delta`, `starts` or `grid_size` is out of range, or the scores are not valid.
    """
    check_level("target", target)
    check_level("delta", delta)
    if not starts or list(starts) != sorted(starts) or starts[0] < 0 or starts[-1] > 1:
        raise HandrailError(f"starts is {starts!r}; expected ascending coverages in [0, 1], e.g. (0.1,)")
    if grid_size < 1:
        raise HandrailError(f"grid_size is {grid_size!r}; expected a whole number, at least 1")
    grouped = blocks(scores, correct)
    n = len(grouped.index)
    runnable = grouped.scores > -np.inf
    steps = np.cumsum(grouped.steps[runnable]).astype(np.int64)
    errors = steps - np.cumsum(grouped.correct[runnable]).astype(np.int64)
    share = delta / len(starts)
    smallest = required_steps(target, share)

    def answer(place: int | None, threshold: float | None, reason: str) -> Certificate:
        accepted = int(steps[place]) if place is not None else 0
        wrong = int(errors[place]) if place is not None else 0
        return Certificate(
            target=target,
            delta=delta,
            threshold=threshold,
            n_accepted=accepted,
            n_errors=wrong,
            coverage=accepted / n if threshold is not None else 0.0,
            precision=1 - wrong / accepted if accepted else float("nan"),
            p_value=float(binomial_tail(wrong, accepted, target)),
            reason=reason,
            n_calibration=n,
            scope=scope,
        )

    places = _places(steps, n, smallest, starts[0], grid_size)
    if len(places) == 0:
        available = int(steps[-1]) if len(steps) else 0
        return answer(
            None,
            None,
            f"cannot be certified: {available} calibration steps with a score, but {percent(target)} % precision at "
            f"delta {delta:g} takes {smallest} accepted steps even without an error",
        )
    levels = np.zeros(len(places))
    for start in starts:
        at = int(np.searchsorted(steps[places], max(smallest, math.ceil(start * n))))
        levels[min(at, len(places) - 1)] += share
    tails = binomial_tail(errors[places], steps[places], target)
    certified, failed, level = None, None, 0.0
    for j, place in enumerate(places):
        level += levels[j]
        if level > 0 and tails[j] <= level:
            certified = int(place)
        else:
            failed = int(place) if failed is None and level > 0 else failed
            level = 0.0
    if certified is not None:
        return answer(
            certified,
            float(grouped.scores[certified]),
            f"certified: {int(errors[certified])} errors among {int(steps[certified])} accepted calibration steps",
        )
    return answer(
        failed,
        None,
        f"cannot be certified: {int(errors[failed or 0])} errors among the {int(steps[failed or 0])} most confident "
        f"calibration steps are too many for {percent(target)} % precision at delta {delta:g}",
    )


def certify_targets(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    targets: Sequence[float] = TARGETS,
    delta: float = 0.05,
    *,
    starts: Sequence[float] = (0.1,),
) -> dict[float, Certificate]:
    """One certificate per target; each holds with probability 1 − delta by itself. Arguments as in `certify`."""
    return {target: certify(scores, correct, target, delta, starts=starts) for target in targets}


def certify_groups(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    groups: npt.ArrayLike,
    target: float,
    delta: float = 0.05,
    *,
    min_steps: int | None = None,
    starts: Sequence[float] = (0.1,),
) -> dict[str, Certificate]:
    """A certificate per group (issue), small groups together.

    A group with at least `min_steps` calibration steps stands for itself: if its test fails it stays uncertified and
    its steps go to the operator. Groups with fewer steps share one certificate on their pooled steps, which promises
    the precision over the pool, not in each of its groups. Who joins the pool depends on the numbers of steps only:
    if groups joined after failing, easy groups' steps would vouch for hard ones, or the pool's test would be picked by
    its outcome.

    Each certificate is wrong with chance at most `delta`; for all to hold at once divide `delta` by their number.

    Args:
        scores: (n,) calibration scores.
        correct: (n,).
        groups: (n,) group names.
        target: precision to hold, in (0, 1).
        delta: accepted chance of a wrong certificate, each.
        min_steps: steps a group needs to stand for itself; by default as many as can be certified with one error.
        starts: as in `certify`.

    Returns:
        group name → certificate; pooled groups share one whose `scope` names the pool.

    Raises:
        HandrailError: lengths differ or a value is out of range.
    """
    values, outcome = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(correct).reshape(-1)
    names, codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    codes = codes.reshape(-1)
    if not len(values) == len(outcome) == len(codes):
        raise HandrailError(f"{len(values)} scores, {len(outcome)} outcomes, {len(codes)} groups; expected as many")
    needed = required_steps(target, delta, errors=1) if min_steps is None else min_steps
    sizes = np.bincount(codes, minlength=len(names))
    small = sizes < needed
    found = {
        str(name): certify(values[codes == code], outcome[codes == code], target, delta, starts=starts, scope=str(name))
        for code, name in enumerate(names)
        if not small[code]
    }
    if small.any():
        members = small[codes]
        scope = f"pool of {int(small.sum())} groups with fewer than {needed} calibration steps"
        pooled = certify(values[members], outcome[members], target, delta, starts=starts, scope=scope)
        pooled = replace(pooled, reason=f"{pooled.reason} ({scope})")
        found.update({str(name): pooled for name in names[small]})
    return dict(sorted(found.items()))


def certified_metrics(
    prefix: str,
    certificates: Mapping[float, Certificate],
    scores_test: npt.ArrayLike,
    correct_test: npt.ArrayLike,
    sessions_test: npt.ArrayLike | None,
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
) -> dict[str, float]:
    """The keys `certified.95.{coverage,precision,threshold,delta}`: what certified thresholds do on test steps.

    Coverage and precision are those on test, with `.ci_low` and `.ci_high` by session bootstrap. Where nothing could
    be certified, coverage is 0 and precision and threshold are absent.

    Args:
        prefix: what the keys start with, e.g. `critic.probe` for `critic.probe.certified.95.coverage`; empty for none.
        certificates: target → certificate, from `certify_targets`.
        scores_test: (n,).
        correct_test: (n,).
        sessions_test: (n,) session ids, or None for independent steps.
        rng: source of the resamples.
        resamples: number of bootstrap resamples.
    """
    found: dict[str, float] = {}
    for target, certificate in certificates.items():
        key = f"certified.{percent(target)}"
        coverage, precision = threshold_intervals(
            scores_test, correct_test, sessions_test, certificate.threshold, rng, resamples=resamples
        )
        put_interval(found, f"{key}.coverage", coverage)
        put_interval(found, f"{key}.precision", precision)
        found[f"{key}.delta"] = certificate.delta
        if certificate.threshold is not None:
            found[f"{key}.threshold"] = certificate.threshold
    return with_prefix(prefix, found)


def _places(steps: IntArray, n: int, smallest: int, start: float, grid_size: int) -> IntArray:
    """Which tie groups end the tested sets, ascending; `steps` (k,) are the accepted counts at each tie group."""
    if len(steps) == 0 or steps[-1] < smallest:
        return np.zeros(0, dtype=np.int64)
    first = min(max(smallest, math.ceil(start * n)), int(steps[-1]))
    counts = np.ceil(np.linspace(first, int(steps[-1]), grid_size)).astype(np.int64)
    places = np.unique(np.searchsorted(steps, counts, side="right") - 1)
    return places[(places >= 0) & (steps[np.maximum(places, 0)] >= smallest)].astype(np.int64)
