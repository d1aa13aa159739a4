"""A person at a terminal as operator: they see the desk as text, and accept, correct or act with keys.

| key | does |
|---|---|
| `a` | accepts the suggestion |
| `c` | lists what can be done instead |
| `r` `f` `b` `t` `s` `p` `m` | a reply, field, button, table row, screen or procedure to choose, or a message |
| `ID`, `ID=VALUE` | acts on a control by its id: `find_customer`, `find_customer.number=C-433126` |
| `l` `h` `?` | the screen again, the whole chat, help |
| `q` | leaves the desk, at every prompt |

What the screen does not take is answered in place, before it is done: a wrong key, an id that is not there, a value of
the wrong kind. Whether the action is wise is the operator's affair.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from handrail.agents.operators.expert import Expert
from handrail.agents.operators.verdicts import Cause, Review, is_right
from handrail.envs.bpm import ansi
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.screen import content
from handrail.envs.errors import nearest
from handrail.envs.normalize import normalize_text
from handrail.envs.offers import Offer, offers
from handrail.envs.schema import Action, Event, Feedback, UIState

RECENT = 8
"""Events of the chat that a screen is shown with."""

_NARROWEST, _WIDEST = 40, 120
_CLEAR = '""'
_WAYS = {
    "r": ("send_reply", "send a reply"),
    "f": ("set_field", "fill in a field"),
    "b": ("click", "press a button"),
    "t": ("select_item", "select a row"),
    "s": ("navigate", "go to a screen"),
    "p": ("open_procedure", "open a procedure"),
    "m": ("send_message", "write a message"),
}
_LOOKS = {"l": "the screen again", "h": "the whole chat", "?": "this help", "q": "quit; what was done is kept"}


class LeaveError(Exception):
    """The person leaves the desk; the session is as they leave it."""


@dataclass(frozen=True)
class Console:
    """Reads and writes lines.

    Args:
        read: shows a prompt and returns a line; raises EOFError where there is none any more.
        write: shows a line.
        columns: width; that of the terminal, between 40 and 120, if left out.
    """

    read: Callable[[str], str] = input
    write: Callable[[str], None] = print
    columns: int | None = None

    @property
    def width(self) -> int:
        """Columns to fill."""
        return self.columns or max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))

    def ask(self, prompt: str) -> str:
        """Return what is typed, without white space around it.

        Raises:
            LeaveError: `q` was typed, or nothing can be typed any more.
        """
        try:
            typed = self.read(prompt)
        except EOFError:
            raise LeaveError from None
        # Bytes that are no text arrive as lone surrogates, which no store takes.
        text = typed.encode("utf-8", "replace").decode().strip()
        if text.lower() == "q":
            raise LeaveError
        return text

    def say(self, text: str) -> None:
        """Show lines, wrapped; what does not fit a line goes on under its text."""
        for line in text.splitlines():
            margin = " " * (len(line) - len(line.lstrip()) + 4)
            for piece in _wrapped(line, self.width, margin) or [""]:
                self.write(piece)

    def rule(self, title: str) -> None:
        """Show a title on a line across."""
        self.write("")
        self.write(f"── {title} {'─' * self.width}"[: self.width])

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Show rows with their columns under each other; the last one wraps within itself."""
        shown = [list(row) for row in rows]
        widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in shown), strict=True)]
        # A long id pushes its own text to the right, not that of all others.
        widths = [min(width, self.width // 3) for width in widths]
        for *cells, last in shown:
            lead = "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
            margin = " " * (2 + sum(widths) + 2 * len(widths))
            for piece in _wrapped(f"{lead}{last}".rstrip(), self.width, margin):
                self.write(piece)

    def choose(self, names: Sequence[str], about: Sequence[str]) -> int | None:
        """Let one of a list be chosen, by number or name.

        Args:
            names: of the choices.
            about: what is said of each.

        Returns:
            The place of the choice, from 0; None to go back.

        Raises:
            LeaveError: the person quits.
        """
        # Among names that are numbers themselves, a number means the name.
        numbered = not any(name.isdigit() for name in names)
        numbers = [f"{number:>{len(str(len(names)))}}" if numbered else "-" for number in range(1, len(names) + 1)]
        self.table(zip(numbers, names, about, strict=True))
        how = f"a number from 1 to {len(names)}, or a name" if numbered else "a name"
        while True:
            typed = self.ask(f"which? {'number or name' if numbered else 'name'}, Enter to go back: ")
            if not typed:
                return None
            if numbered and typed.isdecimal() and 1 <= int(typed) <= len(names):
                return int(typed) - 1
            found = [place for place, name in enumerate(names) if normalize_text(name) == normalize_text(typed)]
            if found:
                return found[0]
            self.say(f"{typed!r} is none of these; expected {how}{_near(typed, names)}")


@dataclass
class TerminalSeat:
    """A person at one session after the other.

    What they had in mind with a verdict nobody knows. The simulator knows whether the suggestion was right, so a review
    has cause `rubber_stamp` for a wrong one that was accepted, `model_error` for a wrong one that was corrected, and
    `acceptable` for a right one that was corrected, whatever the reason.

    Args:
        name: pseudonym, for the log.
        source: who suggests, for the log.
        console: where they sit.
        judge: shows which suggestions are right.
    """

    name: str
    source: str = "policy"
    console: Console = field(default_factory=Console)
    judge: Expert = field(default_factory=Expert)

    def act(self, env: BPMEnv) -> Action:
        """Return what the person does of themself.

        Raises:
            LeaveError: they quit.
        """
        self._show(env)
        self._list_ways(env)
        return self._decided(env, None)

    def label(self, env: BPMEnv) -> Action:
        """Return what they say should be done, while somebody else acts.

        Raises:
            LeaveError: they quit.
        """
        self._show(env)
        self.console.say("The policy acts at this step. What should be done?")
        self._list_ways(env)
        return self._decided(env, None)

    def review(self, env: BPMEnv, suggestion: Action) -> Review:
        """Let them accept or correct a suggestion; to type in just what is suggested is to accept it.

        Raises:
            LeaveError: they quit.
        """
        self._show(env)
        self._offer(env, suggestion)
        action = self._decided(env, suggestion)
        # What differs in capitals alone the desk may take differently, so only the very same action accepts.
        accepted = _held(env, action) == _held(env, suggestion)
        if accepted and action is not suggestion:
            self.console.say("That is what is suggested: accepted.")
        right = is_right(env.world, suggestion, self.judge)
        critical = env.world.critical(suggestion)
        if accepted:
            feedback = Feedback(suggestion, "accept", source=self.source)
            return Review(suggestion, feedback, "" if right else "rubber_stamp", right, critical)
        cause: Cause = "acceptable" if right else "model_error"
        return Review(action, Feedback(suggestion, "reject", action, source=self.source), cause, right, critical)

    def passed(self, action: Action) -> None:
        """Tell them what ran without them."""
        self.console.say(f"done without you: {told(action)}")

    def truth(self) -> dict[str, Any]:
        """Return nothing: what a person got wrong by oversight, only they could say."""
        return {}

    def _show(self, env: BPMEnv) -> None:
        session, state = env.session(), env.world.state()
        chat = _chat(env)
        self.console.rule(f"{session.issue} · step {len(session.steps)} · {session.id}")
        if len(chat) > RECENT:
            self.console.say(f"({len(chat) - RECENT} earlier messages: h)")
        # Replies are most of a screen, and `r` lists them with their texts.
        shown = tuple(control for control in state.controls if control.kind != "template")
        self.console.say(ansi.render(msgspec.structs.replace(state, controls=shown), chat[-RECENT:]))

    def _offer(self, env: BPMEnv, suggestion: Action) -> None:
        mark = " (critical)" if env.world.critical(suggestion) else ""
        self.console.write("")
        self.console.say(f"suggestion{mark}: {told(suggestion, env.world.state())}")
        self.console.say("a accept · c correct · l screen · h chat · ? help · q quit")

    def _list_ways(self, env: BPMEnv) -> None:
        self.console.write("")
        found = [offer.tool for offer in _offered(env.world.state())]
        rows = [(key, title, f"{found.count(tool)}") for key, (tool, title) in _WAYS.items() if tool in found]
        self.console.table(rows)
        self.console.say("or an id, ID=VALUE to fill in or send · l screen · h chat · ? help · q quit")

    def _help(self, suggested: bool) -> None:
        rows = [("a", "accept the suggestion"), ("c", "correct it: list what can be done instead")] if suggested else []
        rows += [(key, title) for key, (_, title) in _WAYS.items()]
        rows += [("ID", "act on a control by its id: press, open, send, or be asked for the value")]
        rows += [("ID=VALUE", f"fill in a field, select a row, send a message; ID={_CLEAR} clears a field")]
        self.console.table([*rows, *_LOOKS.items(), ("Ctrl-C", _LOOKS["q"])])

    def _decided(self, env: BPMEnv, suggestion: Action | None) -> Action:
        suggested = suggestion is not None
        while True:
            typed = self.console.ask("> ")
            action: Action | None = None
            match typed.lower():
                case "a" if suggestion is not None:
                    return suggestion
                case "a":
                    self.console.say("Nothing is suggested here; choose what to do yourself (? lists the keys).")
                case "c" if suggested:
                    self._list_ways(env)
                case "l":
                    self._show(env)
                    if suggestion is not None:
                        self._offer(env, suggestion)
                case "h":
                    self.console.say(ansi.render(UIState("", None), _chat(env)).partition("\n")[2])
                case "?" | "help":
                    self._help(suggested)
                case key if key in _WAYS:
                    action = self._picked(env, *_WAYS[key])
                case "":
                    keys = "a to accept, c to correct" if suggested else f"a key of {' '.join(_WAYS)}, or an id"
                    self.console.say(f"expected {keys}; ? for help")
                case _:
                    action = self._named(env, typed)
            if action is not None:
                return action

    def _picked(self, env: BPMEnv, tool: str, title: str) -> Action | None:
        """Let one of a tool's offers be chosen."""
        state = env.world.state()
        found = [offer for offer in _offered(state) if offer.tool == tool]
        if not found:
            known = ", ".join(key for key, (other, _) in _WAYS.items() if other in {o.tool for o in _offered(state)})
            self.console.say(f"Nothing here lets you {title}; expected one of {known}, or an id.")
            return None
        if len(found) == 1 and found[0].fields:
            return self._filled(env, found[0], None)
        place = self.console.choose([offer.target for offer in found], [_about(offer, state) for offer in found])
        return None if place is None else self._filled(env, found[place], None)

    def _named(self, env: BPMEnv, typed: str) -> Action | None:
        """Return the action that `ID` or `ID=VALUE` means."""
        state = env.world.state()
        name, equals, value = typed.partition("=")
        name = name.strip()
        offered = _offered(state)
        found = [offer for offer in offered if normalize_text(offer.target) == normalize_text(name)]
        if not found:
            if any(control.id == name for control in state.controls):
                self.console.say(f"{name} cannot be used now; ? for help")
            else:
                known = [offer.target for offer in offered]
                self.console.say(f"{name!r} is no key and no id on this screen{_near(name, known)}; ? for help")
            return None
        if equals:
            found = [offer for offer in found if offer.fields] or found
        place: int | None = 0
        if len(found) > 1:
            place = self.console.choose([offer.tool for offer in found], [_about(offer, state) for offer in found])
        return None if place is None else self._filled(env, found[place], value.strip() if equals else None)

    def _filled(self, env: BPMEnv, offer: Offer, given: str | None) -> Action | None:
        """Return the action with its value: `given`, or what the person types."""
        if not offer.fields:
            if given is not None:
                self.console.say(f"{offer.target} takes no value; type {offer.target} alone")
                return None
            return Action(offer.tool, offer.target)
        input_ = offer.fields[0]
        if offer.tool == "set_field":
            value = self._entered(env, offer, given)
            return None if value is None else Action(offer.tool, offer.target, {"value": value})
        if offer.tool == "select_item":
            rows = input_.options
            about = [_text(env.world.state().values.get(f"{offer.target}.{key}", "")) for key in rows]
            key = self._option(rows, about, given)
            return None if key is None else Action(offer.tool, offer.target, {"item": key})
        text = self.console.ask("message, Enter to go back: ") if given is None else given
        return Action(offer.tool, offer.target, {input_.id: text}) if text else None

    def _entered(self, env: BPMEnv, offer: Offer, given: str | None) -> Any:
        """Return what a field is to hold, None to go back."""
        input_ = env.world.program.forms[offer.target.partition(".")[0]].fields[offer.target].field
        if given == _CLEAR:
            return ""
        if offer.fields[0].options:
            return self._option(offer.fields[0].options, [""] * len(offer.fields[0].options), given)
        takes = {"number": " (a number)", "checkbox": " (true or false)"}.get(input_.kind, "")
        while True:
            typed = self.console.ask(f"{input_.label}{takes}, Enter to go back: ") if given is None else given
            if not typed:
                return None
            if typed == _CLEAR:
                return ""
            try:
                return content(input_, typed)
            except ValueError as error:
                self.console.say(f"{input_.label} {error}, not {typed!r}")
            if given is not None:
                return None

    def _option(self, options: Sequence[str], about: Sequence[str], given: str | None) -> str | None:
        if given is None:
            place = self.console.choose(options, about)
            return None if place is None else options[place]
        for option in options:
            if normalize_text(option) == normalize_text(given):
                return option
        self.console.say(f"{given!r} is not offered; expected one of {', '.join(options)}")
        return None


def told(action: Action, state: UIState | None = None) -> str:
    """Return an action as a line to read, with the label of its control if a state is given."""
    values = [_text(value) for value in action.args.values()]
    text = " ".join([action.tool, action.target, *(["=", *values] if values else [])])
    kinds = {"send_reply": "template", "click": "button", "navigate": "link", "open_procedure": "tab"}
    controls = state.controls if state is not None else ()
    labels = [c.label for c in controls if c.id == action.target and c.kind == kinds.get(action.tool)]
    return f"{text}  “{labels[0]}”" if labels and labels[0] else text


def _held(env: BPMEnv, action: Action) -> tuple[str, str, dict[str, Any]]:
    """Return an action with its value as the desk would hold it: a number may be typed as text."""
    tool, target, args = action.tool, action.target, action.args
    form = env.world.program.forms.get(target.partition(".")[0])
    if tool == "set_field" and form is not None and target in form.fields:
        with suppress(ValueError):
            args = {"value": content(form.fields[target].field, args.get("value"))}
    return tool, target, args


def _offered(state: UIState) -> list[Offer]:
    """Return what can be done; an empty table offers nothing."""
    return [o for o in offers(state.controls) if o.tool != "select_item" or o.fields[0].options]


def _about(offer: Offer, state: UIState) -> str:
    kinds = {"select_item": ("table",), "navigate": ("link",), "open_procedure": ("tab",), "click": ("button",)}
    wanted = kinds.get(offer.tool)
    label = next((c.label for c in state.controls if c.id == offer.target and (not wanted or c.kind in wanted)), "")
    if offer.tool == "set_field" and offer.target in state.values:
        return f"{label}: {_text(state.values[offer.target])}"
    return label


def _chat(env: BPMEnv) -> list[Event]:
    session = env.session()
    return [event for step in session.steps for event in step.events] + list(session.tail)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _wrapped(line: str, width: int, margin: str) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent=margin, break_on_hyphens=False)


def _near(name: str, known: Sequence[str]) -> str:
    """Return the nearest names; of many that are all far off, none."""
    found = nearest(name, known)
    return "" if found.startswith("; known") and len(known) > 12 else found
