"""Configuration of learners, apart from the learners: it is read before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
        corrected_weight: weight of an action that an operator did or named in place of a suggestion, against 1 for
            every other.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    context_weight: float = 0.1
    context_share: float = 0.25
    corrected_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.corrected_weight > 0:
            raise HandrailError(
                f"sft.corrected_weight={self.corrected_weight}: expected a factor above 0; 1 weighs corrections as "
                "other actions"
            )
        if not 0 < self.context_share <= 1 or self.context_weight < 0:
            raise HandrailError(
                f"sft.context_share={self.context_share}, sft.context_weight={self.context_weight}: expected a share "
                "in (0, 1] and a weight of at least 0; context_weight=0 learns from actions alone"
            )


@dataclass(frozen=True)
class DaggerConfig:
    """Rounds of deploy, collect, aggregate, retrain (`handrail.algorithms.dagger`).

    Attributes:
        rounds: how many.
        sessions: collected in each.
        part: sessions that are kept together while a round collects; a kill costs at most those of one part.
        rule: who acts and what is labelled, a name of `handrail.algorithms.dagger.RULES`.
        options: of the rule.
        replay: share of the base logs that each retraining reads again, drawn anew, in [0, 1].
        sft: how each retraining goes on from the last weights: shorter and slower than training from nothing.
    """

    rounds: int = 3
    sessions: int = 200
    part: int = 50
    rule: str = "copilot"
    options: dict[str, Any] = field(default_factory=dict)
    replay: float = 0.5
    sft: SFTConfig = field(
        default_factory=lambda: SFTConfig(TrainingConfig(learning_rate=3e-4, matrix_learning_rate=0.002))
    )

    def __post_init__(self) -> None:
        for name in ("rounds", "sessions", "part"):
            if getattr(self, name) < 1:
                raise HandrailError(f"dagger.{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.replay <= 1:
            raise HandrailError(f"dagger.replay={self.replay}: expected a share of the base logs in [0, 1]")
