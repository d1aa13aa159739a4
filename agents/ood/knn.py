"""Distance to the k-th nearest training state (Sun et al. 2022, arXiv 2204.06507); states have length one."""

from __future__ import annotations

import numpy as np

from handrail.agents.ood import FloatArray, Score, Views

NEIGHBOURS = 10
_MOST = 20_000
"""Training states that are kept, drawn at random."""


def fit(training: Views) -> Score:
    """Return the distance to the k-th neighbour, in [0, 2]."""
    from sklearn.neighbors import NearestNeighbors

    kept = np.random.default_rng(0).permutation(len(training))[:_MOST]
    model = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(kept))).fit(_unit(training.states[kept]))
    return lambda views: np.asarray(model.kneighbors(_unit(views.states))[0][:, -1], dtype=np.float64)


def _unit(states: np.ndarray) -> FloatArray:
    wide = states.astype(np.float64)
    found: FloatArray = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return found
