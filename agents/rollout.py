"""Working many environments to their ends at once, whoever decides.

The actor is asked about all running episodes together, so that a learned policy can read and write them in one batch.
An episode's course depends on its own reset and the actor alone, not on how many run beside it; results come in the
order of the resets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import gymnasium

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Session
from handrail.envs.spaces import Observation


class Reset(NamedTuple):
    """How an episode begins: the arguments of `env.reset`."""

    seed: int | None = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Episode:
    """An episode that begins.

    Attributes:
        number: its place among the resets, from 0; names it to the actor.
        reset: how it began.
        env: where it runs; only operators who are computed from the case look behind the observation.
    """

    number: int
    reset: Reset
    env: gymnasium.Env[Observation, Any]

    @property
    def seed(self) -> int:
        """What an actor derives its own random numbers from: the seed of the reset, or the number without one."""
        return self.number if self.reset.seed is None else self.reset.seed


class Actor(Protocol):
    """Decides in many episodes at once."""

    def begin(self, episode: Episode) -> None:
        """Take in an episode."""
        ...

    def act(self, observations: Mapping[int, Observation]) -> Mapping[int, Action]:
        """Return the action of each running episode, by number."""
        ...

    def finish(self, number: int) -> None:
        """Forget an episode."""
        ...


@dataclass(frozen=True)
class Played:
    """An episode that ended.

    Attributes:
        number, reset: which.
        session: what was logged: `env.unwrapped.session()`.
        info: of the last step.
        actions: the actor's, in order.
        reward: their sum of rewards.
        truncated: whether it ended by a limit and not of itself.
    """

    number: int
    reset: Reset
    session: Session
    info: dict[str, Any]
    actions: tuple[Action, ...]
    reward: float
    truncated: bool


@dataclass
class _Slot:
    episode: Episode
    observation: Observation
    actions: list[Action] = field(default_factory=list)
    reward: float = 0.0


def rollout(
    make: Callable[[], gymnasium.Env[Observation, Any]], actor: Actor, resets: Iterable[Reset], slots: int = 32
) -> Iterator[Played]:
    """Run one episode a reset and yield them in order.

    Args:
        make: makes an environment; each is used for one episode after the other.
        actor: who decides.
        resets: how the episodes begin; drawn as slots become free, so there may be any number.
        slots: how many run at once.

    Raises:
        HandrailError: `slots` is less than 1, or the actor leaves an episode without an action.
    """
    if slots < 1:
        raise HandrailError(f"rollout: slots={slots}, expected at least 1")
    waiting = enumerate(resets)
    envs: list[gymnasium.Env[Observation, Any]] = []
    free: list[gymnasium.Env[Observation, Any]] = []
    running: dict[int, _Slot] = {}
    ended: dict[int, Played] = {}
    due = 0
    try:
        while True:
            while len(running) < slots and (drawn := next(waiting, None)) is not None:
                if not free:
                    envs.append(make())
                    free.append(envs[-1])
                number, reset = drawn
                episode = Episode(number, reset, free.pop())
                observation, _ = episode.env.reset(seed=reset.seed, options=reset.options)
                actor.begin(episode)
                running[number] = _Slot(episode, observation)
            if not running:
                return
            actions = actor.act({number: slot.observation for number, slot in running.items()})
            for number, slot in list(running.items()):
                if number not in actions:
                    raise HandrailError(f"{type(actor).__name__} gave no action for episode {number}")
                played = _step(slot, actions[number])
                if played is not None:
                    ended[number] = played
                    actor.finish(number)
                    free.append(running.pop(number).episode.env)
            while due in ended:
                yield ended.pop(due)
                due += 1
    finally:
        for env in envs:
            unused: Any = env
            unused.close()


def _step(slot: _Slot, action: Action) -> Played | None:
    """Do an action; returns the episode if that ended it."""
    episode = slot.episode
    try:
        slot.observation, reward, terminated, truncated, info = episode.env.step(action)
    except Exception as error:
        error.add_note(f"in episode {episode.number}, {episode.reset}, at step {len(slot.actions)}")
        raise
    slot.actions.append(action)
    slot.reward += float(reward)
    if not (terminated or truncated):
        return None
    unwrapped: Any = episode.env.unwrapped
    session: Session = unwrapped.session()
    return Played(
        episode.number, episode.reset, session, info, tuple(slot.actions), slot.reward, truncated and not terminated
    )
