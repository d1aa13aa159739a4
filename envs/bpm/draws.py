"""Chance: sources of it, and generators of record fields compiled to functions.

Records are drawn at each reset, so generators are written out as Python source and compiled, one function a record
type: a field costs the arithmetic that draws it and no call.
"""

from __future__ import annotations

import bisect
import datetime
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from handrail.envs.bpm import names as people
from handrail.envs.bpm.domain import Generator
from handrail.envs.bpm.expressions import compile_expression
from handrail.envs.errors import HandrailError

T = TypeVar("T")

Uniform = Callable[[], float]
"""Draws from [0, 1)."""

Draw = Callable[[Uniform, dict[str, Any], int], Any]
"""Draws a value from: a source of chance; a scope that holds the record's fields so far, by name and under its type,
and its owners by type; the ordinal of today's date."""

_BLOCK = 64
_DIGITS = 15


class Chance:
    """A source of chance whose state is one number: how many numbers were drawn.

    Args:
        seed: the numbers follow from it.
    """

    __slots__ = ("_left", "_numbers", "_seed", "_taken")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._left: list[float] = []
        self.state = 0

    def __call__(self) -> float:
        """Draw from [0, 1)."""
        if not self._left:
            self._left = self._numbers.random(_BLOCK).tolist()[::-1]
            self._taken += _BLOCK
        return self._left.pop()

    @property
    def state(self) -> int:
        """How many numbers were drawn; assign to go back, or on."""
        return self._taken - len(self._left)

    @state.setter
    def state(self, drawn: int) -> None:
        bits = np.random.PCG64(self._seed)
        if drawn:
            bits.advance(drawn)
        self._numbers = np.random.Generator(bits)
        self._taken = drawn
        self._left = []


def uniform_of(rng: np.random.Generator) -> Uniform:
    """Return a fast source of chance; it draws from `rng` in blocks."""
    # All of it in C: a case takes hundreds of numbers.
    blocks = (rng.random(4 * _BLOCK).tolist() for _ in itertools.repeat(None))
    return itertools.chain.from_iterable(blocks).__next__


def between(uniform: Uniform, bounds: list[int]) -> int:
    """Return a whole number between the two bounds, both included."""
    low, high = bounds
    return low + int(uniform() * (high - low + 1))


def choose(uniform: Uniform, items: tuple[T, ...] | list[T]) -> T:
    """Return one of `items`, all equally likely."""
    return items[int(uniform() * len(items))]


def weighted(uniform: Uniform, items: tuple[T, ...], weights: tuple[float, ...]) -> T:
    """Return one of `items` with probability in proportion to its weight."""
    left = uniform() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        left -= weight
        if left < 0:
            return item
    return items[-1]


def compile_draw(generator: Generator, names: Iterable[str]) -> Draw:
    """Turn a generator into a function.

    Args:
        generator: how a value is drawn.
        names: what its expression may read.
    """
    source = _Source()
    return source.function(f"return {source.draw(generator, names)}")


def compile_record(kind: str, fields: Mapping[str, Generator], names: Iterable[str]) -> Draw:
    """Turn the generators of a record into a function that draws all of its fields.

    Args:
        kind: its type.
        fields: field -> how it is drawn.
        names: what expressions may read beside fields that come before.
    """
    source = _Source()
    read = any(generator.expr is not None or generator.email for generator in fields.values())
    lines = ["v = {}", f"s = {{**s, {kind!r}: v}}"] if read else ["v = {}"]
    known = [kind, *names]
    for name, generator in fields.items():
        both = f"v[{name!r}] = s[{name!r}]" if read and name != kind else f"v[{name!r}]"
        lines.append(f"{both} = {source.draw(generator, known)}")
        known.append(name)
    return source.function("\n    ".join([*lines, "return v"]))


class _Source:
    """Writes generators as Python expressions over `u` (chance), `s` (scope) and `d` (today)."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {}

    def function(self, body: str) -> Draw:
        exec(f"def draw(u, s, d):\n    {body}", self.constants)  # built from checked generators only
        drawn: Draw = self.constants["draw"]
        return drawn

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def draw(self, generator: Generator, names: Iterable[str]) -> str:
        source = self.value(generator, names)
        return f"(None if u() < {generator.or_none!r} else {source})" if generator.or_none else source

    def value(self, generator: Generator, names: Iterable[str]) -> str:
        if generator.pick is not None:
            return self.pick(generator.pick)
        if generator.integer is not None:
            low, high, *rest = generator.integer
            step = rest[0] if rest else 1
            return f"({low} + {step} * int(u() * {(high - low) // step + 1}))"
        if generator.money is not None:
            low, high = (100 * bound for bound in generator.money)
            return f"(({low} + int(u() * {high - low + 1})) / 100)"
        if generator.date is not None:
            first, last = generator.date
            return f"{self.constant(_date)}(d + {first} + int(u() * {last - first + 1}))"
        if generator.code is not None:
            return self.code(generator.code)
        if generator.flag is not None:
            return f"(u() < {generator.flag!r})"
        if generator.expr is not None:
            return f"{self.constant(compile_expression(generator.expr, names))}(s)"
        if generator.person:
            return f"({self.pick(people.GIVEN)} + ' ' + {self.pick(people.FAMILY)})"
        if generator.email:
            return f"{self.constant(_email)}(u, s)"
        if generator.phone:
            return self.code("0### #######")
        if generator.address:
            street, town = self.pick(people.STREETS), self.pick(people.TOWNS)
            return f"('%s %d, %d %s' % ({street}, u() * 140 + 1, u() * 90000 + 10000, {town}))"
        raise HandrailError(f"{generator} says nothing of how a value is drawn; give one of pick, integer, money, …")

    def pick(self, pick: list[Any] | tuple[Any, ...] | dict[str, float]) -> str:
        items = self.constant(tuple(pick))
        if not isinstance(pick, dict):
            return f"{items}[int(u() * {len(pick)})]"
        sums = list(itertools.accumulate(pick.values()))
        # Rounding must not lead past the last value.
        bounds = self.constant([*sums[:-1], math.inf])
        return f"{items}[{self.constant(bisect.bisect_right)}({bounds}, u() * {sums[-1]!r})]"

    def code(self, pattern: str) -> str:
        """Write a pattern: all digits of a run are drawn at once, as far as one number holds them."""
        parts = []
        for run in re.findall(f"#{{1,{_DIGITS}}}|@|[^#@]+", pattern):
            if run[0] == "#":
                parts.append(f"'%0{len(run)}d' % (u() * {10 ** len(run)})")
            else:
                parts.append(f"{_LETTERS!r}[int(u() * 26)]" if run == "@" else repr(run))
        return f"({' + '.join(parts)})" if parts else "''"


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@functools.lru_cache(maxsize=65536)
def _date(ordinal: int) -> str:
    return datetime.date.fromordinal(ordinal).isoformat()


def _email(uniform: Uniform, scope: Mapping[str, Any]) -> str:
    name = scope.get("name")
    if not isinstance(name, str):
        name = f"{choose(uniform, people.GIVEN)} {choose(uniform, people.FAMILY)}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    parts = re.findall("[a-z0-9]+", plain) or ["mail"]
    local = choose(uniform, (".".join(parts), "".join(parts), f"{parts[0][0]}.{parts[-1]}", f"{parts[-1]}.{parts[0]}"))
    suffix = str(int(uniform() * 90) + 10) if uniform() < 0.3 else ""
    return f"{local}{suffix}@{choose(uniform, people.MAIL)}"
