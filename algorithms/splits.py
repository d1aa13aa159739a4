"""Splits by session, never by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session


def split_sessions(sessions: Sequence[Session], shares: Mapping[str, float], seed: int) -> dict[str, list[Session]]:
    """Draw disjoint splits.

    The draw depends on the set of session ids, the shares and the seed alone, not on the order of `sessions`.

    Args:
        sessions: with unique ids.
        shares: split name -> share of the sessions; they sum to at most 1, and what is left over is in no split.
        seed: of the draw.

    Raises:
        HandrailError: shares are negative, sum to more than 1, or leave a split without sessions.
    """
    if min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
        raise HandrailError(f"shares of the splits are {dict(shares)}: expected positive numbers that sum to at most 1")
    ordered = sorted(sessions, key=lambda s: s.id)
    drawn = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    bounds = np.floor(np.cumsum([0.0, *shares.values()]) * len(drawn) + 1e-9).astype(int)
    splits = {name: drawn[a:b] for name, a, b in zip(shares, bounds[:-1], bounds[1:], strict=True)}
    empty = [name for name, members in splits.items() if not members]
    if empty:
        raise HandrailError(
            f"{len(drawn)} sessions leave nothing for the splits {', '.join(empty)} with shares {dict(shares)}; "
            "give more sessions or larger shares"
        )
    return splits
