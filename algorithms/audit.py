"""How good automated steps are, estimated from the few that an operator looked at.

Steps that run alone get no verdict. If each goes to an operator with a chance that is known before the draw, the
verdicts on those that did speak for all: a step that had chance p stands for 1 / p of them.

`horvitz_thompson` (Horvitz & Thompson 1952) divides the weighted number of right steps by the number of steps. The
expectation of the former over the draws is exactly the number of right steps, whatever the chances and whatever a
session does after an audit, because each draw is independent of the outcome of its own step; so the share is unbiased
where audits do not change how many steps follow, as good as unbiased where they do. `hajek` divides by the sum of the
weights instead: biased by no more than a share of its standard error, but far less variable where chances are small,
and never outside [0, 1]. It is the one to report; the other is the one that is exact.

Standard errors are those of linearised sums over sessions (Särndal, Swensson & Wretman 1992, ch. 5), so they hold where
errors of one session go together, and cover both the draw of the audits and that of the sessions. A normal interval has
width 0 where no audited step was wrong. Hájek intervals are therefore exact binomial ones at the sample size that has
the same standard error (Korn & Graubard 1998); with equal chances and one step a session they are those of
Clopper and Pearson.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.algorithms.bootstrap import Interval, cluster_codes
from handrail.algorithms.selective import check_level, put_interval, with_prefix
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

RAN, AUDITED = "confident", "audit"
"""Reasons of the gate for a step that it would let run: it did, or an operator saw it all the same."""


@dataclass(frozen=True)
class Audits:
    """Steps that were cleared to run alone, some of which an operator saw.

    Attributes:
        right: (n,) whether the operator accepted it; meaningless where nobody looked.
        audited: (n,) whether an operator saw it.
        probability: (n,) the chance of that before the draw, in (0, 1].
        sessions: (n,) session ids.

    Raises:
        HandrailError: lengths differ, or a probability is outside (0, 1]: a step that could not be audited is not
            represented by any that was.
    """

    right: BoolArray
    audited: BoolArray
    probability: FloatArray
    sessions: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        lengths = {len(self.right), len(self.audited), len(self.probability), len(self.sessions)}
        if len(lengths) > 1:
            raise HandrailError(
                f"audits: {len(self.right)} verdicts, {len(self.audited)} marks, {len(self.probability)} probabilities "
                f"and {len(self.sessions)} sessions; expected as many of each"
            )
        wrong = np.flatnonzero(~((self.probability > 0) & (self.probability <= 1)))
        if len(wrong):
            row = int(wrong[0])
            raise HandrailError(
                f"audits: probability is {float(self.probability[row])!r} in row {row}, session {self.sessions[row]}; "
                f"expected a chance in (0, 1]. Leave out steps that are never audited, or set gate.audit_share above 0"
            )

    @property
    def weights(self) -> FloatArray:
        """(n,) how many steps each stands for: 1 / probability where audited, else 0."""
        return np.where(self.audited, 1 / self.probability, 0.0)


class Estimate(NamedTuple):
    """A share of right steps.

    Attributes:
        interval: estimate with its bounds; NaN bounds where fewer than two sessions leave the spread unknown.
        error: standard error over audits and sessions, NaN as the bounds.
        audits: steps that an operator saw.
        steps: steps in all.
    """

    interval: Interval
    error: float
    audits: int
    steps: int

    @property
    def wrong(self) -> Interval:
        """The share of wrong steps."""
        value, low, high = self.interval
        return Interval(1 - value, 1 - high, 1 - low)


def audits_of(sessions: Iterable[Session]) -> Audits:
    """Read audits from sessions of `handrail.agents.runtime`: critical steps that the gate cleared to run alone.

    Raises:
        HandrailError: a session has no record of the runtime, an audited step has no verdict, or a probability is
            outside (0, 1].
    """
    right: list[bool] = []
    audited: list[bool] = []
    chance: list[float] = []
    names: list[str] = []
    for session in sessions:
        notes = session.hidden.get("runtime")
        if notes is None or len(notes) != len(session.steps):
            raise HandrailError(
                f"session {session.id}: hidden.runtime has {0 if notes is None else len(notes)} notes for "
                f"{len(session.steps)} steps; expected sessions that `Runtime.told` returned"
            )
        for step, note in zip(session.steps, notes, strict=True):
            if note["reason"] not in (RAN, AUDITED):
                continue
            seen = note["reason"] == AUDITED
            if seen and step.feedback is None:
                raise HandrailError(f"session {session.id}, step {step.index}: audited, but there is no verdict")
            audited.append(seen)
            right.append(seen and step.feedback is not None and step.feedback.verdict == "accept")
            chance.append(float(note["probability"]))
            names.append(session.id)
    return Audits(
        np.asarray(right, dtype=np.bool_),
        np.asarray(audited, dtype=np.bool_),
        np.asarray(chance, dtype=np.float64),
        np.asarray(names, dtype=np.str_),
    )


def horvitz_thompson(audits: Audits, level: float = 0.95) -> Estimate:
    """Estimate the share of right steps without bias; it may exceed 1.

    Args:
        audits: the steps.
        level: confidence level of the interval, which is that of Student's t, in (0, 1).

    Returns:
        The estimate; NaN without steps.

    Raises:
        HandrailError: `level` is out of range.
    """
    check_level("level", level)
    value, error, sessions = _ratio(audits.weights * audits.right, np.ones(len(audits.right)), audits.sessions)
    half = error * _quantile(level, sessions - 1)
    return Estimate(Interval(value, value - half, value + half), error, int(audits.audited.sum()), len(audits.right))


def hajek(audits: Audits, level: float = 0.95) -> Estimate:
    """Estimate the share of right steps by the weighted mean of the audited ones.

    Args:
        audits: the steps.
        level: confidence level of the Korn–Graubard interval, in (0, 1).

    Returns:
        The estimate; NaN without audits.

    Raises:
        HandrailError: `level` is out of range.
    """
    check_level("level", level)
    weights, seen = audits.weights, audits.audited
    count = int(seen.sum())
    # Sessions without an audit have neither numerator nor denominator; they say nothing of the spread.
    value, error, sessions = _ratio((weights * audits.right)[seen], weights[seen], audits.sessions[seen])
    low, high = _korn_graubard(value, error, weights[seen], sessions, level)
    return Estimate(Interval(value, low, high), error, count, len(audits.right))


def audit_metrics(prefix: str, audits: Audits) -> dict[str, float]:
    """Return the keys `steps`, `audits`, `precision` (Hájek) and `precision_unbiased` (Horvitz–Thompson).

    The latter two come with `.ci_low` and `.ci_high`; what is undefined is left out.

    Args:
        prefix: what the keys start with, empty for none.
        audits: the steps.
    """
    found: dict[str, float] = {"steps": len(audits.right), "audits": int(audits.audited.sum())}
    put_interval(found, "precision", hajek(audits).interval)
    put_interval(found, "precision_unbiased", horvitz_thompson(audits).interval)
    return with_prefix(prefix, found)


def audits_needed(share: float, half_width: float, *, level: float = 0.95, design_effect: float = 1.0) -> int:
    """Return how many audits an interval of a share takes, by the normal approximation.

    Divided by the audit share, it is the number of steps that have to be cleared meanwhile.

    Args:
        share: what is expected, e.g. a precision of 0.95, in (0, 1).
        half_width: wanted half of the interval's width, in (0, 1).
        level: confidence level, in (0, 1).
        design_effect: how many times the variance is that of independent steps with equal chances, > 0.

    Raises:
        HandrailError: an argument is out of range.

    Examples:
        >>> audits_needed(0.95, 0.02)
        457
        >>> audits_needed(0.95, 0.02, design_effect=2)
        913
    """
    for name, value in (("share", share), ("half_width", half_width), ("level", level)):
        check_level(name, value)
    if not 0 < design_effect < math.inf:
        raise HandrailError(f"design_effect is {design_effect!r}; expected a factor > 0, 1 for independent steps")
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    return math.ceil(z * z * share * (1 - share) * design_effect / half_width**2)


def _ratio(top: FloatArray, bottom: FloatArray, sessions: npt.NDArray[np.str_]) -> tuple[float, float, int]:
    """Return sum(top) / sum(bottom), its standard error by linearisation over sessions, and how many there are."""
    codes, count = cluster_codes(sessions)
    tops, bottoms = (np.bincount(codes, weights=values, minlength=count) for values in (top, bottom))
    total = float(bottoms.sum())
    if total == 0:
        return math.nan, math.nan, count
    value = float(tops.sum()) / total
    if count < 2:
        return value, math.nan, count
    spread = float(np.sum((tops - value * bottoms) ** 2)) * count / (count - 1)
    return value, math.sqrt(spread) / total, count


def _korn_graubard(value: float, error: float, weights: FloatArray, sessions: int, level: float) -> tuple[float, float]:
    """Return the Clopper–Pearson bounds at the effective sample size."""
    from scipy.special import betaincinv

    if math.isnan(value) or sessions < 2:
        return math.nan, math.nan
    # What unequal weights leave of the sample; also all that can be said where all verdicts agree.
    kish = float(weights.sum() ** 2 / np.sum(weights**2))
    size = min(value * (1 - value) / error**2, kish) if error > 0 else kish
    # Few sessions tell the standard error less well than many steps would.
    size *= (_quantile(level, len(weights) - 1) / _quantile(level, sessions - 1)) ** 2
    hits, tail = value * size, (1 - level) / 2
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if value < 1 else 1.0
    return low, high


def _quantile(level: float, degrees: int) -> float:
    """Return the two-sided quantile of Student's t; NaN without a degree of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2)) if degrees > 0 else math.nan
