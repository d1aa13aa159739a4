"""Suggests the action, arguments included, that occurs most often in training data among what the state offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._heads import HeadBaseline
from handrail.agents.baselines._moments import Head, Moment, head_of, moments
from handrail.envs.normalize import action_key
from handrail.envs.offers import Offer
from handrail.envs.schema import Arg, Session


class Baseline(HeadBaseline):
    """How often the commonest action of each tool and target occurs."""

    name = "majority"

    def fit_heads(self, sessions: Sequence[Session], seed: int) -> None:
        """Count; nothing is drawn at random."""
        actions = [step.action for session in sessions for _, step in moments(session)]
        keys = [action_key(action) for action in actions]
        counts = Counter(keys)
        examples = dict(zip(keys, actions, strict=True))
        self._commonest: dict[Head, dict[str, Arg]] = {}
        best = dict.fromkeys(self.heads, 0)
        for key, count in counts.items():
            head = head_of(examples[key])
            if count > best[head]:
                best[head], self._commonest[head] = count, examples[key].args
        self._shares = np.array([best[head] for head in self.heads], dtype=np.float64) / len(actions)

    def score_moments(self, moments: Iterable[Moment]) -> Iterator[NDArray[np.float64]]:
        """Yield the same shares at every moment."""
        for _ in moments:
            yield self._shares

    def fill(self, moment: Moment, offer: Offer) -> tuple[dict[str, Arg], list[float]]:
        """Return the arguments of the commonest action."""
        return self._commonest.get((offer.tool, offer.target), {}), []
