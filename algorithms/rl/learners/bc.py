"""Behavioural cloning (Pomerleau 1989): cross-entropy of the logged choices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from handrail.algorithms.rl.learners._offline import OfflineConfig, train
from handrail.algorithms.rl.task import Task


@dataclass(frozen=True)
class Config(OfflineConfig):
    """Options of cloning."""


def learn(config: Config, task: Task, out: Path) -> list[float]:
    """Clone, and keep the module in the folder `out`."""
    from ray.rllib.algorithms.bc import BCConfig

    train(BCConfig(), config, task, out)
    return []
