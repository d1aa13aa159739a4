"""The training loop: schedule, rates, the loss by hand, exact resume, and that learning happens."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import colour_sessions, random_sessions, tiny_policy

from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms import training as loop
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.sft import encode_sessions, fine_tune, token_loss
from handrail.algorithms.training import MuonAdamW, train

QUIET = TrainingConfig(epochs=1.0, token_budget=400, learning_rate=1e-2, bf16=False, save_steps=0)


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    model: Any = policy.model
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("epochs", [1.0, 3.0])
def test_each_item_comes_once_an_epoch(epochs: float) -> None:
    lengths = list(np.random.default_rng(0).integers(5, 60, size=40))
    config = dataclasses.replace(QUIET, epochs=epochs, token_budget=120)
    plan = loop._Schedule(lengths, config, seed=1).plan
    assert Counter(i for batch in plan for i in batch) == dict.fromkeys(range(40), int(epochs))
    assert loop._Schedule(lengths, config, seed=1).plan == plan
    assert loop._Schedule(lengths, config, seed=2).plan != plan


@pytest.mark.parametrize(("epochs", "batches"), [(0.25, 3), (0.5, 5), (1.0, 10), (1.5, 15), (2.05, 21)])
def test_part_of_an_epoch_is_part_of_its_batches(epochs: float, batches: int) -> None:
    config = dataclasses.replace(QUIET, epochs=epochs, token_budget=40)
    plan = loop._Schedule([10] * 40, config, seed=0).plan
    assert len(plan) == batches
    for epoch in range(math.ceil(epochs)):
        seen = [i for batch in plan[10 * epoch : 10 * epoch + 10] for i in batch]
        assert len(set(seen)) == len(seen)


class Line(torch.nn.Module):
    """One weight matrix; the loss is how far its output is from the items."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    @property
    def device(self) -> torch.device:
        return self.layer.weight.device


def fit_line(
    folder: Path, config: TrainingConfig, items: Sequence[float], watch: Any = None
) -> tuple[Line, dict[str, float]]:
    model = Line()

    def collate(chosen: Sequence[float], _: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(chosen)[:, None].repeat(1, 3)}

    def loss(model: Line, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (model.layer(batch["x"]) - batch["x"][:, :2]).square().mean()

    untyped: Any = model
    return model, train(untyped, items, [1] * len(items), collate, loss, config, folder, seed=0)


def test_the_rate_rises_and_falls_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = MuonAdamW.step

    def watched(self: MuonAdamW, closure: Any = None) -> Any:
        rates.append(self.parts[-1].param_groups[-1]["lr"])
        return step(self, closure)

    monkeypatch.setattr(MuonAdamW, "step", watched)
    config = TrainingConfig(
        epochs=1.0, token_budget=1, learning_rate=1.0, optimizer="adamw", warmup=0.4, decay=0.5, bf16=False
    )
    fit_line(tmp_path, dataclasses.replace(config, save_steps=0), [1.0] * 10)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_rate_stays_above_a_fiftieth() -> None:
    trainer: Any = loop._SessionTrainer.__new__(loop._SessionTrainer)
    trainer._config = dataclasses.replace(QUIET, warmup=0.0, decay=1.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = trainer.create_scheduler(100, optimizer)
    assert [scheduler.lr_lambdas[0](step) for step in (0, 50, 99, 100)] == pytest.approx([1.0, 0.5, 0.02, 0.02])


def test_muon_gets_the_inner_matrices_and_adamw_the_rest() -> None:
    policy = tiny_policy(random_sessions(0, 3))
    model: Any = policy.model
    inner = {name for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    name_of = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = MuonAdamW(model, QUIET).parts
    assert {name_of[id(p)] for group in muon.param_groups for p in group["params"]} == inner
    (rest,) = adamw.param_groups
    assert {name_of[id(p)] for p in rest["params"]} == set(name_of.values()) - inner
    assert (rest["weight_decay"], rest["lr"], muon.param_groups[0]["lr"]) == (0.0, 1e-2, 0.02)
    (only,) = MuonAdamW(model, dataclasses.replace(QUIET, optimizer="adamw", weight_decay=0.3)).parts
    assert [group["weight_decay"] for group in only.param_groups] == [0.3, 0.0]
    assert sum(len(group["params"]) for group in only.param_groups) == len(name_of)


class Bigram(torch.nn.Module):
    """A language model whose logits for the next token are a table row of the last token."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.head = torch.nn.Identity()

    @property
    def base_model(self) -> Any:
        def body(input_ids: torch.Tensor, use_cache: bool) -> Any:
            class Output:
                last_hidden_state = self.table[input_ids]

            return Output

        return body

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


def test_the_loss_is_the_weighted_mean_cross_entropy_of_the_next_token() -> None:
    model = Bigram(torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])))
    batch = {
        "ids": torch.tensor([[0, 1, 1, 2], [2, 0, 0, 0]]),
        "weights": torch.tensor([[9.0, 1.0, 0.0, 1.0], [9.0, 0.5, 0.0, 0.0]]),
    }
    expected = -(math.log(0.25) + math.log(0.1) + 0.5 * math.log(0.3)) / 2.5
    assert float(token_loss(model, batch)) == pytest.approx(expected, abs=1e-6)


def test_a_batch_without_weight_has_no_gradient() -> None:
    table = torch.zeros(3, 3, requires_grad=True)
    loss = token_loss(Bigram(table), {"ids": torch.tensor([[0, 1]]), "weights": torch.zeros(1, 2)})
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert table.grad is None or not table.grad.any()


def test_padding_and_batching_do_not_change_the_loss() -> None:
    policy = tiny_policy(random_sessions(0, 6))
    model: Any = policy.model
    items = encode_sessions(policy, random_sessions(1, 3, steps=3) + random_sessions(2, 1, steps=6))

    def batch(chosen: list[int], length: int) -> dict[str, torch.Tensor]:
        ids, marked = torch.zeros(len(chosen), length, dtype=torch.long), torch.zeros(len(chosen), length)
        for row, index in enumerate(chosen):
            ids[row, : len(items[index])] = torch.from_numpy(items[index].ids)
            marked[row, : len(items[index])] = torch.from_numpy((items[index].step >= 0).astype(np.float32))
        return {"ids": ids, "weights": marked}

    longest = max(map(len, items))
    counts = [float((item.step >= 0).sum()) for item in items]
    with torch.no_grad():
        together = float(token_loss(model, batch([0, 1, 2, 3], longest)))
        apart = [float(token_loss(model, batch([n], len(items[n])))) for n in range(4)]
        padded = [float(token_loss(model, batch([n], longest + 9))) for n in range(4)]
    assert padded == pytest.approx(apart, abs=1e-5)
    assert together == pytest.approx(float(np.average(apart, weights=counts)), abs=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = random_sessions(0, 12, steps=3)
    options = dataclasses.replace(QUIET, epochs=2.0, token_budget=200, optimizer=optimizer, save_steps=3)
    config = SFTConfig(options, context_weight=0.2, context_share=0.5)
    straight = tiny_policy(sessions)
    started = weights(straight)
    summary = fine_tune(straight, sessions, config, tmp_path / "straight", seed=3)
    assert summary["steps"] >= 8

    class Killed(Exception):
        pass

    taken = 0
    step = MuonAdamW.step

    def killing(self: MuonAdamW, closure: Any = None) -> Any:
        nonlocal taken
        taken += 1
        if taken == 6:
            raise Killed
        return step(self, closure)

    killed = tiny_policy(sessions)
    with monkeypatch.context() as patch:
        patch.setattr(MuonAdamW, "step", killing)
        with pytest.raises(Killed):
            fine_tune(killed, sessions, config, tmp_path / "killed", seed=3)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == ["checkpoint-3"]
    resumed = tiny_policy(sessions)
    torch.rand(17)
    again = fine_tune(resumed, sessions, config, tmp_path / "killed", seed=3)
    assert again["steps"] == summary["steps"]
    expected, found = weights(straight), weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(expected[name], started[name]) for name in expected)


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    config = dataclasses.replace(QUIET, token_budget=1, save_steps=4, optimizer="adamw")
    whole, _ = fit_line(tmp_path, config, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-6"]
    shutil.rmtree(tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9" / "model.safetensors").write_bytes(b"cut o")
    again, summary = fit_line(tmp_path, config, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert summary["steps"] == 6
    assert torch.equal(whole.layer.weight, again.layer.weight)


def test_learning_happens_and_not_by_chance(tmp_path: Path) -> None:
    """The reply is the colour the customer names; with shuffled replies there is nothing to learn.

    On 120 unseen steps chance gives 40 +- 5 right; 80 or more right by chance has a probability below 1e-12.
    """
    unseen = colour_sessions(99, 30)
    right = {}
    for shuffled in (False, True):
        sessions = colour_sessions(0, 60, shuffled=shuffled)
        policy = tiny_policy(sessions)
        training = dataclasses.replace(QUIET, epochs=20.0, token_budget=400, learning_rate=3e-3)
        config = SFTConfig(training, context_weight=0.0)
        fine_tune(policy, sessions, config, tmp_path / str(shuffled), seed=0)
        logged = {(s.id, step.index): step.action for s in unseen for step in s.steps}
        suggested = Decoder(policy).suggest(unseen)
        right[shuffled] = sum(s.action == logged[s.session_id, s.step] for s in suggested)
    assert right[False] >= 100
    assert right[True] < 80
