"""Who decides in a rollout: chance, a baseline, a learned policy, or an operator who knows the procedure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from handrail.agents.baselines._heads import HeadBaseline
from handrail.agents.baselines._moments import Watch
from handrail.agents.rollout import Episode
from handrail.agents.spelling import spelled
from handrail.envs.schema import Action
from handrail.envs.spaces import Observation

if TYPE_CHECKING:
    from handrail.agents.desk import AnyDesk


class RandomActor:
    """Draws any action that the screen allows, from the environment's action space, seeded by the episode."""

    def __init__(self) -> None:
        self._spaces: dict[int, Any] = {}

    def begin(self, episode: Episode) -> None:
        """Seed the action space of the episode's environment."""
        self._spaces[episode.number] = episode.env.action_space
        episode.env.action_space.seed(episode.seed)

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        """Return a random action of each episode."""
        return {number: self._spaces[number].sample(mask=seen) for number, seen in observations.items()}

    def finish(self, number: int) -> None:
        """Forget an episode."""
        del self._spaces[number]


class BaselineActor:
    """Does what a baseline suggests.

    Args:
        baseline: fitted.
        operator: whose way of working it is to follow.
    """

    def __init__(self, baseline: HeadBaseline, operator: str = "") -> None:
        self._baseline, self._operator = baseline, operator
        self._watched: dict[int, Watch] = {}

    def begin(self, episode: Episode) -> None:
        """Take in an episode."""
        self._watched[episode.number] = Watch(str(episode.number), self._operator)

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        """Return the baseline's action of each episode."""
        moments = [self._watched[number].see(seen) for number, seen in observations.items()]
        found = self._baseline.suggest_now(moments)
        return {number: suggestion.action for number, suggestion in zip(observations, found, strict=True)}

    def finish(self, number: int) -> None:
        """Forget an episode."""
        del self._watched[number]


class PolicyActor:
    """Does what a learned policy suggests.

    Args:
        desk: of the policy; its operator is the one whose way of working the policy is to follow.
    """

    def __init__(self, desk: AnyDesk) -> None:
        self.desk = desk

    def begin(self, episode: Episode) -> None:
        """Take in an episode."""
        self.desk.begin(episode.number)

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        """Return the policy's action of each episode, in the screen's spelling."""
        found = self.desk.suggest(observations)
        return {number: spelled(one.action, observations[number]) for number, one in found.items()}

    def finish(self, number: int) -> None:
        """Forget an episode."""
        self.desk.finish(number)


class Operator(Protocol):
    """Decides from the world itself."""

    def act(self, world: Any) -> Action:
        """Return the next action."""
        ...


class OperatorActor:
    """Lets operators work who are computed from the case: each episode has its own, who sees `env.unwrapped.world`.

    Their steps are logged as an operator's.

    Args:
        hire: makes an operator from the generator that everything it draws comes from.
    """

    def __init__(self, hire: Callable[[np.random.Generator], Operator]) -> None:
        self._hire = hire
        self._working: dict[int, tuple[Operator, Any]] = {}

    def begin(self, episode: Episode) -> None:
        """Hire an operator for the episode."""
        # The episode's own seed would give the operator the numbers that the environment draws.
        operator = self._hire(np.random.default_rng([episode.seed, 1]))
        unwrapped: Any = episode.env.unwrapped
        unwrapped.actor = "operator"
        self._working[episode.number] = operator, unwrapped

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        """Return the operator's action of each episode."""
        working = self._working
        return {number: working[number][0].act(working[number][1].world) for number in observations}

    def finish(self, number: int) -> None:
        """Forget an episode."""
        del self._working[number]
