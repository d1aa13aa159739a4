"""Gradient-boosted trees over what is on the screen and what was said: good at rules, which ask for thresholds.

A language model reads a limit and an amount as text; a tree splits on their difference. After each kind of action
(tool and target) a classifier of its own tells what comes next, from `situation`; for each input with options another
tells which is entered. Boosted trees over attributes of a case are a standard of predictive process monitoring
(Teinemaa et al. 2019, arXiv 1707.06766).
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._heads import HeadBaseline
from handrail.agents.baselines._inputs import takes_one_value
from handrail.agents.baselines._moments import Head, Moment, head_of, moments
from handrail.agents.baselines._situation import situation
from handrail.agents.baselines._values import value_key
from handrail.envs.offers import Offer
from handrail.envs.schema import Action, Arg, Session

_CHUNK = 4096
_LEAST = 15
"""Moments after an action below which it shares a classifier with the other rare ones."""

_SEEN = 4
"""Actions and options that followed less often are left to what generally follows."""

_FEATURES = 800
"""Most features of one classifier."""

_SETTINGS: dict[str, Any] = {
    "n_estimators": 60,
    "learning_rate": 0.12,
    "num_leaves": 12,
    "min_child_samples": 6,
    "reg_lambda": 2.0,
    "colsample_bytree": 0.5,
    # Two threads are no faster here, and many times slower where another process has the core.
    "n_jobs": 1,
}

_SMOOTHING = 0.5
"""Weight of what generally follows, in moments, beside the classifier's, which has never seen some of it."""

_RARE = 1e-3
"""Chance of an option that training data never entered, before all options' chances are made to sum to 1."""

Row = tuple[Mapping[str, float], int]
"""A situation, and the position of what followed."""


class _Packed(Mapping[str, float]):
    """A situation in eight bytes a feature: a log has millions of features in memory.

    Args:
        names: of the features of all situations.
        places: of this one's features among them.
        values: theirs.
    """

    __slots__ = ("_names", "_places", "_values")

    def __init__(self, names: Sequence[str], places: Iterable[int], values: Iterable[float]) -> None:
        self._names, self._places, self._values = names, array("i", places), array("f", values)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return map(self._names.__getitem__, self._places)

    def __getitem__(self, name: str) -> float:
        return dict(zip(self, self._values, strict=True))[name]

    def items(self) -> ItemsView[str, float]:
        """Return names with their values."""
        return dict(zip(self, self._values, strict=True)).items()


class _Classifier(NamedTuple):
    """What is known of the moments after one kind of action, or of those in which one input was filled in.

    Attributes:
        columns: feature -> column.
        classes: positions that the model tells apart.
        model: `None` if no two of them followed often enough to be told apart.
        usual: how often each position followed, as shares, shape (positions,).
        seen: how many moments there were.
    """

    columns: dict[str, int]
    classes: NDArray[np.int64]
    model: Any
    usual: NDArray[np.float64]
    seen: int


class Baseline(HeadBaseline):
    """One gradient-boosted classifier for each last action, and one for each input with options."""

    name = "trees"

    def fit_heads(self, sessions: Sequence[Session], seed: int) -> None:
        """Fit; `seed` draws the features of each split."""
        counts = Counter(moment.last_head() for one in sessions for moment, _ in moments(one))
        self._own = {head for head, count in counts.items() if count >= _LEAST}
        self._options: dict[Head, dict[str, int]] = {}
        grouped: defaultdict[Head | None, list[Row]] = defaultdict(list)
        entered: defaultdict[Head, list[Row]] = defaultdict(list)
        place: dict[str, int] = {}
        names: list[str] = []
        for session in sessions:
            for moment, step in moments(session):
                head = head_of(step.action)
                found = situation(moment)
                features = _Packed(names, [place.setdefault(name, len(place)) for name in found], found.values())
                grouped[self._group(moment)].append((features, self._position[head]))
                option = _option(moment, step.action)
                if option is not None:
                    known = self._options.setdefault(head, {})
                    entered[head].append((features, known.setdefault(option, len(known))))
        names.extend(place)
        self._after = {group: _learn(rows, len(self.heads), seed) for group, rows in grouped.items()}
        self._inputs = {head: _learn(rows, len(self._options[head]), seed) for head, rows in entered.items()}

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
                    scores[members] = _predict(self._after[group], [chunk[row][1] for row in members])
            yield from scores

    def chances(self, moment: Moment, offer: Offer, args: Mapping[str, Arg]) -> list[float]:
        """Return the chance that each argument is right, 0 for one that was not thought of; empty for messages."""
        options = self._weigh(moment, offer)
        if not options:
            return super().chances(moment, offer, args)
        return [options.get(value_key(args.get(offer.fields[0].id)) or "", 0.0)]

    def fill(self, moment: Moment, offer: Offer) -> tuple[dict[str, Arg], list[float]]:
        """Return arguments for a chosen offer and the chance that each is right."""
        options = self._weigh(moment, offer)
        if not options:
            return super().fill(moment, offer)
        (field,) = offer.fields
        best = max(field.options, key=lambda option: options[value_key(option) or ""])
        return {field.id: best}, [options[value_key(best) or ""]]

    def _weigh(self, moment: Moment, offer: Offer) -> dict[str, float]:
        """Return the chance of each option of an input, empty if it has none or training data never filled it in."""
        known = self._inputs.get((offer.tool, offer.target))
        if known is None or not takes_one_value(offer):
            return {}
        position = self._options[offer.tool, offer.target]
        chances = _predict(known, [situation(moment)])[0]
        keys = [value_key(option) or "" for option in offer.fields[0].options]
        weights = {key: float(chances[position[key]]) if key in position else _RARE for key in keys}
        total = sum(weights.values())
        return {key: weight / total for key, weight in weights.items()}

    def _group(self, moment: Moment) -> Head | None:
        last = moment.last_head()
        return last if last in self._own else None


def _option(moment: Moment, action: Action) -> str | None:
    """Return the option that an action enters into an input, `None` if it enters none."""
    if action.tool != "set_field":
        return None
    for control in moment.state.controls:
        if control.id == action.target and control.options:
            entered = {value_key(value) for value in action.args.values()}
            return next((key for option in control.options if (key := value_key(option)) in entered), None)
    return None


def _learn(rows: Sequence[Row], positions: int, seed: int) -> _Classifier:
    from lightgbm import LGBMClassifier

    labels = np.array([label for _, label in rows])
    usual = np.bincount(labels, minlength=positions) / len(labels)
    common = np.flatnonzero(np.bincount(labels) >= _SEEN)
    kept = np.flatnonzero(np.isin(labels, common))
    if len(common) < 2:
        return _Classifier({}, common, None, usual, len(rows))
    known = [rows[n][0] for n in kept.tolist()]
    columns = telling(known, labels[kept], _FEATURES, _SEEN)
    model = LGBMClassifier(**_SETTINGS, random_state=seed, deterministic=True, force_row_wise=True, verbose=-1)
    model.fit(matrix(known, columns), labels[kept])
    return _Classifier(columns, np.asarray(model.classes_, dtype=np.int64), model.booster_, usual, len(rows))


def _predict(known: _Classifier, features: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Return the chances of all positions, shape (n, positions)."""
    found = np.zeros((len(features), len(known.usual)))
    if known.model is None:
        found[:, known.classes] = 1.0
    else:
        made = np.asarray(known.model.predict(matrix(features, known.columns), num_threads=1))
        found[:, known.classes] = made if made.ndim == 2 else np.column_stack([1 - made, made])
    others = known.usual.copy()
    others[known.classes] = 0.0
    weight = _SMOOTHING / (known.seen + _SMOOTHING)
    shares: NDArray[np.float64] = (1 - others.sum()) * found + others
    return (1 - weight) * shares + weight * known.usual


def telling(rows: Sequence[Mapping[str, float]], labels: NDArray[Any], most: int, least: int) -> dict[str, int]:
    """Return the columns of the features that are kept.

    Of quantities, which get up to half of the places, those known most often; of marks those that tell most of the
    labels, by their chi-squared.

    Args:
        rows: features by name, n of them; names that begin with `#` are quantities.
        labels: shape (n,).
        most: features that are kept.
        least: occurrences below which a feature is left out.
    """
    from scipy import sparse
    from sklearn.feature_selection import chi2

    counts = Counter(name for row in rows for name in row)
    common = [name for name, count in counts.most_common() if count >= least]
    kept = [name for name in common if name.startswith("#")][: most // 2]
    marks = sorted(name for name in common if not name.startswith("#"))
    if len(marks) > most - len(kept):
        place = {name: n for n, name in enumerate(marks)}
        on = [[place[name] for name in row if name in place] for row in rows]
        pointers = np.cumsum([0, *map(len, on)])
        table = sparse.csr_matrix((np.ones(pointers[-1]), np.concatenate(on), pointers), shape=(len(rows), len(marks)))
        worth = np.nan_to_num(chi2(table, labels)[0])
        marks = [marks[n] for n in np.argsort(-worth, kind="stable")[: most - len(kept)]]
    return {name: n for n, name in enumerate(sorted([*kept, *marks]))}


def matrix(rows: Sequence[Mapping[str, float]], columns: dict[str, int]) -> NDArray[np.float32]:
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
