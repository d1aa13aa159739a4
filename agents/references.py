"""Short names for what can be copied, so that a small model learns to copy in one step.

To enter a number from the chat, a model has to find it and write it digit by digit, each found again in its place. In a
transcript with references every word said that holds a digit, every row of a table and every quantity on the screen is
followed by a name, and so are words with capitals around a number, such as an address. An action that uses one says
its name:

    <|customer|>the pin is 9925 d4 ref17<|action|>set_field verify.pin<|field|>value<|is|>d4 ref17<|end|>

A name comes after what it stands for, so that where it is read the whole word has been read (a causal model cannot know
at its first digit that a number is a PIN). Names follow from the text alone: what is the same gets the same name, what
comes first is named first, and where in the circle of `NAMES` a session begins depends on its first text, so that no
name stands for the same thing in all sessions. Values on the screen that are the same as something named are followed
by its name too. Actions that hold something without a name are written as they are.

Before a name stands a mark, which tells it from others, and an action says the mark as well: choosing is choosing a
mark, and what followed it is copied, which models learn early. The mark of something said is its shape, letters and
numbers of digits, and the how manyth of this shape it is (`d4`, then `d4_2`: a field wants one shape, and mostly what
was said last), with `we_` before it if an operator said it; that of a row, how many of the words that tell it from
other rows were said (`said2`); that of a quantity on the screen, the last part of its control's id.

Decisions often hang on a number being over or under another. Numbers and days on the screen are followed by how they
compare with the one that the customer said last (`more`, `less`, `same`), and numbers by how many digits they have and
which is the first (`m31` for 143), which a small model would have to work out digit by digit:

    <|screen|>card.limit = 1500 m41 less limit ref3 ; card.last_used = 2025-03-15 more
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from handrail.envs.normalize import normalize_text, normalize_value
from handrail.envs.schema import Action, Arg, Control, Event, Message, Session, Step, UIState

NAMES = 64
"""How many things have a name in one session; later ones have none."""

_MOST = 4
"""Counts are written up to here."""

_WORD = re.compile(r"\w+(?:[-./]\w+)*")
_DIGIT = re.compile(r"\d")
_PARTS = re.compile(r"[-./]")
_RUNS = re.compile(r"\d+|[^\W\d_]+")
_NUMBER = re.compile(r"(?:0|[1-9]\d*)(?:\.\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAMED = re.compile(r"\S+(?: \S+ ref\d+)+")
_NAME = re.compile(r" \S+ ref\d+")


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
        self._words: set[str] = set()
        self._said: dict[str, str] = {}
        self._row: dict[str, str] = {}
        self._latest: dict[str, tuple[str, int]] = {}
        self._size: dict[str, float] = {}
        self._tables: dict[tuple[int, tuple[tuple[str, ...], ...]], tuple[tuple[Control, ...], ...]] = {}

    def copy(self) -> References:
        """Return the same names, to go on with independently."""
        other = References()
        other.names, other.meant, other._start = dict(self.names), dict(self.meant), self._start
        other._words, other._latest, other._tables = set(self._words), dict(self._latest), self._tables
        other._said, other._row, other._size = dict(self._said), dict(self._row), dict(self._size)
        return other

    def see(self, events: Sequence[Event], state: UIState) -> tuple[tuple[Event, ...], UIState]:
        """Return what arrived and the screen with names in them; what is new is named."""
        said = tuple(
            msgspec.structs.replace(event, text=self._written(event.text, event.role == "customer"))
            if isinstance(event, Message) and event.role in ("customer", "operator")
            else event
            for event in events
        )
        return said, self._shown(state)

    def named(self, action: Action) -> Action:
        """Return an action with names for what has one."""
        if action.tool not in ("set_field", "select_item"):
            return action
        marks = self._row if action.tool == "select_item" else {**self._row, **self._said}
        args: dict[str, Arg] = {}
        for field, value in action.args.items():
            name = self._name(value)
            args[field] = value if name is None or name not in marks else f"{marks[name]} {name}"
        return Action(action.tool, action.target, args)

    def plain(self, action: Action) -> Action:
        """Return an action with what its names stand for."""
        if action.tool not in ("set_field", "select_item"):
            return action
        args: dict[str, Arg] = {}
        for field, value in action.args.items():
            words = normalize_text(value).split() if isinstance(value, str) else []
            args[field] = self.meant.get(words[1], value) if len(words) == 2 else value
        return Action(action.tool, action.target, args)

    def _name(self, value: Arg) -> str | None:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return self.names.get(_key(str(normalize_value(value))))
        return None

    def _given(self, text: str) -> str | None:
        """Return the name of a text, a new one if there is one left."""
        key = _key(text)
        name = self.names.get(key)
        if name is None and len(self.names) < NAMES:
            if self._start is None:
                self._start = zlib.crc32(text.encode())
            # 27 and NAMES have no common divisor: every name comes once before any comes again.
            name = f"ref{(self._start + 27 * len(self.names)) % NAMES}"
            self.names[key], self.meant[name] = name, text
        return name

    def _written(self, text: str, customer: bool) -> str:
        if self._start is None:
            self._start = zlib.crc32(text.encode())
        parts: list[str] = []
        run: list[str] = []
        phrase: list[re.Match[str]] = []
        end = 0
        for match in _WORD.finditer(text):
            word, between = match.group(), text[end : match.start()]
            number = _DIGIT.search(word) is not None
            if run and (between != " " or not number):
                self._close(run, parts, customer)
            capital = word[0].isupper()
            if between not in (" ", ", ") or not (number or capital):
                self._end(phrase, text, parts, customer)
            parts.append(between)
            parts.append(word)
            if number or capital:
                phrase.append(match)
            end = match.end()
            if customer:
                self._words.add(_key(word))
                if (measured := _measure(word)) is not None:
                    self._size[measured[0]] = measured[1]
            if number:
                run.append(word)
                parts.append(self._mentioned(word, _shape(word), customer))
        self._close(run, parts, customer)
        self._end(phrase, text, parts, customer)
        return "".join([*parts, text[end:]])

    def _close(self, run: list[str], parts: list[str], customer: bool) -> None:
        """Name several numbers that stand together as one as well: account and telephone numbers come in groups."""
        if len(run) > 1:
            text = " ".join(run)
            parts.append(self._mentioned(text, _shape(text), customer))
        run.clear()

    def _end(self, phrase: list[re.Match[str]], text: str, parts: list[str], customer: bool) -> None:
        """Name words with capitals and numbers that stand together, if there are at least two and one of them."""
        numbers = sum(_DIGIT.search(match.group()) is not None for match in phrase)
        if numbers and len(phrase) - numbers > 1:
            parts.append(self._mentioned(text[phrase[0].start() : phrase[-1].end()], "phrase", customer))
        phrase.clear()

    def _mentioned(self, text: str, shape: str, customer: bool) -> str:
        """Return the name of something said, after its shape and how many things of this shape were said before it.

        What the customer had said keeps its mark when the operator repeats it.
        """
        name = self._given(text)
        if name is None:
            return ""
        if not customer:
            shape = f"we_{shape}"
            if name in self._said:
                return f" {self._said[name]} {name}"
        last, count = self._latest.get(shape, ("", 0))
        if last != name:
            count += 1
            self._latest[shape] = name, count
            self._said[name] = shape if count == 1 else f"{shape}_{min(count, _MOST)}"
        return f" {self._said[name]} {name}"

    def _shown(self, state: UIState) -> UIState:
        inputs = {control.id for control in state.controls if control.kind in ("text", "number")}
        values: dict[str, Arg] = {}
        for control, value in state.values.items():
            name = self._name(value)
            if control not in inputs:
                values[control] = self._told(control, value, name)
            elif name is None:
                values[control] = value
            else:
                # What was entered is written as in the action that entered it.
                values[control] = f"{self._said.get(name, '')} {name}".strip()
        for table in state.controls:
            if table.kind == "table":
                values.update(self._rows(table, state.values))
        return msgspec.structs.replace(state, controls=self._offered(state), values=values)

    def _told(self, control: str, value: Arg, name: str | None) -> Arg:
        """Return a value that the screen tells, with its size, how it compares with what was said, and its name."""
        text = str(normalize_value(value))
        measured = None if isinstance(value, bool) else _measure(text)
        if measured is None:
            return value if name is None else f"{value} {name}"
        kind, size = measured
        marks = [str(value)]
        if kind == "number":
            digits = str(int(size))
            marks.append(f"m{len(digits)}{digits[0]}")
        if kind in self._size:
            said = self._size[kind]
            marks.append("same" if size == said else "more" if size > said else "less")
        if name is None and kind == "number" and len(text) > 1:
            name = self._given(text)
            if name is not None:
                self._said[name] = control.rpartition(".")[2]
        if name is not None:
            marks.append(f"{self._said.get(name, '')} {name}".strip())
        return " ".join(marks)

    def _rows(self, table: Control, values: Mapping[str, Arg]) -> Iterator[tuple[str, Arg]]:
        """Yield the rows of a table with their names, and before it how much of what tells them apart was said."""
        shown = {row: str(text) for row in table.options if isinstance(text := values.get(f"{table.id}.{row}"), str)}
        words = {
            row: {_key(word) for word in (row, *_PARTS.split(row), *_WORD.findall(text))} for row, text in shown.items()
        }
        common = set.intersection(*words.values()) if len(words) > 1 else set()
        for row, text in shown.items():
            if (name := self._given(row)) is not None:
                said = len((words[row] - common) & self._words)
                self._row[name] = f"said{min(said, _MOST)}"
                yield f"{table.id}.{row}", f"{text} {self._row[name]} {name}"

    def _offered(self, state: UIState) -> tuple[Control, ...]:
        """Return the controls with named rows; the same screen gives the same object, which grammars are kept by."""
        if not any(control.kind == "table" and control.options for control in state.controls):
            return state.controls
        rows = tuple(
            tuple(
                f"{self._row[name]} {name}" if (name := self.names.get(_key(row))) in self._row else row
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


def named_parts(text: str) -> str:
    """Return what has a name in a text, with the names."""
    return " ".join(_NAMED.findall(text))


def unnamed(text: str) -> str:
    """Return a text without the names in it."""
    return _NAME.sub("", text)


def _measure(word: str) -> tuple[str, float] | None:
    """Return the kind and size of a number or a day; numbers that begin with a zero are no quantities."""
    if _NUMBER.fullmatch(word):
        return "number", float(word)
    if _DAY.fullmatch(word):
        return "day", float(word.replace("-", ""))
    return None


def _key(text: str) -> str:
    return normalize_text(text)


def _shape(text: str) -> str:
    """Return letters and numbers of digits, e.g. `c_d6` for `C-517296`."""
    parts = (f"d{len(part)}" if part.isdigit() else part[:4] for part in _RUNS.findall(text.lower()))
    return "_".join(parts)
