"""Checking the parts of a domain one by one: records, desk, screens, templates, issues, rules and phrases.

What is looked up: every name, with the nearest known ones if it is unknown; every expression and text, with what it
reads; every number, with its range.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from handrail.envs.bpm.domain import Domain, Effect, Fact, Field, Form, Generator, Issue, Screen, Small, Table
from handrail.envs.bpm.expressions import COMMON, Compiled, CompiledText, compile_expression, compile_text, text_of
from handrail.envs.bpm.load import KeyPath, Problems, Source, path_text
from handrail.envs.errors import HandrailError, nearest

WAYS: Final = ("pick", "integer", "money", "date", "code", "person", "email", "phone", "address", "flag", "expr")
"""Keys of a generator of which exactly one is given."""

EFFECTS: Final = ("find", "set", "add", "open")
"""Keys of an effect of which exactly one is given."""

_RESERVED: Final = frozenset(
    ("case", "said", "form", "row", "value", "phrase", "today", "times", "true", "false", "none", "null")
)
_ID: Final = re.compile(r"[^\W\d][\w-]*")


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


class Parts:
    """Checks the parts of one domain.

    Args:
        domain: to be checked.
        source: where its values were read from, if they were.

    Attributes:
        domain: as given.
        problems: what was found; `add` notes a problem.
        forms: by id, of all screens.
        tables: by id, of all screens.
        facts: of all issues.
        shown: fields of records (dotted) that some screen shows as values; complete after `screens`.
    """

    def __init__(self, domain: Domain, source: Source | None) -> None:
        self.domain = domain
        self.problems = Problems(f"domain {domain.name}", source)
        self.add = self.problems.add
        self.forms = {form.id: form for screen in domain.screens.values() for form in screen.forms}
        self.tables = {table.id: table for screen in domain.screens.values() for table in screen.tables}
        self.facts = frozenset(fact for issue in domain.issues.values() for fact in issue.facts)
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
            ids = [("tables", i, table.id) for i, table in enumerate(screen.tables)]
            ids += [("forms", i, form.id) for i, form in enumerate(screen.forms)]
            for key, i, own in ids:
                here = (*path, key, i, "id")
                self.id(own, here)
                if own == "message":
                    self.add(here, "`message` is the id of the box for free messages; choose another")
                if own in owners:
                    other = path_text(owners[own])
                    self.add(
                        here, f"{own!r} is the id of another table or form, in {other}; ids are unique in a domain"
                    )
                owners.setdefault(own, path)
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

    def kinds_of_case(self) -> None:
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
                inner: Any = say["say"] if isinstance(say, dict) and "say" in say else say
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


def drawn_values(fact: Fact) -> list[str] | None:
    """Return the values a fact can have, as text, where they are few and known; else `None`."""
    if fact.draw is None or fact.draw.expr is not None:
        return None
    if fact.draw.pick is not None:
        return [text_of(value) for value in fact.draw.pick]
    if fact.draw.flag is not None:
        return ["yes", "no"]
    return None
