"""Supervised fine-tuning: what is supervised, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from toys import DESK, random_sessions, tiny_policy

from handrail.agents.policy import Policy
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.sft import encode_sessions, fine_tune
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Message, Session, Step, UIState

Supervised = dict[tuple[str, int], list[int]]


def supervised(policy: Policy, sessions: list[Session], serialisation: str) -> Supervised:
    """The supervised tokens of each step; no step may be supervised twice."""
    found: Supervised = {}
    for item in encode_sessions(policy, sessions, serialisation):
        assert len(item) <= policy.max_length
        for step, (first, last) in item.actions.items():
            assert (item.session_id, step) not in found
            found[item.session_id, step] = item.ids[first:last].tolist()
    return found


@pytest.mark.parametrize("max_length", [512, 90])
def test_packed_and_stepwise_supervise_the_same_actions(max_length: int) -> None:
    sessions = random_sessions(0, 6, steps=7)
    actors = ["operator", "policy", "customer", "operator", "system", "operator", "operator"]
    mixed = msgspec.structs.replace(
        sessions[0],
        id="mixed",
        steps=tuple(
            msgspec.structs.replace(step, actor=actor) for step, actor in zip(sessions[0].steps, actors, strict=True)
        ),
    )
    every = [*sessions, mixed]
    policy = tiny_policy(sessions, transcript=TranscriptConfig(window=1000), max_length=max_length)
    packed, stepwise = (supervised(policy, every, name) for name in ("packed", "stepwise"))
    assert packed == stepwise
    operators = {(s.id, step.index) for s in every for step in s.steps if step.actor == "operator"}
    assert set(packed) == operators
    for session in every:
        for step in session.steps:
            if step.actor == "operator":
                text = policy.transcript.action(step).text
                assert packed[session.id, step.index] == policy.encoder.tokens(text)[1:]


def test_packed_reads_a_session_once_and_stepwise_once_a_step() -> None:
    sessions = random_sessions(0, 3, steps=5)
    policy = tiny_policy(sessions)
    packed, stepwise = (encode_sessions(policy, sessions, name) for name in ("packed", "stepwise"))
    assert len(packed) == 3
    assert len(stepwise) == 15
    whole = packed[0]
    for step, one in enumerate(stepwise[:5]):
        last = whole.actions[step][1]
        assert one.ids.tolist() == whole.ids[:last].tolist()
        assert list(one.actions) == [step]


def test_a_header_longer_than_the_window_leaves_room_for_actions() -> None:
    sessions = [
        msgspec.structs.replace(session, brief="please book the red room " * 40) for session in random_sessions(0, 2)
    ]
    policy = tiny_policy(sessions, max_length=80)
    packed, stepwise = (supervised(policy, sessions, name) for name in ("packed", "stepwise"))
    assert packed == stepwise
    assert len(packed) == 10


@pytest.mark.parametrize("serialisation", ["packed", "stepwise"])
def test_sessions_without_an_operators_action_are_refused(tmp_path: Path, serialisation: str) -> None:
    step = Step(0, UIState("desk", None, DESK), (Message("customer", "hi"),), Action("close_case"), "customer")
    session = Session("a", "toy", "i", "o", steps=(step,))
    policy = tiny_policy(random_sessions(0, 2), transcript=TranscriptConfig(serialisation))  # type: ignore[arg-type]
    with pytest.raises(HandrailError, match="none of the 1 training sessions holds an operator's action"):
        fine_tune(policy, [session], SFTConfig(), tmp_path, seed=0)


def test_the_summary_counts(tmp_path: Path) -> None:
    sessions = random_sessions(0, 3, steps=3)
    policy = tiny_policy(sessions)
    tokens = sum(len(item) for item in encode_sessions(policy, sessions))
    training = TrainingConfig(token_budget=1, save_steps=0, bf16=False)
    summary = fine_tune(policy, sessions, SFTConfig(training), tmp_path, seed=0)
    assert (summary["steps"], summary["sessions"], summary["tokens"]) == (3.0, 3.0, float(tokens))
    assert summary["loss"] == pytest.approx(np.log(len(policy.tokenizer)), rel=0.2)
    assert not policy.model.training


@pytest.mark.parametrize("wrong", [{"context_share": 0.0}, {"context_share": 1.5}, {"context_weight": -0.1}])
def test_impossible_weights_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(HandrailError, match=next(iter(wrong))):
        SFTConfig(**wrong)
