"""MARWIL (Wang et al. 2018): cloning in which choices count more that came out better than expected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from handrail.algorithms.rl.learners._offline import OfflineConfig, train
from handrail.algorithms.rl.task import Task
from handrail.envs.errors import HandrailError


@dataclass(frozen=True)
class Config(OfflineConfig):
    """Options of MARWIL.

    Attributes:
        beta: how much more a choice counts that came out better than expected, in (0, 1].
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta <= 1:
            raise HandrailError(f"beta={self.beta}: expected a number in (0, 1]; without it this is bc")


def learn(config: Config, task: Task, out: Path) -> list[float]:
    """Learn from the log, and keep the module in the folder `out`."""
    from ray.rllib.algorithms.marwil import MARWILConfig

    train(MARWILConfig().training(beta=config.beta), config, task, out)
    return []
