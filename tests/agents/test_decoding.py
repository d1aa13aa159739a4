"""Decoding equals step-by-step constrained greedy decoding, and only what the screen offers is ever suggested."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import DESK, random_session, random_sessions, sharpen, tiny_policy

from handrail.agents import decoding
from handrail.agents.decoding import INVALID, MAX_ACTION_TOKENS, UNFINISHED, Decoder, Suggestion
from handrail.agents.encoding import windows
from handrail.agents.grammar import MAX_VALUE_TOKENS, Cursor, Grammar
from handrail.agents.policy import Policy
from handrail.agents.transcript import END, FIELD, IS, JSON, read_action, write_action
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import normalize_text
from handrail.envs.schema import Action, Control, Message, Session, Step, UIState


def walk(grammar: Grammar, policy: Policy, text: str) -> Cursor:
    """Push the tokens of an action's text, each of which must be allowed."""
    cursor = Cursor(grammar)
    for token in policy.encoder.tokens(IS + text)[1:]:
        allowed = cursor.allowed()
        assert allowed is None or token in allowed, policy.tokenizer.convert_ids_to_tokens(token)
        cursor.push(token)
    return cursor


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(random_sessions(0, 30))


def names(policy: Policy, ids: Any) -> set[str]:
    return {str(policy.tokenizer.convert_ids_to_tokens(int(token))) for token in ids}


@pytest.mark.parametrize(
    "action",
    [
        Action("send_reply", "hello"),
        Action("send_reply", "hello_again"),
        Action("open_procedure", "returns"),
        Action("send_message", "chat", {"text": "anything at all, 0314"}),
        Action("submit_form", "book"),
        Action("submit_form", "book", {"Guests": 3}),
        Action("submit_form", "book", {"Name": "John", "Day": "Tuesday night", "Urgent": True, "Guests": 2}),
        Action("submit_form", "book", {"Name": ["a", "b"], "Day": ["Monday", "Tuesday"]}),  # type: ignore[dict-item]
        Action("select_item", "results"),
        Action("select_item", "results", {"result": 2, "slot": "secondary"}),
    ],
)
def test_the_grammar_admits_what_the_screen_offers(policy: Policy, action: Action) -> None:
    order = ("Name", "Day", "Urgent", "Guests", "result", "slot", "item")
    assert walk(Grammar(DESK, policy.encoder), policy, write_action(action, order) + END).done


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ("", "click", "another tool"),
        ("send_reply ", "chat", "a control of another kind"),
        ("send_reply hello", FIELD, "a field of a control without fields"),
        ("send_message chat", END, "a message without text"),
        (f"send_message chat{FIELD}text{IS}", END, "an empty value"),
        (f"submit_form book{FIELD}Guests{IS}3{FIELD}", "name", "fields out of order"),
        (f"submit_form book{FIELD}Day{IS}", "sunday", "no option"),
        (f"submit_form book{FIELD}Urgent{IS}", "maybe", "no truth value"),
        (f"submit_form book{FIELD}Guests{IS}3", FIELD, "a field after the last"),
    ],
)
def test_the_grammar_refuses_the_rest(policy: Policy, before: str, after: str, refused: str) -> None:
    decoder = Decoder(policy)
    cursor = walk(Grammar(DESK, policy.encoder), policy, before) if before else Cursor(Grammar(DESK, policy.encoder))
    token = policy.encoder.tokens(after)[0]
    assert token not in decoder.admissible(cursor), refused


def test_what_may_follow_by_hand(policy: Policy) -> None:
    grammar = Grammar(DESK, policy.encoder)
    decoder = Decoder(policy)
    after_hello = walk(grammar, policy, "send_reply hello")
    assert END in names(policy, decoder.admissible(after_hello))
    done = walk(grammar, policy, f"submit_form book{FIELD}Day{IS}Tuesday")
    assert {END, FIELD} <= names(policy, decoder.admissible(done))
    assert JSON not in names(policy, decoder.admissible(done))
    opened = walk(grammar, policy, f"submit_form book{FIELD}Day{IS}")
    assert JSON in names(policy, decoder.admissible(opened))
    free = walk(grammar, policy, f"submit_form book{FIELD}Name{IS}john")
    markers = {name for name in names(policy, decoder.admissible(free)) if name.startswith("<|")}
    assert markers == {END, FIELD}
    last = walk(grammar, policy, f"submit_form book{FIELD}Guests{IS}{JSON}3")
    assert {name for name in names(policy, decoder.admissible(last)) if name.startswith("<|")} == {END}


def test_a_free_value_is_closed_after_its_limit(policy: Policy) -> None:
    cursor = walk(Grammar(DESK, policy.encoder), policy, f"send_message chat{FIELD}text{IS}")
    letter = policy.encoder.tokens("a")[0]
    for _ in range(MAX_VALUE_TOKENS):
        assert cursor.allowed() is None
        cursor.push(letter)
    assert names(policy, cursor.allowed()) == {END}


def reference(policy: Policy, sessions: list[Session], constrained: bool = True) -> list[Suggestion]:
    """Greedy decoding token by token: one full forward pass for each, no cache, no batch."""
    decoder = Decoder(policy)
    model: Any = policy.model
    end = policy.encoder.tokens(END)[0]
    found = []
    for session in sessions:
        whole = policy.encoder.encode(session.id, policy.transcript.spans(session))
        for window in windows(whole, policy.max_length):
            for step, (first, _) in window.actions.items():
                grammar = Grammar(session.steps[step].state.controls, policy.encoder)
                cursor = Cursor(grammar) if constrained else None
                tokens: list[int] = []
                logs, margins, entropies = [], [1.0], [0.0]
                while True:
                    if len(tokens) >= MAX_ACTION_TOKENS - 1:
                        logs.append(UNFINISHED)
                        margins.append(0.0)
                        break
                    ids = torch.tensor([window.ids[:first].tolist() + tokens])
                    with torch.no_grad():
                        scores = model(input_ids=ids).logits[0, -1].double()
                    admitted = torch.from_numpy(np.asarray(decoder.admissible(cursor)))
                    chances = torch.softmax(scores[admitted], 0)
                    best = int(chances.argmax())
                    tokens.append(int(admitted[best]))
                    logs.append(float(chances[best].log()))
                    if len(chances) > 1:
                        margins.append(float(chances[best] - chances.sort().values[-2]))
                        entropies.append(float(torch.special.entr(chances).sum()))
                    if cursor is not None:
                        cursor.push(tokens[-1])
                    if cursor.done if cursor is not None else tokens[-1] == end:
                        break
                text: Any = policy.tokenizer.decode([t for t in tokens if t != end])
                try:
                    action = read_action(text)
                except HandrailError:
                    action = INVALID
                lowest = 0.0 if UNFINISHED in logs else min(1.0, *(float(np.exp(value)) for value in logs), 1.0)
                found.append(
                    Suggestion(session.id, step, action, tuple(tokens), sum(logs), lowest, min(margins), max(entropies))
                )
    return found


def assert_same(given: list[Suggestion], expected: list[Suggestion]) -> None:
    assert [(s.session_id, s.step, s.tokens) for s in given] == [(s.session_id, s.step, s.tokens) for s in expected]
    assert [s.action for s in given] == [s.action for s in expected]
    for name in ("log_probability", "min_probability", "margin", "entropy"):
        ours, theirs = ([getattr(s, name) for s in found] for found in (given, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def crossing(seed: int, max_length: int = 512) -> tuple[Policy, list[Session]]:
    """A policy whose random preferences differ from token to token, and sessions it has not seen."""
    sessions = random_sessions(seed, 4, steps=4)
    return sharpen(tiny_policy(random_sessions(100, 30), seed, max_length=max_length)), sessions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_suggestions_equal_step_by_step_decoding(seed: int) -> None:
    policy, sessions = crossing(seed)
    expected = reference(policy, sessions[:2])
    assert len({s.action.tool for s in expected}) >= 3, "the policy decides too little: choose other seeds"
    assert_same(Decoder(policy).suggest(sessions[:2]), expected)
    assert_same(Decoder(policy, token_budget=1).suggest(sessions[:2]), expected)


def test_sessions_longer_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sessions = crossing(3, max_length=64)
    lengths = [len(policy.encoder.encode(s.id, policy.transcript.spans(s))) for s in sessions[:2]]
    assert min(lengths) > 64
    monkeypatch.setattr(decoding, "_TAIL_TOKENS", 500)
    given = Decoder(policy).suggest(sessions[:2])
    assert [(s.session_id, s.step) for s in given] == [(s.id, n) for s in sessions[:2] for n in range(4)]
    assert_same(given, reference(policy, sessions[:2]))


def test_a_policy_that_follows_the_log_and_leaves_it(policy: Policy) -> None:
    """After a few steps of training on the log, some actions are followed to the end and some are left half-way."""
    sessions = random_sessions(0, 6, steps=4)
    trained = tiny_policy(random_sessions(0, 30), 5)
    model: Any = trained.model
    encoded = [trained.encoder.encode(s.id, trained.transcript.spans(s)) for s in sessions]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        for one in encoded:
            labels = torch.from_numpy(np.where(one.step >= 0, one.ids, -100))[None]
            model(input_ids=torch.from_numpy(one.ids)[None], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    given = Decoder(trained).suggest(sessions[:3])
    logged = {(s.id, step.index): step for s in sessions for step in s.steps}
    tools = [s.action.tool == logged[s.session_id, s.step].action.tool for s in given]
    assert 0 < sum(tools) < len(tools), "the training no longer gives a mixture: change the seed or the steps"
    assert_same(given, reference(trained, sessions[:3]))


def offered(action: Action) -> bool:
    """Whether `DESK` offers an action, written down apart from the library's own grammar."""
    targets = {
        "send_reply": {"hello", "hello_again", "bye"},
        "send_message": {"chat"},
        "submit_form": {"book"},
        "open_procedure": {"returns"},
        "select_item": {"results"},
    }
    inputs = {
        "send_message": ["text"],
        "submit_form": ["name", "day", "urgent", "guests"],
        "select_item": ["result", "slot", "item"],
    }
    fields = [name for name in inputs.get(action.tool, []) if name in action.args]
    return action.target in targets.get(action.tool, ()) and list(action.args) == fields


def test_suggestions_are_always_offered() -> None:
    options = {"day": {"monday", "tuesday", "tuesday night"}, "urgent": {"true", "false"}}
    chosen = 0
    for seed in range(6):
        policy, sessions = crossing(seed)
        marker = policy.encoder.tokens(JSON)[0]
        found = Decoder(policy).suggest(sessions)
        assert len(found) == 16
        for suggestion in found:
            assert offered(suggestion.action) or suggestion.log_probability < UNFINISHED, suggestion.action
            for name in options.keys() & suggestion.action.args.keys():
                chosen += 1
                if marker not in suggestion.tokens and suggestion.log_probability > UNFINISHED:
                    assert normalize_text(str(suggestion.action.args[name])) in options[name]
    assert chosen, "no suggestion chose an option: the test says nothing about options"


def test_one_choice_is_certain_and_no_choice_is_invalid(policy: Policy) -> None:
    rng = np.random.default_rng(0)
    for suggestion in Decoder(policy).suggest([random_session(rng, "a", controls=(Control("hello", "template"),))]):
        assert suggestion.action == Action("send_reply", "hello")
        sureness = (suggestion.log_probability, suggestion.min_probability, suggestion.margin, suggestion.entropy)
        assert sureness == (0.0, 1.0, 1.0, 0.0)
    nothing = (Control("hello", "template", enabled=False),)
    for suggestion in Decoder(policy).suggest([random_session(rng, "b", controls=nothing)]):
        assert (suggestion.action, suggestion.tokens) == (INVALID, ())
        assert (suggestion.min_probability, suggestion.margin) == (0.0, 0.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_unconstrained_decoding_equals_the_reference_and_never_raises(seed: int) -> None:
    policy, sessions = crossing(seed)
    given = Decoder(policy, constrained=False).suggest(sessions[:1])
    assert_same(given, reference(policy, sessions[:1], constrained=False))


def test_unconstrained_text_without_a_tool_is_invalid() -> None:
    policy = tiny_policy(random_sessions(0, 5))
    end = policy.encoder.tokens(END)[0]
    model: Any = policy.model

    class Ending(torch.nn.Module):
        weight = model.get_output_embeddings().weight

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(*hidden.shape[:-1], self.weight.shape[0])
            scores[..., end] = 5.0
            return scores

    model.set_output_embeddings(Ending())
    found = Decoder(policy, constrained=False).suggest(random_sessions(0, 1))
    assert [s.action for s in found] == [INVALID] * 5
    assert all(s.tokens == (end,) for s in found)


def test_the_order_of_sessions_and_steps_and_only_the_operators(policy: Policy) -> None:
    sessions = random_sessions(1, 5)
    assert [(s.session_id, s.step) for s in Decoder(policy).suggest(sessions[::-1])] == [
        (session.id, step) for session in sessions[::-1] for step in range(5)
    ]
    state = UIState("desk", None, DESK)
    closed = Session(
        "x",
        "toy",
        "i",
        "o",
        steps=(
            Step(0, state, (Message("customer", "hi"),), Action("send_reply", "hello")),
            Step(1, state, (), Action("close_case"), "customer"),
        ),
    )
    assert [s.step for s in Decoder(policy).suggest([closed])] == [0]
    assert Decoder(policy).suggest([]) == []


def test_what_comes_after_a_step_changes_nothing(policy: Policy) -> None:
    session = random_session(np.random.default_rng(3), "a", steps=6)
    other = random_session(np.random.default_rng(4), "a", steps=6)
    mixed = Session("a", "toy", "booking", "ann", brief="Help.", steps=(*session.steps[:3], *other.steps[3:]))
    mine, theirs = (Decoder(policy).suggest([s])[:3] for s in (session, mixed))
    assert_same(mine, theirs)
