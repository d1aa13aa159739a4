"""What a screen offers: which actions its controls allow, for constrained decoding, sampling and counting choices."""

from __future__ import annotations

from typing import NamedTuple

from handrail.envs.schema import Control, ControlKind

_TOOL: dict[ControlKind, str] = {
    "template": "send_reply",
    "message_box": "send_message",
    "form": "submit_form",
    "tab": "open_procedure",
    "table": "select_item",
    "row": "select_item",
    "button": "click",
    "link": "navigate",
    "text": "set_field",
    "number": "set_field",
    "select": "set_field",
    "checkbox": "set_field",
}
_TEXT = (Control("text", "text", required=True),)
_ITEM = (Control("result", "number"), Control("slot", "text"), Control("item", "text"))


class Offer(NamedTuple):
    """One kind of action a screen allows: `tool` on `target`, with these fields to fill."""

    tool: str
    target: str
    fields: tuple[Control, ...]


def offers(controls: tuple[Control, ...]) -> list[Offer]:
    """Return what enabled controls allow, in screen order."""
    found = []
    for control in controls:
        if not control.enabled:
            continue
        if control.kind == "form":
            fields = control.fields
        elif control.kind == "message_box":
            fields = _TEXT
        elif control.kind == "table":
            rows = (Control("item", "select", options=control.options, required=True),)
            fields = rows if control.options else _ITEM
        elif _TOOL[control.kind] == "set_field":
            fields = (Control("value", control.kind, options=control.options, required=True),)
        else:
            fields = ()
        found.append(Offer(_TOOL[control.kind], control.id, fields))
    return found
