"""How little several policies disagree about a suggestion.

Minus the reverse mutual information of Malinin & Gales (2021, arXiv 2002.07650, equation 12) with one sample, the
suggestion: log of the mean probability less the mean of the log-probabilities. It is 0 where all agree, however unsure
they are: doubt about the model alone, not about the operator.
"""

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
    """Return mean of logs less log of mean for each suggestion, shape (n,), <= 0."""
    from scipy.special import logsumexp

    members = log_probabilities(decoder, cases, config, progress)
    found: NDArray[np.float64] = members.mean(axis=0) - (logsumexp(members, axis=0) - np.log(len(members)))
    return found
