"""Maps from scores to probabilities: one module is one map, found by its file name.

A module defines `fit(scores, correct)`, which takes the scores (n,) of calibration steps and whether each was right
(n,), and returns a function from scores (m,) to probabilities (m,). All maps are monotone, so rankings, curves and
certificates are the same before and after (but for ties); Brier score and calibration error are not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from handrail.envs import registry
from handrail.envs.errors import HandrailError

FloatArray = npt.NDArray[np.float64]
Map = Callable[[npt.ArrayLike], FloatArray]


def fit(name: str, scores: npt.ArrayLike, correct: npt.ArrayLike) -> Map:
    """Fit the map called `name`.

    Args:
        name: of a module of this package.
        scores: (n,) finite, of calibration steps.
        correct: (n,) whether each was right.

    Raises:
        HandrailError: there is no such map, scores are not finite, lengths differ, or all outcomes are the same.
    """
    module = registry.load(__name__, name, "calibration map")
    values, outcome = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(correct, dtype=np.bool_).reshape(-1)
    if len(values) != len(outcome):
        raise HandrailError(
            f"calibration map {name}: {len(values)} scores but {len(outcome)} outcomes; expected as many"
        )
    if not np.isfinite(values).all():
        raise HandrailError(
            f"calibration map {name}: score {values[~np.isfinite(values)][0]} is not finite; leave it out"
        )
    if len(np.unique(outcome)) < 2:
        raise HandrailError(
            f"calibration map {name}: all of {len(outcome)} calibration steps have the same outcome; expected "
            "right and wrong ones, give more sessions"
        )
    made: Map = module.fit(values, outcome)
    return made


def log_odds(scores: npt.ArrayLike) -> FloatArray:
    """Return what a map with one slope is a function of: log-odds of probabilities, other scores as they are."""
    from handrail.algorithms.calibration import are_probabilities

    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if not are_probabilities(values):
        return values
    inside = np.clip(values, 1e-6, 1 - 1e-6)
    found: FloatArray = np.log(inside) - np.log1p(-inside)
    return found
