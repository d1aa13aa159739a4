from __future__ import annotations

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import handrail  # noqa: F401  registers the environments
from handrail.agents.baselines._moments import moments
from handrail.agents.feature_env import MASK, OBSERVATIONS, FeatureActor, FeatureEnv, RewardConfig
from handrail.agents.features import FeatureConfig, FeatureView, _information
from handrail.agents.rollout import Reset, rollout
from handrail.agents.simulate import simulate
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.replay import ReplayEnv
from handrail.envs.schema import Session


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    return list(simulate("mock", 60, seed=0))


@pytest.fixture(scope="module")
def view(sessions: list[Session]) -> FeatureView:
    return FeatureView(FeatureConfig(bits=150, least=2)).fit(sessions[:40])


def _envs(view: FeatureView, sessions: list[Session]) -> list[FeatureEnv]:
    return [FeatureEnv(BPMEnv("mock"), view, "op", RewardConfig()), FeatureEnv(ReplayEnv(sessions), view)]


def test_information_of_hand_made_table() -> None:
    from scipy import sparse

    # After `x` the first bit tells which of two equally frequent heads comes: ln 2; the second tells nothing.
    table = sparse.csr_matrix(np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=float))
    a, b, x = ("click", "a"), ("click", "b"), ("click", "x")
    assert _information(table, [a, a, b, b], [x] * 4) == pytest.approx([np.log(2), 0])
    # Known from what was done last, it tells nothing more.
    assert _information(table, [a, a, b, b], [a, a, b, b]) == pytest.approx([0, 0])


def test_view_has_the_size_asked_for_and_no_bit_twice(view: FeatureView) -> None:
    assert len(view.names) <= 150
    assert len(set(view.names)) == len(view.names)
    assert len(set(view.choices)) == len(view.choices)


def test_labels_do_what_was_logged(view: FeatureView, sessions: list[Session]) -> None:
    labelled = 0
    steps = 0
    for session in sessions[40:]:
        for moment, step in moments(session):
            seen = view.see(moment)
            assert set(np.flatnonzero(seen.mask)) == set(seen.actions)
            choice = view.label(seen, step.action)
            steps += 1
            if choice is not None:
                labelled += 1
                assert seen.mask[choice] == 1
                assert same_action(seen.actions[choice], step.action)
    assert labelled > 0.8 * steps


def test_bits_do_not_depend_on_what_comes_later(view: FeatureView, sessions: list[Session]) -> None:
    import msgspec

    session = sessions[45]
    cut = len(session.steps) // 2
    blind = msgspec.structs.replace(session, steps=session.steps[: cut + 1], tail=(), outcome={}, hidden={}, tags={})
    whole = [view.see(moment).bits for moment, _ in moments(session)]
    first = [view.see(moment).bits for moment, _ in moments(blind)]
    assert first
    np.testing.assert_array_equal(np.stack(whole[: len(first)]), np.stack(first))


@pytest.mark.parametrize("number", [0, 1])
def test_gymnasium_has_no_complaint(view: FeatureView, sessions: list[Session], number: int) -> None:
    env = _envs(view, sessions)[number]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    # It says of every wrapper that it is one.
    assert [str(one.message) for one in said if "different from the unwrapped" not in str(one.message)] == []


@pytest.mark.parametrize("number", [0, 1])
def test_two_copies_run_alike_also_after_a_pickle(view: FeatureView, sessions: list[Session], number: int) -> None:
    one = _envs(view, sessions)[number]
    other: FeatureEnv = pickle.loads(pickle.dumps(_envs(view, sessions)[number]))
    rng = np.random.default_rng(0)
    for seed in range(3):
        seen, _ = one.reset(seed=seed)
        again, _ = other.reset(seed=seed)
        for _ in range(30):
            np.testing.assert_array_equal(seen[OBSERVATIONS], again[OBSERVATIONS])
            np.testing.assert_array_equal(seen[MASK], again[MASK])
            choice = rng.choice(np.flatnonzero(seen[MASK]))
            seen, reward, terminated, truncated, _ = one.step(choice)
            again, *same, _ = other.step(choice)
            assert [reward, terminated, truncated] == same
            if terminated or truncated:
                break


def test_vector_of_environments(view: FeatureView) -> None:
    many = gymnasium.vector.SyncVectorEnv([lambda: FeatureEnv(BPMEnv("mock"), view)] * 3)
    seen, _ = many.reset(seed=0)
    assert seen[OBSERVATIONS].shape == (3, len(view.names))
    seen, *_ = many.step(seen[MASK].argmax(axis=1))
    assert seen[MASK].shape == (3, len(view.choices))


def test_replay_pays_one_for_each_logged_choice(view: FeatureView, sessions: list[Session]) -> None:
    session = sessions[41]
    env = FeatureEnv(ReplayEnv([session]), view)
    env.reset(seed=0)
    for moment, step in moments(session):
        choice = view.label(view.see(moment), step.action)
        _, reward, *_ = env.step(np.int64(choice if choice is not None else 0))
        assert reward == (choice is not None)


def test_reward_of_an_impossible_choice_is_step_and_error(view: FeatureView) -> None:
    env = FeatureEnv(BPMEnv("mock"), view, reward=RewardConfig(step=-0.25, error=-0.5, violation=-4.0))
    seen, _ = env.reset(seed=0)
    impossible = np.flatnonzero(seen[MASK] == 0)[0]
    _, reward, _, _, info = env.step(impossible)
    assert info["error"] is not None
    assert reward == pytest.approx(-0.75 - 4.0 * len(info["violations"]))


def test_actor_works_cases_as_the_environment_does(view: FeatureView) -> None:
    actor = FeatureActor(view, lambda bits, mask: mask.argmax(axis=1))
    (played,) = rollout(lambda: BPMEnv("mock", max_steps=12), actor, [Reset(5)])
    env = FeatureEnv(BPMEnv("mock", max_steps=12), view)
    seen, _ = env.reset(seed=5)
    ended = False
    while not ended:
        seen, _, terminated, truncated, _ = env.step(seen[MASK].argmax())
        ended = terminated or truncated
    assert played.actions == tuple(step.action for step in env.unwrapped.session().steps)  # type: ignore[attr-defined]


def test_penalties_are_checked() -> None:
    with pytest.raises(HandrailError, match=r"reward.step=0.1: expected at most 0"):
        RewardConfig(step=0.1)
    with pytest.raises(HandrailError, match=r"features.bits=0: expected at least 1"):
        FeatureConfig(bits=0)
    with pytest.raises(HandrailError, match="none of 0 sessions"):
        FeatureView(FeatureConfig()).fit([])
