"""Venn–Abers prediction (Vovk & Petej 2014): isotonic regression with the new step counted as wrong, and as right.

One of the two probabilities is that of a perfectly calibrated predictor, whatever the distribution. They are merged as
p1 / (1 − p0 + p1), which has the least regret in log loss.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from handrail.algorithms.calibration_maps import FloatArray, Map


def fit(scores: FloatArray, correct: npt.NDArray[np.bool_]) -> Map:
    """Return the merged probability."""
    from venn_abers import VennAbers

    low, high = float(scores.min()), float(scores.max())
    model = VennAbers()
    with _quiet():
        model.fit(_table(scores, low, high), correct.astype(int))

    def probability(new: npt.ArrayLike) -> FloatArray:
        with _quiet():
            merged, _ = model.predict_proba(_table(np.asarray(new, dtype=np.float64).reshape(-1), low, high))
        return np.asarray(merged[:, 1], dtype=np.float64)

    return probability


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library warns where its convex hull has a single corner, which is no fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _table(scores: FloatArray, low: float, high: float) -> FloatArray:
    """Return scores as the two columns of probabilities that the library reads; only their order counts."""
    inside = np.clip((scores - low) / (high - low), 0.0, 1.0) if high > low else np.full(len(scores), 0.5)
    return np.column_stack([1 - inside, inside])
