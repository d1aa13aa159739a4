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
_LEAST = 15
"""Moments after an action below which it shares a classifier with the other rare ones."""

_SEEN = 4
"""Actions that followed less often are left to what generally follows."""

_FEATURES = 800
"""Most features of one classifier; the most frequent are kept."""

_SETTINGS: dict[str, Any] = {
    "n_estimators": 60,
    "learning_rate": 0.12,
    "num_leaves": 12,
    "min_child_samples": 6,
    "reg_lambda": 2.0,
    "colsample_bytree": 0.5,
}

_SMOOTHING = 0.5
"""Weight of what generally follows the action, in moments, beside the classifier's, which has never seen some heads."""


class _After(NamedTuple):
    """What is known of the moments after one kind of action.

    Attributes:
        columns: feature -> column.
        classes: positions in `heads` that the model tells apart.
        model: `None` if no two actions followed often enough to be told apart.
        usual: how often each head followed, as shares, shape (heads,).
        seen: how many moments there were.
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
        from lightgbm import LGBMClassifier

        labels = np.array([label for _, label in rows])
        usual = np.bincount(labels, minlength=len(self.heads)) / len(labels)
        common = np.flatnonzero(np.bincount(labels) >= _SEEN)
        kept = np.flatnonzero(np.isin(labels, common))
        if len(common) < 2:
            return _After({}, common, None, usual, len(rows))
        known = [rows[n][0] for n in kept.tolist()]
        counts = Counter(name for features in known for name in features)
        names = [name for name, count in counts.most_common(_FEATURES) if count >= _SEEN]
        columns = {name: n for n, name in enumerate(sorted(names))}
        model = LGBMClassifier(**_SETTINGS, random_state=seed, deterministic=True, force_row_wise=True, verbose=-1)
        model.fit(matrix(known, columns), labels[kept])
        classes = np.asarray(model.classes_, dtype=np.int64)
        return _After(columns, classes, model.booster_, usual, len(rows))

    @staticmethod
    def _predict(after: _After, features: Sequence[dict[str, float]]) -> NDArray[np.float64]:
        found = np.zeros((len(features), len(after.usual)))
        if after.model is None:
            found[:, after.classes] = 1.0
        else:
            made = np.asarray(after.model.predict(matrix(features, after.columns), num_threads=1))
            found[:, after.classes] = made if made.ndim == 2 else np.column_stack([1 - made, made])
        others = after.usual.copy()
        others[after.classes] = 0.0
        weight = _SMOOTHING / (after.seen + _SMOOTHING)
        shares: NDArray[np.float64] = (1 - others.sum()) * found + others
        return (1 - weight) * shares + weight * after.usual


def matrix(rows: Sequence[dict[str, float]], columns: dict[str, int]) -> NDArray[np.float32]:
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
