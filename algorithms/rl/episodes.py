"""Logged sessions as RLlib offline episodes: one row a session, in Parquet that Ray Data reads.

| column | type | meaning |
|---|---|---|
| `eps_id` | str | the session |
| `bits` | binary | packed bits of each step (`numpy.packbits` along the last axis), steps + 1 rows |
| `masks` | binary | packed masks, steps + 1 rows |
| `actions` | list of int | the choice that does what was logged |
| `rewards` | list of float | 1 at the end of a session that was closed and is not known to have failed, else 0 |

The last row of bits repeats the last situation: what follows the end is never looked at. Steps that no choice does are
left out and counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._moments import moments
from handrail.agents.feature_env import MASK, OBSERVATIONS
from handrail.agents.features import Bits, FeatureView
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path
from handrail.envs.schema import Session

if TYPE_CHECKING:
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode


class LoggedEpisode(NamedTuple):
    """A session as a learner sees it.

    Attributes:
        id: of the session.
        bits: shape (steps + 1, bits).
        masks: shape (steps + 1, choices).
        actions: shape (steps,).
        rewards: shape (steps,).
    """

    id: str
    bits: Bits
    masks: Bits
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]


class Exported(NamedTuple):
    """How much was written.

    Attributes:
        episodes: with at least one step.
        steps: in them.
        left_out: operator steps that no choice does.
    """

    episodes: int
    steps: int
    left_out: int


def write_episodes(sessions: Iterable[Session], view: FeatureView, path: str | os.PathLike[str]) -> Exported:
    """Write sessions as episodes; the module says what is in the file."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    steps = left_out = 0
    for session in sessions:
        bits, masks, actions = [], [], []
        for moment, step in moments(session):
            seen = view.see(moment)
            choice = view.label(seen, step.action)
            if choice is None:
                left_out += 1
                continue
            bits.append(seen.bits)
            masks.append(seen.mask)
            actions.append(choice)
        if not actions:
            continue
        rewards = [0.0] * len(actions)
        closed = session.tags.get("completion", "closed") == "closed"
        rewards[-1] = float(closed and session.outcome.get("success", True))
        rows.append(
            {
                "eps_id": session.id,
                "bits": _packed(bits),
                "masks": _packed(masks),
                "actions": actions,
                "rewards": rewards,
            }
        )
        steps += len(actions)
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary, compression="zstd")
    return Exported(len(rows), steps, left_out)


def read_episodes(path: str | os.PathLike[str], bits: int, choices: int) -> list[LoggedEpisode]:
    """Read what `write_episodes` wrote for a view of so many bits and choices.

    Raises:
        HandrailError: the file was written for another view.
    """
    import pyarrow.parquet

    found = []
    for row in pyarrow.parquet.read_table(path).to_pylist():
        seen = [_unpacked(row, name, width, path) for name, width in (("bits", bits), ("masks", choices))]
        actions, rewards = np.array(row["actions"], dtype=np.int64), np.array(row["rewards"], dtype=np.float32)
        found.append(LoggedEpisode(row["eps_id"], seen[0], seen[1], actions, rewards))
    return found


def as_rllib(episode: LoggedEpisode) -> SingleAgentEpisode:
    """Return an episode in RLlib's form, terminated."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    observations = [{OBSERVATIONS: bits, MASK: mask} for bits, mask in zip(episode.bits, episode.masks, strict=True)]
    return SingleAgentEpisode(
        id_=episode.id,
        observations=observations,
        actions=list(episode.actions),
        rewards=[float(reward) for reward in episode.rewards],
        terminated=True,
        len_lookback_buffer=0,
    )


def _packed(rows: list[Bits]) -> bytes:
    return np.packbits(np.stack([*rows, rows[-1]]), axis=-1).tobytes()


def _unpacked(row: dict[str, Any], name: str, width: int, path: str | os.PathLike[str]) -> Bits:
    packed, rows = np.frombuffer(row[name], dtype=np.uint8), len(row["actions"]) + 1
    expected = rows * -(-width // 8)
    if len(packed) != expected:
        raise HandrailError(
            f"{path}: episode {row['eps_id']!r} holds {len(packed)} bytes of {name}, expected {expected} for {width} "
            "a step; export the sessions with this view again"
        )
    return np.unpackbits(packed.reshape(rows, -1), axis=-1, count=width).astype(np.int8)
