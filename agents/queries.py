"""When to ask an operator, so that a policy learns where it goes: mixtures and gated queries.

`Mixture` is DAgger's (Ross, Gordon & Bagnell 2011): the operator acts by chance and labels every state that is visited.
`Gated` follows ThriftyDAgger (Hoque et al. 2021): the operator takes over where the critic sees a risk or the state is
novel, keeps the session until both are low again, and does so at most a number of times a session. Departures: an
operator who takes over is shown the suggestion, so that each of their steps is a verdict too; risk is the critic's, of
one step, and not a learned value of the whole session; thresholds follow from a target share of steps over the
sessions of an earlier round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.agents.rules import Moment, Ruling
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session, Step

_HALVINGS = 16
"""How often the search for a level of quantiles halves its interval: to 1.5e-5, finer than the scores of a round."""


@dataclass(frozen=True)
class Mixture:
    """The operator acts by chance, else the policy; the operator labels every state.

    Attributes:
        beta: the chance that the operator acts, in [0, 1].
    """

    beta: float
    suggests: bool = True
    labels: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise HandrailError(f"beta={self.beta}: expected a probability")

    def route(self, moment: Moment) -> Ruling:
        """Draw who acts; the operator sees the step either way."""
        return Ruling("operator" if moment.rng.random() < self.beta else "run", "mixture")


class Bounds(NamedTuple):
    """Two thresholds of a score.

    Attributes:
        ask: the operator takes over above it.
        release: having taken over, they keep the session above it; at most `ask`.
    """

    ask: float
    release: float


NEVER = Bounds(np.inf, np.inf)
"""Bounds of a score that nobody has."""


class Scores(NamedTuple):
    """What a gate would have read at the steps of earlier sessions; session after session, in order.

    Attributes:
        risk: 1 - the critic's score, shape (n,), NaN where there was none.
        novelty: shape (n,), NaN where there was none.
        session: number of the session, shape (n,).
    """

    risk: npt.NDArray[np.float64]
    novelty: npt.NDArray[np.float64]
    session: npt.NDArray[np.int64]


def doubt(moment: Moment) -> float:
    """Return a novelty in [0, 1]: how little the policy believes in the least certain token of its suggestion."""
    return 1 - moment.suggestion.min_probability


def recorded(sessions: Sequence[Session]) -> Scores:
    """Return risk and `doubt` at each step at which the policy was asked, from the records of `Runtime`.

    Raises:
        HandrailError: the policy was not asked in any of these sessions.
    """
    rows = [
        (note["score"], note["min_probability"], number)
        for number, session in enumerate(sessions)
        for note in session.hidden.get("runtime", ())
        if "min_probability" in note
    ]
    if not rows:
        raise HandrailError(
            f"none of the {len(sessions)} sessions says how sure the policy was; expected sessions of a rule under "
            "which it suggests, such as copilot"
        )
    risk = [np.nan if score is None else 1 - score for score, _, _ in rows]
    return Scores(np.array(risk), np.array([1 - low for _, low, _ in rows]), np.array([number for *_, number in rows]))


@dataclass(frozen=True)
class Gated:
    """The operator takes over where risk or novelty is high, until both are low again.

    A score that is NaN is not high.

    Attributes:
        risk: bounds of 1 - the critic's score, which only critical suggestions have.
        novelty: bounds of `measure`.
        budget: how often the operator may take over in a session; after that the policy goes on alone. `None` does not
            limit it.
        measure: the novelty of a step.
    """

    risk: Bounds = NEVER
    novelty: Bounds = NEVER
    budget: int | None = None
    measure: Callable[[Moment], float] = doubt
    suggests: bool = field(default=True, init=False)
    labels: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for name, bounds in (("risk", self.risk), ("novelty", self.novelty)):
            if not bounds.release <= bounds.ask:
                raise HandrailError(f"{name}={bounds}: expected a release of at most {bounds.ask}, where it is asked")
        if self.budget is not None and self.budget < 0:
            raise HandrailError(f"budget={self.budget}: expected a number of interventions of at least 0, or None")

    @classmethod
    def for_share(
        cls,
        scores: Scores,
        share: float,
        release: float = 0.8,
        budget: int | None = None,
        measure: Callable[[Moment], float] = doubt,
    ) -> Gated:
        """Return the gate that would have asked at a share of the steps of earlier sessions, and not at more.

        Both scores are asked above the same quantile of their own.

        Args:
            scores: of the earlier sessions; `measure` gave the novelties.
            share: of all steps, in [0, 1].
            release: level of the quantile of release, as a share of the level of the quantile of asking; in [0, 1].
            budget: as the attribute.
            measure: as the attribute.

        Raises:
            HandrailError: there are no scores, or a share is none.
        """
        for name, value in (("share", share), ("release", release)):
            if not 0 <= value <= 1:
                raise HandrailError(f"{name}={value}: expected a share in [0, 1]")
        if not len(scores.session):
            raise HandrailError("there are no earlier steps to set thresholds by")

        def at(level: float) -> Gated:
            risk, novelty = (Bounds(_quantile(v, level), _quantile(v, release * level)) for v in scores[:2])
            return cls(risk, novelty, budget, measure)

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if at(middle).asked(scores).mean() > share:
                low = middle
            else:
                high = middle
        return at(high)

    def asked(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """Return at which steps of earlier sessions the operator would have acted, shape (n,).

        The sessions are taken as they went, though they might have gone otherwise.
        """
        found = np.zeros(len(scores.session), dtype=bool)
        session, turns, held = -1, 0, False
        for row, (risk, novelty, number) in enumerate(zip(*scores, strict=True)):
            if number != session:
                session, turns, held = number, 0, False
            asks, _ = self._decided(risk, novelty, held, turns)
            turns += asks and not held
            found[row] = held = asks
        return found

    def route(self, moment: Moment) -> Ruling:
        """Ask the operator or let the policy go on."""
        held, turns = _turns(moment.observation.history)
        asks, reason = self._decided(1 - moment.score, self.measure(moment), held, turns)
        return Ruling("review", reason) if asks else Ruling("run", reason, 0.0)

    def _decided(self, risk: float, novelty: float, held: bool, turns: int) -> tuple[bool, str]:
        """Return whether the operator acts, and why.

        Args:
            risk: of the step.
            novelty: of the step.
            held: whether the operator did the step before.
            turns: how often they have taken over.
        """
        if held:
            keeps = risk > self.risk.release or novelty > self.novelty.release
            return keeps, "held" if keeps else "released"
        high = "risk" if risk > self.risk.ask else "novelty" if novelty > self.novelty.ask else ""
        if high and self.budget is not None and turns >= self.budget:
            return False, "budget_spent"
        return bool(high), high or "familiar"


def _quantile(values: npt.NDArray[np.float64], level: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, level)) if len(known) else np.inf


def _turns(history: Iterable[Step]) -> tuple[bool, int]:
    """Return whether the operator did the last step, and how often they have taken over."""
    held, turns = False, 0
    for step in history:
        turns += step.actor == "operator" and not held
        held = step.actor == "operator"
    return held, turns
