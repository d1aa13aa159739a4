"""A desk of running sessions suggests what the decoder suggests on the finished ones, and reads nothing twice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from desks import assert_same, follow, observe
from toys import DESK, random_session, random_sessions, sharpen, tiny_policy

from handrail.agents.assess import Reading, assess
from handrail.agents.critic import Case
from handrail.agents.decoding import INVALID, UNFINISHED, Decoder
from handrail.agents.desk import Desk
from handrail.agents.encoding import windows
from handrail.agents.key_values import KeyValues
from handrail.agents.policy import Policy
from handrail.agents.simulate import simulate
from handrail.agents.transcript import TranscriptConfig
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Control, Message, Session, Step, UIState
from handrail.envs.spaces import Observation


def mixed_sessions(seed: int, lengths: Iterable[int]) -> list[Session]:
    """Sessions of several lengths, operators and screens, the last step of some by the customer."""
    rng = np.random.default_rng(seed)
    found = []
    for number, length in enumerate(lengths):
        session = random_session(rng, f"s{number}", length, DESK if number % 3 else DESK[:4])
        steps = list(session.steps)
        if number % 3:
            steps[1:] = [
                msgspec.structs.replace(s, state=UIState("other", "booking", DESK, {"note": f"{s.index // 2}"}))
                for s in steps[1:]
            ]
        if number % 2 and length > 2:
            steps[1] = msgspec.structs.replace(steps[1], actor="customer", action=Action("wait"))
            steps[2] = msgspec.structs.replace(steps[2], actor="policy")
        found.append(msgspec.structs.replace(session, operator=f"person{number}", steps=tuple(steps)))
    return found


def policy_for(seed: int, **shape: Any) -> Policy:
    return sharpen(tiny_policy(random_sessions(100, 30), seed, **shape))


def llama(policy: Policy) -> Policy:
    """Another family, with fewer heads for keys and values than for queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    filler: Any = policy.tokenizer.pad_token_id
    shape: Any = LlamaConfig(
        vocab_size=len(policy.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=filler,
        bos_token_id=None,
        eos_token_id=None,
    )
    return sharpen(Policy(LlamaForCausalLM(shape).eval(), policy.tokenizer, policy.transcript, policy.max_length))


LENGTHS, STARTS = (3, 4, 1, 5, 2), (0, 2, 1, 0, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_suggestions_equal_those_on_the_finished_sessions(seed: int) -> None:
    policy, sessions = policy_for(seed), mixed_sessions(seed, LENGTHS)
    expected = Decoder(policy).suggest(sessions)
    assert len({s.action.tool for s in expected}) >= 3, "the policy decides too little: choose other seeds"
    desk = Desk(policy)
    assert_same(follow(desk, sessions, STARTS), expected)
    assert len(desk) == 0
    assert_same(follow(desk, sessions, STARTS[::-1], group=2), expected)


@pytest.mark.parametrize("kind", ["eager", "llama", "unconstrained", "labels"])
def test_other_models_and_settings(kind: str) -> None:
    transcript = TranscriptConfig(controls="labels", replies=True) if kind == "labels" else None
    policy, sessions = policy_for(0, transcript=transcript), mixed_sessions(5, (3, 4, 2))
    if kind == "llama":
        policy = llama(policy)
    if kind == "eager":
        model: Any = policy.model
        model.set_attn_implementation("eager")
    constrained = kind != "unconstrained"
    expected = Decoder(policy, constrained).suggest(sessions)
    assert_same(follow(Desk(policy, constrained=constrained), sessions, (0, 1, 0)), expected)


INPUTS = (Control("order.name", "text"), Control("order.number", "number"), *DESK[:3])


def typed_sessions(seed: int, lengths: Iterable[int]) -> list[Session]:
    """Sessions at a screen with inputs, into which every other step enters the first word of its message."""
    found = []
    for session in mixed_sessions(seed, lengths):
        steps, said = [], "please"
        for step in session.steps:
            said = next((event.text.split()[0] for event in step.events if isinstance(event, Message)), said)
            state = msgspec.structs.replace(step.state, controls=INPUTS)
            action = Action("set_field", "order.name", {"value": said}) if step.index % 2 else step.action
            steps.append(msgspec.structs.replace(step, state=state, action=action))
        found.append(msgspec.structs.replace(session, steps=tuple(steps)))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copied_inputs_equal_those_on_the_finished_sessions(seed: int) -> None:
    """What may be entered depends on what was seen, which the desk keeps and the decoder reads anew."""
    policy, sessions = policy_for(seed), typed_sessions(seed, LENGTHS)
    expected = Decoder(policy, copied=True).suggest(sessions)
    free = Decoder(policy).suggest(sessions)
    assert sum(s.tokens != f.tokens for s, f in zip(expected, free, strict=True)) >= 3, "too little is copied"
    assert_same(follow(Desk(policy, copied=True), sessions, STARTS), expected)
    assert_same(follow(Desk(policy, copied=True), sessions, STARTS[::-1], group=2), expected)


def test_names_equal_those_on_the_finished_sessions() -> None:
    """Names are given out as a session goes on; the desk reads and writes the same, and hands out what they mean."""
    sessions = [session for session in simulate("bank", 6, seed=2) if len(session.steps) < 40][:4]
    config = TranscriptConfig(brief=False, references=True)
    policy = sharpen(tiny_policy(sessions, 1, config, vocab_size=1500, max_length=2048, digits=2))
    expected = Decoder(policy, copied=True).suggest(sessions)
    assert_same(follow(Desk(policy, copied=True), sessions, range(len(sessions))), expected)
    entered = [one.action.args.get("value") for one in expected if one.action.tool == "set_field"]
    assert entered
    assert not any(re.fullmatch(r"\w+ ref\d+", str(value)) for value in entered)


@pytest.mark.parametrize("references", [False, True])
def test_readings_equal_those_on_the_finished_sessions(references: bool) -> None:
    """Of the suggestion, of what was logged and of what no screen offers, before any of them is executed."""
    sessions = [session for session in simulate("bank", 6, seed=2) if len(session.steps) < 40][:3]
    config = TranscriptConfig(brief=False, references=references)
    policy = sharpen(tiny_policy(sessions, 1, config, vocab_size=1500, max_length=4096, digits=2))
    desk = Desk(policy, copied=True)
    given: list[Reading] = []
    cases: list[Case] = []
    for index in range(8):
        seen = {session.id: observe(session, index) for session in sessions if index < len(session.steps)}
        for session in sessions if index == 0 else ():
            desk.begin(session.id, operator=session.operator)
        made = desk.suggest(seen)
        for judged in (
            {key: one.action for key, one in made.items()},
            {session.id: session.steps[index].action for session in sessions if session.id in seen},
            {key: Action("set_field", "nowhere", {"value": "7 12"}) for key in seen},
        ):
            known = {session.id: session for session in sessions}
            cases += [Case(known[key], index, action, True) for key, action in judged.items()]
            readings = desk.assess(judged)
            assert list(readings) == list(judged)
            given += readings.values()
    expected = assess(Decoder(policy), cases)
    assert_same([one.suggestion for one in given], [one.suggestion for one in expected])
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_allclose(one.before, other.before, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(one.after, other.after, rtol=1e-3, atol=1e-3)


def test_what_was_assessed_and_then_executed_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, [session] = policy_for(3), mixed_sessions(3, [4])
    desk, read = Desk(policy), []
    whole = KeyValues.read

    def counted(self: KeyValues, body: Any, rows: Any, pieces: Any) -> Any:
        read.extend(len(piece) for piece in pieces)
        return whole(self, body, rows, pieces)

    monkeypatch.setattr(KeyValues, "read", counted)
    desk.begin(session.id, operator=session.operator)
    desk.suggest({session.id: observe(session, 0)})
    read.clear()
    action = session.steps[0].action
    desk.assess({session.id: action})
    spans = policy.transcript.spans(session)
    tokens = [len(policy.encoder.tokens(span.text)) for span in spans if span.action and span.step == 0]
    assert read == tokens
    read.clear()
    desk.suggest({session.id: observe(session, 1)})
    between = [policy.encoder.tokens(span.text) for span in spans if span.step == 1 and not span.action]
    # The first pass reads what is new and the marker of the action to come.
    assert read[0] == sum(map(len, between)) + 1


@pytest.mark.parametrize("length", [4096, 200])
def test_drafts_right_and_wrong_change_nothing(length: int) -> None:
    policy, sessions = policy_for(2, max_length=length), mixed_sessions(2, LENGTHS)
    expected = follow(Desk(policy), sessions, range(len(sessions)))
    plain = {(one.session_id, one.step): one.action for one in expected}
    logged = {(session.id, step.index): step.action for session in sessions for step in session.steps}
    wrong = Action("set_field", "nowhere", {"value": "7 12"})
    drafts: list[Callable[..., Action | None]] = [
        lambda *step: plain.get(step),
        lambda *step: logged[step],
        lambda session, n: wrong if n % 3 else plain.get((session, n)),
    ]
    for draft in drafts:
        assert_same(follow(Desk(policy), sessions, range(len(sessions)), draft=draft), expected)


def test_a_draft_is_assessed_without_reading_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, [session] = policy_for(3), mixed_sessions(3, [4])
    action = Action("set_field", "nowhere", {"value": "7 12"})
    seen = {session.id: observe(session, 0)}
    plain, drafted = Desk(policy), Desk(policy)
    plain.suggest(seen)
    [expected] = plain.assess({session.id: action}).values()
    drafted.suggest(seen, {session.id: action})
    monkeypatch.setattr(KeyValues, "read", None)
    [given] = drafted.assess({session.id: action}).values()
    assert_same([given.suggestion], [expected.suggestion])
    np.testing.assert_allclose(given.before, expected.before, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(given.after, expected.after, rtol=1e-3, atol=1e-3)


def test_passes_cut_by_padding_and_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sessions = policy_for(1), mixed_sessions(7, LENGTHS)
    expected = Decoder(policy).suggest(sessions)
    for name, value in (("_PASS_COST", {"cpu": 0}), ("_PASS_COST", {"cpu": 10**9}), ("_PASS_CELLS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(f"handrail.agents.desk.{name}", value)
            assert_same(follow(Desk(policy), sessions, STARTS), expected)


def greedy(policy: Policy, prefix: list[int], controls: tuple[Control, ...]) -> tuple[int, ...]:
    """Decode after a prefix with one full forward pass a token."""
    decoder, model = Decoder(policy), policy.model
    cursor = decoder.cursor(controls)
    assert cursor is not None
    tokens: list[int] = []
    while not cursor.done and len(tokens) < 159:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([prefix + tokens])).logits[0, -1].numpy()  # type: ignore[operator]
        admitted = decoder.admissible(cursor)
        tokens.append(int(admitted[scores[admitted].argmax()]))
        cursor.push(tokens[-1])
    return tuple(tokens)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sessions_longer_than_the_window(seed: int) -> None:
    """Equal to the decoder, but for the steps that the log ends outside a window in which they begin."""
    policy = policy_for(seed, max_length=96)
    sessions = [random_session(np.random.default_rng([seed, n]), f"s{n}", steps) for n, steps in enumerate((9, 14, 3))]
    expected = {(s.session_id, s.step): s for s in Decoder(policy).suggest(sessions)}
    given = follow(Desk(policy), sessions, (0, 1, 2))
    across = 0
    for session in sessions:
        whole = policy.encoder.encode(session.id, policy.transcript.spans(session))
        start = header = min(whole.header, 96 // 4) if len(whole) > 96 else whole.header
        for window in windows(whole, 96):
            first_step = next(iter(window.actions))
            begins = whole.actions[first_step][0]
            if header + begins - start < 96 and first_step:
                prefix = [*whole.ids[:header].tolist(), *whole.ids[start:begins].tolist()]
                tokens = greedy(policy, prefix, session.steps[first_step].state.controls)
                (mine,) = (s for s in given if (s.session_id, s.step) == (session.id, first_step))
                assert mine.tokens == tokens
                del expected[session.id, first_step]
                across += 1
            start = begins - (window.actions[first_step][0] - header)
    assert across >= 2, "no action crosses the end of a window: the test says nothing about those"
    assert len(expected) > 15
    assert_same([s for s in given if (s.session_id, s.step) in expected], list(expected.values()))


def test_an_action_longer_than_half_a_window() -> None:
    """The window after it begins where the decoder's does."""
    policy = policy_for(0, max_length=96)
    session = random_session(np.random.default_rng(9), "s", 7)
    words = " ".join(["please room"] * 25)
    long = msgspec.structs.replace(session.steps[3], action=Action("send_message", "chat", {"text": words}))
    session = msgspec.structs.replace(session, steps=(*session.steps[:3], long, *session.steps[4:]))
    expected = Decoder(policy).suggest([session])
    given = follow(Desk(policy), [session], [0])
    assert_same(given[4:], expected[4:])


def read_tokens(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Collect how many tokens every pass reads of each session."""
    found: list[list[int]] = []
    read = KeyValues.read

    def spy(self: KeyValues, body: Any, rows: Any, pieces: Any) -> torch.Tensor:
        found.append([len(piece) for piece in pieces])
        return read(self, body, rows, pieces)

    monkeypatch.setattr(KeyValues, "read", spy)
    return found


def test_nothing_is_read_twice_when_suggestions_are_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_for(4)
    read = read_tokens(monkeypatch)
    templates = DESK[:3]
    desk, steps = Desk(policy, operator="ann"), ()
    for index in range(6):
        event = Message("customer", f"message {index}")
        state = UIState("desk", None, templates)
        (suggestion,) = desk.suggest({"a": Observation("booking", "", index, state, (event,), steps)}).values()
        assert suggestion.action.target in ("hello", "hello_again", "bye")
        steps = (*steps, Step(index, state, (event,), suggestion.action))
    session = Session("a", "toy", "booking", "ann", steps=steps)
    assert sum(map(sum, read)) <= len(policy.encoder.encode("a", policy.transcript.spans(session)))
    # One choice among three templates takes two passes at most: `send_reply` is forced, "hello" may go on.
    assert len(read) <= 2 * 6 + 6
    assert Decoder(policy).suggest([session])[-1].tokens == suggestion.tokens


def test_tokens_without_a_choice_take_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_for(4)
    read = read_tokens(monkeypatch)
    only = (Control("hello_again", "template"),)
    (found,) = Desk(policy).suggest({0: Observation("booking", "", 0, UIState("desk", None, only))}).values()
    assert len(read) == 1
    assert found.action == Action("send_reply", "hello_again")
    sureness = (found.log_probability, found.min_probability, found.margin, found.entropy)
    assert sureness == (0.0, 1.0, 1.0, 0.0)
    (found,) = Desk(policy).suggest({0: Observation("booking", "", 0, UIState("desk", None))}).values()
    assert (found.action, found.tokens, found.log_probability) == (INVALID, (), UNFINISHED)


def test_more_arrives_before_the_operator_acts() -> None:
    policy = policy_for(2)
    (session,) = random_sessions(8, 1, steps=3)
    late = msgspec.structs.replace(
        session.steps[2], events=(*session.steps[2].events, Message("customer", "and green please"))
    )
    longer = msgspec.structs.replace(session, steps=(*session.steps[:2], late))
    desk = Desk(policy, operator="ann")
    first, again, more = (desk.suggest({"x": observe(s, 2)})["x"] for s in (session, session, longer))
    before, after = (Decoder(policy).suggest([s])[2] for s in (session, longer))
    assert_same([first, again, more], [dataclasses.replace(s, session_id="x") for s in (before, before, after)])


def test_sessions_that_are_set_back_or_take_another_course() -> None:
    policy = policy_for(1)
    one, other = random_sessions(11, 2, steps=5)
    other = msgspec.structs.replace(other, id=one.id)
    branched = msgspec.structs.replace(one, steps=(*one.steps[:2], *other.steps[2:]))
    desk = Desk(policy, operator="ann")
    course = [(one, 0), (one, 4), (one, 2), (branched, 4), (other, 4), (one, 4)]
    given = [desk.suggest({one.id: observe(session, index)})[one.id] for session, index in course]
    assert_same(given, [Decoder(policy).suggest([session])[index] for session, index in course])


def test_copied_observations_are_the_same_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they come from another process: equal parts that are not the same objects."""
    policy = policy_for(1)
    (session,) = random_sessions(12, 1, steps=4)
    read = read_tokens(monkeypatch)
    totals = []
    for copied in (False, True):
        desk, before = Desk(policy, operator="ann"), len(read)
        for index in range(4):
            seen = observe(session, index)
            if copied:
                seen = msgspec.json.decode(msgspec.json.encode(seen), type=Observation)
            desk.suggest({0: seen})
        totals.append(read[before:])
    assert totals[0] == totals[1]


def test_only_a_session_with_a_suggestion_is_assessed() -> None:
    desk = Desk(policy_for(0))
    with pytest.raises(HandrailError, match="no suggestion was made in session 'x'"):
        desk.assess({"x": Action("wait")})
    desk.begin("x")
    with pytest.raises(HandrailError, match="no suggestion was made in session 'x'"):
        desk.assess({"x": Action("wait")})


def test_mistakes_are_named() -> None:
    policy = policy_for(0)
    desk = Desk(policy)
    desk.begin("a")
    with pytest.raises(HandrailError, match="'a' is running"):
        desk.begin("a")
    desk.finish("a")
    with pytest.raises(HandrailError, match="no session 'a' is running"):
        desk.finish("a")
    assert desk.suggest({}) == {}
    policy.body.config.sliding_window = 600
    with pytest.raises(HandrailError, match=r"last 600 tokens.*max_length to 440"):
        Desk(policy)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    policy, sessions = policy_for(0), mixed_sessions(5, LENGTHS)
    expected = Decoder(policy).suggest(sessions)
    model: Any = policy.model
    model.to("cuda")
    assert_same(follow(Desk(policy), sessions, STARTS), expected)
