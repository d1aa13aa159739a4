"""Probability of the least sure token: an action is as good as its weakest part."""

from __future__ import annotations

from handrail.agents.decoding import Suggestion


def score(suggestion: Suggestion) -> float:
    """Return the lowest token probability, in [0, 1]."""
    return suggestion.min_probability
