"""Policies of single issues: which issues get one, what each learns from, and going on after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from toys import colour_sessions, tiny_policy

from handrail.agents.policy import Policy
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.sft import fine_tune
from handrail.algorithms.specialise import specialise
from handrail.envs.schema import Session

CONFIG = SFTConfig(TrainingConfig(epochs=1.0, token_budget=400, save_steps=0, bf16=False))


def sessions_of(issue: str, seed: int, count: int) -> list[Session]:
    return [
        msgspec.structs.replace(session, id=f"{issue}{seed}{session.id}", issue=issue)
        for session in colour_sessions(seed, count)
    ]


def weights(policy: Policy) -> torch.Tensor:
    model: Any = policy.model
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


@pytest.fixture
def sessions() -> list[Session]:
    return [*sessions_of("b/c", 1, 12), *sessions_of("few", 2, 3), *sessions_of("a", 3, 10)]


def test_issues_with_many_sessions_learn_from_their_own_alone(sessions: list[Session], tmp_path: Path) -> None:
    policy = tiny_policy(sessions)
    before = weights(policy)
    made = specialise(policy, sessions, 10, CONFIG, tmp_path / "made", 5)
    assert sorted(made.own) == ["a", "b/c"]
    assert torch.equal(weights(policy), before)
    assert torch.equal(weights(made), before)
    for issue in made.own:
        alone = tiny_policy(sessions)
        fine_tune(alone, [s for s in sessions if s.issue == issue], CONFIG, tmp_path / f"alone_{issue[0]}", 5)
        assert torch.equal(weights(made.own[issue]), weights(alone))
        assert not torch.equal(weights(alone), before)


def test_a_killed_run_goes_on_with_the_next_issue(sessions: list[Session], tmp_path: Path) -> None:
    policy, trained = tiny_policy(sessions), []

    def dies(one: Policy, some: Sequence[Session], config: SFTConfig, folder: Path, seed: int) -> dict[str, float]:
        trained.append(some[0].issue)
        if trained == ["a", "b/c"]:
            raise KeyboardInterrupt
        return fine_tune(one, some, config, folder, seed)

    with pytest.raises(KeyboardInterrupt):
        specialise(policy, sessions, 10, CONFIG, tmp_path / "killed", 5, dies)
    made = specialise(policy, sessions, 10, CONFIG, tmp_path / "killed", 5, dies)
    assert trained == ["a", "b/c", "b/c"]
    whole = specialise(policy, sessions, 10, CONFIG, tmp_path / "whole", 5)
    for issue in whole.own:
        assert torch.equal(weights(made.own[issue]), weights(whole.own[issue]))


def test_without_enough_sessions_all_stay_with_the_pooled_policy(sessions: list[Session], tmp_path: Path) -> None:
    assert specialise(tiny_policy(sessions), sessions, 13, CONFIG, tmp_path, 0).own == {}
