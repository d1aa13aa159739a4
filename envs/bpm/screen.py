"""What the operator sees: the interface state of a moment, computed from the domain and the ground.

Controls come in a fixed order: links, tabs, tables, forms (fields, then the button), reply templates, the message box,
buttons that close the case. Equal tuples of controls are one object, shared by all states of a domain, so that whoever
caches by identity (transcripts, pages, offers) works once per screen rather than once per step.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from handrail.envs.bpm.domain import Field
from handrail.envs.bpm.expressions import OPERATIONS, Compiled, explain, text_of
from handrail.envs.bpm.ground import Ground, Record
from handrail.envs.bpm.program import CompiledForm, CompiledScreen, CompiledTable, Program
from handrail.envs.normalize import normalize_text
from handrail.envs.schema import SEPARATOR, Control

CLOSE = "close:"
"""Prefix of the buttons that close the case."""

MESSAGE = "message"
"""Id of the box for free messages."""

_KEPT = 4096
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


class View(msgspec.Struct, frozen=True, gc=False):
    """What a screen shows of the ground, without what is being filled in.

    Attributes:
        controls: everything an action may name.
        shown: shown values and table rows.
        case: what the case file holds.
        values: both.
    """

    controls: tuple[Control, ...]
    shown: dict[str, Any]
    case: dict[str, Any]
    values: dict[str, Any]


class Layout:
    """Draws the states of one domain.

    Args:
        program: the domain.

    Attributes:
        offered: procedure (or `None`) -> ids of the templates offered in it.
    """

    def __init__(self, program: Program) -> None:
        domain = program.domain
        self.program = program
        self.tabs = tuple(
            Control(name, "tab", procedure.title)
            for name, procedure in domain.procedures.items()
            if not procedure.shared
        )
        closing = tuple(Control(f"{CLOSE}{name}", "button", name) for name in domain.desk.outcomes)
        box = (Control(MESSAGE, "message_box", "Message"),) if domain.desk.free_text else ()
        self.end = (*box, *closing)
        self.offered: dict[str | None, tuple[str, ...]] = {
            name: tuple(
                key
                for key, template in program.templates.items()
                if not template.procedures or name in template.procedures
            )
            for name in (None, *domain.procedures)
        }
        # Templates share slots ({customer.name}): each distinct one is evaluated once a state.
        self._slots: dict[str | None, tuple[Compiled, ...]] = {}
        for name, offered in self.offered.items():
            found = {slot.text: slot for key in offered for slot in program.templates[key].text.slots}
            self._slots[name] = tuple(found.values())
        self._slot_runs = {name: tuple(slot.run for slot in slots) for name, slots in self._slots.items()}
        self.screens = {name: Sheet(program, screen) for name, screen in program.screens.items()}
        self._templates: dict[tuple[str | None, frozenset[str]], tuple[Control, ...]] = {}
        self._controls: dict[Any, tuple[Control, ...]] = {}
        self._fast: dict[Any, tuple[Control, ...]] = {}

    def missing(self, ground: Ground, procedure: str | None) -> tuple[bool, ...]:
        """Tell of each slot in the templates that are offered whether it has no value."""
        scope = ground.scope
        try:
            return tuple([run(scope) is None for run in self._slot_runs[procedure]])
        except OPERATIONS:
            explain(self._slots[procedure], scope)
            raise

    def view(self, ground: Ground, screen: str, procedure: str | None, missing: tuple[bool, ...] | None = None) -> View:
        """Return what `screen` shows while `procedure` is open.

        Args:
            ground: how things are.
            screen: a screen.
            procedure: a procedure, or none.
            missing: what `missing` returns, if it is known; it does not depend on the screen.
        """
        if missing is None:
            missing = self.missing(ground, procedure)
        sheet = self.screens[screen]
        scope = ground.scope
        plan = sheet.plan(ground.focus)
        values: dict[str, Any] = {}
        try:
            for name, run in plan.shows:
                value = run(scope)
                if value is not None:
                    values[name] = value
            pressed = tuple([run is None or bool(run(scope)) for run in plan.whens])
        except OPERATIONS:
            explain((*(value for _, value, _ in sheet.shows), *(f.when for f in sheet.forms if f.when)), scope)
            raise
        keys: tuple[tuple[str, ...], ...] = ()
        for table in sheet.tables:
            options = []
            prefix = f"{table.table.id}."
            for record in listed_rows(ground, table):
                row = record.values
                key = text_of(row[table.key])
                options.append(key)
                values[prefix + key] = SEPARATOR.join([text_of(row[column]) for column in table.columns])
            keys = (*keys, tuple(options))
        case = {f"case.{field}": held for field, held in ground.case.items() if held is not None and held != ""}
        fast = plan, procedure, keys, pressed, missing
        controls = self._fast.get(fast)
        if controls is None:
            if len(self._fast) >= _KEPT:
                self._fast.clear()
                self._controls.clear()
            forms = tuple(on and ready for on, ready in zip(pressed, plan.ready, strict=True))
            controls = self._fast[fast] = self._arrange(sheet, plan.links, keys, forms, procedure, missing)
        return View(controls, values, case, {**values, **case})

    def _arrange(
        self,
        sheet: Sheet,
        links: tuple[bool, ...],
        keys: tuple[tuple[str, ...], ...],
        forms: tuple[bool, ...],
        procedure: str | None,
        missing: tuple[bool, ...],
    ) -> tuple[Control, ...]:
        without = {slot.text for slot, gone in zip(self._slots[procedure], missing, strict=True) if gone}
        closed = frozenset(
            name
            for name in self.offered[procedure]
            if any(slot.text in without for slot in self.program.templates[name].text.slots)
        )
        key = sheet.id, links, keys, forms, procedure, closed
        controls = self._controls.get(key)
        if controls is None:
            controls = self._controls[key] = (
                *sheet.link_controls(links),
                *self.tabs,
                *sheet.table_controls(keys),
                *sheet.form_controls(forms),
                *self._template_controls(procedure, closed),
                *self.end,
            )
        return controls

    def _template_controls(self, procedure: str | None, closed: frozenset[str]) -> tuple[Control, ...]:
        known = self._templates.get((procedure, closed))
        if known is None:
            group = procedure or ""
            known = self._templates[procedure, closed] = tuple(
                Control(
                    name,
                    "template",
                    self.program.templates[name].label,
                    group=group if self.program.templates[name].procedures else "",
                    enabled=name not in closed,
                )
                for name in self.offered[procedure]
            )
        return known


class Plan:
    """What is to be evaluated for a screen while records of certain types are in focus.

    Attributes:
        links: whether each link is open.
        shows: values that can be shown, as bare functions.
        reads: type and field of what they tell.
        ready: whether each form has its records.
        whens: the guard of each form that has its records, as a bare function; `None` for the others.
    """

    __slots__ = ("links", "reads", "ready", "shows", "whens")

    def __init__(self, sheet: Sheet, present: frozenset[str]) -> None:
        self.links = tuple(present.issuperset(needs) for needs in sheet.links)
        self.shows = tuple((name, value.run) for name, value, types in sheet.shows if present.issuperset(types))
        told = (fields for types, fields in sheet.reads if present.issuperset(types))
        self.reads = tuple(dict.fromkeys(itertools.chain.from_iterable(told)))
        self.ready = tuple(present.issuperset(form.needs) for form in sheet.forms)
        self.whens = tuple(
            form.when.run if ready and form.when is not None else None
            for form, ready in zip(sheet.forms, self.ready, strict=True)
        )


class Sheet:
    """One screen, with the parts of its controls that never change.

    Args:
        program: the domain.
        screen: the screen.

    Attributes:
        id: of the screen.
        shows: shown values: id, expression, and the record types that must be in focus.
        reads: for each shown value, the types that must be in focus and the fields it tells of.
        tables: in order.
        forms: in order.
        targets: ids of all inputs, in order.
        links: for each link, the record types that must be in focus.
    """

    def __init__(self, program: Program, screen: CompiledScreen) -> None:
        types = program.lineage.owner
        self.id = screen.id
        self.shows = tuple(
            (name, value, tuple(sorted({read.partition(".")[0] for read in value.reads} & set(types))))
            for name, value in screen.shows
        )
        self.reads = tuple(
            (
                needed,
                tuple(
                    (kind, field)
                    for kind, _, field in (read.partition(".") for read in sorted(value.reads))
                    if field and kind in types
                ),
            )
            for _, value, needed in self.shows
        )
        self.tables = screen.tables
        self.forms = screen.forms
        self.targets = tuple(target for form in screen.forms for target in form.fields)
        self._plans: dict[frozenset[str], Plan] = {}
        self.links = tuple(tuple(program.domain.screens[link].needs) for link in screen.links)
        self._links = tuple(
            tuple(
                Control(link, "link", program.domain.screens[link].title, enabled=enabled) for enabled in (False, True)
            )
            for link in screen.links
        )
        self._fields = tuple(
            tuple(
                Control(
                    target,
                    field.field.kind,
                    field.field.label,
                    tuple(field.field.options),
                    required=field.field.required,
                )
                for target, field in form.fields.items()
            )
            for form in screen.forms
        )
        self._buttons = tuple(
            tuple(Control(form.form.id, "button", form.form.label, enabled=enabled) for enabled in (False, True))
            for form in screen.forms
        )

    def plan(self, focus: Iterable[str]) -> Plan:
        """Return what is to be evaluated while records of the types `focus` are in focus."""
        present = frozenset(focus)
        plan = self._plans.get(present)
        if plan is None:
            plan = self._plans[present] = Plan(self, present)
        return plan

    def link_controls(self, enabled: tuple[bool, ...]) -> tuple[Control, ...]:
        """Return the controls of the links."""
        return tuple(pair[on] for pair, on in zip(self._links, enabled, strict=True))

    def table_controls(self, keys: tuple[tuple[str, ...], ...]) -> tuple[Control, ...]:
        """Return the controls of the tables, given the keys of their rows."""
        return tuple(
            Control(table.table.id, "table", table.table.label, options, enabled=bool(options))
            for table, options in zip(self.tables, keys, strict=True)
        )

    def form_controls(self, enabled: tuple[bool, ...]) -> tuple[Control, ...]:
        """Return the controls of the inputs and buttons."""
        return tuple(
            control
            for fields, pair, on in zip(self._fields, self._buttons, enabled, strict=True)
            for control in (*fields, pair[on])
        )


def layout(program: Program) -> Layout:
    """Return the layout of a domain; one per program."""
    known = program.cache.get("layout")
    if known is None:
        known = program.cache["layout"] = Layout(program)
    assert isinstance(known, Layout)
    return known


def listed_rows(ground: Ground, table: CompiledTable) -> list[Record]:
    """Return the records that `table` lists."""
    records = ground.records
    found = [records[number] for number in ground.listed(table.table.rows)]
    if table.where is None or not found:
        return found
    scope, where = ground.scope, table.where
    kept = []
    for record in found:
        scope["row"] = record.values
        if where(scope):
            kept.append(record)
    scope["row"] = None
    return kept


def form_enabled(ground: Ground, form: CompiledForm) -> bool:
    """Tell whether the button of `form` can be pressed."""
    focus = ground.focus
    for kind in form.needs:
        if kind not in focus:
            return False
    return form.when is None or bool(form.when(ground.scope))


def content(field: Field, value: Any) -> Any:
    """Return `value` as an input of this kind holds it; empty text for nothing.

    Text is taken for numbers and check boxes too (`"12.5"`, `"true"`), because models write text.

    Raises:
        ValueError: the input cannot hold it; the message says what it takes.
    """
    if value is None:
        return ""
    if field.kind == "text":
        if isinstance(value, str | int | float):
            return text_of(value).strip()
        raise ValueError("takes text")
    if field.kind == "number":
        if isinstance(value, str):
            text = value.strip().replace(",", "")
            if not text:
                return ""
            if not _NUMBER.fullmatch(text):
                raise ValueError("takes a number")
            value = float(text) if "." in text else int(text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("takes a number")
        return value
    if field.kind == "checkbox":
        if isinstance(value, str) and value.strip().lower() in _FLAGS:
            return _FLAGS[value.strip().lower()]
        if not isinstance(value, bool):
            raise ValueError("takes true or false")
        return value
    text = text_of(value).strip() if isinstance(value, str | int | float) else ""
    if text in field.options or not text:
        return text
    same = [option for option in field.options if normalize_text(option) == normalize_text(text)]
    if not same:
        raise ValueError(f"offers {', '.join(field.options)}")
    return same[0]


_FLAGS = {"true": True, "yes": True, "false": False, "no": False}
