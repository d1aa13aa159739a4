"""Counts what follows (procedure, last two actions, kind of the last event), backing off to shorter contexts.

Contexts are interpolated as Witten & Bell (1991) do: a context seen n times with t different continuations has weight
n / (n + t) against the next shorter one, so a rare context says little.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._heads import HeadBaseline
from handrail.agents.baselines._moments import Moment, moments
from handrail.envs.schema import Session


class Baseline(HeadBaseline):
    """Interpolated counts of tool and target after their contexts."""

    name = "backoff"

    def fit_heads(self, sessions: Sequence[Session], seed: int) -> None:
        """Count; nothing is drawn at random."""
        counts: dict[Hashable, Counter[int]] = defaultdict(Counter)
        for session in sessions:
            for moment, step in moments(session):
                for context in _contexts(moment):
                    counts[context][self._position[step.action.tool, step.action.target]] += 1
        self._counts = {
            context: (np.fromiter(seen, dtype=np.int64), np.fromiter(seen.values(), dtype=np.float64))
            for context, seen in counts.items()
        }

    def score_moments(self, moments: Iterable[Moment]) -> Iterator[NDArray[np.float64]]:
        """Yield the interpolated distribution at each moment."""
        for moment in moments:
            shares = np.full(len(self.heads), 1.0 / len(self.heads))
            for context in reversed(_contexts(moment)):
                if context in self._counts:
                    heads, seen = self._counts[context]
                    shares *= len(heads) / (seen.sum() + len(heads))
                    shares[heads] += seen / (seen.sum() + len(heads))
            yield shares


def _contexts(moment: Moment) -> list[Hashable]:
    """Return the contexts, long to short."""
    last, before = moment.last_head(), moment.last_head(2)
    return [
        (moment.procedure, last, before, moment.kind),
        (moment.procedure, last, moment.kind),
        (moment.procedure, moment.kind),
        (last, moment.kind),
        (moment.kind,),
    ]
