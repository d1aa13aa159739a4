"""What a learner is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from handrail.agents.feature_env import FeatureEnv


class Task(NamedTuple):
    """A log and a simulator.

    Attributes:
        episodes: written by `episodes.write_episodes`.
        steps: in them.
        make: makes an environment to learn in; Ray pickles it.
        modules: the folder that holds a module for each learner, by its name.
        seed: of weights, order, cases and choices.
        told: called after each round with its number and mean return.
    """

    episodes: Path
    steps: int
    make: Callable[[], FeatureEnv]
    modules: Path
    seed: int
    told: Callable[[int, float], None]


def load_module(path: Path) -> Any:
    """Return a module that was kept in a folder, for its `choose`."""
    from handrail.algorithms.rl.module import MaskedModule

    return MaskedModule.from_checkpoint(path)
