"""Thresholds with a certificate: with probability 1 − delta over the calibration steps, precision is at least target.

A threshold read off a calibration curve (`selective.select_threshold`) is picked because it looked good, so its
precision on later steps tends to fall below the target. Here thresholds are tested instead. For a fixed threshold
that accepts n calibration steps with e errors, the chance of at most e errors if precision were below `target` is at
most the binomial tail P(Bin(n, 1 − target) <= e) (Clopper & Pearson 1934); where it is at most delta, "precision is
below target" is rejected. Without an error this takes n >= log(delta) / log(target): 59 steps for 95 % precision and
299 for 99 % at delta = 0.05. That is for steps that are independent. Where steps of one session hang together, name
the sessions: the test is then a bet on session sums (`betting`), which assumes nothing of what is within a session.

Testing many thresholds would spend delta many times; **fixed-sequence testing** does not (Angelopoulos et al. 2021,
"Learn then Test"; Maurer et al. 1995): thresholds are tested in an order fixed beforehand, from few
accepted steps to many, each at the full level, until the first one that cannot be rejected. The largest coverage
rejected is certified. Several starting points are possible: delta is split over them, and a rejected threshold hands
its level on to the next (the fallback procedure, Wiens 2003), so a run of rejections that began elsewhere helps.

**What is fixed beforehand.** Number of calibration steps, target, delta, `starts` and `grid_size` fix a list of
accepted *counts*: from `starts[0]` of all steps (but no fewer than below) to all of them, evenly. The threshold for
a count comes from the order of the calibration scores alone, never from the labels. Steps with equal scores enter
together: a count becomes the largest set of at most so many top steps that splits no tie, and sets too small to be
certified even without an error are not tested. With sessions, their accepted sizes say which sets are too small.

The first threshold accepts a tenth of the steps by default, rather than the 59 most confident ones: there, a single
error would end the sequence. For the same reason the first set is large enough to be certified with three errors, or
with as many as a set of no more than a quarter of the steps can be. Over simulated critics (192 combinations of base
accuracy, separation, number of steps and target) that certified 55.1 % of the steps on average, where a first set that
must have no error leads to 53.3 %; it lost 3 points at most, where precision is too low for a set of that size.

**What is guaranteed.** Given the scores, every test is valid for the mean chance of being correct at the accepted
calibration steps (errors of unlike probability spread less than binomial ones: Hoeffding 1956; for sessions see
`betting`), and so is the sequence. For later steps from the same source: a set ends just above a score that its count
has singled out, and given that score, what lies above it is an independent sample of such steps, so a single test is
exactly valid. With sessions this is not proven, since the session that has the score is no fresh draw; simulations in
the tests hold it to delta. The sequence is valid where selective risk crosses 1 − target once as coverage grows (below
the crossing, what else was accepted only adds errors), and simulations in the tests put it below delta also where it
crosses often.

**What is assumed.** Calibration and later steps come from one distribution and the score was not fitted on the
calibration steps. Without `sessions`, steps are independent *also within a session*: where errors of one session go
together, the true chance of a wrong certificate then exceeds delta. With `sessions`, sessions are independent, and
later ones have no more accepted steps than the largest of the calibration sessions (or count as no more than `cap`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from handrail.algorithms import betting
from handrail.algorithms.bootstrap import cluster_codes
from handrail.algorithms.group_certificates import GroupCertificates, Trial, certify_all
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

STARTS = (0.1,)
GRID_SIZE = 100

_ERRORS = 3
"""Errors that the first set tested may have, if there are steps enough."""
_ROOM = 0.25
"""Largest share of the steps that the first set takes so that it may have errors."""
_SEARCHED = 200
"""Sets among which the first large enough one is sought where sessions decide."""
_ROUNDING = 1e-9


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
        p_value: of "precision is below target" for the accepted set: binomial tail, or by the bet on sessions.
        reason: one sentence for a reader.
        n_calibration: calibration steps in all.
        scope: which steps it speaks of: `all`, a group's name, or the pool of small groups.
        n_sessions: calibration sessions in all where steps of one session may hang together; None for independent
            steps.
        further: how many further accepted steps would suffice if all of them were right; 0 with a threshold.
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
    n_sessions: int | None = None
    further: int = 0


@functools.lru_cache(maxsize=4096)
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
    sessions: npt.ArrayLike | None = None,
    cap: int | None = None,
    starts: Sequence[float] = STARTS,
    grid_size: int = GRID_SIZE,
    scope: str = "all",
) -> Certificate:
    """Certify the largest coverage at which precision is at least `target`, on calibration steps.

    Args:
        scores: (n,) calibration scores; −inf marks steps that never run.
        correct: (n,) whether each step was right.
        target: precision to hold, in (0, 1).
        delta: accepted chance of a wrong certificate, in (0, 1).
        sessions: (n,) session ids, where steps of one session may hang together; None for independent steps.
        cap: how many steps a session counts as at most, where some are far larger than others; the precision certified
            is then that in which no session has more weight (see `betting`). None counts all steps.
        starts: coverages in [0, 1] at which testing starts, ascending; `delta` is split evenly over them. More than one
            helps only where precision is not highest at the top.
        grid_size: number of accepted counts to test; more gives finer coverage but stops more easily.
        scope: copied into the certificate.

    Returns:
        The certificate; `threshold` is None if nothing could be certified, with the reason and how many further
        steps would suffice.

    Raises:
        HandrailError: an argument is out of range, lengths differ, or the scores are not valid.
    """
    check_level("delta", delta)
    return _ladder(scores, correct, target, delta, sessions, cap, starts, grid_size, scope).climb(delta)[0]


def certify_targets(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    targets: Sequence[float] = TARGETS,
    delta: float = 0.05,
    *,
    sessions: npt.ArrayLike | None = None,
    cap: int | None = None,
    starts: Sequence[float] = STARTS,
) -> dict[float, Certificate]:
    """One certificate per target; each holds with probability 1 − delta by itself. Arguments as in `certify`."""
    codes = None if sessions is None else cluster_codes(sessions)[0]
    return {
        target: certify(scores, correct, target, delta, sessions=codes, cap=cap, starts=starts) for target in targets
    }


def certify_groups(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    groups: npt.ArrayLike,
    target: float,
    delta: float = 0.05,
    *,
    sessions: npt.ArrayLike | None = None,
    cap: int | None = None,
    min_size: int | None = None,
    starts: Sequence[float] = STARTS,
) -> GroupCertificates[Certificate]:
    """A certificate per group (issue), small groups together; all hold at once with probability 1 − delta.

    A group with enough calibration steps stands for itself: if its test fails it stays uncertified and its steps go to
    the operator. The others share one certificate on their pooled steps. How delta is spent: `group_certificates`.

    Args:
        scores: (n,) calibration scores.
        correct: (n,).
        groups: (n,) group names.
        target: precision to hold, in (0, 1).
        delta: accepted chance that any of the certificates is wrong, in (0, 1).
        sessions: (n,) session ids, as in `certify`.
        cap: as in `certify`.
        min_size: steps, or sessions where they are named, that a group needs to stand for itself; by default as many
            as can be certified at its share of `delta` with one error, or one session all wrong.
        starts: as in `certify`.

    Returns:
        The certificates, a mapping from every group to its own or the pool's.

    Raises:
        HandrailError: lengths differ or a value is out of range.
    """
    check_level("target", target)
    check_level("delta", delta)
    values, outcome = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(correct).reshape(-1)
    kinds = np.asarray(groups).astype(str).reshape(-1)
    if not len(values) == len(outcome) == len(kinds):
        raise HandrailError(f"{len(values)} scores, {len(outcome)} outcomes, {len(kinds)} groups; expected as many")
    codes = None if sessions is None else _session_codes(sessions, len(values))
    names, kind, sizes = np.unique(kinds, return_inverse=True, return_counts=True)
    if codes is not None:
        pairs = np.unique(np.stack([kind.reshape(-1), codes]), axis=1)
        sizes = np.bincount(pairs[0], minlength=len(names))

    def needed(level: float) -> int:
        return required_steps(target, level, errors=1) if min_size is None else min_size

    def prepare(members: Sequence[str], scope: str, level: float) -> Trial[Certificate]:
        part = np.isin(kinds, members)
        inside = None if codes is None else codes[part]
        return _ladder(values[part], outcome[part], target, level, inside, cap, starts, GRID_SIZE, scope).climb

    return certify_all(names, sizes, delta, needed, prepare)


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


@dataclass(frozen=True)
class _Ladder:
    """The sets that are tested, in their order, and what calibration says of each; fixed but for the outcomes.

    Attributes:
        target: precision to hold.
        delta: level that sets and bets were chosen for.
        scope: which steps it speaks of.
        n: calibration steps.
        sessions: calibration sessions, None for independent steps.
        thresholds: (t,) lowest score of each set.
        steps: (t,) steps in it.
        errors: (t,) wrong ones.
        p_values: (t,) of "precision is below target".
        levels: (t,) level that testing has at each set to begin with.
        whole: whether the last set has every step that may run.
        nothing: why there is no set, with how many further accepted steps would suffice.
        more: place -> how many further accepted steps would suffice at this set's threshold, in words too.
    """

    target: float
    delta: float
    scope: str
    n: int
    sessions: int | None
    thresholds: FloatArray
    steps: IntArray
    errors: IntArray
    p_values: FloatArray
    levels: FloatArray
    whole: bool
    nothing: tuple[int, str]
    more: Callable[[int, float], tuple[int, str]]

    def climb(self, delta: float) -> tuple[Certificate, bool]:
        """Test the sets at level `delta` and say whether everything that may run was certified."""
        certified, failed, level = None, None, 0.0
        levels = self.levels.copy()
        levels[:1] += delta - self.delta
        for place in range(len(self.steps)):
            level += levels[place]
            if level > 0 and self.p_values[place] <= level:
                certified = place
            else:
                failed = place if failed is None and level > 0 else failed
                level = 0.0
        shown = failed if certified is None else certified
        accepted, wrong = (0, 0) if shown is None else (int(self.steps[shown]), int(self.errors[shown]))
        further = 0
        if certified is not None:
            reason = f"certified: {wrong} errors among {accepted} accepted calibration steps"
        elif shown is None:
            further, lacking = self.nothing
            reason = f"cannot be certified: {lacking}"
        else:
            further, enough = self.more(shown, delta)
            reason = (
                f"cannot be certified: {wrong} errors among the {accepted} most confident calibration steps are too "
                f"many for {100 * self.target:.6g} % precision at delta {delta:g}; {enough}"
            )
        return (
            Certificate(
                target=self.target,
                delta=delta,
                threshold=None if certified is None else float(self.thresholds[certified]),
                n_accepted=accepted,
                n_errors=wrong,
                coverage=0.0 if certified is None else accepted / self.n,
                precision=1 - wrong / accepted if accepted else float("nan"),
                p_value=1.0 if shown is None else float(self.p_values[shown]),
                reason=reason,
                n_calibration=self.n,
                scope=self.scope,
                n_sessions=self.sessions,
                further=further,
            ),
            certified is not None and self.whole and certified == len(self.steps) - 1,
        )


def _ladder(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    target: float,
    delta: float,
    sessions: npt.ArrayLike | None,
    cap: int | None,
    starts: Sequence[float],
    grid_size: int,
    scope: str,
) -> _Ladder:
    """Fix the sets to test, and look at the outcomes in each."""
    _check(target, cap, sessions, starts, grid_size)
    grouped = blocks(scores, correct)
    n = len(grouped.index)
    steps = np.cumsum(grouped.steps[: grouped.runnable]).astype(np.int64)
    errors = steps - np.cumsum(grouped.correct[: grouped.runnable]).astype(np.int64)
    available = int(steps[-1]) if len(steps) else 0
    share = delta / len(starts)
    smallest = required_steps(target, share)
    asked = f"{100 * target:.6g} % precision at delta {delta:g} takes {smallest}"
    tests: _Independent | _Clustered
    if sessions is None:
        tests, count = _Independent(steps, errors, target, share), None
        nothing = (
            smallest - available,
            f"{available} calibration steps with a score, but {asked} accepted steps even without an error",
        )
    else:
        codes = _session_codes(sessions, n)
        order = np.argsort(grouped.index, kind="stable")[:available]
        right = np.asarray(correct).reshape(-1)[order].astype(bool)
        tests, count = _Clustered(codes[order], right, steps, target, share, cap), len(np.unique(codes))
        nothing = tests.lacking(smallest, asked)
    places = _places(
        steps, n, tests, starts[0], grid_size, [required_steps(target, share, e) for e in range(_ERRORS + 1)]
    )
    levels = np.zeros(len(places))
    for start in starts if len(places) else ():
        at = int(np.searchsorted(steps[places], math.ceil(start * n)))
        levels[min(at, len(places) - 1)] += share
    return _Ladder(
        target=target,
        delta=delta,
        scope=scope,
        n=n,
        sessions=count,
        thresholds=grouped.scores[places],
        steps=steps[places],
        errors=errors[places],
        p_values=tests.p_values(places),
        levels=levels,
        whole=len(places) > 0 and int(steps[places[-1]]) == available,
        nothing=nothing,
        more=lambda place, level: tests.more(int(places[place]), level / len(starts)),
    )


class _Tests(Protocol):
    """What the outcomes of a kind of calibration data say of sets of accepted steps, named by their places."""

    searched: IntArray
    """Places among which the first set is sought."""

    def capacity(self, places: IntArray) -> FloatArray:
        """Return how many independent steps, all right, these sets could be worth, whatever the outcomes."""

    def p_values(self, places: IntArray) -> FloatArray:
        """Return p-values of "precision is below target"."""

    def more(self, place: int, level: float) -> tuple[int, str]:
        """Return how many further accepted steps would suffice if all were right, and say so."""


class _Independent:
    """Exact binomial tails."""

    def __init__(self, steps: IntArray, errors: IntArray, target: float, share: float) -> None:
        self.steps, self.errors, self.target = steps, errors, target
        self.searched = np.arange(len(steps))

    def capacity(self, places: IntArray) -> FloatArray:
        return self.steps[places].astype(np.float64)

    def p_values(self, places: IntArray) -> FloatArray:
        return binomial_tail(self.errors[places], self.steps[places], self.target)

    def more(self, place: int, level: float) -> tuple[int, str]:
        accepted, wrong = int(self.steps[place]), int(self.errors[place])
        further = required_steps(self.target, level, errors=wrong) - accepted
        return further, f"{further} further accepted steps would do if none of them is wrong"


class _Clustered:
    """Bets on session sums."""

    def __init__(
        self,
        codes: IntArray,
        right: npt.NDArray[np.bool_],
        steps: IntArray,
        target: float,
        share: float,
        cap: int | None,
    ) -> None:
        self.codes, self.right, self.steps = codes, right, steps
        self.target, self.share, self.cap = target, share, cap
        self.searched = _thinned(steps, np.linspace(1, steps[-1], _SEARCHED)) if len(steps) else np.arange(0)

    def capacity(self, places: IntArray) -> FloatArray:
        return betting.capacity(self.codes, self.steps[places], self.target, cap=self.cap)

    def p_values(self, places: IntArray) -> FloatArray:
        return betting.p_values(self.codes, self.right, self.steps[places], self.target, self.share, cap=self.cap)

    def more(self, place: int, level: float) -> tuple[int, str]:
        weights, sums, mean = self._sessions(int(self.steps[place]))
        sessions = betting.further_sessions(weights, sums, self.target, level)
        further = math.ceil(sessions * mean)
        return further, (
            f"about {sessions} further sessions ({further} accepted steps) would do if none of their steps is wrong"
        )

    def lacking(self, smallest: int, asked: str) -> tuple[int, str]:
        """Say why no set can be tested, and return how many further accepted steps, all right, would change that."""
        if not len(self.steps):
            return smallest, f"no calibration steps with a score, but {asked} independent steps even without an error"
        weights, _, mean = self._sessions(int(self.steps[-1]))
        worth = float(betting.effective_steps(weights, self.target))
        sessions = betting.further_sessions(weights, (1 - self.target) * weights, self.target, self.share)
        further = math.ceil(sessions * mean)
        return further, (
            f"{int(self.steps[-1])} calibration steps with a score from {len(weights)} sessions are worth at most "
            f"{math.floor(worth + _ROUNDING)} independent ones, but {asked} even without an error; about {sessions} "
            f"further sessions ({further} accepted steps) would do if none of their steps is wrong"
        )

    def _sessions(self, end: int) -> tuple[FloatArray, FloatArray, float]:
        """Return weights and sums of the sessions of the first `end` steps, and their mean number of steps."""
        accepted = np.bincount(self.codes[:end])
        hits = np.bincount(self.codes[:end], weights=self.right[:end].astype(np.float64))
        inside = accepted > 0
        weights, sums = betting.session_sums(accepted[inside], hits[inside], self.target, self.cap)
        return weights, sums, float(accepted[inside].mean())


def _places(steps: IntArray, n: int, tests: _Tests, start: float, grid_size: int, required: Sequence[int]) -> IntArray:
    """Which tie groups end the tested sets, ascending.

    Args:
        steps: (k,) accepted counts at each tie group.
        n: calibration steps.
        tests: their capacity decides which sets are large enough.
        start: coverage at which testing starts.
        grid_size: number of counts.
        required: steps that suffice with 0, 1, … errors.
    """
    searched = tests.searched
    counts, worth = steps[searched], tests.capacity(searched) + _ROUNDING
    for errors in reversed(range(len(required))):
        enough = np.flatnonzero(worth >= required[errors])
        if len(enough) and (errors == 0 or counts[enough[0]] <= _ROOM * n):
            first = min(max(int(counts[enough[0]]), math.ceil(start * n)), int(steps[-1]))
            places = _thinned(steps, np.ceil(np.linspace(first, steps[-1], grid_size)))
            return places[tests.capacity(places) + _ROUNDING >= required[0]]
    return np.zeros(0, dtype=np.int64)


def _thinned(steps: IntArray, counts: FloatArray) -> IntArray:
    """Return the tie groups that end the largest sets of at most so many steps, each once."""
    places = np.unique(np.searchsorted(steps, counts, side="right") - 1)
    return places[places >= 0].astype(np.int64)


def _session_codes(sessions: npt.ArrayLike, n: int) -> IntArray:
    codes, _ = cluster_codes(sessions)
    if len(codes) != n:
        raise HandrailError(f"{n} scores but {len(codes)} session ids; expected one a score")
    return codes


def _check(
    target: float, cap: int | None, sessions: npt.ArrayLike | None, starts: Sequence[float], grid_size: int
) -> None:
    check_level("target", target)
    if not starts or list(starts) != sorted(starts) or starts[0] < 0 or starts[-1] > 1:
        raise HandrailError(f"starts is {starts!r}; expected ascending coverages in [0, 1], e.g. (0.1,)")
    if grid_size < 1:
        raise HandrailError(f"grid_size is {grid_size!r}; expected a whole number, at least 1")
    if cap is not None and (sessions is None or cap < 1):
        raise HandrailError(
            f"cap is {cap!r}; expected a whole number of steps, at least 1, with sessions, or None to count all steps"
        )
