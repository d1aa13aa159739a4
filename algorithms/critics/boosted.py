"""Gradient-boosted trees on the situation and on how sure policy and second reader are: where rules are broken.

A suggestion is mostly wrong where its procedure asks for a comparison that the policy missed, and then the policy is as
sure as ever. Trees see the quantities that were to be compared (`handrail.agents.baselines._situation`), the suggested
action, and the confidences of the suggestion and of what led to it. Members of a bagged ensemble are averaged.
"""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import Reading, assess
from handrail.agents.baselines._moments import moments_at
from handrail.agents.baselines._situation import situation
from handrail.agents.baselines.trees import matrix
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms.config import BoostedConfig
from handrail.algorithms.critics.probe import draw_sessions, folds_of, save

_SEEN = 8
"""Features of fewer verdicts are left out."""


class Trees(NamedTuple):
    """What is learned.

    Attributes:
        columns: feature -> column.
        members: boosters whose probabilities are averaged.
    """

    columns: dict[str, int]
    members: tuple[Any, ...]

    def predict(self, rows: Sequence[dict[str, float]]) -> NDArray[np.float64]:
        """Return p(accept), shape (n,)."""
        table = matrix(rows, self.columns)
        made = [np.asarray(member.predict(table, num_threads=1), dtype=np.float64) for member in self.members]
        found: NDArray[np.float64] = np.mean(made, axis=0)
        return found


class BoostedCritic:
    """Scores suggestions by boosted trees.

    Attributes:
        policy: whose readings it judges.
    """

    def __init__(self, policy: Policy, model: Trees) -> None:
        self.policy, self._model = policy, model

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,)."""
        return self.judge(assess(Decoder(self.policy), cases), cases)

    def judge(self, readings: Sequence[Reading], cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of cases that the policy has read, shape (n,)."""
        if not cases:
            return np.zeros(0)
        return self._model.predict(features(readings, cases))


def features(readings: Sequence[Reading], cases: Sequence[Case]) -> list[dict[str, float]]:
    """Return what each case is like, by name; names that begin with `#` are quantities, others marks."""
    seen: defaultdict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    wanted: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        wanted[case.session.id].append(case)
    for name, some in wanted.items():
        for moment in moments_at(some[0].session, {case.step for case in some}):
            seen[name][moment.index] = situation(moment)
    return [
        {**seen[case.session.id][case.step], **dict(_suggested(reading, case))}
        for reading, case in zip(readings, cases, strict=True)
    ]


def _suggested(reading: Reading, case: Case) -> Iterator[tuple[str, float]]:
    """Yield what the suggestion adds to the situation."""
    made, action = reading.suggestion, case.suggestion
    yield f"suggested={action.tool}/{action.target}", 1.0
    for name, value in action.args.items():
        yield f"suggested {name}={str(value)[:40]}", 1.0
    for name in ("log_probability", "min_probability", "margin", "entropy", "second"):
        yield f"#{name}", getattr(made, name)
    for name, value in case.trail._asdict().items():
        yield f"#trail {name}", value


def fit(policy: Policy, cases: Sequence[Case], config: BoostedConfig, folder: Path, seed: int) -> BoostedCritic:
    """Fit the members on verdicts.

    Raises:
        HandrailError: verdicts are too few or too much alike.
    """
    chosen = draw_sessions(cases, config.max_cases, np.random.default_rng(seed))
    labels = np.array([case.accepted for case in chosen])
    folds_of("boosted", labels, np.unique([case.session.id for case in chosen], return_inverse=True)[1], 2)
    model = grow(features(assess(Decoder(policy), chosen), chosen), labels, config, seed)
    save(model, folder, "boosted.pkl")
    return BoostedCritic(policy, model)


def grow(rows: Sequence[dict[str, float]], labels: NDArray[np.bool_], config: BoostedConfig, seed: int) -> Trees:
    """Fit the members on features of n cases and whether each was accepted, shape (n,)."""
    from lightgbm import LGBMClassifier

    counts = Counter(name for row in rows for name in row)
    names = [name for name, count in counts.most_common(config.features) if count >= min(_SEEN, len(rows))]
    columns = {name: n for n, name in enumerate(sorted(names))}
    table = matrix(rows, columns)
    settings: dict[str, Any] = {
        "n_estimators": config.iterations,
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_child_samples": config.least,
        "reg_lambda": config.penalty,
        "colsample_bytree": config.columns,
        "subsample": config.rows,
        "subsample_freq": 1,
        "n_jobs": 1,  # as in `baselines.trees`
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    seeds = np.random.default_rng(seed).integers(2**31, size=config.members)
    members = [LGBMClassifier(**settings, random_state=int(one)).fit(table, labels).booster_ for one in seeds]
    return Trees(columns, tuple(members))


def load(policy: Policy, folder: Path) -> BoostedCritic:
    """Read what `fit` left in `folder`."""
    return BoostedCritic(policy, pickle.loads((folder / "boosted.pkl").read_bytes()))
