"""The desk as plain text, for terminals and logs (`render_mode="ansi"`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from handrail.envs.bpm.html import INPUTS
from handrail.envs.schema import Arg, Control, Event, Message, UIState

_TITLES = {
    "link": "screens",
    "tab": "procedures",
    "message_box": "message",
    "button": "buttons",
}


def render(state: UIState, chat: Sequence[Event] = ()) -> str:
    """Return a state and its chat as lines of text.

    Ids come first, since they are what actions name; controls that are not enabled are in brackets.
    """
    lines = [f"screen {state.screen} · procedure {state.procedure or 'none'} · {len(state.controls)} controls"]
    for event in chat:
        if isinstance(event, Message):
            lines.append(f"  {event.role}: {event.text}")
        else:
            lines.append(f"  result of {event.source}: {_json(event.item) if event.item else 'nothing found'}")
    placed: set[str] = set()
    rows: list[str] = []
    for control in state.controls:
        if control.kind == "table":
            rows.append(f"{_id(control)} {control.label}:")
            for key in control.options:
                name = f"{control.id}.{key}"
                placed.add(name)
                mark = "*" if state.selected == {"table": control.id, "item": key} else "-"
                rows.append(f"  {mark} {key}  {_content(state.values.get(name, ''))}")
        elif control.kind in INPUTS:
            placed.add(control.id)
            content = _content(state.values[control.id]) if control.id in state.values else ""
            choices = f" ({' | '.join(control.options)})" if control.options else ""
            rows.append(f"{_id(control)}{' *' if control.required else ''} {control.label}{choices}: {content}")
        elif control.kind == "template":
            rows.append(f"{_id(control)} {control.label}")
    for name, value in state.values.items():
        if name not in placed:
            lines.append(f"{name} = {_content(value)}")
    lines += rows
    for kind, title in _TITLES.items():
        found = [_id(control) for control in state.controls if control.kind == kind]
        if found:
            lines.append(f"{title}: {', '.join(found)}")
    return "\n".join(lines)


def _id(control: Control) -> str:
    return control.id if control.enabled else f"[{control.id}]"


def _content(value: Arg) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
