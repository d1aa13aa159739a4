"""Checking a domain: every mistake that can be found without working a case, told with file, path and value.

`check_domain` runs at load. It looks up every name, compiles every expression and text, follows every procedure, and
then tries the guards (`handrail.envs.bpm.probe`). `python -m handrail.envs.bpm.check FOLDER` does the same from a shell
and reports how often cases take each way.
"""

from __future__ import annotations

import keyword
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from handrail.envs.bpm.domain import (
    Domain,
    Effect,
    Fact,
    Field,
    Form,
    Generator,
    Issue,
    Node,
    Procedure,
    Screen,
    Small,
    Table,
)
from handrail.envs.bpm.expressions import (
    COMMON,
    Compiled,
    CompiledText,
    compile_expression,
    compile_text,
    text_of,
)
from handrail.envs.bpm.load import KeyPath, Problems, Source
from handrail.envs.errors import HandrailError, nearest

WAYS: Final = ("pick", "integer", "money", "date", "code", "person", "email", "phone", "address", "flag", "expr")
"""Keys of a generator of which exactly one is given."""

ACTIONS: Final = ("ask", "tell", "look", "select", "submit", "decide", "run", "close", "exit")
"""Keys of a node of which exactly one is given."""

EFFECTS: Final = ("find", "set", "add", "open")
"""Keys of an effect of which exactly one is given."""

_RESERVED: Final = frozenset(
    ("case", "said", "form", "row", "value", "phrase", "today", "times", "true", "false", "none", "null")
)
_ID: Final = re.compile(r"[^\W\d][\w-]*")

# Keys of a node that only some actions have, and those actions.
_ONLY: Final[dict[str, tuple[str, ...]]] = {
    "facts": ("ask",),
    "again": ("ask",),
    "limit": ("ask",),
    "where": ("select",),
    "values": ("submit",),
    "then": ("run",),
    "optional": ("tell", "look"),
    "swaps": ("ask", "tell", "look", "select", "submit"),
    "next": ("ask", "tell", "look", "select", "submit"),
}

_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(Node)}


class Context(NamedTuple):
    """What an expression may read beside records, the case file and the date.

    Attributes:
        said: facts it may read.
        form: fields of the form it may read, `None` if there is no form.
        row: record type of the row that is tried, empty if there is none.
        value: whether there is a `value`.
    """

    said: frozenset[str] = frozenset()
    form: frozenset[str] | None = None
    row: str = ""
    value: bool = False


_PLAIN: Final = Context()


def action_of(node: Node) -> str:
    """Return which of `ACTIONS` the node is."""
    return next(name for name in ACTIONS if getattr(node, name) is not None)


def templates_of(node: Node) -> tuple[str, ...]:
    """Return the templates that `ask` or `tell` names."""
    given = node.ask if node.ask is not None else node.tell
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def ways_on(node: Node) -> list[tuple[KeyPath, str]]:
    """Return where a node leads to, each with its path inside the node."""
    out: list[tuple[KeyPath, str]] = [(("decide", i, "to"), branch.to) for i, branch in enumerate(node.decide or [])]
    out += [(("then", exit_), to) for exit_, to in node.then.items()]
    if node.next is not None:
        out.append((("next",), node.next))
    return out


def worked_in(domain: Domain) -> dict[str, tuple[str, ...]]:
    """Return, for each procedure, the issues that are worked in it, through `run` too."""
    runs = {
        name: {node.run for node in procedure.nodes.values() if node.run is not None}
        for name, procedure in domain.procedures.items()
    }
    out: dict[str, list[str]] = {name: [] for name in domain.procedures}
    for issue, spec in domain.issues.items():
        seen: set[str] = set()
        waiting = [spec.procedure]
        while waiting:
            name = waiting.pop()
            if name in out and name not in seen:
                seen.add(name)
                out[name].append(issue)
                waiting += runs[name]
    return {name: tuple(issues) for name, issues in out.items()}


class _Check:
    """One run over one domain."""

    def __init__(self, domain: Domain, source: Source | None) -> None:
        self.domain = domain
        self.problems = Problems(f"domain {domain.name}", source)
        self.add = self.problems.add
        self.forms = {form.id: form for screen in domain.screens.values() for form in screen.forms}
        self.tables = {table.id: table for screen in domain.screens.values() for table in screen.tables}
        self.facts = frozenset(fact for issue in domain.issues.values() for fact in issue.facts)
        self.issues = worked_in(domain)
        self.shown: set[str] = set()

    # --- names, expressions and texts -------------------------------------------------------------------------------

    def known(self, kind: str, name: str, known: Iterable[str], path: KeyPath) -> bool:
        """Note that `name` is none of `known`, unless it is one."""
        if name in (choices := list(known)):
            return True
        self.add(path, f"unknown {kind} {name!r}{nearest(name, choices) or f'; there is no {kind}'}")
        return False

    def identifier(self, name: str, path: KeyPath, what: str) -> None:
        """Note that expressions could not speak of `name`."""
        if not name.isidentifier() or keyword.iskeyword(name) or name.lower() in _RESERVED:
            self.add(
                path, f"{name!r} cannot name {what}: expressions need a plain name (letters, digits, `_`) of its own"
            )

    def id(self, name: str, path: KeyPath) -> None:
        """Note that `name` cannot be an id on a screen."""
        if not _ID.fullmatch(name):
            self.add(path, f"{name!r} cannot be an id; use letters, digits, `_` and `-`, beginning with a letter")

    def expression(self, text: str, path: KeyPath, context: Context = _PLAIN) -> Compiled | None:
        """Compile an expression and note what it reads that is not there."""
        names = [*self.domain.records, *COMMON]
        names += [
            name
            for name, there in (
                ("form", context.form is not None),
                ("row", bool(context.row)),
                ("value", context.value),
            )
            if there
        ]
        try:
            compiled = compile_expression(text, names)
        except HandrailError as error:
            self.add(path, str(error))
            return None
        self._reads(compiled, path, context)
        return compiled

    def text(self, text: str, path: KeyPath, names: Iterable[str], context: Context = _PLAIN) -> CompiledText | None:
        """Compile a text and note what its slots read that is not there."""
        try:
            compiled = compile_text(text, names)
        except HandrailError as error:
            self.add(path, str(error))
            return None
        for slot in compiled.slots:
            self._reads(slot, path, context)
            if not slot.reads and not slot.times:
                self.add(path, f"slot {{{slot.text}}} reads nothing; write its value instead")
        return compiled

    def _reads(self, compiled: Compiled, path: KeyPath, context: Context) -> None:
        for name in sorted(compiled.reads):
            root, dot, field = name.partition(".")
            if not dot:
                if root in ("case", "said", "form", "row"):
                    self.add(path, f"expression `{compiled.text}`: `{root}` needs a field, as in `{root}.name`")
                continue
            if root == "value":
                self.add(path, f"expression `{compiled.text}`: `value` is the content itself and has no fields")
            else:
                kind = context.row if root == "row" else root
                self.known(f"field of {kind}", field, self._fields(root, context), path)
        for target in sorted(compiled.times):
            self.known("template or form", target, [*self.domain.templates, *self.forms], path)

    def _fields(self, root: str, context: Context) -> Iterable[str]:
        if root == "case":
            return self.domain.desk.case
        if root == "said":
            return context.said
        if root == "form":
            return context.form or ()
        kind = context.row if root == "row" else root
        return self.domain.records[kind].fields if kind in self.domain.records else ()

    def phrases(
        self, texts: Sequence[str], path: KeyPath, names: tuple[str, ...] = (), needed: bool = True, slot: str = ""
    ) -> None:
        """Note what is wrong with a list of customers' phrases; `slot` must stand in each."""
        if needed and not texts:
            self.add(path, "no phrases are given; customers need at least one")
        for i, text in enumerate(texts):
            if not text.strip():
                self.add((*path, i), "an empty phrase")
            try:
                compiled = compile_text(text, names)
            except HandrailError as error:
                slots = f"slots may only read {', '.join(names)}" if names else "these phrases have no slots"
                self.add((*path, i), f"{error}; {slots}")
                continue
            for read in sorted(compiled.reads):
                root, dot, field = read.partition(".")
                if root in self.domain.records:
                    self.known(f"field of {root}", field if dot else "", self.domain.records[root].fields, (*path, i))
            if slot and slot not in compiled.reads:
                self.add((*path, i), f"phrase {text!r} has no {{{slot}}}: nobody could tell what is said")

    # --- records ----------------------------------------------------------------------------------------------------

    def records(self) -> None:
        """Check record types and their generators."""
        records = self.domain.records
        roots = [name for name, kind in records.items() if kind.of is None]
        if len(roots) != 1:
            found = f"{', '.join(roots)} have none" if roots else "all have one"
            self.add(("records",), f"exactly one record type has no `of`, that of customers; {found}")
        for name, kind in records.items():
            path: KeyPath = ("records", name)
            self.identifier(name, path, "a record type")
            if kind.of is not None and self.known("record type", kind.of, records, (*path, "of")):
                above, owner = {name}, kind.of
                while owner is not None and owner in records:
                    if owner in above:
                        self.add((*path, "of"), f"{name!r} belongs to itself: {' -> '.join([*above, owner])}")
                        break
                    above.add(owner)
                    owner = records[owner].of  # type: ignore[assignment]
            if len(kind.count) != 2 or not 0 <= kind.count[0] <= kind.count[1]:
                self.add((*path, "count"), f"expected [lowest, highest] with 0 <= lowest <= highest, got {kind.count}")
            self.known("field", kind.key, kind.fields, (*path, "key"))
        for name, kind in records.items():
            owners = list(self.owners(name))
            known: list[str] = []
            for field, generator in kind.fields.items():
                path = ("records", name, "fields", field)
                self.identifier(field, path, "a field")
                if field in records:
                    self.add(path, f"a field cannot have the name of the record type {field!r}")
                self.generator(generator, path, (*known, name, *owners, "today"), list(kind.fields), (name, known))
                known.append(field)
            if kind.key in kind.fields:
                self._unique(name, kind.fields[kind.key])

    def owners(self, name: str) -> Iterator[str]:
        """Yield the types that own `name`, nearest first."""
        seen = {name}
        owner = self.domain.records[name].of
        while owner is not None and owner in self.domain.records and owner not in seen:
            yield owner
            seen.add(owner)
            owner = self.domain.records[owner].of

    def _unique(self, name: str, generator: Generator) -> None:
        """Note that a key has too few values to be unique among all records of a case."""
        path = ("records", name, "fields", self.domain.records[name].key)
        if generator.or_none:
            self.add((*path, "or_none"), "the key names the record and always has a value; remove `or_none`")
        most = 1
        for kind in (name, *self.owners(name)):
            low_high = self.domain.records[kind].count
            most *= max(low_high[-1], 1) + 41 * (self.domain.records[kind].of is None) if low_high else 1
        values = math.inf
        if generator.code is not None:
            values = 10 ** generator.code.count("#") * 26 ** generator.code.count("@")
        elif isinstance(generator.pick, list | dict):
            values = len(generator.pick)
        elif generator.integer is not None and len(generator.integer) in (2, 3):
            low, high, *step = generator.integer
            values = (high - low) // max(step[0] if step else 1, 1) + 1
        elif generator.date is not None and len(generator.date) == 2:
            values = generator.date[1] - generator.date[0] + 1
        elif generator.flag is not None:
            values = 2
        if values < 2 * most:
            self.add(
                path,
                f"the key takes {values} values, too few to be unique among up to {most} records; "
                'widen it, e.g. {code: "#######"}',
            )

    def generator(
        self,
        generator: Generator,
        path: KeyPath,
        names: Iterable[str],
        later: Sequence[str] = (),
        own: tuple[str, Sequence[str]] = ("", ()),
    ) -> None:
        """Check how a value is drawn.

        Args:
            generator: how it is drawn.
            path: where it stands.
            names: what its expression may read.
            later: all fields of the record it is drawn for.
            own: type of that record, and its fields that are drawn before.
        """
        given = [way for way in WAYS if getattr(generator, way) not in (None, False)]
        if len(given) != 1:
            got = f"{' and '.join(given)} are" if given else "none is"
            self.add(path, f"exactly one of {', '.join(WAYS)} says how the value is drawn; {got} given")
            return
        way = given[0]
        value = getattr(generator, way)
        here = (*path, way)
        if not 0 <= generator.or_none <= 1:
            self.add((*path, "or_none"), f"expected a probability from 0 to 1, got {generator.or_none}")
        if way == "pick":
            self._pick(value, here)
        elif way in ("integer", "money", "date"):
            right = len(value) == 2 or (way == "integer" and len(value) == 3 and value[2] > 0)
            if not right or value[0] > value[1]:
                wanted = "[lowest, highest] or [lowest, highest, step]" if way == "integer" else "[lowest, highest]"
                self.add(here, f"expected {wanted} with lowest <= highest, got {value}")
        elif way == "code":
            if "#" not in value and "@" not in value:
                self.add(here, f"{value!r} has neither `#` (a digit) nor `@` (a letter), so it is always the same")
        elif way == "flag":
            if not 0 <= value <= 1:
                self.add(here, f"expected a probability from 0 to 1, got {value}")
        elif way == "expr":
            self._generated(value, here, tuple(names), later, own)

    def _pick(self, pick: list[Any] | dict[str, float], path: KeyPath) -> None:
        if not pick:
            self.add(path, "nothing to pick from")
        if isinstance(pick, dict):
            for value, weight in pick.items():
                if weight < 0:
                    self.add((*path, value), f"expected a weight of at least 0, got {weight}")
                if re.fullmatch(r"true|false|null|~|[-+]?[0-9.]+", value):
                    self.add(
                        (*path, value),
                        f"values with weights are text, so this would be the text {value!r}; "
                        "list numbers instead, repeating the frequent ones, or use `flag`",
                    )
            if pick and not sum(pick.values()) > 0:
                self.add(path, "all weights are 0")
            return
        for i, value in enumerate(pick):
            if isinstance(value, list | dict):
                self.add((*path, i), f"expected text, a number, true or false, got {value!r}")

    def _generated(
        self, text: str, path: KeyPath, names: tuple[str, ...], later: Sequence[str], own: tuple[str, Sequence[str]]
    ) -> None:
        try:
            compiled = compile_expression(text, names)
        except HandrailError as error:
            unread = [name for name in later if name not in names and re.search(rf"\b{re.escape(name)}\b", text)]
            hint = f"; `{unread[0]}` is drawn after this field: move it up" if unread else ""
            self.add(path, f"{error}{hint}")
            return
        for name in sorted(compiled.reads):
            root, dot, field = name.partition(".")
            if dot and root == own[0] and field in later and field not in own[1]:
                self.add(path, f"expression `{text}`: `{field}` is drawn after this field: move it up")
            elif dot and root in self.domain.records:
                self.known(f"field of {root}", field, self.domain.records[root].fields, path)
            elif dot:
                self.add(path, f"expression `{text}`: `{root}` has no fields; fields of the same record are bare names")
        if compiled.times:
            self.add(path, f"expression `{text}`: `times` has no meaning where records are drawn")

    # --- desk and screens -------------------------------------------------------------------------------------------

    def desk(self) -> None:
        """Check the desk."""
        desk, screens = self.domain.desk, self.domain.screens
        if self.known("screen", desk.home, screens, ("desk", "home")) and screens[desk.home].needs:
            self.add(("desk", "home"), f"the first screen cannot need {', '.join(screens[desk.home].needs)} in focus")
        for i, name in enumerate(desk.menu):
            self.known("screen", name, screens, ("desk", "menu", i))
        for name, value in desk.case.items():
            self.identifier(name, ("desk", "case", name), "a field of the case file")
            if isinstance(value, list | dict):
                self.add(("desk", "case", name), f"expected text, a number, true, false or null, got {value!r}")
        if not desk.outcomes:
            self.add(("desk", "outcomes"), "a case needs at least one way to be closed")
        for i, name in enumerate(desk.outcomes):
            self.id(name, ("desk", "outcomes", i))
        self._distinct(desk.outcomes, ("desk", "outcomes"), "outcome")
        if not 0 <= desk.two_issues <= 1:
            self.add(("desk", "two_issues"), f"expected a probability from 0 to 1, got {desk.two_issues}")
        from handrail.envs.bpm.clock import Seconds

        for name, value in desk.seconds.items():
            if self.known(
                "time", name, [f.name for f in msgspec.structs.fields(Seconds)], ("desk", "seconds", name)
            ) and not (value >= 0 and math.isfinite(value)):
                self.add(("desk", "seconds", name), f"expected seconds of at least 0, got {value}")

    def _distinct(self, names: Sequence[str], path: KeyPath, what: str) -> None:
        for i, name in enumerate(names):
            if name in names[:i]:
                self.add((*path, i), f"{what} {name!r} is given twice")

    def screens(self) -> None:
        """Check screens: ids, controls, effects."""
        owners: dict[str, KeyPath] = {}
        for name, screen in self.domain.screens.items():
            path: KeyPath = ("screens", name)
            self.id(name, path)
            for i, kind in enumerate(screen.needs):
                self.known("record type", kind, self.domain.records, (*path, "needs", i))
            for i, link in enumerate(screen.links):
                self.known("screen", link, self.domain.screens, (*path, "links", i))
            for key, parts in (("tables", screen.tables), ("forms", screen.forms)):
                for i, part in enumerate(parts):
                    here = (*path, key, i, "id")
                    self.id(part.id, here)
                    if part.id == "message":
                        self.add(here, "`message` is the id of the box for free messages; choose another")
                    if part.id in owners:
                        other = ".".join(map(str, owners[part.id]))
                        self.add(
                            here,
                            f"{part.id!r} is the id of another table or form, in {other}; ids are unique in a domain",
                        )
                    owners.setdefault(part.id, path)
            for i, table in enumerate(screen.tables):
                self.table(table, (*path, "tables", i))
            for i, form in enumerate(screen.forms):
                self.form(form, (*path, "forms", i))
            self._shown(screen, path)

    def _shown(self, screen: Screen, path: KeyPath) -> None:
        inputs = {f"{form.id}.{field.id}" for form in screen.forms for field in form.fields}
        seen: set[str] = set()
        for i, shown in enumerate(screen.shows):
            here = (*path, "shows", i)
            if shown.id in seen or shown.id in inputs:
                self.add((*here, "id"), f"{shown.id!r} is the id of another value or field on this screen")
            seen.add(shown.id)
            root = shown.id.partition(".")[0]
            if root == "case" or shown.id in ("notice", "error"):
                self.add((*here, "id"), f"{shown.id!r} is shown on every screen; choose another id")
            elif root in {table.id for table in screen.tables}:
                self.add((*here, "id"), f"ids that begin with `{root}.` are rows of the table {root!r} on this screen")
            elif not re.fullmatch(r"[^\W\d][\w.-]*", shown.id):
                self.add((*here, "id"), f"{shown.id!r} cannot be an id; use letters, digits, `_`, `-` and `.`")
            compiled = self.expression(shown.value, (*here, "value"), Context(said=self.facts))
            if compiled is None:
                continue
            self.shown |= compiled.reads
            if any(name.startswith("said.") for name in compiled.reads):
                self.add((*here, "value"), f"expression `{shown.value}`: screens show records, not what was said")

    def table(self, table: Table, path: KeyPath) -> None:
        """Check a table."""
        if not self.known("record type", table.rows, self.domain.records, (*path, "rows")):
            return
        for i, column in enumerate(table.columns):
            self.known(f"field of {table.rows}", column, self.domain.records[table.rows].fields, (*path, "columns", i))
        self._distinct(table.columns, (*path, "columns"), "column")
        if table.where is not None:
            self.expression(table.where, (*path, "where"), Context(said=self.facts, row=table.rows))

    def form(self, form: Form, path: KeyPath) -> None:
        """Check a form and its effects."""
        for i, kind in enumerate(form.needs):
            self.known("record type", kind, self.domain.records, (*path, "needs", i))
        if form.when is not None:
            self.expression(form.when, (*path, "when"), Context(said=self.facts))
        self._distinct([field.id for field in form.fields], (*path, "fields"), "field")
        for i, field in enumerate(form.fields):
            self._field(field, (*path, "fields", i))
        context = Context(said=self.facts, form=frozenset(field.id for field in form.fields))
        for i, effect in enumerate(form.does):
            self.effect(effect, (*path, "does", i), context)
        if form.says:
            self.text(form.says, (*path, "says"), (*self.domain.records, *COMMON, "form"), context)

    def _field(self, field: Field, path: KeyPath) -> None:
        self.identifier(field.id, (*path, "id"), "a field of a form")
        if field.kind == "select":
            if not field.options:
                self.add((*path, "options"), "a select needs options")
            self._distinct(field.options, (*path, "options"), "option")
            for i, option in enumerate(field.options):
                if option != option.strip() or not option:
                    self.add((*path, "options", i), f"option {option!r} is empty or has spaces at its ends")
        elif field.options:
            self.add((*path, "options"), f"only a select has options, this field is of kind {field.kind!r}")
        if field.kind == "checkbox" and field.required:
            self.add((*path, "required"), "a check box always has a value; use `valid: value` if it must be ticked")
        if field.error and field.valid is None:
            self.add((*path, "error"), "an error is only shown where `valid` says what is right; add `valid`")
        if field.valid is not None:
            self.expression(field.valid, (*path, "valid"), Context(said=self.facts, value=True))

    def effect(self, effect: Effect, path: KeyPath, context: Context) -> None:
        """Check one thing a button does."""
        given = [name for name in EFFECTS if getattr(effect, name)]
        if len(given) != 1:
            got = f"{' and '.join(given)} are" if given else "none is"
            self.add(path, f"exactly one of {', '.join(EFFECTS)} says what happens; {got} given")
            return
        records = self.domain.records
        if effect.when is not None:
            self.expression(effect.when, (*path, "when"), context)
        for key, owner in (("by", "find"), ("fields", "add")):
            if getattr(effect, key) and given[0] != owner:
                self.add((*path, key), f"`{key}` goes with `{owner}` only")
        if effect.find is not None and self.known("record type", effect.find, records, (*path, "find")):
            if not effect.by:
                self.add(path, "`find` needs `by`: field -> expression")
            self._values(effect.by, effect.find, (*path, "by"), context)
        if effect.add is not None and self.known("record type", effect.add, records, (*path, "add")):
            if records[effect.add].of is None:
                self.add((*path, "add"), f"{effect.add!r} belongs to nothing and cannot be added; only its records can")
            self._values(effect.fields, effect.add, (*path, "fields"), context)
        if effect.open is not None:
            self.known("screen", effect.open, self.domain.screens, (*path, "open"))
        for target, text in effect.set.items():
            kind, dot, field = target.partition(".")
            here = (*path, "set", target)
            if not dot:
                self.add(here, f"{target!r} is no field; write `type.field` or `case.field`")
            elif kind == "case":
                self.known("field of case", field, self.domain.desk.case, here)
            elif self.known("record type", kind, [*records, "case"], here):
                self.known(f"field of {kind}", field, records[kind].fields, here)
                if field == records[kind].key:
                    self.add(here, f"{field!r} is the key that names the record and cannot change")
            self.expression(text, here, context)

    def _values(self, values: Mapping[str, str], kind: str, path: KeyPath, context: Context) -> None:
        for field, text in values.items():
            self.known(f"field of {kind}", field, self.domain.records[kind].fields, (*path, field))
            self.expression(text, (*path, field), context)

    def reachable(self) -> None:
        """Note screens that no way leads to, and record types that never come into focus where they are needed."""
        domain = self.domain
        if domain.desk.home not in domain.screens:
            return
        found, focus = {domain.desk.home}, set[str]()
        grown = True
        while grown:
            before = len(found), len(focus)
            for name in list(found):
                screen = domain.screens[name]
                targets = [*domain.desk.menu, *screen.links]
                for table in screen.tables:
                    owner = domain.records[table.rows].of if table.rows in domain.records else None
                    if owner is None or owner in focus:
                        focus.update((table.rows, *self._owners_of(table.rows)))
                for form in screen.forms:
                    if focus.issuperset(form.needs):
                        for effect in form.does:
                            if effect.find is not None:
                                focus.update((effect.find, *self._owners_of(effect.find)))
                            if effect.open is not None:
                                targets.append(effect.open)
                found.update(t for t in targets if t in domain.screens and focus.issuperset(domain.screens[t].needs))
            grown = before != (len(found), len(focus))
        for name, screen in domain.screens.items():
            if name in found:
                for i, form in enumerate(screen.forms):
                    for missing in [kind for kind in form.needs if kind not in focus]:
                        self.add(
                            ("screens", name, "forms", i, "needs"),
                            f"{missing!r} is never in focus: no table lists it and no form finds it within reach",
                        )
                continue
            missing_kinds = [kind for kind in screen.needs if kind not in focus and kind in domain.records]
            why = "no menu, link or `open` leads to it"
            if missing_kinds:
                why = f"it needs {', '.join(missing_kinds)} in focus, which no table lists and no form finds"
            self.add(("screens", name), f"screen {name!r} is out of reach: {why}")

    def _owners_of(self, kind: str) -> Iterator[str]:
        return self.owners(kind) if kind in self.domain.records else iter(())

    # --- templates, issues, rules, phrases --------------------------------------------------------------------------

    def templates(self) -> None:
        """Check reply templates."""
        for name, template in self.domain.templates.items():
            path: KeyPath = ("templates", name)
            self.id(name, path)
            if name in self.forms:
                self.add(path, f"{name!r} is the id of a form too; `times('{name}')` could mean both")
            if not template.text.strip():
                self.add((*path, "text"), "a reply needs a text")
            self.text(template.text, (*path, "text"), (*self.domain.records, *COMMON), Context(said=self.facts))
            for i, procedure in enumerate(template.procedures):
                here = (*path, "procedures", i)
                known = self.known("procedure", procedure, self.domain.procedures, here)
                if known and self.domain.procedures[procedure].shared:
                    self.add(here, f"{procedure!r} is shared and never open; name the procedures that run it, or none")

    def issues_(self) -> None:
        """Check issues, their variants and facts."""
        for name, issue in self.domain.issues.items():
            path: KeyPath = ("issues", name)
            self.id(name, path)
            known = self.known("procedure", issue.procedure, self.domain.procedures, (*path, "procedure"))
            if known and self.domain.procedures[issue.procedure].shared:
                self.add((*path, "procedure"), f"{issue.procedure!r} is shared: it is only run by other procedures")
            if not issue.weight > 0:
                self.add((*path, "weight"), f"expected a weight above 0, got {issue.weight}")
            for kind, text in issue.concerns.items():
                here = (*path, "concerns", kind)
                if self.known("record type", kind, self.domain.records, here):
                    self.expression(text, here, Context(row=kind))
            kinds = tuple(sorted(self.concerned(issue)))
            self.phrases(issue.opening, (*path, "opening"), kinds)
            self.phrases(issue.second, (*path, "second"), kinds, needed=False)
            self._variants(issue, path)
            for fact, spec in issue.facts.items():
                self.identifier(fact, (*path, "facts", fact), "a fact")
                self.fact(issue, spec, (*path, "facts", fact))

    def concerned(self, issue: Issue) -> set[str]:
        """Return the record types of which a case of `issue` has one particular record."""
        found = {kind for kind in issue.concerns if kind in self.domain.records}
        found.update(owner for kind in list(found) for owner in self.owners(kind))
        found.update(name for name, kind in self.domain.records.items() if kind.of is None)
        return found

    def _variants(self, issue: Issue, path: KeyPath) -> None:
        if not issue.variants:
            self.add((*path, "variants"), "give at least one variant, or leave `variants` out")
        concerned = self.concerned(issue)
        for i, variant in enumerate(issue.variants):
            here = (*path, "variants", i)
            if not variant.weight > 0:
                self.add((*here, "weight"), f"expected a weight above 0, got {variant.weight}")
            for target, text in variant.set.items():
                kind, _, field = target.partition(".")
                at = (*here, "set", target)
                if self.known("record type", kind, self.domain.records, at):
                    self.known(f"field of {kind}", field, self.domain.records[kind].fields, at)
                    if kind not in concerned:
                        self.add(at, f"the issue concerns no particular {kind}; add `{kind}: true` to its `concerns`")
                    elif field == self.domain.records[kind].key:
                        self.add(at, f"{field!r} is the key that names the record and cannot change")
                self.expression(text, at)
            for fact, text in variant.facts.items():
                self.known("fact", fact, issue.facts, (*here, "facts", fact))
                self.expression(text, (*here, "facts", fact))

    def fact(self, issue: Issue, fact: Fact, path: KeyPath) -> None:
        """Check a fact: how it is drawn and how it is told."""
        if (fact.value is None) == (fact.draw is None):
            got = "neither is" if fact.value is None else "both are"
            self.add(
                path, f"exactly one of `value` (true of the records) and `draw` (what is wanted) is needed; {got} given"
            )
        names = (*self.domain.records, "today")
        if fact.value is not None:
            compiled = self.expression(fact.value, (*path, "value"))
            concerned = self.concerned(issue)
            for name in sorted(compiled.reads if compiled else ()):
                root = name.partition(".")[0]
                if root in self.domain.records and root not in concerned:
                    self.add(
                        (*path, "value"),
                        f"expression `{fact.value}`: the issue concerns no particular {root}; "
                        f"add `{root}: true` to its `concerns`",
                    )
        for key in ("draw", "wrong_value"):
            if (generator := getattr(fact, key)) is not None:
                self.generator(generator, (*path, key), names)
        for key in ("volunteer", "wrong", "never"):
            if not 0 <= getattr(fact, key) <= 1:
                self.add((*path, key), f"expected a probability from 0 to 1, got {getattr(fact, key)}")
        if fact.wrong + fact.never > 1:
            self.add((*path, "wrong"), f"`wrong` and `never` add up to {fact.wrong + fact.never:g}, more than 1")
        self.say(fact.say, (*path, "say"), fact)

    def say(self, say: list[str] | dict[str, list[str]], path: KeyPath, fact: Fact) -> None:
        """Check how a fact is told."""
        if isinstance(say, list):
            self.phrases(say, path, ("value",), slot="value")
            return
        values = drawn_values(fact)
        keys = {{"true": "yes", "false": "no"}.get(key, key): key for key in say}
        for value in values or ():
            if value not in keys and "" not in keys:
                self.add(path, f'no phrases for the value {value!r}; add them, or `"": [...]` for all other values')
        told: dict[str, str] = {}
        for key, texts in say.items():
            if values is not None and key and {"true": "yes", "false": "no"}.get(key, key) not in values:
                self.add((*path, key), f"the fact never is {key!r}{nearest(key, values)}")
            self.phrases(texts, (*path, key), ("value",), slot="" if key else "value")
            for i, text in enumerate(texts):
                if "{value}" not in text and told.setdefault(text, key) != key:
                    self.add(
                        (*path, key, i), f"phrase {text!r} also says {told[text]!r}: nobody could tell which is meant"
                    )

    def rules(self) -> None:
        """Check rules."""
        closes = [f"close:{name}" for name in self.domain.desk.outcomes]
        for name, rule in self.domain.rules.items():
            path: KeyPath = ("rules", name)
            if not rule.never:
                self.add((*path, "never"), "name at least one form, template or outcome (`close:refused`)")
            fields: set[str] | None = None
            for i, target in enumerate(rule.never):
                self.known(
                    "form, template or outcome",
                    target,
                    [*self.forms, *self.domain.templates, *closes],
                    (*path, "never", i),
                )
                own = {field.id for field in self.forms[target].fields} if target in self.forms else set()
                fields = own if fields is None else fields & own
            self.expression(rule.when, (*path, "when"), Context(said=self.facts, form=frozenset(fields or ())))

    def small(self) -> None:
        """Check what customers say beside facts, in all languages."""
        for kind in Small.__struct_fields__:
            self._small(kind, getattr(self.domain.small, kind), ("small", kind))
        for language, words in self.domain.languages.items():
            path: KeyPath = ("languages", language)
            if not self._mapping(words, ("small", "issues"), path):
                continue
            small, issues = words.get("small") or {}, words.get("issues") or {}
            if self._mapping(small, Small.__struct_fields__, (*path, "small")):
                for kind, texts in small.items():
                    if self._texts(texts, (*path, "small", kind)):
                        self._small(kind, texts, (*path, "small", kind))
            if self._mapping(issues, self.domain.issues, (*path, "issues")):
                for name, given in issues.items():
                    self._translated(given, self.domain.issues.get(name), (*path, "issues", name))

    def _small(self, kind: str, texts: list[str], path: KeyPath) -> None:
        names = ("phrase",) if kind == "correct" else ()
        self.phrases(texts, path, names, slot="phrase" if kind == "correct" else "")

    def _translated(self, given: Any, issue: Issue | None, path: KeyPath) -> None:
        if issue is None or not self._mapping(given, ("opening", "second", "facts"), path):
            return
        for key in ("opening", "second"):
            if key in given and self._texts(given[key], (*path, key)):
                self.phrases(given[key], (*path, key), tuple(sorted(self.concerned(issue))))
        facts = given.get("facts") or {}
        if self._mapping(facts, issue.facts, (*path, "facts")):
            for fact, say in facts.items():
                here = (*path, "facts", fact)
                if fact not in issue.facts:
                    continue
                inner = say.get("say") if isinstance(say, dict) and "say" in say else say
                groups = inner.items() if isinstance(inner, dict) else [("", inner)]
                right = [self._texts(texts, (*here, key) if key else here) for key, texts in groups]
                if all(right):
                    self.say(inner, here, issue.facts[fact])

    def _mapping(self, value: Any, keys: Iterable[str], path: KeyPath) -> bool:
        if not isinstance(value, dict):
            self.add(path, f"expected a mapping with keys {', '.join(keys)}, got {value!r}")
            return False
        for key in value:
            self.known("key", key, keys, (*path, key))
        return True

    def _texts(self, value: Any, path: KeyPath) -> bool:
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return True
        self.add(path, f"expected a list of phrases, got {value!r}")
        return False

    # --- procedures -------------------------------------------------------------------------------------------------

    def procedures(self) -> None:
        """Check procedures: nodes one by one, then the graph they make."""
        for name, procedure in self.domain.procedures.items():
            path: KeyPath = ("procedures", name)
            self.id(name, path)
            if not self.issues[name]:
                who = "no procedure in use runs it" if procedure.shared else "no issue is worked by it"
                self.add(path, f"{who}; name it in one or remove it")
            sound = self.known("node", procedure.start, procedure.nodes, (*path, "start"))
            for key, node in procedure.nodes.items():
                sound &= self.node(name, key, node)
            if sound:
                self._graph(name, procedure, path)
        self._recursion()

    def node(self, name: str, key: str, node: Node) -> bool:
        """Check one node; return whether it can be followed."""
        procedure = self.domain.procedures[name]
        path: KeyPath = ("procedures", name, "nodes", key)
        given = [action for action in ACTIONS if getattr(node, action) is not None]
        if len(given) != 1:
            got = f"{' and '.join(given)} are" if given else "none is"
            self.add(path, f"exactly one of {', '.join(ACTIONS)} says what is to be done; {got} given")
            return False
        action = given[0]
        for other, actions in _ONLY.items():
            value = getattr(node, other)
            if value not in (_DEFAULTS[other], {}, [], None) and action not in actions:
                self.add((*path, other), f"`{other}` goes with {' and '.join(actions)} only; this node is `{action}`")
                return False
        sound = True
        for at, to in ways_on(node):
            sound &= self.known("node", to, procedure.nodes, (*path, *at))
        if action in _ONLY["next"] and node.next is None:
            self.add(path, f"a dead end: `{action}` needs `next`, the node after it")
            sound = False
        getattr(self, f"_{action}")(name, node, path)
        return sound

    def _said_in(self, name: str) -> frozenset[str]:
        return frozenset(fact for issue in self.issues[name] for fact in self.domain.issues[issue].facts)

    def _asked(self, name: str, node: Node, path: KeyPath) -> None:
        for i, template in enumerate(templates_of(node)):
            here = (*path, "ask" if node.ask is not None else "tell")
            here = (*here, i) if isinstance(getattr(node, here[-1]), list) else here
            if self.known("template", template, self.domain.templates, here):
                self._offered(name, template, here)
        if not templates_of(node):
            self.add(path, "name at least one template")

    def _offered(self, name: str, template: str, path: KeyPath) -> None:
        """Note procedures that need a template which is not offered in them."""
        offered = self.domain.templates[template].procedures
        needing = {self.domain.issues[issue].procedure for issue in self.issues[name]}
        for missing in sorted(needing.difference(offered) if offered else ()):
            self.add(
                path,
                f"template {template!r} is not offered while {missing!r} is open; "
                f"add it to templates.{template}.procedures ({', '.join(offered)})",
            )

    def _ask(self, name: str, node: Node, path: KeyPath) -> None:
        self._asked(name, node, path)
        if not node.facts:
            self.add(path, "`ask` needs `facts`: what is asked for")
        if node.limit < 1:
            self.add((*path, "limit"), f"expected at least 1, got {node.limit}")
        for i, fact in enumerate(node.facts):
            here = (*path, "facts", i)
            if not self.known("fact", fact, self.facts, here):
                continue
            for issue in self.issues[name]:
                if fact not in self.domain.issues[issue].facts:
                    self.add(
                        here, f"customers of the issue {issue!r} have no fact {fact!r}; add it to issues.{issue}.facts"
                    )

    def _tell(self, name: str, node: Node, path: KeyPath) -> None:
        self._asked(name, node, path)

    def _look(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.look is not None
        self.known("screen", node.look, self.domain.screens, (*path, "look"))

    def _select(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.select is not None
        if not self.known("table", node.select, self.tables, (*path, "select")):
            return
        if node.where is None:
            self.add(path, "`select` needs `where`, an expression over `row` that tells which row")
            return
        table = self.tables[node.select]
        compiled = self.expression(node.where, (*path, "where"), Context(self._said_in(name), row=table.rows))
        if compiled is None or table.rows not in self.domain.records:
            return
        kind = self.domain.records[table.rows]
        for read in sorted(compiled.reads):
            root, _, field = read.partition(".")
            if root == "row" and field in kind.fields and field not in (*table.columns, kind.key):
                self.add(
                    (*path, "where"),
                    f"expression `{node.where}`: the table {table.id!r} does not show {field!r}, so nobody could "
                    f"choose by it; add it to the columns ({', '.join([kind.key, *table.columns])})",
                )
        self._visible(compiled, (*path, "where"))

    def _submit(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.submit is not None
        if not self.known("form", node.submit, self.forms, (*path, "submit")):
            return
        fields = {field.id: field for field in self.forms[node.submit].fields}
        for field, text in node.values.items():
            here = (*path, "values", field)
            if not self.known(f"field of {node.submit}", field, fields, here):
                continue
            compiled = self.expression(text, here, Context(self._said_in(name)))
            if compiled is not None:
                self._visible(compiled, here)
                self._options(fields[field], compiled, name, here)
        for field, spec in fields.items():
            if spec.required and field not in node.values:
                self.add(path, f"the form {node.submit!r} requires {field!r}; give it in `values`")

    def _options(self, field: Field, compiled: Compiled, name: str, path: KeyPath) -> None:
        """Note values that a select does not offer, where they are known."""
        if field.kind != "select":
            return
        values: set[str] = set()
        if not compiled.reads and not compiled.times:
            values = {text_of(compiled({}))}
        elif match := re.fullmatch(r"said\.(\w+)", compiled.text.strip()):
            for issue in self.issues[name]:
                spec = self.domain.issues[issue].facts.get(match[1])
                values.update((drawn_values(spec) if spec is not None else None) or ())
        for value in sorted(values.difference(field.options)):
            self.add(path, f"{field.id!r} does not offer {value!r}; its options are {', '.join(field.options)}")

    def _decide(self, name: str, node: Node, path: KeyPath) -> None:
        branches = node.decide or []
        if not branches:
            self.add((*path, "decide"), "a decision needs at least one way on")
        for i, branch in enumerate(branches):
            here = (*path, "decide", i)
            if branch.when is None:
                if i < len(branches) - 1:
                    self.add(
                        here, "without `when` this way is always taken and those after it never; move it to the end"
                    )
                continue
            compiled = self.expression(branch.when, (*here, "when"), Context(self._said_in(name)))
            if compiled is not None:
                self._visible(compiled, (*here, "when"))
        if branches and branches[-1].when is not None:
            self.add(
                (*path, "decide"),
                "a dead end if no `when` holds: end with a way without `when`, such as `{to: NODE}`",
            )

    def _visible(self, compiled: Compiled, path: KeyPath) -> None:
        """Note fields of records that operators go by and no screen shows."""
        for name in sorted(compiled.reads):
            root, dot, field = name.partition(".")
            if (
                dot
                and root in self.domain.records
                and field in self.domain.records[root].fields
                and name not in self.shown
            ):
                self.add(
                    path,
                    f"expression `{compiled.text}`: no screen shows {name}, so nobody could go by it; "
                    f"add {{id: {name}, label: …, value: {name}}} to the `shows` of a screen",
                )

    def _run(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.run is not None
        if not self.known("procedure", node.run, self.domain.procedures, (*path, "run")):
            return
        other = self.domain.procedures[node.run]
        if not other.shared:
            self.add((*path, "run"), f"{node.run!r} is not shared; add `shared: true` to it, or open it by an issue")
        exits = list(dict.fromkeys(inner.exit for inner in other.nodes.values() if inner.exit is not None))
        for exit_ in node.then:
            self.known(f"exit of {node.run}", exit_, exits, (*path, "then", exit_))
        for exit_ in exits:
            if exit_ not in node.then:
                self.add(
                    (*path, "then"), f"a dead end at the exit {exit_!r} of {node.run!r}: say which node follows it"
                )

    def _close(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.close is not None
        self.known("outcome", node.close, self.domain.desk.outcomes, (*path, "close"))
        if self.domain.procedures[name].shared:
            self.add(
                (*path, "close"), "a shared procedure ends with `exit`; the procedure that runs it closes the case"
            )

    def _exit(self, name: str, node: Node, path: KeyPath) -> None:
        if not self.domain.procedures[name].shared:
            self.add((*path, "exit"), "only a shared procedure has exits; end with `close`")

    def _graph(self, name: str, procedure: Procedure, path: KeyPath) -> None:
        """Note nodes that no way leads to, that lead nowhere, or that go round without anything being done."""
        nodes = procedure.nodes
        reached = {procedure.start}
        waiting = [procedure.start]
        while waiting:
            for _, to in ways_on(nodes[waiting.pop()]):
                if to not in reached:
                    reached.add(to)
                    waiting.append(to)
        for key in nodes:
            if key not in reached:
                self.add(
                    (*path, "nodes", key), f"node {key!r} is unreachable: no way from {procedure.start!r} leads to it"
                )
        ending = {key for key, node in nodes.items() if node.close is not None or node.exit is not None}
        if not ending:
            self.add((*path, "nodes"), "no node ends it with " + ("`exit`" if procedure.shared else "`close`"))
            return
        grown = True
        while grown:
            more = {
                key for key, node in nodes.items() if key not in ending and any(to in ending for _, to in ways_on(node))
            }
            ending |= more
            grown = bool(more)
        for key in reached:
            if key not in ending:
                self.add((*path, "nodes", key), f"node {key!r} is a dead end: no way from it leads to an end")
        self._idle_loops(nodes, path)
        for key, node in nodes.items():
            if node.swaps and (node.next is None or action_of(nodes[node.next]) not in _ONLY["swaps"]):
                after = action_of(nodes[node.next]) if node.next else "nothing"
                self.add(
                    (*path, "nodes", key, "swaps"),
                    f"node {key!r} cannot trade places with {after!r}; only {', '.join(_ONLY['swaps'])} can",
                )

    def _idle_loops(self, nodes: Mapping[str, Node], path: KeyPath) -> None:
        """Note circles of decisions: nothing changes in them, so they never end."""
        idle = {key: [to for _, to in ways_on(node)] for key, node in nodes.items() if node.decide is not None}
        for key in idle:
            seen: set[str] = set()
            waiting = list(idle[key])
            while waiting:
                to = waiting.pop()
                if to == key:
                    self.add(
                        (*path, "nodes", key), f"node {key!r} leads back to itself through decisions only, for ever"
                    )
                    break
                if to in idle and to not in seen:
                    seen.add(to)
                    waiting += idle[to]

    def _recursion(self) -> None:
        procedures = self.domain.procedures
        runs = {n: {x.run for x in p.nodes.values() if x.run in procedures} for n, p in procedures.items()}
        for name in procedures:
            seen: set[str | None] = set()
            waiting = list(runs[name])
            while waiting:
                other = waiting.pop()
                if other == name:
                    self.add(("procedures", name), f"{name!r} runs itself")
                    break
                if other is not None and other not in seen:
                    seen.add(other)
                    waiting += runs[other]

    # --- what is known and in focus where ---------------------------------------------------------------------------

    def flow(self) -> None:
        """Note what a node uses that no way to it can have brought: facts nobody asked for, records not in focus."""
        for name, procedure in self.domain.procedures.items():
            if not procedure.shared:
                issues = [issue for issue in self.issues[name] if self.domain.issues[issue].procedure == name]
                volunteered = {
                    f"said.{fact}" for i in issues for fact, s in self.domain.issues[i].facts.items() if s.volunteer > 0
                }
                self._arrive(name, frozenset(volunteered), set())
        for issue, spec in self.domain.issues.items():
            asked = {
                fact
                for name, procedure in self.domain.procedures.items()
                if issue in self.issues[name]
                for node in procedure.nodes.values()
                for fact in node.facts
            }
            for fact, given in spec.facts.items():
                if fact not in asked and not given.volunteer:
                    self.add(
                        ("issues", issue, "facts", fact),
                        f"nobody ever learns {fact!r}: no `ask` in its procedure asks for it and it is not volunteered",
                    )

    def _arrive(self, name: str, start: frozenset[str], above: set[str]) -> frozenset[str]:
        """Follow a procedure from its start with `start` possibly known; return what may be known at its exits."""
        procedure = self.domain.procedures[name]
        arriving: dict[str, frozenset[str]] = {procedure.start: start}
        waiting = [procedure.start]
        leaving = frozenset[str]()
        while waiting:
            key = waiting.pop()
            node, known = procedure.nodes[key], arriving[key]
            known |= self._brings(node)
            if node.run is not None and node.run not in above:
                known |= self._arrive(node.run, known, above | {name})
            if node.exit is not None:
                leaving |= known
            for _, to in ways_on(node):
                if to not in arriving or not known <= arriving[to]:
                    arriving[to] = arriving.get(to, frozenset()) | known
                    waiting.append(to)
        for key, known in arriving.items():
            self._uses(name, key, known)
        return leaving

    def _brings(self, node: Node) -> frozenset[str]:
        """Return what a node may make known: `said.F` and record types in focus."""
        if node.ask is not None:
            return frozenset(f"said.{fact}" for fact in node.facts)
        kinds: list[str] = []
        if node.select is not None:
            kinds = [self.tables[node.select].rows]
        elif node.submit is not None:
            kinds = [effect.find for effect in self.forms[node.submit].does if effect.find is not None]
        return frozenset(k for kind in kinds for k in (kind, *self.owners(kind)))

    def _uses(self, name: str, key: str, known: frozenset[str]) -> None:
        node = self.domain.procedures[name].nodes[key]
        path: KeyPath = ("procedures", name, "nodes", key)
        names = (*self.domain.records, *COMMON)
        for template in templates_of(node):
            for slot in compile_text(self.domain.templates[template].text, names).slots:
                for read in sorted(slot.reads):
                    self._missing(
                        read, known, path, f"template {template!r}: its slot {{{slot.text}}} is unbound here; it"
                    )
        guards = [(("decide", i, "when"), b.when) for i, b in enumerate(node.decide or []) if b.when is not None]
        texts: list[tuple[KeyPath, str]] = [*guards, *((("values", f), text) for f, text in node.values.items())]
        if node.where is not None:
            texts.append((("where",), node.where))
        for at, text in texts:
            for read in sorted(compile_expression(text, (*names, "row")).reads):
                self._missing(read, known, (*path, *at), f"expression `{text}`")
        if node.select is not None:
            owner = self.domain.records[self.tables[node.select].rows].of
            if owner is not None and owner not in known:
                self.add(
                    (*path, "select"),
                    f"the table {node.select!r} is empty here: no {owner} was brought into focus before",
                )
        needs = self.domain.screens[node.look].needs if node.look is not None else []
        needs = self.forms[node.submit].needs if node.submit is not None else needs
        for kind in needs:
            if kind not in known:
                what = f"screen {node.look!r}" if node.look is not None else f"form {node.submit!r}"
                self.add(path, f"{what} needs a {kind} in focus, and nothing before it finds or selects one")

    def _missing(self, read: str, known: frozenset[str], path: KeyPath, what: str) -> None:
        root, dot, field = read.partition(".")
        if root == "said" and read not in known:
            self.add(path, f"{what} reads {read}, and nothing before it asks for {field!r}")
        elif root in self.domain.records and dot and root not in known:
            self.add(path, f"{what} reads {read}, and nothing before it finds or selects a {root}")


def drawn_values(fact: Fact) -> list[str] | None:
    """Return the values a fact can have, as text, where they are few and known; else `None`."""
    if fact.draw is None or fact.draw.expr is not None:
        return None
    if fact.draw.pick is not None:
        return [text_of(value) for value in fact.draw.pick]
    if fact.draw.flag is not None:
        return ["yes", "no"]
    return None


def check_domain(domain: Domain, source: Source | None = None, tried: bool = True) -> None:
    """Check a domain.

    Args:
        domain: of the right form, as `handrail.envs.bpm.load.read_domain` returns it.
        source: where its values were read from, to name file and line.
        tried: whether to draw and work cases too, which finds guards that never hold and procedures that never end.

    Raises:
        HandrailError: it has mistakes; each is listed with its path and value, what was expected and nearest names.
    """
    check = _Check(domain, source)
    stages: tuple[Callable[[], None], ...] = (
        check.records,
        check.desk,
        check.screens,
        check.reachable,
        check.templates,
        check.issues_,
        check.procedures,
        check.rules,
        check.small,
    )
    for stage in stages:
        stage()
    check.problems.raise_any()
    check.flow()
    check.problems.raise_any()
    if tried:
        from handrail.envs.bpm.probe import try_domain

        try_domain(domain, check.problems, check.issues)
        check.problems.raise_any()


def main(arguments: Sequence[str]) -> int:
    """Check the domain named on the command line, and tell how often its cases take each way.

    Args:
        arguments: name or folder of a domain and, if wanted, the number of cases of each issue (200).

    Returns:
        Exit status: 0 if the domain is sound.
    """
    from handrail.envs.bpm.load import load_domain
    from handrail.envs.bpm.probe import coverage

    if not 1 <= len(arguments) <= 2 or not all(number.isdigit() for number in arguments[1:]):
        print("usage: python -m handrail.envs.bpm.check DOMAIN [CASES]", file=sys.stderr)
        return 2
    try:
        domain = load_domain(arguments[0])
        worked = coverage(domain, int(arguments[1]) if len(arguments) > 1 else 200)
    except HandrailError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"domain {domain.name}: no mistakes found")
    for issue, found in worked.items():
        ends = ", ".join(f"{outcome} {count / found.cases:.0%}" for outcome, count in found.outcomes.most_common())
        print(
            f"\n{issue}: {found.cases} cases, {found.successes / found.cases:.1%} succeed, "
            f"{found.steps / found.cases:.1f} actions each; {ends}"
        )
        for name in _followed(domain, issue):
            for key, node in domain.procedures[name].nodes.items():
                if node.run is None and node.decide is None and node.exit is None:
                    share = found.visits[f"{name}.{key}"] / found.cases
                    print(f"  {share:6.1%}  {name}.{key}{'  <- never reached in these cases' if not share else ''}")
    return 0


def _followed(domain: Domain, issue: str) -> list[str]:
    """Return the procedures that cases of `issue` are worked in."""
    return [name for name, issues in worked_in(domain).items() if issue in issues]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
