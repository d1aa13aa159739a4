"""Pages of other people: what becomes a control, a value, or nothing."""

from __future__ import annotations

import pytest

from handrail.envs.logs.pages import Element, element_of, parse, read_page
from handrail.envs.schema import Control, UIState


def page(body: str, title: str = "") -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>"


def controls(body: str) -> list[tuple[str, str, str]]:
    return [(control.id, control.kind, control.label) for control in parse(page(body)).controls]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<a href='/x' id='more'>Read <b>more</b></a>", ("more", "link", "Read more")),
        ("<span role='link'>Read more</span>", ("read_more", "link", "Read more")),
        ("<button name='go'> Log\n in </button>", ("go", "button", "Log in")),
        ("<input type='submit' value='Search'>", ("search", "button", "Search")),
        ("<input type='image' alt='Find'>", ("find", "button", "Find")),
        ("<div onclick='f()'>Star</div>", ("star", "button", "Star")),
        ("<span class='trash' data-rec-click></span>", ("trash", "button", "trash")),
        ("<details><summary>More</summary></details>", ("more", "button", "More")),
        ("<button role='tab'>Orders</button>", ("orders", "tab", "Orders")),
        ("<label for='u'>User</label><input id='u'>", ("u", "text", "User")),
        ("<label>User <input name='u'></label>", ("u", "text", "User")),
        ("<p><label>User</label> <input type='email'></p>", ("user", "text", "User")),
        ("<input placeholder='User' type='password'>", ("user", "text", "User")),
        ("<span id='l'>Your</span><span id='m'>age</span><input type='number' name='a' aria-labelledby='l m'>", None),
        ("<input type='checkbox' name='ok' aria-label='Agree'>", ("ok", "checkbox", "Agree")),
        ("<div role='switch' aria-label='Dark'></div>", ("dark", "checkbox", "Dark")),
        ("<textarea title='Note'>x</textarea>", ("note", "text", "Note")),
        ("<div contenteditable>x</div>", ("x", "text", "x")),
    ],
)
def test_kinds_names_and_labels(html: str, expected: tuple[str, str, str] | None) -> None:
    assert controls(html) == [expected or ("a", "number", "Your age")]


def test_contents_of_inputs() -> None:
    state = parse(
        page(
            "<input name='t' value='a b'><input name='empty' value=''><input type=number name='n' value='12'>"
            "<input type=number name='f' value='1.50'><input type=number name='w' value='many'>"
            "<input type=checkbox name='c' checked><input type=checkbox name='d'>"
            "<select name='s' required><option>x<option selected>y</select>"
            "<select name='several' multiple><option selected>x<option selected>y</select>"
            "<textarea name='long'>one\ntwo</textarea>"
        )
    )
    assert state.values == {
        "t": "a b",
        "n": 12,
        "f": 1.5,
        "w": "many",
        "c": True,
        "d": False,
        "s": "y",
        "several": "x, y",
        "long": "one\ntwo",
    }
    assert state.controls[7] == Control("s", "select", "s", ("x", "y"), required=True)


def test_radio_buttons_are_one_choice() -> None:
    read = read_page(
        page(
            "<input type=radio name='size' id='r1' value='s'><label for='r1'>Small</label>"
            "<label><input type=radio name='size' checked data-rec='7'>Large</label><input type=radio name='size'>"
        )
    )
    assert read.state.controls == (Control("size", "select", "Size", ("Small", "Large", "size")),)
    assert read.state.values == {"size": "Large"}
    assert read.elements == {"r1": Element("select", "size", "Small"), "@7": Element("select", "size", "Large")}


def test_tables_of_data() -> None:
    read = read_page(
        page(
            "<table id='orders'><caption>Orders</caption><tr><th>No.</th><th>State</th></tr>"
            "<tr id='row1' data-rec-click><td>17</td><td>sent <a href='#'>track</a></td></tr>"
            "<tr onclick='x()' aria-selected='true'><td>17</td><td>open</td></tr></table>"
        )
    )
    state = read.state
    assert state.controls == (
        Control("orders", "table", "Orders", ("17", "17-2")),
        Control("track", "link", "track"),
    )
    assert state.values == {"orders.17": "sent track", "orders.17-2": "open"}
    assert state.selected == {"table": "orders", "item": "17-2"}
    assert read.find("row1") == Element("table", "orders", "17")


def test_a_table_that_cannot_be_clicked_is_there_to_read() -> None:
    state = parse(page("<table><tr><td>Open</td><td>Mo–Fr</td></tr></table>"))
    assert state.controls == (Control("table", "table", "", ("Open",), enabled=False),)
    assert state.values == {"table.Open": "Mo–Fr"}


@pytest.mark.parametrize("table", ["<table role='presentation'>", "<table>"])
def test_a_table_that_lays_out_a_form_is_none(table: str) -> None:
    assert controls(f"{table}<tr><td>Name</td><td><input name='n'></td></tr></table>") == [("n", "text", "n")]


def test_values_and_running_text() -> None:
    state = parse(
        page(
            "<h1>Inbox</h1><p>You have <b>2</b> mails</p><dl><dt>Name<dd>Ann<dt>Name<dd id='age'>7</dl>"
            "<output id='sum'>12</output><p role='alert'>Wrong password</p><button>Text of a button</button>"
        )
    )
    assert state.values == {
        "name": "Ann",
        "age": "7",
        "sum": "12",
        "alert": "Wrong password",
        "text": "Inbox\nYou have 2 mails",
    }


def test_what_nobody_sees_is_left_out() -> None:
    hidden = [
        "<div hidden>{}</div>",
        "<div aria-hidden='true'>{}</div>",
        "<div style='color:red;DISPLAY : none'>{}</div>",
        "<div style='visibility:hidden'>{}</div>",
        "<div data-rec-hidden>{}</div>",
        "<template>{}</template>",
    ]
    body = "".join(box.format("<button>x</button>text") for box in hidden) + "<input type='hidden' name='token'>"
    assert parse(page(body, "Desk")) == UIState("Desk", None)


def test_names_are_unique_and_refer_to_their_elements() -> None:
    read = read_page(page("<a data-rec='1'>Go</a><button data-rec='2' disabled>Go</button><a id='go'>there</a>"))
    assert [control.id for control in read.state.controls] == ["go", "go-2", "go-3"]
    assert not read.state.controls[1].enabled
    assert [read.find(name) for name in ("@1", "@2", "go", "@3")] == [
        Element("link", "go"),
        Element("button", "go-2"),
        Element("link", "go-3"),
        None,
    ]


def test_controls_inside_a_clickable_box() -> None:
    assert controls("<div data-rec-click>Ann <span class='star' data-rec-click></span><input name='n'></div>") == [
        ("ann", "button", "Ann"),
        ("star", "button", "star"),
        ("n", "text", "n"),
    ]


@pytest.mark.parametrize(
    ("url", "screen"),
    [
        ("https://desk.example/a/b?case=7#x", "desk.example/a/b"),
        ("file:///logs/p.html", "/logs/p.html"),
        ("", "My desk"),
    ],
)
def test_the_screen_is_the_address_or_the_title(url: str, screen: str) -> None:
    assert parse(page("", "My desk"), url).screen == screen


def test_the_selected_tab_is_the_procedure() -> None:
    assert parse(page("<a role=tab id=a>A</a><a role=tab id=b aria-selected=true>B</a>")).procedure == "b"


@pytest.mark.parametrize("text", ["", "just text", "<p>", "<table><tr>", "<dl><dd>x</dl>", "<a", "\0<b>\0"])
def test_any_text_is_a_page(text: str) -> None:
    assert parse(text).screen == "page"


def test_ids_of_our_own_pages() -> None:
    assert element_of("template:a%20b%25") == Element("template", "a b%")
    assert element_of("screen:home") is None
    assert element_of("") is None
