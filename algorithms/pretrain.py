"""Continued pretraining on transcripts before fine-tuning: the paper's domain-adaptive stage.

Every token of the training transcripts is predicted, messages and results as well as actions, so that a model from
elsewhere first learns how this desk talks and what its records look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handrail.agents.policy import Policy
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.sft import fine_tune
from handrail.envs.schema import Session


def pretrain(
    policy: Policy,
    sessions: Sequence[Session],
    training: TrainingConfig,
    folder: Path,
    seed: int,
) -> dict[str, float]:
    """Train `policy` in place to predict every token; resumes from `folder`.

    Args:
        policy: what is trained.
        sessions: of the training split.
        training: how long and how fast.
        folder: of checkpoints.
        seed: of batches.

    Returns:
        As `handrail.algorithms.sft.fine_tune`.
    """
    everything = replace(SFTConfig(), training=training, context_weight=1.0, context_share=1.0)
    return fine_tune(policy, sessions, everything, folder, seed)
