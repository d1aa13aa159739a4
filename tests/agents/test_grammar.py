"""Copying: what is entered freely stands, word by word, in what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from toys import tiny_policy

from handrail.agents.decoding import Decoder
from handrail.agents.grammar import Cursor
from handrail.agents.policy import Policy
from handrail.agents.transcript import IS
from handrail.envs.schema import Action, Control, Message, Session, Step, UIState

SCREEN = (Control("find.number", "text"), Control("find", "button"), Control("chat", "message_box"))
SAID = "Hi, my number is C-6864, I live at 12 Elm Road... bye"


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    step = Step(0, UIState("desk", None, SCREEN), (Message("customer", SAID),), Action("click", "find"))
    sessions = [Session(f"s{n}", "toy", "i", "ann", steps=(step,)) for n in range(4)]
    return Decoder(tiny_policy(sessions, vocab_size=400), copied=True)


def cursor_at_value(decoder: Decoder, head: str, field: str) -> Cursor:
    policy: Policy = decoder.policy
    seen = policy.encoder.tokens(f"<|case|>loan operator_0428<|customer|>{SAID}<|screen|>x")
    cursor = decoder.cursor(SCREEN, seen)
    assert cursor is not None
    for token in policy.encoder.tokens(f"{IS}{head}<|field|>{field}<|is|>")[1:]:
        allowed = cursor.allowed()
        assert allowed is not None
        assert token in allowed
        cursor.push(token)
    return cursor


def complete(decoder: Decoder, value: str) -> bool:
    """Tell whether `value` may be entered as a whole."""
    cursor = cursor_at_value(decoder, "set_field find.number", "value")
    for token in [*decoder.policy.encoder.tokens(IS + value)[1:], decoder.policy.encoder.tokens("<|end|>")[0]]:
        allowed = cursor.allowed()
        assert allowed is not None
        if token not in allowed:
            return False
        cursor.push(token)
    return cursor.done


@pytest.mark.parametrize("value", ["C-6864", "12 Elm Road", "12 Elm Road...", "bye", "my number is C-6864", "Hi"])
def test_whole_words_that_were_seen_may_be_entered(decoder: Decoder, value: str) -> None:
    assert complete(decoder, value)


@pytest.mark.parametrize("value", ["C-68", "C", "-6864", "C-6865", "Elm 12", "Road bye", "13 Elm Road", "x y", "loan"])
def test_nothing_else_may(decoder: Decoder, value: str) -> None:
    assert not complete(decoder, value)


def test_messages_are_free(decoder: Decoder) -> None:
    assert cursor_at_value(decoder, "send_message chat", "text").allowed() is None


def test_without_copying_inputs_are_free(decoder: Decoder) -> None:
    free = Decoder(decoder.policy)
    assert cursor_at_value(free, "set_field find.number", "value").allowed() is None


def test_a_suggestion_holds_only_what_was_seen(decoder: Decoder) -> None:
    """An untrained policy enters nonsense; copied, it is nonsense out of the chat."""
    said = {word.strip(".,").casefold() for word in SAID.split()}
    steps = tuple(
        Step(n, UIState("desk", None, SCREEN[:1]), (Message("customer", SAID),), Action("set_field", "find.number"))
        for n in range(6)
    )
    (session,) = [Session("s", "toy", "i", "ann", steps=steps)]
    for suggestion in decoder.suggest([session])[:1]:
        words = str(suggestion.action.args["value"]).split()
        assert words
        assert [w for w in words if w.strip(".,").casefold() not in said | {""}] == []
    assert np.isfinite(decoder.suggest([session])[0].log_probability)
