"""The network that BC, MARWIL and PPO share: a perceptron over bits, with choices masked that are not possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

from handrail.agents.feature_env import MASK, OBSERVATIONS
from handrail.agents.features import Bits

_IMPOSSIBLE = 40.0
"""How far below the best possible choice the others are put: e^-40. Far lower values underflow, which is slow."""


class MaskedModule(TorchRLModule, ValueFunctionAPI):
    """Policy and value each by a perceptron of their own, so that learning the value cannot spoil the policy.

    `model_config`: `hidden`, sizes of the hidden layers.
    """

    def setup(self) -> None:
        """Build the networks; RLlib calls it."""
        bits = self.observation_space[OBSERVATIONS].shape[0]  # type: ignore[index]
        hidden: list[int] = list(self.model_config["hidden"])  # type: ignore[index]
        self._policy = _perceptron(bits, hidden, self.action_space.n)  # type: ignore[union-attr]
        self._value = _perceptron(bits, hidden, 1)
        nn.init.zeros_(self._value[-1].get_parameter("weight"))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        seen = batch[Columns.OBS]
        scores = self._policy(seen[OBSERVATIONS].float())
        impossible = seen[MASK] == 0
        floor = scores.detach().masked_fill(impossible, -torch.inf).amax(-1, keepdim=True) - _IMPOSSIBLE
        return {Columns.ACTION_DIST_INPUTS: torch.where(impossible, floor, scores)}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._forward(batch)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Return the value of each observation, shape (n,)."""
        values: torch.Tensor = self._value(batch[Columns.OBS][OBSERVATIONS].float()).squeeze(-1)
        return values

    @torch.no_grad()
    def choose(self, bits: Bits, mask: Bits) -> NDArray[np.int64]:
        """Return the likeliest possible choice of each row."""
        seen = {OBSERVATIONS: torch.from_numpy(bits), MASK: torch.from_numpy(mask)}
        chosen = self._forward({Columns.OBS: seen})[Columns.ACTION_DIST_INPUTS].argmax(-1)
        return np.asarray(chosen.numpy(), dtype=np.int64)


def _perceptron(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.ReLU()]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
