"""What a model reads: one append-only text per session.

A session is a header followed by what became visible, in order, and each operator action as
`<|action|>tool target<|field|>name<|is|>value…<|end|>`. Nothing before a position depends on anything after it, so

- `packed`: the whole session is one training sequence, with the loss on action spans;
- `stepwise`: the prefix up to step t is the input at t, cut to the last `window` entries (the paper reads the last 30
  messages). Where the session fits the window, it is exactly the packed prefix.

What the log holds but the operator had not seen, or had not done yet, is never rendered: the typed draft, the options
and the verdict of the current step, its time, the session's tags, outcome and hidden parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from handrail.agents.references import References, named_parts, refer, unnamed
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import normalize_value
from handrail.envs.schema import Action, Constraint, Control, Event, Message, Session, Step, UIState

if TYPE_CHECKING:
    from handrail.envs.spaces import Observation

CASE, SCREEN = "<|case|>", "<|screen|>"
CUSTOMER, OPERATOR, SYSTEM, RESULT, CLOSED = (
    "<|customer|>",
    "<|operator|>",
    "<|system|>",
    "<|result|>",
    "<|closed|>",
)
ACTION, FIELD, IS, JSON, END = "<|action|>", "<|field|>", "<|is|>", "<|json|>", "<|end|>"
SUGGESTION, DRAFT, PAD = "<|suggestion|>", "<|draft|>", "<|pad|>"
MARKERS = (
    PAD,
    CASE,
    SCREEN,
    CUSTOMER,
    OPERATOR,
    SYSTEM,
    RESULT,
    CLOSED,
    ACTION,
    FIELD,
    IS,
    JSON,
    END,
    SUGGESTION,
    DRAFT,
)
"""The tokens a tokenizer keeps whole. User text can never hold one: `escape` breaks them up."""

_ROLE = {"customer": CUSTOMER, "operator": OPERATOR, "system": SYSTEM}


@dataclass(frozen=True)
class TranscriptConfig:
    """How sessions are written.

    Attributes:
        serialisation: `packed` or `stepwise`, see the module's docstring.
        window: how many of the last entries `stepwise` keeps after the header.
        operator: whether the header names the operator.
        brief: whether the header quotes what the operator was told beforehand.
        controls: what the header lists of the screen: nothing, the `ids` of the controls, or also their `labels`.
        replies: whether the text of a sent reply template is quoted after its id.
        result_fields: at most this many fields of a back-end record are quoted.
        references: whether what can be copied has short names (`handrail.agents.references`).
    """

    serialisation: Literal["packed", "stepwise"] = "packed"
    window: int = 30
    operator: bool = True
    brief: bool = True
    controls: Literal["none", "ids", "labels"] = "none"
    replies: bool = False
    result_fields: int = 16
    references: bool = False

    def __post_init__(self) -> None:
        if self.window < 1 or self.result_fields < 0:
            raise HandrailError(
                f"transcript.window={self.window}, transcript.result_fields={self.result_fields}: expected at least 1 "
                "entry and at least 0 fields"
            )


@dataclass(frozen=True)
class Span:
    """A stretch of transcript.

    Attributes:
        text: starts with a marker.
        step: the step it leads up to (context) or is (action); `len(steps)` after the last one.
        action: whether it is an operator's action, the part a policy learns.
    """

    text: str
    step: int
    action: bool = False


def escape(text: str) -> str:
    """Return `text` so that it can hold no marker."""
    return text.replace("<|", "< |")


def _written(value: Any) -> str:
    """Write an argument: plain values as text, operators and lists as JSON after a marker."""
    if isinstance(value, Constraint) and value.op == "is_equal_to":
        value = value.value
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return escape(str(normalize_value(value)) if isinstance(value, float) else str(value).strip())
    return JSON + escape(msgspec.json.encode(value).decode())


def _read(text: str) -> Any:
    """Read an argument back. Text that follows the JSON marker and is no JSON stays text."""
    if not text.startswith(JSON):
        return text.strip()
    try:
        value = msgspec.json.decode(text.removeprefix(JSON).strip().encode())
    except msgspec.DecodeError:
        return text.removeprefix(JSON).strip()
    return value if not isinstance(value, dict) or "op" not in value else _constraint(value)


def _constraint(value: dict[str, Any]) -> Constraint:
    return Constraint(str(value["op"]), value.get("value"))


def write_action(action: Action, field_order: Sequence[str] = ()) -> str:
    """Return the text of an action between `<|action|>` and `<|end|>`, both excluded.

    Fields come in `field_order` (the form's), then the others by name: one action has one text. Fields that hold
    nothing are left out.
    """
    rank = {name: n for n, name in enumerate(field_order)}
    names = sorted(action.args, key=lambda name: (rank.get(name, len(rank)), name))
    head = " ".join(part for part in (escape(action.tool), escape(action.target)) if part)
    filled = ((name, action.args[name]) for name in names if normalize_value(action.args[name]) is not None)
    return head + "".join(f"{FIELD}{escape(name)}{IS}{_written(value)}" for name, value in filled)


def read_action(text: str) -> Action:
    """Parse what `write_action` wrote, or a model did.

    Raises:
        HandrailError: the text has no tool.
    """
    head, *fields = text.split(FIELD)
    parts = head.split(maxsplit=1)
    if not parts:
        raise HandrailError(f"no action in {text[:80]!r}: expected 'tool target' first")
    args = {}
    for field in fields:
        name, _, value = field.partition(IS)
        args[name.strip()] = _read(value)
    return Action(parts[0], parts[1].strip() if len(parts) > 1 else "", args)


class Transcript:
    """Writes sessions as text.

    Args:
        config: what is written.
    """

    def __init__(self, config: TranscriptConfig | None = None) -> None:
        self.config = config or TranscriptConfig()

    def header(self, session: Session) -> Span:
        """Return the case header: what is known before the first event."""
        first = session.steps[0].state if session.steps else None
        return self._header(session.issue, session.operator, session.brief, first)

    def opening(self, observation: Observation, operator: str) -> Span:
        """Return the case header of a running session.

        Args:
            observation: any of the session.
            operator: who works it, or whose way of working the policy is to follow; an observation does not say.
        """
        first = observation.history[0].state if observation.history else observation.state
        return self._header(observation.issue, operator, observation.brief, first)

    def _header(self, issue: str, operator: str, brief: str, first: UIState | None) -> Span:
        parts = [CASE, escape(issue)]
        if self.config.operator:
            parts.append(f"operator_{escape(operator[:8])}")
        if first is not None and first.procedure:
            parts.append(f"procedure {escape(first.procedure)}")
        if self.config.brief and brief:
            parts.append(escape(brief))
        if first is not None and self.config.controls != "none":
            parts.append(SCREEN)
            parts.extend(self._control(control) for control in first.controls)
        return Span(" ".join(parts), 0)

    def view(self, session: Session) -> tuple[Session, list[References] | None]:
        """Return a session as it is written, and the names in it by step; as it is and `None` without references."""
        return refer(session) if self.config.references else (session, None)

    def spans(self, session: Session) -> list[Span]:
        """Return the packed transcript of a whole session, header first."""
        viewed, _ = self.view(session)
        return [self.header(viewed), *self._entries(viewed)]

    def would(self, session: Session, step: int, action: Action) -> Span:
        """Return the action span of another action than the one of that step."""
        viewed, names = self.view(session)
        written = action if names is None else names[step].named(action)
        return self.action(msgspec.structs.replace(viewed.steps[step], action=written))

    def prefix(self, session: Session, step: int) -> list[Span]:
        """Return what a policy reads at `step`: everything before the action, in the configured serialisation.

        Raises:
            IndexError: the session has no such step.
        """
        if not 0 <= step < len(session.steps):
            raise IndexError(f"session {session.id} has steps 0 to {len(session.steps) - 1}, not {step}")
        viewed, _ = self.view(session)
        entries = [s for s in self._entries(viewed) if s.step < step or (s.step == step and not s.action)]
        return [self.header(session), *self._cut(entries)]

    def observed(self, observation: Observation, operator: str) -> list[Span]:
        """Return what a policy reads when it has to decide: `prefix` of the session that the observation is part of.

        Args:
            observation: of the running session.
            operator: see `opening`.
        """
        # Nothing is done yet; the action of the step to come is left out below.
        now = Step(observation.index, observation.state, observation.events, Action(""))
        session = Session("", "", observation.issue, operator, observation.brief, (*observation.history, now))
        return self.prefix(session, observation.index)

    def _cut(self, entries: list[Span]) -> list[Span]:
        return entries[-self.config.window :] if self.config.serialisation == "stepwise" else entries

    def action(self, step: Step) -> Span:
        """Return the action span of a step."""
        order = field_order(step.state.controls, step.action.target) if step.action.args else ()
        return Span(f"{ACTION}{write_action(step.action, order)}{END}", step.index, action=True)

    def acted(self, step: Step) -> Span:
        """Return what a step did: an action span, or a line that says that someone else acted."""
        if step.actor in ("operator", "policy"):
            return self.action(step)
        return Span(f"{CLOSED}{escape(step.action.tool)} {step.actor}", step.index + 1)

    def seen(self, before: Step | None, index: int, state: UIState, events: Sequence[Event]) -> Iterator[Span]:
        """Yield what became visible since an action: the events, then what changed on the screen.

        Args:
            before: the step before, `None` at the first.
            index: of the step that comes next.
            state: its screen.
            events: its events.
        """
        said = before.action if before is not None else None
        for event in events:
            if said is not None and self._repeats(event, said):
                said = None
                # The template's id says what was said, but not which numbers.
                if self.config.references and isinstance(event, Message) and (named := named_parts(event.text)):
                    yield Span(f"{OPERATOR}{escape(named)}", index)
                continue
            yield Span(self._event(event), index)
        if before is not None:
            changed = self._change(before, state)
            if changed:
                yield Span(changed, index)

    def _entries(self, session: Session) -> Iterator[Span]:
        before: Step | None = None
        for step in session.steps:
            yield from self.seen(before, step.index, step.state, step.events)
            yield self.acted(step)
            before = step

    def _repeats(self, event: Event, said: Action) -> bool:
        """Tell whether a message is the one the action before it sent, which the transcript holds already."""
        if not isinstance(event, Message) or event.role != "operator":
            return False
        text = unnamed(event.text) if self.config.references else event.text
        return said.args.get("text") == text or (said.tool == "send_reply" and not self.config.replies)

    def _event(self, event: Event) -> str:
        if isinstance(event, Message):
            return _ROLE[event.role] + escape(event.text)
        if event.item is None:
            return f"{RESULT}{escape(event.source)} nothing found"
        fields = list(event.item.items())[: self.config.result_fields]
        body = " ; ".join(f"{escape(name)} = {_written(value)}" for name, value in fields)
        total = f" ; total {event.total}" if event.total is not None else ""
        return RESULT + escape(event.source) + " " + body.replace(JSON, "") + total

    @staticmethod
    def _change(before: Step, state: UIState) -> str:
        parts = []
        if state.screen != before.state.screen:
            parts.append(f"screen {escape(state.screen)}")
        opened = before.action.target if before.action.tool == "open_procedure" else before.state.procedure
        if state.procedure != opened:
            parts.append(f"procedure {escape(state.procedure or 'none')}")
        entered = before.action.target if before.action.tool == "set_field" else None
        for control, value in state.values.items():
            # The action has told what it entered.
            if control == entered and normalize_value(value) == normalize_value(before.action.args.get("value")):
                continue
            if before.state.values.get(control) != value:
                parts.append(f"{escape(control)} = {_written(value)}")
        return SCREEN + " ; ".join(parts) if parts else ""

    def _control(self, control: Control) -> str:
        label = f": {escape(control.label)} ;" if self.config.controls == "labels" and control.label else ""
        return escape(control.id) + label


def field_order(controls: tuple[Control, ...], target: str) -> tuple[str, ...]:
    """Return the field names of the form `target`, in screen order; empty if it is no form of this screen."""
    for control in controls:
        if control.id == target and control.fields:
            return tuple(field.id for field in control.fields)
    return ()
