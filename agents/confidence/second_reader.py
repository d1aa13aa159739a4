"""The second reader's log-probability of the action: another model's opinion, which has not seen the policy's."""

from __future__ import annotations

from handrail.agents.decoding import Suggestion


def score(suggestion: Suggestion) -> float:
    """Return log q(action) <= 0; 0 for every action where the policy has no second reader."""
    return suggestion.second
