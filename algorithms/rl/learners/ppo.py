"""PPO (Schulman et al. 2017, arXiv 1707.06347) in the simulator, from the weights of another learner.

Everything runs in one process: a desk steps faster than its steps travel. The value function is learned alone first,
for an untrained one would teach the policy noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.algorithms.rl.task import Task, load_module
from handrail.envs.errors import HandrailError

_STEPS = 20
"""About what a case takes: returns are averaged over about one round."""


@dataclass(frozen=True)
class Config:
    """Options of PPO.

    Attributes:
        start: the learner whose weights are the first ones.
        iterations: rounds of playing and learning.
        warm_up: rounds at first in which only the value function learns.
        warm_up_lr: of Adam in these rounds; the value function starts from nothing.
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

    start: str = "bc"
    iterations: int = 90
    warm_up: int = 4
    warm_up_lr: float = 1e-3
    batch: int = 12000
    minibatch: int = 2000
    epochs: int = 4
    envs: int = 32
    lr: float = 1e-4
    gamma: float = 1.0
    lam: float = 1.0
    clip: float = 0.2
    entropy: float = 0.002
    kl: float = 0.0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "minibatch", "epochs", "envs"):
            if getattr(self, name) < 1:
                raise HandrailError(f"{name}={getattr(self, name)}: expected at least 1")


def learn(config: Config, task: Task, out: Path) -> list[float]:
    """Learn in environments, and keep the module in the folder `out`.

    Returns:
        The mean return of the episodes that ended in each round; NaN where none did.
    """
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune.registry import register_env

    from handrail.algorithms.rl.module import MaskedModule

    make = task.make  # without the rest of the task, which need not pickle
    register_env("handrail_features", lambda _: make())
    start = task.modules / config.start
    spec = RLModuleSpec(module_class=MaskedModule, model_config=load_module(start).model_config)
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
            lr=_rates(config),
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
        .reporting(metrics_num_episodes_for_smoothing=config.batch // _STEPS)
        .debugging(seed=task.seed)
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
            task.told(number, returns[-1])
        module.save_to_path(out)
    finally:
        built.stop()
    return returns


def _rates(config: Config) -> float | list[list[float]]:
    """Return the learning rate, or what it is from which step on."""
    if not config.warm_up:
        return config.lr
    end = config.warm_up * config.batch
    return [[0, config.warm_up_lr], [end - 1, config.warm_up_lr], [end, config.lr]]
