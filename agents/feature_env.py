"""Both environments as learners of vectors see them: bits and a mask in, a number out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._moments import Watch
from handrail.agents.features import Bits, FeatureView, View
from handrail.agents.rollout import Episode
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action
from handrail.envs.spaces import Observation

OBSERVATIONS, MASK = "observations", "action_mask"
"""Keys of an observation, as RLlib's examples of action masking name them."""

Chooser = Callable[[Bits, Bits], NDArray[np.int64]]
"""Takes bits (n, bits) and masks (n, choices), returns n choices."""


@dataclass(frozen=True)
class RewardConfig:
    """What a learner is paid, in units of one case done right. No part of it is shown to the policy.

    Attributes:
        step: for each step.
        error: for an action that was impossible.
        violation: for each rule of the desk that was broken, as the environment's `info` tells.
    """

    step: float = -0.005
    error: float = -0.05
    violation: float = -0.2

    def __post_init__(self) -> None:
        for name in ("step", "error", "violation"):
            if getattr(self, name) > 0:
                raise HandrailError(f"reward.{name}={getattr(self, name)}: expected at most 0, it is a penalty")


class FeatureEnv(gymnasium.Wrapper[dict[str, Bits], np.int64, Observation, Any]):
    """`handrail/Replay-v0` or `handrail/BPM-v0` through a `FeatureView`.

    An observation is `{"observations": (bits,), "action_mask": (choices,)}`, both int8; an action is the number of a
    choice, and one that the mask rules out costs a step as any impossible action.

    Args:
        env: one of Handrail's environments.
        view: learned from training sessions.
        operator: whose way of working the view shows.
        reward: added to the environment's own; `None` leaves that as it is.
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, Any],
        view: FeatureView,
        operator: str = "",
        reward: RewardConfig | None = None,
    ) -> None:
        super().__init__(env)
        self._view, self._operator, self._reward = view, operator, reward
        self._seen: View | None = None
        self._watch = Watch("", operator)
        self._violations = 0
        self.observation_space = gymnasium.spaces.Dict(
            {
                OBSERVATIONS: gymnasium.spaces.MultiBinary(len(view.names)),
                MASK: gymnasium.spaces.MultiBinary(len(view.choices)),
            }
        )
        self.action_space = gymnasium.spaces.Discrete(len(view.choices))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Bits], dict[str, Any]]:
        """Begin an episode; arguments as of the environment inside."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._watch, self._violations = Watch("", self._operator), 0
        return self._see(observation), info

    def step(self, action: np.int64) -> tuple[dict[str, Bits], float, bool, bool, dict[str, Any]]:
        """Do a choice."""
        if self._seen is None:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() before step()")
        done = self._seen.actions.get(int(action)) or Action(*self._view.choices[int(action)].head)
        observation, reward, terminated, truncated, info = self.env.step(done)
        paid = float(reward)
        if self._reward is not None:
            broken = len(info.get("violations", ()))
            paid += self._reward.step + self._reward.violation * (broken - self._violations)
            paid += self._reward.error * (info.get("error") is not None)
            self._violations = broken
        return self._see(observation), paid, terminated, truncated, info

    def _see(self, observation: Observation) -> dict[str, Bits]:
        self._seen = self._view.see(self._watch.see(observation))
        return {OBSERVATIONS: self._seen.bits, MASK: self._seen.mask}


class FeatureActor:
    """Works cases (`agents.rollout`) by a learned choice.

    Args:
        view: what the chooser learned on.
        choose: chooses in several episodes at once.
        operator: whose way of working it is to follow.
    """

    def __init__(self, view: FeatureView, choose: Chooser, operator: str = "") -> None:
        self._view, self._choose, self._operator = view, choose, operator
        self._watched: dict[int, Watch] = {}

    def begin(self, episode: Episode) -> None:
        """Take in an episode."""
        self._watched[episode.number] = Watch("", self._operator)

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        """Return the action of each episode."""
        views = [self._view.see(self._watched[number].see(seen)) for number, seen in observations.items()]
        chosen = self._choose(np.stack([view.bits for view in views]), np.stack([view.mask for view in views]))
        return {
            number: view.actions[int(choice)] for number, view, choice in zip(observations, views, chosen, strict=True)
        }

    def finish(self, number: int) -> None:
        """Forget an episode."""
        del self._watched[number]
