"""The desk as a page: `render` turns a state into whole, accessible HTML.

The page holds the state exactly: `handrail.envs.logs.readers.html.parse` reads it back. What stands for what:

| part of the state | on the page |
|---|---|
| `screen`, `procedure` | `<main id="screen:ID" data-procedure="ID">`; ARIA says which tab and link are open |
| a control | an element with `id="KIND:ID"`: `a`, `button`, `input`, `select`, `textarea` or `table` |
| label | its text, its `<label for>`, or the table's caption |
| options | `<option>`s; the rows of a table |
| required, not enabled | `required`, `disabled` (`aria-required`, `aria-disabled` where HTML has no such attribute) |
| content of an input | `value`, `checked`, the selected option |
| value of a table row | its cells, joined by ` · ` |
| any other value | an element with `id="value:NAME"` |
| `selected` | the row with `aria-selected` |

Values that are no text carry their JSON in `data-value`, since what people read (`1,250.00`) does not tell their type;
so does content that an input of its kind cannot hold. Whitespace and `%` in ids are percent-encoded. Elements come in
the order of the controls, values in the order shown values, rows, inputs, case file, notice, error. One thing cannot
be kept: HTML has no U+0000, it becomes U+FFFD.

A page has parts that hardly change from step to step, so what depends on the controls alone is rendered once for each
tuple of controls, by identity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from handrail.envs.bpm.domain import Domain
from handrail.envs.schema import SEPARATOR, Arg, Control, ControlKind, Event, Message, UIState

GENERATOR = "handrail-desk"
"""What the page's `<meta name="generator">` says; pages that say so are read exactly, others by heuristics."""

INPUTS: frozenset[ControlKind] = frozenset({"text", "number", "select", "checkbox"})
"""Kinds of control that hold a value."""

_CACHE = 256
_encode = msgspec.json.Encoder().encode


class Captions(msgspec.Struct, frozen=True):
    """What a page says beside its state: headings that a state does not hold and no policy needs.

    Attributes:
        title: of the company.
        screens: screen -> heading.
        values: screen -> shown value -> label.
        columns: table -> headings of its columns, that of the row's key first.
    """

    title: str = "Desk"
    screens: dict[str, str] = {}
    values: dict[str, dict[str, str]] = {}
    columns: dict[str, tuple[str, ...]] = {}


def captions(domain: Domain) -> Captions:
    """Return the headings of a domain's screens; the same object for the same domain."""
    known = _captions.get(id(domain))
    if known is not None:
        return known[1]
    columns: dict[str, tuple[str, ...]] = {}
    for screen in domain.screens.values():
        for table in screen.tables:
            key = domain.records[table.rows].key
            columns[table.id] = tuple(map(readable, (key, *(name for name in table.columns if name != key))))
    found = Captions(
        title=domain.desk.title,
        screens={name: screen.title for name, screen in domain.screens.items()},
        values={name: {shown.id: shown.label for shown in screen.shows} for name, screen in domain.screens.items()},
        columns=columns,
    )
    if len(_captions) >= _DOMAINS:
        _captions.clear()
    # An id() is only the domain's own while it lives, hence the reference.
    _captions[id(domain)] = domain, found
    return found


_DOMAINS = 64
_captions: dict[int, tuple[Domain, Captions]] = {}

PLAIN = Captions()
"""Headings made from ids."""


def render(state: UIState, chat: Sequence[Event] = (), captions: Captions = PLAIN, linked: bool = False) -> str:
    """Return the page of a state.

    Args:
        state: any state; ids and texts without lone surrogates, values that JSON can express.
        chat: messages and back-end results so far, in order.
        captions: headings, see `captions`.
        linked: whether the page names the style sheet `desk.css` beside it instead of holding it.

    Returns:
        A whole HTML document, without U+0000.
    """
    frame = _frame(state, captions)
    parts = frame.parts.copy()
    shown: list[str] = []
    case: list[str] = []
    said: list[str] = []
    slots, labels = frame.slots, frame.labels
    for name, value in state.values.items():
        slot = slots.get(name)
        if slot is not None and slot.fill(parts, value):
            continue
        if name in _SAID:
            said.append(_said(name, value))
        elif name.startswith("case."):
            case.append(_entry(name, readable(name.removeprefix("case.")), value))
        else:
            shown.append(_entry(name, labels.get(name) or readable(name), value))
    if state.selected is not None:
        row = _row_in_focus(state.selected)
        if row in frame.rows:
            parts[frame.rows[row]] = " aria-selected='true'"
        else:
            parts[frame.focus] = _focus(state.selected)
    parts[frame.style] = _LINK if linked else _inline_style()
    if shown:
        parts[frame.shown] = f"<dl class='shown' aria-label='Details'>{''.join(shown)}</dl>"
    if case:
        parts[frame.case] = (
            f"<section class='case' aria-label='Case file'><h2>Case file</h2><dl>{''.join(case)}</dl></section>"
        )
    if said:
        parts[frame.said] = "".join(said)
    if chat:
        parts[frame.chat] = _chat(chat)
    return "".join(parts)


def element_id(kind: str, name: str) -> str:
    """Return the `id` on the page of a control, or of a value (`kind="value"`).

    >>> element_id("button", "close:refused")
    'button:close:refused'
    >>> element_id("link", "50% off")
    'link:50%25%20off'
    """
    # U+0000 is replaced here too, so that an id in an event record equals the one on the page.
    return f"{kind}:{name.translate(_IN_ID)}"


def row_id(table: str, key: str) -> str:
    """Return the `id` on the page of a table's row.

    >>> row_id("cards", "4421")
    'item:cards:4421'
    """
    return f"item:{table.translate(_IN_ID)}:{key.translate(_IN_ID)}"


def readable(name: str) -> str:
    """Return an id as a heading.

    >>> readable("card.opened_on")
    'Card opened on'
    """
    words = name.replace(".", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:]


@functools.cache
def stylesheet() -> str:
    """Return the text of `desk.css`."""
    return Path(__file__).with_name("desk.css").read_text(encoding="utf-8")


_IN_ID = {**{ord(c): f"%{ord(c):02X}" for c in "% \t\n\f\r"}, 0: "\ufffd"}
_SAID = {"notice": "status", "error": "alert"}
_ROLES = {"customer": "Customer", "operator": "Operator", "system": "System"}
_LINK = "<link rel='stylesheet' href='desk.css'>"

Column = Literal["side", "main", "aside"]


def _column(control: Control) -> Column:
    if control.kind in ("link", "tab"):
        return "side"
    if control.kind in ("template", "message_box") or (control.kind == "button" and control.id.startswith("close:")):
        return "aside"
    return "main"


def _text(text: str) -> str:
    """Escape for content and for attributes; a carriage return would become a line feed."""
    for character, entity in _ENTITIES:
        if character in text:
            text = text.replace(character, entity)
    return text


_ENTITIES = (
    ("&", "&amp;"),
    ("<", "&lt;"),
    (">", "&gt;"),
    ("'", "&#39;"),
    ('"', "&quot;"),
    ("\r", "&#13;"),
    ("\0", "\ufffd"),
)


def _json(value: Any) -> str:
    return _text(_encode(value).decode())


def _shown_text(value: Arg) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return "–" if value is None else str(value) if isinstance(value, int) else _encode(value).decode()


def _value(value: Arg) -> tuple[str, str]:
    """Return attribute and content of an element that shows a value."""
    if type(value) is str:
        return "", _text(value)
    return f" data-value='{_json(value)}'", _text(_shown_text(value))


def _entry(name: str, label: str, value: Arg) -> str:
    attribute, text = _value(value)
    return f"<div><dt>{_text(label)}</dt><dd id='{_text(element_id('value', name))}'{attribute}>{text}</dd></div>"


def _said(name: str, value: Arg) -> str:
    attribute, text = _value(value)
    return f"<p class='{name}' role='{_SAID[name]}' id='value:{name}'{attribute}>{text}</p>"


def _focus(selected: dict[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{_text(readable(str(name)))}</dt><dd>{_text(str(value))}</dd></div>"
        for name, value in selected.items()
    )
    record = _json(selected)
    return f"<section id='selected:' aria-label='Record in focus' data-value='{record}'><dl>{rows}</dl></section>"


def _row_in_focus(selected: dict[str, Any]) -> tuple[str, str] | None:
    if len(selected) == 2:
        table, item = selected.get("table"), selected.get("item")
        if type(table) is str and type(item) is str:
            return table, item
    return None


def _chat(events: Iterable[Event]) -> str:
    lines = []
    for event in events:
        if isinstance(event, Message):
            role, who, text = event.role, _ROLES.get(event.role, event.role), event.text
        else:
            role, who = "system", event.source
            text = "nothing found" if event.item is None else SEPARATOR.join(map(str, event.item.values()))
        lines.append(f"<li class='{role}'><b>{_text(who)}</b><p>{_text(text)}</p></li>")
    return (
        "<section class='chat' aria-label='Chat'><h2>Chat</h2>"
        f"<div tabindex='0'><ol role='log' aria-label='Messages'>{''.join(lines)}</ol></div></section>"
    )


@functools.cache
def _inline_style() -> str:
    return f"<style>{stylesheet()}</style>"


class _Cells:
    """Where the cells of a table row go."""

    __slots__ = ("part",)

    def __init__(self, part: int) -> None:
        self.part = part

    def fill(self, parts: list[str], value: Arg) -> bool:
        if type(value) is not str:
            return False
        parts[self.part] = "".join([f"<td>{cell}</td>" for cell in _text(value).split(SEPARATOR)])
        return True


class _Content:
    """Where the content of an input goes: an attribute, or an option that is selected."""

    __slots__ = ("control", "options", "part")

    def __init__(self, control: Control, part: int, options: int | None) -> None:
        self.control, self.part, self.options = control, part, options

    def fill(self, parts: list[str], value: Arg) -> bool:
        kind, given = self.control.kind, type(value)
        if self.options is not None and given is str and value in self.control.options:
            parts[self.options] = _options(self.control, value)
        elif kind == "checkbox" and value is True:
            parts[self.part] = " checked"
        elif kind == "text" and given is str:
            parts[self.part] = f" value='{_text(str(value))}'"
        elif kind == "number" and (given is int or given is float):
            parts[self.part] = f" value='{_encode(value).decode()}'"
        else:
            parts[self.part] = f" data-value='{_json(value)}'"
        return True


class _Frame:
    """The page of a tuple of controls, with gaps for what differs between states.

    Attributes:
        parts: pieces of the page; gaps are empty.
        slots: name of a value -> the gap it fills.
        rows: (table, key) -> the gap that marks the row as selected.
        labels: shown value -> label.
    """

    def __init__(self, state: UIState, captions: Captions) -> None:
        self.captions, self.screen, self.procedure = captions, state.screen, state.procedure
        self.parts: list[str] = []
        self.slots: dict[str, _Cells | _Content] = {}
        self.rows: dict[tuple[str, str], int] = {}
        self.labels = captions.values.get(state.screen, {})
        heading = captions.screens.get(state.screen) or next(
            (c.label for c in state.controls if c.kind == "link" and c.id == state.screen and c.label), ""
        )
        self.heading = heading or readable(state.screen)
        self.said = self.shown = self.case = self.chat = self.focus = -1
        self.page(state.controls)

    def add(self, *texts: str) -> None:
        self.parts.extend(texts)

    def gap(self) -> int:
        self.parts.append("")
        return len(self.parts) - 1

    def page(self, controls: tuple[Control, ...]) -> None:
        title = _text(f"{self.heading} – {self.captions.title}")
        self.add(
            "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
            f"<meta name='generator' content='{GENERATOR}'>",
            f"<meta name='viewport' content='width=device-width'><title>{title}</title>",
        )
        self.style = self.gap()
        self.add(f"</head><body><header class='top'><b>{_text(self.captions.title)}</b>", "<span>Operator desk</span>")
        self.add("</header>")
        runs = _runs(controls, _column)
        columns: list[tuple[Column, list[Control]]] = [(column, run) for column, run in runs]
        # The heading, and the chat, have their place also on a page without such controls.
        if all(column != "main" for column, _ in columns):
            after = next((i for i, (column, _) in enumerate(columns) if column == "aside"), len(columns))
            columns.insert(after, ("main", []))
        if all(column != "aside" for column, _ in columns):
            columns.append(("aside", []))
        for number, (column, run) in enumerate(columns):
            first = all(column != other for other, _ in columns[:number])
            last = all(column != other for other, _ in columns[number + 1 :])
            self.column(column, run, first, last)
        self.add("</body></html>")

    def column(self, column: Column, run: list[Control], first: bool, last: bool) -> None:
        tag = {"side": "div", "main": "main" if first else "div", "aside": "aside" if first else "div"}[column]
        if column == "main" and first:
            screen = _text(element_id("screen", self.screen))
            procedure = "" if self.procedure is None else f" data-procedure='{_text(self.procedure)}'"
            self.add(f"<main class='main' id='{screen}'{procedure}><h1>{_text(self.heading)}</h1>")
            self.shown = self.gap()
        else:
            self.add(f"<{tag} class='{column}'" + (" aria-label='Customer'>" if tag == "aside" else ">"))
            if column == "aside" and first:
                self.chat = self.gap()
        for region, members in _runs(run, _region):
            getattr(self, region)(members)
        if column == "main" and last:
            self.focus, self.case, self.said = self.gap(), self.gap(), self.gap()
        self.add(f"</{tag}>")

    def links(self, controls: list[Control]) -> None:
        self.add("<nav aria-label='Screens'><ul>")
        for control in controls:
            here = " aria-current='page'" if control.id == self.screen else ""
            href = "" if not control.enabled else f" href='#{_text(control.id.translate(_IN_ID))}'"
            self.add(f"<li><a{self.attributes(control)}{href}{here}>{_text(control.label)}</a></li>")
        self.add("</ul></nav>")

    def tabs(self, controls: list[Control]) -> None:
        self.add("<section class='procedures'><h2>Procedures</h2><div role='tablist' aria-label='Procedures'>")
        for control in controls:
            chosen = "true" if control.id == self.procedure else "false"
            self.add(
                f"<button type='button' role='tab' aria-selected='{chosen}'{self.attributes(control)}>"
                f"{_text(control.label)}</button>"
            )
        self.add("</div></section>")

    def tables(self, controls: list[Control]) -> None:
        for control in controls:
            columns = self.captions.columns.get(control.id, ())
            grid = " role='grid'" if control.enabled else ""
            self.add(f"<table{grid}{self.attributes(control)}><caption>{_text(control.label)}</caption>")
            if columns:
                heads = "".join(f"<th scope='col'>{_text(name)}</th>" for name in columns)
                self.add(f"<thead><tr>{heads}</tr></thead>")
            self.add("<tbody>")
            for key in control.options:
                self.add(f"<tr tabindex='0' id='{_text(row_id(control.id, key))}'")
                self.rows[control.id, key] = self.gap()
                self.add(f"><th scope='row'>{_text(key)}</th>")
                self.slots[f"{control.id}.{key}"] = _Cells(self.gap())
                self.add("</tr>")
            self.add("</tbody></table>")

    def forms(self, controls: list[Control]) -> None:
        inputs: list[Control] = []
        for control in controls:
            if control.kind != "button":
                inputs.append(control)
                continue
            self.form(inputs, control)
            inputs = []
        if inputs:
            self.form(inputs, None)

    def form(self, inputs: list[Control], button: Control | None) -> None:
        legend = "" if button is None else _text(button.label)
        self.add("<form>" + (f"<fieldset><legend>{legend}</legend>" if inputs else ""))
        for control in inputs:
            self.input(control)
        if button is not None:
            self.add(f"<button type='submit'{self.attributes(button)}>{legend}</button>")
        self.add(("</fieldset>" if inputs else "") + "</form>")

    def input(self, control: Control) -> None:
        label = f"<label for='{_text(element_id(control.kind, control.id))}'>{_text(control.label)}</label>"
        attributes = self.attributes(control)
        if control.kind == "select":
            self.add(f"<p>{label}<select{attributes}")
            part = self.gap()
            self.add("><option class='none' value=''>Choose …</option>")
            options = self.gap()
            self.parts[options] = _options(control, None)
            self.add("</select></p>")
            self.slots[control.id] = _Content(control, part, options)
            return
        step = " step='any'" if control.kind == "number" else ""
        self.add(f"<p class='{control.kind}'>{label}<input type='{control.kind}'{step}{attributes}")
        self.slots[control.id] = _Content(control, self.gap(), None)
        self.add("></p>")

    def replies(self, controls: list[Control]) -> None:
        self.add("<section class='replies' aria-label='Replies'><h2>Replies</h2><ul>")
        for control in controls:
            self.add(f"<li><button type='button'{self.attributes(control)}>{_text(control.label)}</button></li>")
        self.add("</ul></section>")

    def messages(self, controls: list[Control]) -> None:
        for control in controls:
            label = f"<label for='{_text(element_id(control.kind, control.id))}'>{_text(control.label)}</label>"
            self.add(f"<form class='message'>{label}<textarea rows='2'{self.attributes(control)}></textarea>")
            self.add("<button type='submit'>Send</button></form>")

    def outcomes(self, controls: list[Control]) -> None:
        self.add("<section class='outcomes' aria-label='Close the case'><h2>Close the case</h2><p>")
        for control in controls:
            self.add(f"<button type='button'{self.attributes(control)}>{_text(control.label)}</button>")
        self.add("</p></section>")

    def others(self, controls: list[Control]) -> None:
        for control in controls:
            self.add(f"<div role='group'{self.attributes(control)}>{_text(control.label)}</div>")

    def attributes(self, control: Control) -> str:
        """Return what every control has: id, and what differs from the defaults."""
        kind = control.kind
        found = f" id='{_text(element_id(kind, control.id))}'"
        options = kind in ("select", "table") or not control.options
        if not options or control.fields or kind in ("form", "row"):
            # Shapes that no such element can show; the desk has none of them.
            found += f" data-control='{_json(control)}'"
        if control.required:
            found += " required" if kind in INPUTS or kind == "message_box" else " aria-required='true'"
        if not control.enabled:
            aria = kind in ("link", "table", "form", "row")
            found += " aria-disabled='true'" if aria else " disabled"
        if control.group:
            found += f" data-group='{_text(control.group)}'"
        return found


_frames: dict[tuple[int, str, str | None, int], tuple[tuple[Control, ...], Captions, _Frame]] = {}


def _frame(state: UIState, captions: Captions) -> _Frame:
    key = (id(state.controls), state.screen, state.procedure, id(captions))
    known = _frames.get(key)
    if known is not None:
        return known[2]
    if len(_frames) >= _CACHE:
        _frames.clear()
    frame = _Frame(state, captions)
    # The tuple and the captions are kept beside it: an id() is only their own while they live.
    _frames[key] = state.controls, captions, frame
    return frame


_REGIONS: Mapping[ControlKind, str] = {
    "link": "links",
    "tab": "tabs",
    "table": "tables",
    "template": "replies",
    "message_box": "messages",
    "form": "others",
    "row": "others",
}


def _region(control: Control) -> str:
    if control.kind == "button" and control.id.startswith("close:"):
        return "outcomes"
    return _REGIONS.get(control.kind, "forms")


def _runs(controls: Iterable[Control], kind: Any) -> list[tuple[Any, list[Control]]]:
    """Return consecutive controls of one kind together."""
    runs: list[tuple[Any, list[Control]]] = []
    for control in controls:
        name = kind(control)
        if not runs or runs[-1][0] != name:
            runs.append((name, []))
        runs[-1][1].append(control)
    return runs


def _options(control: Control, chosen: Arg) -> str:
    return "".join(
        f"<option{' selected' if option == chosen else ''}>{_text(option)}</option>" for option in control.options
    )
