"""The desk as text."""

from __future__ import annotations

from handrail.envs.bpm.ansi import render
from handrail.envs.schema import Control, Message, Result, UIState


def test_a_state_as_text() -> None:
    controls = (
        Control("home", "link", "Home"),
        Control("loans", "link", "Loans", enabled=False),
        Control("lost", "tab", "Lost card"),
        Control("list", "table", "Cards", options=("1", "2")),
        Control("block.why", "select", "Reason", options=("lost", "stolen"), required=True),
        Control("block", "button", "Block"),
        Control("hello", "template", "Hello {name}"),
        Control("message", "message_box", "Message"),
    )
    values = {"card.limit": 5.5, "list.1": "debit", "block.why": "lost", "notice": "Done."}
    state = UIState("cards", None, controls, values, {"table": "list", "item": "2"})
    assert render(state, [Message("customer", "hi"), Result("find", None), Result("find", {"a": 1})]).splitlines() == [
        "screen cards · procedure none · 8 controls",
        "  customer: hi",
        "  result of find: nothing found",
        '  result of find: {"a":1}',
        "card.limit = 5.5",
        "notice = Done.",
        "list Cards:",
        "  - 1  debit",
        "  * 2  ",
        "block.why * Reason (lost | stolen): lost",
        "hello Hello {name}",
        "screens: home, [loans]",
        "procedures: lost",
        "message: message",
        "buttons: block",
    ]
