"""From an HTML page to the state an operator saw on it.

Pages that `handrail.envs.bpm.html` rendered are read exactly. Any other page is read by what HTML and ARIA say:

| on the page | in the state |
|---|---|
| `a`, `role=link` | `link` |
| `button`, button inputs, `summary`, `role=button`, `onclick`, what the recorder saw listening for clicks | `button` |
| `role=tab` | `tab`; the selected one is the procedure |
| text inputs, `textarea`, `contenteditable` | `text`, with its content as value |
| number and range inputs | `number` |
| check boxes, switches | `checkbox` |
| `select`, and radio buttons of one name | `select` |
| tables of data | `table` with the rows' first cells as options; rows as values; enabled if rows can be clicked |
| `dt`/`dd`, `output`, `role=status`, `role=alert` | values |
| all other text | the value `text` |

The screen is the address without its query, or the title. A control is named by its `id` or `name`, else by its label;
names that occur again get a number. What nobody can see (`hidden`, `aria-hidden`, `display: none`, what the recorder
found invisible) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args
from urllib.parse import unquote, urlsplit

import msgspec
from selectolax.lexbor import LexborHTMLParser, LexborNode

from handrail.envs.bpm.html import GENERATOR, INPUTS, readable
from handrail.envs.schema import SEPARATOR, Arg, Control, ControlKind, UIState

TEXT_LENGTH = 2000
"""The most characters of running text that the state of a foreign page holds."""

LABEL_LENGTH = 120
"""The most characters of a label on a foreign page."""

HIDDEN_MARK, CLICK_MARK, NODE_MARK = "data-rec-hidden", "data-rec-click", "data-rec"
"""Attributes by which the recorder (`recorder.js`) marks what HTML alone does not tell: elements that are not visible,
elements that listen for clicks, and a number for each element that events may refer to as `@NUMBER`."""


class Element(NamedTuple):
    """What an element of a page is in the state: a control, and for a row or radio button which item."""

    kind: ControlKind
    target: str
    item: str | None = None


class Page(NamedTuple):
    """A page that was read.

    Attributes:
        state: what it shows.
        elements: what event records may refer to; on our own pages only rows, since other elements say it themselves.
        exact: whether it is one of our own pages.
    """

    state: UIState
    elements: dict[str, Element]
    exact: bool

    def find(self, element: str) -> Element | None:
        """Return what the element that an event record names is; `None` if it is nothing one can use."""
        found = self.elements.get(element)
        return element_of(element) if found is None and self.exact else found


def parse(page: str, url: str = "") -> UIState:
    """Return the state a page shows.

    States with equal controls share one tuple, so that callers can cache by its identity.

    Args:
        page: an HTML document.
        url: its address; a foreign page is named by it.
    """
    return read_page(page, url).state


def read_page(page: str, url: str = "") -> Page:
    """Return the state a page shows, and its elements by the names that event records use.

    Args:
        page: an HTML document.
        url: its address; a foreign page is named by it.
    """
    tree = LexborHTMLParser(page)
    generator = tree.css_first("meta[name=generator]")
    if generator is not None and generator.attributes.get("content") == GENERATOR:
        return _exact(tree)
    return _Foreign(tree, url).page()


def element_of(element: str) -> Element | None:
    """Return what the `id` of an element on one of our pages stands for; `None` if it is no control.

    >>> element_of("button:close:refused")
    Element(kind='button', target='close:refused', item=None)
    >>> element_of("value:card.status") is None
    True
    """
    kind, _, name = element.partition(":")
    if kind not in _KINDS:
        return None
    return Element(_KINDS[kind], _decoded(name))


_KINDS: dict[str, ControlKind] = {kind: kind for kind in get_args(ControlKind)}
_CACHE = 1024
_interned: dict[tuple[Control, ...], tuple[Control, ...]] = {}
_value = msgspec.json.Decoder(Arg)
_record = msgspec.json.Decoder(dict[str, Any])
_control = msgspec.json.Decoder(Control)


def _decoded(name: str) -> str:
    return unquote(name) if "%" in name else name


def _shared(controls: tuple[Control, ...]) -> tuple[Control, ...]:
    known = _interned.get(controls)
    if known is None:
        if len(_interned) >= _CACHE:
            _interned.clear()
        known = _interned[controls] = controls
    return known


class _Open:
    """A control whose options, or caption, are still to come."""

    __slots__ = ("attributes", "kind", "label", "name", "options")

    def __init__(self, kind: ControlKind, name: str, label: str, attributes: dict[str, str | None]) -> None:
        self.kind, self.name, self.label, self.attributes = kind, name, label, attributes
        self.options: list[str] = []

    def control(self) -> Control:
        given = self.attributes
        if "data-control" in given:
            return _control.decode(given["data-control"] or "")
        return Control(
            self.name,
            self.kind,
            self.label,
            tuple(self.options),
            "required" in given or "aria-required" in given,
            (),
            given.get("data-group") or "",
            "disabled" not in given and "aria-disabled" not in given,
        )


def _exact(tree: LexborHTMLParser) -> Page:
    screen, procedure, selected = "", None, None
    found: list[_Open] = []
    elements: dict[str, Element] = {}
    values: dict[str, Arg] = {}
    label, row = "", ""
    table = choice = _Open("table", "", "", {})
    cells: list[str] = []
    for node in tree.css("[id],option,label,caption,td"):
        given = node.attributes
        identity = given.get("id")
        if identity is None:
            tag = node.tag
            if tag == "option":
                if given.get("class") != "none":
                    text = node.text(True, "", False)
                    choice.options.append(text)
                    if "selected" in given:
                        values[choice.name] = text
            elif tag == "td":
                cells.append(node.text(True, "", False))
            elif tag == "label":
                label = node.text(True, "", False)
            else:
                table.label = node.text(True, "", False)
            continue
        if cells:
            values[f"{table.name}.{row}"] = SEPARATOR.join(cells)
            cells = []
        prefix, _, name = identity.partition(":")
        if "%" in name:
            name = unquote(name)
        kind = _KINDS.get(prefix)
        if kind is not None:
            control = _Open(kind, name, label, given)
            found.append(control)
            if kind in INPUTS:
                if kind == "select":
                    choice = control
                if "data-value" in given:
                    values[name] = _value.decode(given["data-value"] or "")
                elif kind == "checkbox":
                    if "checked" in given:
                        values[name] = True
                elif "value" in given:
                    content = given["value"] or ""
                    values[name] = _value.decode(content) if kind == "number" else content
            elif kind == "table":
                table = control
            elif kind != "message_box":
                control.label = node.text(True, "", False)
        elif prefix == "item":
            row = name[len(table.name) + 1 :]
            table.options.append(row)
            elements[identity] = Element("table", table.name, row)
            if "aria-selected" in given:
                selected = {"table": table.name, "item": row}
        elif prefix == "value":
            values[name] = (
                _value.decode(given["data-value"] or "") if "data-value" in given else node.text(True, "", False)
            )
        elif prefix == "screen":
            screen = name
            if "data-procedure" in given:
                procedure = given["data-procedure"] or ""
        elif prefix == "selected":
            selected = _record.decode(given["data-value"] or "")
    if cells:
        values[f"{table.name}.{row}"] = SEPARATOR.join(cells)
    controls = _shared(tuple([control.control() for control in found]))
    return Page(UIState(screen, procedure, controls, values, selected), elements, True)


_TYPES: dict[str, ControlKind] = {
    "number": "number",
    "range": "number",
    "checkbox": "checkbox",
    "submit": "button",
    "button": "button",
    "reset": "button",
    "image": "button",
}
_ROLES: dict[str, ControlKind] = {
    "link": "link",
    "button": "button",
    "menuitem": "button",
    "option": "button",
    "tab": "tab",
    "checkbox": "checkbox",
    "switch": "checkbox",
    "textbox": "text",
    "searchbox": "text",
    "spinbutton": "number",
}
_TAGS: dict[str, ControlKind] = {"a": "link", "button": "button", "summary": "button", "textarea": "text"}
_UNSEEN = frozenset({"script", "style", "template", "noscript", "head", "svg", "datalist"})
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote br dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 header hr li "
        "main nav ol p pre section table td th tr ul",
    )
)
_NOT_SEEN = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_NO_WORD = re.compile(r"\W+")


class _Foreign:
    """A page we did not render."""

    def __init__(self, tree: LexborHTMLParser, url: str) -> None:
        self.tree = tree
        self.controls: dict[str, Control] = {}
        self.values: dict[str, Arg] = {}
        self.elements: dict[str, Element] = {}
        self.text: list[str] = []
        self.procedure: str | None = None
        self.selected: dict[str, Any] | None = None
        self.labels = {node.attributes.get("for"): _words(node) for node in tree.css("label[for]")}
        self.ids = {node.attributes["id"]: node for node in tree.css("[id]")}
        parts = urlsplit(url)
        title = tree.css_first("title")
        self.screen = (parts.netloc + parts.path).rstrip("/") or (_words(title) if title is not None else "") or "page"

    def page(self) -> Page:
        if self.tree.body is not None:
            self.walk(self.tree.body)
        text = "\n".join(filter(None, (" ".join(line.split()) for line in "".join(self.text).split("\n"))))
        if text:
            self.values["text"] = text[:TEXT_LENGTH]
        controls = _shared(tuple(self.controls.values()))
        return Page(UIState(self.screen, self.procedure, controls, self.values, self.selected), self.elements, False)

    def walk(self, node: LexborNode) -> None:
        tag, given = node.tag or "", node.attributes
        if tag == "-text":
            self.text.append((node.text_content or "").replace("\n", " "))
            return
        if tag in _UNSEEN or _is_hidden(given):
            return
        kind = _kind(tag, given)
        if tag in _BLOCKS:
            self.text.append("\n")
        if kind is not None:
            self.control(kind, node, given)
            if kind in INPUTS or tag in ("button", "input"):
                return
            # A link or a clickable box may hold further controls; its text is its label.
            for inner in node.iter():
                self.inside(inner)
            return
        if tag == "table" and _holds_data(node, given):
            self.table(node, given)
            return
        if tag == "dl":
            self.pairs(node)
            return
        if tag == "output" or given.get("role") in ("status", "alert"):
            if text := _words(node):
                self.values[self.value_name(given.get("id") or given.get("role") or tag)] = text
            return
        if tag == "label":
            # Its text is the label of an input; what is inside may be the input.
            for inner in node.iter():
                self.inside(inner)
            return
        for child in node.iter(include_text=True):
            self.walk(child)
        if tag in _BLOCKS:
            self.text.append("\n")

    def inside(self, node: LexborNode) -> None:
        """Take the controls below a node, and leave its text."""
        length = len(self.text)
        self.walk(node)
        del self.text[length:]

    def control(self, kind: ControlKind, node: LexborNode, given: dict[str, str | None]) -> None:
        if node.tag == "input" and given.get("type") == "radio":
            self.radio(node, given)
            return
        label = self.label(node, given)
        name = self.name(given.get("id") or given.get("name") or _slug(label) or kind)
        options: tuple[str, ...] = ()
        content: Arg = None
        if kind == "select":
            choices = [(_words(option), "selected" in option.attributes) for option in node.css("option")]
            options = tuple(text for text, _ in choices)
            content = ", ".join(text for text, chosen in choices if chosen) or None
        elif kind == "checkbox":
            content = "checked" in given or given.get("aria-checked") == "true"
        elif kind in ("text", "number"):
            typed = given.get("value") if node.tag == "input" else node.text(True, "", False)
            content = _number(typed) if kind == "number" else typed
        elif kind == "tab" and given.get("aria-selected") == "true":
            self.procedure = name
        if content not in (None, ""):
            self.values[name] = content
        self.controls[name] = Control(
            name,
            kind,
            label,
            options,
            required="required" in given or given.get("aria-required") == "true",
            enabled="disabled" not in given and given.get("aria-disabled") != "true",
        )
        self.refer(given, Element(kind, name))

    def radio(self, node: LexborNode, given: dict[str, str | None]) -> None:
        group = given.get("name") or given.get("id") or "choice"
        known = self.controls.get(group)
        before = () if known is None else known.options
        label = _unique(self.told(node, given) or given.get("value") or given.get("id") or group, before)
        options = (*before, label)
        required = "required" in given or (known is not None and known.required)
        enabled = "disabled" not in given or (known is not None and known.enabled)
        self.controls[group] = Control(group, "select", readable(group), options, required, enabled=enabled)
        if "checked" in given:
            self.values[group] = label
        self.refer(given, Element("select", group, label))

    def table(self, node: LexborNode, given: dict[str, str | None]) -> None:
        caption = node.css_first("caption")
        label = given.get("aria-label") or ("" if caption is None else _words(caption))
        name = self.name(given.get("id") or _slug(label) or "table")
        place = len(self.controls)
        keys: dict[str, None] = {}
        clickable = False
        for row in node.css("tr"):
            about = row.attributes
            cells = [cell for cell in row.iter() if cell.tag in ("td", "th")]
            if all(cell.tag == "th" for cell in cells) or _is_hidden(about):
                continue
            texts = [_words(cell) for cell in cells]
            key = _unique(texts[0] or "row", keys)
            keys[key] = None
            self.values[f"{name}.{key}"] = SEPARATOR.join(texts[1:])
            if _clickable(about) or "tabindex" in about or "aria-selected" in about:
                clickable = True
                self.refer(about, Element("table", name, key))
            if about.get("aria-selected") == "true":
                self.selected = {"table": name, "item": key}
            for cell in cells:
                for inner in cell.iter():
                    self.inside(inner)
        table = Control(name, "table", label, tuple(keys), enabled=clickable)
        # The table stands before the controls in its rows.
        items = list(self.controls.items())
        self.controls = dict([*items[:place], (name, table), *items[place:]])

    def pairs(self, node: LexborNode) -> None:
        term = ""
        for part in node.css("dt,dd"):
            if part.tag == "dt":
                term = _words(part)
                continue
            if text := _words(part):
                self.values[self.value_name(part.attributes.get("id") or _slug(term) or "value")] = text
            for inner in part.iter():
                self.inside(inner)

    def label(self, node: LexborNode, given: dict[str, str | None]) -> str:
        """Return the accessible name, or what the page's authors call the element."""
        value = given.get("value") if _kind(node.tag or "", given) == "button" else ""
        found = self.told(node, given) or value or given.get("name") or given.get("id") or given.get("class") or ""
        return " ".join(found.split())[:LABEL_LENGTH]

    def told(self, node: LexborNode, given: dict[str, str | None]) -> str:
        """Return the accessible name: ARIA first, then labels, then the element's own text; empty if it has none."""
        named = [self.ids[one] for one in (given.get("aria-labelledby") or "").split() if one in self.ids]
        own = "" if node.tag in ("input", "select", "textarea") else _words(node)
        found = (
            given.get("aria-label")
            or " ".join(map(_words, named))
            or self.labels.get(given.get("id"))
            or (_label_near(node) if node.tag in ("input", "select", "textarea") else own)
            or given.get("placeholder")
            or given.get("title")
            or given.get("alt")
            or ""
        )
        return " ".join(found.split())[:LABEL_LENGTH]

    def name(self, wanted: str) -> str:
        return _unique(wanted, self.controls)

    def value_name(self, wanted: str) -> str:
        return _unique(wanted, self.values)

    def refer(self, given: dict[str, str | None], element: Element) -> None:
        if given.get("id"):
            self.elements.setdefault(str(given["id"]), element)
        if given.get(NODE_MARK):
            self.elements[f"@{given[NODE_MARK]}"] = element


def _kind(tag: str, given: dict[str, str | None]) -> ControlKind | None:
    if tag == "input":
        kind = (given.get("type") or "text").lower()
        if kind == "hidden":
            return None
        return "select" if kind == "radio" else _TYPES.get(kind, "text")
    if tag == "select":
        return "select"
    role = _ROLES.get(given.get("role") or "")
    if role is not None:
        return role
    if tag in _TAGS:
        return _TAGS[tag]
    if (given.get("contenteditable") or "false").lower() != "false" or given.get("contenteditable", "x") is None:
        return "text"
    return "button" if tag not in ("tr", "body", "form", "label") and _clickable(given) else None


def _clickable(given: dict[str, str | None]) -> bool:
    return "onclick" in given or CLICK_MARK in given


def _is_hidden(given: dict[str, str | None]) -> bool:
    return (
        "hidden" in given
        or HIDDEN_MARK in given
        or given.get("aria-hidden") == "true"
        or bool(_NOT_SEEN.search(given.get("style") or ""))
    )


def _holds_data(node: LexborNode, given: dict[str, str | None]) -> bool:
    """Tell a table of data from one that lays out a form."""
    return (
        given.get("role") not in ("presentation", "none")
        and node.css_first("td") is not None
        and node.css_first("table table, input:not([type=checkbox]), select, textarea") is None
    )


def _label_near(node: LexborNode) -> str:
    """Return the text of the label that encloses an input, or stands just before it and names no other."""
    parent = node.parent
    while parent is not None:
        if parent.tag == "label":
            return _words(parent)
        parent = parent.parent
    before = node.prev
    while before is not None and before.tag == "-text" and not (before.text_content or "").strip():
        before = before.prev
    if before is None or before.tag != "label" or before.attributes.get("for"):
        return ""
    return _words(before) if before.css_first("input, select, textarea") is None else ""


def _texts(node: LexborNode) -> Iterator[str]:
    for child in node.iter(include_text=True):
        if child.tag == "-text":
            yield child.text_content or ""
        elif child.tag not in _UNSEEN and child.tag not in ("select", "textarea") and not _is_hidden(child.attributes):
            if child.tag in _BLOCKS:
                yield " "
            yield from _texts(child)


def _words(node: LexborNode) -> str:
    """Return the visible text of a node, with single spaces."""
    return " ".join("".join(_texts(node)).split())


def _slug(label: str) -> str:
    return _NO_WORD.sub("_", label.lower()).strip("_")[:40]


def _unique(wanted: str, taken: Any) -> str:
    if wanted not in taken:
        return wanted
    number = 2
    while f"{wanted}-{number}" in taken:
        number += 1
    return f"{wanted}-{number}"


def _number(typed: str | None) -> Arg:
    try:
        number = float(typed or "")
    except ValueError:
        return typed
    return int(number) if number.is_integer() and "." not in (typed or "") else number
