from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handrail.agents.baselines._moments import moments
from handrail.agents.feature_env import FeatureEnv, RewardConfig
from handrail.agents.features import FeatureConfig, FeatureView
from handrail.agents.simulate import simulate
from handrail.algorithms.rl.episodes import as_rllib, read_episodes, write_episodes
from handrail.algorithms.rl.offline import returns
from handrail.algorithms.rl.train import OfflineRLConfig, PPOTrainConfig, load_module, train_offline, train_ppo
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session


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


@pytest.mark.slow
def test_learners_learn_and_run_alike(sessions: list[Session], view: FeatureView, tmp_path: Path) -> None:
    import ray
    import torch

    path = tmp_path / "episodes.parquet"
    steps = write_episodes(sessions[:60], view, path).steps
    env = FeatureEnv(BPMEnv("mock"), view)
    seen = [(view.see(m), step) for s in sessions[60:] for m, step in moments(s)]
    bits, masks = np.stack([one.bits for one, _ in seen]), np.stack([one.mask for one, _ in seen])
    labels = [view.label(one, step.action) for one, step in seen]
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        for name, beta in (("bc", 0.0), ("again", 0.0), ("marwil", 1.0)):
            config = OfflineRLConfig(beta=beta, epochs=15, batch=64, hidden=(32,))
            train_offline(config, path, steps, env, 0, tmp_path / name)
            chosen = load_module(tmp_path / name).choose(bits, masks)
            assert masks[np.arange(len(chosen)), chosen].all()
            # Chance among what is possible is far below, so a learner that learned nothing fails.
            assert np.mean([a == b for a, b in zip(chosen, labels, strict=True)]) > 0.6
        first, again = (load_module(tmp_path / name).get_state() for name in ("bc", "again"))
        assert all(np.array_equal(first[key], again[key]) for key in first)

        def make() -> FeatureEnv:
            return FeatureEnv(BPMEnv("mock", max_steps=20), view, reward=RewardConfig())

        for name, warm_up in (("waited", 1), ("learned", 0)):
            ppo = PPOTrainConfig(iterations=1, warm_up=warm_up, batch=200, minibatch=100, epochs=1, envs=2)
            train_ppo(ppo, make, tmp_path / "bc", (32,), 0, tmp_path / name)
        waited, learned = (load_module(tmp_path / name).get_state() for name in ("waited", "learned"))
        policy = [key for key in first if key.startswith("_policy")]
        assert policy
        # While only the value learns, the policy is that of BC to the bit; then it moves.
        assert all(np.array_equal(first[key], waited[key]) for key in policy)
        assert not all(np.array_equal(first[key], learned[key]) for key in policy)
        assert isinstance(load_module(tmp_path / "learned"), torch.nn.Module)
    finally:
        ray.shutdown()
