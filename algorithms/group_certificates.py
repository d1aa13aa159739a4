"""Certificates for many groups (issues) that all hold at once: who stands alone, who shares, how delta is spent.

Groups with few calibration cases share one certificate on their pooled cases, which promises its precision over the
pool, not in each of its groups. Who joins the pool depends on numbers of cases only: if groups joined after failing,
easy groups would vouch for hard ones, or the pool's test would be picked by its outcome.

Delta is split evenly over the certificates, so that the chance of any wrong one is at most delta (Bonferroni). A group
that is certified for all its cases needs nothing more: its share of delta goes on to the groups that are not done,
evenly, and these are tested again from where they stopped (the graphical procedure of Bretz et al. 2009, in which each
group is a chain of hypotheses; for chains of one it is Holm's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt


class Answer(Protocol):
    """What a certificate of any kind says."""

    @property
    def threshold(self) -> float | None:
        """Lowest score that may run, or None."""


C = TypeVar("C", bound=Answer)
Trial = Callable[[float], tuple[C, bool]]
"""Level -> the certificate at that level, and whether it is for all cases of the group. More level never gives less."""


@dataclass(frozen=True)
class GroupCertificates(Mapping[str, C], Generic[C]):
    """Certificates that all hold at once with probability 1 − delta; a mapping from each group to the one it has.

    Attributes:
        own: group -> its certificate, for groups with enough cases to stand for themselves.
        pool: the certificate of all other groups together, None if there is none.
        pooled_groups: the groups it speaks of.
    """

    own: Mapping[str, C]
    pool: C | None
    pooled_groups: tuple[str, ...]

    def __getitem__(self, group: str) -> C:
        if group in self.own:
            return self.own[group]
        if self.pool is not None and group in self.pooled_groups:
            return self.pool
        raise KeyError(group)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted((*self.own, *self.pooled_groups)))

    def __len__(self) -> int:
        return len(self.own) + len(self.pooled_groups)

    @property
    def thresholds(self) -> dict[str, float | None]:
        """Group -> threshold, None where nothing could be certified: `agents.gate.Gate.thresholds`."""
        return {group: certificate.threshold for group, certificate in self.items()}

    @property
    def pooled(self) -> float | None:
        """The pool's threshold: `agents.gate.Gate.pooled`.

        `thresholds` has the pool's groups already. A gate that is given `pooled` too applies it to groups that no
        calibration case had, of which the certificate says nothing.
        """
        return None if self.pool is None else self.pool.threshold


def certify_all(
    names: npt.NDArray[np.str_],
    sizes: npt.NDArray[np.int64],
    delta: float,
    needed: Callable[[float], int],
    prepare: Callable[[Sequence[str], str, float], Trial[C]],
) -> GroupCertificates[C]:
    """Certify groups by themselves where they have enough cases, and all others together.

    Args:
        names: (g,) groups.
        sizes: (g,) their calibration cases.
        delta: chance that any certificate may be wrong, in (0, 1).
        needed: share of delta -> cases that a group needs to stand for itself.
        prepare: groups, what to call them, and the level to aim at -> the test of their cases together.
    """
    own, pooled, share = standing(names, sizes, delta, needed)
    trials = [prepare([name], name, share) for name in own]
    if pooled:
        trials.append(prepare(pooled, f"pool of {len(pooled)} small group{'s' * (len(pooled) > 1)}", share))
    found = share_out(trials, share)
    return GroupCertificates(
        dict(zip(own, found[: len(own)], strict=True)), found[-1] if pooled else None, tuple(pooled)
    )


def standing(
    names: npt.NDArray[np.str_], sizes: npt.NDArray[np.int64], delta: float, needed: Callable[[float], int]
) -> tuple[list[str], list[str], float]:
    """Decide by numbers of cases which groups stand for themselves.

    Fewer certificates have a larger share of delta each and need fewer cases, so the largest number of groups that
    have enough is sought from above.

    Args:
        names: (g,) groups.
        sizes: (g,) their calibration cases.
        delta: chance that any certificate may be wrong.
        needed: share of delta -> cases that a group needs.

    Returns:
        Groups on their own and groups in the pool, sorted by name, and the share of delta of each certificate.
    """
    order = np.lexsort((names, -sizes))
    for alone in range(len(names), 0, -1):
        share = delta / (alone + (alone < len(names)))
        if sizes[order[alone - 1]] >= needed(share):
            return sorted(map(str, names[order[:alone]])), sorted(map(str, names[order[alone:]])), share
    return [], sorted(map(str, names)), delta


def share_out(trials: Sequence[Trial[C]], share: float) -> list[C]:
    """Test every group, passing on the level of those that are done.

    Args:
        trials: (k,) the tests.
        share: level of each at the beginning.

    Returns:
        (k,) certificates, each at the level it had in the end. The chance that any is wrong is at most k · share.
    """
    levels = [share] * len(trials)
    results = [trial(share) for trial in trials]
    waiting = list(range(len(trials)))
    while done := [place for place in waiting if results[place][1]]:
        for place in done:
            waiting.remove(place)
            for other in waiting:
                levels[other] += levels[place] / len(waiting)
        for other in waiting:
            results[other] = trials[other](levels[other])
    return [certificate for certificate, _ in results]
