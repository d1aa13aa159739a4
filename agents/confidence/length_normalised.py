"""Log-probability per token: long actions are not less sure for being long (Malinin & Gales 2021)."""

from __future__ import annotations

from handrail.agents.decoding import Suggestion


def score(suggestion: Suggestion) -> float:
    """Return log p(action) divided by its number of tokens, in nats, <= 0."""
    return suggestion.log_probability / max(len(suggestion.tokens), 1)
