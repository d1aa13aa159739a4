"""Configuration of learners, apart from the learners: it is read before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from handrail.envs.errors import HandrailError


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast a model is trained.

    Attributes:
        epochs: passes over the training sessions; may be fractional.
        token_budget: padded tokens of one batch.
        optimizer: `muon` (orthogonalised momentum for the matrices inside the transformer, AdamW for the rest; Jordan
            et al. 2024) or `adamw`.
        learning_rate: of AdamW.
        matrix_learning_rate: of Muon.
        weight_decay: on matrices.
        warmup: share of the steps over which the rate rises from 0.
        decay: share of the steps at the end over which it falls linearly towards 0, to no less than 2 %.
        clip: largest gradient norm.
        bf16: train in bfloat16 autocast where the processor has it.
        save_steps: a checkpoint is written every so many batches; 0 writes none.
    """

    epochs: float = 1.0
    token_budget: int = 4096
    optimizer: str = "muon"
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.1
    warmup: float = 0.03
    decay: float = 0.7
    clip: float = 1.0
    bf16: bool = True
    save_steps: int = 500


@dataclass(frozen=True)
class SFTConfig:
    """What is learned from a transcript.

    Attributes:
        training: how long and how fast.
        context_weight: weight of a context token (messages, results) against an action token's 1. Reading what
            customers write teaches a model built from scratch to copy.
        context_share: share of context tokens drawn into the loss each time, their weight scaled to match: an unbiased
            estimate that saves most of the output layer's cost.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    context_weight: float = 0.1
    context_share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.context_share <= 1 or self.context_weight < 0:
            raise HandrailError(
                f"sft.context_share={self.context_share}, sft.context_weight={self.context_weight}: expected a share "
                "in (0, 1] and a weight of at least 0; context_weight=0 learns from actions alone"
            )
