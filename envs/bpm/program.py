"""A domain prepared for running: expressions compiled once, and everything looked up by id.

`program(domain)` is cached per domain object, so that environments of one domain share it.
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from handrail.envs.bpm.domain import Domain, Effect, Field, Form, Node, Procedure, Screen, Table
from handrail.envs.bpm.draws import Draw, Uniform, compile_draw, compile_record, uniform_of
from handrail.envs.bpm.expressions import COMMON, Compiled, CompiledText, compile_expression, compile_text
from handrail.envs.bpm.ground import Lineage, Record
from handrail.envs.errors import HandrailError

FIRST_DAY = datetime.date(2025, 3, 3)
"""The earliest day on which a case comes in; the back end's other customers are as they were then."""

_KINDS = ("ask", "tell", "look", "select", "submit", "decide", "run", "close", "exit")
_OTHERS = 40
_TRIES = 100


class CompiledField(NamedTuple):
    """An input of a form, with its rule."""

    field: Field
    target: str
    valid: Compiled | None


class CompiledEffect(NamedTuple):
    """An effect of a form, with its expressions."""

    effect: Effect
    when: Compiled | None
    by: tuple[tuple[str, Compiled], ...]
    set: tuple[tuple[str, str, Compiled], ...]
    fields: tuple[tuple[str, Compiled], ...]


class CompiledForm(NamedTuple):
    """A form.

    Attributes:
        form: as written.
        screen: the screen it is on.
        needs: record types that must be in focus to submit it: those it names and those its effects change.
        when: the guard of its button.
        fields: inputs by control id.
        effects: in order.
        says: text after submitting.
        finds: record types it may bring into focus.
        changes: whether it may change or add records.
        touches: record types whose records it is about: one submission differs from another by them.
    """

    form: Form
    screen: str
    needs: tuple[str, ...]
    when: Compiled | None
    fields: dict[str, CompiledField]
    effects: tuple[CompiledEffect, ...]
    says: CompiledText | None
    finds: frozenset[str]
    changes: bool
    touches: tuple[str, ...]


class CompiledTable(NamedTuple):
    """A table: as written, its screen, the key field, the columns beside it, and which records it lists."""

    table: Table
    screen: str
    key: str
    columns: tuple[str, ...]
    where: Compiled | None


class CompiledScreen(NamedTuple):
    """A screen: as written, its values, and which fields of records it shows (`reads`, dotted)."""

    id: str
    screen: Screen
    shows: tuple[tuple[str, Compiled], ...]
    tables: tuple[CompiledTable, ...]
    forms: tuple[CompiledForm, ...]
    links: tuple[str, ...]
    reads: frozenset[str]


class CompiledTemplate(NamedTuple):
    """A reply: its text, the record types its slots read, and the label operators read."""

    text: CompiledText
    critical: bool
    procedures: tuple[str, ...]
    types: tuple[str, ...]
    label: str


class CompiledNode(NamedTuple):
    """A node of a procedure.

    Attributes:
        node: as written.
        kind: which of its keys says what is to be done (`ask`, `tell`, …).
        path: `procedure.node`.
        templates: those of `ask` and `tell`.
        where: of `select`.
        values: of `submit`: field -> expression.
        branches: of `decide`: guard (`None`: always) and the node it leads to.
        reads: record fields (dotted) that a guard or value reads.
    """

    node: Node
    kind: str
    path: str
    templates: tuple[str, ...]
    where: Compiled | None
    values: tuple[tuple[str, Compiled], ...]
    branches: tuple[tuple[Compiled | None, str], ...]
    reads: tuple[str, ...]


class CompiledIssue(NamedTuple):
    """An issue: conditions on the records concerned (owners first), and variants and facts with their expressions."""

    id: str
    concerns: tuple[tuple[str, Compiled], ...]
    variants: tuple[tuple[tuple[tuple[str, str, Compiled], ...], dict[str, Compiled]], ...]
    weights: tuple[float, ...]
    facts: dict[str, tuple[Compiled | None, Draw | None, Draw | None]]


class Family(NamedTuple):
    """A customer and all that belongs to them.

    Attributes:
        records: by id, in order.
        rows: (owner id, type) -> ids of the records there.
    """

    records: dict[int, Record]
    rows: dict[tuple[int, str], tuple[int, ...]]


class Program:
    """A domain, compiled.

    Args:
        domain: checked by `handrail.envs.bpm.load`.

    Attributes:
        domain: as given.
        lineage: how record types belong to each other.
        types: record types, owners before what belongs to them.
        screens: by id.
        forms: by id, of all screens.
        tables: by id, of all screens.
        shown: field of a record (`card.status`) -> the screens that show it.
        templates: by id.
        procedures: procedure -> node -> compiled node.
        asks: (procedure, template) -> the facts that the template asks for there, shared procedures included; under
            `None` what it asks for anywhere.
        questions: templates that ask and tell nothing.
        issues: by id.
        rules: form, template or outcome -> rules that speak of it: id and condition.
        cache: control tuples and labels that states share, filled by `handrail.envs.bpm.screen`.
        others: other customers of the back end, each with all that belongs to them; ids go up.
        taken: type and key field of their records.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.lineage = Lineage({name: kind.of for name, kind in domain.records.items()})
        self.types = tuple(sorted(domain.records, key=lambda name: len(tuple(self.lineage.above(name)))))
        self._names = frozenset((*domain.records, *COMMON))
        self._keys = {name: kind.key for name, kind in domain.records.items()}
        self._fields: dict[str, tuple[tuple[str, Draw], ...]] = {}
        self._records: dict[str, Draw] = {}
        for name in self.types:
            self._generators(name)
        self._below = {
            name: tuple(
                (other, low, high - low + 1)
                for other in self.types
                if self.lineage.owner[other] == name
                for low, high in (domain.records[other].count,)
            )
            for name in self.types
        }
        self.forms: dict[str, CompiledForm] = {}
        self.tables: dict[str, CompiledTable] = {}
        self.screens = {name: self._screen(name, screen) for name, screen in domain.screens.items()}
        self.shown = self._shown()
        self.templates = {name: self._template(name) for name in domain.templates}
        self.procedures = {
            name: {key: self._node(f"{name}.{key}", node) for key, node in procedure.nodes.items()}
            for name, procedure in domain.procedures.items()
        }
        self.asks = self._asks()
        told = {name for nodes in self.procedures.values() for node in nodes.values() for name in _told(node)}
        self.questions = frozenset(template for _, template in self.asks if template not in told)
        self.issues = {name: self._issue(name) for name in domain.issues}
        self.rules: dict[str, list[tuple[str, Compiled]]] = {}
        for name, rule in domain.rules.items():
            condition = self._compile(rule.when, "form")
            for target in rule.never:
                self.rules.setdefault(target, []).append((name, condition))
        self.cache: dict[Any, Any] = {}
        self.taken: frozenset[tuple[str, Any]] = frozenset()
        self.others = self._draw_others()

    def procedure(self, name: str) -> Procedure:
        """Return a procedure as written."""
        return self.domain.procedures[name]

    def draw_family(
        self,
        kind: str,
        uniform: Uniform,
        scope: dict[str, Any],
        today: int,
        owner: int,
        keys: set[tuple[str, Any]],
        drawn: dict[int, Record],
        first: int,
    ) -> int:
        """Draw a record and all that belongs to it, add them to `drawn`, and return the id of the record.

        Args:
            kind: its type.
            uniform: source of chance.
            scope: its owners by type name, and `today`.
            today: ordinal of the date.
            owner: id of its owner.
            keys: type and key field of records that exist, beside those of other customers; new ones are added.
            drawn: by id.
            first: the record gets the id `first + len(drawn)`, those that belong to it the ids after it.

        Raises:
            HandrailError: no new key can be drawn.
        """
        values = self._records[kind](uniform, scope, today)
        key = kind, values[self._keys[kind]]
        if key in keys or key in self.taken:
            values = self.draw_new(kind, uniform, scope, today, keys)
        else:
            keys.add(key)
        number = first + len(drawn)
        drawn[number] = Record(number, kind, owner, values)
        below = self._below[kind]
        if below:
            inner = {**scope, kind: values}
            for child, fewest, ways in below:
                for _ in range(fewest + int(uniform() * ways)):
                    self.draw_family(child, uniform, inner, today, number, keys, drawn, first)
        return number

    def draw_new(
        self,
        kind: str,
        uniform: Uniform,
        scope: dict[str, Any],
        today: int,
        keys: set[tuple[str, Any]],
        given: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Draw the fields of a record whose key is new, and add the key to `keys`.

        Args:
            kind: its type.
            uniform: source of chance.
            scope: its owners by type name, and `today`.
            today: ordinal of the date.
            keys: type and key field of records that exist, beside those of other customers.
            given: values that are not drawn.

        Raises:
            HandrailError: no new key can be drawn.
        """
        name = self._keys[kind]
        draw = self._records[kind]
        for _ in range(_TRIES):
            values = draw(uniform, scope, today) if given is None else self._fill(kind, uniform, scope, today, given)
            key = kind, values[name]
            if (key not in keys and key not in self.taken) or (given is not None and name in given):
                keys.add(key)
                return values
        raise HandrailError(
            f"domain {self.domain.name!r}: records.{kind}.fields.{name} is the key, but {_TRIES} draws gave no value "
            f"that is not taken; let it take more than {sum(1 for other, _ in keys if other == kind)} values"
        )

    def _fill(
        self, kind: str, uniform: Uniform, scope: dict[str, Any], today: int, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        inner = {**scope, kind: values}
        for name, draw in self._fields[kind]:
            values[name] = given[name] if name in given else draw(uniform, inner, today)
            inner[name] = values[name]
        return values

    def _draw_others(self) -> tuple[Family, ...]:
        root = self.lineage.root
        uniform = uniform_of(np.random.default_rng(zlib.crc32(self.domain.name.encode())))
        keys: set[tuple[str, Any]] = set()
        drawn: list[Family] = []
        number = 0
        highest = self.domain.records[root].count[1]
        for _ in range(max(_OTHERS, highest) if highest else 0):
            scope = {"today": FIRST_DAY.isoformat()}
            records: dict[int, Record] = {}
            self.draw_family(root, uniform, scope, FIRST_DAY.toordinal(), -1, keys, records, number)
            drawn.append(Family(records, rows_of(records)))
            number += len(records)
        self.taken = frozenset(keys)
        return tuple(drawn)

    def _shown(self) -> dict[str, tuple[str, ...]]:
        shown: dict[str, list[str]] = {}
        for name, screen in self.screens.items():
            listed = (f"{table.table.rows}.{field}" for table in screen.tables for field in (table.key, *table.columns))
            for read in dict.fromkeys((*sorted(screen.reads), *listed)):
                shown.setdefault(read, []).append(name)
        return {read: tuple(screens) for read, screens in shown.items()}

    def _asks(self) -> dict[tuple[str | None, str], tuple[str, ...]]:
        asks: dict[tuple[str | None, str], dict[str, None]] = {}
        for name in self.domain.procedures:
            inside = [name]
            for other in inside:
                for node in self.domain.procedures[other].nodes.values():
                    if node.run is not None and node.run not in inside:
                        inside.append(node.run)
            for other in inside:
                for compiled in self.procedures[other].values():
                    if compiled.node.ask is not None:
                        for template in compiled.templates:
                            facts = dict.fromkeys(compiled.node.facts)
                            asks.setdefault((name, template), {}).update(facts)
                            asks.setdefault((None, template), {}).update(facts)
        return {key: tuple(facts) for key, facts in asks.items()}

    def _compile(self, text: str, *more: str) -> Compiled:
        return compile_expression(text, self._names.union(more))

    def _maybe(self, text: str | None, *more: str) -> Compiled | None:
        return None if text is None else self._compile(text, *more)

    def _record_types(self, reads: Iterable[str]) -> tuple[str, ...]:
        found = {name.partition(".")[0] for name in reads}
        return tuple(name for name in self.types if name in found)

    def _generators(self, kind: str) -> None:
        fields = self.domain.records[kind].fields
        names = (*self.lineage.above(kind), "today")
        self._records[kind] = compile_record(kind, fields, names)
        known: list[str] = [kind, *names]
        draws = []
        for name, generator in fields.items():
            draws.append((name, compile_draw(generator, known)))
            known.append(name)
        self._fields[kind] = tuple(draws)

    def _screen(self, name: str, screen: Screen) -> CompiledScreen:
        shows = tuple((shown.id, self._compile(shown.value)) for shown in screen.shows)
        tables = tuple(self._table(name, table) for table in screen.tables)
        forms = tuple(self._form(name, form) for form in screen.forms)
        links = tuple(dict.fromkeys((*self.domain.desk.menu, *screen.links)))
        reads = frozenset(read for _, value in shows for read in value.reads if "." in read)
        return CompiledScreen(name, screen, shows, tables, forms, links, reads)

    def _table(self, screen: str, table: Table) -> CompiledTable:
        key = self.domain.records[table.rows].key
        columns = tuple(column for column in table.columns if column != key)
        compiled = CompiledTable(table, screen, key, columns, self._maybe(table.where, "row"))
        self.tables[table.id] = compiled
        return compiled

    def _form(self, screen: str, form: Form) -> CompiledForm:
        effects = tuple(self._effect(effect) for effect in form.does)
        finds = frozenset(effect.find for effect in form.does if effect.find)
        changed = {kind for effect in effects for kind, _, _ in effect.set if kind != "case"}
        for effect in form.does:
            owner = self.lineage.owner[effect.add] if effect.add else None
            if owner is not None:
                changed.add(owner)
        needs = set(form.needs) | (changed - finds)
        when = self._maybe(form.when)
        about = needs | {owner for owner in map(self.lineage.owner.__getitem__, finds) if owner is not None}
        for _, guard, by, sets, fields in effects:
            guards = () if guard is None else (guard,)
            for expression in (*guards, *(parts[-1] for parts in (*by, *sets, *fields))):
                about.update(self._record_types(expression.reads))
        compiled = CompiledForm(
            form=form,
            screen=screen,
            needs=tuple(name for name in self.types if name in needs),
            when=when,
            fields={
                f"{form.id}.{field.id}": CompiledField(field, f"{form.id}.{field.id}", self._value_rule(field))
                for field in form.fields
            },
            effects=effects,
            says=compile_text(form.says, self._names | {"form"}) if form.says else None,
            finds=finds,
            changes=bool(changed) or any(effect.add for effect in form.does),
            touches=tuple(name for name in self.types if name in about - finds),
        )
        self.forms[form.id] = compiled
        return compiled

    @staticmethod
    def _value_rule(field: Field) -> Compiled | None:
        return None if field.valid is None else compile_expression(field.valid, ("value", *COMMON))

    def _effect(self, effect: Effect) -> CompiledEffect:
        sets = []
        for target, text in effect.set.items():
            kind, _, field = target.partition(".")
            sets.append((kind, field, self._compile(text, "form")))
        return CompiledEffect(
            effect,
            self._maybe(effect.when, "form"),
            tuple((field, self._compile(text, "form")) for field, text in effect.by.items()),
            tuple(sets),
            tuple((field, self._compile(text, "form")) for field, text in effect.fields.items()),
        )

    def _template(self, name: str) -> CompiledTemplate:
        template = self.domain.templates[name]
        text = compile_text(template.text, self._names)
        label = re.sub(r"\{\s*(.*?)\s*\}", r"{\1}", re.sub(r"\[([^|\]]*)[^\]]*\]", r"\1", template.text))
        return CompiledTemplate(
            text, template.critical, tuple(template.procedures), self._record_types(text.reads), " ".join(label.split())
        )

    def _node(self, path: str, node: Node) -> CompiledNode:
        templates = node.ask or node.tell or ()
        branches = tuple((self._maybe(branch.when), branch.to) for branch in node.decide or ())
        values = tuple((field, self._compile(text)) for field, text in node.values.items())
        used = [guard for guard, _ in branches if guard is not None] + [value for _, value in values]
        reads = {
            read for expression in used for read in expression.reads if read.partition(".")[0] in self.lineage.owner
        }
        return CompiledNode(
            node,
            next(kind for kind in _KINDS if getattr(node, kind) is not None),
            path,
            (templates,) if isinstance(templates, str) else tuple(templates),
            self._maybe(node.where, "row"),
            values,
            branches,
            tuple(sorted(read for read in reads if "." in read)),
        )

    def _issue(self, name: str) -> CompiledIssue:
        issue = self.domain.issues[name]
        variants = []
        for variant in issue.variants:
            sets = []
            for target, text in variant.set.items():
                kind, _, field = target.partition(".")
                sets.append((kind, field, self._compile(text)))
            variants.append((tuple(sets), {fact: self._compile(text) for fact, text in variant.facts.items()}))
        facts = {
            key: (
                self._maybe(fact.value),
                None if fact.draw is None else compile_draw(fact.draw, self._names),
                None if fact.wrong_value is None else compile_draw(fact.wrong_value, self._names),
            )
            for key, fact in issue.facts.items()
        }
        concerns = tuple(
            (kind, self._compile(issue.concerns[kind], "row")) for kind in self.types if kind in issue.concerns
        )
        return CompiledIssue(name, concerns, tuple(variants), tuple(v.weight for v in issue.variants), facts)


def _told(node: CompiledNode) -> tuple[str, ...]:
    return node.templates if node.node.tell is not None else ()


def rows_of(records: Mapping[int, Record]) -> dict[tuple[int, str], tuple[int, ...]]:
    """Return (owner id, type) -> ids of the records there, in order."""
    rows: dict[tuple[int, str], list[int]] = {}
    for record in records.values():
        rows.setdefault((record.owner, record.type), []).append(record.id)
    return {place: tuple(numbers) for place, numbers in rows.items()}


# The domain object is kept beside its program: ids are only unique among objects that live.
_programs: OrderedDict[int, tuple[Domain, Program]] = OrderedDict()
_KEPT = 64


def program(domain: Domain) -> Program:
    """Return the compiled domain: the same object for equal domains, while it is among the last 64 used."""
    known = _programs.get(id(domain))
    if known is not None:
        _programs.move_to_end(id(domain))
        return known[1]
    # A domain that was pickled comes back as another object: what was compiled for the first one will do.
    compiled = next((other for kept, other in _programs.values() if kept == domain), None) or Program(domain)
    _programs[id(domain)] = domain, compiled
    if len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return compiled
