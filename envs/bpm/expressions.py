"""The small language of domains: expressions, and texts with slots.

An expression is `card.status == 'active' and days(card.opened, today) > 30`, a text with slots and alternatives
`Your card ending {last(card.number, 4)} is [blocked|stopped].`

Expressions are written as in Python and read nothing but the scope they are given. They may use numbers, text in
quotes, `true`, `false`, `none`, lists in square brackets, `+ - * / // %`, comparisons (also `in`, `not in`, `is`,
`is not`), `and`, `or`, `not`, `a if b else c`, fields (`card.status`) and these functions:

| function | gives |
|---|---|
| `times('T')` | how often template T was sent, or form or outcome T pressed, in this session |
| `days(a, b)` | days from date a to date b |
| `later(a, n)` | the date n days after date a |
| `last(a, n)` | the last n characters of text a |
| `min(a, b)`, `max(a, b)`, `abs(a)`, `round(a, n)` | as in Python |

What is not known is `none`, and `none` spreads: a field of a record that is not in focus is `none`, arithmetic and
functions with `none` give `none`, and a comparison with `none` does not hold, except `==`, `!=`, `is`, `is not`.
Division by zero gives `none`. Results of arithmetic are rounded to 6 decimals, so that sums of money compare equal.

A scope is a mapping: a record type -> a mapping of its fields, or `None` without one in focus; `case`, `said`,
`form`, `row` -> a mapping; `today` -> ISO text; `times` -> a function. Names an expression does not use may be missing.
"""

from __future__ import annotations

import ast
import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from handrail.envs.errors import HandrailError, nearest

COMMON: Final = ("case", "said", "today")
"""Names that expressions may use everywhere beside the record types of the domain."""

Scope = Mapping[str, Any]

OPERATIONS = (TypeError, ValueError, AttributeError, OverflowError)
"""What a bare expression raises where the checked one raises a `HandrailError`."""


def text_of(value: Any) -> str:
    """Return `value` as screens, replies and customers write it: `yes`/`no`, cents in two digits, `""` for `None`."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


class Compiled:
    """An expression ready to be evaluated: call it with a scope.

    Attributes:
        text: as it was written.
        reads: dotted names it reads (`card.status`), and bare names (`card`, `today`).
        times: arguments of its calls of `times`.
    """

    __slots__ = ("_run", "reads", "text", "times")

    def __init__(self, text: str, run: Callable[[Scope], Any], reads: frozenset[str], times: frozenset[str]) -> None:
        self.text = text
        self.reads = reads
        self.times = times
        self._run = run

    @property
    def run(self) -> Callable[[Scope], Any]:
        """The bare function: faster, and its errors are Python's; call the expression itself to have them explained."""
        return self._run

    def __call__(self, scope: Scope) -> Any:
        """Return the value of the expression in `scope`.

        Raises:
            HandrailError: an operation does not apply to the values it met, such as `'a' + 1`.
        """
        try:
            return self._run(scope)
        except OPERATIONS as error:
            raise HandrailError(
                f"expression `{self.text}` cannot be evaluated: {error}; compare and add values of the same kind"
            ) from error

    def __repr__(self) -> str:
        return f"Compiled({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        roots = {name.partition(".")[0] for name in self.reads}
        return compile_expression, (self.text, tuple(sorted(roots)))


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        try:
            result = operation(a, b)
        except ZeroDivisionError:
            return None
        return round(result, 6) if isinstance(result, float) else result

    return apply


def _date(text: Any) -> datetime.date | None:
    """Return a date, `None` for what is none: whatever was entered into a form can end up in a record."""
    try:
        return datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def _days(a: Any, b: Any) -> int | None:
    first, last = _date(a), _date(b)
    return None if first is None or last is None else (last - first).days


def _later(a: Any, n: int | None) -> str | None:
    first = _date(a)
    return None if first is None or n is None else (first + datetime.timedelta(days=n)).isoformat()


def _last(a: Any, n: int | None) -> str | None:
    return None if a is None or n is None else text_of(a)[-n:]


def _known(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `none` spread through `function`."""

    def apply(*values: Any) -> Any:
        return None if None in values else function(*values)

    return apply


# Name -> (function, fewest arguments, most arguments). `times` belongs to the scope.
_FUNCTIONS: Final[dict[str, tuple[Callable[..., Any], int, int]]] = {
    "days": (_days, 2, 2),
    "later": (_later, 2, 2),
    "last": (_last, 2, 2),
    "min": (_known(min), 2, 9),
    "max": (_known(max), 2, 9),
    "abs": (_known(abs), 1, 1),
    "round": (_known(round), 1, 2),
}
_CONSTANTS: Final = {"true": True, "false": False, "none": None, "null": None}
_BINARY: Final[dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]]] = {
    ast.Add: ("_add", _arithmetic(lambda a, b: a + b)),
    ast.Sub: ("_sub", _arithmetic(lambda a, b: a - b)),
    ast.Mult: ("_mul", _arithmetic(lambda a, b: a * b)),
    ast.Div: ("_div", _arithmetic(lambda a, b: a / b)),
    ast.FloorDiv: ("_floor", _arithmetic(lambda a, b: a // b)),
    ast.Mod: ("_mod", _arithmetic(lambda a, b: a % b)),
}
_ORDER: Final[dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]]] = {
    ast.Lt: ("_lt", lambda a, b: a is not None and b is not None and a < b),
    ast.LtE: ("_le", lambda a, b: a is not None and b is not None and a <= b),
    ast.Gt: ("_gt", lambda a, b: a is not None and b is not None and a > b),
    ast.GtE: ("_ge", lambda a, b: a is not None and b is not None and a >= b),
    ast.In: ("_in", lambda a, b: a is not None and b is not None and a in b),
    ast.NotIn: ("_not_in", lambda a, b: a is not None and b is not None and a not in b),
}
_GLOBALS: Final[dict[str, Any]] = {
    "__builtins__": {},
    "_negative": lambda a: None if a is None else -a,
    **{f"_{name}": function for name, (function, _, _) in _FUNCTIONS.items()},
    **dict(_BINARY.values()),
    **dict(_ORDER.values()),
}


class _Translator:
    """Turns a checked syntax tree into one over the scope `_s`; `refuse` raises."""

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self.text = text
        self.names = names
        self.reads: set[str] = set()
        self.times: set[str] = set()

    def refuse(self, what: str) -> HandrailError:
        return HandrailError(f"expression `{self.text}`: {what}")

    def call(self, function: str, *args: ast.expr) -> ast.expr:
        return ast.Call(ast.Name(function, ast.Load()), list(args), [])

    def root(self, name: str) -> ast.expr:
        if name not in self.names:
            raise self.refuse(f"unknown name `{name}`{nearest(name, self.names)} (quote text: '{name}')")
        return ast.Subscript(ast.Name("_s", ast.Load()), ast.Constant(name), ast.Load())

    def visit(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=str() | bool() | int() | float() | None):
                return node
            case ast.Name(id=name):
                if name in _CONSTANTS:
                    return ast.Constant(_CONSTANTS[name])
                self.reads.add(name)
                return self.root(name)
            case ast.Attribute(value=ast.Name(id=name), attr=field):
                if name == "today":
                    raise self.refuse(f"`today` is a date and has no field `{field}`")
                root = self.root(name)
                self.reads.add(f"{name}.{field}")
                # Written out, because a call costs more than all else there is to do.
                record = ast.Name("_r", ast.Load())
                get = ast.Call(ast.Attribute(record, "get", ast.Load()), [ast.Constant(field)], [])
                missing = ast.Compare(
                    ast.NamedExpr(ast.Name("_r", ast.Store()), root), [ast.Is()], [ast.Constant(None)]
                )
                return ast.IfExp(missing, ast.Constant(None), get)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return ast.Tuple([self.visit(item) for item in items], ast.Load())
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op, [self.visit(value) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ast.UnaryOp(ast.Not(), self.visit(operand))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.call("_negative", self.visit(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self.call(_BINARY[type(op)][0], self.visit(left), self.visit(right))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return ast.IfExp(self.visit(test), self.visit(body), self.visit(orelse))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self.compare(left, ops, comparators)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self.function(name, args)
        raise self.refuse(
            f"`{ast.unparse(node)}` is not part of the language; there are values, fields (`card.status`), "
            f"comparisons, and/or/not, arithmetic, `a if b else c` and the functions times, {', '.join(_FUNCTIONS)}"
        )

    def compare(self, left: ast.expr, ops: list[ast.cmpop], comparators: list[ast.expr]) -> ast.expr:
        operands = [self.visit(operand) for operand in (left, *comparators)]
        parts: list[ast.expr] = []
        for a, op, b in zip(operands, ops, operands[1:], strict=False):
            if type(op) in _ORDER:
                parts.append(self.call(_ORDER[type(op)][0], a, b))
            else:
                # `is` means equality here: identity of values has no meaning to an author.
                same: ast.cmpop = ast.Eq() if isinstance(op, ast.Eq | ast.Is) else ast.NotEq()
                parts.append(ast.Compare(a, [same], [b]))
        return parts[0] if len(parts) == 1 else ast.BoolOp(ast.And(), parts)

    def function(self, name: str, args: list[ast.expr]) -> ast.expr:
        if name == "times":
            match args:
                case [ast.Constant(value=str(target))]:
                    self.times.add(target)
                    scope = ast.Subscript(ast.Name("_s", ast.Load()), ast.Constant("times"), ast.Load())
                    return ast.Call(scope, list(args), [])
            raise self.refuse("`times` takes the id of one template, form or outcome in quotes, as in times('ask')")
        if name not in _FUNCTIONS:
            raise self.refuse(f"unknown function `{name}`{nearest(name, ['times', *_FUNCTIONS])}")
        _, fewest, most = _FUNCTIONS[name]
        if not fewest <= len(args) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self.refuse(f"`{name}` takes {wanted} values, not {len(args)}")
        return self.call(f"_{name}", *(self.visit(arg) for arg in args))


def compile_expression(text: str, names: Iterable[str]) -> Compiled:
    """Compile `text`, which may read the root names `names` (`card`, `said`, `today`, …).

    Raises:
        HandrailError: it is no expression, uses a construct that the language does not have, or an unknown name.
    """
    return _compile(text, frozenset(names))


@lru_cache(maxsize=8192)
def _compile(text: str, names: frozenset[str]) -> Compiled:
    # A domain is compiled twice, when it is checked and when it runs.
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        hint = "; `==` compares" if re.search(r"(?<![=!<>])=(?!=)", text) else ""
        raise HandrailError(f"expression `{text}` cannot be read: {getattr(error, 'msg', error)}{hint}") from None
    translator = _Translator(text, names)
    body = translator.visit(tree)
    parameters = ast.arguments([], [ast.arg("_s")], None, [], [], None, [])
    code = ast.fix_missing_locations(ast.Expression(ast.Lambda(parameters, body)))
    # Nothing but the whitelisted nodes above reaches this.
    run: Callable[[Scope], Any] = eval(compile(code, "<expression>", "eval"), _GLOBALS)
    return Compiled(text, run, frozenset(translator.reads), frozenset(translator.times))


class CompiledText:
    """A text with slots and alternatives, ready to be filled.

    Attributes:
        text: as it was written.
        slots: the expressions of its slots, in order, each once.
        reads: dotted names that its slots read.
        ways: number of wordings: the product of the sizes of its alternatives.
    """

    __slots__ = ("_names", "_parts", "_runs", "reads", "slots", "text", "ways")

    def __init__(self, text: str, parts: tuple[Any, ...], names: tuple[str, ...]) -> None:
        self.text = text
        self._parts = tuple(
            tuple(_bare(option) for option in part) if isinstance(part, tuple) else _bare((part,)) for part in parts
        )
        self._names = names
        slots: dict[str, Compiled] = {}
        self.ways = 1
        for part in parts:
            if isinstance(part, tuple):
                self.ways *= len(part)
            for piece in (p for option in part for p in option) if isinstance(part, tuple) else (part,):
                if isinstance(piece, Compiled):
                    slots[piece.text] = piece
        self.slots = tuple(slots.values())
        self._runs = tuple(slot.run for slot in self.slots)
        self.reads = frozenset(name for slot in self.slots for name in slot.reads)

    def fillable(self, scope: Scope) -> bool:
        """Return whether every slot has a value in `scope`."""
        try:
            for run in self._runs:
                if run(scope) is None:
                    return False
        except OPERATIONS:
            explain(self.slots, scope)
            raise
        return True

    def fill(self, scope: Scope, choose: Callable[[int], int]) -> str:
        """Return the text with slots filled from `scope`; unknown values are left out.

        Args:
            scope: where the slots are looked up.
            choose: given the number of alternatives returns the index of one, e.g. `rng.integers`.
        """
        out: list[str] = []
        try:
            for part in self._parts:
                chosen: Any = part[choose(len(part))] if type(part) is tuple else part
                for piece in chosen if type(chosen) is list else (chosen,):
                    if type(piece) is str:
                        out.append(piece)
                    else:
                        value = piece(scope)
                        out.append(value if type(value) is str else text_of(value))
        except OPERATIONS:
            explain(self.slots, scope)
            raise
        return "".join(out)

    def __repr__(self) -> str:
        return f"CompiledText({self.text!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile_text, (self.text, self._names)


def _bare(pieces: tuple[str | Compiled, ...]) -> Any:
    """Return pieces of a text ready to be filled in: one text, one bare function, or a list of them."""
    bare = [piece if isinstance(piece, str) else piece.run for piece in pieces]
    if all(isinstance(piece, str) for piece in bare):
        return "".join(map(str, bare))
    return bare[0] if len(bare) == 1 else bare


def explain(expressions: Iterable[Compiled], scope: Scope) -> None:
    """Evaluate with checks what failed without: raises an error that names the expression."""
    for expression in expressions:
        expression(scope)


_TOKEN = re.compile(r"(\{[^{}]*\}|[\[\]|{}])")


def compile_text(text: str, names: Iterable[str]) -> CompiledText:
    """Compile a text with `{expression}` slots and `[a|b]` alternatives (slots may stand inside of them).

    Raises:
        HandrailError: a bracket is not closed, alternatives are nested, or a slot is no expression over `names`.
    """
    allowed = tuple(sorted(names))
    parts: list[Any] = []
    options: list[list[Any]] | None = None
    for token in filter(None, _TOKEN.split(text)):
        if token == "[":
            if options is not None:
                raise HandrailError(f"text {text!r}: `[a|b]` inside of `[a|b]`; write the combinations out")
            options = [[]]
        elif token == "]":
            if options is None:
                raise HandrailError(f"text {text!r}: `]` without `[`")
            parts.append(tuple(tuple(option) for option in options))
            options = None
        elif token == "|" and options is not None:
            options.append([])
        elif token in ("{", "}"):
            raise HandrailError(f"text {text!r}: `{token}` without its partner; slots look like {{customer.name}}")
        else:
            piece = compile_expression(token[1:-1], allowed) if token[0] == "{" else token
            (parts if options is None else options[-1]).append(piece)
    if options is not None:
        raise HandrailError(f"text {text!r}: `[` is not closed; alternatives look like [a|b]")
    return CompiledText(text, tuple(parts), allowed)
