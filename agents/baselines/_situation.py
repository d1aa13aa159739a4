"""A moment as named numbers: what the screen shows, how its quantities compare, what was said and done."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from itertools import combinations

from handrail.agents.baselines._moments import Moment
from handrail.agents.baselines._values import spoken, words
from handrail.envs.schema import SEPARATOR, Arg

_DATE = re.compile(r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)")
_NUMBER = re.compile(r"(?<![\w.,-])\d+(?:\.\d+)?(?![\w-]|[.,]\d)")
_MOST = 10
"""Quantities of a kind that are compared with each other."""

_LONGEST = 40
"""Characters of a value that may be a word of a fixed list."""

_SENTENCE = re.compile(r"[.!?:]+\s")
_CODE = re.compile(r"(?<![\w-])(?=[\w-]*\d)\w[\w-]*")
"""Something with a digit in it: numbers of accounts and telephones, days, amounts."""


def situation(moment: Moment) -> dict[str, float]:
    """Return what a moment is like, by name.

    Names that begin with `#` are quantities, and unknown where they are missing: numbers on the screen, days, and the
    difference of each two of a kind, those a customer said among them. Other names are marks, and mean no where they
    are missing: words on the screen, cells of a table, also of the rows that a customer named and of those that belong
    to what else is shown, whether a customer named what a place shows, words of customers and the shapes of codes they
    gave, what was done. What screens left behind showed last goes by `was:`: procedures decide on one screen what is
    entered on the next.
    """
    found: dict[str, float] = {
        f"by={moment.session.operator[:8]}": 1.0,
        f"issue={moment.session.issue}": 1.0,
        f"procedure={moment.procedure}": 1.0,
        f"kind={moment.kind}": 1.0,
        f"screen={moment.state.screen}": 1.0,
        "#steps": float(len(moment.heads)),
        "#since": float(len(moment.customer) - moment.heard),
    }
    for back in (1, 2, 3):
        found[f"last{back}={'/'.join(moment.last_head(back))}"] = 1.0
    for head in moment.heads:
        name = f"#done={'/'.join(head)}"
        found[name] = found.get(name, 0.0) + 1.0
    said = " ".join([spoken(text) for text in moment.customer])
    numbers: dict[str, float] = {}
    days: dict[str, float] = {}
    owners = owners_of(moment.state.values)
    for place, value in moment.state.values.items():
        number, day = _quantity(value)
        if number is not None:
            numbers[place] = number
        elif day is not None:
            days[place] = day
        else:
            found.update(_marks(place, str(value), said, owners))
    for place, value in moment.shown.items():
        if place in moment.state.values:
            continue
        number, day = _quantity(value)
        if number is not None:
            found[f"#was:{place}"] = number
        elif day is not None:
            days[place] = day
        else:
            found.update(_marks(f"was:{place}", str(value), said, owners))
    numbers.update(_said("said", moment.customer, _numbers))
    days.update(_said("said_day", moment.customer, _days))
    for kind in (numbers, days):
        found.update(_differences(kind))
    found.update((f"#{place}", value) for place, value in numbers.items())
    heard = {
        "new": moment.customer[moment.heard :],
        "last": moment.customer[-1:],
        "since": moment.customer[moment.opened :],
        "any": moment.customer,
        "end": [_end(text) for text in moment.customer],
    }
    for place, texts in heard.items():
        for text in texts:
            for word in words(text):
                if not word.isdigit():
                    found[f"{place}:{word}"] = 1.0
            for shape in _shapes(text):
                found[f"{place}~{shape}"] = 1.0
    return found


def _marks(place: str, text: str, said: str, owners: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Yield what words in a place tell: of a table row its cells, else the words and whether a customer named them.

    Args:
        place: where.
        text: what is there.
        said: by customers, `spoken`.
        owners: of `owners_of`.
    """
    if SEPARATOR in text:
        table, _, row = place.partition(".")
        cells = text.split(SEPARATOR)
        rows = [table]
        if spoken(row) in said:
            rows.append(f"named {table}")
            yield f"named {table}", 1.0
        rows.extend(f"{table} of {owners[cell]}" for cell in cells if cell in owners)
        for cell in cells:
            if cell not in owners and not is_quantity(cell):
                for name in rows:
                    yield f"{name} has {cell}", 1.0
        return
    if len(text) <= _LONGEST:
        yield f"{place}={text}", 1.0
        if spoken(text) in said:
            yield f"said {place}", 1.0


def owners_of(values: Mapping[str, Arg]) -> dict[str, str]:
    """Return code -> place, of the codes that the screen shows outside of tables: what rows may belong to."""
    return {
        value: place
        for place, value in values.items()
        if isinstance(value, str) and _CODE.fullmatch(value) and not is_quantity(value)
    }


@functools.lru_cache(maxsize=65536)
def _end(text: str) -> str:
    """Return the last sentence of a text: whoever corrects what they said does it there."""
    return next((part for part in reversed(_SENTENCE.split(text)) if words(part)), "")


@functools.lru_cache(maxsize=65536)
def _shapes(text: str) -> tuple[str, ...]:
    """Return how the codes in a text are built: digits as `0`, letters as `a`."""
    return tuple(
        "".join("0" if sign.isdigit() else "a" if sign.isalpha() else sign for sign in code)
        for code in _CODE.findall(text)
    )


def is_quantity(text: str) -> bool:
    """Tell whether a text is a number or a day."""
    return _read(text) != (None, None)


def _quantity(value: Arg) -> tuple[float | None, float | None]:
    """Return a value as a number, or as a day; neither if it is a word."""
    return (float(value), None) if isinstance(value, int | float) else _read(str(value))


@functools.lru_cache(maxsize=65536)
def _read(text: str) -> tuple[float | None, float | None]:
    if (number := _NUMBER.fullmatch(text)) is not None:
        return float(number.group()), None
    return None, next(iter(_days(text)), None) if _DATE.fullmatch(text) else None


@functools.lru_cache(maxsize=65536)
def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(found) for found in _NUMBER.findall(text))


@functools.lru_cache(maxsize=65536)
def _days(text: str) -> tuple[float, ...]:
    found = []
    for day in _DATE.findall(text):
        try:
            found.append(float(date.fromisoformat(day).toordinal()))
        except ValueError:  # no day of the calendar
            continue
    return tuple(found)


def _said(name: str, texts: Sequence[str], read: Callable[[str], tuple[float, ...]]) -> dict[str, float]:
    heard = [value for text in texts for value in read(text)]
    return {f"{name}{back}": heard[-back] for back in (1, 2) if len(heard) >= back}


def _differences(quantities: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    ordered = sorted(quantities, key=lambda place: (not place.startswith("said"), place))[:_MOST]
    for one, other in combinations(ordered, 2):
        yield f"#{one}-{other}", quantities[one] - quantities[other]
