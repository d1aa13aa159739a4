"""Training by RLlib: BC (Pomerleau 1989), MARWIL (Wang et al. 2018), and PPO (Schulman et al. 2017, arXiv 1707.06347).

Everything runs in one process: a desk steps faster than its steps travel. PPO begins with the weights of BC; its value
function is learned alone first, for an untrained one would teach the policy noise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from handrail.agents.feature_env import FeatureEnv
from handrail.envs.errors import HandrailError

_LOG = logging.getLogger("handrail")


@dataclass(frozen=True)
class OfflineRLConfig:
    """Learning from logged episodes.

    Attributes:
        beta: how much more an action counts that came out better than expected, in [0, 1]; 0 is BC.
        epochs: how often each step is seen.
        batch: steps of an update, at least.
        lr: of Adam.
        hidden: sizes of the hidden layers.
    """

    beta: float = 0.0
    epochs: float = 12.0
    batch: int = 512
    lr: float = 1e-3
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise HandrailError(f"beta={self.beta}: expected a number in [0, 1]")
        if self.epochs <= 0 or self.batch < 1 or self.lr <= 0:
            raise HandrailError(f"epochs={self.epochs}, batch={self.batch}, lr={self.lr}: expected positive numbers")


@dataclass(frozen=True)
class PPOTrainConfig:
    """Learning in the simulator.

    Attributes:
        iterations: rounds of playing and learning.
        warm_up: rounds at first in which only the value function learns.
        batch: steps of a round.
        minibatch: steps of an update.
        epochs: how often each step of a round is seen.
        envs: cases worked at once.
        lr: of Adam.
        gamma, lam: discount and decay of advantages over steps.
        clip: how far a probability may move in a round.
        entropy: weight of the entropy.
        kl: weight of the divergence from the policy of the round before.
    """

    iterations: int = 60
    warm_up: int = 3
    batch: int = 6000
    minibatch: int = 1000
    epochs: int = 4
    envs: int = 32
    lr: float = 1e-4
    gamma: float = 1.0
    lam: float = 0.97
    clip: float = 0.2
    entropy: float = 0.002
    kl: float = 0.0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "minibatch", "epochs", "envs"):
            if getattr(self, name) < 1:
                raise HandrailError(f"ppo.{name}={getattr(self, name)}: expected at least 1")


def train_offline(config: OfflineRLConfig, episodes: Path, steps: int, env: FeatureEnv, seed: int, out: Path) -> None:
    """Learn from the episodes in a file and keep the module in the folder `out`.

    Args:
        config: how.
        episodes: written by `episodes.write_episodes`.
        steps: in it.
        env: whose spaces they have.
        seed: of weights and order.
        out: folder of the module's checkpoint.
    """
    from ray.rllib.algorithms.bc import BCConfig
    from ray.rllib.algorithms.marwil import MARWILConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from handrail.algorithms.rl.module import MaskedModule
    from handrail.algorithms.rl.offline import EpisodeData

    base: Any = MARWILConfig() if config.beta else BCConfig()
    if config.beta:
        base = base.training(beta=config.beta)
    spec = RLModuleSpec(module_class=MaskedModule, model_config={"hidden": list(config.hidden)})
    algorithm = (
        base.environment(observation_space=env.observation_space, action_space=env.action_space)
        .offline_data(input_=[str(episodes)], offline_data_class=EpisodeData, dataset_num_iters_per_learner=1)
        .training(lr=config.lr, train_batch_size_per_learner=config.batch)
        .learners(num_learners=0)
        .env_runners(num_env_runners=0, create_env_on_local_worker=False)
        .rl_module(rl_module_spec=spec)
        .debugging(seed=seed)
        .build_algo()
    )
    try:
        for _ in range(max(1, round(config.epochs * steps / config.batch))):
            algorithm.training_step()
        algorithm.learner_group._learner.module["default_policy"].save_to_path(out)
    finally:
        algorithm.stop()


def train_ppo(
    config: PPOTrainConfig,
    make: Callable[[], gymnasium.Env[Any, Any]],
    start: Path,
    hidden: tuple[int, ...],
    seed: int,
    out: Path,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Learn in environments from a module's weights, and keep what was learned in the folder `out`.

    Args:
        config: how.
        make: makes an environment (`FeatureEnv`); Ray pickles it.
        start: folder of a module's checkpoint.
        hidden: sizes of its hidden layers.
        seed: of cases and choices.
        out: folder of the module's checkpoint.
        progress: called with the round and its mean return.

    Returns:
        The mean return of the episodes that ended in each round.
    """
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune.registry import register_env

    from handrail.algorithms.rl.module import MaskedModule

    register_env("handrail_features", lambda _: make())
    spec = RLModuleSpec(module_class=MaskedModule, model_config={"hidden": list(hidden)})
    built: Any = (
        PPOConfig()
        .environment("handrail_features", disable_env_checking=True)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=config.envs,
            batch_mode="truncate_episodes",
            rollout_fragment_length="auto",
        )
        .learners(num_learners=0)
        .training(
            lr=config.lr,
            gamma=config.gamma,
            lambda_=config.lam,
            clip_param=config.clip,
            entropy_coeff=config.entropy,
            use_kl_loss=config.kl > 0,
            kl_coeff=config.kl,
            vf_loss_coeff=0.5,
            vf_clip_param=10.0,
            grad_clip=1.0,
            train_batch_size_per_learner=config.batch,
            minibatch_size=config.minibatch,
            num_epochs=config.epochs,
        )
        .rl_module(rl_module_spec=spec)
        .debugging(seed=seed)
    ).build_algo()
    try:
        learner = built.learner_group._learner
        module = learner.module["default_policy"].unwrapped()
        module.restore_from_path(start)
        policy = list(module._policy.parameters())
        built.env_runner_group.sync_weights(from_worker_or_learner_group=built.learner_group)
        returns = []
        for number in range(config.iterations):
            for parameter in policy:
                parameter.requires_grad_(number >= config.warm_up)
            result = built.train()
            returns.append(float(result["env_runners"].get("episode_return_mean", float("nan"))))
            if progress is not None:
                progress(number, returns[-1])
        module.save_to_path(out)
    finally:
        built.stop()
    return returns


def load_module(path: Path) -> Any:
    """Return a module that was kept in a folder, for its `choose`."""
    from handrail.algorithms.rl.module import MaskedModule

    return MaskedModule.from_checkpoint(path)
