from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from handrail.envs.bpm import flow, load
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.screenshot import find_chromium
from handrail.envs.errors import HandrailError
from handrail.envs.registration import register_envs
from handrail.envs.schema import Action, Feedback, Session
from handrail.envs.spaces import Observation

register_envs()


@pytest.fixture(scope="module", params=load.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def by_the_book(env: BPMEnv) -> Action:
    return flow.actions(env.world, flow.pending(env.world)[0])[0]


def work(env: BPMEnv, seed: int | None = None, **options: Any) -> tuple[Observation, float, dict[str, Any]]:
    """Work a case to its end, by the procedure; return the last observation, the return and the last info."""
    env.reset(seed=seed, options=options)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(by_the_book(env))
        total += reward
        over = terminated or truncated
    return observation, total, info


@pytest.mark.parametrize("arguments", [{}, {"html": True}, {"customer": {"typos": 3.0}}, {"max_steps": 3}])
def test_gymnasium_checker_has_nothing_to_say(
    name: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checker renders in every mode, and pictures (test_screenshot) need a browser, which not every machine has.
    if find_chromium() is None:
        text_only = [mode for mode in BPMEnv.metadata["render_modes"] if mode != "rgb_array"]
        monkeypatch.setitem(BPMEnv.metadata, "render_modes", text_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("handrail/BPM-v0", domain=name, render_mode="ansi", **arguments)
        check_env(env.unwrapped)
        observation, _ = env.reset(seed=0)
        for _ in range(3):
            observation, *_ = env.step(env.action_space.sample(mask=observation))
        assert env.observation_space.contains(observation)
        env.close()


def test_an_episode_ends_with_the_case(name: str) -> None:
    env = BPMEnv(name)
    observation, info = env.reset(seed=0)
    assert (observation.index, observation.history, observation.state.procedure) == (0, (), None)
    assert observation.issue == info["issue"] == env.world.case.matters[0].issue
    assert {event.role for event in observation.events} == {"customer"}
    assert info == {
        "session_id": env.world.case.id,
        "issue": observation.issue,
        "step": 0,
        "critical": False,
        "error": None,
        "violations": [],
        "success": None,
        "outcome": None,
        "time": info["time"],
        "active": 0.0,
        "actor": "policy",
    }
    last, total, info = work(env, seed=0)
    assert (total, info["success"], info["error"], info["violations"]) == (1.0, True, None, [])
    assert info["outcome"] in env.domain.desk.outcomes
    assert info["step"] == last.index == len(last.history) <= env.max_steps
    assert [step.index for step in last.history] == list(range(last.index))
    assert all(a.time < b.time for a, b in zip(last.history, last.history[1:], strict=False))
    with pytest.raises(ResetNeeded):
        env.step(Action("navigate", env.domain.desk.home))


def test_the_history_tells_what_happened(name: str) -> None:
    last, _, _ = work(BPMEnv(name), seed=1)
    for step, after in zip(last.history, last.history[1:], strict=False):
        sent = [event for event in after.events if event.role == "operator"]
        assert len(sent) == (step.action.tool in ("send_reply", "send_message"))


def test_a_seed_gives_the_same_episodes(name: str) -> None:
    first, second = BPMEnv(name), BPMEnv(name)
    for seed in (3, None, None):
        for copy in (first, second):
            copy.reset(seed=seed)
        while True:
            action = by_the_book(first)
            got, other = first.step(action), second.step(action)
            assert data_equivalence(got, other)
            if got[2]:
                break


PROGRAM = """
import hashlib, sys
import msgspec
from handrail.envs.bpm import flow
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.screenshot import find_chromium
env = BPMEnv(sys.argv[1])
digest = hashlib.sha256()
for seed in (0, None, None):
    env.reset(seed=seed)
    while env.world.outcome is None:
        env.step(flow.actions(env.world, flow.pending(env.world)[0])[0])
    digest.update(msgspec.json.encode(env.session()))
env.action_space.seed(0)
digest.update(repr([env.action_space.sample() for _ in range(20)]).encode())
print(digest.hexdigest())
"""


def test_episodes_do_not_depend_on_the_process(name: str) -> None:
    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROGRAM, name]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert run("0") == run("12345") != ""


def test_pages_hold_the_states(name: str) -> None:
    plain, pages = BPMEnv(name), BPMEnv(name, html=True)
    for seed in range(3):
        observations = [env.reset(seed=seed)[0] for env in (plain, pages)]
        while plain.world.outcome is None:
            assert observations[0] == observations[1]
            action = by_the_book(plain)
            observations = [env.step(action)[0] for env in (plain, pages)]
        assert observations[0] == observations[1]


def test_a_time_limit_truncates() -> None:
    env = BPMEnv("mock", max_steps=2)
    env.reset(seed=0)
    idle = Action("navigate", "search")
    assert env.step(idle)[2:4] == (False, False)
    *_, terminated, truncated, info = env.step(idle)
    assert (terminated, truncated, info["success"], info["outcome"]) == (False, True, False, None)
    with pytest.raises(ResetNeeded):
        env.step(idle)


def test_impossible_actions_cost_a_step_and_show() -> None:
    env = BPMEnv("mock")
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step({"tool": "click", "target": "renew"})
    assert (reward, terminated, truncated, observation.index) == (0.0, False, False, 1)
    assert info["error"] == observation.state.values["error"] == "There is no button 'renew' on this screen."
    assert info["critical"] is True
    observation, *_, info = env.step(Action("open_procedure", "renew_loan"))
    assert (info["error"], "error" in observation.state.values) == (None, False)
    with pytest.raises(HandrailError, match="an action must be"):
        env.step("click renew")


def test_policy_and_operator_act_in_turn() -> None:
    env = BPMEnv("mock")
    env.reset(seed=0)
    env.step(by_the_book(env))
    assert env.world.clock.spent.total == 0
    env.actor = "operator"
    *_, info = env.step(by_the_book(env))
    assert (info["actor"], info["active"] > 0) == ("operator", True)
    env.actor = "policy"
    env.step(by_the_book(env))
    assert [step.actor for step in env.session().steps] == ["policy", "operator", "policy"]


def test_sessions_log_what_was_done_and_the_verdicts() -> None:
    env = BPMEnv("mock")
    env.reset(seed=0)
    env.operator = "w7"
    verdict = Feedback(Action("navigate", "member"), "reject", by_the_book(env), source="m")
    env.note(verdict)
    env.actor = "operator"
    env.step(by_the_book(env))
    open_session = env.session()
    assert (open_session.outcome["closed"], open_session.tags["completion"]) == (None, "open")
    while env.world.outcome is None:
        env.step(by_the_book(env))
    session = env.session()
    assert msgspec.json.decode(msgspec.json.encode(session), type=Session) == session
    assert [step.feedback for step in session.steps] == [verdict] + [None] * (len(session.steps) - 1)
    assert (session.source, session.issue, session.operator) == ("bpm", env.world.case.matters[0].issue, "w7")
    assert session.brief == env.domain.desk.brief
    assert session.outcome["success"] is True
    assert session.tags["completion"] == "closed"
    assert session.steps[-1].critical
    assert session.steps[-1].action.target == f"close:{session.outcome['closed']}"


def test_snapshots_go_back(name: str) -> None:
    env = BPMEnv(name)
    env.reset(seed=5)
    for _ in range(6):
        before = env.step(by_the_book(env))[0]
    snapshot = env.snapshot()
    ends = []
    other = BPMEnv(name)
    for copy in (env, env, pickle.loads(pickle.dumps(env)), other):
        assert copy.restore(snapshot) == before
        actions = []
        while copy.world.outcome is None:
            actions.append(by_the_book(copy))
            end = copy.step(actions[-1])
        ends.append((actions, end))
    assert all(data_equivalence(end, ends[0]) for end in ends)
    with pytest.raises(HandrailError, match="does not fit domain"):
        BPMEnv("mock" if name != "mock" else "bank").restore(snapshot)


def test_pickling_goes_on_where_it_was(name: str) -> None:
    env = BPMEnv(name)
    env.reset(seed=2)
    env.step(by_the_book(env))
    back = pickle.loads(pickle.dumps(env))
    assert back.world.program is env.world.program
    for _ in range(2):
        while env.world.outcome is None:
            action = by_the_book(env)
            assert data_equivalence(env.step(action), back.step(action))
        assert data_equivalence(env.reset(), back.reset())


@pytest.mark.parametrize(
    "vector",
    [
        SyncVectorEnv,
        AsyncVectorEnv,
        lambda makers: AsyncVectorEnv(makers, shared_memory=False),
    ],
)
def test_vector_environments(vector: Callable[..., Any]) -> None:
    envs = vector([lambda: gymnasium.make("handrail/BPM-v0", domain="mock", max_steps=12)] * 3)
    try:
        observations, info = envs.reset(seed=4)
        assert len(observations) == 3
        alone = BPMEnv("mock")
        for number in range(3):
            assert observations[number] == alone.reset(seed=4 + number)[0]
        for step in range(30):
            actions = tuple(envs.single_action_space.sample(mask=observations[i]) for i in range(3))
            observations, rewards, _, _, info = envs.step(actions)
            assert rewards.shape == (3,)
            assert all(observations[i].index <= 12 for i in range(3)), step
        assert len(info["session_id"]) == 3
    finally:
        envs.close()


def test_cases_can_be_chosen() -> None:
    env = BPMEnv("mock")
    for issue in env.domain.issues:
        assert env.reset(seed=0, options={"issue": issue})[0].issue == issue
    case = draw_case(env.domain, np.random.default_rng(8))
    assert env.reset(options={"case": case})[1]["session_id"] == case.id
    only = BPMEnv("mock", issues=["change_email"])
    seen = set()
    for seed in range(20):
        only.reset(seed=seed)
        seen |= {matter.issue for matter in only.world.case.matters}
    assert seen == {"change_email"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "mok"}, "unknown domain 'mok'; did you mean mock"),
        ({"issues": ["renew"]}, "domain 'mock' has no issue 'renew'; did you mean renew_loan"),
        ({"issues": "renew_loan"}, "expected a list of issues"),
        ({"customer": {"typo": 1.0}}, "unknown customer option 'typo'; did you mean typos"),
        ({"customer": {"typos": "many"}}, "typos"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"render_mode": "human"}, "unknown render_mode 'human'"),
        ({"shift": {"severity": 1.0}}, "expected a mapping with name"),
        ({"shift": {"name": "renamed", "sevrity": 1.0}}, "unknown key 'sevrity' of shift; did you mean severity"),
    ],
)
def test_mistaken_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HandrailError, match=message):
        BPMEnv(**arguments)


def test_mistaken_options_are_told() -> None:
    env = BPMEnv("mock")
    with pytest.raises(ResetNeeded):
        env.world.state()
    with pytest.raises(ResetNeeded):
        env.step(Action("navigate", "search"))
    with pytest.raises(HandrailError, match="unknown option 'isue' of reset; did you mean issue"):
        env.reset(options={"isue": "renew_loan"})
    with pytest.raises(HandrailError, match="has no issue 'loan'"):
        env.reset(options={"issue": "loan"})
    with pytest.raises(HandrailError, match="expected a Case of domain 'mock'"):
        env.reset(options={"case": 3})


def test_it_renders_text_and_pages() -> None:
    assert BPMEnv("mock").render() is None
    text, page = BPMEnv("mock", render_mode="ansi"), BPMEnv("mock", render_mode="html")
    for env in (text, page):
        env.reset(seed=0)
        env.step(Action("open_procedure", "renew_loan"))
    assert text.render().startswith("screen search · procedure renew_loan")
    assert page.render().startswith("<!DOCTYPE html>")
    assert text.world.opening[0].text in text.render()


def test_shifts_change_the_desk_and_the_procedure_still_works(name: str) -> None:
    plain, shifted = BPMEnv(name), BPMEnv(name, shift={"name": "renamed", "severity": 1.0, "seed": 0})
    assert shifted.reset(seed=0)[0].state.controls != plain.reset(seed=0)[0].state.controls
    assert work(shifted, seed=0)[2]["success"] is True


def test_what_is_seen_is_json(name: str) -> None:
    last, _, _ = work(BPMEnv(name), seed=0)
    text = msgspec.json.encode(last)
    assert msgspec.json.decode(text, type=Observation) == last
    assert json.loads(text)["index"] == last.index


@pytest.mark.slow
def test_eight_environments_in_processes_run_without_a_leak() -> None:
    def memory(envs: AsyncVectorEnv) -> list[int]:
        pages = []
        for process in envs.processes:
            with open(f"/proc/{process.pid}/statm") as file:
                pages.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return pages

    envs = AsyncVectorEnv([lambda: gymnasium.make("handrail/BPM-v0", domain="bank")] * 8)
    try:
        observations, _ = envs.reset(seed=0)
        envs.single_action_space.seed(0)
        for step in range(1250):
            if step == 250:
                early = memory(envs)
            actions = tuple(envs.single_action_space.sample(mask=observations[i]) for i in range(8))
            observations, *_ = envs.step(actions)
        # 8,000 more steps in 8 processes; caches may still fill a little.
        assert max(late - first for late, first in zip(memory(envs), early, strict=True)) < 8 << 20
    finally:
        envs.close()
