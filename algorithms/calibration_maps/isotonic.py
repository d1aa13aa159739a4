"""Isotonic regression (Zadrozny & Elkan 2002): the monotone step function of least squares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from handrail.algorithms.calibration_maps import FloatArray, Map


def fit(scores: FloatArray, correct: npt.NDArray[np.bool_]) -> Map:
    """Return the fitted function; scores beyond those seen get the probability of the nearest."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, correct)
    return lambda new: np.asarray(model.predict(np.asarray(new, dtype=np.float64).reshape(-1)), dtype=np.float64)
