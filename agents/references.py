"""Short names for what can be copied, so that a small model learns to copy in one step.

To enter a number from the chat, a model has to find it and write it digit by digit, each found again in its place. In
a transcript with references every word of a message that holds a digit, and every row of a table, is followed by a
name, and an action that uses it says the name:

    <|customer|>the pin is 9925 d4 ref17<|action|>set_field verify.pin<|field|>value<|is|>d4 ref17<|end|>

A name comes after what it stands for, so that where it is read the whole word has been read (a causal model cannot know
at its first digit that a number is a PIN). It begins with the shape of what it stands for, letters and numbers of
digits: a field wants one shape, and what follows the last such shape in the chat is mostly what it wants.

Names follow from the text alone: what is the same gets the same name, what comes first is named first, and where in the
circle of `NAMES` a session begins depends on its first message, so that no name stands for the same thing in all
sessions. Values on the screen that are the same as something named, and rows that show it, are followed by its name
too. Actions that hold something without a name are written as they are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import msgspec

from handrail.envs.normalize import normalize_text, normalize_value
from handrail.envs.schema import Action, Arg, Control, Event, Message, Session, Step, UIState

NAMES = 64
"""How many things have a name in one session; later ones have none."""

_WORD = re.compile(r"\w+(?:[-./]\w+)*")
_DIGIT = re.compile(r"\d")
_PARTS = re.compile(r"[-./]")
_RUNS = re.compile(r"\d+|[^\W\d_]+")


class References:
    """The names of one session, given out as it goes on.

    Attributes:
        names: normalised text -> name.
        meant: name -> text, as it was first seen.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.meant: dict[str, str] = {}
        self._start: int | None = None
        self._tables: dict[tuple[int, tuple[tuple[str, ...], ...]], tuple[tuple[Control, ...], ...]] = {}

    def copy(self) -> References:
        """Return the same names, to go on with independently."""
        other = References()
        other.names, other.meant, other._start = dict(self.names), dict(self.meant), self._start
        other._tables = self._tables
        return other

    def see(self, events: Sequence[Event], state: UIState) -> tuple[tuple[Event, ...], UIState]:
        """Return what arrived and the screen with names in them; what is new is named."""
        said = tuple(
            msgspec.structs.replace(event, text=self._said(event.text)) if isinstance(event, Message) else event
            for event in events
        )
        return said, self._shown(state)

    def named(self, action: Action) -> Action:
        """Return an action with names for what has one."""
        if action.tool not in ("set_field", "select_item"):
            return action
        return Action(action.tool, action.target, {name: self._name(value) for name, value in action.args.items()})

    def plain(self, action: Action) -> Action:
        """Return an action with what its names stand for."""
        if action.tool not in ("set_field", "select_item"):
            return action
        return Action(
            action.tool,
            action.target,
            {n: self.meant.get(normalize_text(v), v) if isinstance(v, str) else v for n, v in action.args.items()},
        )

    def _name(self, value: Arg) -> Arg:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return self.names.get(_key(str(normalize_value(value))), value)
        return value

    def _given(self, text: str) -> str | None:
        """Return the name of a text, a new one if there is one left."""
        key = _key(text)
        name = self.names.get(key)
        if name is None and len(self.names) < NAMES:
            name = f"{_shape(text)} ref{((self._start or 0) + 27 * len(self.names)) % NAMES}"
            self.names[key], self.meant[name] = name, text
        return name

    def _said(self, text: str) -> str:
        if self._start is None:
            self._start = zlib.crc32(text.encode()) % NAMES
        parts: list[str] = []
        run: list[str] = []
        end = 0
        for match in _WORD.finditer(text):
            word, between = match.group(), text[end : match.start()]
            if run and (between != " " or not _DIGIT.search(word)):
                self._close(run, parts)
            parts.append(between)
            parts.append(word)
            end = match.end()
            if _DIGIT.search(word):
                run.append(word)
                parts.append(_after(self._given(word)))
        self._close(run, parts)
        return "".join([*parts, text[end:]])

    def _close(self, run: list[str], parts: list[str]) -> None:
        """Name several numbers that stand together as one as well: account and telephone numbers come in groups."""
        if len(run) > 1:
            parts.append(_after(self._given(" ".join(run))))
        run.clear()

    def _shown(self, state: UIState) -> UIState:
        inputs = {control.id for control in state.controls if control.kind in ("text", "number")}
        values: dict[str, Arg] = {}
        for control, value in state.values.items():
            name = self._name(value)
            # What was entered is written as in the action that entered it.
            values[control] = value if name is value else name if control in inputs else f"{value}{_after(str(name))}"
        for table in state.controls:
            for row in table.options if table.kind == "table" else ():
                shown = values.get(f"{table.id}.{row}")
                if isinstance(shown, str) and (name := self._given(row)) is not None:
                    values[f"{table.id}.{row}"] = f"{self._marked(row, shown)}{_after(name)}"
        return msgspec.structs.replace(state, controls=self._offered(state), values=values)

    def _marked(self, row: str, shown: str) -> str:
        """Return what a row shows, with the names of what was said of it behind it."""
        said = (*_PARTS.split(row), *_WORD.findall(shown))
        marks = dict.fromkeys(name for word in said if (name := self.names.get(_key(word))) is not None)
        return shown + "".join(map(_after, marks))

    def _offered(self, state: UIState) -> tuple[Control, ...]:
        """Return the controls with named rows; the same screen gives the same object, which grammars are kept by."""
        if not any(control.kind == "table" and control.options for control in state.controls):
            return state.controls
        rows = tuple(
            tuple(
                self.names.get(_key(row), row) if f"{control.id}.{row}" in state.values else row
                for row in control.options
            )
            for control in state.controls
            if control.kind == "table"
        )
        key = id(state.controls), rows
        if key not in self._tables:
            named = iter(rows)
            found = tuple(
                msgspec.structs.replace(control, options=next(named)) if control.kind == "table" else control
                for control in state.controls
            )
            # The key is an address: it is only good for as long as what lives there is kept.
            self._tables[key] = state.controls, found
        return self._tables[key][1]


def refer(session: Session) -> tuple[Session, list[References]]:
    """Return a session with names in it, and the names as they were known at each step.

    What each step learns is known from that step on: `references[i]` reads and writes actions of step i.
    """
    known = References()
    steps: list[Step] = []
    at: list[References] = []
    for step in session.steps:
        events, state = known.see(step.events, step.state)
        at.append(known.copy())
        steps.append(msgspec.structs.replace(step, events=events, state=state, action=known.named(step.action)))
    return msgspec.structs.replace(session, steps=tuple(steps)), at


def _key(text: str) -> str:
    return normalize_text(text)


def _shape(text: str) -> str:
    """Return letters and numbers of digits, e.g. `c_d6` for `C-517296`."""
    parts = (f"d{len(part)}" if part.isdigit() else part[:4] for part in _RUNS.findall(text.lower()))
    return "_".join(parts)


def _after(name: str | None) -> str:
    return f" {name}" if name else ""
