"""Rollouts on Ray are those of one process, whoever dies on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from ray import cloudpickle
from toys import random_sessions, sharpen, tiny_policy

from handrail.agents.actors import OperatorActor, PolicyActor, RandomActor
from handrail.agents.decoding import Suggestion
from handrail.agents.desk import Desk
from handrail.agents.operators.expert import Expert
from handrail.agents.rollout import Actor, Played, Reset, rollout
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.spaces import Observation
from handrail.experiments import closed_loop
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.connection import usable
from handrail.experiments.cluster.rollouts import PolicyServer, Request, Rollouts

# Workers of Ray cannot import tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MAKE = partial(BPMEnv, "mock", max_steps=12)
RESETS = [Reset(700 + number) for number in range(14)]


def expert() -> Actor:
    return OperatorActor(lambda rng: Expert(seed=int(rng.integers(99))))


def policy() -> PolicyActor:
    worked = [one.session for one in rollout(MAKE, expert(), [Reset(number) for number in range(6)])]
    return PolicyActor(Desk(sharpen(tiny_policy(worked)), operator="ann"))


ACTORS: dict[str, Callable[[], Actor]] = {"random": RandomActor, "expert": expert, "policy": policy}


def course(played: list[Played]) -> list[Any]:
    return [(p.number, p.reset, p.session, p.actions, p.reward, p.truncated, p.info) for p in played]


@pytest.mark.parametrize("name", ACTORS)
def test_episodes_are_those_of_one_process(name: str, local_ray: RayConfig) -> None:
    alone = list(rollout(MAKE, ACTORS[name](), RESETS, slots=5))
    with Rollouts(MAKE, ACTORS[name](), 5, local_ray) as rollouts:
        assert course(list(rollouts.play(iter(RESETS)))) == course(alone)


@pytest.mark.slow
def test_the_server_reads_sessions_of_all_actors_together_and_forgets_them(local_ray: RayConfig) -> None:
    """With a long wait a batch goes when every running session is in it: as many as there are slots, at most."""
    import ray

    actor = policy()
    alone = list(rollout(MAKE, actor, RESETS, slots=4))
    with Rollouts(MAKE, actor, 4, replace(local_ray, max_wait_s=0.5)) as rollouts:
        assert course(list(rollouts.play(RESETS))) == course(alone)
        sizes = ray.get(rollouts.server.sizes.remote())
        assert ray.get(rollouts.server.running.remote()) == 0
    assert max(sizes) == 4
    assert sum(sizes) == sum(len(one.actions) for one in alone), "every step is asked for once"


@pytest.mark.slow
def test_an_error_in_an_environment_is_that_error(local_ray: RayConfig) -> None:
    broken = partial(BPMEnv, "mock", max_steps=12, issues=("no such issue",))
    with pytest.raises(HandrailError, match="no such issue"), Rollouts(broken, RandomActor(), 2, local_ray) as rollouts:
        list(rollouts.play(RESETS))


@pytest.mark.slow
def test_a_share_that_kills_its_actor_each_time_is_told(local_ray: RayConfig) -> None:
    config = replace(local_ray, max_restarts=1)
    with (
        pytest.raises(HandrailError, match=r"died 2 times at episodes 0 to 0.*ray=off"),
        Rollouts(Deadly, RandomActor(), 2, config) as rollouts,
    ):
        list(rollouts.play(RESETS[:1]))


class Deadly(BPMEnv):
    """Takes its process with it."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(BPMEnv):
    """Takes its time, and writes down which process begins which episode."""

    def __init__(self, folder: Path) -> None:
        super().__init__("mock", max_steps=12)
        self.folder = folder

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        (self.folder / f"{seed}-{os.getpid()}").touch()
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        time.sleep(0.01)
        return super().step(action)


def kill_when(ready: Callable[[], int | None]) -> threading.Thread:
    """Kill the process that `ready` names, once it names one."""

    def wait() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if (found := ready()) is not None:
                os.kill(found, signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_killed_environment_actor_loses_and_repeats_nothing(local_ray: RayConfig, tmp_path: Path) -> None:
    actor, make = policy(), partial(Slow, tmp_path)
    (tmp_path / "alone").mkdir()
    alone = list(rollout(partial(Slow, tmp_path / "alone"), actor, RESETS, slots=4))

    def second() -> int | None:
        begun = [path.name.partition("-")[2] for path in tmp_path.glob("7*-*")]
        return int(begun[0]) if len(begun) > 5 else None

    with Rollouts(make, actor, 4, local_ray) as rollouts:
        thread = kill_when(second)
        played = list(rollouts.play(RESETS))
        thread.join()
    assert course(played) == course(alone)
    assert len(list(tmp_path.glob("7*-*"))) > len(RESETS), "some episodes were begun twice"
    assert len({path.name.partition("-")[2] for path in tmp_path.glob("7*-*")}) == 3, "a third process took over"


@pytest.mark.slow
def test_a_killed_policy_server_loses_and_repeats_nothing(local_ray: RayConfig, tmp_path: Path) -> None:
    import ray

    actor = policy()
    (tmp_path / "alone").mkdir()
    alone = list(rollout(partial(Slow, tmp_path / "alone"), actor, RESETS, slots=4))
    with Rollouts(partial(Slow, tmp_path), actor, 4, local_ray) as rollouts:
        server = ray.get(rollouts.server.process.remote())
        thread = kill_when(lambda: server if len(list(tmp_path.glob("7*-*"))) > 5 else None)
        played = list(rollouts.play(RESETS))
        thread.join()
        assert ray.get(rollouts.server.process.remote()) != server, "it was started again"
        assert ray.get(rollouts.server.running.remote()) == 0
    assert course(played) == course(alone)


class Counting:
    """A desk that answers with how many were asked together, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.known, self.asked = seconds, list[Any](), list[int]()

    def begin(self, key: Any, operator: str | None, session_id: str) -> None:
        assert key not in self.known
        self.known.append(key)

    def finish(self, key: Any) -> None:
        self.known.remove(key)

    def suggest(self, observations: Mapping[Any, Observation]) -> dict[Any, Suggestion]:
        time.sleep(self.seconds)
        if any(seen is None for seen in observations.values()):
            raise HandrailError("no observation")
        self.asked.append(len(observations))
        return {key: cast("Suggestion", key) for key in observations}


def served(desk: Counting, max_batch: int = 8, max_wait_s: float = 5.0, max_waiting: int = 100) -> PolicyServer:
    return PolicyServer(cast("Desk", desk), max_batch, max_wait_s, max_waiting)


def requests(attempt: int, count: int) -> list[Request]:
    seen = cast("Observation", random_sessions(0, 1)[0])
    return [Request((attempt, number), seen, None, str(number)) for number in range(count)]


def test_a_batch_is_cut_at_its_size_and_answers_keep_their_order() -> None:
    desk = Counting()

    async def work() -> list[Suggestion]:
        return await served(desk, max_batch=4).suggest(requests(0, 10), [])

    assert asyncio.run(work()) == [(0, number) for number in range(10)]
    # Ten sessions are running, so the last two wait for the others until their time is over; not so here: 5 s.
    assert desk.asked == [4, 4, 2]


def test_a_batch_waits_for_others_no_longer_than_it_may() -> None:
    """A second actor has begun a session, but asks only later."""
    desk = Counting()

    async def work() -> None:
        server = served(desk, max_wait_s=0.05)
        await server.suggest(requests(1, 1), [])
        await server.suggest(requests(0, 1), [])

    asyncio.run(work())
    assert desk.asked == [1, 1]


def test_who_asks_for_more_than_may_wait_is_held_up() -> None:
    desk = Counting(seconds=0.05)

    async def work() -> int:
        server = served(desk, max_batch=2, max_waiting=3)
        asking = asyncio.create_task(server.suggest(requests(0, 12), []))
        most = 0
        while not asking.done():
            most = max(most, await server.running())
            await asyncio.sleep(0.005)
            if most < 12:
                assert most <= 3 + 2 + 1 + 2 * len(desk.asked) + 2
        return most

    assert asyncio.run(work()) == 12
    assert sum(desk.asked) == 12


def test_finished_sessions_and_left_attempts_are_forgotten() -> None:
    desk = Counting()

    async def work() -> None:
        server = served(desk, max_wait_s=0.0)
        await server.suggest(requests(0, 3), [])
        await server.suggest(requests(1, 2), [(0, 0)])
        assert desk.known == [(0, 1), (0, 2), (1, 0), (1, 1)]
        await server.forget_attempt(0)
        await server.suggest(requests(2, 1), [])
        assert desk.known == [(1, 0), (1, 1), (2, 0)]
        assert await server.running() == 3

    asyncio.run(work())


def test_an_error_at_the_desk_is_told_to_those_who_asked_and_the_server_goes_on() -> None:
    desk = Counting()
    broken = [request._replace(observation=cast("Observation", None)) for request in requests(0, 1)]

    async def work() -> list[Suggestion]:
        server = served(desk, max_wait_s=0.0)
        with pytest.raises(HandrailError, match="no observation"):
            await server.suggest(broken, [])
        return await server.suggest(requests(1, 1), [(0, 0)])

    assert asyncio.run(work()) == [(1, 0)]


def test_off_stays_in_this_process() -> None:
    cases = closed_loop.Cases("mock", 3, first=500, slots=2)
    alone, _ = closed_loop.play(cases, expert())
    off, _ = closed_loop.play(cases, expert(), ray=RayConfig("off"))
    assert course(off) == course(alone)
    assert not usable(RayConfig("off"))
    assert not usable(RayConfig())
