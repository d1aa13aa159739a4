"""A case: who writes, about what, and what the back end holds. Drawn once, never changed.

The back end holds the customer who writes with all that belongs to them, and some of the domain's other customers
(`Program.others`, the same people in all cases).
"""

from __future__ import annotations

import datetime
import re
from typing import Any

import msgspec
import numpy as np

from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.draws import Draw, Uniform, between, choose, uniform_of, weighted
from handrail.envs.bpm.expressions import Compiled
from handrail.envs.bpm.ground import Ground, Record
from handrail.envs.bpm.program import FIRST_DAY, Family, Program, program, rows_of
from handrail.envs.errors import HandrailError, nearest

_DAYS = 120
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_OPENS, _CLOSES = 8 * 3600, 17 * 3600
_TRIES = 100
_PAIR_TRIES = 20


class Known(msgspec.Struct, frozen=True):
    """What a customer says of one fact.

    Attributes:
        value: how it really is, or what they really want.
        first: what they say the first time.
        later: what they say from the second time on.
    """

    value: Any
    first: Any
    later: Any


class Matter(msgspec.Struct, frozen=True):
    """One issue of a case.

    Attributes:
        issue: the kind of case.
        variant: index of its course in `Issue.variants`.
        concerns: record type -> id of the record concerned; of owners too.
        facts: fact -> what the customer says of it.
    """

    issue: str
    variant: int
    concerns: dict[str, int]
    facts: dict[str, Known]


class Case(msgspec.Struct, frozen=True):
    """A case.

    Attributes:
        id: unique among the cases of one domain, with near certainty.
        domain: name of the domain.
        start: when the customer writes, UTC seconds.
        today: the date then, ISO text.
        customer: id of the record of the customer who writes.
        matters: the issues, in the order in which the customer raises them; one or two.
        records: all records, by id.
        rows: (owner id, type) -> ids of the records there, in the order of tables.
        seed: of what happens while the case is worked.
    """

    id: str
    domain: str
    start: float
    today: str
    customer: int
    matters: tuple[Matter, ...]
    records: dict[int, Record]
    rows: dict[tuple[int, str], tuple[int, ...]]
    seed: int

    def ground(self, program: Program) -> Ground:
        """Return how things are when the customer writes."""
        return Ground(
            program.lineage, self.records.copy(), self.rows.copy(), self.today, dict(program.domain.desk.case)
        )


def draw_case(
    domain: Domain, rng: np.random.Generator, issue: str | None = None, issues: tuple[str, ...] | None = None
) -> Case:
    """Draw a case.

    Args:
        domain: of the desk.
        rng: source of chance.
        issue: the kind of the first issue; drawn by weight if left out.
        issues: the kinds that come in; all if left out.

    Raises:
        HandrailError: an issue is unknown, or no record fits what it concerns.
    """
    compiled = program(domain)
    known = tuple(domain.issues)
    for name in (issue, *(issues or ())):
        if name is not None and name not in domain.issues:
            raise HandrailError(f"domain {domain.name!r} has no issue {name!r}{nearest(str(name), known)}")
    offered = known if issues is None else tuple(issues)
    if not offered:
        raise HandrailError(f"no issue is left to draw from; domain {domain.name!r} has {', '.join(known)}")
    uniform = uniform_of(rng)
    if issue is None:
        issue = weighted(uniform, offered, tuple(domain.issues[name].weight for name in offered))
    second = None
    if uniform() < domain.desk.two_issues:
        procedure = domain.issues[issue].procedure
        others = tuple(n for n in offered if domain.issues[n].second and domain.issues[n].procedure != procedure)
        if others:
            second = weighted(uniform, others, tuple(domain.issues[name].weight for name in others))
    return _Drawing(compiled, uniform).case(issue, second)


class _Drawing:
    """Draws one case.

    Args:
        compiled: the domain.
        uniform: source of chance.
    """

    def __init__(self, compiled: Program, uniform: Uniform) -> None:
        self.program = compiled
        self.uniform = uniform
        self.root = compiled.lineage.root
        self.day = FIRST_DAY.toordinal() + int(uniform() * _DAYS)
        self.today = datetime.date.fromordinal(self.day).isoformat()
        self.others, self.first = self._others()
        self.mine: dict[int, Record] = {}
        self.keys: set[tuple[str, Any]] = set()

    def case(self, issue: str, second: str | None) -> Case:
        for attempt in range(_TRIES):
            self.mine = {}
            self.keys = set()
            scope = {"today": self.today}
            self.program.draw_family(self.root, self.uniform, scope, self.day, -1, self.keys, self.mine, self.first)
            # A second issue that does not fit beside the first is given up rather than the first.
            matters = self._matters((issue,) if second is None or attempt >= _PAIR_TRIES else (issue, second))
            if matters is not None:
                return self._finish(matters)
        raise HandrailError(
            f"domain {self.program.domain.name!r}: issues.{issue}.concerns fits no record of {_TRIES} customers; "
            "make the conditions looser, the records' generators wider or their counts higher"
        )

    def _others(self) -> tuple[list[Family], int]:
        people = self.program.others
        if not people:
            return [], 0
        count = between(self.uniform, self.program.domain.records[self.root].count)
        start = int(self.uniform() * len(people))
        chosen = sorted((start + i) % len(people) for i in range(count))
        return [people[i] for i in chosen], max(people[-1].records) + 1

    def _matters(self, names: tuple[str, ...]) -> tuple[Matter, ...] | None:
        """Find the records concerned, make the variants true and draw the facts; `None` if this customer does not fit.

        The second issue concerns other records than the first, except their owners, and changes none of the first's.
        """
        plans: list[tuple[str, int, dict[str, int]]] = []
        used: set[int] = set()
        for name in names:
            found = self._concerned(name, used)
            if found is None:
                return None
            issue = self.program.issues[name]
            number = weighted(self.uniform, tuple(range(len(issue.variants))), issue.weights)
            for kind, field, expression in issue.variants[number][0]:
                if kind not in found:
                    raise HandrailError(
                        f"domain {self.program.domain.name!r}: issues.{name}.variants[{number}].set names "
                        f"{kind}.{field}, but the issue concerns no {kind}; it concerns {', '.join(found)}"
                    )
                record = self.mine[found[kind]]
                value = expression(self._scope(found))
                if record.id in used and record.values[field] != value:
                    return None
                values = {**record.values, field: value}
                self.mine[record.id] = Record(record.id, record.type, record.owner, values)
            used.update(found.values())
            plans.append((name, number, found))
        matters: list[Matter] = []
        for name, number, found in plans:
            facts = self._facts(name, number, found)
            for fact, known in facts.items():
                # Whether customers know their own number does not depend on what they write about.
                before = matters[0].facts.get(fact) if matters else None
                if before is not None and before.value == known.value:
                    facts[fact] = before
            matters.append(Matter(name, number, found, facts))
        return tuple(matters)

    def _concerned(self, name: str, used: set[int]) -> dict[str, int] | None:
        """Choose a record of each type that the issue concerns; drawn again where none fits."""
        lineage = self.program.lineage
        found = {self.root: self.first}
        for kind, condition in self.program.issues[name].concerns:
            if kind == self.root:
                if not condition(self._scope(found, self.mine[self.first].values)):
                    return None
                continue
            fitting = self._fitting(kind, condition, found, used)
            owner = lineage.owner[kind]
            assert owner is not None
            for _ in range(_TRIES):
                if fitting or not self._redraw(kind, owner, found, used):
                    break
                fitting = self._fitting(kind, condition, found, used)
            if not fitting:
                return None
            number = choose(self.uniform, fitting)
            found.update({record.type: record.id for record in self._chain(number)})
        return {kind: found[kind] for kind in self.program.types if kind in found}

    def _fitting(self, kind: str, condition: Compiled, found: dict[str, int], used: set[int]) -> list[int]:
        fitting = []
        mine = self.mine
        scope = self._scope(found)
        for record in mine.values():
            if record.type != kind or record.id in used:
                continue
            above = record
            while above.owner >= 0:
                above = mine[above.owner]
                if found.get(above.type, above.id) != above.id:
                    break
                scope[above.type] = above.values
            else:
                scope["row"] = scope[kind] = record.values
                if condition(scope):
                    fitting.append(record.id)
        return fitting

    def _chain(self, number: int) -> list[Record]:
        """Return a record and its owners, nearest first."""
        chain = [self.mine[number]]
        while chain[-1].owner >= 0:
            chain.append(self.mine[chain[-1].owner])
        return chain

    def _redraw(self, kind: str, owner: str, found: dict[str, int], used: set[int]) -> bool:
        """Draw the records of one owner again; false if there is no owner, or the records are spoken for."""
        owners = [found[owner]] if owner in found else [r.id for r in self.mine.values() if r.type == owner]
        if not owners:
            return False
        number = choose(self.uniform, owners)
        kept = used | set(found.values())
        gone = {
            record.id
            for record in self.mine.values()
            if any(above.type == kind and above.owner == number for above in self._chain(record.id))
        }
        if gone & kept:
            return False
        for old in gone:
            del self.mine[old]
        scope: dict[str, Any] = {record.type: record.values for record in self._chain(number)} | {"today": self.today}
        for _ in range(between(self.uniform, self.program.domain.records[kind].count)):
            first = max(self.mine) + 1
            drawn: dict[int, Record] = {}
            self.program.draw_family(kind, self.uniform, scope, self.day, number, self.keys, drawn, first)
            self.mine.update(drawn)
        return True

    def _scope(self, found: dict[str, int], row: dict[str, Any] | None = None) -> dict[str, Any]:
        scope: dict[str, Any] = dict.fromkeys(self.program.types)
        for kind, number in found.items():
            scope[kind] = self.mine[number].values
        scope.update(row=row, today=self.today, case=self.program.domain.desk.case, said={}, times=_never)
        return scope

    def _facts(self, name: str, variant: int, found: dict[str, int]) -> dict[str, Known]:
        issue, uniform = self.program.issues[name], self.uniform
        scope = self._scope(found)
        overrides = issue.variants[variant][1]
        facts = {}
        for fact, (expression, draw, wrong_draw) in issue.facts.items():
            given = self.program.domain.issues[name].facts[fact]
            if fact in overrides:
                value = overrides[fact](scope)
            elif expression is not None:
                value = expression(scope)
            else:
                value = None if draw is None else draw(uniform, scope, self.day)
            first = later = value
            chance = uniform()
            if value is not None and chance < given.never + given.wrong:
                pick = given.draw.pick if given.draw is not None else None
                first = self._mistaken(value, None if pick is None else tuple(pick), wrong_draw, scope)
                later = first if chance < given.never else value
            facts[fact] = Known(value, first, later)
        return facts

    def _mistaken(self, value: Any, choices: tuple[Any, ...] | None, draw: Draw | None, scope: dict[str, Any]) -> Any:
        for _ in range(_TRIES):
            if draw is not None:
                wrong = draw(self.uniform, scope, self.day)
            elif choices is not None:
                wrong = choose(self.uniform, choices)
            else:
                wrong = slip(value, self.uniform)
            if wrong != value:
                return wrong
        return value

    def _finish(self, matters: tuple[Matter, ...]) -> Case:
        records: dict[int, Record] = {}
        rows: dict[tuple[int, str], tuple[int, ...]] = {}
        mine = Family(self.mine, rows_of(self.mine))
        roots: list[int] = []
        for family in (*self.others, mine):
            records.update(family.records)
            rows.update(family.rows)
            roots.extend(family.rows[-1, self.root])
        # The one who writes stands anywhere in a list of customers.
        roots.insert(int(self.uniform() * len(roots)), roots.pop())
        rows[-1, self.root] = tuple(roots)
        seconds = int(_OPENS + self.uniform() * (_CLOSES - _OPENS))
        name = self.program.domain.name
        return Case(
            id=f"{name}-{int(self.uniform() * 2**52):013x}",
            domain=name,
            start=(self.day - _EPOCH) * 86400.0 + seconds,
            today=self.today,
            customer=self.first,
            matters=matters,
            records=records,
            rows=rows,
            seed=int(self.uniform() * 2**52),
        )


def slip(value: Any, uniform: Uniform) -> Any:
    """Return `value` with one digit or letter changed, as people mistype; a date stays a date, a number a number.

    Args:
        value: what is meant; text without a digit or a letter comes back as it is.
        uniform: draws from [0, 1).
    """
    if isinstance(value, bool):
        return not value
    if isinstance(value, str) and _DATE.fullmatch(value):
        moved = datetime.date.fromisoformat(value).toordinal() + choose(uniform, (-30, -10, -2, -1, 1, 2, 10, 30))
        return datetime.date.fromordinal(moved).isoformat()
    text = str(value)
    places = [i for i, letter in enumerate(text) if letter.isdigit()] or [
        i for i, letter in enumerate(text) if letter.isalpha()
    ]
    if not places:
        return value
    place = choose(uniform, places)
    letters = "0123456789" if text[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    letter = choose(uniform, [other for other in letters if other != text[place].lower()])
    wrong = text[:place] + (letter.upper() if text[place].isupper() else letter) + text[place + 1 :]
    return wrong if isinstance(value, str) else type(value)(wrong)


def _never(name: str) -> int:
    return 0


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
