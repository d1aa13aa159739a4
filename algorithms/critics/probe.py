"""A linear probe on the policy's own states: nearly free, since the policy has read the suggestion anyway."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import Reading, assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms.config import ProbeConfig
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path


class ProbeCritic:
    """Scores suggestions by a logistic regression on the policy's states and confidence."""

    def __init__(self, policy: Policy, model: Any) -> None:
        self.policy, self.model = policy, model

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,)."""
        return self.judge(assess(Decoder(self.policy), cases), cases)

    def judge(self, readings: Sequence[Reading], cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of cases that the policy has read, shape (n,)."""
        return np.asarray(self.model.predict_proba(features(readings, cases))[:, 1], dtype=np.float64)


def features(readings: Sequence[Reading], cases: Sequence[Case]) -> NDArray[np.float32]:
    """Return what the probe reads, shape (n, 2 * hidden size + 8).

    The policy's states before and after the suggestion, and its confidence in it: log-probability (nats), lowest token
    probability, margin, entropy, a second reader's; then that in what led there (`Trail`).
    """
    made = [reading.suggestion for reading in readings]
    confidence = [(s.log_probability, s.min_probability, s.margin, s.entropy, s.second) for s in made]
    return np.hstack(
        [
            np.array([r.before for r in readings]),
            np.array([r.after for r in readings]),
            np.array(confidence, dtype=np.float32),
            np.array([case.trail for case in cases], dtype=np.float32),
        ]
    )


def fit(policy: Policy, cases: Sequence[Case], config: ProbeConfig, folder: Path, seed: int) -> ProbeCritic:
    """Fit the probe on verdicts; the penalty is chosen by cross-validation that keeps sessions together."""
    chosen = draw_sessions(cases, config.max_cases, np.random.default_rng(seed))
    labels = np.array([case.accepted for case in chosen])
    groups = np.unique([case.session.id for case in chosen], return_inverse=True)[1]
    model = regress(features(assess(Decoder(policy), chosen), chosen), labels, groups, config, seed)
    save(model, folder, "probe.pkl")
    return ProbeCritic(policy, model)


def regress(
    table: NDArray[np.float32], labels: NDArray[np.bool_], groups: NDArray[np.int64], config: ProbeConfig, seed: int
) -> Any:
    """Fit a regression on features of n cases, whether each was accepted, and the session of each.

    Returns:
        A scikit-learn pipeline.

    Raises:
        HandrailError: verdicts are too few or too much alike.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, random_state=seed)),
        {"logisticregression__C": list(config.inverse_regularisation)},
        scoring=likelihood(),
        cv=folds_of("probe", labels, groups, config.folds),
    )
    return search.fit(table, labels, groups=groups).best_estimator_


def load(policy: Policy, folder: Path) -> ProbeCritic:
    """Read what `fit` left in `folder`."""
    return ProbeCritic(policy, pickle.loads((folder / "probe.pkl").read_bytes()))


def folds_of(name: str, labels: Any, groups: Any, folds: int) -> list[tuple[Any, Any]]:
    """Return the folds of a cross-validation that keeps sessions together: indices to learn from and to judge on.

    Args:
        name: of the critic, for the error.
        labels: whether each case was accepted, shape (n,).
        groups: its session, shape (n,).
        folds: how many.

    Raises:
        HandrailError: there are fewer sessions than folds, or a fold would learn from one kind of verdict only.
    """
    from sklearn.model_selection import GroupKFold

    sessions, accepted = len(np.unique(groups)), int(np.sum(labels))
    if sessions >= folds:
        found = list(GroupKFold(folds).split(groups, groups=groups))
        if all(len(np.unique(labels[learn])) == 2 for learn, _ in found):
            return found
    raise HandrailError(
        f"critic {name}: {len(labels)} verdicts from {sessions} sessions, {accepted} of them accepted, are too few or "
        f"too much alike to learn from in {folds} folds; give more sessions (data.splits.feedback), or leave it out"
    )


def likelihood() -> Any:
    """Return minus the log loss as a scorer that takes folds in which all verdicts are the same."""
    from sklearn.metrics import log_loss, make_scorer

    return make_scorer(log_loss, response_method="predict_proba", greater_is_better=False, labels=[False, True])


def draw_sessions(cases: Sequence[Case], limit: int, rng: np.random.Generator) -> list[Case]:
    """Return the cases of randomly drawn sessions, at most `limit` of them (but at least one session)."""
    if len(cases) <= limit:
        return list(cases)
    by_session: dict[str, list[Case]] = {}
    for case in cases:
        by_session.setdefault(case.session.id, []).append(case)
    names = list(by_session)
    drawn: list[Case] = []
    for index in rng.permutation(len(names)):
        if drawn and len(drawn) + len(by_session[names[index]]) > limit:
            break
        drawn.extend(by_session[names[index]])
    return drawn


def save(model: Any, folder: Path, name: str) -> None:
    """Write a fitted scikit-learn model, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / name) as path:
        path.write_bytes(pickle.dumps(model))
