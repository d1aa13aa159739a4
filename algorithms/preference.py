"""Learning from corrections as preferences: what the operator did rather than what was suggested.

Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): with the policy as it was as reference,
the log-odds of correction against rejected suggestion grow. A little imitation of the correction is added (Pang et al.
2024, arXiv 2404.19733), since the difference alone may grow by making both unlikely. Departure: a pair is one step of a
session, read after the transcript up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from handrail.agents.decoding import pad
from handrail.agents.encoding import Encoded, batches
from handrail.agents.policy import Policy
from handrail.algorithms.config import PreferenceConfig
from handrail.algorithms.sft import cut, label, labelled
from handrail.algorithms.training import Batch, train
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Session


class Pair(NamedTuple):
    """A rejected suggestion and what stands in its place, after the same context.

    Attributes:
        chosen: the operator's action, the only one whose step is marked.
        rejected: the suggestion, likewise.
    """

    chosen: Encoded
    rejected: Encoded

    def __len__(self) -> int:
        """Return the tokens that both take."""
        return len(self.chosen) + len(self.rejected)


def encode_pairs(policy: Policy, sessions: Sequence[Session]) -> list[Pair]:
    """Return the pairs of sessions: steps whose suggestion was rejected and whose better action is known.

    Args:
        policy: gives tokenizer, transcript and window length.
        sessions: with feedback.
    """
    found = []
    for session in sessions:
        for step in session.steps:
            made = label(step)
            if made is None or not made.corrected or step.feedback is None:
                continue
            suggested = step.feedback.suggestion if step.actor == "operator" else step.action
            if suggested is None or same_action(suggested, made.action):
                continue
            found.append(Pair(*(cut(policy, labelled(policy, session, step, one)) for one in (made.action, suggested))))
    return found


def log_likelihood(model: Any, batch: Batch) -> torch.Tensor:
    """Return the log-probability of the actions of n sequences in nats, shape (n,).

    Args:
        model: a causal LM.
        batch: `ids` (n, length), and `inside` (n, length): 1 for tokens of the action.
    """
    ids, inside = batch["ids"], batch["inside"][:, 1:] > 0
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(hidden[inside]).float()
    tokens = -torch.nn.functional.cross_entropy(logits, ids[:, 1:][inside], reduction="none")
    whose = torch.arange(len(ids), device=ids.device)[:, None].expand_as(inside)[inside]
    return torch.zeros(len(ids), device=ids.device).index_add(0, whose, tokens)


def preference_loss(model: Any, batch: Batch, config: PreferenceConfig) -> torch.Tensor:
    """Return the mean of -log sigmoid(beta * margin), and of the corrections' cross-entropy a token, weighed.

    Args:
        model: a causal LM.
        batch: of `log_likelihood`, rows of a pair after each other, the chosen one first; `reference` (2n,): their
            log-probabilities under the reference.
        config: `beta` and `imitation`.
    """
    made = log_likelihood(model, batch)
    gain = made - batch["reference"]
    margins = gain[0::2] - gain[1::2]
    tokens = batch["inside"][0::2, 1:].sum(1)
    copied = -(made[0::2] / tokens).mean()
    return -torch.nn.functional.logsigmoid(config.beta * margins).mean() + config.imitation * copied


def share_rows(batch: Batch, rank: int, processes: int) -> tuple[Batch, float]:
    """Return every `processes`-th pair of a batch of `preference_loss`, and its share of all."""
    pairs = len(batch["ids"]) // 2
    chosen = torch.arange(min(rank, pairs - 1), pairs, processes)
    rows = torch.stack([2 * chosen, 2 * chosen + 1], 1).reshape(-1)
    mine = {key: values[rows] for key, values in batch.items()}
    return mine, len(chosen) / pairs if rank < pairs else 0.0


def prefer(
    policy: Policy, sessions: Sequence[Session], config: PreferenceConfig, folder: Path, seed: int
) -> dict[str, float]:
    """Train `policy` in place on corrections against what they replaced; resumes from `folder`.

    Args:
        policy: what is trained; as it is when this is called it is the reference.
        sessions: with feedback, for instance those of a copilot round.
        config: how.
        folder: of checkpoints.
        seed: of batches.

    Returns:
        `steps`, `loss`, `seconds`, `pairs`, and the share of them in which the correction is likelier than the
        suggestion, `preferred_before` and `preferred`.

    Raises:
        HandrailError: no session holds a correction.
    """
    pairs = encode_pairs(policy, sessions)
    if not pairs:
        raise HandrailError(
            f"none of the {len(sessions)} sessions holds a suggestion that an operator replaced: nothing to prefer"
        )
    policy.model.eval()
    before = _judge(policy, pairs, config.training.token_budget)

    def collate(chosen: Sequence[int], _: np.random.Generator) -> Batch:
        return {**_batch(policy, [pairs[n] for n in chosen]), "reference": torch.from_numpy(before[chosen].reshape(-1))}

    summary = train(
        policy.model,
        range(len(pairs)),
        [len(pair) for pair in pairs],
        collate,
        partial(preference_loss, config=config),
        config.training,
        folder,
        seed,
        name="preference",
        share=share_rows,
    )
    policy.model.eval()
    after = _judge(policy, pairs, config.training.token_budget)
    return {
        **summary,
        "pairs": float(len(pairs)),
        "preferred_before": float((before[:, 0] > before[:, 1]).mean()),
        "preferred": float((after[:, 0] > after[:, 1]).mean()),
    }


@torch.no_grad()
def _judge(policy: Policy, pairs: Sequence[Pair], token_budget: int) -> np.ndarray:
    """Return the log-probabilities of both actions of each pair, shape (n, 2), float32."""
    found = np.zeros((len(pairs), 2), dtype=np.float32)
    for chosen in batches([len(pair) for pair in pairs], token_budget):
        batch = {key: one.to(policy.device) for key, one in _batch(policy, [pairs[n] for n in chosen]).items()}
        found[chosen] = log_likelihood(policy.model, batch).cpu().numpy().reshape(-1, 2)
    return found


def _batch(policy: Policy, pairs: Sequence[Pair]) -> Batch:
    both = [one for pair in pairs for one in pair]
    ids = pad([one.ids for one in both], policy).cpu()
    inside = torch.zeros(ids.shape)
    for row, one in enumerate(both):
        inside[row, : len(one)] = torch.from_numpy(one.step >= 0)
    return {"ids": ids, "inside": inside}
