"""What can be certified at all, before anything is calibrated.

**A bound on coverage.** Let a policy be right at a share m of its steps. However good a critic, the steps that run
alone at precision p contain at most all right ones: coverage · p <= m. So coverage is at most m / p, and abstention at
least 1 − m / p (0 where m >= p). In terms of the error rate e = 1 − m and the risk allowed a = 1 − p the same bound
reads (e − a) / (1 − a). It is reached by a critic that ranks every right step above every wrong one.

**A bound on evidence.** A certificate at level delta takes log(delta) / log(p) accepted steps even if none is wrong
(`certify.required_steps`). With n labelled steps, nothing below that number divided by n can be a certified coverage.
Where steps of one session hang together, the sessions' sizes say how many independent steps theirs are worth at most
(`betting.effective_steps`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handrail.algorithms.betting import effective_steps
from handrail.algorithms.bootstrap import cluster_codes
from handrail.algorithms.certify import binomial_tail, required_steps
from handrail.algorithms.selective import check_level
from handrail.envs.errors import HandrailError

_MAX_STEPS = 10**7


@dataclass(frozen=True)
class Feasibility:
    """What is possible for one target.

    Attributes:
        target: precision to hold.
        delta: accepted chance that a certificate is wrong.
        accuracy: share of right steps.
        steps: labelled steps at hand.
        worth: how many independent steps they can be worth; `steps` where they are independent.
        required: independent accepted steps that a certificate takes without an error.
        max_coverage: largest coverage at which any critic can hold the target.
        possible: whether the labels could suffice at that coverage.
        sentence: all that for a reader.
    """

    target: float
    delta: float
    accuracy: float
    steps: int
    worth: float
    required: int
    max_coverage: float
    possible: bool
    sentence: str

    @property
    def abstention(self) -> float:
        """Smallest share of steps that operators keep."""
        return 1 - self.max_coverage


def largest_coverage(accuracy: float, target: float) -> float:
    """Largest share of steps that can run alone at precision `target` if a share `accuracy` is right.

    Args:
        accuracy: in [0, 1].
        target: in (0, 1).

    Raises:
        HandrailError: an argument is out of range.

    Examples:
        >>> round(largest_coverage(0.76, 0.95), 3)
        0.8
    """
    check_level("target", target)
    if not 0 <= accuracy <= 1:
        raise HandrailError(f"accuracy is {accuracy!r}; expected a share in [0, 1]")
    return min(1.0, accuracy / target)


def feasibility(
    correct: npt.ArrayLike, target: float, delta: float = 0.05, *, sessions: npt.ArrayLike | None = None
) -> Feasibility:
    """Say what is possible with some labelled steps, whatever the scores.

    Args:
        correct: (n,) whether each step was right.
        target: precision to hold, in (0, 1).
        delta: accepted chance of a wrong certificate, in (0, 1).
        sessions: (n,) session ids, where steps of one session may hang together; None for independent steps.

    Raises:
        HandrailError: an argument is out of range, there are no steps, or lengths differ.
    """
    outcome = np.asarray(correct, dtype=np.float64).reshape(-1)
    needed = required_steps(target, delta)
    n = len(outcome)
    if n == 0:
        raise HandrailError("no labelled steps; expected at least one")
    accuracy = float(outcome.mean())
    worth, words = float(n), f"{n:,} labelled steps"
    if sessions is not None:
        codes, count = cluster_codes(sessions)
        if len(codes) != n:
            raise HandrailError(f"{n} outcomes but {len(codes)} session ids; expected one an outcome")
        worth = float(effective_steps(np.bincount(codes), target))
        words += f" of {count:,} sessions, worth at most {math.floor(worth + 1e-9):,} independent ones"
    most = largest_coverage(accuracy, target)
    possible = most * worth >= needed
    enough = (
        "They can suffice."
        if possible
        else f"At that coverage they cannot suffice: about {needed / (most * worth):.1f} times as many are needed."
        if most > 0
        else "None of them is right, so nothing can be certified."
    )
    bound = (
        f"at most {most:.1%} can run alone, whatever the score, and operators keep at least {1 - most:.1%}"
        if most < 1
        else "all could run alone"
    )
    return Feasibility(
        target=target,
        delta=delta,
        accuracy=accuracy,
        steps=n,
        worth=worth,
        required=needed,
        max_coverage=most,
        possible=possible,
        sentence=(
            f"{100 * target:.6g} % precision: {accuracy:.1%} of the steps are right, so {bound}; a certificate at "
            f"delta {delta:g} takes {needed:,} accepted independent steps without an error; there are {words}. {enough}"
        ),
    )


def steps_needed(precision: float, target: float, delta: float = 0.05, *, chance: float = 0.8) -> int:
    """Accepted independent steps with which a certificate is likely, if so many of them are right.

    With so many steps an exact test at level `delta` rejects "precision is below target" with at least the given
    chance. It is the smallest such number for some number of errors; the test is discrete, so between the numbers of
    steps that allow one error more the chance falls a little.

    Args:
        precision: true precision of the accepted steps, above `target`, at most 1.
        target: precision to hold, in (0, 1).
        delta: accepted chance of a wrong certificate, in (0, 1).
        chance: of getting the certificate, in (0, 1).

    Raises:
        HandrailError: an argument is out of range, or more than ten million steps would be needed.

    Examples:
        >>> steps_needed(1.0, 0.95), steps_needed(1.0, 0.99)
        (59, 299)
    """
    check_level("target", target)
    check_level("delta", delta)
    check_level("chance", chance)
    if not target < precision <= 1:
        raise HandrailError(
            f"precision is {precision!r}; expected more than the target {target:g}: at or below it no number of steps "
            "leads to a certificate"
        )

    def likely(errors: int) -> bool:
        steps = required_steps(target, delta, errors)
        return precision == 1 or float(binomial_tail(errors, steps, precision)) >= chance

    if likely(0):
        return required_steps(target, delta)
    low, high = 0, 1
    while required_steps(target, delta, high) <= _MAX_STEPS and not likely(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if likely(middle) else (middle, high)
    steps = required_steps(target, delta, high)
    if steps <= _MAX_STEPS:
        return steps
    raise HandrailError(
        f"precision {precision:g} is too close to the target {target:g}: more than {_MAX_STEPS:,} accepted steps are "
        "needed; lower the target"
    )
