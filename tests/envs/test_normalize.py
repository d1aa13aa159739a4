"""The normaliser: which values and actions count as the same, by a table written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import actions, constraints, joined, scalars

from handrail.envs.normalize import action_key, normalize_args, normalize_text, normalize_value, same_action
from handrail.envs.schema import Action, Constraint

EQUAL = [
    ("John", "john"),
    ("  New   York\t", "new york"),
    ("new\nyork", "new york"),
    ("Ｈｉ　ｔｈｅｒｅ", "hi there"),
    ("cafe\u0301", "café"),
    ("ﬁne", "fine"),
    ("STRASSE", "straße"),
    (3, "3"),
    (3.0, 3),
    ("3.0", 3),
    ("3.50", 3.5),
    ("1,000", 1000),
    ("1,234,567.80", 1234567.8),
    ("+5", 5),
    ("-0", 0),
    ("-0.0", "0"),
    (-4.0, "-4"),
    (True, "True"),
    (False, "false"),
    (Constraint("is_equal_to", "Chase"), "chase"),
    (Constraint("IS_EQUAL_TO", "Chase"), "chase"),
    (Constraint("is_equal_to", Constraint("is_equal_to", 3)), "3"),
    (["Chase"], "chase"),
    ([["Chase"]], "chase"),
    (["Chase", None, ""], "chase"),
    ({"op": "is_at_most", "value": "20"}, Constraint("is_at_most", 20)),
    (Constraint("is_one_of", ["b", "a"]), Constraint("is_one_of", ("A", "B"))),
    (Constraint("is_one_of", ["a", "A", "b"]), Constraint("is_one_of", ["b", "a"])),
    (Constraint("is_one_of", ["a", "a"]), Constraint("is_one_of", ["a"])),
    (
        Constraint("all_of", [Constraint("is_at_least", 3), Constraint("is_at_most", "5.0")]),
        Constraint("all_of", [Constraint("is_at_most", 5), Constraint("is_at_least", "3")]),
    ),
    (None, ""),
    (None, "  "),
    (None, []),
    (None, [None, ""]),
    (None, Constraint("is_equal_to", None)),
]

DIFFERENT = [
    ("john", "jon"),
    ("new york", "newyork"),
    ("0314", 314),
    ("0314", "314"),
    ("-07", "-7"),
    ("007", "07"),
    (True, 1),
    (False, 0),
    ("1,00", 100),
    ("1.5.0", "1.5"),
    ("10", "100"),
    ("3", "-3"),
    ("3 pm", 3),
    ("naïve", "naive"),
    (Constraint("is_at_most", 20), 20),
    (Constraint("is_at_most", 20), Constraint("is_at_least", 20)),
    (Constraint("is_at_most", 20), Constraint("is_at_most", 21)),
    (Constraint("is_not", None), None),
    (Constraint("is_one_of", ["a", "b"]), ["a", "b"]),
    (["a", "b"], ["b", "a"]),
    (["a", "b"], "a"),
]


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_equal_values(first: Any, second: Any) -> None:
    assert normalize_value(first) == normalize_value(second)
    assert same_action(Action("submit_form", "f", {"x": first}), Action("submit_form", "f", {"x": second}))


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_values(first: Any, second: Any) -> None:
    assert normalize_value(first) != normalize_value(second)
    assert not same_action(Action("submit_form", "f", {"x": first}), Action("submit_form", "f", {"x": second}))


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("1,000", "1000"),
        ("2.50", "2.5"),
        ("100", "100"),
        ("0.5", "0.5"),
        ("0", "0"),
        ("-0.00", "0"),
        ("0314", "0314"),
        ("00", "00"),
        (" 7 ", "7"),
        ("1,00", "1,00"),
        ("12-31", "12-31"),
        (10, "10"),
        (10.0, "10"),
        (0.25, "0.25"),
        (True, "true"),
        (None, None),
        ("", None),
        (["A", "b"], ["a", "b"]),
        (Constraint("is_at_least", "1,000"), {"op": "is_at_least", "value": "1000"}),
        (Constraint("is_one_of", ["b", "A"]), {"op": "is_one_of", "value": ["a", "b"]}),
        (Constraint("is_one_of", ["A", "a"]), {"op": "is_one_of", "value": "a"}),
        (Constraint("is_not"), {"op": "is_not", "value": None}),
        ({"Name": "X", "id": 3}, {"name": "x", "id": "3"}),
        ({"op": 3}, {"op": "3"}),
    ],
)
def test_canonical_form(value: Any, canonical: Any) -> None:
    assert normalize_value(value) == canonical


def test_what_is_no_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="not bytes"):
        normalize_value(b"x")


def test_fields_that_hold_nothing_are_absent() -> None:
    full = Action("Submit_Form", "F", {"Name": " John ", "Pin": None, "City": "", "Any": [], "Zip": "0314"})
    assert normalize_args(full) == {"name": "john", "zip": "0314"}
    assert list(normalize_args(full)) == ["name", "zip"]
    assert same_action(full, Action("submit_form", "f", {"zip": "0314", "name": "john"}))
    assert not same_action(full, Action("submit_form", "f", {"name": "john"}))


@pytest.mark.parametrize(
    "other",
    [
        Action("send_message", "f", {"x": "1"}),
        Action("submit_form", "g", {"x": "1"}),
        Action("submit_form", "f", {"y": "1"}),
        Action("submit_form", "f", {"x": "1", "y": "2"}),
        Action("submit_form", "f"),
    ],
)
def test_each_part_of_an_action_counts(other: Action) -> None:
    assert not same_action(Action("submit_form", "f", {"x": "1"}), other)


def test_the_key_does_not_depend_on_the_order_of_anything() -> None:
    first = Action("submit_form", "F", {"b": 1, "a": {"B": 1, "a": 2}})
    second = Action("submit_form", "f", {"A": {"a": 2, "b": "1.0"}, "B": "1"})
    assert same_action(first, second)
    assert action_key(first) == action_key(second) == '["submit_form","f",{"a":{"a":"2","b":"1"},"b":"1"}]'


@given(st.text())
@example("ß\u0301")
@example("Ĥ\u0331")
@example("-0")
@example("0,000")
def test_text_is_a_fixed_point(text: str) -> None:
    once = normalize_text(text)
    assert normalize_text(once) == once


@given(st.one_of(scalars, constraints, joined, st.lists(st.one_of(scalars, constraints), max_size=3)))
@example(Constraint("IS_EQUAL_TO", "x"))
@example(Constraint("is_one_of", ["A", "a"]))
@example([[1, 2]])
def test_normalising_twice_changes_nothing(value: Any) -> None:
    once = normalize_value(value)
    assert normalize_value(once) == once


@given(actions, actions)
def test_key_and_comparison_agree(first: Action, second: Action) -> None:
    assert same_action(first, first)
    assert same_action(first, Action(first.tool, first.target, dict(first.args)))
    assert same_action(first, second) == (action_key(first) == action_key(second))


@given(st.integers(-(10**15), 10**15))
def test_every_way_to_write_an_integer_is_one_value(number: int) -> None:
    forms = [number, float(number), str(number), f"{number:,}", f"{number}.0", f" {number} "]
    assert {normalize_value(form) for form in forms} == {str(number)}


@given(st.lists(st.sampled_from(["a", "B", "c", 3, "3.0"]), min_size=1, max_size=4), st.randoms())
def test_the_operands_of_is_one_of_are_a_set(operands: list[Any], random: Any) -> None:
    shuffled = list(operands)
    random.shuffle(shuffled)
    assert normalize_value(Constraint("is_one_of", operands)) == normalize_value(Constraint("is_one_of", shuffled))
