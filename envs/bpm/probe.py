"""Trying a domain: do its guards ever hold, and do its procedures come to an end?

Cases are drawn and every guard is evaluated on them. A guard that holds in none of them is tried on values mixed freely
from all that its fields can ever have (what generators draw, variants and effects set, customers say), with the numbers
and dates that it compares with. What then still never holds cannot hold. Some cases are worked to their end, always by
the next thing that the procedure asks for: that must close them, and not break the domain's own rules.
"""

from __future__ import annotations

import ast
import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import numpy as np

from handrail.envs.bpm import flow
from handrail.envs.bpm.case import Case, draw_case
from handrail.envs.bpm.domain import Domain, Generator
from handrail.envs.bpm.draws import Uniform, choose, uniform_of
from handrail.envs.bpm.expressions import Compiled, compile_expression
from handrail.envs.bpm.load import KeyPath, Problems
from handrail.envs.bpm.program import FIRST_DAY, CompiledForm, CompiledNode, Program, program
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError

_CASES: Final = 12
_WORKED: Final = 6
_MIXED: Final = 4000
_POOL: Final = 200
_LONGEST: Final = 300

_Scope = dict[str, Any]


_Literals = dict[str, list[Any]]
"""Name -> the values that a guard compares it with, and those next to them."""


class Coverage(NamedTuple):
    """What became of worked cases.

    Attributes:
        cases: how many were worked.
        successes: how many ended as they should.
        steps: actions, over all cases.
        outcomes: outcome -> cases.
        visits: node (`procedure.node`) -> cases that came past it.
    """

    cases: int
    successes: int
    steps: int
    outcomes: Counter[str]
    visits: Counter[str]


class _Sample(NamedTuple):
    """One moment of one case: the issue it is about and what expressions see."""

    issue: str
    scope: _Scope


class _Pools:
    """All values that a name can have, as far as they are few; a sample where they are many.

    Dates are kept as days from today, so that a date that always lies in the past does so in every mixture.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}
        self.ranges: dict[str, tuple[Any, Any]] = {}
        self.days: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, set[Any]] = {}

    def add(self, name: str, value: Any, today: str) -> None:
        """Note that `name` can be `value` when it is `today`."""
        if isinstance(value, str) and _is_date(value):
            days = (datetime.date.fromisoformat(value) - datetime.date.fromisoformat(today)).days
            low, high = self.days.get(name, (days, days))
            self.days[name] = min(low, days), max(high, days)
            return
        if isinstance(value, int | float) and not isinstance(value, bool):
            least, most = self.ranges.get(name, (value, value))
            self.ranges[name] = min(least, value), max(most, value)
        seen = self._seen.setdefault(name, set())
        # `True == 1`, but texts and guards tell them apart.
        key = type(value), value
        if key not in seen and len(seen) < _POOL:
            seen.add(key)
            self.values.setdefault(name, []).append(value)

    def draw(self, name: str, uniform: Uniform, today: str, literals: Sequence[Any] = ()) -> Any:
        """Return a value of `name`; often one of `literals`, which the guard compares it with, if it can be that."""
        literal: Any = choose(uniform, list(literals)) if literals and uniform() < 0.6 else None
        values = self.values.get(name, [])
        if name in self.days and not (values and uniform() < 0.3):
            low, high = self.days[name]
            days = low + int(uniform() * (high - low + 1))
            if type(literal) is int:
                days = min(max(literal if uniform() < 0.3 else -literal, low), high)
            elif isinstance(literal, str) and _is_date(literal):
                return literal
            return _later(today, days)
        if literal is not None:
            if (type(literal), literal) in self._seen.get(name, ()):
                return literal
            if type(literal) in (int, float) and name in self.ranges:
                least, most = self.ranges[name]
                if type(literal) is type(most) and least <= literal <= most:
                    return literal
        return choose(uniform, values) if values else None


class _Probe:
    """Tries one domain."""

    def __init__(self, domain: Domain, problems: Problems, issues: Mapping[str, Sequence[str]]) -> None:
        self.domain = domain
        self.problems = problems
        self.issues = issues
        self.program: Program = program(domain)
        self.uniform = uniform_of(np.random.default_rng(0))
        self.pools = _Pools()
        self.cases: dict[str, list[Case]] = {}
        self.samples: list[_Sample] = []
        self.submissions: dict[str, list[_Scope]] = {}
        # Operators may type anything: guards on such content can always hold.
        self.free = {
            f"{form.form.id}.{field.id}"
            for form in self.program.forms.values()
            for field in form.form.fields
            if field.kind in ("text", "number")
        }

    def draw(self) -> bool:
        """Draw cases of each issue; return whether that worked."""
        rng = np.random.default_rng(1)
        for issue in self.domain.issues:
            try:
                self.cases[issue] = [draw_case(self.domain, rng, issue) for _ in range(_CASES)]
            except HandrailError as error:
                text = str(error).removeprefix(f"domain {self.domain.name!r}: ")
                self.problems.add(("issues", issue), f"no case of it can be drawn: {text}")
        self.samples = [sample for cases in self.cases.values() for case in cases for sample in self._moments(case)]
        return len(self.cases) == len(self.domain.issues)

    def _moments(self, case: Case) -> Iterator[_Sample]:
        """Yield moments of a case: all records concerned in focus and all facts told, rightly and wrongly."""
        for matter in case.matters:
            for way in ("value", "first"):
                scope: _Scope = dict.fromkeys(self.domain.records)
                for kind, number in matter.concerns.items():
                    scope[kind] = case.records[number].values
                for kind in self.program.types:
                    if scope[kind] is None:
                        owner = self.program.lineage.owner[kind]
                        rows = case.rows.get((matter.concerns.get(owner, -2) if owner else -1, kind), ())
                        if rows:
                            scope[kind] = case.records[choose(self.uniform, rows)].values
                said = {fact: getattr(known, way) for fact, known in matter.facts.items()}
                scope.update(case=dict(self.domain.desk.case), said=said, today=case.today, form={}, row=None)
                scope["times"] = _none
                yield _Sample(matter.issue, scope)

    # --- which values there are -------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Find out which values each name can have."""
        first = FIRST_DAY.isoformat()
        for kind, record in self.domain.records.items():
            for field, generator in record.fields.items():
                self._generator(f"{kind}.{field}", generator)
        for cases in self.cases.values():
            for case in cases[:3]:
                for drawn in case.records.values():
                    if drawn.id >= case.customer:
                        for field, value in drawn.values.items():
                            self.pools.add(f"{drawn.type}.{field}", value, case.today)
        for field, value in self.domain.desk.case.items():
            self.pools.add(f"case.{field}", value, first)
        for name, issue in self.domain.issues.items():
            for fact, spec in issue.facts.items():
                self.pools.add(f"said.{fact}", None, first)
                for drawing in (spec.draw, spec.wrong_value):
                    if drawing is not None:
                        self._generator(f"said.{fact}", drawing)
            for case in self.cases[name]:
                for matter in case.matters:
                    for fact, known in matter.facts.items():
                        for value in (known.value, known.first, known.later):
                            self.pools.add(f"said.{fact}", value, case.today)
        for form in self.program.forms.values():
            for entry in form.form.fields:
                flags = (False, True) if entry.kind == "checkbox" else ()
                for value in (*entry.options, *flags, *(() if entry.required else (None,))):
                    self.pools.add(f"{form.form.id}.{entry.id}", value, first)
        # What is set may depend on what else is set: a few rounds reach what matters.
        for _ in range(2):
            self._assignments()

    def _generator(self, name: str, generator: Generator) -> None:
        first = FIRST_DAY.isoformat()
        values: list[Any] = [None] if generator.or_none else []
        values += generator.pick or ()
        values += [True, False] if generator.flag is not None else []
        values += generator.integer[:2] if generator.integer is not None else []
        values += map(float, generator.money or ())
        values += (_later(first, days) for days in generator.date or ())
        for value in values:
            self.pools.add(name, value, first)

    def _assignments(self) -> None:
        """Add what variants, forms and procedures set, evaluated on moments and on mixed values."""
        for name, compiled in self.program.issues.items():
            variants = self.domain.issues[name].variants
            for variant, (sets, facts) in zip(variants, compiled.variants, strict=True):
                for kind, field, expression in sets:
                    self._evaluate(f"{kind}.{field}", expression, (name,))
                for fact in variant.facts:
                    self._evaluate(f"said.{fact}", facts[fact], (name,))
        for name, nodes in self.program.procedures.items():
            for node in nodes.values():
                if node.node.submit is not None:
                    self._submissions(node, self.issues[name])
        for form in self.program.forms.values():
            for effect in form.effects:
                for kind, field, expression in effect.set:
                    self._evaluate(f"{kind}.{field}", expression, None, form)
                for field, expression in effect.fields:
                    self._evaluate(f"{effect.effect.add}.{field}", expression, None, form)

    def _submissions(self, node: CompiledNode, issues: Sequence[str]) -> None:
        """Fill a form as a node says, on moments of its cases."""
        form = self.program.forms[node.node.submit or ""]
        filled = self.submissions.setdefault(form.form.id, [])
        for scope in islice(self._moments_of(issues), 40):
            content: _Scope = {}
            for field, expression in node.values:
                value = self._try(f"{form.form.id}.{field}", expression, scope)
                if value is not None:
                    content[field] = value
            filled.append({**scope, "form": content})

    def _evaluate(
        self, name: str, expression: Compiled, issues: Iterable[str] | None, form: CompiledForm | None = None
    ) -> None:
        leaves = _leaves(expression)
        if len(leaves) > 1:
            for leaf in leaves:
                self._evaluate(name, leaf, issues, form)
            return
        if not expression.reads and not expression.times:
            self.pools.add(name, expression({}), FIRST_DAY.isoformat())
            return
        for scope in islice(self._moments_of(issues, form), 50):
            self._try(name, expression, scope)
        names = sorted(expression.reads)
        for _ in range(20):
            self._try(name, expression, self._mix(names, form=form))

    def _try(self, name: str, expression: Compiled, scope: _Scope) -> Any:
        """Note a value of `name`; values of different kinds that the expression cannot combine give none."""
        try:
            value = expression(scope)
        except HandrailError:
            return None
        self.pools.add(name, value, scope["today"])
        return value

    # --- whether guards hold ----------------------------------------------------------------------------------------

    def guards(self) -> None:
        """Note guards that never hold, and ways of decisions that are never taken."""
        for name, nodes in self.program.procedures.items():
            for key, node in nodes.items():
                path: KeyPath = ("procedures", name, "nodes", key)
                before: list[Compiled] = []
                for i, (guard, to) in enumerate(node.branches):
                    self._branch((*path, "decide", i), guard, before, to, self.issues[name])
                    if guard is not None:
                        before.append(guard)
                if node.where is not None:
                    table = self.program.tables[node.node.select or ""].table
                    self._row((*path, "where"), node.where, table.rows, self.issues[name], "no row is ever found by it")
        self._screens()
        for name, rule in self.domain.rules.items():
            forms: list[CompiledForm | None] = [self.program.forms.get(target) for target in rule.never]
            condition = next(c for target in rule.never for n, c in self.program.rules[target] if n == name)
            if not any(self.holds(condition, None, form=form) for form in forms):
                self._never(("rules", name, "when"), condition, "the rule can never be broken")

    def _branch(
        self, path: KeyPath, guard: Compiled | None, before: list[Compiled], to: str, issues: Sequence[str]
    ) -> None:
        if guard is not None and not self.holds(guard, issues):
            self._never((*path, "when"), guard, f"the way to {to!r} is never taken")
        elif before and not self.holds(guard, issues, before):
            taken = " or ".join(f"`{other.text}`" for other in before)
            self.problems.add(path, f"the way to {to!r} is never taken: whenever it could be, {taken} holds before it")

    def _screens(self) -> None:
        for name, screen in self.program.screens.items():
            for i, form in enumerate(screen.forms):
                path: KeyPath = ("screens", name, "forms", i)
                if form.when is not None and not self.holds(form.when, None):
                    self._never((*path, "when"), form.when, f"the button {form.form.id!r} can never be pressed")
                for j, effect in enumerate(form.effects):
                    if effect.when is not None and not self.holds(effect.when, None, form=form):
                        self._never((*path, "does", j, "when"), effect.when, "it never has this effect")
                for j, field in enumerate(form.fields.values()):
                    values = [value for value in self.pools.values.get(field.target, []) if value is not None]
                    if field.valid is not None and values and not self._accepts(field.valid, values):
                        shown = ", ".join(map(repr, values))
                        self._never(
                            (*path, "fields", j, "valid"), field.valid, f"the field takes none of {shown[:120]}"
                        )
            for i, table in enumerate(screen.tables):
                if table.where is not None:
                    self._row(
                        ("screens", name, "tables", i, "where"),
                        table.where,
                        table.table.rows,
                        None,
                        "nothing is listed",
                    )

    def _accepts(self, valid: Compiled, values: Sequence[Any]) -> bool:
        names = sorted(name for name in valid.reads if name != "value")
        for _ in range(20):
            mixed = self._mix(names)
            for value in values:
                if self._true(valid, {**mixed, "value": value}):
                    return True
        return False

    def _row(self, path: KeyPath, where: Compiled, kind: str, issues: Sequence[str] | None, consequence: str) -> None:
        for cases in (self.cases[issue] for issue in issues or self.cases):
            for case in cases:
                for sample in self._moments(case):
                    for record in case.records.values():
                        listed = record.type == kind and (record.owner < 0 or record.id >= case.customer)
                        if listed and self._true(where, {**sample.scope, "row": record.values}):
                            return
        names = sorted(where.reads)
        literals = _literals([where])
        if "row" in {name.partition(".")[0] for name in literals}:
            literals |= {f"{kind}.{name[4:]}": found for name, found in literals.items() if name.startswith("row.")}
        for _ in range(_MIXED):
            if self._true(where, self._mix(names, literals, row=kind)):
                return
        self._never(path, where, consequence, kind)

    def holds(
        self,
        guard: Compiled | None,
        issues: Sequence[str] | None,
        before: Sequence[Compiled] = (),
        form: CompiledForm | None = None,
    ) -> bool:
        """Return whether `guard` (always, if `None`) can hold where none of `before` does.

        Args:
            guard: the expression.
            issues: those whose cases come there; `None` for all.
            before: guards that are looked at first.
            form: the form whose fields it may read.
        """

        def true(scope: _Scope) -> bool:
            return (guard is None or self._true(guard, scope)) and not any(self._true(b, scope) for b in before)

        if any(true(scope) for scope in self._moments_of(issues, form)):
            return True
        parts = [part for part in (guard, *before) if part is not None]
        names = sorted({name for part in parts for name in part.reads})
        if form is not None and any(f"{form.form.id}.{name.removeprefix('form.')}" in self.free for name in names):
            return True
        literals = _literals(parts)
        return any(true(self._mix(names, literals, form=form, issues=issues)) for _ in range(_MIXED))

    def _true(self, guard: Compiled, scope: _Scope) -> bool:
        try:
            return bool(guard(scope))
        except HandrailError:
            return False

    def _moments_of(self, issues: Iterable[str] | None, form: CompiledForm | None = None) -> Iterator[_Scope]:
        """Return moments of cases; those at which `form` is submitted and, with its fields mixed, all others."""
        wanted = None if issues is None else set(issues)
        scopes = (sample.scope for sample in self.samples if wanted is None or sample.issue in wanted)
        if form is None:
            return scopes
        return chain(self.submissions.get(form.form.id, ()), (self._with_form(scope, form) for scope in scopes))

    def _with_form(self, scope: _Scope, form: CompiledForm) -> _Scope:
        draw, today = self.pools.draw, scope["today"]
        content = {field.id: draw(f"{form.form.id}.{field.id}", self.uniform, today) for field in form.form.fields}
        return {**scope, "form": content}

    def _mix(
        self,
        names: Sequence[str],
        literals: _Literals | None = None,
        form: CompiledForm | None = None,
        row: str = "",
        issues: Sequence[str] | None = None,
    ) -> _Scope:
        """Return a scope in which `names` have any of their values, whatever else there is."""
        uniform, draw = self.uniform, self.pools.draw
        wanted = self.samples if issues is None else [s for s in self.samples if s.issue in issues]
        scope = dict(choose(uniform, wanted or self.samples).scope)
        absent = {kind for kind in self.domain.records if uniform() < 0.1}
        known = literals or {}
        drawn: list[Any] = []
        for name in names:
            root, dot, field = name.partition(".")
            if not dot or (scope.get(root) is not None and uniform() < 0.2):
                continue
            source = (
                f"{row}.{field}" if root == "row" else f"{form.form.id}.{field}" if root == "form" and form else name
            )
            # Guards compare fields with each other: what is drawn for one is sometimes the value of another.
            copied = bool(drawn) and uniform() < 0.1
            value = choose(uniform, drawn) if copied else draw(source, uniform, scope["today"], known.get(source, ()))
            drawn.append(value)
            scope[root] = {**(scope.get(root) or {}), field: value}
        for kind in absent:
            scope[kind] = None
        counts = (0, 0, 1, 1, 2, 3, *(n for n in known.get("times", ()) if type(n) is int and 0 <= n < 50))
        done: dict[str, int] = {}
        scope["times"] = lambda target: done.setdefault(target, choose(uniform, counts))
        return scope

    def _never(self, path: KeyPath, guard: Compiled, consequence: str, row: str = "") -> None:
        hints = []
        for name in sorted(guard.reads):
            root, dot, field = name.partition(".")
            values = self.pools.values.get(f"{row}.{field}" if root == "row" else name, []) if dot else []
            if 0 < len(values) <= 12:
                ordered = sorted(values, key=lambda value: (value is not None, type(value).__name__, value or 0))
                hints.append(f"{name} is {', '.join('none' if value is None else repr(value) for value in ordered)}")
            elif name in self.pools.ranges:
                least, most = self.pools.ranges[name]
                hints.append(f"{name} lies between {least} and {most}")
            elif name in self.pools.days:
                low, high = self.pools.days[name]
                hints.append(f"{name} lies between {low} and {high} days from today")
        told = f" ({'; '.join(hints)})" if hints else ""
        self.problems.add(path, f"guard `{guard.text}` never holds: {consequence}{told}")

    # --- whether cases end ------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Work cases of each issue, most of them in thought only; note those that do not end well."""
        for issue, cases in self.cases.items():
            path: KeyPath = ("procedures", self.domain.issues[issue].procedure)
            courses: dict[tuple[str, ...], Case] = {}
            for case in cases:
                wanted = flow.expected(World(self.domain, case))
                procedure, _, last = wanted.course[-1].partition(".")
                if self.domain.procedures[procedure].nodes[last].close is None:
                    self._circle(path, issue, wanted.course[-12:])
                    return
                self._skipped(issue, wanted)
                courses.setdefault(wanted.course, case)
            if self.problems.found:
                return
            failed = []
            worked = list(courses.values())[:_WORKED]
            for case in worked:
                try:
                    world, nodes, _ = work(self.domain, case)
                except HandrailError as error:
                    self.problems.add(path, f"a case of {issue!r} cannot be worked: {error}")
                    return
                if world.outcome is None:
                    self._circle(path, issue, nodes[-12:])
                    return
                for rule in dict.fromkeys(world.violations):
                    self.problems.add(
                        path,
                        f"working a case of {issue!r} as it says breaks the rule {rule!r} "
                        f"({self.domain.rules[rule].text}); the last nodes were {', '.join(nodes[-4:])}",
                    )
                failed += [world] if not world.success and not world.violations else []
            if len(failed) == len(worked):
                self.problems.add(
                    path,
                    f"{len(failed)} of {len(worked)} cases of {issue!r} were worked as it says and did not succeed; "
                    f"they were closed as {', '.join(sorted({str(w.outcome) for w in failed}))}",
                )

    def _skipped(self, issue: str, wanted: flow.Expected) -> None:
        """Note nodes that a case came past without being able to do what they say."""
        tells = list(wanted.tells)
        counts = dict(wanted.ground.counts)
        for place in wanted.course:
            procedure, _, name = place.partition(".")
            node = self.program.procedures[procedure][name]
            path: KeyPath = ("procedures", procedure, "nodes", name)
            if node.node.tell is not None and not node.node.optional:
                if tells and tells[0][0] == node.templates:
                    tells.pop(0)
                    continue
                slots = {
                    slot.text for template in node.templates for slot in self.program.templates[template].text.slots
                }
                self.problems.add(
                    path,
                    f"a case of {issue!r} comes here and {' or '.join(node.templates)} cannot be sent: one of "
                    f"{', '.join(sorted(slots))} has no value then; decide before whether it has one",
                )
                return
            if node.node.submit is not None:
                counts[node.node.submit] = counts.get(node.node.submit, 0) - 1
                if counts[node.node.submit] < 0:
                    given = ", ".join(f"{field}: {value.text}" for field, value in node.values)
                    self.problems.add(
                        path,
                        f"a case of {issue!r} comes here and the form {node.node.submit!r} cannot be submitted: a "
                        f"required value is unknown, a value is not valid or not offered, or `needs` or `when` do not "
                        f"hold ({given or 'no values'}); decide before whether it can",
                    )
                    return

    def _circle(self, path: KeyPath, issue: str, nodes: Sequence[str]) -> None:
        self.problems.add(
            path,
            f"a case of {issue!r} never ends; it goes round {', '.join(sorted(set(nodes)))}. "
            "A circle needs a decision that leaves it in the end, e.g. on times('TEMPLATE')",
        )


def work(domain: Domain, case: Case, longest: int = _LONGEST) -> tuple[World, list[str], int]:
    """Work a case, always by the next thing that its procedure asks for.

    Args:
        domain: of the case.
        case: what comes in.
        longest: give up after this many actions.

    Returns:
        The world at the end, the nodes that were done (`procedure.node`), and the number of actions.
    """
    world = World(domain, case)
    nodes: list[str] = []
    steps = 0
    while world.outcome is None and steps < longest:
        todo = flow.pending(world)[0]
        if todo.node and (not nodes or nodes[-1] != todo.node):
            nodes.append(todo.node)
        world.do(flow.actions(world, todo)[0])
        steps += 1
    return world, nodes, steps


def coverage(domain: Domain, cases: int, seed: int = 0) -> dict[str, Coverage]:
    """Work cases of every issue and count which nodes they come past.

    Args:
        domain: checked.
        cases: how many of each issue.
        seed: of the cases.

    Returns:
        Issue -> what became of its cases.
    """
    rng = np.random.default_rng(seed)
    out = {}
    for issue in domain.issues:
        successes = steps = 0
        outcomes: Counter[str] = Counter()
        visits: Counter[str] = Counter()
        for _ in range(cases):
            case = draw_case(domain, rng, issue)
            world, nodes, taken = work(domain, case)
            visits.update({*nodes, *flow.expected(world).course})
            outcomes[str(world.outcome)] += 1
            successes += bool(world.success)
            steps += taken
        out[issue] = Coverage(cases, successes, steps, outcomes, visits)
    return out


def try_domain(domain: Domain, problems: Problems, issues: Mapping[str, Sequence[str]]) -> None:
    """Note what goes wrong when cases of a domain are drawn, its guards evaluated and its procedures followed.

    Args:
        domain: one whose names and expressions are all right.
        problems: where to note it.
        issues: procedure -> the issues that are worked in it.
    """
    try:
        probe = _Probe(domain, problems, issues)
    except HandrailError as error:
        problems.add((), str(error))
        return
    if not probe.draw():
        return
    probe.collect()
    probe.guards()
    if not problems.found:
        probe.work()


def _none(target: str) -> int:
    return 0


def _is_date(text: str) -> bool:
    return len(text) == 10 and text[4] == text[7] == "-" and text[:4].isdigit()


def _later(date: str, days: int) -> str:
    return (datetime.date.fromisoformat(date) + datetime.timedelta(days=days)).isoformat()


def _literals(guards: Iterable[Compiled]) -> _Literals:
    """Return, for each name, the constants it is compared with, and numbers next to them."""
    found: _Literals = {}
    for guard in guards:
        for node in ast.walk(ast.parse(guard.text.strip(), mode="eval")):
            if not isinstance(node, ast.Compare):
                continue
            constants: list[Any] = []
            names = []
            for part in ast.walk(node):
                if isinstance(part, ast.Constant):
                    constants += _near(part.value)
                elif isinstance(part, ast.Attribute):
                    names.append(ast.unparse(part))
                elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "times":
                    names.append("times")
            for name in names:
                found.setdefault(name, []).extend(constants)
    return {name: constants for name, constants in found.items() if constants}


def _near(value: Any) -> list[Any]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value - 1, value, value + 1, float(value), float(value) - 0.01, float(value) + 0.01]
    return [value]


def _leaves(expression: Compiled) -> list[Compiled]:
    """Return what an expression may give: itself, or both arms of `a if b else c`."""
    node: ast.expr = ast.parse(expression.text.strip(), mode="eval").body
    leaves: list[ast.expr] = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.IfExp):
            waiting += [node.body, node.orelse]
        else:
            leaves.append(node)
    if len(leaves) == 1:
        return [expression]
    roots = {read.partition(".")[0] for read in expression.reads}
    return [compile_expression(ast.unparse(leaf), roots) for leaf in leaves]
