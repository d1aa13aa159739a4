"""Names for what can be copied: given by hand-worked rules, and read back without loss."""

from __future__ import annotations

import re

import pytest

from handrail.agents.references import NAMES, References, named_parts, refer, unnamed
from handrail.agents.simulate import simulate
from handrail.agents.transcript import Transcript, TranscriptConfig
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Control, Message, UIState

BLANK = UIState("desk", None)
REF = re.compile(r"ref\d+")


def said(known: References, text: str) -> str:
    """Return a message as it is written, with names numbered in order of appearance."""
    (event,), _ = known.see((Message("customer", text),), BLANK)
    order: dict[str, str] = {}
    return REF.sub(lambda m: order.setdefault(m.group(), f"<{len(order)}>"), event.text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("the pin is 9925 if i remember", "the pin is 9925 d4 <0> if i remember"),
        ("C-517296, that's it.", "C-517296 c_d6 <0>, that's it."),
        ("born 1975-01-16.", "born 1975-01-16 d4_d2_d2 <0>."),
        ("36, look: 36", "36 d2 <0>, look: 36 d2 <0>"),
        ("11 or 22 or 11", "11 d2 <0> or 22 d2_2 <1> or 11 d2_3 <0>"),
        ("DE62 7273 3987, please", "DE62 de_d2 <0> 7273 d4 <1> 3987 d4_2 <2> de_d2_d4_d4 <3>, please"),
        ("no number here", "no number here"),
        ("1983-05-05, no, 1983-04-25", "1983-05-05 d4_d2_d2 <0>, no, 1983-04-25 d4_d2_d2_2 <1>"),
        ("12.50 at 3", "12.50 d2_d2 <0> at 3 d1 <1>"),
    ],
)
def test_words_with_digits_are_named_after_themselves(text: str, written: str) -> None:
    assert said(References(), text) == written


def test_groups_of_digits_are_one_thing_too() -> None:
    known = References()
    known.see((Message("customer", "to DE62 7273 3987"),), BLANK)
    written = known.named(Action("set_field", "payout", {"value": "DE62 7273 3987"}))
    assert written.args == {"value": f"de_d2_d4_d4 {known.names['de62 7273 3987']}"}
    assert known.plain(written).args == {"value": "DE62 7273 3987"}


def test_rows_are_named_and_values_that_are_the_same_as_something_said() -> None:
    known = References()
    table = Control("cards", "table", options=("4579-2378", "4120-1751"))
    pin = Control("pin", "text")
    values = {
        "cards.4579-2378": "visa · 12.50 · active",
        "cards.4120-1751": "visa · lost",
        "pin": "9925",
        "years": 9925.0,
    }
    said_before = (Message("customer", "9925"), Message("customer", "it ends in 2378, over 12.50"))
    _, state = known.see(said_before, UIState("desk", None, (table, pin), values))
    name, first, second = known.names["9925"], known.names["4579-2378"], known.names["4120-1751"]
    assert state.values == {
        "cards.4579-2378": f"visa · 12.50 · active said2 {first}",
        "cards.4120-1751": f"visa · lost said0 {second}",
        "pin": f"d4 {name}",
        "years": f"9925.0 m49 more d4 {name}",
    }
    assert state.controls == (Control("cards", "table", options=(f"said2 {first}", f"said0 {second}")), pin)
    assert known.named(Action("select_item", "cards", {"item": "4120-1751"})).args == {"item": f"said0 {second}"}
    assert len({name, first, second}) == 3


def test_what_all_rows_show_tells_nothing() -> None:
    known = References()
    table = Control("cards", "table", options=("1111", "2222"))
    values = {"cards.1111": "visa · active", "cards.2222": "visa · lost"}
    message = Message("customer", "my visa card, the lost one")
    _, state = known.see((message,), UIState("desk", None, (table,), values))
    assert state.values["cards.1111"] == f"visa · active said0 {known.names['1111']}"
    assert state.values["cards.2222"] == f"visa · lost said1 {known.names['2222']}"


def test_what_operators_say_is_told_apart_and_does_not_say_which_row() -> None:
    known = References()
    events = (Message("customer", "card 1183"), Message("operator", "At most 2500 for 1183, then?"))
    (_, offered), _ = known.see(events, BLANK)
    most, card = known.names["2500"], known.names["1183"]
    assert isinstance(offered, Message)
    assert offered.text == f"At most 2500 we_d4 {most} for 1183 d4 {card}, then?"
    assert named_parts(offered.text) == f"2500 we_d4 {most} 1183 d4 {card}"
    assert unnamed(offered.text) == "At most 2500 for 1183, then?"
    table = Control("cards", "table", options=("1183", "2500"))
    _, state = known.see((), UIState("desk", None, (table,), {"cards.1183": "visa", "cards.2500": "visa"}))
    assert state.values == {"cards.1183": f"visa said1 {card}", "cards.2500": f"visa said0 {most}"}


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("i now live at Cliff Road 35, 23366 Foxdale since may", "cliff road 35, 23366 foxdale"),
        ("It's Stone Bridge 16, 26501 Redcliff.", "stone bridge 16, 26501 redcliff"),
        ("write to 12 High Street, London, please", "12 high street, london"),
        ("PIN 9925", None),
        ("Vera Walsh, that's her", None),
    ],
)
def test_an_address_is_one_thing(text: str, phrase: str | None) -> None:
    known = References()
    (event,), _ = known.see((Message("customer", text),), BLANK)
    assert isinstance(event, Message)
    assert [name for name in known.names if " " in name] == ([phrase] if phrase else [])
    if phrase:
        assert f" phrase {known.names[phrase]}" in event.text
        written = known.named(Action("set_field", "address", {"value": phrase.title()}))
        assert written.args == {"value": f"phrase {known.names[phrase]}"}


def test_quantities_on_the_screen_are_compared_with_what_was_said_last() -> None:
    known = References()
    known.see((Message("customer", "2500 a month, no, 2400, since 2025-03-20"),), BLANK)
    values = {"card.limit": 1500, "card.most": 2500.0, "card.same": 2400, "card.day": "2025-03-15", "card.open": True}
    values |= {"card.uses": 3, "card.phone": "0830 55", "card.kind": "credit", "card.rest": "0.75"}
    _, state = known.see((), UIState("cards", None, (), values))
    limit, most, rest = (known.names[text] for text in ("1500", "2500", "0.75"))
    assert state.values == {
        "card.limit": f"1500 m41 less limit {limit}",
        "card.most": f"2500.0 m42 more d4 {most}",
        "card.same": f"2400 m42 same d4_2 {known.names['2400']}",
        "card.day": "2025-03-15 less",
        "card.open": True,
        "card.uses": "3 m13 less",
        "card.phone": "0830 55",
        "card.kind": "credit",
        "card.rest": f"0.75 m10 less rest {rest}",
    }
    assert known.named(Action("set_field", "amount", {"value": 1500})).args == {"value": f"limit {limit}"}


def test_what_has_no_name_is_written_as_it_is() -> None:
    known = References()
    for action in (
        Action("set_field", "reason", {"value": "lost"}),
        Action("set_field", "agreed", {"value": True}),
        Action("send_reply", "greet"),
        Action("click", "close:resolved"),
    ):
        assert known.named(action) == action
        assert known.plain(action) == action


def test_names_run_out_and_are_never_given_twice() -> None:
    known = References()
    known.see((Message("customer", ", ".join(f"x{n}" for n in range(NAMES + 5))),), BLANK)
    assert len(set(known.names.values())) == len(known.names) == NAMES


def test_no_name_stands_for_the_same_in_all_sessions() -> None:
    given = set()
    for opening in ("hello", "hi there", "good morning", "i lost my card", "a question"):
        known = References()
        known.see((Message("customer", opening), Message("customer", "9925")), BLANK)
        given.add(known.names["9925"])
    assert len(given) > 2


@pytest.mark.parametrize("domain", ["bank", "telecom", "mock"])
def test_actions_are_read_back_as_they_were(domain: str) -> None:
    used = 0
    for session in simulate(domain, 20, seed=4):
        viewed, known = refer(session)
        for step, written, names in zip(session.steps, viewed.steps, known, strict=True):
            assert same_action(names.plain(written.action), step.action)
            used += any(REF.search(str(value)) is not None for value in written.action.args.values())
    assert used > 10


def test_a_step_is_written_the_same_whatever_comes_later() -> None:
    transcript = Transcript(TranscriptConfig(references=True))
    for session in simulate("bank", 5, seed=1):
        whole = transcript.spans(session)
        for step in range(len(session.steps)):
            before = transcript.prefix(session, step)
            assert whole[: len(before)] == before


def test_a_row_that_is_not_listed_is_written_as_it_is() -> None:
    """Something said has a name, but as a row of a table it has none until the table shows it."""
    known = References()
    known.see((Message("customer", "card 4579-2378"),), BLANK)
    wrong = Action("select_item", "cards", {"item": "4579-2378"})
    assert known.named(wrong) == wrong


def test_what_is_shown_before_anybody_speaks_keeps_its_name() -> None:
    """Whatever the first message, it gives no name a second meaning."""
    table = Control("cards", "table", options=tuple(f"card-{n}" for n in range(20)))
    state = UIState("desk", None, (table,), {f"cards.card-{n}": "visa" for n in range(20)})
    for opening in ("hello", "hi there", "good morning", "i lost my card", "a question"):
        known = References()
        known.see((), state)
        known.see((Message("customer", opening + " " + ", ".join(str(n) for n in range(100, 140))),), state)
        assert len(set(known.names.values())) == len(known.names) == 60
        assert all(known.meant[name].casefold() == text for text, name in known.names.items())
