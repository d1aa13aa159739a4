"""Relative Mahalanobis distance (Ren et al. 2021, arXiv 2106.09022).

The distance of the policy's state to the nearest kind of step, kinds having a mean each and one covariance, less the
distance to all training states taken together: what all states have in common does not count.
"""

from __future__ import annotations

import numpy as np

from handrail.agents.ood import FloatArray, Score, Views

_LEAST = 10
"""Training steps of a kind below which it has no mean of its own."""


def fit(training: Views) -> Score:
    """Return min_k MD_k(z) − MD_0(z); kinds are tool and target of the logged actions, covariances are shrunk."""
    from sklearn.covariance import LedoitWolf

    states = training.states.astype(np.float64)
    names, kind, counts = np.unique(training.kinds, return_inverse=True, return_counts=True)
    common = np.flatnonzero(counts >= min(_LEAST, counts.max()))
    means = np.array([states[kind == n].mean(axis=0) for n in common])
    place = np.full(len(names), -1)
    place[common] = np.arange(len(common))
    inside = place[kind] >= 0
    within = LedoitWolf(assume_centered=True).fit(states[inside] - means[place[kind[inside]]])
    whole = LedoitWolf().fit(states)

    def score(views: Views) -> FloatArray:
        given = views.states.astype(np.float64)
        # With a root of the precision matrix distances are plain ones.
        root = np.linalg.cholesky(within.precision_)
        turned, centres = given @ root, means @ root
        squares = (turned**2).sum(axis=1)[:, None] - 2 * turned @ centres.T + (centres**2).sum(axis=1)
        found: FloatArray = np.maximum(squares.min(axis=1), 0.0) - whole.mahalanobis(given)
        return found

    return score
