"""Who hears how training goes, and when a training tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import colour_sessions, random_sessions, tiny_policy

from handrail.algorithms.config import TrainingConfig
from handrail.algorithms.progress import Progress, listening, tell
from handrail.algorithms.sft import Example, encode_sessions, imitation
from handrail.algorithms.training import train


def test_listeners_hear_what_is_told_inside_their_block() -> None:
    outer: list[int] = []
    inner: list[int] = []
    tell(Progress("a", 1, 0.25, {}))
    with listening(lambda progress: outer.append(progress.step)):
        tell(Progress("a", 2, 0.5, {}))
        with listening(lambda progress: inner.append(progress.step)):
            tell(Progress("a", 3, 0.75, {}))
        tell(Progress("a", 4, 1.0, {}))
    tell(Progress("a", 5, 1.0, {}))
    assert (outer, inner) == ([2, 3, 4], [3])


def test_what_a_listener_raises_ends_the_training() -> None:
    def stop(progress: Progress) -> None:
        raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"), listening(stop):
        tell(Progress("a", 1, 1.0, {}))


def fit(folder: Path, batches: int, watch: int, validate: Any) -> tuple[torch.nn.Linear, list[Progress]]:
    """Learn a line from `batches` batches of one item each."""
    torch.manual_seed(0)
    model: Any = torch.nn.Linear(1, 1)
    model.device = torch.device("cpu")
    config = TrainingConfig(
        epochs=1, token_budget=1, optimizer="adamw", learning_rate=0.01, bf16=False, save_steps=0, watch=watch
    )

    def collate(chosen: Any, _: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(chosen)[:, None]}

    def loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (model(batch["x"]) - 1).square().mean()

    judge = None if validate is None else lambda: validate(model)
    heard: list[Progress] = []
    with listening(heard.append):
        train(model, [1.0] * batches, [1] * batches, collate, loss, config, folder, 0, "line", judge)
    return model, heard


@pytest.mark.parametrize(("batches", "watch", "steps"), [(10, 3, [4, 7, 10]), (4, 1, [4]), (2, 5, [1, 2]), (3, 0, [])])
def test_validation_is_told_evenly_and_at_the_end(tmp_path: Path, batches: int, watch: int, steps: list[int]) -> None:
    _, heard = fit(tmp_path, batches, watch, lambda model: {"error": 0.5})
    judged = [progress for progress in heard if "validation_error" in progress.values]
    assert [progress.step for progress in judged] == steps
    assert [progress.share for progress in judged] == [step / batches for step in steps]
    assert {progress.name for progress in heard} <= {"line"}


def test_validation_judges_the_model_at_rest_and_changes_nothing(tmp_path: Path) -> None:
    modes: list[bool] = []

    def watching(model: torch.nn.Linear) -> dict[str, float]:
        modes.append(model.training)
        return {"error": 0.0}

    watched, _ = fit(tmp_path / "watched", 6, 3, watching)
    alone, _ = fit(tmp_path / "alone", 6, 0, None)
    assert modes == [False] * 3
    assert watched.training == alone.training
    torch.testing.assert_close(watched.weight, alone.weight, rtol=0, atol=0)


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_imitation_is_the_mean_loss_of_action_tokens_and_the_share_of_whole_actions(budget: int) -> None:
    sessions = [*colour_sessions(0, 3), *random_sessions(1, 2)]
    policy = tiny_policy(sessions)
    items = [item for item in encode_sessions(policy, sessions, "packed") if (item.step >= 0).any()]
    losses, right = [], []
    for item in items:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.from_numpy(item.ids)[None].long()).logits[0].float()
        chances = torch.log_softmax(logits, -1)
        for step in sorted({int(n) for n in item.step[1:] if n >= 0}):
            places = [place for place in range(1, len(item)) if item.step[place] == step]
            losses += [-float(chances[place - 1, int(item.ids[place])]) for place in places]
            right.append(all(int(logits[place - 1].argmax()) == int(item.ids[place]) for place in places))
    found = imitation(policy, items, budget)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["accuracy"] == np.mean(right)


def test_a_policy_that_knows_the_answers_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = colour_sessions(0, 2)
    policy = tiny_policy(sessions)
    items: list[Example] = encode_sessions(policy, sessions, "packed")

    class Knowing(torch.nn.Module):
        """States that are the next token, one of them wrong."""

        wrong = -1

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            states = torch.nn.functional.one_hot(input_ids.roll(-1, 1), words).float()
            if self.wrong >= 0:
                states[0, self.wrong] = 0.0
                states[0, self.wrong, 0] = 1.0
            return type("Output", (), {"last_hidden_state": states * 50})()

    knowing = Knowing()
    told = {"base_model": knowing, "get_output_embeddings": lambda self: torch.nn.Identity(), "device": policy.device}
    words = policy.model.config.vocab_size
    monkeypatch.setattr(policy, "model", type("Model", (), told)())
    assert imitation(policy, items, 1)["accuracy"] == 1.0
    longest = max(items, key=len)
    knowing.wrong = int(np.flatnonzero(longest.step >= 0)[0]) - 1
    one = imitation(policy, [longest], 1)["accuracy"]
    own = len({int(n) for n in longest.step if n >= 0})
    assert one == (own - 1) / own
