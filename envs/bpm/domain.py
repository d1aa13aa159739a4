"""What a domain is: the process of one support desk as data, read from a folder of YAML.

A domain says what the back end stores (`records`), what the operator sees and can do (`screens`), what can be written
(`templates`), which kinds of case come in and what the customers know (`issues`), how each is to be worked
(`procedures`) and what must never happen (`rules`). `handrail.envs.bpm.load` reads and checks it; the engine, the
customers, the expert operator and the screens are computed from it, and nothing else knows a domain's names.

Expressions are written in a small language (`handrail.envs.bpm.expressions`). Names they may use:

| name | holds |
|---|---|
| `customer.F`, `card.F`, … | field F of the record in focus of that type; the type itself is `None` without one |
| `case.F` | field F of the case file: checks and notes that live as long as the session |
| `said.F` | what the customer last said of fact F, `None` if nothing |
| `form.F` | content of field F of the form that is submitted (effects and rules only) |
| `row.F` | field F of the row that is tried (`select` nodes and table filters only) |
| `today` | the date, ISO text; dates compare as text |
| `times('T')` | how often template T was sent (or button T pressed) in this session |
| `days(a, b)` | days from date a to date b |
| `value` | the content that is tried (`valid` of fields only) |

The other functions are listed in `handrail.envs.bpm.expressions`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Expression = Annotated[str, msgspec.Meta(title="expression")]
"""Text in the expression language. In YAML a bare `true`, number or nothing stands for itself."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data of a domain; an unknown key is an error."""


class Generator(_Strict, frozen=True, kw_only=True):
    """How a value is drawn. Exactly one of the keys below besides `or_none` says how.

    Attributes:
        pick: a list of values with equal weight, or text -> weight.
        integer: `[lowest, highest]` or `[lowest, highest, step]`.
        money: `[lowest, highest]` in whole units, drawn with cents.
        date: `[earliest, latest]` in days from today.
        code: a pattern: `#` is a digit, `@` a capital letter, all else stands for itself.
        person: `true`: a full name.
        email: `true`: an address made from the record's `name`, if it has one.
        phone: `true`: a telephone number.
        address: `true`: street, number, postcode and town.
        flag: probability of `true`.
        expr: an expression over fields of the same record that come before (`limit`, or `card.limit` in a card), and of
            its owners by type name.
        or_none: probability of no value.
    """

    pick: list[Any] | dict[str, float] | None = None
    integer: list[int] | None = None
    money: list[int] | None = None
    date: list[int] | None = None
    code: str | None = None
    person: bool = False
    email: bool = False
    phone: bool = False
    address: bool = False
    flag: float | None = None
    expr: Expression | None = None
    or_none: float = 0.0


class RecordType(_Strict, frozen=True, kw_only=True):
    """A kind of record in the back end.

    Attributes:
        title: as operators call it.
        key: the field that names a record in tables; unique in a case.
        of: the type each belongs to; the root type (`customer`) has none.
        count: how many each owner has, `[lowest, highest]`; for the root type how many customers the back end holds
            beside the one who writes.
        fields: field -> how it is drawn, in order.
    """

    title: str
    key: str
    of: str | None = None
    count: list[int] = msgspec.field(default_factory=lambda: [1, 1])
    fields: dict[str, Generator]


class Field(_Strict, frozen=True, kw_only=True):
    """An input of a form.

    Attributes:
        id: its name in `form.F`; on the screen the control is `FORM.FIELD`.
        kind: of input.
        label: what the operator reads.
        options: of a select.
        required: whether the form refuses to submit without it.
        valid: an expression over `value` that content has to satisfy.
        error: what the screen says if it does not.
    """

    id: str
    kind: Literal["text", "number", "select", "checkbox"]
    label: str
    options: list[str] = []
    required: bool = False
    valid: Expression | None = None
    error: str = ""


class Effect(_Strict, frozen=True, kw_only=True):
    """One thing a button does to the back end. Exactly one of `find`, `set`, `add`, `open` is given.

    Attributes:
        find: a record type: brings the first record whose fields equal `by` into focus, or takes the focus away.
        by: field -> expression, for `find`.
        set: `type.field` or `case.field` -> expression of the new value.
        add: a record type: a new record of the customer in focus, with `fields`; the others are drawn.
        fields: field -> expression, for `add`.
        open: a screen that opens.
        when: the effect happens only if this holds.
    """

    find: str | None = None
    by: dict[str, Expression] = {}
    set: dict[str, Expression] = {}
    add: str | None = None
    fields: dict[str, Expression] = {}
    open: str | None = None
    when: Expression | None = None


class Form(_Strict, frozen=True, kw_only=True):
    """Inputs and the button that submits them; without fields it is just a button.

    On the screen: one control per field, `FORM.FIELD`, and a button `FORM`. Submitting empties the fields.

    Attributes:
        id: unique in the domain.
        label: of the button.
        fields: inputs, in order.
        needs: record types that must be in focus for the button to be enabled.
        when: an expression that must hold for it to be enabled.
        does: effects, in order.
        critical: whether submitting has effects outside the screen.
        says: text shown after submitting (`{slots}` allowed).
    """

    id: str
    label: str
    fields: list[Field] = []
    needs: list[str] = []
    when: Expression | None = None
    does: list[Effect] = []
    critical: bool = False
    says: str = ""


class Table(_Strict, frozen=True, kw_only=True):
    """Records in rows that can be selected; selecting brings the record into focus.

    Attributes:
        id: unique in the domain.
        label: its heading.
        rows: a record type; those of its owner in focus are listed (of all, for the root type).
        columns: fields shown.
        where: an expression over `row` that listed records satisfy.
    """

    id: str
    label: str
    rows: str
    columns: list[str]
    where: Expression | None = None


class Shown(_Strict, frozen=True, kw_only=True):
    """A value the screen shows.

    Attributes:
        id: control id of the value, e.g. `card.status`; unique on the screen.
        label: what the operator reads.
        value: expression; nothing is shown while it is `None` or its record is not in focus.
    """

    id: str
    label: str
    value: Expression


class Screen(_Strict, frozen=True, kw_only=True):
    """One page of the interface.

    Attributes:
        title: its heading.
        needs: record types that must be in focus to open it.
        shows: read-only values.
        tables: tables, in order.
        forms: forms and buttons, in order.
        links: screens it links to, beside those of `domain.menu`.
    """

    title: str
    needs: list[str] = []
    shows: list[Shown] = []
    tables: list[Table] = []
    forms: list[Form] = []
    links: list[str] = []


class Template(_Strict, frozen=True, kw_only=True):
    """A reply the operator can send.

    Attributes:
        text: with `{expression}` slots, filled from what is in focus and was said. `[a|b]` draws a or b.
        critical: whether sending it commits the company (a refusal, a promise); default true: sends are critical.
        procedures: procedures in which it is offered; empty: in all.
    """

    text: str
    critical: bool = True
    procedures: list[str] = []


class Fact(_Strict, frozen=True, kw_only=True):
    """Something the customer of an issue knows or wants.

    Attributes:
        value: an expression over the case's true records, e.g. `card.number`.
        draw: how it is drawn, instead of `value`.
        say: phrases in which the customer tells it, with `{value}`; per value where `say` is a mapping. `[a|b]` draws.
        volunteer: probability that the opening message tells it unasked.
        wrong: probability that the first answer is mistaken (a slip); asked again, the customer gets it right.
        never: probability that the customer does not know the right value (an impostor, a faulty memory).
        wrong_value: how a mistaken value is drawn; by default one with a digit or letter changed.
    """

    value: Expression | None = None
    draw: Generator | None = None
    say: list[str] | dict[str, list[str]]
    volunteer: float = 0.0
    wrong: float = 0.0
    never: float = 0.0
    wrong_value: Generator | None = None


class Variant(_Strict, frozen=True, kw_only=True):
    """A course a case can take.

    Attributes:
        weight: how often.
        set: `type.field` -> expression, on the records concerned, before facts are drawn.
        facts: fact -> expression of its value in this variant.
    """

    weight: float = 1.0
    set: dict[str, Expression] = {}
    facts: dict[str, Expression] = {}


class Issue(_Strict, frozen=True, kw_only=True):
    """A kind of case.

    Attributes:
        title: as operators call it.
        procedure: how it is worked.
        weight: how often it comes in.
        concerns: record type -> expression over `row` that the record concerned satisfies (`true` for any); one is
            drawn, or made to fit by drawing its owner's records again.
        variants: courses; one is drawn.
        opening: what the customer writes first; slots may read the records concerned (`{card.name}`).
        second: how it is raised by a customer whose first issue is done; empty: never second.
        facts: what the customer knows.
    """

    title: str
    procedure: str
    weight: float = 1.0
    concerns: dict[str, Expression] = {}
    variants: list[Variant] = msgspec.field(default_factory=lambda: [Variant()])
    opening: list[str]
    second: list[str] = []
    facts: dict[str, Fact]


class Branch(_Strict, frozen=True, kw_only=True):
    """One way out of a decision: to node `to` if `when` holds (always, without it)."""

    to: str
    when: Expression | None = None


class Node(_Strict, frozen=True, kw_only=True):
    """One node of a procedure. Exactly one of the first seven keys says what is to be done.

    Attributes:
        ask: template(s) that ask for the facts in `facts`; any of several will do. Done once all are said, or once
            asked `limit` times; with `again`, once it was sent.
        tell: template(s) to send; any of several will do. Done once one was sent.
        look: a screen to open. Done once it was open (with its needs in focus).
        select: a table: select the row for which `where` holds. Done once that record is in focus. No such row: done.
        submit: a form: fill its fields as `values` says and press its button. Done once it was submitted so.
        decide: the way on, the first that holds; the last has no `when`, so that there is always one. Decides on what
            the operator has seen and heard.
        run: a shared procedure, worked once per session; `then` maps its exits to nodes.
        close: ends the case with this outcome.
        exit: ends a shared procedure with this exit.
        facts: facts that `ask` asks for.
        again: asks for something once more.
        limit: asks at most this often.
        where: expression over `row`, for `select`.
        values: field -> expression, for `submit`; fields left out stay empty.
        then: exit -> node, for `run`.
        optional: a courtesy: operators may leave it out, and no end state needs it (`tell`, `look`).
        swaps: whether it may trade places with the node after it; operators differ.
        next: the node after it.
    """

    ask: str | list[str] | None = None
    tell: str | list[str] | None = None
    look: str | None = None
    select: str | None = None
    submit: str | None = None
    decide: list[Branch] | None = None
    run: str | None = None
    close: str | None = None
    exit: str | None = None
    facts: list[str] = []
    again: bool = False
    limit: int = 2
    where: Expression | None = None
    values: dict[str, Expression] = {}
    then: dict[str, str] = {}
    optional: bool = False
    swaps: bool = False
    next: str | None = None


class Procedure(_Strict, frozen=True, kw_only=True):
    """How a kind of case is worked: a graph of nodes.

    Attributes:
        title: as operators call it.
        start: the first node.
        nodes: by name.
        shared: whether it is only run by other procedures (`run`), not opened by operators.
    """

    title: str
    start: str
    nodes: dict[str, Node]
    shared: bool = False


class Rule(_Strict, frozen=True, kw_only=True):
    """Something that must never be done.

    Attributes:
        never: forms, templates and outcomes (`close:refused`) it speaks of.
        when: it is broken if one of them is done while this holds.
        text: what it says.
    """

    never: list[str]
    when: Expression
    text: str


class Small(_Strict, frozen=True, kw_only=True):
    """What customers say beside facts. Lists of phrases; `[a|b]` draws a or b.

    Attributes:
        unknown: they do not know what is asked.
        nothing: they answer without telling anything (digressions).
        thanks: after they are helped.
        disappointed: after they are refused.
        impatient: when it takes long.
        confirm: on being told something.
        correct: corrects what they said, with `{phrase}`.
        confused: on a reply that does not fit.
    """

    unknown: list[str] = []
    nothing: list[str] = []
    thanks: list[str] = []
    disappointed: list[str] = []
    impatient: list[str] = []
    confirm: list[str] = []
    correct: list[str] = []
    confused: list[str] = []


class Desk(_Strict, frozen=True, kw_only=True):
    """The domain as a whole.

    Attributes:
        title: of the company.
        brief: what operators were told before the first case.
        home: the screen at the start.
        menu: screens that every screen links to.
        case: fields of the case file -> their value at the start.
        outcomes: ways to close a case, as buttons; each closing is critical. The first is the one customers hope for.
        two_issues: probability of a second issue.
        free_text: whether operators may also write free messages.
        seconds: time costs of this domain that differ from the defaults (`handrail.envs.bpm.clock`).
    """

    title: str
    brief: str
    home: str
    menu: list[str]
    case: dict[str, Any] = {}
    outcomes: list[str] = msgspec.field(default_factory=lambda: ["resolved", "refused", "escalated"])
    two_issues: float = 0.1
    free_text: bool = True
    seconds: dict[str, float] = {}


class Domain(_Strict, frozen=True, kw_only=True):
    """All of a domain.

    Attributes:
        name: its folder.
        desk: the domain as a whole.
        records: record types by name; the first without an owner is the root, `customer`.
        screens: by id, in the order of the menu.
        templates: by id.
        issues: by id.
        procedures: by id.
        rules: by id.
        small: what customers say beside facts.
        languages: language -> replacements for `small`, and for `opening`, `second` and `say` of issues
            (`{small: …, issues: {ISSUE: {opening, second, facts: {FACT: say}}}}`).
    """

    name: str
    desk: Desk
    records: dict[str, RecordType]
    screens: dict[str, Screen]
    templates: dict[str, Template]
    issues: dict[str, Issue]
    procedures: dict[str, Procedure]
    rules: dict[str, Rule] = {}
    small: Small
    languages: dict[str, Any] = {}
