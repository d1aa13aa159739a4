"""`key=value` options of the data commands (ingest, curves, bench, evaluate), declared once in a dataclass.

The dataclass is the table of options: its fields give names, types and defaults, `option` adds the help text. A field
without a default is required. Studies use Hydra instead (`handrail run`); both read `key=value` on the command line.

    @dataclass(frozen=True)
    class Options:
        source: str = option(help="reader to use")                      # required
        path: Path = option(help="folder with the raw logs")            # required
        limit: int | None = option(None, help="sessions to read, all by default")

    options = parse_options(argv, Options, prog="handrail ingest", description="Raw logs to a store.")
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import textwrap
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from handrail.envs.errors import HandrailError, nearest

T = TypeVar("T")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_NONE = ("null", "none", "")


def option(default: Any = dataclasses.MISSING, *, help: str, name: str | None = None) -> Any:
    """Declare one option as a dataclass field.

    Args:
        default: value if the option is not given; leave it out for a required option.
        help: one line for `--help`, with units and range.
        name: how it is spelled on the command line if not as the field, e.g. `data.path` for a field `data_path`.
    """
    metadata = {"help": help, "name": name}
    if isinstance(default, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_options(argv: Sequence[str], options: type[T], *, prog: str, description: str) -> T:
    """Read `key=value` arguments into an instance of the dataclass `options`.

    Field types may be `str`, `int`, `float`, `bool`, `Path`, `Literal[...]`, `X | None`, and `tuple[X, ...]` or
    `list[X]` (written with commas). `-h` or `--help` anywhere prints the help and exits with status 0.

    Args:
        argv: the arguments after the command's name.
        options: a dataclass whose fields were declared with `option`.
        prog: how the command is called, for help and messages.
        description: what the command does, for help.

    Returns:
        An instance of `options`.

    Raises:
        HandrailError: an argument is not `key=value`, its key is unknown (the message names the nearest) or given
            twice, its value does not fit the type, or a required option is missing.
        SystemExit: with status 0, after help was printed.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        print(_help(options, prog, description))
        sys.exit(0)
    fields = _named_fields(options)
    hints = get_type_hints(options)
    values: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals:
            raise HandrailError(f"{prog}: expected key=value, got {argument!r}{nearest(key, fields)} ({_see(prog)})")
        if key not in fields:
            raise HandrailError(f"{prog}: unknown option {key!r}{nearest(key, fields)} ({_see(prog)})")
        field = fields[key]
        if field.name in values:
            raise HandrailError(f"{prog}: option {key!r} is given twice; give it once")
        try:
            values[field.name] = _convert(text, hints[field.name])
        except ValueError:
            expected = type_name(hints[field.name])
            raise HandrailError(f"{prog}: option {key}={text!r} is not {expected} ({_see(prog)})") from None
    missing = [key for key, field in fields.items() if _is_required(field) and field.name not in values]
    if missing:
        example = " ".join(f"{key}=…" for key in missing)
        raise HandrailError(f"{prog}: {example} is missing ({_see(prog)})")
    return options(**values)


def type_name(hint: Any) -> str:
    """Return how a field type is told to a user, e.g. `a whole number or null`."""
    members = _union_members(hint)
    if members is not None:
        inner = " or ".join(type_name(member) for member in members if member is not types.NoneType)
        return f"{inner} or null" if types.NoneType in members else inner
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(hint))
    if get_origin(hint) in (tuple, list):
        return f"a comma-separated list, each {type_name(get_args(hint)[0])}"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return names[hint]


def _see(prog: str) -> str:
    return f"see `{prog} --help`"


def _named_fields(options: type) -> dict[str, dataclasses.Field[Any]]:
    if not dataclasses.is_dataclass(options):
        raise TypeError(f"options must be a dataclass, got {options!r}")
    return {field.metadata.get("name") or field.name: field for field in dataclasses.fields(options)}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _union_members(hint: Any) -> tuple[Any, ...] | None:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else None


def _convert(text: str, hint: Any) -> Any:
    """Turn `text` into a value of type `hint`; ValueError if it cannot be one."""
    members = _union_members(hint)
    if members is not None:
        if types.NoneType in members and text.lower() in _NONE:
            return None
        for member in members:
            if member is types.NoneType:
                continue
            try:
                return _convert(text, member)
            except ValueError:
                continue
        raise ValueError(text)
    if get_origin(hint) is Literal:
        by_text = {str(value): value for value in get_args(hint)}
        if text not in by_text:
            raise ValueError(text)
        return by_text[text]
    if get_origin(hint) in (tuple, list):
        parts = text.split(",") if text else []
        return get_origin(hint)(_convert(part.strip(), get_args(hint)[0]) for part in parts)
    if hint is bool:
        if text.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(text)
        return text.lower() in _TRUE
    if hint is Path:
        if not text:
            raise ValueError(text)
        return Path(text).expanduser()
    return hint(text)


def _help(options: type, prog: str, description: str) -> str:
    fields = _named_fields(options)
    hints = get_type_hints(options)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    usage = [f"{key}=…" if _is_required(field) else f"[{key}=…]" for key, field in fields.items()]
    lines = textwrap.wrap(f"usage: {prog} " + " ".join(usage), width, subsequent_indent="  ", break_on_hyphens=False)
    lines += ["", *textwrap.wrap(description, width), "", "options:"]
    column = max((len(key) for key in fields), default=0) + 4
    for key, field in fields.items():
        default = "required" if _is_required(field) else f"default: {_show(_default(field))}"
        text = f"{field.metadata.get('help', '')} ({type_name(hints[field.name])}; {default})"
        lines += textwrap.wrap(text, width, initial_indent=f"  {key:<{column}}", subsequent_indent=" " * (column + 2))
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value) or "none"
    return str(value)
