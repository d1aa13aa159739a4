"""Running sessions get the candidates that finished ones do, and nothing of an executed candidate is read twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from desks import assert_same, follow
from toys import sharpen, tiny_policy

from handrail.agents.baselines import backoff
from handrail.agents.decoding import Decoder
from handrail.agents.desk import Desk
from handrail.agents.key_values import KeyValues
from handrail.agents.rerank import Reranker
from handrail.agents.reranked_desk import RerankedDesk
from handrail.agents.simulate import simulate
from handrail.agents.transcript import TranscriptConfig
from handrail.envs.schema import Session

CONFIG = TranscriptConfig(brief=False, references=True)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, list[Session]]:
    sessions = [session for session in simulate("bank", 14, seed=2) if len(session.steps) < 40]
    policy = sharpen(tiny_policy(sessions[:3], 1, CONFIG, vocab_size=1500, max_length=4096, digits=2))
    baseline = backoff.Baseline()
    baseline.fit(sessions[3:], 0)
    return policy, baseline, sessions[:3]


@pytest.mark.parametrize("weights", [(0.3, 0.6, 1.0, 0.5), (1.0, 1.0, 0.2, 0.0)])
def test_suggestions_equal_those_on_the_finished_sessions(
    parts: tuple[Any, Any, list[Session]], weights: tuple[float, ...]
) -> None:
    policy, baseline, sessions = parts
    decoder = Decoder(policy, copied=True)
    reranker = Reranker(decoder, baseline, weights)
    own = decoder.suggest(sessions)
    expected = reranker.rerank(sessions, own)
    changed = sum(one.action != other.action for one, other in zip(own, expected, strict=True))
    assert changed >= 3, "the second reader changes too little for this to mean anything"
    given = follow(RerankedDesk(reranker, copied=True), sessions, range(len(sessions)))
    assert_same(given, expected)


def test_a_baseline_of_no_weight_changes_nothing(parts: tuple[Any, Any, list[Session]]) -> None:
    """Of the candidates the policy finds its own most likely, unless greedy decoding missed a better one."""
    policy, baseline, sessions = parts
    plain = follow(Desk(policy), sessions, range(len(sessions)))
    reranked = follow(
        RerankedDesk(Reranker(Decoder(policy), baseline, (1.0, 1.0, 0.0, 0.0))), sessions, range(len(sessions))
    )
    for one, other in zip(plain, reranked, strict=True):
        if one.action != other.action:
            assert other.log_probability > one.log_probability
        else:
            np.testing.assert_allclose(one.log_probability, other.log_probability, atol=1e-4)


def test_each_step_is_read_once_by_a_policy_that_was_foreseen(
    parts: tuple[Any, Any, list[Session]], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, _, sessions = parts
    expected = follow(Desk(policy, copied=True), sessions, range(len(sessions)))
    tokens = {(one.session_id, one.step): list(one.tokens) for one in expected}
    read, whole = [], KeyValues.read

    def counted(self: KeyValues, body: Any, rows: Any, pieces: Any) -> Any:
        read.extend(rows)
        return whole(self, body, rows, pieces)

    # Tokens as they are: what a policy without training writes is not how its action would be spelled.
    monkeypatch.setattr(Desk, "_tokens", lambda self, text, draft: draft)
    monkeypatch.setattr(KeyValues, "read", counted)
    foreseen: Any = tokens.get
    assert_same(
        follow(Desk(policy, copied=True), sessions, range(len(sessions)), draft=lambda *step: foreseen(step)), expected
    )
    assert len(read) == len(expected) < sum(map(len, tokens.values()))


def test_a_finished_session_is_forgotten(parts: tuple[Any, Any, list[Session]]) -> None:
    policy, baseline, _ = parts
    desk = RerankedDesk(Reranker(Decoder(policy), baseline, (1.0, 1.0, 1.0, 1.0)))
    desk.begin("x")
    desk.finish("x")
    desk.begin("x")
    assert len(desk) == 1
