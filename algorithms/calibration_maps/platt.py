"""Platt scaling (Platt 1999): slope (>= 0) and offset on the log-odds, with targets a little inside of 0 and 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from handrail.algorithms.calibration import platt
from handrail.algorithms.calibration_maps import FloatArray, Map, log_odds


def fit(scores: FloatArray, correct: npt.NDArray[np.bool_]) -> Map:
    """Return sigmoid(slope * s + offset); s as for the temperature."""
    from scipy.special import expit

    slope, offset = platt(log_odds(scores), correct)
    if slope < 0:  # a score that is worse than none: only the share of right steps is left
        slope, offset = platt(np.zeros(len(scores)), correct)
    return lambda new: np.asarray(expit(slope * log_odds(new) + offset), dtype=np.float64)
