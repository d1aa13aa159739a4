"""Rows of cached keys and values: each is read as if it were alone, whatever lies beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import random_sessions, tiny_policy

from handrail.agents import key_values
from handrail.agents.key_values import KeyValues
from handrail.agents.policy import Policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = tiny_policy(random_sessions(0, 20))
    policy.model.double()
    return policy


def alone(policy: Policy, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(policy.body(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1])


def test_rows_that_come_grow_shrink_and_go(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random history of additions, passes over some rows, cuts and removals, against reading every text afresh."""
    monkeypatch.setattr(key_values, "_FIRST_ROOM", 4)
    rng = np.random.default_rng(0)
    held = KeyValues(2, pad=0)
    texts: list[list[int]] = []
    for _ in range(60):
        if len(texts) < 9 and rng.random() < 0.4:
            assert held.add() == len(texts)
            texts.append([])
        if texts and rng.random() < 0.2:
            row = int(rng.integers(len(texts)))
            assert held.remove(row) == len(texts) - 1
            last = texts.pop()
            if row < len(texts):
                texts[row] = last
        if texts and rng.random() < 0.3:
            row, length = int(rng.integers(len(texts))), int(rng.integers(30))
            held.cut(row, length)
            texts[row] = texts[row][:length]
        if texts:
            rows = rng.permutation(len(texts))[: rng.integers(1, len(texts) + 1)].tolist()
            pieces = [rng.integers(1, 400, size=rng.integers(1, 7)).tolist() for _ in rows]
            read = held.read(policy.body, rows, pieces)
            states = np.stack([read[n, len(piece) - 1].numpy() for n, piece in enumerate(pieces)])
            for row, piece in zip(rows, pieces, strict=True):
                texts[row] += piece
            expected = np.stack([alone(policy, texts[row]) for row in rows])
            np.testing.assert_allclose(states, expected, atol=1e-9)
        assert held.lengths == [len(text) for text in texts]
        assert len(held) == len(texts)


def test_memory_is_bounded_by_what_was_in_use_at_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_values, "_FIRST_ROOM", 4)
    held = KeyValues(2, pad=0)
    for _ in range(20):
        for row in range(3):
            held.add()
            held.read(policy.body, [row], [[1] * 9])
        for _ in range(3):
            held.remove(0)
    (layer, _) = held._layers
    assert layer.keys is not None
    # Three rows from doubling one, nine places from doubling four.
    assert layer.keys.shape[0] <= 4
    assert layer.keys.shape[2] <= 16
