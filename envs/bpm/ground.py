"""What is true at a moment: back-end records, which of them are in focus, the case file, what was said and done.

The world holds one `Ground` and changes it; the expert's walk and the expected course of a case work on copies. Records
are never changed in place, so that a copy is a handful of shallow dict copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of the back end; changed by replacing it.

    Attributes:
        id: number in its case.
        type: record type.
        owner: id of the record it belongs to, -1 for one of the root type.
        values: field -> value.
    """

    id: int
    type: str
    owner: int
    values: dict[str, Any]


class Lineage:
    """How record types belong to each other.

    Args:
        owners: record type -> the type that owns it, `None` for the root.

    Attributes:
        owner: as given.
        below: record type -> all types that belong to it, directly or not.
        root: the type of customers.
    """

    def __init__(self, owners: dict[str, str | None]) -> None:
        self.owner = owners
        self.root = next(name for name, owner in owners.items() if owner is None)
        self.below: dict[str, tuple[str, ...]] = {
            name: tuple(other for other in owners if name in set(self.above(other))) for name in owners
        }

    def above(self, name: str) -> Iterator[str]:
        """Yield the types that own `name`, nearest first."""
        owner = self.owner[name]
        while owner is not None:
            yield owner
            owner = self.owner[owner]


class Ground:
    """Records, focus, case file, what was said and how often things were done.

    Args:
        lineage: of the domain.
        records: all records, by id.
        today: the date, ISO text.
        case: the case file at the start.

    Attributes:
        records: by id, in order of creation.
        rows: (owner id, type) -> ids of the records there, in order of creation.
        focus: record type -> id of the record in focus. An owner of a record in focus is in focus.
        case: the case file.
        said: fact -> what the customer last said.
        counts: template or form -> how often it was sent or pressed.
        touched: ids of records that were changed or added.
        scope: what expressions see; always up to date.
    """

    __slots__ = ("case", "counts", "focus", "lineage", "records", "rows", "said", "scope", "today", "touched")

    def __init__(
        self,
        lineage: Lineage,
        records: dict[int, Record],
        rows: dict[tuple[int, str], tuple[int, ...]],
        today: str,
        case: dict[str, Any],
        focus: dict[str, int] | None = None,
        said: dict[str, Any] | None = None,
        counts: dict[str, int] | None = None,
        touched: set[int] | None = None,
    ) -> None:
        self.lineage = lineage
        self.records = records
        self.rows = rows
        self.today = today
        self.case = case
        self.focus: dict[str, int] = focus or {}
        self.said: dict[str, Any] = said or {}
        self.counts: dict[str, int] = counts or {}
        self.touched: set[int] = touched or set()
        self.refresh()

    def refresh(self) -> None:
        """Build the scope anew, after parts were replaced."""
        focus, records, counts = self.focus, self.records, self.counts
        scope: dict[str, Any] = dict.fromkeys(self.lineage.owner)
        for name, number in focus.items():
            scope[name] = records[number].values
        scope["case"] = self.case
        scope["said"] = self.said
        scope["today"] = self.today
        scope["form"] = _EMPTY
        scope["row"] = None
        scope["times"] = lambda name: counts.get(name, 0)
        self.scope = scope

    def copy(self) -> Ground:
        """Return an independent copy."""
        return Ground(
            self.lineage,
            self.records.copy(),
            self.rows.copy(),
            self.today,
            self.case.copy(),
            self.focus.copy(),
            self.said.copy(),
            self.counts.copy(),
            self.touched.copy(),
        )

    def bring(self, name: str, number: int | None) -> None:
        """Bring a record and its owners into focus, or nothing of its type.

        What belongs to a record that leaves the focus leaves it too.

        Args:
            name: its type.
            number: its id, `None` to take the focus away.
        """
        focus, scope, lineage = self.focus, self.scope, self.lineage
        if number is None:
            for other in (name, *lineage.below[name]):
                if focus.pop(other, None) is not None:
                    scope[other] = None
            return
        record = self.records[number]
        if focus.get(name) == number:
            return
        if record.owner >= 0:
            self.bring(self.records[record.owner].type, record.owner)
        for other in lineage.below[name]:
            if focus.pop(other, None) is not None:
                scope[other] = None
        focus[name] = number
        scope[name] = record.values

    def put(self, name: str, field: str, value: Any) -> None:
        """Set a field of the record of type `name` in focus."""
        number = self.focus[name]
        record = self.records[number]
        values = {**record.values, field: value}
        self.records[number] = Record(number, name, record.owner, values)
        self.touched.add(number)
        self.scope[name] = values

    def insert(self, name: str, owner: int, values: dict[str, Any], number: int | None = None) -> int:
        """Add a record and return its id; the next free one, unless one is given. The focus stays."""
        if number is None:
            number = max(self.records) + 1
        self.records[number] = Record(number, name, owner, values)
        self.touched.add(number)
        key = owner, name
        self.rows[key] = (*self.rows.get(key, ()), number)
        return number

    def listed(self, name: str) -> Iterable[int]:
        """Return the ids of the records of a type whose owner is in focus; all, for the root type."""
        owner = self.lineage.owner[name]
        if owner is None:
            return self.rows.get((-1, name), ())
        number = self.focus.get(owner)
        return () if number is None else self.rows.get((number, name), ())

    def __reduce__(self) -> tuple[Any, ...]:
        names = (name for name in self.__slots__ if name != "scope")
        return _ground, ({name: getattr(self, name) for name in names},)

    def every(self, name: str) -> Iterable[int]:
        """Return the ids of all records of a type."""
        return (number for (_, kind), numbers in self.rows.items() if kind == name for number in numbers)


def _ground(parts: dict[str, Any]) -> Ground:
    return Ground(**parts)


_EMPTY: dict[str, Any] = {}
