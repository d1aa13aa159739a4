"""Configuration of learners, apart from the learners: it is read before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from handrail.envs.errors import HandrailError


def _between(name: str, value: float, low: float, high: float, what: str) -> None:
    """Raise HandrailError unless `low < value < high`."""
    if not low < value < high:
        raise HandrailError(f"{name}={value}: expected {what} above {low:g} and below {high:g}")


def _shares(name: str, values: Sequence[float], what: str) -> None:
    if not values:
        raise HandrailError(f"{name}=[]: expected at least one {what}")
    for number, value in enumerate(values):
        _between(f"{name}[{number}]", value, 0, 1, f"a {what}")


def _at_least(where: str, config: Any, least: dict[str, float]) -> None:
    for name, bound in least.items():
        value = getattr(config, name)
        if value < bound:
            raise HandrailError(f"{where}.{name}={value}: expected at least {bound:g}")


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
        watch: how many times during training what is learned is judged on sessions nothing is learned from, evenly
            spread and at the end, where the learner has some (`handrail.algorithms.progress`); 0 judges nothing.
    """

    epochs: float = 1.0
    token_budget: int = 4096
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.1
    warmup: float = 0.03
    decay: float = 0.7
    clip: float = 1.0
    bf16: bool = True
    save_steps: int = 500
    watch: int = 0

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise HandrailError(f"training.epochs={self.epochs}: expected passes over the data, more than 0")
        _at_least(
            "training",
            self,
            {
                "token_budget": 1,
                "learning_rate": 0,
                "matrix_learning_rate": 0,
                "weight_decay": 0,
                "clip": 0,
                "save_steps": 0,
                "watch": 0,
            },
        )
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise HandrailError(f"training.{name}={getattr(self, name)}: expected a share of the steps in [0, 1]")


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
class PreferenceConfig:
    """How corrections are preferred to what they replaced (`handrail.algorithms.preference`).

    Attributes:
        training: how long and how fast.
        beta: how far the policy is held to what it was, more than 0; less lets it move farther.
        imitation: weight of the corrections' cross-entropy a token, 0 or more.
    """

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(learning_rate=3e-4, matrix_learning_rate=2e-3)
    )
    beta: float = 0.1
    imitation: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise HandrailError(f"preference.beta={self.beta}: expected more than 0")
        _at_least("preference", self, {"imitation": 0})


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
        preference: how corrections are then preferred to what they replaced; `null` for not at all.
    """

    rounds: int = 3
    sessions: int = 200
    part: int = 50
    rule: Literal["alone", "copilot", "dagger", "gated"] = "copilot"
    options: dict[str, Any] = field(default_factory=dict)
    replay: float = 0.5
    sft: SFTConfig = field(
        default_factory=lambda: SFTConfig(TrainingConfig(learning_rate=3e-4, matrix_learning_rate=0.002))
    )
    preference: PreferenceConfig | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "sessions", "part"):
            if getattr(self, name) < 1:
                raise HandrailError(f"dagger.{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.replay <= 1:
            raise HandrailError(f"dagger.replay={self.replay}: expected a share of the base logs in [0, 1]")


@dataclass(frozen=True)
class SpecialiseConfig:
    """Policies of single issues (`handrail.algorithms.specialise`).

    Attributes:
        least: sessions from which an issue gets a policy of its own; `None` for one policy for all.
        sft: how each goes on from the pooled policy.
    """

    least: int | None = None
    sft: SFTConfig = field(
        default_factory=lambda: SFTConfig(TrainingConfig(learning_rate=3e-4, matrix_learning_rate=0.002))
    )

    def __post_init__(self) -> None:
        if self.least is not None:
            _at_least("specialise", self, {"least": 1})


@dataclass(frozen=True)
class FullConfig:
    """How the critic `full` is trained (`handrail.algorithms.critics.full`).

    Attributes:
        training: how long and how fast.
    """

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=1.5, learning_rate=1e-3, matrix_learning_rate=5e-3, save_steps=200
        )
    )


@dataclass(frozen=True)
class ProbeConfig:
    """How the critic `probe` is fitted (`handrail.algorithms.critics.probe`).

    Attributes:
        inverse_regularisation: the grid of C of the logistic regression; chosen by cross-validation over sessions.
        folds: of that cross-validation.
        max_cases: at most this many cases are read, whole sessions drawn at random.
    """

    inverse_regularisation: tuple[float, ...] = (0.001, 0.01, 0.1)
    folds: int = 3
    max_cases: int = 12000

    def __post_init__(self) -> None:
        _check_regression("critic.probe", self.inverse_regularisation, self.folds)
        _at_least("critic.probe", self, {"max_cases": 1})


@dataclass(frozen=True)
class RobustConfig(ProbeConfig):
    """How the critic `robust` is fitted (`handrail.algorithms.critics.robust`).

    Attributes:
        resumed: belief in [0, 1] that a resumed suggestion was right.
        replaced: the same for one that was replaced.
    """

    inverse_regularisation: tuple[float, ...] = (0.003, 0.01, 0.03)
    resumed: float = 0.5
    replaced: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("resumed", "replaced"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise HandrailError(f"critic.robust.{name}={value}: expected a belief from 0 to 1")


@dataclass(frozen=True)
class BoostedConfig:
    """How the critic `boosted` is fitted (`handrail.algorithms.critics.boosted`).

    Attributes:
        iterations: trees of a member.
        learning_rate: weight of each tree.
        leaves: of a tree.
        least: verdicts in a leaf.
        penalty: on squared leaf values.
        columns: share of the features that a tree may use.
        rows: share of the verdicts that a tree learns from.
        members: classifiers that differ in what was drawn, and are averaged.
        features: the most frequent ones are kept.
        max_cases: at most this many cases are read, whole sessions drawn at random.
    """

    iterations: int = 150
    learning_rate: float = 0.05
    leaves: int = 8
    least: int = 15
    penalty: float = 5.0
    columns: float = 0.3
    rows: float = 0.7
    members: int = 4
    features: int = 1500
    max_cases: int = 20000

    def __post_init__(self) -> None:
        least = {"iterations": 1, "leaves": 2, "least": 1, "members": 1, "features": 1, "max_cases": 1}
        _at_least("critic.boosted", self, dict[str, float](least))
        for name in ("learning_rate", "columns", "rows"):
            if not 0 < getattr(self, name) <= 1:
                raise HandrailError(f"critic.boosted.{name}={getattr(self, name)}: expected more than 0 and at most 1")


@dataclass(frozen=True)
class StackedConfig:
    """How the critic `stacked` is fitted (`handrail.algorithms.critics.stacked`).

    Attributes:
        probe: how the probe is; what it may read is up to `max_cases` here.
        boosted: how the trees are; the same.
        folds: of the cross-validation that the two are weighed by.
        max_cases: at most this many cases are read, whole sessions drawn at random.
    """

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    boosted: BoostedConfig = field(default_factory=BoostedConfig)
    folds: int = 4
    max_cases: int = 20000

    def __post_init__(self) -> None:
        _at_least("critic.stacked", self, {"folds": 2, "max_cases": 1})


@dataclass(frozen=True)
class ByIssueConfig:
    """Which issues get a critic of their own (`handrail.algorithms.critics.by_issue`).

    Attributes:
        kind: of critic, with the options it has by default: one that judges by the policy's readings.
        least: verdicts from which an issue has a critic of its own.
        least_rejected: rejections that must be among them, and acceptances too.
    """

    kind: Literal["boosted", "probe", "robust", "stacked"] = "stacked"
    least: int = 1000
    least_rejected: int = 50

    def __post_init__(self) -> None:
        _at_least("critic.by_issue", self, {"least": 1, "least_rejected": 1})


@dataclass(frozen=True)
class TfidfConfig:
    """How the critic `tfidf` turns text into features and is fitted (`handrail.algorithms.critics.tfidf`).

    Attributes:
        inverse_regularisation: grid of C of the logistic regression, chosen by cross-validation over sessions.
        folds: of that cross-validation.
        recent: how many of the last transcript entries are the context.
        min_df: features in fewer cases are left out.
    """

    inverse_regularisation: tuple[float, ...] = (1.0, 3.0, 10.0)
    folds: int = 3
    recent: int = 6
    min_df: int = 3

    def __post_init__(self) -> None:
        _check_regression("critic.tfidf", self.inverse_regularisation, self.folds)
        _at_least("critic.tfidf", self, {"recent": 1, "min_df": 1})


CRITIC_CONFIGS: dict[str, type[Any]] = {
    "full": FullConfig,
    "boosted": BoostedConfig,
    "by_issue": ByIssueConfig,
    "probe": ProbeConfig,
    "robust": RobustConfig,
    "stacked": StackedConfig,
    "tfidf": TfidfConfig,
}
"""Critic, a module of `handrail.algorithms.critics`, -> its options: the modules are too heavy to import for them."""


@dataclass(frozen=True)
class CertifyConfig:
    """What a study certifies of the scores of logged steps (`handrail.algorithms.certify`).

    Attributes:
        method: the critic or confidence score whose thresholds are deployed; the others are certified beside it.
        targets: precisions.
        delta: chance that a certificate is wrong.
        starts: shares of the steps at which testing starts; `delta` is split over them.
    """

    method: str = "probe"
    targets: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    delta: float = 0.05
    starts: tuple[float, ...] = (0.02, 0.1)

    def __post_init__(self) -> None:
        _shares("certify.targets", self.targets, "precision")
        _shares("certify.starts", self.starts, "share of the steps")
        _between("certify.delta", self.delta, 0, 1, "a chance")


@dataclass(frozen=True)
class GateConfig:
    """What may run without an operator in the online test (`handrail.agents.gate`, `handrail.algorithms.session_risk`).

    Attributes:
        alpha: share of sessions that may go wrong because something ran alone.
        delta: chance that the certificate of that is wrong.
        per_issue: whether each issue is certified by itself where it has enough sessions.
        audit_share: share of confident steps that an operator sees all the same, in [0, 1).
        keeps: whether an operator who was called keeps what is critical in a session; otherwise only one who overrode
            the policy does.
        shown_precision: precision of those deferred suggestions that operators are shown.
    """

    alpha: float = 0.01
    delta: float = 0.05
    per_issue: bool = False
    audit_share: float = 0.005
    keeps: bool = True
    shown_precision: float = 0.98

    def __post_init__(self) -> None:
        _between("gate.alpha", self.alpha, 0, 1, "a share of sessions")
        _between("gate.delta", self.delta, 0, 1, "a chance")
        _between("gate.shown_precision", self.shown_precision, 0, 1, "a precision")
        if not 0 <= self.audit_share < 1:
            raise HandrailError(f"gate.audit_share={self.audit_share}: expected a share in [0, 1); 0 audits nothing")


def _check_regression(where: str, grid: Sequence[float], folds: int) -> None:
    if not grid or min(grid) <= 0:
        raise HandrailError(f"{where}.inverse_regularisation={list(grid)}: expected at least one number, each above 0")
    if folds < 2:
        raise HandrailError(f"{where}.folds={folds}: expected at least 2")
