"""The cheap critic to beat: TF-IDF of context and suggestion, then logistic regression."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.critic import Case
from handrail.agents.policy import Policy
from handrail.agents.transcript import Transcript, write_action
from handrail.algorithms.config import TfidfConfig
from handrail.algorithms.critics.probe import folds_of, likelihood, save


class TfidfCritic:
    """Scores suggestions from word counts."""

    def __init__(self, transcript: Transcript, model: Any, recent: int) -> None:
        self.transcript, self.model, self.recent = transcript, model, recent

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,)."""
        texts = columns(self.transcript, cases, self.recent)
        return np.asarray(self.model.predict_proba(texts)[:, 1], dtype=np.float64)


def columns(transcript: Transcript, cases: Sequence[Case], recent: int) -> list[tuple[str, str, str, str]]:
    """Return (case header and suggestion, last entries, last entry with suggestion, draft) of each case.

    Each part has its own vocabulary. Pairing every word of the last entry with the suggestion lets a linear model
    learn which reply fits which message.
    """
    spans: dict[str, list[Any]] = {}
    found = []
    for case in cases:
        if case.session.id not in spans:
            spans[case.session.id] = transcript.spans(case.session)
        every = spans[case.session.id]
        before = [s.text for s in every[1:] if s.step < case.step or (s.step == case.step and not s.action)]
        head = case.suggestion.target or case.suggestion.tool
        last = before[-1] if before else every[0].text
        paired = " ".join(f"{head}/{word}" for word in sorted(set(last.casefold().split())))
        written = write_action(case.suggestion)
        found.append((f"{every[0].text} {written}", " ".join(before[-recent:]), f"{paired} {head}/", case.draft))
    return found


def fit(policy: Policy, cases: Sequence[Case], config: TfidfConfig, folder: Path, seed: int) -> TfidfCritic:
    """Fit vocabulary and regression on verdicts; the penalty is chosen by cross-validation over sessions."""
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    texts = columns(policy.transcript, cases, config.recent)
    labels = np.array([case.accepted for case in cases])
    groups = np.unique([case.session.id for case in cases], return_inverse=True)[1]
    word = r"[^\s<|>]+"
    parts = [("header", 0, (1, 2)), ("recent", 1, (1, 2)), ("paired", 2, (1, 1))]
    if any(case.draft for case in cases):
        parts.append(("draft", 3, (1, 2)))
    features = ColumnTransformer(
        [
            (name, TfidfVectorizer(ngram_range=span, min_df=config.min_df, sublinear_tf=True, token_pattern=word), at)
            for name, at, span in parts
        ]
    )
    matrix = features.fit_transform(np.array(texts, dtype=object))
    search = GridSearchCV(
        LogisticRegression(max_iter=200, solver="liblinear", random_state=seed),
        {"C": list(config.inverse_regularisation)},
        scoring=likelihood(),
        cv=folds_of("tfidf", labels, groups, config.folds),
    )
    search.fit(matrix, labels, groups=groups)
    model = make_pipeline(_Columns(), features, search.best_estimator_)
    save((model, config.recent), folder, "tfidf.pkl")
    return TfidfCritic(policy.transcript, model, config.recent)


def load(policy: Policy, folder: Path) -> TfidfCritic:
    """Read what `fit` left in `folder`."""
    model, recent = pickle.loads((folder / "tfidf.pkl").read_bytes())
    return TfidfCritic(policy.transcript, model, recent)


class _Columns:
    """Turns a list of tuples into the table that a ColumnTransformer expects."""

    def fit(self, texts: Any, labels: Any = None) -> _Columns:
        return self

    def transform(self, texts: Any) -> Any:
        return np.array(texts, dtype=object)
