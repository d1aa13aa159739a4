"""How strange a step is to a policy: out-of-distribution scores, one file each, higher is stranger.

A module `<name>.py` is the entry `<name>`. It has `fit(training) -> score` where `training` are the `Views` of sessions
that the policy learned from and `score(views)` gives the strangeness of other steps, shape (n,). Scores read what the
policy read before it acted: neither the logged action nor anything later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Views:
    """What a policy read at n operator steps; from `handrail.agents.ood._read.read_steps`.

    Attributes:
        session_ids: (n,) where.
        steps: (n,) index of the step.
        kinds: (n,) tool and target of the logged action, for training alone.
        states: (n, hidden size) the policy's state before it acts.
        energy: (n,) log of the summed exponentials of its scores there, over the vocabulary.
        surprise: (n,) mean negative log-probability, in nats, of the tokens that became visible before the step.
        tokens: (n,) these tokens, each an array of ids.
        vocabulary: number of token ids.
    """

    session_ids: NDArray[np.str_]
    steps: NDArray[np.int64]
    kinds: NDArray[np.str_]
    states: NDArray[np.float32]
    energy: FloatArray
    surprise: FloatArray
    tokens: tuple[NDArray[np.int64], ...]
    vocabulary: int

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.steps)


Score = Callable[[Views], FloatArray]
