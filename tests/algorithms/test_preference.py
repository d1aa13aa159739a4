"""Preferences: which steps make pairs, the loss by hand, and that corrections come to be preferred."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from toys import colour_sessions, tiny_policy

from handrail.agents.policy import Policy
from handrail.algorithms import preference
from handrail.algorithms.config import PreferenceConfig, TrainingConfig
from handrail.algorithms.preference import encode_pairs, log_likelihood, prefer, preference_loss, share_rows
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Feedback, Session

COLOURS = ("red", "green", "blue")


def corrected(sessions: list[Session], seed: int) -> list[Session]:
    """Return sessions in which operators replaced another colour by the right one at every other step."""
    rng = np.random.default_rng(seed)
    found = []
    for session in sessions:
        steps = []
        for step in session.steps:
            others = [colour for colour in COLOURS if colour != step.action.target]
            wrong = Action("send_reply", str(rng.choice(others)))
            feedback = Feedback(wrong, "reject", step.action) if step.index % 2 else Feedback(step.action, "accept")
            steps.append(replace(step, feedback=feedback))
        found.append(replace(session, steps=tuple(steps)))
    return found


LEARNED, UNSEEN = corrected(colour_sessions(0, 40), 0), corrected(colour_sessions(1, 30), 1)
CONFIG = PreferenceConfig(
    TrainingConfig(
        epochs=40, token_budget=1200, learning_rate=3e-3, matrix_learning_rate=0.02, bf16=False, save_steps=0
    )
)


@pytest.fixture
def policy() -> Policy:
    return tiny_policy(LEARNED)


def test_pairs_are_rejected_suggestions_and_what_replaced_them(policy: Policy) -> None:
    session = LEARNED[0]
    pairs = encode_pairs(policy, [session])
    steps = [step for step in session.steps if step.index % 2]
    assert len(pairs) == len(steps) > 0
    for pair, step in zip(pairs, steps, strict=True):
        (own, first), (other, second) = (
            (one.ids[one.step >= 0], one.ids[: np.flatnonzero(one.step >= 0)[0]]) for one in pair
        )
        np.testing.assert_array_equal(first, second)  # the same context
        assert step.feedback is not None
        assert step.feedback.suggestion is not None
        assert step.action.target in policy.tokenizer.decode(own)
        assert str(step.feedback.suggestion.target) in policy.tokenizer.decode(other)
    ran = replace(session.steps[1], actor="policy", action=Action("send_reply", "none"))
    only = replace(session, steps=(session.steps[0], replace(ran, feedback=Feedback(ran.action, "reject"))))
    assert encode_pairs(policy, [only]) == []  # nobody knows what would have been better


def test_likelihood_and_loss_by_hand(policy: Policy) -> None:
    pairs = encode_pairs(policy, LEARNED[:3])[:3]
    batch = preference._batch(policy, pairs)
    with torch.no_grad():
        made = log_likelihood(policy.model, batch)
        for row, one in enumerate(item for pair in pairs for item in pair):
            logits = policy.model(torch.from_numpy(one.ids)[None]).logits[0].double().log_softmax(-1)
            expected = sum(float(logits[n - 1, one.ids[n]]) for n in np.flatnonzero(one.step >= 0))
            assert float(made[row]) == pytest.approx(expected, rel=1e-4)
        # Margins of 3, -1 and 0 nats, and mean cross-entropies of the corrections' tokens.
        reference = made - torch.tensor([2.0, -1.0, 0.0, 1.0, 5.0, 5.0])
        config = PreferenceConfig(beta=0.5, imitation=0.25)
        found = float(preference_loss(policy.model, {**batch, "reference": reference}, config))
    odds = [math.log1p(math.exp(-0.5 * margin)) for margin in (3, -1, 0)]
    copied = [-float(made[2 * n]) / (pair.chosen.step >= 0).sum() for n, pair in enumerate(pairs)]
    assert found == pytest.approx(np.mean(odds) + 0.25 * np.mean(copied), rel=1e-4)


def test_shares_keep_pairs_together() -> None:
    whole = {"ids": torch.arange(10)[:, None], "reference": torch.arange(10.0)}
    (first, large), (second, small) = (share_rows(whole, rank, 2) for rank in range(2))
    assert first["ids"][:, 0].tolist() == [0, 1, 4, 5, 8, 9]
    assert second["reference"].tolist() == [2, 3, 6, 7]
    assert (large, small) == (pytest.approx(3 / 5), pytest.approx(2 / 5))
    assert share_rows({key: value[:2] for key, value in whole.items()}, 1, 2)[1] == 0


def test_corrections_come_to_be_preferred_and_alike(policy: Policy, tmp_path: Path) -> None:
    """Unseen pairs: 60 of them; by chance 0.5 of them are preferred, at least 0.9 with a chance of 1e-10."""
    before = {name: one.detach().clone() for name, one in policy.model.named_parameters()}
    summary = prefer(policy, LEARNED, CONFIG, tmp_path / "one", seed=0)
    assert summary["pairs"] == 80
    assert summary["preferred"] > 0.95 > summary["preferred_before"]
    judged = preference._judge(policy, encode_pairs(policy, UNSEEN), 1200)
    assert len(judged) == 60
    assert (judged[:, 0] > judged[:, 1]).mean() >= 0.9
    again = tiny_policy(LEARNED)
    for name, one in again.model.named_parameters():
        assert torch.equal(one, before[name])
    assert prefer(again, LEARNED, CONFIG, tmp_path / "two", seed=0)["loss"] == summary["loss"]
    for one, other in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sessions_without_a_correction_teach_no_preference(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match=r"none of the 1 sessions holds a suggestion that an operator replaced"):
        prefer(policy, colour_sessions(0, 1), CONFIG, tmp_path, seed=0)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(HandrailError, match=r"preference\.beta=0"):
        PreferenceConfig(beta=0)
    with pytest.raises(HandrailError, match=r"preference\.imitation=-1"):
        PreferenceConfig(imitation=-1)
