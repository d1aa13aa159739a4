"""The paper's critic: a classifier of its own, started from the policy's backbone and trained whole.

All suggestions of a session are read in one pass, each on a branch of its own (`handrail.agents.branches`), and one
logit is read off the state at each branch's end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handrail.agents.branches import Branched, branch, read, tensors
from handrail.agents.critic import Case
from handrail.agents.policy import Policy
from handrail.algorithms.config import FullConfig
from handrail.algorithms.training import Batch, place, train


class Classifier(torch.nn.Module):
    """A transformer body with one logit a token.

    Args:
        body: maps ids to `last_hidden_state` (n, length, width).
        width: of its states.
    """

    def __init__(self, body: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device


class FullCritic:
    """Scores suggestions with its own transformer."""

    def __init__(self, policy: Policy, model: Classifier) -> None:
        self.policy, self.model = policy, model

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,)."""
        scores = np.zeros(len(cases))

        def take(item: Branched, states: torch.Tensor) -> None:
            logits = self.model.head(states[torch.from_numpy(item.ends - 1).to(states.device)])[:, 0]
            scores[list(item.cases)] = torch.sigmoid(logits.float()).cpu().numpy()

        self.model.eval()
        read(self.model.body, self.policy, branch(self.policy, cases), take)
        return scores


def _classifier(policy: Policy) -> Classifier:
    model: Any = policy.model
    if hasattr(model, "peft_config"):
        model = copy.deepcopy(model).merge_and_unload()
    width = int(model.config.get_text_config().hidden_size)
    return Classifier(copy.deepcopy(model.base_model), width).to(policy.device)


def verdict_loss(model: Classifier, batch: Batch) -> torch.Tensor:
    """Return the mean binary cross-entropy of the verdicts.

    Args:
        model: body and head.
        batch: `ids`, `positions`, `mask` of branched transcripts; `rows`, `ends` (b,): the last token of each branch;
            `labels` (b,): 1 for accepted.
    """
    states = model.body(
        input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
    ).last_hidden_state
    logits = model.head(states[batch["rows"], batch["ends"]])[:, 0].float()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"])


def share_rows(batch: Batch, rank: int, processes: int) -> tuple[Batch, float]:
    """Return the branches of every `processes`-th row of a batch of `verdict_loss`, and their share of all."""
    chosen = torch.arange(min(rank, len(batch["ids"]) - 1), len(batch["ids"]), processes)
    inside = torch.isin(batch["rows"], chosen)
    mine = {key: batch[key][chosen] for key in ("ids", "positions", "mask")}
    mine.update({key: batch[key][inside] for key in ("ends", "labels")})
    mine["rows"] = torch.searchsorted(chosen, batch["rows"][inside])
    return mine, float(inside.float().mean()) if rank < len(batch["ids"]) else 0.0


def fit(policy: Policy, cases: Sequence[Case], config: FullConfig, folder: Path, seed: int) -> FullCritic:
    """Train a classifier from the policy's backbone; resumes from `folder`.

    Args:
        policy: its backbone is copied, not changed.
        cases: verdicts on sessions that neither calibrate nor test.
        config: how long and how fast.
        folder: of checkpoints and of the finished weights.
        seed: of batches.
    """
    torch.manual_seed(seed)
    model = _classifier(policy)
    items = branch(policy, cases)
    labels = np.array([case.accepted for case in cases], dtype=np.float32)

    def collate(chosen: Sequence[Branched], _: np.random.Generator) -> Batch:
        batch = tensors(chosen, policy)
        batch["rows"] = torch.tensor([row for row, item in enumerate(chosen) for _ in item.cases])
        batch["ends"] = torch.from_numpy(np.concatenate([item.ends - 1 for item in chosen]))
        batch["labels"] = torch.from_numpy(np.concatenate([labels[list(item.cases)] for item in chosen]))
        return batch

    training: Any = model
    train(
        training,
        items,
        [len(item) for item in items],
        collate,
        verdict_loss,
        config.training,
        folder / "training",
        seed,
        name="critic",
        share=share_rows,
    )
    if place()[0] == 0:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), folder / "classifier.pt")
    return FullCritic(policy, model)


def load(policy: Policy, folder: Path) -> FullCritic:
    """Read what `fit` left in `folder`."""
    model = _classifier(policy)
    model.load_state_dict(torch.load(folder / "classifier.pt", map_location=policy.device, weights_only=True))
    return FullCritic(policy, model)
