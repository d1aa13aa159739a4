"""The members of an ensemble and what each makes of suggestions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.envs.errors import HandrailError


@dataclass(frozen=True)
class Config:
    """Who is asked besides the policy itself.

    Attributes:
        policies: folders of policies, e.g. `checkpoints/policy` of runs with other seeds; at least one.
    """

    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.policies:
            raise HandrailError("ensemble: policies is empty; expected the folder of at least one other policy")


def log_probabilities(
    decoder: Decoder, cases: Sequence[Case], config: Config, progress: Callable[[Iterable[Any]], Iterable[Any]]
) -> NDArray[np.float64]:
    """Return the log-probability of each suggestion by each member, shape (members, n); the first is the policy.

    Raises:
        HandrailError: a folder holds no policy.
    """
    rows = []
    for policy in (decoder.policy, *(Policy.load(Path(folder)) for folder in config.policies)):
        rows.append([reading.suggestion.log_probability for reading in assess(decoder.by(policy), cases, progress)])
    return np.array(rows)
