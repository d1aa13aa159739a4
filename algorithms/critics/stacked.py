"""Probe and boosted trees together, weighed on sessions that neither has learned from (Wolpert 1992).

The probe reads the policy's states, which know what was said; trees compare quantities. Their errors differ. Each
learns on all folds but one and judges that one; a logistic regression of the verdicts on the two log-odds weighs them.
Both then learn from all verdicts.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import Reading, assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms.config import StackedConfig
from handrail.algorithms.critics import boosted, probe
from handrail.algorithms.critics.boosted import Trees
from handrail.algorithms.critics.probe import draw_sessions, folds_of, save

_LEAST = 1e-6
"""Chances are kept this far from 0 and 1, where log-odds end."""


class _Pair(NamedTuple):
    """Two critics.

    Attributes:
        probe: a regression on states.
        trees: boosted trees on situations.
    """

    probe: Any
    trees: Trees

    def log_odds(self, states: NDArray[np.float32], rows: Sequence[dict[str, float]]) -> NDArray[np.float64]:
        """Return the log-odds of both for n cases, shape (n, 2)."""
        chances = np.column_stack([self.probe.predict_proba(states)[:, 1], self.trees.predict(rows)])
        chances = np.clip(chances, _LEAST, 1 - _LEAST)
        return np.asarray(np.log(chances) - np.log1p(-chances), dtype=np.float64)


class StackedCritic:
    """Scores suggestions by both critics.

    Attributes:
        policy: whose readings it judges.
    """

    def __init__(self, policy: Policy, pair: _Pair, weights: Any) -> None:
        self.policy, self._pair, self._weights = policy, pair, weights

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,)."""
        return self.judge(assess(Decoder(self.policy), cases), cases)

    def judge(self, readings: Sequence[Reading], cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of cases that the policy has read, shape (n,)."""
        if not cases:
            return np.zeros(0)
        odds = self._pair.log_odds(probe.features(readings, cases), boosted.features(readings, cases))
        return np.asarray(self._weights.predict_proba(odds)[:, 1], dtype=np.float64)


def fit(policy: Policy, cases: Sequence[Case], config: StackedConfig, folder: Path, seed: int) -> StackedCritic:
    """Fit both on verdicts, and weigh them.

    Raises:
        HandrailError: verdicts are too few or too much alike.
    """
    from sklearn.linear_model import LogisticRegression

    chosen = draw_sessions(cases, config.max_cases, np.random.default_rng(seed))
    labels = np.array([case.accepted for case in chosen])
    groups = np.unique([case.session.id for case in chosen], return_inverse=True)[1]
    readings = assess(Decoder(policy), chosen)
    states, rows = probe.features(readings, chosen), boosted.features(readings, chosen)

    def learn(part: NDArray[np.int64]) -> _Pair:
        own = [rows[n] for n in part]
        return _Pair(
            probe.regress(states[part], labels[part], groups[part], config.probe, seed),
            boosted.grow(own, labels[part], config.boosted, seed),
        )

    odds = np.zeros((len(chosen), 2))
    for known, other in folds_of("stacked", labels, groups, config.folds):
        odds[other] = learn(known).log_odds(states[other], [rows[n] for n in other])
    weights = LogisticRegression(C=np.inf).fit(odds, labels)
    pair = learn(np.arange(len(chosen)))
    save((pair, weights), folder, "stacked.pkl")
    return StackedCritic(policy, pair, weights)


def load(policy: Policy, folder: Path) -> StackedCritic:
    """Read what `fit` left in `folder`."""
    return StackedCritic(policy, *pickle.loads((folder / "stacked.pkl").read_bytes()))
