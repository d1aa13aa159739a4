"""An alarm for precision that has fallen: valid however often, and for however long, one looks at it.

Certificates speak of the distribution that calibration came from. Once steps run alone, a random share of them still
goes to operators (the gate's audits), and their verdicts tell whether precision still holds. Testing it every evening
at 5 % would raise a false alarm within weeks. An **e-process** does not: a process that starts at 1, is never negative,
and is expected not to grow while precision is at least the target. The chance that it ever reaches 1 / delta is then at
most delta (Ville 1939), over all time, at any looks.

**The bet.** An audited step that is wrong pays, one that is right costs: x = target − right. Of a session with several
audited steps x is their sum, since they hang together; sessions come one after the other, and the next may depend on
those before. While, given the past, the expectation of x is at most 0, so is that of every bet on it, and

    capital = Π (1 + bet · x),     0 <= bet <= 1 / ((1 − target) · most)

is such a process (betting as in Waudby-Smith & Ramdas 2020), where `most` bounds the number of audited steps of a
session. With `bet` = (r − 1) / target it grows fastest where the share of wrong steps is r times what is allowed
(Kelly 1956); capital is spread evenly over r = 1.5, 2, 3 and 5.

**Starting late.** While all is well capital dwindles, and a drop after a year would first have to win it back. So the
capital is spread over starting times as well: of what is unspent after s sessions, the share h / (s + h) waits still,
h being `horizon`; what starts bets from then on. The sum over all starts is an e-process too (a mixture of them, as in
the e-detectors of Shin, Ramdas & Rinaldo 2023, whose weights sum to 1 here, which buys the promise over all time).
Starts share their future, so the state is one number for each bet.

**Audits with unlike chances.** A step that was audited with chance p stands for 1 / p steps: give `probability`, and x
is weighted by least / p with `least` the smallest chance that can occur, so that it stays within its bounds. Its
expectation over the draws is `least` times the sum over *all* steps that the gate cleared. With one chance for all, as
`gate.audit_share` has it, the weights are 1 and can be left out.

**Detection.** From precision 0.95 to 0.90 with target 0.95, delta 0.05 and one audit a session, half of the drops are
found within 230 audits and 95 % within 570 if precision falls within the first 300 audits, within 300 and 650 after
1,000 good ones (2,000 simulated streams each). Of streams at exactly 0.95, 3 % ever raised an alarm in 10,000 looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from handrail.algorithms.selective import check_level
from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]

EXCESSES = (1.5, 2.0, 3.0, 5.0)
"""By how much the share of wrong steps may exceed what is allowed: the alternatives that are bet on."""


@dataclass(frozen=True)
class Monitor:
    """The state of an alarm; `observe` returns the next. It is plain numbers: `as_dict` and `from_dict` keep it.

    Attributes:
        target: precision that steps are to have, in (0, 1).
        delta: chance that a false alarm is ever raised, in (0, 1).
        most: largest number of audited steps of a session.
        least: smallest chance that a cleared step can have of being audited, in (0, 1].
        horizon: number of sessions by which half of the capital has begun to bet; a drop that comes about then is found
            soonest.
        sessions: observed so far.
        audits: audited steps so far.
        wrong: wrong ones among them.
        capital: for each of `EXCESSES`, what its bets have come to; empty at the beginning.
        peak: largest evidence so far.
    """

    target: float
    delta: float = 0.05
    most: int = 1
    least: float = 1.0
    horizon: float = 300.0
    sessions: int = 0
    audits: int = 0
    wrong: int = 0
    capital: tuple[float, ...] = (0.0,) * len(EXCESSES)
    peak: float = 1.0

    def __post_init__(self) -> None:
        check_level("target", self.target)
        check_level("delta", self.delta)
        check_level("least", self.least, closed=True)
        if self.most < 1 or not 0 < self.horizon < math.inf:
            raise HandrailError(
                f"most is {self.most!r}, horizon is {self.horizon!r}; expected a number of audits a session, at least "
                "1, and a number of sessions above 0"
            )
        if len(self.capital) != len(EXCESSES):
            raise HandrailError(f"capital has {len(self.capital)} numbers; expected {len(EXCESSES)}, one for each bet")

    @property
    def evidence(self) -> float:
        """The e-value now: its expectation is at most 1 while precision is at least the target."""
        return float(sum(self.capital)) + self.horizon / (self.sessions + self.horizon)

    @property
    def alarm(self) -> bool:
        """Whether the evidence has ever reached 1 / delta; it stays so until somebody starts a new monitor."""
        return self.peak >= 1 / self.delta

    def observe(self, right: npt.ArrayLike, probability: npt.ArrayLike | None = None) -> Monitor:
        """Return the state after the audited steps of one more session.

        Args:
            right: (k,) verdicts on them, 0 < k <= `most`.
            probability: (k,) the chance that each had of being audited, in [`least`, 1]; None if it was `least` for
                all.

        Raises:
            HandrailError: there are more audits than `most` or none, a verdict is not 0 or 1, or a chance is out of
                range.
        """
        verdicts = np.asarray(right, dtype=np.float64).reshape(-1)
        chances = np.full(len(verdicts), self.least) if probability is None else np.asarray(probability, dtype=float)
        if not 0 < len(verdicts) <= self.most or len(verdicts) != len(chances.reshape(-1)):
            raise HandrailError(
                f"session {self.sessions + 1} has {len(verdicts)} audited steps with {len(chances.reshape(-1))} "
                f"chances; expected as many of each, from 1 to most={self.most}"
            )
        if not np.isin(verdicts, (0.0, 1.0)).all():
            raise HandrailError(f"session {self.sessions + 1}: verdicts are {verdicts.tolist()}; expected 0 or 1")
        if not ((chances >= self.least) & (chances <= 1)).all():
            raise HandrailError(
                f"session {self.sessions + 1}: chances of an audit are {chances.tolist()}; expected them in "
                f"[least={self.least:g}, 1]"
            )
        total = float(np.sum(self.least / chances * (self.target - verdicts)))
        before, after = (self.horizon / (s + self.horizon) for s in (self.sessions, self.sessions + 1))
        entering = (before - after) / len(EXCESSES)
        factors = 1 + bets(self.target, self.most) * total
        capital = tuple(float(one) for one in (np.asarray(self.capital) + entering) * factors)
        return replace(
            self,
            sessions=self.sessions + 1,
            audits=self.audits + len(verdicts),
            wrong=self.wrong + int((verdicts == 0).sum()),
            capital=capital,
            peak=max(self.peak, sum(capital) + after),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return asdict(self) | {"capital": list(self.capital)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Monitor:
        """Return the monitor with a state from `as_dict`.

        Raises:
            HandrailError: the state is not one of a monitor.
        """
        try:
            return cls(**{**state, "capital": tuple(map(float, state["capital"]))})
        except (TypeError, KeyError, ValueError) as error:
            raise HandrailError(
                f"the monitor's state {dict(state)!r} is damaged ({error}); expected what Monitor.as_dict returned"
            ) from error


def bets(target: float, most: int = 1) -> FloatArray:
    """Return the stake of each of `EXCESSES` on session sums, no larger than what one session can lose; (b,)."""
    aimed = (np.asarray(EXCESSES) - 1) / (target * most)
    return np.minimum(aimed, 1 / ((1 - target) * most))


def evidence_path(sums: npt.ArrayLike, target: float, *, most: int = 1, horizon: float = 300.0) -> FloatArray:
    """Return the evidence after each session, for many streams at once: what `Monitor` has, one by one.

    Args:
        sums: (..., t) session sums x, weighted where chances differ.
        target: precision, in (0, 1).
        most: largest number of audited steps of a session.
        horizon: as in `Monitor`.

    Returns:
        (..., t).
    """
    values = np.asarray(sums, dtype=np.float64)
    stakes = bets(target, most)
    capital = np.zeros((*values.shape[:-1], len(stakes)))
    path = np.empty(values.shape)
    waiting = 1.0
    for time in range(values.shape[-1]):
        left = horizon / (time + 1 + horizon)
        capital += (waiting - left) / len(stakes)
        capital *= 1 + stakes * values[..., time, None]
        waiting = left
        path[..., time] = capital.sum(axis=-1) + waiting
    return path
