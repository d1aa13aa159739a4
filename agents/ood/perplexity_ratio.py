"""How much worse than a background model the policy predicts what it read (Ren et al. 2019, arXiv 1906.02845).

The background counts single tokens of the training sessions: rare words make any text improbable, and that much is
taken off. A negative score says that the policy knew better what would come.
"""

from __future__ import annotations

import numpy as np

from handrail.agents.ood import FloatArray, Score, Views


def fit(training: Views) -> Score:
    """Return the log of perplexity by the policy over that by counts, per token, in nats; 0 where nothing was read."""
    counts = np.ones(training.vocabulary)
    for tokens in training.tokens:
        np.add.at(counts, tokens, 1.0)
    logs = np.log(counts / counts.sum())

    def score(views: Views) -> FloatArray:
        background = np.array([-logs[tokens].mean() if len(tokens) else 0.0 for tokens in views.tokens])
        found: FloatArray = views.surprise - background
        return found

    return score
