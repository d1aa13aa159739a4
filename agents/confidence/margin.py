"""Smallest lead over the next best admissible token (Scheffer et al. 2001, margin sampling)."""

from __future__ import annotations

from handrail.agents.decoding import Suggestion


def score(suggestion: Suggestion) -> float:
    """Return the smallest probability gap on the way, in [-1, 1]; negative where the action was not the best."""
    return suggestion.margin
