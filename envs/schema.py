"""The data types every room shares: what was on the screen, what was done, and what the operator said of it.

All types are immutable structs with fast typed JSON (`msgspec.json.encode` / `decode(type=Session)`).
Ids are strings, times are UTC seconds since 1970 as float, `None` where the log has no time.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Scalar = str | int | float | bool | None
"""A field value as a form holds it."""


class Constraint(msgspec.Struct, frozen=True, array_like=False):
    """A field value with a comparison operator, as search forms offer (`price` `at_most` `20`).

    Attributes:
        op: operator name as the source spells it, e.g. `is_at_most`, `is_one_of`; `all_of` joins several
            constraints on one field.
        value: the operand; a list for `is_one_of`, a list of constraints for `all_of`.
    """

    op: str
    value: Any = None


Arg = Scalar | Constraint
"""An argument of an action: a plain value, or a value under an operator."""

Role = Literal["customer", "operator", "system"]
Actor = Literal["operator", "policy", "customer", "system"]
Verdict = Literal["accept", "reject"]
ControlKind = Literal[
    "button", "template", "form", "text", "number", "select", "checkbox", "table", "row", "tab", "link", "message_box"
]


class Message(msgspec.Struct, frozen=True, tag="message"):
    """A chat message the operator can read."""

    role: Role
    text: str
    time: float | None = None


class Result(msgspec.Struct, frozen=True, tag="result"):
    """What the back end answered to a submitted form.

    Attributes:
        source: id of the form that was submitted.
        item: the record returned, `None` if nothing was found.
        total: number of matching records where the back end tells it, else `None`.
    """

    source: str
    item: dict[str, Any] | None
    total: int | None = None
    time: float | None = None


Event = Message | Result
"""What became visible between two actions."""


SEPARATOR = " · "
"""Between the cells of a table row where a screen shows the row as one text."""


class Control(msgspec.Struct, frozen=True):
    """Something on a screen that an action can name.

    Attributes:
        id: the `target` of actions; unique among the controls of its kind on a screen.
        kind: what it is.
        label: what the operator reads (for a reply template: its text).
        options: allowed values of a select, empty for free input.
        required: whether a form refuses to submit without it.
        fields: the inputs of a form, in screen order; empty for other kinds.
        group: the procedure the control belongs to; empty if it is there in every procedure.
    """

    id: str
    kind: ControlKind
    label: str = ""
    options: tuple[str, ...] = ()
    required: bool = False
    fields: tuple[Control, ...] = ()
    group: str = ""
    enabled: bool = True


class UIState(msgspec.Struct, frozen=True):
    """The screen before an action.

    Attributes:
        screen: id of the screen.
        procedure: the procedure (task, script) that is open, `None` if there is none.
        controls: everything an action may name here; shared between states, so compare by identity first.
        values: current content of inputs that have any, by control id (`form.field` for fields of a form).
        selected: the record in focus, e.g. the search result the operator selected.
    """

    screen: str
    procedure: str | None
    controls: tuple[Control, ...] = ()
    values: dict[str, Arg] = {}
    selected: dict[str, Any] | None = None


class Action(msgspec.Struct, frozen=True):
    """One thing done on the screen: `tool` on `target` with `args` (field name -> value).

    Hashable only through `handrail.envs.normalize.action_key`, because `args` is a dict.
    """

    tool: str
    target: str = ""
    args: dict[str, Arg] = {}


class Provenance(msgspec.Struct, frozen=True):
    """Where a value came from: copied from `source` (e.g. `StudentRecords.xlsx/Sheet1!A2`) as `text` at `time`."""

    source: str
    text: str
    time: float | None = None


class Feedback(msgspec.Struct, frozen=True):
    """A suggestion that was shown for a step, and what the operator made of it.

    Attributes:
        suggestion: what was suggested, `None` if the log keeps only that the operator overrode it.
        verdict: `accept` if the operator executed the suggestion unchanged.
        correction: what the operator did instead; `None` on accept.
        alternatives: further suggestions shown beside it, best first.
        source: who suggested (a model id).
    """

    suggestion: Action | None
    verdict: Verdict
    correction: Action | None = None
    alternatives: tuple[Action, ...] = ()
    source: str = ""


class Step(msgspec.Struct, frozen=True):
    """A state, what became visible since the step before, and the action executed.

    What a policy may see at this step: `state`, `events`, and all of the earlier steps. `action`, `actor`, `time`,
    `feedback`, `drafts` and `provenance` are known only once the operator has acted.

    Attributes:
        index: position in the session, from 0.
        state: the screen before the action.
        events: messages and back-end results that arrived after the previous action, in order.
        action: what was executed.
        actor: who executed it.
        time: when.
        critical: whether it has effects outside the screen; only critical steps are gated and labelled.
        feedback: the suggestion shown and its verdict, if one was.
        drafts: text the operator typed before acting and did not send as typed.
        provenance: argument name -> where its value was copied from.
    """

    index: int
    state: UIState
    events: tuple[Event, ...]
    action: Action
    actor: Actor = "operator"
    time: float | None = None
    critical: bool = False
    feedback: Feedback | None = None
    drafts: tuple[Message, ...] = ()
    provenance: dict[str, Provenance] = {}


class Session(msgspec.Struct, frozen=True):
    """One case worked from open to close.

    Attributes:
        id: unique in its source.
        source: the reader that made it.
        issue: the kind of case; policies, critics and thresholds can be per issue.
        operator: who worked it (pseudonym).
        brief: what the operator was told before the first event; a policy may see it.
        steps: in order of time.
        tail: events after the last action.
        tags: properties used to slice reports (`kind`: happy/unhappy/multi_task, `completion`, …).
        outcome: what is known of the result (questionnaires, end state); never visible to a policy.
        hidden: what was logged but no operator could see (the customer's goal, stage directions).
        file: where it was read from, relative to the source's root.
    """

    id: str
    source: str
    issue: str
    operator: str
    brief: str = ""
    steps: tuple[Step, ...] = ()
    tail: tuple[Event, ...] = ()
    tags: dict[str, str] = {}
    outcome: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    file: str = ""


class Problem(msgspec.Struct, frozen=True):
    """One line of a validation report.

    Attributes:
        file: source file, relative to the source's root.
        session: session id, empty if unknown.
        step: step index or event number, -1 if it concerns the whole session.
        rule: name of the rule that was broken.
        value: the offending value, shortened to 200 characters.
        quarantined: whether the session was kept out of the store.
    """

    file: str
    session: str
    step: int
    rule: str
    value: str
    quarantined: bool
