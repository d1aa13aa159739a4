"""The part all baselines share: a distribution over tool and target, restricted to what the state offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._arguments import ArgumentFiller
from handrail.agents.baselines._moments import Head, Moment, head_of, moments
from handrail.agents.decoding import Suggestion
from handrail.envs.errors import HandrailError
from handrail.envs.offers import Offer, offers
from handrail.envs.schema import Action, Arg, Control, Session

_FLOOR = 1e-6
"""Weight of an offered head that training data never showed there."""


class HeadBaseline(ABC):
    """A baseline that scores tool and target and leaves the arguments to the filler.

    A screen that lists no control restricts nothing; then any head of the training data may be suggested, bare.

    Attributes:
        heads: those of the training data, sorted.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self._position: dict[Head, int] = {}
        self._filler = ArgumentFiller()
        self._screens: dict[int, tuple[tuple[Control, ...], list[Offer], NDArray[np.int64]]] = {}

    def fit(self, sessions: Sequence[Session], seed: int, filler: ArgumentFiller | None = None) -> None:
        """Learn from training sessions.

        Args:
            sessions: logged sessions.
            seed: of whatever is drawn at random; the same seed gives the same suggestions.
            filler: that has learned from the same sessions; `None` for one of its own.

        Raises:
            HandrailError: no session holds an operator's action.
        """
        self.heads = sorted({head_of(s.action) for one in sessions for s in one.steps if s.actor == "operator"})
        if not self.heads:
            raise HandrailError(f"baseline {self.name}: none of {len(sessions)} sessions holds an operator's action")
        self._position = {head: n for n, head in enumerate(self.heads)}
        self._screens = {}
        if filler is None:
            self._filler.fit(sessions)
        else:
            self._filler = filler
        self.fit_heads(sessions, seed)

    def suggest(self, sessions: Sequence[Session]) -> list[Suggestion]:
        """Return one suggestion for each operator step, in order of session and step."""
        scores = self.score(sessions)
        return [self._suggest(moment, next(scores)) for session in sessions for moment, _ in moments(session)]

    def suggest_now(self, moments: Sequence[Moment]) -> list[Suggestion]:
        """Return a suggestion for each of several running sessions, in order."""
        return [self._suggest(*pair) for pair in zip(moments, self.score_moments(moments), strict=True)]

    def score(self, sessions: Sequence[Session]) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities of `self.heads`, shape (n,), at each operator step."""
        return self.score_moments(moment for session in sessions for moment, _ in moments(session))

    @abstractmethod
    def fit_heads(self, sessions: Sequence[Session], seed: int) -> None:
        """Learn which head follows what; `self.heads` is set."""

    @abstractmethod
    def score_moments(self, moments: Iterable[Moment]) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities of `self.heads`, shape (n,), at each moment; none is kept once the next is drawn."""

    def _suggest(self, moment: Moment, scores: NDArray[np.float64]) -> Suggestion:
        offered, shares = self.shares(moment, scores)
        if not offered:
            best = int(scores.argmax())
            return _suggestion(moment, Action(*self.heads[best]), scores / scores.sum(), [])
        best = int(shares.argmax())
        args, chances = self.fill(moment, offered[best])
        action = Action(offered[best].tool, offered[best].target, args)
        return _suggestion(moment, action, shares, chances)

    def favourite(self, moment: Moment, scores: NDArray[np.float64]) -> Action | None:
        """Return what would be done, given the probabilities of `self.heads`; `None` where nothing is offered."""
        offered, shares = self.shares(moment, scores)
        if not offered:
            return None
        best = offered[int(shares.argmax())]
        return Action(best.tool, best.target, self.fill(moment, best)[0])

    def shares(self, moment: Moment, scores: NDArray[np.float64]) -> tuple[list[Offer], NDArray[np.float64]]:
        """Return what the screen offers and the probability of each, shape (n,), given those of `self.heads`."""
        offered, position = self._offers(moment.state.controls)
        weights = np.where(position >= 0, scores[position], 0.0) + _FLOOR
        return offered, weights / weights.sum()

    def chances(self, moment: Moment, offer: Offer, args: Mapping[str, Arg]) -> list[float]:
        """Return the chance that each argument is right, 0 for one that was not thought of; empty for messages."""
        return self._filler.chances(moment, offer, args)

    def fill(self, moment: Moment, offer: Offer) -> tuple[dict[str, Arg], list[float]]:
        """Return arguments for a chosen offer and the chance that each is right."""
        return self._filler.fill(moment, offer)

    def _offers(self, controls: tuple[Control, ...]) -> tuple[list[Offer], NDArray[np.int64]]:
        """Return what a screen offers and where its heads are among `self.heads`, -1 if they are not."""
        known = self._screens.get(id(controls))
        if known is None or known[0] is not controls:
            found = offers(controls)
            position = [self._position.get((offer.tool, offer.target), -1) for offer in found]
            known = self._screens[id(controls)] = (controls, found, np.array(position, dtype=np.int64))
        return known[1:]

    def __getstate__(self) -> dict[str, Any]:
        # Remembered screens are known by identity, which means nothing in another process.
        return {**self.__dict__, "_screens": {}}


def _suggestion(moment: Moment, action: Action, heads: NDArray[np.float64], chances: Sequence[float]) -> Suggestion:
    """Return a suggestion with the measures of its distribution.

    Args:
        moment: where.
        action: what is suggested.
        heads: probabilities of the admissible heads, shape (n,); the action's is the largest.
        chances: that each argument is right.
    """
    ordered = np.sort(heads)[::-1]
    positive = ordered[ordered > 0]
    parts = [float(ordered[0]), *chances]
    return Suggestion(
        session_id=moment.session.id,
        step=moment.index,
        action=action,
        tokens=(),
        log_probability=float(np.log(parts).sum()),
        min_probability=min(parts),
        margin=float(ordered[0] - ordered[1]) if len(ordered) > 1 else float(ordered[0]),
        entropy=float(-(positive * np.log(positive)).sum()),
    )
