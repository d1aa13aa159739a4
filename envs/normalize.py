"""When two actions count as the same: the one normaliser behind action accuracy, verdicts and rewards.

Two actions are equal if tool, target and all arguments are equal after these rules, applied to every value:

- Unicode NFKC, case folded, runs of white space collapsed to one space, ends stripped;
- number form: `3.0`, `"3"` and `3` are one value, so are `1,000` and `1000`; digits with a leading zero
  (`"0314"`) are codes and stay text;
- booleans are `true` and `false`;
- `is_equal_to x` is the plain value `x`, and a list of one value is that value; other operators are kept, the
  operands of `is_one_of` are a set;
- a field that holds nothing (`None`, empty text) is absent.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

import msgspec

from handrail.envs.schema import Action, Constraint

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_CODE = re.compile(r"[+-]?0\d")
_SPACE = re.compile(r"\s+")
_EQUALITY = "is_equal_to"
_UNORDERED = frozenset({"is_one_of", "all_of"})


@functools.lru_cache(maxsize=65536)
def normalize_text(text: str) -> str:
    """Return `text` in canonical form; numbers written as text come back in their shortest form."""
    # Folding can leave letters that compose with what follows ("ß" before an accent), hence the second NFKC.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _SPACE.sub(" ", folded).strip()
    if _NUMBER.fullmatch(text) and not _CODE.match(text):
        text = text.replace(",", "").removeprefix("+")
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        if text == "-0":
            text = "0"
    return text


def normalize_value(value: Any) -> Any:
    """Return the canonical form of an argument: text, a list, `{"op", "value"}`, or `None` if it holds nothing.

    Raises:
        TypeError: the value is none of the types an argument may have.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return normalize_text(value) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, dict) and set(value) <= {"op", "value"} and isinstance(value.get("op"), str):
        value = Constraint(value["op"], value.get("value"))
    if isinstance(value, Constraint):
        operator, operand = normalize_text(value.op), normalize_value(value.value)
        if operator == _EQUALITY:
            return operand
        if operator in _UNORDERED and isinstance(operand, list):
            distinct = {_stable(item): item for item in operand}
            operand = normalize_value([distinct[key] for key in sorted(distinct)])
        return {"op": operator, "value": operand}
    if isinstance(value, list | tuple):
        items = [item for item in map(normalize_value, value) if item is not None]
        if len(items) > 1:
            return items
        return items[0] if items else None
    if isinstance(value, dict):
        return {normalize_text(str(k)): normalize_value(v) for k, v in sorted(value.items())}
    raise TypeError(f"an argument may be text, number, boolean, list or constraint, not {type(value).__name__}")


def _stable(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def normalize_args(action: Action) -> dict[str, Any]:
    """Return the arguments in canonical form, by field name, without the fields that hold nothing."""
    args = {normalize_text(name): normalize_value(value) for name, value in action.args.items()}
    return {name: args[name] for name in sorted(args) if args[name] is not None}


def action_key(action: Action) -> str:
    """Return the canonical JSON of an action: equal keys mean the same action."""
    canonical = [normalize_text(action.tool), normalize_text(action.target), normalize_args(action)]
    return _stable(canonical).decode()


def same_action(first: Action, second: Action) -> bool:
    """Tell whether two actions are the same after normalisation."""
    if first is second:
        return True
    return (
        normalize_text(first.tool) == normalize_text(second.tool)
        and normalize_text(first.target) == normalize_text(second.target)
        and normalize_args(first) == normalize_args(second)
    )
