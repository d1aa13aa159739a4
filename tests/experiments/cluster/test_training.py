"""Training in two processes follows the course of one, also after one of them was killed."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from ray import cloudpickle
from toys import colour_sessions, tiny_policy

from handrail.agents.critic import Case
from handrail.algorithms import preference, sft
from handrail.algorithms.config import FullConfig, PreferenceConfig, SFTConfig, TrainingConfig
from handrail.algorithms.critics import full
from handrail.algorithms.progress import Progress, listening
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Feedback
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.training import fine_tune, fit_critic, prefer, together

# Workers of Ray cannot import tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SESSIONS = colour_sessions(0, 48)
CONFIG = SFTConfig(TrainingConfig(epochs=15, token_budget=512, save_steps=10, bf16=False))


def two(local_ray: RayConfig) -> RayConfig:
    return replace(local_ray, trainers=2, trainer_cpus=0.5)


def batch(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.random((rows, 9)).astype(np.float32))
    return {"ids": torch.from_numpy(rng.integers(50, 100, (rows, 9))), "weights": weights * (weights > 0.5)}


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_weighted_mean_of_shares_is_the_whole(rows: int, processes: int) -> None:
    policy, whole = tiny_policy(SESSIONS), batch(rows)
    shares = [sft.share_rows(whole, rank, processes) for rank in range(processes)]
    assert sum(part for _, part in shares) == pytest.approx(1)
    assert all(len(mine["ids"]) for mine, _ in shares)
    mean = sum(sft.token_loss(policy.model, mine).item() * part for mine, part in shares)
    assert mean == pytest.approx(sft.token_loss(policy.model, whole).item(), rel=1e-5)


def test_shares_of_verdicts_keep_each_branch_once() -> None:
    """Rows 0 and 1 have two branches, row 2 has one; labels name the branches."""
    ids = torch.arange(3)[:, None].expand(3, 5)
    whole = {
        "ids": ids,
        "positions": ids,
        "mask": ids,
        "rows": torch.tensor([0, 0, 1, 1, 2]),
        "ends": torch.tensor([1, 2, 3, 4, 4]),
        "labels": torch.arange(5.0),
    }
    (first, large), (second, small) = (full.share_rows(whole, rank, 2) for rank in range(2))
    assert (large, small) == (pytest.approx(3 / 5), pytest.approx(2 / 5))
    assert first["ids"][first["rows"], 0].tolist() == [0, 0, 2]
    assert first["labels"].tolist() == [0, 1, 4]
    assert first["ends"].tolist() == [1, 2, 4]
    assert second["ids"][second["rows"], 0].tolist() == [1, 1]
    assert second["labels"].tolist() == [2, 3]
    alone, nothing = full.share_rows({key: value[:1] for key, value in whole.items()}, 1, 2)
    assert nothing == 0
    assert len(alone["labels"]) == 1


def curve(policy: Any, folder: Path) -> tuple[dict[str, float], list[tuple[int, float]]]:
    """Train, and return the summary and the loss at every step that is told."""
    told: list[Progress] = []
    with listening(told.append):
        summary = sft.fine_tune(policy, SESSIONS, CONFIG, folder, seed=3)
    return summary, [(one.step, one.values["loss"]) for one in told if "loss" in one.values]


def curve_and_weights(policy: Any, folder: Path) -> Any:
    return *curve(policy, folder), {name: one.detach().numpy() for name, one in policy.model.named_parameters()}


@pytest.mark.slow
def test_two_processes_follow_the_loss_curve_of_one(local_ray: RayConfig, tmp_path: Path) -> None:
    """Both see the same 15 epochs of batches; sums in another order differ by rounding, which training amplifies."""
    alone = tiny_policy(SESSIONS)
    summary, expected = curve(alone, tmp_path / "alone")
    work = partial(curve_and_weights, tiny_policy(SESSIONS), tmp_path / "two")
    both, found, weights = together(work, two(local_ray), tmp_path / "two")
    assert both["steps"] == summary["steps"] > 20
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=2e-3)
    assert both["loss"] == pytest.approx(summary["loss"], rel=2e-3)
    before = dict(tiny_policy(SESSIONS).model.named_parameters())
    for name, one in alone.model.named_parameters():
        moved = (one - before[name]).detach().norm()
        # Muon scales small gradients up, and their rounding with them; a wrong share would move weights elsewhere.
        assert np.linalg.norm(one.detach().numpy() - weights[name]) <= 0.25 * moved + 1e-6, name


def die_once(policy: Any, folder: Path) -> Any:
    """Train; the second process kills itself after the first checkpoint."""
    from torch.distributed import get_rank

    if get_rank() == 1 and not (folder / "died").exists():
        kept = sft.token_loss

        def deadly(*given: Any) -> Any:
            if any(folder.glob("checkpoint-*/trainer_state.json")):
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(*given)

        sft.token_loss = deadly
    return curve_and_weights(policy, folder)


@pytest.mark.slow
def test_a_killed_trainer_goes_on_from_the_last_checkpoint(local_ray: RayConfig, tmp_path: Path) -> None:
    whole = together(partial(curve_and_weights, tiny_policy(SESSIONS), tmp_path / "a"), two(local_ray), tmp_path / "a")
    after = together(partial(die_once, tiny_policy(SESSIONS), tmp_path / "b"), two(local_ray), tmp_path / "b")
    assert (tmp_path / "b" / "died").exists()
    assert after[0]["steps"] == whole[0]["steps"]
    # The first loss told after the checkpoint is the mean over fewer batches than without the fault.
    assert after[1][1:] == whole[1][1 - len(after[1]) :]
    assert len(after[1]) >= 2
    for name, one in whole[2].items():
        np.testing.assert_array_equal(after[2][name], one, err_msg=name)


@pytest.mark.slow
def test_what_is_learned_comes_back_into_the_policy(local_ray: RayConfig, tmp_path: Path) -> None:
    policy, alone = tiny_policy(SESSIONS), tiny_policy(SESSIONS)
    expected = sft.fine_tune(alone, SESSIONS, CONFIG, tmp_path / "alone", seed=3)
    summary = fine_tune(policy, SESSIONS, CONFIG, tmp_path / "two", 3, (), two(local_ray))
    assert {key: summary[key] for key in ("steps", "tokens", "sessions")} == {
        key: expected[key] for key in ("steps", "tokens", "sessions")
    }
    for (name, one), other in zip(policy.model.named_parameters(), alone.model.parameters(), strict=True):
        assert (one - other).norm() <= 0.25 * other.norm(), name


@pytest.mark.slow
def test_preferences_are_learned_in_two_processes(local_ray: RayConfig, tmp_path: Path) -> None:
    wrong = Feedback(Action("send_reply", "white"), "reject")
    sessions = [
        msgspec.structs.replace(s, steps=tuple(msgspec.structs.replace(step, feedback=wrong) for step in s.steps))
        for s in SESSIONS
    ]
    training = TrainingConfig(epochs=2, token_budget=800, learning_rate=3e-4, bf16=False, save_steps=0)
    config = PreferenceConfig(replace(training, optimizer="adamw"))
    policy, alone = tiny_policy(SESSIONS), tiny_policy(SESSIONS)
    expected = preference.prefer(alone, sessions, config, tmp_path / "alone", seed=3)
    summary = prefer(policy, sessions, config, tmp_path / "two", 3, two(local_ray))
    assert summary["pairs"] == expected["pairs"] > 10
    assert summary["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    for (name, one), other in zip(policy.model.named_parameters(), alone.model.parameters(), strict=True):
        assert (one - other).norm() <= 0.05 * other.norm(), name


@pytest.mark.slow
def test_the_full_critic_is_trained_in_two_processes(local_ray: RayConfig, tmp_path: Path) -> None:
    policy = tiny_policy(SESSIONS)
    cases = [Case(s, 1, s.steps[1].action, number % 2 == 0) for number, s in enumerate(SESSIONS)]
    config = FullConfig(training=TrainingConfig(epochs=1, token_budget=512, save_steps=0, bf16=False))
    alone = full.fit(policy, cases, config, tmp_path / "alone", seed=0).score(cases)
    fit_critic(full, policy, cases, config, tmp_path / "two", 0, two(local_ray))
    np.testing.assert_allclose(full.load(policy, tmp_path / "two").score(cases), alone, atol=0.02)


@pytest.mark.slow
def test_work_that_raises_is_told_with_what_to_do(local_ray: RayConfig, tmp_path: Path) -> None:
    config = replace(two(local_ray), max_restarts=0)
    with pytest.raises(HandrailError, match=r"max_restarts=0 times.*nothing to learn from; .*ray\.trainers=1"):
        together(refuse, config, tmp_path)


def test_one_trainer_is_this_process(tmp_path: Path) -> None:
    policy, alone = tiny_policy(SESSIONS), tiny_policy(SESSIONS)
    short = SFTConfig(TrainingConfig(epochs=1, token_budget=512, save_steps=0, bf16=False))
    sft.fine_tune(alone, SESSIONS, short, tmp_path / "alone", seed=3)
    fine_tune(policy, SESSIONS, short, tmp_path / "one", 3, (), RayConfig("local"))
    for one, other in zip(policy.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, other)


def refuse() -> None:
    raise HandrailError("nothing to learn from")
