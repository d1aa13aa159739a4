"""Thresholds with a certificate about whole sessions: with probability 1 − delta, at most a share alpha goes wrong.

`certify` speaks of steps: of all that run, so many are right. A customer meets a session, and errors of one session go
together. Here the unit is the session: at a threshold t it is *in error* if any of its wrong steps has a score of at
least t, so that it would have run alone. Sessions are independent, however their steps hang together.

A session is in error at t exactly if t is at most the highest score among its wrong steps, its **risk**. So of n
calibration sessions those with risk >= t are in error, and this number is binomial with n and the true share r(t).
"r(t) is above alpha" is rejected where the exact tail P(Bin(n, alpha) <= errors) is at most delta, that is where no
more than k sessions are in error, and k follows from n, alpha and delta alone. Thresholds are tested in a fixed
sequence, from the highest score to the lowest, until the first that cannot be rejected. The grid holds every score of
any calibration step, right or wrong, so it says nothing of the labels.

**The sequence costs nothing.** Lowering the threshold only adds errors, in truth as in any sample. Let t* be the
highest threshold at which r is alpha or more. Whatever threshold below t* was certified, by whatever grid, at most k
sessions were in error there, hence at most k at t*, and that has a chance of at most P(Bin(n, alpha) <= k) <= delta.
(Risk control for monotone losses, Bates et al. 2021, with the exact binomial tail of Clopper & Pearson 1934.)

**What is assumed.** Calibration sessions and later ones come from one source, worked independently, and the score was
not fitted on the calibration sessions. Calibration sessions are reviewed with care: what is right is accepted, what is
wrong corrected. So a session under the gate goes as in calibration until something wrong runs alone, which is the error
that is counted, or until an operator overrides the policy, after which the gate lets nothing critical run alone
(`handrail.agents.gate`). Where an operator accepts something wrong, that session has its error already.

**Where an operator who is called keeps the session** (`Gate.keeps`), a step runs alone only if all critical ones before
it did: what counts is the lowest score so far (`running_minimum`). That leaves fewer sessions in error at any
threshold, and as many that run without an operator.

Sessions without a critical step cannot be in error; they are no part of the table, so shares are of sessions with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handrail.algorithms.certify import binomial_tail, required_steps
from handrail.algorithms.group_certificates import GroupCertificates, Trial, certify_all
from handrail.algorithms.selective import check_level
from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SessionTable:
    """What thresholds would do to each of n sessions.

    Attributes:
        names: (n,) session ids, sorted.
        issues: (n,) their issues.
        risk: (n,) highest score of a wrong step, −inf if there is none: in error at any threshold up to it.
        floor: (n,) lowest score of a step: runs without an operator at any threshold up to it; −inf for never.
        grid: (k,) the distinct finite scores of all steps, descending: the thresholds to test.
    """

    names: npt.NDArray[np.str_]
    issues: npt.NDArray[np.str_]
    risk: FloatArray
    floor: FloatArray
    grid: FloatArray

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self.names)


@dataclass(frozen=True)
class SessionCurve:
    """What each threshold would do to sessions.

    Attributes:
        thresholds: (k,) descending.
        automated: (k,) share of sessions that run without any operator step: all critical steps score at least as much.
        in_error: (k,) share of sessions with a wrong step that runs alone.
    """

    thresholds: FloatArray
    automated: FloatArray
    in_error: FloatArray


@dataclass(frozen=True)
class SessionCertificate:
    """The answer to "may steps over some score run alone if at most a share alpha of sessions may go wrong?".

    Where the answer is no, `threshold` is None, `automated` 0, and `n_errors` and `p_value` are those of the highest
    threshold (0 and 1 if there is nothing to test).

    Attributes:
        alpha: share of sessions that may have a wrong step that ran alone.
        delta: accepted chance that the certificate is wrong.
        threshold: lowest score that may run, or None.
        n_sessions: calibration sessions.
        n_errors: those in error at the threshold.
        automated: share of them that would run without any operator step.
        p_value: exact binomial tail of `n_errors`.
        further: how many further sessions would suffice for some threshold if none of them were in error; 0 with a
            threshold.
        reason: one sentence for a reader.
        scope: which sessions it speaks of: `all`, an issue, or the pool of small issues.
    """

    alpha: float
    delta: float
    threshold: float | None
    n_sessions: int
    n_errors: int
    automated: float
    p_value: float
    further: int
    reason: str
    scope: str = "all"


def session_table(
    sessions: npt.ArrayLike, scores: npt.ArrayLike, correct: npt.ArrayLike, issues: npt.ArrayLike | None = None
) -> SessionTable:
    """Summarise judged critical steps by session.

    Args:
        sessions: (n,) session ids of the steps.
        scores: (n,) their scores; −inf marks steps that never run.
        correct: (n,) whether each was right.
        issues: (n,) the issue of each step's session; all the same if left out.

    Raises:
        HandrailError: lengths differ, a score is NaN or infinite, or a session has two issues.
    """
    names, first, codes = np.unique(np.asarray(sessions).astype(str), return_index=True, return_inverse=True)
    values, right = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(correct).astype(bool).reshape(-1)
    kinds = np.asarray(issues).astype(str).reshape(-1) if issues is not None else np.full(len(values), "")
    codes = codes.reshape(-1)
    if not len(codes) == len(values) == len(right) == len(kinds):
        raise HandrailError(
            f"session_table: {len(codes)} session ids, {len(values)} scores, {len(right)} outcomes, {len(kinds)} "
            "issues; expected one of each a step"
        )
    bad = np.isnan(values) | (values == np.inf)
    if bad.any():
        row = int(bad.argmax())
        raise HandrailError(
            f"session_table: the score at row {row} is {values[row]}; expected numbers, or -inf for steps that must go "
            "to the operator"
        )
    mixed = kinds != kinds[first][codes]
    if mixed.any():
        row = int(mixed.argmax())
        raise HandrailError(
            f"session_table: session {names[codes[row]]} has issue {str(kinds[row])!r} at row {row} and "
            f"{str(kinds[first][codes[row]])!r} before; expected one issue a session"
        )
    risk, floor = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    np.maximum.at(risk, codes[~right], values[~right])
    np.minimum.at(floor, codes, values)
    return SessionTable(names, kinds[first], risk, floor, np.unique(values[values > -np.inf])[::-1])


def running_minimum(sessions: npt.ArrayLike, scores: npt.ArrayLike) -> FloatArray:
    """Return for each step the lowest score of its session up to it: the score of sessions that operators keep.

    Args:
        sessions: (n,) session ids of the steps, each session's steps in their order.
        scores: (n,) their scores.

    Returns:
        Shape (n,).
    """
    lowest: dict[str, float] = {}
    found = np.asarray(scores, dtype=np.float64).reshape(-1).copy()
    for row, name in enumerate(np.asarray(sessions).astype(str).tolist()):
        found[row] = lowest[name] = float(np.minimum(lowest.get(name, np.inf), found[row]))
    return found


def deferred(
    issues: npt.ArrayLike, scores: npt.ArrayLike, thresholds: Mapping[str, float | None], pooled: float | None
) -> npt.NDArray[np.bool_]:
    """Return which steps would go to an operator.

    Args:
        issues: (n,) of the steps' sessions.
        scores: (n,) what is compared with thresholds; `running_minimum` where operators keep what they were called
            to. NaN is deferred.
        thresholds: issue -> threshold, `None` where nothing runs alone.
        pooled: the threshold of other issues.

    Returns:
        Shape (n,).
    """
    limits = [thresholds.get(issue, pooled) for issue in np.asarray(issues).astype(str).tolist()]
    filled = np.array([np.inf if limit is None else limit for limit in limits], dtype=np.float64)
    return np.asarray(~(np.asarray(scores, dtype=np.float64) >= filled))


def session_curve(table: SessionTable) -> SessionCurve:
    """Return what every threshold of the table's grid would do to its sessions."""
    count = max(len(table), 1)
    return SessionCurve(
        table.grid, _reaching(table.floor, table.grid) / count, _reaching(table.risk, table.grid) / count
    )


def certify_sessions(
    table: SessionTable, alpha: float, delta: float = 0.05, *, scope: str = "all"
) -> SessionCertificate:
    """Certify the lowest threshold at which at most a share `alpha` of sessions has a wrong step that runs alone.

    Args:
        table: calibration sessions.
        alpha: share of sessions that may go wrong, in (0, 1).
        delta: accepted chance of a wrong certificate, in (0, 1).
        scope: copied into the certificate.

    Returns:
        The certificate; `threshold` is None if nothing could be certified, with the reason and how many further
        sessions would suffice.

    Raises:
        HandrailError: `alpha` or `delta` is out of range.
    """
    check_level("alpha", alpha)
    check_level("delta", delta)
    n = len(table)
    errors = _reaching(table.risk, table.grid)
    tails = binomial_tail(errors, np.full(len(errors), n), 1 - alpha)
    # Errors only grow along the grid, so the thresholds that pass are the first ones.
    passed = int((tails <= delta).sum())
    promise = f"at most {100 * alpha:g} % of sessions in error at delta {delta:g}"
    if passed:
        threshold, wrong = float(table.grid[passed - 1]), int(errors[passed - 1])
        return SessionCertificate(
            alpha=alpha,
            delta=delta,
            threshold=threshold,
            n_sessions=n,
            n_errors=wrong,
            automated=float(np.mean(table.floor >= threshold)),
            p_value=float(tails[passed - 1]),
            further=0,
            reason=f"certified: {wrong} of {n} calibration sessions in error",
            scope=scope,
        )
    least = int(errors[0]) if len(errors) else 0
    further = required_steps(1 - alpha, delta, least) - n
    found = f"{least} of {n} calibration sessions in error at the highest score" if n else "no calibration sessions"
    return SessionCertificate(
        alpha=alpha,
        delta=delta,
        threshold=None,
        n_sessions=n,
        n_errors=least,
        automated=0.0,
        p_value=float(tails[0]) if len(tails) else 1.0,
        further=further,
        reason=f"cannot be certified: {found}; {promise} takes {further} further sessions if none of them is in error",
        scope=scope,
    )


def certify_issues(
    table: SessionTable, alpha: float, delta: float = 0.05, *, min_size: int | None = None
) -> GroupCertificates[SessionCertificate]:
    """Certify each issue by itself where it has enough sessions, and all others together.

    All certificates hold at once with probability 1 − delta; how it is spent: `group_certificates`. An issue that could
    not be certified is not pooled: easy issues would vouch for it.

    Args:
        table: calibration sessions with their issues.
        alpha: share of sessions that may go wrong, in (0, 1), the same for all.
        delta: accepted chance that any certificate is wrong, in (0, 1).
        min_size: sessions that an issue needs to stand for itself; by default as many as can be certified with one
            session in error at its share of `delta`.

    Returns:
        The certificates, a mapping from every issue to its own or the pool's.

    Raises:
        HandrailError: `alpha` or `delta` is out of range.
    """
    check_level("alpha", alpha)
    check_level("delta", delta)

    def needed(level: float) -> int:
        return required_steps(1 - alpha, level, errors=1) if min_size is None else min_size

    def prepare(issues: Sequence[str], scope: str, _: float) -> Trial[SessionCertificate]:
        part = _part(table, np.isin(table.issues, issues))

        def trial(level: float) -> tuple[SessionCertificate, bool]:
            found = certify_sessions(part, alpha, level, scope=scope)
            return found, found.threshold is not None and found.threshold == part.grid[-1]

        return trial

    return certify_all(*np.unique(table.issues, return_counts=True), delta, needed, prepare)


def _part(table: SessionTable, chosen: npt.NDArray[np.bool_]) -> SessionTable:
    """Return some sessions; they are tested on the grid of all, since any grid that knows no labels will do."""
    return SessionTable(table.names[chosen], table.issues[chosen], table.risk[chosen], table.floor[chosen], table.grid)


def _reaching(values: FloatArray, thresholds: FloatArray) -> IntArray:
    """Return how many of `values` (n,) are at least each threshold (k,)."""
    ordered = np.sort(values)
    return (len(ordered) - np.searchsorted(ordered, thresholds, side="left")).astype(np.int64)
