"""Reading domains: a folder of YAML files becomes one `Domain`, or an error that says where and what to write instead.

Every `*.yaml` file of the folder is read and their sections are put together, so one file may hold everything or each
issue have its own. The same entry in two files is an error. Scalars follow YAML 1.2: only `true` and `false` are flags
(`yes`, `no`, `on`, `off` are text), and dates, times and numbers with colons are text. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from handrail.envs.bpm.domain import Domain
from handrail.envs.errors import HandrailError, nearest

FOLDER: Final = Path(__file__).resolve().parent.parent / "domains"
"""Where the shipped domains are, a folder each."""

# Sections whose entries may come from several files: section -> how many levels of mappings are put together.
_SECTIONS: Final = {
    "desk": 1,
    "records": 1,
    "screens": 1,
    "templates": 1,
    "issues": 1,
    "procedures": 1,
    "rules": 1,
    "small": 1,
    "languages": 3,
}
_SHOWN: Final = 20

KeyPath = tuple[str | int, ...]
"""Where in a domain a value is: keys and list positions from the top, e.g. `("screens", "card", "forms", 0)`."""


def path_text(path: KeyPath) -> str:
    """Return `path` as text, e.g. `screens.card.forms[0].fields[2].kind`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


class Source:
    """Remembers from which file and line each value of a domain was read.

    Attributes:
        folder: of the domain.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[KeyPath, tuple[str, int]] = {}

    def where(self, path: KeyPath) -> str:
        """Return `file.yaml:line` of the value at `path`, or of the nearest value above it that was read."""
        while path and path not in self.lines:
            path = path[:-1]
        if path not in self.lines:
            return str(self.folder)
        file, line = self.lines[path]
        return f"{file}:{line}"


class Problems:
    """Collects what is wrong with a domain, to tell all of it at once.

    Args:
        title: what is wrong if anything is, e.g. the folder.
        source: where values were read from, if they were.
    """

    def __init__(self, title: str, source: Source | None = None) -> None:
        self.title = title
        self.source = source
        self.found: list[str] = []

    def add(self, path: KeyPath, message: str) -> None:
        """Note that the value at `path` is wrong, as `message` says."""
        where = f"{self.source.where(path)}: " if self.source else ""
        line = f"{where}{path_text(path)}: {message}"
        if line not in self.found:
            self.found.append(line)

    def raise_any(self) -> None:
        """Raise what was noted.

        Raises:
            HandrailError: something was.
        """
        if not self.found:
            return
        count = len(self.found)
        lines = [f"{self.title}: {count} problem{'s' if count > 1 else ''}", *self.found[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"… and {count - _SHOWN} more")
        lines.append("the format is described in docs/domain_guide.md")
        raise HandrailError("\n  ".join(lines))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes with YAML 1.2 scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"~|null|", ["~", "n", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _value(node: yaml.Node, path: KeyPath, file: str, source: Source, problems: Problems) -> Any:
    """Return the plain value of `node` and note the lines of all values in it."""
    source.lines.setdefault(path, (file, node.start_mark.line + 1))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), file, source, problems) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problems.add(path, "keys must be plain names")
            elif key.tag == "tag:yaml.org,2002:merge":
                for part in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    got = _value(part, path, file, source, problems)
                    if isinstance(got, dict):
                        merged = {**got, **merged}
                    else:
                        problems.add(path, "`<<` takes a mapping, such as `<<: *anchor`")
            elif key.value in own:
                problems.add((*path, key.value), f"`{key.value}` is given twice; the second is on line {_line(key)}")
            else:
                own[key.value] = _value(item, (*path, key.value), file, source, problems)
        return {**merged, **own}
    match node.tag.rpartition(":")[2]:
        case "int":
            return int(node.value)
        case "float":
            return float(node.value)
        case "bool":
            return node.value == "true"
        case "null":
            return None
    return node.value


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _merge(
    into: dict[str, Any], more: dict[str, Any], levels: int, path: KeyPath, file: str, problems: Problems
) -> None:
    """Add the entries of `more`, read from `file`, to `into`."""
    for key, value in more.items():
        if key not in into:
            into[key] = value
        elif levels and isinstance(into[key], dict) and isinstance(value, dict):
            _merge(into[key], value, levels - 1, (*path, key), file, problems)
        else:
            problems.add((*path, key), f"`{key}` is also in {file}; remove or rename one of them")


def _describe(kind: msgspec.inspect.Type) -> str:
    """Return what a value of `kind` is called in errors."""
    match kind:
        case msgspec.inspect.Metadata():
            return "an expression"
        case msgspec.inspect.StrType():
            return "text"
        case msgspec.inspect.IntType():
            return "a whole number"
        case msgspec.inspect.FloatType():
            return "a number"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.ListType(item_type=item):
            return "a list" if isinstance(item, msgspec.inspect.AnyType) else f"a list, each {_describe(item)}"
        case msgspec.inspect.DictType():
            return "a mapping"
        case msgspec.inspect.StructType(cls=cls):
            return f"a mapping with keys {', '.join(field.name for field in msgspec.structs.fields(cls))}"
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(str(value) for value in values)
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_describe(t) for t in types if not isinstance(t, msgspec.inspect.NoneType))
    return "anything"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _fits(kind: msgspec.inspect.Type, value: Any) -> bool:
    """Return whether `value` is of the outer shape of `kind`; what is inside is looked at later."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _fits(inner, value) or isinstance(value, bool | int | float)
        case msgspec.inspect.StrType() | msgspec.inspect.LiteralType():
            return isinstance(value, str)
        case msgspec.inspect.BoolType():
            return isinstance(value, bool)
        case msgspec.inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case msgspec.inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case msgspec.inspect.NoneType():
            return value is None
        case msgspec.inspect.ListType():
            return isinstance(value, list)
        case msgspec.inspect.DictType() | msgspec.inspect.StructType():
            return isinstance(value, dict)
    return True


def _examine(kind: msgspec.inspect.Type, value: Any, path: KeyPath, problems: Problems) -> Any:
    """Return `value` for `kind`, plain values as expressions where one is wanted, and note all that does not fit."""
    if isinstance(kind, msgspec.inspect.Metadata):
        if isinstance(value, bool | int | float):
            return str(value).lower()
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        fitting = [t for t in kind.types if _fits(t, value)]
        if fitting:
            return _examine(fitting[0], value, path, problems)
    if not _fits(kind, value):
        hint = ""
        if value is None:
            hint = "; nothing is given after the colon"
        elif isinstance(kind, msgspec.inspect.StrType):
            hint = "; put it in quotes"
            if isinstance(value, dict):
                hint = "; text that contains `: ` or begins with `{` or `[` must be in quotes"
        problems.add(path, f"expected {_describe(kind)}, got {_shorten(value)}{hint}")
        return value
    match kind:
        case msgspec.inspect.ListType(item_type=item):
            return [_examine(item, one, (*path, i), problems) for i, one in enumerate(value)]
        case msgspec.inspect.DictType(value_type=item):
            return {key: _examine(item, one, (*path, key), problems) for key, one in value.items()}
        case msgspec.inspect.LiteralType(values=values):
            if value not in values:
                problems.add(path, f"{value!r} is none of {', '.join(map(str, values))}{_did_you_mean(value, values)}")
        case msgspec.inspect.StructType(fields=fields):
            known = {field.encode_name: field for field in fields}
            for name, field in known.items():
                if field.required and name not in value:
                    problems.add(path, f"`{name}` is missing: {_describe(field.type)}")
            for key in value:
                if key not in known:
                    problems.add((*path, key), f"unknown key `{key}`{nearest(key, known)}")
            return {
                key: _examine(known[key].type, one, (*path, key), problems) if key in known else one
                for key, one in value.items()
            }
    return value


def _did_you_mean(name: str, known: tuple[Any, ...]) -> str:
    hint = nearest(name, [str(k) for k in known])
    return hint if "did you mean" in hint else ""


def files(folder: Path) -> list[Path]:
    """Return the YAML files of a domain's folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def names() -> list[str]:
    """Return the names of the shipped domains."""
    return sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir() and files(folder))


def find(name: str | Path) -> Path:
    """Return the folder of a domain, given its name or its path.

    Raises:
        HandrailError: there is none.
    """
    if isinstance(name, str) and name in (known := names()):
        return FOLDER / name
    folder = Path(name)
    if folder.is_file():
        raise HandrailError(f"domain {str(name)!r} is a file; a domain is a folder of YAML files, give {folder.parent}")
    if folder.is_dir():
        if not files(folder):
            raise HandrailError(f"domain folder {folder}: no *.yaml files in it; see docs/domain_guide.md")
        return folder
    known = names()
    raise HandrailError(f"unknown domain {str(name)!r}{nearest(str(name), known)} (or give a folder)")


def read_domain(folder: Path) -> tuple[Domain, Source]:
    """Read a domain without checking more than its form.

    Args:
        folder: of the domain; its name becomes the domain's.

    Raises:
        HandrailError: a file is not YAML, or values are missing, unknown or of the wrong kind; all are listed.
    """
    source = Source(folder)
    problems = Problems(f"domain {folder.name}", source)
    merged: dict[str, Any] = {}
    for path in files(folder):
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
        except UnicodeDecodeError as error:
            raise HandrailError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
        except yaml.YAMLError as error:
            raise HandrailError(f"{path}: not readable as YAML: {_yaml_error(error)}") from None
        if node is None:
            continue
        data = _value(node, (), path.name, source, problems)
        source.lines.pop((), None)
        if not isinstance(data, dict):
            raise HandrailError(f"{path}: expected sections ({', '.join(_SECTIONS)}), got {_shorten(data)}")
        for key, value in data.items():
            if key not in _SECTIONS:
                problems.add((key,), f"unknown section `{key}`{nearest(key, _SECTIONS)}")
            elif key in merged and isinstance(merged[key], dict) and isinstance(value, dict):
                _merge(merged[key], value, _SECTIONS[key] - 1, (key,), path.name, problems)
            else:
                merged[key] = value
    for section in ("desk", "records", "screens", "templates", "issues", "procedures", "small"):
        if section not in merged:
            problems.add((section,), f"this section is missing; read {', '.join(p.name for p in files(folder))}")
    problems.raise_any()
    merged["name"] = folder.resolve().name
    merged = _examine(msgspec.inspect.type_info(Domain), merged, (), problems)
    problems.raise_any()
    return msgspec.convert(merged, Domain), source


def _yaml_error(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        where = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        return f"{where}: {error.problem or error.context}; look for a missing quote, colon or wrong indentation there"
    return str(error)


_CACHE: dict[Path, tuple[tuple[tuple[str, int, int], ...], Domain]] = {}


def _stamp(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in files(folder):
        stat = path.stat()
        yield path.name, stat.st_mtime_ns, stat.st_size


def load_domain(name: str | Path) -> Domain:
    """Return the domain `name`, read and checked.

    The result is kept; the same object comes back until a file of the folder changes.

    Args:
        name: of a shipped domain (`names`), or the path of a folder.

    Raises:
        HandrailError: there is no such domain, or it has mistakes; all are listed, each with file, path and value.
    """
    folder = find(name).resolve()
    stamp = tuple(_stamp(folder))
    cached = _CACHE.get(folder)
    if cached and cached[0] == stamp:
        return cached[1]
    domain, source = read_domain(folder)
    from handrail.envs.bpm.check import check_domain

    check_domain(domain, source)
    _CACHE[folder] = stamp, domain
    return domain
