"""A desk with a second reader: of running sessions what `handrail.agents.rerank` does of finished ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from handrail.agents.baselines._moments import Watch
from handrail.agents.decoding import Suggestion
from handrail.agents.desk import Desk
from handrail.agents.rerank import Candidates, Reranker
from handrail.envs.schema import Action
from handrail.envs.spaces import Observation

K = TypeVar("K", bound=Hashable)


class RerankedDesk(Desk):
    """Suggests the best of the policy's own next action and the actions that a baseline thinks likely.

    A step at which the baseline has nothing to add costs no more than at a plain desk; else the policy reads the other
    candidates, which are a few tokens each.

    Args:
        reranker: policy, baseline and their weights.
        operator, constrained, copied: see `Desk`.

    Raises:
        HandrailError: the model does not look back as far as the policy's window.
    """

    def __init__(self, reranker: Reranker, operator: str = "", constrained: bool = True, copied: bool = False) -> None:
        super().__init__(reranker.decoder.policy, operator, constrained, copied)
        self.reranker = reranker
        self._watched: dict[Hashable, Watch] = {}

    def begin(self, key: Hashable, operator: str | None = None, session_id: str | None = None) -> None:
        """Take in a session, as `Desk.begin` does."""
        super().begin(key, operator, session_id)
        running = self._running[key]
        self._watched[key] = Watch(running.session_id, running.operator)

    def finish(self, key: Hashable) -> None:
        """Forget a session, as `Desk.finish` does."""
        super().finish(key)
        del self._watched[key]

    def suggest(
        self, observations: Mapping[K, Observation], drafts: Mapping[K, Action] | None = None
    ) -> dict[K, Suggestion]:
        """Return the best candidate in each session with the policy's confidence in it, in the order given.

        Args:
            observations: by session, as in `Desk.suggest`.
            drafts: by session; where there is none, what the baseline would do is the policy's draft.
        """
        for key in observations:
            if key not in self._running:
                self.begin(key)
        moments = [self._watched[key].see(observation) for key, observation in observations.items()]
        heads = list(self.reranker.baseline.score_moments(moments))
        expected = dict(drafts or {})
        for key, moment, scores in zip(observations, moments, heads, strict=True):
            if key not in expected and (likely := self.reranker.baseline.favourite(moment, scores)) is not None:
                expected[key] = likely
        own = super().suggest(observations, expected)
        given = {
            key: self.reranker.consider(moment, scores, one)
            for moment, scores, (key, one) in zip(moments, heads, own.items(), strict=True)
        }
        read = {key: [one.suggestion] for key, one in given.items()}
        for place in range(1, max((len(one.actions) for one in given.values()), default=1)):
            asked = {key: one.actions[place] for key, one in given.items() if len(one.actions) > place}
            for key, reading in self.assess(asked, self.reranker.decoder).items():
                read[key].append(reading.suggestion)
        return {key: self._best(one, read[key]) for key, one in given.items()}

    def _best(self, given: Candidates, read: list[Suggestion]) -> Suggestion:
        place = self.reranker.best(np.column_stack([[one.log_probability for one in read], given.experts]))
        return replace(read[place], second=given.second(place))
