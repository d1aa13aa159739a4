from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handrail.envs.bpm.expressions import compile_expression, compile_text, text_of
from handrail.envs.errors import HandrailError

NAMES = ("card", "customer", "case", "said", "today", "form", "row")
SCOPE: dict[str, Any] = {
    "card": {"status": "active", "limit": 500, "opened": "2025-01-31", "number": "4000123", "nothing": None},
    "customer": None,
    "case": {"checked": False},
    "said": {"amount": 20.5},
    "today": "2025-03-03",
    "form": {},
    "row": None,
    "times": {"ask": 2}.get,
}


def value(text: str) -> Any:
    return compile_expression(text, NAMES)(SCOPE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card.status", "active"),
        ("card.status == 'active' and not case.checked", True),
        ("card.limit > 100 and card.limit <= 500", True),
        ("100 < card.limit < 500", False),
        ("card.status in ['lost', 'active']", True),
        ("card.status not in ['lost']", True),
        ("'act' in card.status", True),
        ("card.limit * 2 - 1", 999),
        ("-card.limit", -500),
        ("card.limit // 3 + card.limit % 3", 168),
        ("card.limit / 8", 62.5),
        ("0.1 + 0.2 == 0.3", True),
        ("'low' if card.limit < 100 else 'high'", "high"),
        ("true", True),
        ("none", None),
        ("days(card.opened, today)", 31),
        ("days(today, card.opened)", -31),
        ("later(card.opened, 1)", "2025-02-01"),
        ("later(today, -3)", "2025-02-28"),
        ("last(card.number, 3)", "123"),
        ("min(card.limit, 7) + max(1, 2) + abs(-3) + round(2.6)", 15),
        ("round(2.345, 1)", 2.3),
        ("times('ask') > 1", True),
        ("card is not none", True),
        ("customer is none", True),
        ("said.amount", 20.5),
        ("today > '2025-01-01'", True),
    ],
)
def test_what_expressions_give(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("customer.name", None),
        ("card.no_such_field", None),
        ("customer.age + 1", None),
        ("-customer.age", None),
        ("days(customer.born, today)", None),
        ("days(card.status, today)", None),
        ("later(card.status, 3)", None),
        ("later(today, said.days)", None),
        ("last(said.x, 2)", None),
        ("max(said.x, 2)", None),
        ("card.limit / 0", None),
        ("customer.age < 3", False),
        ("customer.age >= 3", False),
        ("said.x in ['a']", False),
        ("said.x not in ['a']", False),
        ("'a' in said.x", False),
        ("said.x == none", True),
        ("said.x is none", True),
        ("said.x != 'a'", True),
        ("not said.x", True),
    ],
)
def test_what_is_unknown_spreads_and_compares_with_nothing(text: str, expected: Any) -> None:
    result = value(text)
    assert result is expected


def test_what_an_expression_reads_is_told() -> None:
    compiled = compile_expression("card.status == 'a' and times('ask') < 2 and customer is none and today > ''", NAMES)
    assert compiled.reads == {"card.status", "customer", "today"}
    assert compiled.times == {"ask"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("crad.status", "did you mean card"),
        ("active == card.status", "quote text: 'active'"),
        ("card.status = 'a'", "`==` compares"),
        ("card.status ==", "cannot be read"),
        ("card.owner.name", "not part of the language"),
        ("[x for x in said]", "not part of the language"),
        ("card['status']", "not part of the language"),
        ("lambda: 1", "not part of the language"),
        ("2 ** 99", "not part of the language"),
        ("f'{today}'", "not part of the language"),
        ("dayz(today, today)", "did you mean days"),
        ("days(today)", "takes 2 values, not 1"),
        ("round(1.5, 1, 2)", "takes 1 to 2 values, not 3"),
        ("times(card.status)", "in quotes"),
        ("today.year", "has no field"),
        ("__import__('os')", "unknown function"),
        ("card.status.__class__", "not part of the language"),
        ("max(*said, 1)", "not part of the language"),
        ("days(a=1, b=2)", "not part of the language"),
    ],
)
def test_what_is_not_in_the_language_is_refused(text: str, told: str) -> None:
    with pytest.raises(HandrailError) as error:
        compile_expression(text, NAMES)
    assert told in str(error.value)
    assert text in str(error.value)


@pytest.mark.parametrize("text", ["card.status + 1", "card.limit < 'a'", "3 in card.limit"])
def test_values_that_do_not_go_together_are_told(text: str) -> None:
    with pytest.raises(HandrailError, match="cannot be evaluated"):
        value(text)


def test_a_compiled_expression_survives_pickling() -> None:
    compiled = compile_expression("card.limit + times('ask')", NAMES)
    assert pickle.loads(pickle.dumps(compiled))(SCOPE) == 502


@given(st.integers(-100, 100), st.integers(-100, 100), st.booleans())
def test_arithmetic_and_logic_agree_with_python(a: int, b: int, c: bool) -> None:
    scope = {"row": {"a": a, "b": b, "c": c}}
    compiled = compile_expression("row.a + row.b * 2 if row.c and row.a >= row.b else row.a - row.b", ("row",))
    assert compiled(scope) == (a + b * 2 if c and a >= b else a - b)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("text", "text"), (None, ""), (True, "yes"), (False, "no"), (3, "3"), (2.5, "2.50"), (1234.0, "1234.00")],
)
def test_how_values_are_written(given: Any, expected: str) -> None:
    assert text_of(given) == expected


def test_a_text_is_filled_from_the_scope_and_by_choice() -> None:
    text = compile_text("[Hi|Hello {card.number}], {said.amount} of {card.limit}[| today].", NAMES)
    assert text.ways == 4
    assert [slot.text for slot in text.slots] == ["card.number", "said.amount", "card.limit"]
    assert text.reads == {"card.number", "said.amount", "card.limit"}
    assert text.fill(SCOPE, lambda count: 0) == "Hi, 20.50 of 500."
    assert text.fill(SCOPE, lambda count: count - 1) == "Hello 4000123, 20.50 of 500 today."
    assert text.fillable(SCOPE)


def test_a_slot_that_cannot_be_evaluated_is_told() -> None:
    text = compile_text("From {card.limit} on [it|{card.status + 1} days].", NAMES)
    for use in (text.fillable, lambda scope: text.fill(scope, lambda count: count - 1)):
        with pytest.raises(HandrailError, match=r"`card.status \+ 1` cannot be evaluated"):
            use(SCOPE)
    assert text.fill(SCOPE, lambda count: 0) == "From 500 on it."


def test_a_text_with_an_unknown_slot_is_not_fillable() -> None:
    text = compile_text("Dear {customer.name},", NAMES)
    assert not text.fillable(SCOPE)
    assert text.fill(SCOPE, lambda count: 0) == "Dear ,"
    again = pickle.loads(pickle.dumps(text))
    assert again.fill({**SCOPE, "customer": {"name": "Ada"}}, lambda count: 0) == "Dear Ada,"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a|[b|c]]", "inside of"),
        ("[a|b", "is not closed"),
        ("a]", "without `[`"),
        ("a {card.number", "without its partner"),
        ("a } b", "without its partner"),
        ("{crad.number}", "did you mean card"),
        ("{}", "cannot be read"),
    ],
)
def test_broken_texts_are_refused(text: str, told: str) -> None:
    with pytest.raises(HandrailError) as error:
        compile_text(text, NAMES)
    assert told in str(error.value)
