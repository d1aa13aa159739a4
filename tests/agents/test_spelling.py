"""Actions as the screen spells them."""

from __future__ import annotations

import pytest

from handrail.agents.spelling import spelled
from handrail.envs.schema import Action, Constraint, Control, Message, Step, UIState
from handrail.envs.spaces import Observation

CONTROLS = (
    Control("Loans", "table", options=("C1234", "C99")),
    Control("saveEmail.Email", "text"),
    Control("Why", "select", options=("Lost", "Stolen on a trip")),
    Control("saveemail", "button"),
    Control("saveEmail", "button"),
    Control("Book", "form", fields=(Control("Name", "text"), Control("Day", "select", options=("Monday",)))),
    Control("off", "button", enabled=False),
)
SEEN = Observation(
    "loans",
    "",
    1,
    UIState("member", None, CONTROLS, {"customer.name": "Anna von  Kern", "customer.age": 41}),
    (Message("customer", "It is Ada@Mail.org, I said ADA@mail.org"),),
    (Step(0, UIState("search", None), (Message("customer", "mine is ada@mail.ORG or K-12ab"),), Action("click", "x")),),
)


@pytest.mark.parametrize(
    ("written", "done"),
    [
        (Action("click", "saveEmail"), Action("click", "saveEmail")),
        (Action("click", "saveemail"), Action("click", "saveemail")),
        (Action("click", "SAVEEMAIL"), Action("click", "saveemail")),
        (
            Action("set_field", "why", {"value": "stolen  on a trip"}),
            Action("set_field", "Why", {"value": "Stolen on a trip"}),
        ),
        # The latest message first, and in it what was said first; then earlier ones.
        (
            Action("set_field", "saveemail.email", {"value": "ada@mail.org"}),
            Action("set_field", "saveEmail.Email", {"value": "Ada@Mail.org"}),
        ),
        (
            Action("set_field", "saveEmail.Email", {"value": "k-12AB"}),
            Action("set_field", "saveEmail.Email", {"value": "K-12ab"}),
        ),
        (
            Action("set_field", "saveEmail.Email", {"value": "k-12a"}),
            Action("set_field", "saveEmail.Email", {"value": "k-12a"}),
        ),
        (Action("set_field", "saveEmail.Email", {"value": ""}), Action("set_field", "saveEmail.Email", {"value": ""})),
        (
            Action("submit_form", "book", {"name": "anna von kern", "day": "monday", "more": "anna"}),
            Action("submit_form", "Book", {"Name": "Anna von  Kern", "Day": "Monday", "more": "anna"}),
        ),
        (
            Action("submit_form", "book", {"name": Constraint("is_not", "anna"), "day": 3}),
            Action("submit_form", "Book", {"Name": Constraint("is_not", "anna"), "Day": 3}),
        ),
        (Action("click", "OFF"), Action("click", "OFF")),
        (Action("invalid"), Action("invalid")),
    ],
)
def test_by_hand(written: Action, done: Action) -> None:
    assert spelled(written, SEEN) == done
