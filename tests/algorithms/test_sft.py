"""Supervised fine-tuning: what is supervised, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from ray import cloudpickle
from toys import DESK, colour_sessions, random_sessions, tiny_policy

from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms import sft
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.algorithms.sft import Label, encode_sessions, fine_tune, label
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Actor, Feedback, Message, Session, Step, UIState

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


GO, STAY = Action("open_procedure", "returns"), Action("send_reply", "bye")


@pytest.mark.parametrize(
    ("actor", "feedback", "expected"),
    [
        ("operator", None, Label(GO, True, False)),
        ("operator", Feedback(GO, "accept"), Label(GO, True, False)),
        ("operator", Feedback(STAY, "reject", GO), Label(GO, True, True)),
        ("operator", Feedback(None, "reject"), Label(GO, True, True)),
        ("policy", Feedback(GO, "accept"), Label(GO, True, False)),
        ("policy", Feedback(GO, "reject", STAY), Label(STAY, False, True)),
        ("policy", Feedback(GO, "reject"), None),
        ("policy", None, None),
        ("customer", None, None),
        ("system", Feedback(GO, "accept"), None),
    ],
)
def test_the_label_is_what_the_operator_did_or_said(
    actor: Actor, feedback: Feedback | None, expected: Label | None
) -> None:
    assert label(Step(0, UIState("desk", None, DESK), (), GO, actor, feedback=feedback)) == expected


def fed_back() -> tuple[Session, dict[int, Action], dict[int, float]]:
    """A session with every kind of step, what is learned of each, and how much that weighs."""
    session = random_sessions(3, 1, steps=7)[0]
    done = [step.action for step in session.steps]
    kinds: list[tuple[Actor, Feedback | None]] = [
        ("operator", None),
        ("operator", Feedback(done[1], "accept")),
        ("operator", Feedback(STAY, "reject", done[2])),
        ("policy", Feedback(done[3], "accept")),
        ("policy", Feedback(done[4], "reject", STAY)),
        ("policy", None),
        ("operator", None),
    ]
    steps = tuple(
        msgspec.structs.replace(step, actor=actor, feedback=feedback)
        for step, (actor, feedback) in zip(session.steps, kinds, strict=True)
    )
    learned = {0: done[0], 1: done[1], 2: done[2], 3: done[3], 4: STAY, 6: done[6]}
    return msgspec.structs.replace(session, steps=steps), learned, {0: 1, 1: 1, 2: 2.5, 3: 1, 4: 2.5, 6: 1}


@pytest.mark.parametrize("serialisation", ["packed", "stepwise"])
@pytest.mark.parametrize("max_length", [512, 90])
def test_labels_are_supervised_once_each_with_their_weight(serialisation: str, max_length: int) -> None:
    session, learned, factors = fed_back()
    policy = tiny_policy([session], transcript=TranscriptConfig(window=1000), max_length=max_length)
    found: dict[int, list[int]] = {}
    for item in encode_sessions(policy, [session], serialisation, corrected_weight=2.5):
        assert len(item) <= max_length
        for step, (first, last) in item.actions.items():
            assert step not in found
            found[step] = item.ids[first:last].tolist()
            assert set(item.weights[first:last].tolist()) == {factors[step]}
        assert not item.weights[item.step < 0].any()
    texts = {
        n: policy.transcript.action(msgspec.structs.replace(session.steps[n], action=action)).text
        for n, action in learned.items()
    }
    assert found == {n: policy.encoder.tokens(text)[1:] for n, text in texts.items()}


def test_a_label_that_was_not_executed_follows_what_was_seen_then() -> None:
    session, _, _ = fed_back()
    policy = tiny_policy([session])
    whole, extra = encode_sessions(policy, [session])
    text = [
        *policy.transcript.prefix(session, 4),
        policy.transcript.action(msgspec.structs.replace(session.steps[4], action=STAY)),
    ]
    assert extra.ids.tolist() == [token for span in text for token in policy.encoder.tokens(span.text)]
    assert list(extra.actions) == [4]
    assert (whole.reads, extra.reads) == (True, False)
    # What was executed instead is context there and later.
    executed = policy.encoder.tokens(policy.transcript.action(session.steps[4]).text)
    rows = whole.ids.tolist()
    assert any(rows[n : n + len(executed)] == executed for n in range(len(rows)))


def test_the_weights_of_the_loss_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions weigh 1, corrections more, context as configured; a context that is there twice counts once."""
    session, _, factors = fed_back()
    policy = tiny_policy([session])
    caught: dict[str, Any] = {}

    def train(model: Any, items: Any, lengths: Any, collate: Any, *_: Any, **__: Any) -> dict[str, float]:
        caught.update(items=items, batch=collate(items, np.random.default_rng(0)))
        return {}

    monkeypatch.setattr(sft, "train", train)
    fine_tune(policy, [session], SFTConfig(context_weight=0.5, context_share=1.0, corrected_weight=2.5), tmp_path, 0)
    weights = caught["batch"]["weights"].numpy()
    for row, (item, context) in enumerate(zip(caught["items"], (0.5, 0.0), strict=True)):
        expected = [factors.get(step, context) for step in item.step.tolist()]
        np.testing.assert_array_equal(weights[row, : len(item)], np.array(expected, dtype=np.float32))
        assert not weights[row, len(item) :].any()


def test_corrections_are_learned_though_something_else_was_executed(tmp_path: Path) -> None:
    """The policy says any colour, the operator that the customer's was meant.

    On 120 unseen steps chance gives 40 +- 5 right; 80 or more right by chance has a probability below 1e-12.
    """
    said, done = colour_sessions(0, 40), colour_sessions(0, 40, shuffled=True)
    sessions = []
    for right, wrong in zip(said, done, strict=True):
        steps = []
        for meant, other in zip(right.steps, wrong.steps, strict=True):
            # The same seed draws other customers when replies are drawn too.
            action, correction = other.action, meant.action
            verdict = Feedback(action, "accept") if action == correction else Feedback(action, "reject", correction)
            steps.append(msgspec.structs.replace(meant, action=action, actor="policy", feedback=verdict))
        sessions.append(msgspec.structs.replace(right, steps=tuple(steps)))
    assert 0.2 < np.mean([step.feedback.verdict == "accept" for s in sessions for step in s.steps]) < 0.5
    policy = tiny_policy(sessions)
    training = TrainingConfig(epochs=8.0, token_budget=400, bf16=False, save_steps=0)
    fine_tune(policy, sessions, SFTConfig(training, context_weight=0.0), tmp_path, seed=0)
    unseen = colour_sessions(99, 30)
    logged = {(s.id, step.index): step.action for s in unseen for step in s.steps}
    right_ones = sum(s.action == logged[s.session_id, s.step] for s in Decoder(policy).suggest(unseen))
    assert right_ones >= 100


def test_a_policy_that_was_trained_in_bfloat16_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    sessions = colour_sessions(0, 4)
    policy = tiny_policy(sessions)
    fine_tune(policy, sessions, SFTConfig(TrainingConfig(token_budget=400, save_steps=0)), tmp_path, seed=0)
    copied = cloudpickle.loads(cloudpickle.dumps(policy))
    for one, other in zip(copied.model.parameters(), policy.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_impossible_weight_of_corrections_is_refused() -> None:
    with pytest.raises(HandrailError, match=r"sft\.corrected_weight=0\.0"):
        SFTConfig(corrected_weight=0.0)
