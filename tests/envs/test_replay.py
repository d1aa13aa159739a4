from __future__ import annotations

import copy
import json
import pickle
import warnings
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.envs.errors import HandrailError
from handrail.envs.logs.store import SessionWriter
from handrail.envs.normalize import same_action
from handrail.envs.registration import ENVIRONMENTS, register_envs
from handrail.envs.replay import DivergenceError, ReplayEnv
from handrail.envs.schema import (
    Action,
    Constraint,
    Control,
    Feedback,
    Message,
    Provenance,
    Result,
    Session,
    Step,
    UIState,
)
from handrail.envs.spaces import ActionSpace, Catalogue, Observation, ObservationSpace, to_action

register_envs()

CONTROLS = (
    Control("hello", "template", "Hello, how can I help?"),
    Control(
        "book",
        "form",
        fields=(
            Control("name", "text", required=True),
            Control("size", "select", options=("small", "large")),
            Control("people", "number"),
        ),
    ),
    Control("retired", "template", "Not offered", enabled=False),
)
HOME = UIState("chat", "hotel", CONTROLS)
HELLO = Action("send_reply", "hello")
BOOK = Action("submit_form", "book", {"name": "Ann Lee", "price": Constraint("is_at_most", 20)})
CLOSE = Action("close_case")


def booking(name: str = "a") -> Session:
    """Greets at 110, books at 150, and the customer closes at 170."""
    return Session(
        id=name,
        source="made",
        issue="hotel",
        operator="w1",
        brief="Help the guest.",
        steps=(
            Step(0, HOME, (Message("customer", "Hi", 100.0),), HELLO, "operator", 110.0),
            Step(
                1,
                HOME,
                (Message("customer", "A room", 125.0),),
                BOOK,
                "operator",
                150.0,
                critical=True,
                feedback=Feedback(HELLO, "reject", BOOK),
            ),
            Step(2, HOME, (Result("book", {"id": 7}, 1),), CLOSE, "customer", 170.0, critical=True),
        ),
        tail=(Message("system", "closed", 171.0),),
    )


def three() -> list[Session]:
    return [booking("a"), booking("b"), booking("c")]


@pytest.mark.parametrize("divergence", ["teacher", "terminate"])
def test_gymnasium_checker_has_nothing_to_say(divergence: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("handrail/Replay-v0", sessions=three(), divergence=divergence, render_mode="ansi")
        check_env(env.unwrapped)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()


def test_registration_is_idempotent_and_keeps_the_id() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert set(ENVIRONMENTS) <= set(gymnasium.registry)
    assert gymnasium.make("handrail/Replay-v0", sessions=three()).spec.id == "handrail/Replay-v0"


def test_an_episode_by_hand() -> None:
    env = ReplayEnv([booking()])
    observation, info = env.reset(seed=0)
    assert observation == Observation("hotel", "Help the guest.", 0, HOME, (Message("customer", "Hi", 100.0),), ())
    assert info == {
        "session_id": "a",
        "step": 0,
        "logged_action": HELLO,
        "actor": "operator",
        "critical": False,
        "verdict": None,
        "time": 110.0,
        "elapsed": 10.0,
    }
    observation, reward, terminated, truncated, info = env.step(HELLO)
    assert (reward, terminated, truncated) == (1.0, False, False)
    assert observation.index == 1
    assert observation.history == booking().steps[:1]
    assert info == {
        "session_id": "a",
        "step": 1,
        "logged_action": BOOK,
        "actor": "operator",
        "critical": True,
        "verdict": "reject",
        "time": 150.0,
        "elapsed": 25.0,
        "match": True,
    }
    observation, reward, terminated, truncated, info = env.step(CLOSE)
    assert (reward, terminated, truncated, info["match"]) == (0.0, True, False, False)
    # The customer's closing was played through and what followed is seen.
    assert [step.actor for step in observation.history] == ["operator", "operator", "customer"]
    assert observation.events == (Message("system", "closed", 171.0),)
    assert (info["step"], info["logged_action"], info["critical"]) == (3, None, False)
    with pytest.raises(ResetNeeded):
        env.step(HELLO)


def test_steps_by_others_between_decisions_are_played_through() -> None:
    session = booking()
    by_customer = Step(1, HOME, (Message("customer", "wait", 140.0),), Action("type"), "customer", 141.0)
    last = msgspec.structs.replace(session.steps[1], index=2, events=())
    env = ReplayEnv([msgspec.structs.replace(session, steps=(session.steps[0], by_customer, last))])
    env.reset(seed=0)
    observation, _, terminated, _, info = env.step(HELLO)
    assert not terminated
    assert (info["step"], observation.index) == (2, 2)
    assert observation.history[1] == by_customer
    # The newest thing seen is the customer's step at 141.
    assert info["elapsed"] == pytest.approx(9.0)


@pytest.mark.parametrize(
    "action",
    [
        {
            "tool": "Submit_Form",
            "target": "book",
            "args": {"name": " ann  lee", "price": {"op": "is_at_most", "value": "20"}},
        },
        Action("submit_form", "book", {"price": Constraint("is_at_most", 20.0), "name": "ANN LEE", "email": None}),
        BOOK,
    ],
)
def test_a_match_is_equality_after_normalisation(action: Any) -> None:
    env = ReplayEnv([booking()])
    env.reset(seed=0)
    env.step(HELLO)
    assert env.step(action)[1] == 1.0


@pytest.mark.parametrize(
    ("field", "value"), [("tool", "send"), ("target", "form"), ("args", {"name": "Ann Lee", "price": 20})]
)
def test_tool_target_and_every_argument_count(field: str, value: Any) -> None:
    env = ReplayEnv([booking()])
    env.reset(seed=0)
    env.step(HELLO)
    assert env.step(msgspec.structs.replace(BOOK, **{field: value}))[1] == 0.0


def test_terminate_ends_at_the_first_wrong_critical_action() -> None:
    env = ReplayEnv([booking()], divergence="terminate")
    env.reset(seed=0)
    before, reward, terminated, _, _ = env.step(CLOSE)
    assert (reward, terminated) == (0.0, False), "a wrong action that is not critical ends nothing"
    after, reward, terminated, truncated, info = env.step(HELLO)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (info["step"], info["match"], info["logged_action"]) == (1, False, None)
    assert after is before, "what the log did next must not be seen"
    with pytest.raises(ResetNeeded):
        env.step(BOOK)


def test_strict_names_session_step_and_both_actions() -> None:
    env = ReplayEnv([booking()], divergence="strict")
    env.reset(seed=0)
    with pytest.raises(
        DivergenceError, match=r"session 'a', step 0: expected send_reply hello, got close_case"
    ) as caught:
        env.step({"tool": "close_case"})
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.session_id, error.step, error.expected, error.given) == ("a", 0, HELLO, CLOSE)
    assert env.step(HELLO)[1] == 1.0, "the step can be tried again"


def secret_session(rng: np.random.Generator) -> tuple[Session, list[set[str]]]:
    """A session in which every text is unique, and for each step the texts that it must not show."""
    count = 0

    def mark() -> str:
        nonlocal count
        count += 1
        return f"mark{count:04d}x"

    steps, now, whole = [], [], []
    for index in range(rng.integers(1, 6)):
        visible = [mark() for _ in range(3)]
        state = UIState(visible[0], None, CONTROLS, {"field": visible[1]})
        secrets = [mark() for _ in range(12)]
        suggestion = Action(secrets[0], secrets[1], {"a": secrets[2]})
        steps.append(
            Step(
                index=index,
                state=state,
                events=(Message("customer", visible[2]),),
                action=Action(secrets[3], secrets[4], {"b": secrets[5]}),
                actor="operator" if index == 0 or rng.random() < 0.7 else "customer",
                time=123456.0 + index,
                feedback=Feedback(suggestion, "reject", Action(secrets[6]), (Action(secrets[7]),), secrets[8]),
                drafts=(Message("operator", secrets[9]),),
                provenance={"b": Provenance(secrets[10], secrets[11])},
            )
        )
        now.append({*secrets, str(123456.0 + index)})
        whole.append({*visible, *now[-1]})
    hidden = [mark() for _ in range(5)]
    session = Session(
        id="case",
        source="made",
        issue="issue",
        operator="w1",
        steps=tuple(steps),
        tail=(Message("system", hidden[0]),),
        tags={"kind": hidden[1], hidden[2]: "x"},
        outcome={"rating": hidden[3]},
        hidden={"goal": hidden[4]},
    )
    forbidden = [{*now[i], *hidden}.union(*whole[i + 1 :]) for i in range(len(steps))]
    return session, forbidden


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_an_observation_shows_nothing_that_becomes_known_later(seed: int) -> None:
    session, forbidden = secret_session(np.random.default_rng(seed))
    env = ReplayEnv([session])
    observation, info = env.reset(seed=0)
    terminated = False
    while not terminated:
        text = msgspec.json.encode(observation).decode() + repr(observation) + str(pickle.dumps(observation))
        leaked = [secret for secret in forbidden[info["step"]] if secret in text]
        assert not leaked
        for earlier in session.steps[: info["step"]]:
            assert earlier.action.tool in text, "what was done before must be visible"
        assert session.steps[info["step"]].events[0].text in text
        observation, _, terminated, _, info = env.step(info["logged_action"])


def test_the_leak_test_can_fail() -> None:
    session, forbidden = secret_session(np.random.default_rng(0))
    text = msgspec.json.encode(session).decode()
    assert all(secret in text for secrets in forbidden for secret in secrets)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["teacher", "terminate"]))
@settings(max_examples=30, deadline=None)
def test_random_play_keeps_the_rules(seed: int, divergence: Any) -> None:
    rng = np.random.default_rng(seed)
    sessions = [msgspec.structs.replace(secret_session(rng)[0], id=str(i)) for i in range(3)]
    env = ReplayEnv(sessions, divergence=divergence)
    env.action_space.seed(seed)
    for _ in range(4):
        observation, info = env.reset(seed=int(rng.integers(100)))
        steps = {session.id: session.steps for session in sessions}[info["session_id"]]
        decisions = [step.index for step in steps if step.actor == "operator"]
        seen, terminated = [], False
        while not terminated:
            assert observation in env.observation_space
            assert observation.history == steps[: observation.index]
            seen.append(info["step"])
            right = rng.random() < 0.5
            logged = info["logged_action"]
            action = logged if right else env.action_space.sample(mask=observation)
            assert action in env.action_space
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == float(info["match"]) == float(same_action(action, logged))
            assert not truncated
        assert seen == decisions, "no step of these sessions is critical, so nothing ends early"
        assert observation in env.observation_space


def test_every_session_comes_once_before_any_comes_again() -> None:
    sessions = [booking(str(i)) for i in range(8)]
    first, second = ReplayEnv(sessions), ReplayEnv(sessions)
    orders = []
    for env in (first, second):
        names = [env.reset(seed=5)[1]["session_id"]]
        names += [env.reset()[1]["session_id"] for _ in range(15)]
        orders.append(names)
    assert orders[0] == orders[1]
    assert sorted(orders[0][:8]) == sorted(orders[0][8:]) == sorted(s.id for s in sessions)
    # 8! = 40320 orders: two equal shuffles would be a one in 40320 accident, and the seed is fixed.
    assert orders[0][:8] != orders[0][8:]
    other = [first.reset(seed=6)[1]["session_id"]] + [first.reset()[1]["session_id"] for _ in range(7)]
    assert other != orders[0][:8]


def test_reset_to_a_named_session_leaves_the_order() -> None:
    sessions = [booking(str(i)) for i in range(5)]
    plain, asked = ReplayEnv(sessions), ReplayEnv(sessions)
    expected = [plain.reset(seed=1)[1]["session_id"]] + [plain.reset()[1]["session_id"] for _ in range(4)]
    got = [asked.reset(seed=1)[1]["session_id"]]
    assert asked.reset(options={"session_id": "3"})[1]["session_id"] == "3"
    got += [asked.reset()[1]["session_id"] for _ in range(4)]
    assert got == expected


def test_two_copies_do_the_same() -> None:
    first, second = (gymnasium.make("handrail/Replay-v0", sessions=three()) for _ in range(2))
    first.action_space.seed(3)
    second.action_space.seed(3)
    assert data_equivalence(first.reset(seed=9), second.reset(seed=9), exact=True)
    for _ in range(40):
        actions = first.action_space.sample(), second.action_space.sample()
        assert actions[0] == actions[1]
        results = first.step(actions[0]), second.step(actions[1])
        assert data_equivalence(*results, exact=True)
        if results[0][2]:
            assert data_equivalence(first.reset(), second.reset(), exact=True)


def test_pickle_in_the_middle_of_an_episode() -> None:
    env = ReplayEnv(three())
    env.reset(seed=2)
    env.action_space.seed(4)
    env.step(HELLO)
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        original = pickle.loads(pickle.dumps(env))
        for _ in range(6):
            action = original.action_space.sample()
            assert twin.action_space.sample() == action
            results = original.step(action), twin.step(action)
            assert data_equivalence(*results, exact=True)
            if results[0][2]:
                assert data_equivalence(original.reset(), twin.reset(), exact=True)


def test_spaces_pickle_with_their_generator() -> None:
    for space in (ReplayEnv(three()).action_space, ReplayEnv(three()).observation_space):
        space.seed(11)
        twin = pickle.loads(pickle.dumps(space))
        assert twin == space
        assert [twin.sample() for _ in range(5)] == [space.sample() for _ in range(5)]


class MakeEnv:
    """Makes one of several environments over different sessions."""

    def __init__(self, number: int, **options: Any) -> None:
        self.number = number
        self.options = options

    def __call__(self) -> gymnasium.Env[Any, Any]:
        sessions = [booking(f"{self.number}-{i}") for i in range(2)]
        return gymnasium.make("handrail/Replay-v0", sessions=sessions, **self.options)


VECTORS = {
    "sync": lambda makers: SyncVectorEnv(makers),
    "sync without copies": lambda makers: SyncVectorEnv(makers, copy=False),
    "async": lambda makers: AsyncVectorEnv(makers),
    "async without copies": lambda makers: AsyncVectorEnv(makers, copy=False),
    "async without shared memory": lambda makers: AsyncVectorEnv(makers, shared_memory=False),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_vector_environments_agree_with_single_ones(kind: str) -> None:
    makers = [MakeEnv(number) for number in range(2)]
    singles = [make() for make in makers]
    envs = VECTORS[kind](makers)
    try:
        observations, infos = envs.reset(seed=7)
        expected = [env.reset(seed=7 + i) for i, env in enumerate(singles)]
        assert list(observations) == [observation for observation, _ in expected]
        assert list(infos["session_id"]) == [info["session_id"] for _, info in expected]
        assert tuple(observations) in envs.observation_space
        batches = [envs.action_space.sample(), tuple(infos["logged_action"])]
        rewards = []
        for actions in batches:
            assert actions in envs.action_space
            observations, reward, terminated, _, infos = envs.step(actions)
            expected_steps = [env.step(action) for env, action in zip(singles, actions, strict=True)]
            assert list(observations) == [step[0] for step in expected_steps]
            assert reward.tolist() == [step[1] for step in expected_steps]
            assert terminated.tolist() == [step[2] for step in expected_steps]
            assert infos["match"].tolist() == [step[4]["match"] for step in expected_steps]
            rewards.append(reward.tolist())
        assert terminated.all()
        # The next step resets the environments that ended, whatever action it is given.
        observations, _, terminated, _, infos = envs.step(envs.action_space.sample())
        assert not terminated.any()
        assert [observation.index for observation in observations] == [0, 0]
    finally:
        envs.close()


def test_make_vec_works_with_its_defaults() -> None:
    for mode in ("sync", "async"):
        envs = gymnasium.make_vec("handrail/Replay-v0", num_envs=2, vectorization_mode=mode, sessions=three())
        observations, _ = envs.reset(seed=0)
        assert len(observations) == 2
        envs.close()


def test_a_copied_batch_stays_while_the_environments_go_on() -> None:
    envs = AsyncVectorEnv([MakeEnv(0), MakeEnv(1)])
    try:
        before, infos = envs.reset(seed=0)
        kept = [observation.index for observation in before]
        envs.step(tuple(infos["logged_action"]))
        assert [observation.index for observation in before] == kept == [0, 0]
    finally:
        envs.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_divergence_crosses_the_process_border() -> None:
    envs = AsyncVectorEnv([MakeEnv(0, divergence="strict")])
    try:
        envs.reset(seed=0)
        with pytest.raises(DivergenceError, match="expected send_reply hello, got close_case"):
            envs.step((CLOSE,))
    finally:
        envs.close(terminate=True)


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_an_observation_too_big_for_shared_memory_says_what_to_do() -> None:
    session = booking()
    huge = msgspec.structs.replace(session.steps[0], events=(Message("customer", "x" * (2 << 20)),))
    sessions = [msgspec.structs.replace(session, steps=(huge,))]
    envs = AsyncVectorEnv([lambda: ReplayEnv(sessions)])
    try:
        with pytest.raises(HandrailError, match="shared_memory=False"):
            envs.reset(seed=0)
    finally:
        envs.close(terminate=True)


def test_time_limit_truncates() -> None:
    env = gymnasium.make("handrail/Replay-v0", sessions=three(), max_episode_steps=1)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(HELLO)
    assert (terminated, truncated) == (False, True)


def test_sampled_actions_are_possible_on_the_screen() -> None:
    env = ReplayEnv([booking()])
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    seen = set()
    for _ in range(200):
        action = env.action_space.sample(mask=observation)
        assert action in env.action_space
        seen.add((action.tool, action.target))
        if action.tool == "submit_form":
            assert "name" in action.args
            assert set(action.args) <= {"name", "size", "people"}
            assert action.args.get("size", "small") in ("small", "large")
    # The operator never closed the case here, and a control that is switched off is not offered.
    assert seen == {("send_reply", "hello"), ("submit_form", "book")}


def test_spaces_sample_what_they_contain_and_round_trip_as_json() -> None:
    env = ReplayEnv(three())
    for space in (env.action_space, env.observation_space, ActionSpace(), ObservationSpace(Catalogue())):
        space.seed(1)
        samples = [space.sample() for _ in range(20)]
        assert all(sample in space for sample in samples)
        assert len({repr(sample) for sample in samples}) > 1
        text = json.dumps(space.to_jsonable(samples))
        assert space.from_jsonable(json.loads(text)) == samples
        space.seed(1)
        assert [space.sample() for _ in range(20)] == samples


@pytest.mark.parametrize(
    "thing",
    [None, "send", 3, {"tool": 3}, {"target": "x"}, {"tool": "x", "args": {"a": object()}}, {"tool": "x", "kind": 1}],
)
def test_what_is_no_action_is_refused(thing: Any) -> None:
    env = ReplayEnv([booking()])
    env.reset(seed=0)
    assert thing not in env.action_space
    with pytest.raises(HandrailError):
        to_action(thing)
    with pytest.raises(HandrailError):
        env.step(thing)


def test_observation_space_refuses_other_things() -> None:
    space = ReplayEnv([booking()]).observation_space
    observation = Observation("i", "", 0, HOME)
    assert observation in space
    for wrong in (None, HOME, {"index": 0}, msgspec.structs.replace(observation, index=2)):
        assert wrong not in space


def test_rendering() -> None:
    env = ReplayEnv([booking()], render_mode="ansi")
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(seed=0)
    env.step(HELLO)
    assert env.render() == (
        "session a (hotel), step 1 of 3\n"
        "screen chat, procedure hotel, 3 controls\n"
        "  customer: A room\n"
        "last action: send_reply hello (as logged)"
    )
    assert ReplayEnv([booking()]).render() is None


def test_sessions_from_a_store(tmp_path: Any) -> None:
    path = tmp_path / "s.parquet"
    with SessionWriter(path) as writer:
        for session in three():
            writer.write(session)
    env = ReplayEnv(str(path))
    assert env.sessions == tuple(three())
    assert env.reset(seed=0)[0] == ReplayEnv(three()).reset(seed=0)[0]


NO_OPERATOR = msgspec.structs.replace(booking("idle"), steps=(Step(0, HOME, (), CLOSE, "customer"),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sessions": []}, "no session"),
        ({"sessions": [booking(), NO_OPERATOR]}, "1 of 2 sessions have no step by the operator .'idle'."),
        ({"sessions": [booking(), booking()]}, "'a' occurs twice"),
        ({"sessions": [HOME]}, r"sessions\[0\] is UIState, expected Session"),
        ({"sessions": "no-such-file.parquet"}, "no file no-such-file.parquet"),
        ({"sessions": [booking()], "divergence": "teach"}, "unknown divergence 'teach'; did you mean teacher"),
        ({"sessions": [booking()], "render_mode": "human"}, "unknown render_mode 'human'"),
        (
            {"sessions": [msgspec.structs.replace(booking(), steps=booking().steps[1:])]},
            "the steps of session 'a' are not numbered",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HandrailError, match=message):
        ReplayEnv(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session_id": "hotel-11"}, "no session 'hotel-11' among 1; did you mean hotel-1?"),
        ({"session_id": 3}, "no session 3"),
        ({"session": "hotel-1"}, "unknown option 'session' of reset; did you mean session_id?"),
    ],
)
def test_wrong_reset_options_are_named(options: dict[str, Any], message: str) -> None:
    env = ReplayEnv([booking("hotel-1")])
    with pytest.raises(HandrailError) as caught:
        env.reset(options=options)
    assert message in str(caught.value)


def test_missing_times_leave_elapsed_unknown() -> None:
    session = booking()
    steps = tuple(msgspec.structs.replace(step, time=None, events=()) for step in session.steps)
    _, info = ReplayEnv([msgspec.structs.replace(session, steps=steps)]).reset(seed=0)
    assert (info["time"], info["elapsed"]) == (None, None)
