"""Logged episodes as a Minari data set (optional extra `minari`), for learners outside RLlib."""

from __future__ import annotations

import os
import warnings

import gymnasium
import numpy as np

from handrail.agents.feature_env import MASK, OBSERVATIONS
from handrail.agents.features import FeatureView
from handrail.algorithms.rl.episodes import read_episodes
from handrail.envs.errors import HandrailError


def write_minari(episodes: str | os.PathLike[str], view: FeatureView, name: str) -> int:
    """Write episodes as a new data set, in Arrow's format, where Minari keeps its data sets.

    Args:
        episodes: written by `episodes.write_episodes` with this view.
        view: what observations and actions mean.
        name: of the data set, as `handrail/bank/log-v0`.

    Returns:
        How many episodes it holds.

    Raises:
        HandrailError: Minari is not installed, or the name is not one it takes or is taken.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise HandrailError("a Minari data set needs Minari; install handrail[minari]") from error
    bits, choices = len(view.names), len(view.choices)
    buffers = []
    for number, one in enumerate(read_episodes(episodes, bits, choices)):
        ended = np.arange(1, len(one.actions) + 1) == len(one.actions)
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations={OBSERVATIONS: one.bits, MASK: one.masks},
                actions=one.actions,
                rewards=one.rewards,
                terminations=ended,
                truncations=np.zeros_like(ended),
            )
        )
    spaces = gymnasium.spaces
    with warnings.catch_warnings():
        # What it asks for besides, authors and an environment to evaluate in, an export cannot know.
        warnings.simplefilter("ignore")
        try:
            written = minari.create_dataset_from_buffers(
                name,
                buffers,
                observation_space=spaces.Dict(
                    {OBSERVATIONS: spaces.MultiBinary(bits), MASK: spaces.MultiBinary(choices)}
                ),
                action_space=spaces.Discrete(choices),
                algorithm_name="operators",
                description="Logged work of operators through a Handrail FeatureView.",
                data_format="arrow",
                requirements=[],
            )
        except ValueError as error:
            raise HandrailError(f"minari={name!r}: {error}") from error
    return int(written.total_episodes)
