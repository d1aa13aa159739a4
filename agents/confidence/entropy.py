"""How undecided the policy was at its most undecided token."""

from __future__ import annotations

from handrail.agents.decoding import Suggestion


def score(suggestion: Suggestion) -> float:
    """Return minus the largest entropy of an admissible distribution on the way, in nats, <= 0."""
    return -suggestion.entropy
