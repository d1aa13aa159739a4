"""What several policies make of a suggestion together: log of their mean probability (Lakshminarayanan et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.elicited._members import Config, log_probabilities

__all__ = ["Config", "score"]


def score(
    decoder: Decoder,
    cases: Sequence[Case],
    config: Config,
    rng: np.random.Generator,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> NDArray[np.float64]:
    """Return the log-probability of each suggestion under the mixture of all members, shape (n,), <= 0."""
    from scipy.special import logsumexp

    members = log_probabilities(decoder, cases, config, progress)
    found: NDArray[np.float64] = logsumexp(members, axis=0) - np.log(len(members))
    return found
