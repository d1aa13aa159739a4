"""The training loop every learner shares: batches of whole sessions, two optimisers, checkpoints, exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from handrail.agents.encoding import batches
from handrail.algorithms.attention import float32_attention
from handrail.algorithms.config import TrainingConfig
from handrail.algorithms.progress import Progress, tell
from handrail.envs.errors import HandrailError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]
Collate = Callable[[Sequence[Any], np.random.Generator], Batch]
Loss = Callable[[Any, Batch], torch.Tensor]
Share = Callable[[Batch, int, int], tuple[Batch, float]]
"""(whole batch, rank, processes) -> (what that process learns from, never empty; its part of the mean loss's
denominator, in [0, 1], which sums to 1 over the ranks)."""
Validate = Callable[[], dict[str, float]]

_WEIGHT = "weight_of_share"

_TOLD = ("loss", "grad_norm", "learning_rate")


def has_bf16() -> bool:
    """Tell whether this machine multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices inside the transformer and AdamW for everything else, as one optimiser.

    Args:
        model: its trainable parameters are optimised.
        config: rates and decay.
    """

    def __init__(self, model: torch.nn.Module, config: TrainingConfig) -> None:
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        vocabulary: list[torch.nn.Module] = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        find_head: Any = getattr(model, "get_output_embeddings", lambda: None)
        if (head := find_head()) is not None:
            vocabulary.append(head)
        outer = {id(p) for m in vocabulary for p in m.parameters()}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # peft keeps trained rows of an embedding apart from it, under this name.
                row_of_embedding = "trainable_tokens" in name
                inner = parameter.ndim == 2 and id(parameter) not in outer and min(parameter.shape) > 1
                (matrices if inner and not row_of_embedding else others).append(parameter)
        self.parts: list[torch.optim.Optimizer] = []
        if config.optimizer == "muon":
            self.parts.append(
                torch.optim.Muon(
                    matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay, momentum=0.95
                )
            )
            groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
        else:
            groups = [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
        self.parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95)))
        super().__init__([p for part in self.parts for g in part.param_groups for p in g["params"]], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        """Take one step with every part."""
        value = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


class _Schedule(Sampler[list[tuple[int, int]]]):
    """All batches of all epochs in one list, so that a resumed run skips exactly those it has done."""

    def __init__(self, lengths: Sequence[int], config: TrainingConfig, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.plan: list[list[int]] = []
        for epoch in range(math.ceil(config.epochs)):
            one = batches(lengths, config.token_budget, rng)
            self.plan.extend(one[: math.ceil(len(one) * min(1.0, config.epochs - epoch))])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(number, index) for index in batch] for number, batch in enumerate(self.plan))

    def __len__(self) -> int:
        return len(self.plan)


class _Numbered(Dataset[tuple[int, Any]]):
    """Items with the number of their batch, which seeds what collation draws.

    The data loader reads ahead, so draws from the global generator would not be repeated by a resumed run.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        number, index = key
        return number, self.items[index]

    def __len__(self) -> int:
        return len(self.items)


class _SessionTrainer(Trainer):
    def __init__(self, *, schedule: _Schedule, loss: Loss, config: TrainingConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._plan, self._loss, self._config = schedule, loss, config

    def get_train_dataloader(self) -> Any:
        loader: Any = DataLoader(self.train_dataset, batch_sampler=self._plan, collate_fn=self.data_collator)  # type: ignore[arg-type]
        # Prepared, a loader would give each of several processes batches of its own; here they share each batch.
        return loader if self.accelerator.num_processes > 1 else self.accelerator.prepare(loader)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = MuonAdamW(self.model, self._config)  # type: ignore[arg-type]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        warmup, decay = self._config.warmup * num_training_steps, self._config.decay * num_training_steps

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / max(warmup, 1.0), max((num_training_steps - step) / max(decay, 1.0), 0.02))

        chosen: Any = optimizer or self.optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, rate)
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inner: Any = self.accelerator.unwrap_model(model)
        if inner is model:
            return self._loss(model, inputs)
        # Gradients of several processes are averaged where the loss goes through the wrapper's `forward`.
        weight = inputs.pop(_WEIGHT).item()
        forward = inner.forward

        def through(*_: Any, **__: Any) -> torch.Tensor:
            inner.forward = forward
            loss: torch.Tensor = self._loss(inner, inputs) * weight
            return loss

        inner.forward = through
        return model()


class _Bar(ProgressCallback):
    """The progress bar with the last loss beside it; standard output stays free for results."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        bar: Any = self.training_bar
        if bar is not None and "loss" in (logs or {}):
            bar.set_postfix(loss=logs["loss"])


class _Teller(TrainerCallback):
    """Tells the curve of a training, and how sessions nothing is learned from are read on the way."""

    def __init__(self, name: str, steps: int, watch: int, validate: Validate | None) -> None:
        self.name, self.steps, self.validate = name, steps, validate
        self.watched = {math.ceil(steps * (number + 1) / watch) for number in range(watch)} if validate else set()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._tell(state.global_step, {key: float(logs[key]) for key in _TOLD if key in (logs or {})})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.validate is not None and state.global_step in self.watched:
            model.eval()
            values = self.validate()
            model.train()
            self._tell(state.global_step, {f"validation_{key}": value for key, value in values.items()})

    def _tell(self, step: int, values: dict[str, float]) -> None:
        if values:
            tell(Progress(self.name, step, min(step / self.steps, 1.0), values))


def place() -> tuple[int, int]:
    """Return this process's rank and how many train together."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint: a kill while one is written leaves it without its last file, the state."""
    complete = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda path: int(path.name.split("-")[-1]))) if complete else None


def train(
    model: PreTrainedModel,
    items: Sequence[Any],
    lengths: Sequence[int],
    collate: Collate,
    loss: Loss,
    config: TrainingConfig,
    folder: Path,
    seed: int,
    name: str = "train",
    validate: Validate | None = None,
    share: Share | None = None,
) -> dict[str, float]:
    """Train `model` in place; goes on from the last checkpoint in `folder` if there is one.

    In several processes (`torch.distributed` is initialised) each calls this with the same arguments and learns from
    its share of every batch; gradients are averaged, so that the course is that of one process.

    Args:
        model: what is trained.
        items: training examples.
        lengths: tokens of each, for batching.
        collate: (examples, generator for whatever it draws) -> tensors.
        loss: (model, tensors) -> scalar.
        config: how.
        folder: where checkpoints go; the same folder, items, configuration and seed resume exactly.
        seed: of the order of batches and of dropout.
        name: under which its progress is told.
        validate: judges the model on what it does not learn from, `config.watch` times; changes nothing and draws
            nothing from global generators.
        share: splits a batch among processes.

    Returns:
        `steps`, `loss` (mean over the run), `seconds`.

    Raises:
        HandrailError: there are several processes and no `share`.
    """
    rank, processes = place()
    if processes > 1 and share is None:
        raise HandrailError(f"{name}: {processes} processes train, but its batches cannot be shared; use one")
    schedule = _Schedule(lengths, config, seed)

    def numbered(chosen: Sequence[tuple[int, Any]]) -> Batch:
        batch = collate([item for _, item in chosen], np.random.default_rng([seed, chosen[0][0]]))
        if share is None or processes == 1:
            return batch
        mine, part = share(batch, rank, processes)
        return {**mine, _WEIGHT: torch.tensor(part * processes)}

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        max_grad_norm=config.clip,
        bf16=config.bf16 and has_bf16(),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 1,
        save_total_limit=1,
        logging_steps=20,
        report_to="none",
        remove_unused_columns=False,
        seed=seed,
        data_seed=seed,
        disable_tqdm=False,
        dataloader_pin_memory=False,
        log_level="error",
    )
    trainer = _SessionTrainer(
        model=model,
        args=arguments,
        train_dataset=_Numbered(items),
        data_collator=numbered,
        schedule=schedule,
        loss=loss,
        config=config,
    )
    trainer.remove_callback(ProgressCallback)
    if rank == 0:
        trainer.add_callback(_Bar)
        trainer.add_callback(_Teller(name, len(schedule), config.watch, validate))
    model.train()
    with float32_attention(model) if arguments.bf16 and arguments.use_cpu else nullcontext():
        result = trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    # What the trainer wraps a model's `forward` in for bfloat16 would stay, and cannot be copied to other processes.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    model.eval()
    mean = torch.tensor(result.training_loss, device=model.device)
    if processes > 1:
        # The trainer's own mean leaves out what other processes lost since it last told.
        torch.distributed.all_reduce(mean)
        mean /= processes
    return {
        "steps": float(result.global_step),
        "loss": float(mean),
        "seconds": float(result.metrics["train_runtime"]),
    }
