"""Checks on sessions: every problem is told as (file, session, step, rule, value), nothing is dropped in silence.

`RULES` is the one table of the rules checked here, with their meaning and whether a session that breaks one is kept out
of the store. Readers add rules of their own for what they meet before there is a session (corrupt JSON, missing keys);
`READER_RULES` names the usual ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args

import msgspec

from handrail.envs.normalize import normalize_text, same_action
from handrail.envs.schema import (
    Action,
    Actor,
    Constraint,
    Control,
    Feedback,
    Message,
    Problem,
    Result,
    Role,
    Session,
)


class Rule(NamedTuple):
    """One rule: its name, what breaking it means, and whether that quarantines the session."""

    name: str
    meaning: str
    quarantines: bool


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("empty_id", "the session has no id or no issue", True),
        Rule("duplicate_id", "the id was used before in this source", True),
        Rule("no_steps", "the session has no step, so nothing to learn from or to store", True),
        Rule("wrong_type", "a value does not have the type of its field", True),
        Rule("step_index", "step indices do not count up from 0", True),
        Rule("no_tool", "an action names no tool", True),
        Rule("unknown_actor", f"an actor is none of {', '.join(get_args(Actor))}", True),
        Rule("unknown_role", f"a message's role is none of {', '.join(get_args(Role))}", True),
        Rule("time_backwards", "an event, draft or action is earlier than what came before it", True),
        Rule("time_not_finite", "a time is infinite or not a number", True),
        Rule("verdict_mismatch", "accept of what was not executed, reject of what was, or a false correction", True),
        Rule("not_storable", "a value that JSON cannot express, e.g. half of a surrogate pair", True),
        Rule("target_not_on_screen", "the action's target is none of the controls of its state", False),
        Rule("target_disabled", "the action's target was disabled", False),
        Rule("duplicate_control", "two controls of one kind on a screen have one id", False),
        Rule("unknown_field", "an argument is no field of the form", False),
        Rule("option_not_offered", "a value is none of the options of its select", False),
        Rule("required_field_missing", "a required field of a submitted form is absent", False),
    )
}
"""Rules checked on sessions, by name."""

READER_RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("unreadable_file", "the file cannot be opened or is no text", True),
        Rule("corrupt_json", "the file is no JSON", True),
        Rule("missing_key", "a key that every file needs is absent", True),
        Rule("no_events", "nothing happened in the session", True),
        Rule("no_operator_action", "no operator acted in the session", True),
        Rule("no_snapshot", "something was done on a page that was never recorded", True),
        Rule("unknown_element", "something was done with an element that the recorded page does not have", True),
        Rule("reader_failed", "the reader met something it has no rule for; please report it", True),
    )
}
"""Rules that readers share, by name; a reader may add its own."""

_ACTORS = frozenset(get_args(Actor))
_ROLES = frozenset(get_args(Role))
_TIMES = (float, int, type(None))
_VALUE_LENGTH = 200


class Validator:
    """Checks the sessions of one source, one after the other.

    Args:
        seen: ids met before, e.g. in the part of a source that an earlier process ingested.

    Attributes:
        seen: ids met so far. This set is the only thing that grows with the number of sessions.
    """

    def __init__(self, seen: Iterable[str] = ()) -> None:
        self.seen = set(seen)
        self._screens: dict[int, tuple[tuple[Control, ...], _Screen]] = {}

    def check(self, session: Session) -> list[Problem]:
        """Return the problems of a session, in the order of `RULES` within each step; remember its id.

        A session one of whose problems has `quarantined=True` does not belong in a store.
        """
        problems = [
            Problem(_short(session.file), _short(session.id), step, rule, _short(value), RULES[rule].quarantines)
            for step, rule, value in self._problems(session)
        ]
        if isinstance(session.id, str):
            self.seen.add(session.id)
        return problems

    def _problems(self, session: Session) -> Iterator[tuple[int, str, Any]]:
        wrong = [(name, value) for name, value in _texts(session) if not isinstance(value, str)]
        for name, value in wrong:
            yield -1, "wrong_type", f"{name} is {value!r}"
        wrong_tail = list(_wrong_events(session.tail, "tail event"))
        for value in wrong_tail:
            yield len(session.steps), "wrong_type", value
        if wrong or wrong_tail:
            return
        if not session.id or not session.issue:
            yield -1, "empty_id", f"id {session.id!r}, issue {session.issue!r}"
        if session.id in self.seen:
            yield -1, "duplicate_id", session.id
        if not session.steps:
            yield -1, "no_steps", "0 steps"
        latest = -math.inf
        controls: tuple[Control, ...] | None = None
        told: set[int] = set()
        for number, step in enumerate(session.steps):
            if not _well_typed(step):
                for value in _wrong_types(step):
                    yield number, "wrong_type", value
                continue
            if step.index != number:
                yield number, "step_index", f"index {step.index} at position {number}"
            if not step.action.tool:
                yield number, "no_tool", f"target {step.action.target!r}"
            if step.actor not in _ACTORS:
                yield number, "unknown_actor", step.actor
            if step.feedback is not None and (mismatch := _verdict_mismatch(step.feedback, step.action)):
                yield number, "verdict_mismatch", mismatch
            for event in step.events:
                if type(event) is Message and event.role not in _ROLES:
                    yield number, "unknown_role", event.role
                time = event.time
                if time is not None:
                    if latest <= time < math.inf:
                        latest = time
                    else:
                        latest, problem = _clock(time, latest)
                        yield number, *problem
            for draft in step.drafts:
                if draft.time is not None and step.time is not None and draft.time > step.time:
                    yield number, "time_backwards", f"draft at {draft.time}, action at {step.time}"
            time = step.time
            if time is not None:
                if latest <= time < math.inf:
                    latest = time
                else:
                    latest, problem = _clock(time, latest)
                    yield number, *problem
            if step.state.controls is not controls:
                controls = step.state.controls
                screen = self._screen(controls)
                if screen.duplicates and id(controls) not in told:
                    told.add(id(controls))
                    yield number, "duplicate_control", ", ".join(screen.duplicates)
            if step.action.target and step.action.target not in screen.simple:
                for rule, value in screen.problems(step.action, step.critical):
                    yield number, rule, value
        for event in session.tail:
            if type(event) is Message and event.role not in _ROLES:
                yield len(session.steps), "unknown_role", event.role
            if event.time is not None and not latest <= event.time < math.inf:
                latest, problem = _clock(event.time, latest)
                yield len(session.steps), *problem
            elif event.time is not None:
                latest = event.time

    def _screen(self, controls: tuple[Control, ...]) -> _Screen:
        known = self._screens.get(id(controls))
        if known is not None:
            return known[1]
        if len(self._screens) >= 256:
            self._screens.clear()
        screen = _Screen(controls)
        # The tuple is kept so that no other can get its address while the entry lives.
        self._screens[id(controls)] = (controls, screen)
        return screen


def validate(session: Session) -> list[Problem]:
    """Return the problems of one session by itself (so no duplicated ids)."""
    return Validator().check(session)


class Report(msgspec.Struct):
    """What came of validating a source, or a part of it.

    Attributes:
        kept: sessions in the store.
        steps: steps of these.
        quarantined: sessions kept out.
        rules: number of problems by rule.
        handled: how often the reader applied a rule of its own for an oddity that is no problem, by rule.
        problems: one line a problem.
    """

    kept: int = 0
    steps: int = 0
    quarantined: int = 0
    rules: dict[str, int] = {}
    handled: dict[str, int] = {}
    problems: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Take up one problem. Whether it costs a session is for the caller to count."""
        self.rules[problem.rule] = self.rules.get(problem.rule, 0) + 1
        self.problems.append(problem)

    def count(self, other: Report) -> None:
        """Add the numbers of `other`, not its problems."""
        self.kept += other.kept
        self.steps += other.steps
        self.quarantined += other.quarantined
        self.rules = dict(Counter(self.rules) + Counter(other.rules))
        self.handled = dict(Counter(self.handled) + Counter(other.handled))

    def summary(self) -> str:
        """Return the report for a terminal: totals, then a line a rule, the most frequent first."""
        lines = [f"{self.kept:,} sessions kept ({self.steps:,} steps), {self.quarantined:,} quarantined"]
        known = {**READER_RULES, **RULES}
        width = max((len(name) for name in (*self.rules, *self.handled)), default=0)
        for title, counts in (("problems", self.rules), ("oddities handled by rule", self.handled)):
            if not counts:
                continue
            lines.append(f"{title}:")
            for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
                meaning = known[name].meaning if name in known and counts is self.rules else ""
                lines.append(f"  {count:>9,}  {name:<{width}}  {meaning}".rstrip())
        return "\n".join(lines)


def rules_table() -> str:
    """Return the rules as a Markdown table, for the documentation."""
    lines = ["| rule | meaning | quarantines |", "|---|---|---|"]
    for rule in {**READER_RULES, **RULES}.values():
        lines.append(f"| `{rule.name}` | {rule.meaning} | {'yes' if rule.quarantines else 'no'} |")
    return "\n".join(lines)


class _Screen:
    """The controls of a screen, ready for look-up."""

    def __init__(self, controls: tuple[Control, ...]) -> None:
        self.controls: dict[str, Control] = {}
        self.forms: dict[str, tuple[frozenset[str], list[str], dict[str, frozenset[str]]]] = {}
        duplicates: dict[str, None] = {}
        kinds: set[tuple[str, str]] = set()
        for control in controls:
            if (control.kind, control.id) in kinds:
                duplicates[control.id] = None
                continue
            kinds.add((control.kind, control.id))
            self.controls.setdefault(control.id, control)
            if control.kind == "form":
                self.forms[control.id] = (
                    frozenset(field.id for field in control.fields),
                    [field.id for field in control.fields if field.required],
                    {field.id: _options(field) for field in control.fields if field.options},
                )
            for field in control.fields:
                self.controls.setdefault(f"{control.id}.{field.id}", field)
        self.duplicates = list(duplicates)
        # Most targets (reply templates) have nothing that could be wrong.
        self.simple = {name for name, c in self.controls.items() if c.enabled and not c.options and c.kind != "form"}

    def problems(self, action: Action, critical: bool) -> list[tuple[str, str]]:
        target = action.target
        control = self.controls.get(target)
        if control is None:
            return [("target_not_on_screen", target)]
        found = [] if control.enabled else [("target_disabled", target)]
        if control.kind == "form" and action.tool == "submit_form":
            fields, required, options = self.forms[target]
            if not action.args.keys() <= fields:
                found += [("unknown_field", f"{target}.{name}") for name in sorted(action.args.keys() - fields)]
            for name, offered in options.items():
                if name in action.args:
                    found += _not_offered(f"{target}.{name}", offered, action.args[name])
            if critical:
                found += [("required_field_missing", f"{target}.{n}") for n in required if n not in action.args]
        elif control.options:
            for value in action.args.values():
                found += _not_offered(target, _options(control), value)
        return found


def _options(control: Control) -> frozenset[str]:
    return frozenset(map(normalize_text, control.options))


def _not_offered(place: str, options: frozenset[str], value: Any) -> list[tuple[str, str]]:
    texts = (value,) if type(value) is str else _operands(value)
    return [("option_not_offered", f"{place} = {text}") for text in texts if normalize_text(text) not in options]


def _operands(value: Any) -> Iterator[str]:
    if isinstance(value, Constraint):
        yield from _operands(value.value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _operands(item)
    elif isinstance(value, str):
        yield value


def _verdict_mismatch(feedback: Feedback, action: Action) -> str:
    """Return what contradicts the definition of a verdict, or nothing."""
    suggestion, correction = feedback.suggestion, feedback.correction
    if feedback.verdict not in ("accept", "reject"):
        return f"verdict {feedback.verdict!r}"
    same = suggestion is not None and same_action(suggestion, action)
    if same != (feedback.verdict == "accept"):
        return f"{feedback.verdict} of {_name(suggestion)}, executed {_name(action)}"
    if correction is not None and (same or not same_action(correction, action)):
        return f"{feedback.verdict} with correction {_name(correction)}, executed {_name(action)}"
    return ""


def _name(action: Action | None) -> str:
    return "nothing known" if action is None else f"{action.tool} {action.target} {action.args or ''}".rstrip()


def _clock(time: float, latest: float) -> tuple[float, tuple[str, str]]:
    """Return the time to compare with next, and what is wrong with one that is not in `[latest, inf)`.

    Each time is compared with the one just before it, so that one wrong stamp is one problem, not one for every
    later event.
    """
    if math.isfinite(time):
        return time, ("time_backwards", f"{time} after {latest}")
    return latest, ("time_not_finite", str(time))


def _texts(session: Session) -> Iterator[tuple[str, Any]]:
    for name in ("id", "source", "issue", "operator", "brief", "file"):
        yield name, getattr(session, name)


def _well_typed(step: Any) -> bool:
    """Tell whether no field would break a comparison or a column of the store; msgspec checks on decoding only."""
    action, state = step.action, step.state
    if (
        type(step.index) is int
        and type(step.critical) is bool
        and type(step.time) in _TIMES
        and type(action.tool) is type(action.target) is type(state.screen) is type(step.actor) is str
        and type(action.args) is dict
        and (state.procedure is None or type(state.procedure) is str)
    ):
        for event in step.events:
            kind = type(event)
            if (kind is not Result and (kind is not Message or type(event.text) is not str)) or type(
                event.time
            ) not in _TIMES:
                return False
        return all(type(draft.text) is str and type(draft.time) in _TIMES for draft in step.drafts)
    return False


def _wrong_types(step: Any) -> Iterator[str]:
    """Yield the fields for which `_well_typed` fails."""
    action, state = step.action, step.state
    if type(step.index) is not int:
        yield f"index is {step.index!r}"
    if type(step.critical) is not bool:
        yield f"critical is {step.critical!r}"
    if type(step.time) not in _TIMES:
        yield f"time is {step.time!r}"
    if type(step.actor) is not str:
        yield f"actor is {step.actor!r}"
    if type(action.tool) is not str or type(action.target) is not str or type(action.args) is not dict:
        yield f"action is {action!r}"
    if type(state.screen) is not str or not (state.procedure is None or type(state.procedure) is str):
        yield f"screen is {state.screen!r}, procedure is {state.procedure!r}"
    yield from _wrong_events(step.events, "event")
    yield from _wrong_events(step.drafts, "draft")


def _wrong_events(events: tuple[Any, ...], name: str) -> Iterator[str]:
    for event in events:
        if type(event) is Message:
            if type(event.text) is not str or type(event.time) not in _TIMES:
                yield f"{name} is {event!r}"
        elif type(event) is not Result or type(event.time) not in _TIMES:
            yield f"{name} is {event!r}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    # A report is JSON text too: half a surrogate pair must not keep it from being written.
    return text[:_VALUE_LENGTH].encode(errors="replace").decode()
