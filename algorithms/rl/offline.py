"""Where BC and MARWIL get their batches: the steps of logged episodes in random order, from memory.

Logged episodes are complete, so what MARWIL measures advantages against is known in closed form: the discounted sum of
the rewards to come (its lambda is 1). RLlib's own `OfflineData` gets there by a pass of the value function over whole
episodes in other processes, and needs msgpack-numpy to read episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.offline.offline_data import OfflineData
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from handrail.agents.feature_env import MASK, OBSERVATIONS
from handrail.algorithms.rl.episodes import read_episodes


class EpisodeData(OfflineData):
    """Steps of the episodes of one file; each is drawn once before any is drawn again.

    Args:
        config: of the algorithm; `input_` is the file, `seed` orders the steps.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        # RLlib sets or reads these.
        self.iter_batches_kwargs: dict[str, Any] = {}
        self.spaces: Any = None
        self.learner_handles: Any = None
        self.module_spec: Any = None
        (path,) = config.input_
        space = config.observation_space
        episodes = read_episodes(path, space[OBSERVATIONS].n, space[MASK].n)
        self._bits = torch.from_numpy(np.concatenate([one.bits[:-1] for one in episodes]))
        self._masks = torch.from_numpy(np.concatenate([one.masks[:-1] for one in episodes]))
        self._actions = torch.from_numpy(np.concatenate([one.actions for one in episodes]))
        self._returns = torch.from_numpy(np.concatenate([returns(one.rewards, config.gamma) for one in episodes]))
        self._rng = np.random.default_rng(config.seed)
        self._order = np.zeros(0, dtype=np.int64)

    def sample(self, num_samples: int, *_: Any, **__: Any) -> MultiAgentBatch:
        """Return a batch of `num_samples` steps."""
        while len(self._order) < num_samples:
            self._order = np.concatenate([self._order, self._rng.permutation(len(self._actions))])
        rows, self._order = torch.from_numpy(self._order[:num_samples]), self._order[num_samples:]
        part = {
            Columns.OBS: {OBSERVATIONS: self._bits[rows], MASK: self._masks[rows]},
            Columns.ACTIONS: self._actions[rows],
            Postprocessing.VALUE_TARGETS: self._returns[rows],
        }
        return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(part)}, env_steps=num_samples)


def returns(rewards: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """Return the discounted sum of the rewards from each step on, shape (steps,)."""
    total = 0.0
    found = np.zeros(len(rewards), dtype=np.float32)
    for step in range(len(rewards) - 1, -1, -1):
        found[step] = total = float(rewards[step]) + gamma * total
    return found
