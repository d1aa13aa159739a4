"""Pages: what they hold is exactly the state, and they are usable without a mouse or eyes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from handrail.agents.operators.expert import Expert
from handrail.envs.bpm import load
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.html import Captions, captions, element_id, readable, render, row_id
from handrail.envs.bpm.world import World
from handrail.envs.logs.pages import parse
from handrail.envs.offers import offers
from handrail.envs.schema import Action, Arg, Constraint, Control, Message, Result, UIState

DESK = (
    Control("home", "link", "Home"),
    Control("cards", "link", "Cards"),
    Control("loans", "link", "Loans", enabled=False),
    Control("lost_card", "tab", "Lost card"),
    Control("cards.list", "table", "Cards of the customer", options=("4421", "9910")),
    Control("block.reason", "select", "Reason", options=("lost", "stolen"), required=True),
    Control("block.fee", "number", "Fee"),
    Control("block.note", "text", "Note"),
    Control("block.sure", "checkbox", "Confirmed"),
    Control("block", "button", "Block the card"),
    Control("unblock", "button", "Unblock", enabled=False),
    Control("ask_number", "template", "Which card is it, {customer.name}?"),
    Control("message", "message_box", "Message"),
    Control("close:resolved", "button", "resolved"),
)
VALUES: dict[str, Arg] = {
    "customer.name": "Ann O'Hara",
    "card.limit": 1250.5,
    "cards.list.4421": "debit · active",
    "cards.list.9910": "credit · ",
    "block.reason": "stolen",
    "block.fee": 12,
    "block.sure": True,
    "case.identity": "ok",
    "notice": "The card is blocked.",
}
STATE = UIState("cards", "lost_card", DESK, VALUES, {"table": "cards.list", "item": "9910"})


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: JSON tells `1` from `True` and from `1.0`."""
    return one == other and msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def nodes(page: str, query: str) -> list[dict[str, str | None]]:
    return [node.attributes for node in LexborHTMLParser(page).css(query)]


def test_a_state_is_on_the_page_and_comes_back() -> None:
    page = render(STATE)
    assert "<button type='submit' id='button:block'>Block the card</button>" in page
    assert "<tr tabindex='0' id='item:cards.list:9910' aria-selected='true'><th scope='row'>9910</th>" in page
    assert "<td>credit</td><td></td></tr>" in page
    assert "<option>lost</option><option selected>stolen</option>" in page
    assert "<input type='number' step='any' id='number:block.fee' value='12'>" in page
    assert "<dt>Card limit</dt><dd id='value:card.limit' data-value='1250.5'>1,250.50</dd>" in page
    assert "<p class='notice' role='status' id='value:notice'>The card is blocked.</p>" in page
    assert "Ann O&#39;Hara" in page
    assert same(parse(page), STATE)
    assert list(parse(page).values) == list(VALUES)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        1,
        1.0,
        -0.5,
        1e300,
        "",
        " ",
        "1",
        "true",
        "a\r\nb\tc\n",
        "<b>&amp;'\"",
        "\ufeff\x85é聊",
        "· · ",
    ],
)
@pytest.mark.parametrize(
    "name", ["block.note", "block.fee", "block.reason", "block.sure", "x", "error", "cards.list.4421"]
)
def test_any_value_anywhere_keeps_its_type(name: str, value: Arg) -> None:
    state = UIState("cards", None, DESK, {name: value})
    assert same(parse(render(state)), state)


def test_odd_shapes_come_back() -> None:
    controls = (
        Control("f", "form", "Search", fields=(Control("f.a", "text", "A"),)),
        Control("t", "text", "with options", options=("a", "b")),
        Control("b", "button", "", required=True, group="lost card"),
        Control("50% off\n", "link", "\rodd", enabled=False),
        Control("", "tab", "no id"),
        Control("r", "row", "a row", enabled=False),
        Control("m", "message_box", "M", enabled=False, required=True),
    )
    values: dict[str, Arg] = {"f.a": Constraint("is_at_most", 3), "50% off\n": "x"}
    for selected in ({}, {"table": "f", "item": "x"}, {"id": 3, "deep": {"x": [1, None]}}, {"table": 1, "item": "a"}):
        state = UIState("a screen", "", controls, values, selected)
        assert same(parse(render(state)), state)


def test_what_a_page_cannot_hold() -> None:
    state = UIState("s", None, (Control("a\0b", "button", "x\0"),), {"v": "\0"})
    found = parse(render(state))
    assert found.controls == (Control("a\ufffdb", "button", "x\ufffd"),)
    assert found.values == {"v": "\ufffd"}


def test_states_share_equal_controls() -> None:
    copy = tuple(msgspec.structs.replace(control) for control in DESK)
    assert parse(render(STATE)).controls is parse(render(UIState("cards", "x", copy))).controls


def test_a_page_is_accessible() -> None:
    page = render(STATE, [Message("customer", "hi <3")])
    tree = LexborHTMLParser(page)
    assert tree.css_first("html").attributes["lang"] == "en"
    assert tree.css_first("title").text() == "Cards – Desk"
    assert [node.text() for node in tree.css("h1")] == ["Cards"]
    assert len(tree.css("main")) == len(tree.css("nav")) == len(tree.css("aside")) == 1
    ids = [node["id"] for node in nodes(page, "[id]")]
    assert len(ids) == len(set(ids))
    labelled = [node["for"] for node in nodes(page, "label")]
    assert labelled == [node["id"] for node in nodes(page, "input, select, textarea")]
    assert [node["id"] for node in nodes(page, "[aria-current=page]")] == ["link:cards"]
    assert [node["id"] for node in nodes(page, "[role=tab][aria-selected=true]")] == ["tab:lost_card"]
    assert [node["id"] for node in nodes(page, "a:not([href])")] == ["link:loans"]
    assert [node["id"] for node in nodes(page, "[disabled]")] == ["button:unblock"]
    assert [node["id"] for node in nodes(page, "[required]")] == ["select:block.reason"]
    assert tree.css_first("caption").text() == "Cards of the customer"
    assert [node.text() for node in tree.css("legend")] == ["Block the card"]
    assert tree.css_first("[role=log]").text() == "Customerhi <3"


def test_headings_of_a_domain_and_the_chat() -> None:
    heads = Captions("Alder Bank", {"cards": "All cards"}, {"cards": {"card.limit": "Limit"}}, {"cards.list": ("No.",)})
    chat = [Message("operator", "one\ntwo"), Result("find", {"a": 1, "b": "x"}), Result("find", None)]
    page = render(STATE, chat, heads)
    tree = LexborHTMLParser(page)
    assert tree.css_first("h1").text() == "All cards"
    assert tree.css_first("thead th").attributes == {"scope": "col"}
    assert "<dt>Limit</dt>" in page
    assert [node.text() for node in tree.css("[role=log] p")] == ["one\ntwo", "1 · x", "nothing found"]
    assert same(parse(page), STATE)


def test_style_inside_or_beside() -> None:
    assert nodes(render(STATE, linked=True), "link")[0]["href"] == "desk.css"
    assert ".side {" in LexborHTMLParser(render(STATE)).css_first("style").text()
    assert render(STATE).partition("<style>")[2].partition("</style>")[2] in render(STATE, linked=True)


def test_ids() -> None:
    assert element_id("template", "a b") == "template:a%20b"
    assert row_id("t\n", "50%") == "item:t%0A:50%25"
    assert readable("fee_refund.opened_on") == "Fee refund opened on"
    assert readable("") == ""


KINDS = [
    "link",
    "tab",
    "table",
    "text",
    "number",
    "select",
    "checkbox",
    "button",
    "template",
    "message_box",
    "form",
    "row",
]
plain = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
ids = st.one_of(st.sampled_from(["a", "a.b", "close:x", "notice", "case.x"]), plain)
desks = st.lists(
    st.builds(
        Control,
        id=ids,
        kind=st.sampled_from(KINDS),
        label=plain,
        options=st.lists(plain, max_size=3, unique=True).map(tuple),
        required=st.booleans(),
        group=plain,
        enabled=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda control: (control.kind, control.id),
).map(tuple)


@st.composite
def states(draw: st.DrawFn) -> UIState:
    """Any screen: controls of all kinds in any order, values of any type, often of its own controls and rows."""
    controls = draw(desks)
    names = [c.id for c in controls] + [f"{c.id}.{o}" for c in controls if c.kind == "table" for o in c.options]
    name = st.one_of(st.sampled_from(names), ids) if names else ids
    values = st.one_of(
        strategies.scalars.filter(lambda value: "\0" not in str(value)), st.builds(Constraint, plain, plain)
    )
    rows = [{"table": c.id, "item": o} for c in controls if c.kind == "table" for o in c.options]
    selected = st.one_of(st.none(), st.dictionaries(plain, plain, max_size=2), st.sampled_from(rows or [None]))
    procedure = st.one_of(st.none(), ids)
    return UIState(
        draw(ids), draw(procedure), controls, draw(st.dictionaries(name, values, max_size=6)), draw(selected)
    )


@settings(max_examples=300, deadline=None)
@given(states())
def test_every_state_comes_back(state: UIState) -> None:
    assert same(parse(render(state, [Message("customer", "x")])), state)


def some_action(rng: np.random.Generator, state: UIState) -> Action:
    """Any action the screen offers, with content an operator could give."""
    offered = [offer for offer in offers(state.controls) if not offer.target.startswith("close:")]
    offer = offered[rng.integers(len(offered))]
    control = next(control for control in state.controls if control.id == offer.target)
    drawn = control.options[rng.integers(len(control.options))] if control.options else ""
    content: dict[str, Arg] = {"number": 7, "checkbox": bool(rng.integers(2)), "text": "<x> & 'y'"}
    given = {
        "set_field": {"value": content.get(control.kind, drawn)},
        "select_item": {"item": drawn},
        "send_message": {"text": "Hello"},
    }
    return Action(offer.tool, offer.target, given.get(offer.tool, {}))


@pytest.mark.parametrize("name", load.names())
def test_every_screen_of_every_domain_comes_back(name: str) -> None:
    domain = load.load_domain(name)
    heads, rng = captions(domain), np.random.default_rng(7)
    seen = set()
    for seed in range(80):
        if seed >= 12 and seen == set(domain.screens):
            break
        world = World(domain, draw_case(domain, rng))
        expert = Expert(seed=seed)
        for number in range(60):
            state = world.state()
            found = parse(render(state, (), heads))
            assert same(found, state)
            assert list(found.values) == list(state.values)
            seen.add(state.screen)
            new = [c.id for c in state.controls if c.kind == "link" and c.enabled and c.id not in seen]
            # The expert brings records into focus, without which most screens do not open.
            action = expert.act(world) if number % 2 else some_action(rng, state)
            if new:
                action = Action("navigate", new[0])
            elif action.target.startswith("close:"):
                action = some_action(rng, state)
            world.do(action)
    assert seen == set(domain.screens)


@pytest.mark.parametrize("name", load.names())
def test_headings_name_every_column(name: str) -> None:
    domain = load.load_domain(name)
    heads = captions(domain)
    assert captions(domain) is heads
    for screen in domain.screens.values():
        for table in screen.tables:
            key = domain.records[table.rows].key
            assert len(heads.columns[table.id]) == 1 + sum(column != key for column in table.columns)
