"""Continued pretraining: every token of a transcript is learned, each with the same weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import random_sessions, tiny_policy

from handrail.algorithms import sft
from handrail.algorithms.config import TrainingConfig
from handrail.algorithms.pretrain import pretrain

QUICK = TrainingConfig(epochs=1.0, token_budget=1000, learning_rate=1e-2, bf16=False, save_steps=0)


def test_the_loss_counts_every_token_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = random_sessions(0, 3)
    policy = tiny_policy(sessions)
    losses = []

    def capture(model: Any, items: Any, lengths: Any, collate: Any, loss: Any, config: Any, *_: Any, **__: Any) -> Any:
        assert config is QUICK
        batch = collate(items, np.random.default_rng(0))
        losses.append(loss(model, batch).item())
        return {"steps": 0.0, "loss": 0.0, "seconds": 0.0}

    monkeypatch.setattr(sft, "train", capture)
    pretrain(policy, sessions, QUICK, tmp_path, seed=0)
    model: Any = policy.model
    each = []
    for session in sessions:
        ids = torch.tensor(policy.encoder.encode(session.id, policy.transcript.spans(session)).ids)
        with torch.no_grad():
            chances = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        each.extend(-float(chances[place, token]) for place, token in enumerate(ids[1:].tolist()))
    assert losses == pytest.approx([np.mean(each)], rel=1e-5)


def test_it_learns_what_is_said_and_not_only_what_is_done(tmp_path: Path) -> None:
    sessions = random_sessions(0, 12)
    policy = tiny_policy(sessions)
    model: Any = policy.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor(policy.encoder.tokens(policy.transcript.header(sessions[0]).text))[None]

    def header_loss() -> float:
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    untrained = header_loss()
    summary = pretrain(policy, sessions, QUICK, tmp_path, seed=0)
    assert summary["sessions"] == 12
    assert header_loss() < untrained - 0.5
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items() if "bias" not in name)
