"""Rollouts: every actor through one driver, in order, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
from toys import random_sessions, tiny_policy

from handrail.agents.actors import BaselineActor, OperatorActor, PolicyActor, RandomActor
from handrail.agents.decoding import Decoder
from handrail.agents.desk import Desk
from handrail.agents.operators.expert import Expert
from handrail.agents.rollout import Actor, Episode, Played, Reset, rollout
from handrail.agents.spelling import spelled
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.registration import register_envs
from handrail.envs.schema import Action, Session
from handrail.envs.spaces import Observation

register_envs()


def replay(sessions: list[Session], **settings: Any) -> Callable[[], gymnasium.Env[Any, Any]]:
    return lambda: gymnasium.make("handrail/Replay-v0", sessions=sessions, **settings)


def desk() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("handrail/BPM-v0", domain="mock", max_steps=25)


def by_id(sessions: list[Session]) -> list[Reset]:
    return [Reset(options={"session_id": session.id}) for session in sessions]


def uneven(seed: int = 0) -> list[Session]:
    found = [random_sessions(seed, 1, steps)[0] for steps in (4, 1, 6, 2, 3)]
    return [Session(f"s{n}", "toy", "booking", "ann", "Help.", one.steps) for n, one in enumerate(found)]


class Teacher:
    """Does what the log did, and writes down how it is called."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = {session.id: session for session in sessions}
        self.running: dict[int, Session] = {}
        self.calls: list[list[int]] = []

    def begin(self, episode: Episode) -> None:
        assert episode.number not in self.running
        assert episode.reset.options is not None
        self.running[episode.number] = self.sessions[episode.reset.options["session_id"]]

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        assert set(observations) == set(self.running)
        self.calls.append(sorted(observations))
        return {number: self.running[number].steps[seen.index].action for number, seen in observations.items()}

    def finish(self, number: int) -> None:
        del self.running[number]


def test_slots_are_refilled_and_results_are_in_order() -> None:
    sessions = uneven()
    teacher = Teacher(sessions)
    made = []

    def make() -> gymnasium.Env[Any, Any]:
        made.append(replay(sessions)())
        return made[-1]

    played = list(rollout(make, teacher, iter(by_id(sessions)), slots=2))
    # Lengths 4, 1, 6, 2, 3: episode 2 takes the place of 1, then 3 that of 0, then 4 that of 3.
    assert teacher.calls == [[0, 1], [0, 2], [0, 2], [0, 2], [2, 3], [2, 3], [2, 4], [4], [4]]
    assert teacher.running == {}
    assert len(made) == 2
    assert [one.number for one in played] == [0, 1, 2, 3, 4]
    assert [one.session for one in played] == sessions
    assert [one.actions for one in played] == [tuple(step.action for step in s.steps) for s in sessions]
    assert [one.reward for one in played] == [4, 1, 6, 2, 3]
    assert not any(one.truncated for one in played)
    assert [one.info["step"] for one in played] == [4, 1, 6, 2, 3]


def test_a_limit_truncates_and_resets_may_be_endless() -> None:
    sessions = uneven()

    def forever() -> Any:
        while True:
            yield Reset(options={"session_id": "s2"})

    episodes = rollout(replay_limited(sessions), Teacher(sessions), forever(), slots=3)
    first = [next(episodes) for _ in range(5)]
    assert [(one.number, one.truncated, len(one.actions)) for one in first] == [(n, True, 3) for n in range(5)]


def replay_limited(sessions: list[Session]) -> Callable[[], gymnasium.Env[Any, Any]]:
    return lambda: gymnasium.make("handrail/Replay-v0", sessions=sessions, max_episode_steps=3)


def test_environments_are_closed_and_faults_are_placed() -> None:
    sessions = uneven()
    closed = []

    class Closing(gymnasium.Wrapper[Any, Any, Any, Any]):
        def close(self) -> None:
            closed.append(self)

    class Careless(Teacher):
        def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
            return {number: Action("send_reply", "wrong") for number in observations if number != 2}

    strict = replay(sessions, divergence="strict")
    with pytest.raises(HandrailError, match="expected") as caught:
        list(rollout(lambda: Closing(strict()), Careless(sessions), by_id(sessions), slots=2))
    assert "episode 0" in caught.value.__notes__[0]
    assert len(closed) == 2
    with pytest.raises(HandrailError, match="Careless gave no action for episode 2"):
        list(rollout(replay(sessions), Careless(sessions), by_id(sessions), slots=3))
    with pytest.raises(HandrailError, match="slots=0"):
        next(rollout(replay(sessions), Careless(sessions), by_id(sessions), slots=0))


def test_a_policy_on_replayed_sessions_suggests_what_the_decoder_does() -> None:
    sessions = uneven(3)
    policy = tiny_policy(random_sessions(100, 30))
    actor = PolicyActor(Desk(policy, operator="ann"))
    played = list(rollout(replay(sessions), actor, by_id(sessions), slots=3))
    found = iter(Decoder(policy).suggest(sessions))
    for one, session in zip(played, sessions, strict=True):
        for step, done in zip(session.steps, one.actions, strict=True):
            seen = Observation("", "", step.index, step.state, step.events, session.steps[: step.index])
            assert done == spelled(next(found).action, seen)


@pytest.mark.parametrize("name", registry.names("handrail.agents.baselines"))
def test_a_baseline_acts_as_it_suggests_on_finished_sessions(name: str) -> None:
    sessions = uneven(5)
    baseline = registry.load("handrail.agents.baselines", name, "baseline").Baseline()
    baseline.fit(random_sessions(6, 10), seed=0)
    played = list(rollout(replay(sessions), BaselineActor(baseline, "ann"), by_id(sessions), slots=3))
    assert [action for one in played for action in one.actions] == [s.action for s in baseline.suggest(sessions)]


ACTORS: dict[str, Callable[[], Actor]] = {
    "random": RandomActor,
    "expert": lambda: OperatorActor(lambda rng: Expert(seed=int(rng.integers(1000)))),
    "baseline": lambda: BaselineActor(fitted()),
    "policy": lambda: PolicyActor(Desk(tiny_policy(worked()))),
}


def worked() -> list[Session]:
    expert = OperatorActor(lambda rng: Expert(seed=int(rng.integers(1000))))
    return [one.session for one in rollout(desk, expert, [Reset(100 + n) for n in range(8)])]


def fitted() -> Any:
    baseline = registry.load("handrail.agents.baselines", "backoff", "baseline").Baseline()
    baseline.fit(worked(), seed=0)
    return baseline


@pytest.mark.parametrize("name", ACTORS)
def test_every_actor_works_the_simulated_desk_the_same_way_alone_and_in_company(name: str) -> None:
    resets = [Reset(int(seed)) for seed in np.random.default_rng(1).integers(1000, size=5)]
    alone, together, again = (
        list(rollout(desk, ACTORS[name](), order, slots))
        for slots, order in ((1, resets), (4, resets), (4, [*resets[::-1], *resets]))
    )
    assert [shown(one) for one in alone] == [shown(one) for one in together]
    if name != "policy":
        assert [shown(one) for one in again[5:]] == [shown(one) for one in alone]
    assert all(len(one.session.steps) == len(one.actions) for one in alone)
    assert len({one.session.id for one in alone}) == 5
    assert all(one.truncated or one.info["outcome"] for one in alone)
    assert {s.actor for one in alone for s in one.session.steps} == {"operator" if name == "expert" else "policy"}
    if name == "expert":
        assert all(one.info["success"] for one in alone)


def shown(played: Played) -> tuple[Any, ...]:
    return (played.session, played.actions, played.reward, played.truncated)
