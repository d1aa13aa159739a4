from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handrail.agents.baselines._moments import moments
from handrail.agents.feature_env import MASK, OBSERVATIONS, FeatureEnv, RewardConfig
from handrail.agents.features import FeatureConfig, FeatureView
from handrail.agents.simulate import simulate
from handrail.algorithms.rl.episodes import as_rllib, read_episodes, write_episodes
from handrail.algorithms.rl.minari_data import write_minari
from handrail.algorithms.rl.offline import returns
from handrail.algorithms.rl.task import Task, load_module
from handrail.envs import registry
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session

LEARNERS = "handrail.algorithms.rl.learners"
# Small and fast; a learner from the simulator plays one round. `start` stays what it is.
SMALL = {"epochs": 15, "batch": 64, "hidden": (32,), "iterations": 1, "warm_up": 1, "minibatch": 100, "envs": 2}


def small(name: str, **options: Any) -> Any:
    """Return a learner's options, small, with others on top."""
    kind = registry.load(LEARNERS, name, "algorithm").Config
    fields = {field.name for field in dataclasses.fields(kind)}
    online = {"epochs": 1, "batch": 200} if "start" in fields else {}
    return kind(**{key: value for key, value in {**SMALL, **online}.items() if key in fields} | options)


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    return list(simulate("mock", 80, seed=0))


@pytest.fixture(scope="module")
def view(sessions: list[Session]) -> FeatureView:
    return FeatureView(FeatureConfig(bits=120, least=2)).fit(sessions[:60])


def test_returns_by_hand() -> None:
    assert returns(np.array([0, 2, 1], dtype=np.float32), 0.5).tolist() == [1.25, 2.5, 1.0]


def test_episodes_come_back_as_they_were(sessions: list[Session], view: FeatureView, tmp_path: Path) -> None:
    path = tmp_path / "episodes.parquet"
    done = write_episodes(sessions[:5], view, path)
    read = read_episodes(path, len(view.names), len(view.choices))
    assert [one.id for one in read] == [session.id for session in sessions[:5]]
    assert done.steps == sum(len(one.actions) for one in read)
    assert done.steps + done.left_out == sum(1 for s in sessions[:5] for _ in moments(s))
    for one, session in zip(read, sessions[:5], strict=True):
        seen = [
            view.see(moment)
            for moment, step in moments(session)
            if view.label(view.see(moment), step.action) is not None
        ]
        np.testing.assert_array_equal(one.bits[:-1], np.stack([s.bits for s in seen]))
        np.testing.assert_array_equal(one.masks[:-1], np.stack([s.mask for s in seen]))
        assert one.rewards[:-1].sum() == 0
        assert one.rewards[-1] == float(session.outcome["success"])
        assert one.masks[np.arange(len(one.actions)), one.actions].all()
        episode = as_rllib(one)
        assert len(episode) == len(one.actions)
        assert episode.is_terminated
        assert episode.get_return() == pytest.approx(one.rewards.sum())


def test_episodes_of_another_view_are_refused(sessions: list[Session], view: FeatureView, tmp_path: Path) -> None:
    path = tmp_path / "episodes.parquet"
    write_episodes(sessions[:2], view, path)
    with pytest.raises(HandrailError, match="bytes of bits, expected"):
        read_episodes(path, len(view.names) + 64, len(view.choices))


def test_minari_gives_back_the_episodes(
    sessions: list[Session], view: FeatureView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    path = tmp_path / "episodes.parquet"
    write_episodes(sessions[:4], view, path)
    assert write_minari(path, view, "handrail/mock/log-v0") == 4
    read = read_episodes(path, len(view.names), len(view.choices))
    for one, kept in zip(read, minari.load_dataset("handrail/mock/log-v0").iterate_episodes(), strict=True):
        np.testing.assert_array_equal(kept.observations[OBSERVATIONS], one.bits)
        np.testing.assert_array_equal(kept.observations[MASK], one.masks)
        np.testing.assert_array_equal(kept.actions, one.actions)
        np.testing.assert_array_equal(kept.rewards, one.rewards)
        assert kept.terminations.tolist() == [False] * (len(one.actions) - 1) + [True]
    for name, message in (("handrail/mock/log-v0", "already exists"), ("no name!", "Malformed dataset ID")):
        with pytest.raises(HandrailError, match=message):
            write_minari(path, view, name)


@pytest.mark.slow
def test_learners_learn_and_run_alike(sessions: list[Session], view: FeatureView, tmp_path: Path) -> None:
    import ray

    path = tmp_path / "episodes.parquet"
    steps = write_episodes(sessions[:60], view, path).steps
    seen = [(view.see(m), step) for s in sessions[60:] for m, step in moments(s)]
    bits, masks = np.stack([one.bits for one, _ in seen]), np.stack([one.mask for one, _ in seen])
    labels = [view.label(one, step.action) for one, step in seen]
    played: list[int] = []

    def make() -> FeatureEnv:
        return FeatureEnv(BPMEnv("mock", max_steps=20), view, reward=RewardConfig())

    task = Task(path, steps, make, tmp_path, 0, lambda number, _: played.append(number))

    def learn(name: str, out: str, **options: Any) -> Any:
        returns = registry.load(LEARNERS, name, "algorithm").learn(small(name, **options), task, tmp_path / out)
        assert len(returns) == len(played)
        played.clear()
        return load_module(tmp_path / out)

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        modules = {name: learn(name, name) for name in ("bc", *sorted(set(registry.names(LEARNERS)) - {"bc"}))}
        for name, module in modules.items():
            chosen = module.choose(bits, masks)
            assert masks[np.arange(len(chosen)), chosen].all(), name
            # Chance among what is possible is far below, so a learner that learned nothing fails.
            assert np.mean([a == b for a, b in zip(chosen, labels, strict=True)]) > 0.6, name
        first, again = modules["bc"].get_state(), learn("bc", "again").get_state()
        assert all(np.array_equal(first[key], again[key]) for key in first)
        waited, learned = modules["ppo"].get_state(), learn("ppo", "learned", warm_up=0).get_state()
        policy = [key for key in first if key.startswith("_policy")]
        assert policy
        # While only the value learns, the policy is that of BC to the bit; then it moves.
        assert all(np.array_equal(first[key], waited[key]) for key in policy)
        assert not all(np.array_equal(first[key], learned[key]) for key in policy)
    finally:
        ray.shutdown()
