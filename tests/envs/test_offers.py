"""What each kind of control allows."""

from __future__ import annotations

import pytest

from handrail.envs.offers import Offer, offers
from handrail.envs.schema import Control, ControlKind


@pytest.mark.parametrize(
    ("kind", "tool", "fields"),
    [
        ("template", "send_reply", ()),
        ("message_box", "send_message", ("text",)),
        ("form", "submit_form", ("city", "day")),
        ("tab", "open_procedure", ()),
        ("table", "select_item", ("item",)),
        ("row", "select_item", ()),
        ("button", "click", ()),
        ("link", "navigate", ()),
        ("text", "set_field", ("value",)),
        ("number", "set_field", ("value",)),
        ("select", "set_field", ("value",)),
        ("checkbox", "set_field", ("value",)),
    ],
)
def test_each_kind(kind: ControlKind, tool: str, fields: tuple[str, ...]) -> None:
    inside = (Control("city", "text"), Control("day", "select", options=("mon", "tue"))) if kind == "form" else ()
    (offer,) = offers((Control("x", kind, fields=inside, options=("a", "b")),))
    assert (offer.tool, offer.target, tuple(field.id for field in offer.fields)) == (tool, "x", fields)
    if tool == "set_field" or kind == "table":
        assert offer.fields[0].options == ("a", "b")
        assert offer.fields[0].kind == ("select" if kind == "table" else kind)


def test_a_table_that_lists_no_rows_takes_any_selection() -> None:
    (offer,) = offers((Control("results", "table"),))
    assert [field.id for field in offer.fields] == ["result", "slot", "item"]


def test_screen_order_without_what_is_disabled() -> None:
    screen = (Control("b", "template"), Control("off", "button", enabled=False), Control("a", "link"))
    assert offers(screen) == [Offer("send_reply", "b", ()), Offer("navigate", "a", ())]
