"""Supervised fine-tuning on packed sessions: one sequence a session, the loss on action tokens.

With one prompt a step the context is read again for every action, O(T²) tokens a session; packed it is read once, O(T).

What is learned of a step is what the operator did or said should be done there, never what a policy did of itself:

| who acted | feedback | learned |
|---|---|---|
| operator | none, or on a suggestion that was shown | the action |
| policy | the operator would have done the same | the action |
| policy | the operator would have done something else | that, after the same context; the action is context |
| policy | none | nothing; the action is context |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handrail.agents.decoding import pad
from handrail.agents.encoding import Encoded, batches, windows
from handrail.agents.policy import Policy
from handrail.algorithms.config import SFTConfig
from handrail.algorithms.training import Batch, train
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Session, Step


class Label(NamedTuple):
    """What is learned of a step.

    Attributes:
        action: the operator's.
        executed: whether it is what was executed.
        corrected: whether it stands in place of another action that was suggested or executed.
    """

    action: Action
    executed: bool
    corrected: bool


def label(step: Step) -> Label | None:
    """Return the operator's action at a step, `None` if nobody knows it."""
    feedback = step.feedback
    rejected = feedback is not None and feedback.verdict == "reject"
    if step.actor == "operator":
        return Label(step.action, True, rejected)
    if step.actor != "policy" or feedback is None:
        return None
    if not rejected:
        return Label(step.action, True, False)
    return None if feedback.correction is None else Label(feedback.correction, False, True)


@dataclass(frozen=True)
class Example(Encoded):
    """A training window.

    Attributes:
        weights: of predicting each action token, shape (n,), float32; 0 for context.
        reads: whether the context is learned too, as far as the configuration says.
    """

    weights: NDArray[np.float32]
    reads: bool = True


def encode_sessions(
    policy: Policy, sessions: Sequence[Session], serialisation: str = "packed", corrected_weight: float = 1.0
) -> list[Example]:
    """Return the training windows of sessions: one a session if packed, one a step if stepwise.

    Where the operator would have done something else than was executed, a packed session has a window more, whose
    context is in the first already and is not learned again.

    Args:
        policy: gives tokenizer, transcript and window length.
        sessions: logged sessions.
        serialisation: `packed` or `stepwise`.
        corrected_weight: weight of corrections, against 1 for other actions.
    """
    found: list[Example] = []
    for session in sessions:
        labels = {step.index: made for step in session.steps if (made := label(step)) is not None}
        factors = np.ones(len(session.steps) + 1, dtype=np.float32)
        factors[[index for index, made in labels.items() if made.corrected]] = corrected_weight
        for window, reads in _windows(policy, session, labels, serialisation):
            weights = np.where(window.step >= 0, factors[window.step], np.float32(0))
            found.append(Example(window.session_id, window.ids, window.step, window.header, weights, reads))
    return found


def _windows(
    policy: Policy, session: Session, labels: dict[int, Label], serialisation: str
) -> Iterator[tuple[Encoded, bool]]:
    """Yield the windows of a session, and whether their context is learned."""
    if serialisation != "packed":
        for step in session.steps:
            if step.index in labels:
                yield cut(policy, labelled(policy, session, step, labels[step.index].action)), True
        return
    whole = policy.encoder.encode(session.id, policy.transcript.spans(session))
    executed = [index for index, made in labels.items() if made.executed]
    kept = np.where(np.isin(whole.step, executed), whole.step, -1)
    for window in windows(replace(whole, step=kept), policy.max_length):
        yield window, True
    for step in session.steps:
        if step.index in labels and not labels[step.index].executed:
            for window in windows(labelled(policy, session, step, labels[step.index].action), policy.max_length):
                yield window, False


def labelled(policy: Policy, session: Session, step: Step, action: Action) -> Encoded:
    """Return what precedes a step and an action there, which alone is supervised."""
    done = policy.transcript.would(session, step.index, action)
    one = policy.encoder.encode(session.id, [*policy.transcript.prefix(session, step.index), done])
    return replace(one, step=np.where(one.step == step.index, one.step, -1))


def cut(policy: Policy, one: Encoded) -> Encoded:
    """Cut what stands between the header and as much before the action as the policy reads at once."""
    cut = max(0, len(one) - policy.max_length)
    header = min(one.header, policy.max_length // 4) if cut else one.header
    [(first, _)] = one.actions.values()
    start = min(header + cut, first - 1)
    keep = np.r_[0:header, start : min(len(one), start + policy.max_length - header)]
    return Encoded(one.session_id, one.ids[keep], one.step[keep], header)


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


def share_rows(batch: Batch, rank: int, processes: int) -> tuple[Batch, float]:
    """Return every `processes`-th row of a batch of `token_loss`, and its share of the weights."""
    rows = slice(rank, None, processes) if rank < len(batch["ids"]) else slice(0, 1)
    mine = {key: values[rows] for key, values in batch.items()}
    part = float(mine["weights"][:, 1:].sum() / batch["weights"][:, 1:].sum().clamp(min=1e-9))
    return mine, part if rank < len(batch["ids"]) else 0.0


@torch.no_grad()
def imitation(policy: Policy, items: Sequence[Example], token_budget: int) -> dict[str, float]:
    """Return how well a policy predicts actions it is given the beginnings of.

    Args:
        policy: in evaluation mode.
        items: windows of sessions, with at least one action among them.
        token_budget: padded tokens of one batch.

    Returns:
        `loss`, the mean cross-entropy of an action token in nats, and `accuracy`, the share of actions whose every
        token is the likeliest: those that greedy decoding without constraints would write.
    """
    loss = tokens = right = actions = 0.0
    model: Any = policy.model
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    head = model.get_output_embeddings()
    for batch in batches([len(item) for item in items], token_budget):
        chosen = [items[index] for index in batch]
        ids = pad([item.ids for item in chosen], policy)
        steps = torch.full(ids.shape, -1)
        for row, item in enumerate(chosen):
            steps[row, : len(item)] = torch.from_numpy(item.step)
        following = steps[:, 1:].to(ids.device)
        inside = following >= 0
        hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][inside]
        logits, wanted = head(hidden).float(), ids[:, 1:][inside]
        loss += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        tokens += len(wanted)
        whose = torch.arange(len(chosen), device=ids.device)[:, None].expand_as(inside)[inside]
        hit = (logits.argmax(-1) == wanted).long()
        _, action = torch.unique(torch.stack([whose, following[inside]], 1), dim=0, return_inverse=True)
        whole = torch.ones(int(action.max()) + 1 if len(action) else 0, dtype=torch.long, device=ids.device)
        right += float(whole.scatter_reduce(0, action, hit, "amin").sum())
        actions += len(whole)
    return {"loss": loss / tokens, "accuracy": right / actions}


def fine_tune(
    policy: Policy,
    sessions: Sequence[Session],
    config: SFTConfig,
    folder: Path,
    seed: int,
    validation: Sequence[Session] = (),
) -> dict[str, float]:
    """Train `policy` in place on what operators did or said should be done (`label`); resumes from `folder`.

    Args:
        policy: what is trained.
        sessions: with operators' actions.
        config: how.
        folder: of checkpoints.
        seed: of batches.
        validation: sessions that `sft.validation_loss` and `sft.validation_accuracy` are told of, as often as
            `config.training.watch` says; nothing is learned from them.

    Returns:
        `steps`, `loss`, `seconds`, `tokens` (a pass over the data) and `sessions`.

    Raises:
        HandrailError: no session holds an operator's action.
    """
    items = encode_sessions(policy, sessions, policy.transcript.config.serialisation, config.corrected_weight)
    if not any((item.step >= 0).any() for item in items):
        raise HandrailError(
            f"none of the {len(sessions)} training sessions holds an operator's action: nothing to learn from"
        )

    def collate(chosen: Sequence[Example], rng: np.random.Generator) -> Batch:
        ids = pad([item.ids for item in chosen], policy).cpu()
        weights = torch.zeros(ids.shape)
        for row, item in enumerate(chosen):
            inside = torch.from_numpy(item.step >= 0)
            drawn = torch.from_numpy(rng.random(len(item)) < config.context_share)
            context = drawn * (item.reads * config.context_weight / config.context_share)
            weights[row, : len(item)] = torch.where(inside, torch.from_numpy(item.weights), context)
        return {"ids": ids, "weights": weights}

    lengths = [len(item) for item in items]
    watched = encode_sessions(policy, validation, policy.transcript.config.serialisation)
    watched = [item for item in watched if (item.step >= 0).any()]

    def validate() -> dict[str, float]:
        return imitation(policy, watched, config.training.token_budget)

    summary = train(
        policy.model,
        items,
        lengths,
        collate,
        token_loss,
        config.training,
        folder,
        seed,
        name="sft",
        validate=validate if watched else None,
        share=share_rows,
    )
    return {**summary, "tokens": float(sum(lengths)), "sessions": float(len(sessions))}
