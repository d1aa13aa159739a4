"""Learning from logged episodes with RLlib, in one process: reading them is all there is to wait for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.algorithms.rl.task import Task
from handrail.envs.errors import HandrailError


@dataclass(frozen=True)
class OfflineConfig:
    """Learning from logged episodes.

    Attributes:
        epochs: how often each step is seen.
        batch: steps of an update, at least.
        lr: of Adam.
        hidden: sizes of the hidden layers.
    """

    epochs: float = 12.0
    batch: int = 512
    lr: float = 1e-3
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch < 1 or self.lr <= 0:
            raise HandrailError(f"epochs={self.epochs}, batch={self.batch}, lr={self.lr}: expected positive numbers")


def train(base: Any, config: OfflineConfig, task: Task, out: Path) -> None:
    """Learn as RLlib's configuration `base` says, and keep the module in the folder `out`."""
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from handrail.algorithms.rl.module import MaskedModule
    from handrail.algorithms.rl.offline import EpisodeData

    env = task.make()
    spec = RLModuleSpec(module_class=MaskedModule, model_config={"hidden": list(config.hidden)})
    algorithm = (
        base.environment(observation_space=env.observation_space, action_space=env.action_space)
        .offline_data(input_=[str(task.episodes)], offline_data_class=EpisodeData, dataset_num_iters_per_learner=1)
        .training(lr=config.lr, train_batch_size_per_learner=config.batch)
        .learners(num_learners=0)
        .env_runners(num_env_runners=0, create_env_on_local_worker=False)
        .rl_module(rl_module_spec=spec)
        .debugging(seed=task.seed)
        .build_algo()
    )
    try:
        for _ in range(max(1, round(config.epochs * task.steps / config.batch))):
            algorithm.training_step()
        algorithm.learner_group._learner.module["default_policy"].save_to_path(out)
    finally:
        algorithm.stop()
