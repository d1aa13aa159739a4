"""Supervised fine-tuning on packed sessions: one sequence a session, the loss on action tokens.

With one prompt a step the context is read again for every action, O(T²) tokens a session; packed it is read once, O(T).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handrail.agents.decoding import pad
from handrail.agents.encoding import Encoded, windows
from handrail.agents.policy import Policy
from handrail.algorithms.config import SFTConfig
from handrail.algorithms.training import Batch, train
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session


def encode_sessions(policy: Policy, sessions: Sequence[Session], serialisation: str = "packed") -> list[Encoded]:
    """Return the training windows of sessions: one a session if packed, one a step if stepwise.

    Args:
        policy: gives tokenizer, transcript and window length.
        sessions: logged sessions.
        serialisation: `packed` or `stepwise`.
    """
    found: list[Encoded] = []
    for session in sessions:
        if serialisation == "packed":
            whole = policy.encoder.encode(session.id, policy.transcript.spans(session))
            learned = [step.index for step in session.steps if step.actor == "operator"]
            labels = np.where(np.isin(whole.step, learned), whole.step, -1)
            found.extend(windows(replace(whole, step=labels), policy.max_length))
            continue
        for step in session.steps:
            if step.actor != "operator":
                continue
            spans = [*policy.transcript.prefix(session, step.index), policy.transcript.action(step)]
            one = policy.encoder.encode(session.id, spans)
            labels = np.where(one.step == step.index, one.step, -1)
            cut = max(0, len(one) - policy.max_length)
            header = min(one.header, policy.max_length // 4) if cut else one.header
            marker = one.actions[step.index][0] - 1
            start = min(header + cut, marker)
            keep = np.r_[0:header, start : min(len(one), start + policy.max_length - header)]
            found.append(Encoded(session.id, one.ids[keep], labels[keep], header))
    return found


def token_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the weighted mean cross-entropy of the next token.

    Logits are computed only where the weight is positive.

    Args:
        model: a causal LM.
        batch: `ids` (n, length) and `weights` (n, length): the weight of predicting each token.
    """
    ids, weights = batch["ids"], batch["weights"][:, 1:]
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    chosen = weights > 0
    logits = model.get_output_embeddings()(hidden[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum().clamp(min=1e-9)


def fine_tune(
    policy: Policy,
    sessions: Sequence[Session],
    config: SFTConfig,
    folder: Path,
    seed: int,
    tracking: str = "none",
) -> dict[str, float]:
    """Train `policy` in place on the operators' actions; resumes from `folder`.

    Returns:
        `steps`, `loss`, `seconds`, `tokens` (a pass over the data) and `sessions`.

    Raises:
        HandrailError: no session holds an operator's action.
    """
    items = encode_sessions(policy, sessions, policy.transcript.config.serialisation)
    if not any((item.step >= 0).any() for item in items):
        raise HandrailError(
            f"none of the {len(sessions)} training sessions holds an operator's action: nothing to learn from"
        )

    def collate(chosen: Sequence[Encoded], rng: np.random.Generator) -> Batch:
        ids = pad([item.ids for item in chosen], policy).cpu()
        weights = torch.zeros(ids.shape)
        for row, item in enumerate(chosen):
            inside = torch.from_numpy(item.step >= 0)
            drawn = torch.from_numpy(rng.random(len(item)) < config.context_share)
            context = drawn * (config.context_weight / config.context_share)
            weights[row, : len(item)] = torch.where(inside, torch.ones(()), context)
        return {"ids": ids, "weights": weights}

    lengths = [len(item) for item in items]
    summary = train(
        policy.model, items, lengths, collate, token_loss, config.training, folder, seed, tracking, name="sft"
    )
    return {**summary, "tokens": float(sum(lengths)), "sessions": float(len(sessions))}
