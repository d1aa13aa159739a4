"""Stepping `handrail/Replay-v0`, against a Gymnasium environment that does nothing.

All environments come from `gymnasium.make` with its usual wrappers. Replay gives back the logged action under
`divergence="teacher"`, over sessions as long as STAR's (15 steps on a screen of 60 controls).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from handrail.envs.registration import register_envs
from handrail.envs.schema import Action, Control, Message, Session, Step, UIState
from handrail.experiments.benchmarks import Measurement, Options, seconds

KEYS = ("replay.steps_per_s", "replay.ratio_null_env")

STEPS = 100_000
"""Steps of one repetition, for each environment."""

_SESSIONS = 200
_LENGTH = 15


class NullEnv(gymnasium.Env[int, int]):
    """Does nothing: the floor of what a step through Gymnasium costs."""

    def __init__(self) -> None:
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(1)
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return the only observation."""
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Return the only observation; never ends."""
        return 0, 0.0, False, False, {}


def made_sessions(count: int = _SESSIONS, length: int = _LENGTH) -> list[Session]:
    """Return `count` sessions of `length` steps, alternately a reply and a customer's message."""
    screen = UIState("desk", "task", tuple(Control(f"reply_{i}", "template", f"Reply {i}") for i in range(60)))
    return [
        Session(
            id=f"session-{number}",
            source="benchmark",
            issue="task",
            operator="operator",
            steps=tuple(
                Step(
                    index=i,
                    state=screen,
                    events=(Message("customer", f"message {i} of {number}", 20.0 * i),),
                    action=Action("send_reply", f"reply_{(number + i) % 60}"),
                    time=20.0 * i + 12.0,
                    critical=True,
                )
                for i in range(length)
            ),
        )
        for number in range(count)
    ]


def measure(options: Options, steps: int = STEPS) -> Iterator[Measurement]:
    """Yield the rates of replay and CartPole, and the ratio to doing nothing."""
    register_envs()
    replay = gymnasium.make("handrail/Replay-v0", sessions=made_sessions())
    null = gymnasium.make(EnvSpec("handrail/Null-v0", entry_point=f"{__name__}:NullEnv"))
    cartpole = gymnasium.make("CartPole-v1")
    rates: dict[str, list[float]] = {"replay": [], "null": [], "cartpole": []}
    for _ in range(options.repeats):
        rates["replay"].append(steps / seconds(_follow, replay, steps))
        rates["null"].append(steps / seconds(_push, null, steps))
        rates["cartpole"].append(steps / seconds(_push, cartpole, steps))
    yield Measurement("replay.steps_per_s", tuple(rates["replay"]), "steps/s")
    ratios = tuple(a / b for a, b in zip(rates["replay"], rates["null"], strict=True))
    yield Measurement("replay.ratio_null_env", ratios, "x the rate of a null environment")
    yield Measurement("CartPole-v1", tuple(rates["cartpole"]), "steps/s", written=False)


def _follow(env: gymnasium.Env[Any, Any], steps: int) -> None:
    _, info = env.reset(seed=0)
    for _ in range(steps):
        _, _, terminated, _, info = env.step(info["logged_action"])
        if terminated:
            _, info = env.reset()


def _push(env: gymnasium.Env[Any, Any], steps: int) -> None:
    env.reset(seed=0)
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()
