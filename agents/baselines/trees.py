"""Gradient-boosted trees over what is on the screen and what was said: good at rules, which ask for thresholds.

A language model reads a limit and an amount as text; a tree splits on their difference. After each kind of action
(tool and target) a classifier of its own tells what comes next, from `situation`. Boosted trees over attributes of a
case are a standard of predictive process monitoring (Teinemaa et al. 2019, arXiv 1707.06766).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._heads import HeadBaseline
from handrail.agents.baselines._moments import Head, Moment, moments
from handrail.agents.baselines._situation import situation
from handrail.envs.schema import Session

_CHUNK = 4096
_LEAST = 60
"""Moments after an action below which it shares a classifier with the other rare ones."""

_FEATURES = 400
"""Most features of one classifier; the most frequent are kept."""

_ITERATIONS, _RATE, _LEAVES, _LEAF, _PENALTY = 60, 0.12, 12, 6, 2.0

_SMOOTHING = 0.5
"""Weight of what generally follows the action, in moments, beside the classifier's: it has never seen some heads."""


class _After(NamedTuple):
    """What is known of the moments after one kind of action.

    Attributes:
        columns: feature -> column.
        classes: positions in `heads` that the model tells apart.
        model: `None` if only one action ever followed.
        usual: how often each head followed, as shares, shape (heads,).
        seen: how many moments were learned from.
    """

    columns: dict[str, int]
    classes: NDArray[np.int64]
    model: Any
    usual: NDArray[np.float64]
    seen: int


class Baseline(HeadBaseline):
    """One gradient-boosted classifier for each last action."""

    name = "trees"

    def fit_heads(self, sessions: Sequence[Session], seed: int) -> None:
        """Fit; `seed` draws the features of each split."""
        counts = Counter(moment.last_head() for one in sessions for moment, _ in moments(one))
        self._own = {head for head, count in counts.items() if count >= _LEAST}
        grouped: defaultdict[Head | None, list[tuple[dict[str, float], int]]] = defaultdict(list)
        for session in sessions:
            for moment, step in moments(session):
                label = self._position[step.action.tool, step.action.target]
                grouped[self._group(moment)].append((situation(moment), label))
        self._after = {group: self._learn(rows, seed) for group, rows in grouped.items()}

    def score_moments(self, moments: Iterable[Moment]) -> Iterator[NDArray[np.float64]]:
        """Yield the classifiers' probabilities at each moment."""
        seen = ((self._group(moment), situation(moment)) for moment in moments)
        while chunk := list(islice(seen, _CHUNK)):
            scores = np.full((len(chunk), len(self.heads)), 1.0 / len(self.heads))
            rows: defaultdict[Head | None, list[int]] = defaultdict(list)
            for row, (group, _) in enumerate(chunk):
                rows[group].append(row)
            for group, members in rows.items():
                if group in self._after:
                    scores[members] = self._predict(self._after[group], [chunk[row][1] for row in members])
            yield from scores

    def _group(self, moment: Moment) -> Head | None:
        last = moment.last_head()
        return last if last in self._own else None

    def _learn(self, rows: Sequence[tuple[dict[str, float], int]], seed: int) -> _After:
        from sklearn.ensemble import HistGradientBoostingClassifier

        labels = np.array([label for _, label in rows])
        usual = np.bincount(labels, minlength=len(self.heads)) / len(labels)
        classes = np.unique(labels)
        if len(classes) == 1:
            return _After({}, classes, None, usual, len(rows))
        counts = Counter(name for features, _ in rows for name in features)
        kept = [name for name, count in counts.most_common(_FEATURES) if count >= min(5, len(rows))]
        columns = {name: n for n, name in enumerate(sorted(kept))}
        model = HistGradientBoostingClassifier(
            max_iter=_ITERATIONS,
            learning_rate=_RATE,
            max_leaf_nodes=_LEAVES,
            min_samples_leaf=_LEAF,
            l2_regularization=_PENALTY,
            max_features=0.5,
            early_stopping=False,
            random_state=seed,
        )
        model.fit(_matrix([features for features, _ in rows], columns), labels)
        return _After(columns, np.asarray(model.classes_, dtype=np.int64), model, usual, len(rows))

    @staticmethod
    def _predict(after: _After, features: Sequence[dict[str, float]]) -> NDArray[np.float64]:
        found = np.zeros((len(features), len(after.usual)))
        found[:, after.classes] = (
            1.0 if after.model is None else after.model.predict_proba(_matrix(features, after.columns))
        )
        weight = _SMOOTHING / (after.seen + _SMOOTHING)
        return (1 - weight) * found + weight * after.usual


def _matrix(rows: Sequence[dict[str, float]], columns: dict[str, int]) -> NDArray[np.float32]:
    """Return features as a table, shape (n, columns); numbers that are not known are NaN, marks that are not set 0."""
    table = np.zeros((len(rows), len(columns)), dtype=np.float32)
    for name, column in columns.items():
        if name.startswith("#"):
            table[:, column] = np.nan
    for row, features in enumerate(rows):
        for name, value in features.items():
            if (found := columns.get(name)) is not None:
                table[row, found] = value
    return table
