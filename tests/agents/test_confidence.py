"""Confidence proxies: every one orders suggestions as its definition says."""

from __future__ import annotations

import pytest

from handrail.agents import confidence
from handrail.agents.decoding import Suggestion
from handrail.envs import registry
from handrail.envs.schema import Action

EXPECTED = {
    "entropy": [-0.2, -1.5, -0.9],
    "length_normalised": [-0.05, -1.0, -1.5],
    "log_probability": [-0.1, -2.0, -3.0],
    "margin": [0.8, 0.05, -0.4],
    "min_probability": [0.9, 0.3, 0.2],
    "second_reader": [-0.3, -4.0, -0.7],
}
"""Scores of `SUGGESTIONS`: the first is the surest by every method, the others change places."""

SUGGESTIONS = [
    Suggestion("s", 0, Action("send_reply", "a"), (1, 2), -0.1, 0.9, 0.8, 0.2, -0.3),
    Suggestion("s", 1, Action("send_reply", "b"), (1, 2), -2.0, 0.3, 0.05, 1.5, -4.0),
    Suggestion("s", 2, Action("send_reply", "c"), (1, 2), -3.0, 0.2, -0.4, 0.9, -0.7),
]


@pytest.mark.parametrize("name", registry.names(confidence.__name__))
def test_scores_by_hand(name: str) -> None:
    assert name in EXPECTED, "write down what the new method gives"
    method = registry.load(confidence.__name__, name, "confidence method")
    scores = [method.score(suggestion) for suggestion in SUGGESTIONS]
    assert scores == EXPECTED[name]
    assert scores[0] == max(scores)
    assert method.__doc__
    assert method.score.__doc__
