"""Temperature scaling (Guo et al. 2017): one slope on the log-odds, so one half stays one half."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from handrail.algorithms.calibration_maps import FloatArray, Map, log_odds


def fit(scores: FloatArray, correct: npt.NDArray[np.bool_]) -> Map:
    """Return sigmoid(s / T) with T of highest likelihood; s are log-odds of probabilities, or scores as they are."""
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(log_odds(scores)[:, None], correct)
    slope = max(float(model.coef_[0, 0]), 0.0)
    return lambda new: np.asarray(expit(slope * log_odds(new)), dtype=np.float64)
