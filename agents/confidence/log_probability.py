"""Probability of the whole action: sums log-probabilities over its tokens, so long actions look less sure."""

from __future__ import annotations

from handrail.agents.decoding import Suggestion


def score(suggestion: Suggestion) -> float:
    """Return the log-probability of the action in nats, <= 0."""
    return suggestion.log_probability
