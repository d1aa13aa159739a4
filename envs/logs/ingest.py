"""Raw logs into a store: streaming, resumable, with a validation report.

The units of a source (files, mostly) are taken in blocks. Each finished block leaves two files in `<out>.parts/`: its
sessions as a store and its report as JSON; the report is written last, so it marks the block as done. When all blocks
are there they are merged. A process killed at any point loses at most one block, and the run that goes on writes the
same bytes as one that was never interrupted. Memory holds one block's problems, one row group, and the ids seen.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

from handrail.envs import registry
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.files import atomic_path
from handrail.envs.logs.store import PART_SUFFIX, VERSION, SessionWriter, collector_paused, merge
from handrail.envs.logs.validate import READER_RULES, RULES, Report, Validator
from handrail.envs.schema import Problem, Session

READERS = "handrail.envs.logs.readers"
"""The package whose modules are the sources."""

BLOCK = 256
"""Units a block holds: what an interrupted ingest loses at most."""

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What a reader module's class `Reader` offers; its constructor takes the path and the options of the source.

    A reader may also have an attribute `counts`, a `Counter` of how often it applied a rule for an oddity that is no
    problem; the report shows it.
    """

    name: ClassVar[str]

    def units(self) -> list[Any]:
        """Return the units of work (paths, or names), in a fixed order; cheap."""
        ...

    def read(self, unit: Any) -> Iterator[Session | Problem]:
        """Yield the sessions and problems of one unit; bad data is a Problem, never an exception."""
        ...


def open_source(source: str, path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Reader:
    """Return the reader `source` on `path`.

    Args:
        source: a module of `handrail.envs.logs.readers`.
        path: the folder or file with the raw logs.
        options: options of the source, as in `conf/source/<source>.yaml`.

    Raises:
        HandrailError: there is no such source, path or option (the message names the nearest), or the path holds no
            such logs.
    """
    module = registry.load(READERS, source, "source")
    path = Path(path)
    if not path.exists():
        raise HandrailError(f"source {source}: there is no {path}{_nearby(path)}")
    known = [name for name in inspect.signature(module.Reader).parameters if name != "path"]
    for name in options or {}:
        if name not in known:
            raise HandrailError(f"source {source} has no option {name!r}{nearest(str(name), known)}")
    reader: Reader = module.Reader(path, **(options or {}))
    return reader


def read_source(reader: Reader, unit: Any) -> Iterator[Session | Problem]:
    """Yield what the reader makes of a unit; if it fails against its contract, that is a problem of the unit."""
    try:
        yield from reader.read(unit)
    except Exception as error:
        where = unit.name if isinstance(unit, Path) else str(unit)
        yield Problem(where, "", -1, "reader_failed", f"{type(error).__name__}: {error}"[:200], True)


def ingest(
    source: str,
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    block: int = BLOCK,
    spread: Spread | None = None,
) -> Report:
    """Read a source into the store `out`, with its validation report beside it.

    Args:
        source: name of the reader.
        path: the folder or file with the raw logs.
        out: the Parquet file to write or replace. The report goes to `report_path(out)`, parts of an unfinished run to
            `<out>.parts/`.
        options: options of the source.
        progress: called with (units done, units in all), first with those of an earlier run.
        block: units a part holds, >= 1.
        spread: reads blocks elsewhere, many at once; `None` for one after another in this process. The files are the
            same.

    Returns:
        The numbers of the report, without its problems: those are in the file.

    Raises:
        HandrailError: as `open_source`; or `out` is a folder; or `<out>.parts/` is there and not ours.
    """
    out = Path(out)
    if out.is_dir():
        raise HandrailError(f"out={out} is a folder; name a file in it, e.g. {out / source}.parquet")
    reader = open_source(source, path, options)
    units = reader.units()
    blocks = [units[start : start + block] for start in range(0, len(units), block)]
    parts = _Parts(out)
    parts.begin(_manifest(source, Path(path), options, units, block))
    totals, validator, done = Report(), Validator(), 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, len(units))

    apart: set[int] = set()
    if spread is not None:
        missing = [number for number in range(len(blocks)) if parts.finished(number) is None]
        for number in spread(Apart(source, Path(path), dict(options or {}), block, out), missing):
            apart.add(number)
            told(len(blocks[number]))
    for number, part in enumerate(blocks):
        finished = parts.finished(number)
        if finished is None:
            finished = _read(reader, part, validator, parts, number, told=told)
        else:
            if number not in apart:
                told(len(part))
            if finished.apart and not validator.seen.isdisjoint(finished.ids):
                finished = _read(reader, part, validator, parts, number)
            else:
                validator.seen.update(finished.ids)
        totals.count(finished.report)
    parts.publish(len(blocks), totals, source)
    return totals


class Apart:
    """Reads single blocks of a source without knowing the others, in whatever process it is copied to.

    What a block's sessions repeat of earlier blocks is not known here; `ingest` reads such a block again.

    Args:
        source, path, options, block, out: as of `ingest`.
    """

    def __init__(self, source: str, path: Path, options: dict[str, Any], block: int, out: Path) -> None:
        self._arguments = source, path, options
        self._block, self._out = block, out
        self._opened: tuple[Reader, list[Any]] | None = None

    def __call__(self, number: int) -> None:
        """Leave a block's two files in `<out>.parts/`."""
        if self._opened is None:
            reader = open_source(*self._arguments)
            self._opened = reader, reader.units()
        reader, units = self._opened
        part = units[number * self._block : (number + 1) * self._block]
        _read(reader, part, Validator(), _Parts(self._out), number, apart=True)


Spread = Callable[[Callable[[int], None], Sequence[int]], Iterable[int]]
"""Does work on numbers, in any order and as often as it likes, and yields each number once when it is done."""


def _read(
    reader: Reader,
    part: Sequence[Any],
    validator: Validator,
    parts: _Parts,
    number: int,
    told: Callable[[int], None] | None = None,
    apart: bool = False,
) -> _Block:
    """Read a block and leave its two files; returns what the second holds."""
    report, ids = Report(), list[str]()
    counts: Counter[str] | None = getattr(reader, "counts", None)
    before = Counter(counts)
    with collector_paused(), SessionWriter(parts.store(number)) as writer:
        for unit in part:
            for item in read_source(reader, unit):
                _take(item, validator, writer, report)
                if isinstance(item, Session):
                    ids.append(item.id)
            if told is not None:
                told(1)
    report.kept, report.steps = writer.sessions, writer.steps
    report.handled = dict(Counter(counts) - before)
    block = _Block(report, ids, apart)
    parts.finish(number, block)
    return block


def report_path(out: str | os.PathLike[str]) -> Path:
    """Return where the validation report of the store `out` is."""
    out = Path(out)
    return out.with_suffix(".validation.json") if out.suffix else out.with_name(out.name + ".validation.json")


def load_report(path: str | os.PathLike[str]) -> Report:
    """Read a validation report.

    Args:
        path: the report, or the store it lies beside.

    Raises:
        HandrailError: there is no report, or it is none.
    """
    path = Path(path)
    file = path if path.name.endswith(".json") else report_path(path)
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_Published)
    except FileNotFoundError:
        raise HandrailError(f"there is no validation report {file}") from None
    except msgspec.DecodeError as error:
        raise HandrailError(f"{file} is no validation report: {error}") from None
    rules = {name: rule.count for name, rule in content.rules.items()}
    return Report(content.kept, content.steps, content.quarantined, rules, content.handled, content.problems)


class _Block(msgspec.Struct):
    report: Report
    ids: list[str]
    apart: bool = False


class _RuleCount(msgspec.Struct):
    count: int
    meaning: str


class _Published(msgspec.Struct):
    source: str
    kept: int
    steps: int
    quarantined: int
    rules: dict[str, _RuleCount]
    handled: dict[str, int]
    problems: list[Problem]


def _take(item: Session | Problem, validator: Validator, writer: SessionWriter, report: Report) -> None:
    if isinstance(item, Problem):
        report.add(item)
        report.quarantined += item.quarantined
        return
    problems = validator.check(item)
    if not any(problem.quarantined for problem in problems):
        try:
            writer.write(item)
        except HandrailError as error:
            problems.append(Problem(item.file, item.id, -1, "not_storable", str(error)[:200], True))
    for problem in problems:
        report.add(problem)
    report.quarantined += any(problem.quarantined for problem in problems)


class _Parts:
    """The folder of finished blocks."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".parts")

    def begin(self, manifest: dict[str, Any]) -> None:
        """Make the folder, or keep what an ingest with the same manifest has left in it."""
        file = self.folder / "manifest.json"
        wanted = msgspec.json.encode(manifest)
        if self.folder.exists() and not file.is_file() and any(self.folder.iterdir()):
            raise HandrailError(f"{self.folder} is there and not from an ingest; move it away or choose another out=")
        if file.is_file() and file.read_bytes() != wanted:
            log.warning("%s is from another ingest (%s): starting over", self.folder, _difference(file, manifest))
            shutil.rmtree(self.folder)
        try:
            if not file.is_file():
                with atomic_path(file) as temporary:
                    temporary.write_bytes(wanted)
        except OSError as error:
            raise HandrailError(f"cannot write beside out={self.out}: {error}") from None

    def store(self, number: int) -> Path:
        return self.folder / f"{number:06d}{PART_SUFFIX}"

    def finished(self, number: int) -> _Block | None:
        try:
            return msgspec.json.decode(self._report(number).read_bytes(), type=_Block)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def finish(self, number: int, block: _Block) -> None:
        with atomic_path(self._report(number)) as temporary:
            temporary.write_bytes(msgspec.json.encode(block))

    def publish(self, blocks: int, totals: Report, source: str) -> None:
        # Both are made inside the folder, so that a kill leaves nothing of them beside `out`.
        report, store = self.folder / "report", self.folder / "store"
        with report.open("wb") as file:
            known = {**READER_RULES, **RULES}
            rules = {
                name: _RuleCount(count, known[name].meaning if name in known else "")
                for name, count in sorted(totals.rules.items())
            }
            head = _Published(
                source, totals.kept, totals.steps, totals.quarantined, rules, dict(sorted(totals.handled.items())), []
            )
            file.write(msgspec.json.format(msgspec.json.encode(head), indent=1).removesuffix(b"[]\n}"))
            separator = b"[\n  "
            for number in range(blocks):
                finished = self.finished(number)
                assert finished is not None
                for problem in finished.report.problems:
                    file.write(separator + msgspec.json.encode(problem))
                    separator = b",\n  "
            file.write(b"[]\n}\n" if separator.startswith(b"[") else b"\n ]\n}\n")
        merge([self.store(number) for number in range(blocks)], store)
        os.replace(report, report_path(self.out))
        os.replace(store, self.out)
        shutil.rmtree(self.folder)

    def _report(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def _manifest(
    source: str, path: Path, options: Mapping[str, Any] | None, units: list[Any], block: int
) -> dict[str, Any]:
    """Return what makes parts of one run unfit for another; each entry is named in the message about it."""
    files = hashlib.sha256()
    for unit in units:
        stat = unit.stat() if isinstance(unit, Path) and unit.exists() else None
        files.update(repr((str(unit), stat and (stat.st_size, stat.st_mtime_ns))).encode(errors="surrogateescape"))
    module = registry.load(READERS, source, "source")
    return {
        "source": source,
        "path": str(path.resolve()),
        "options": {name: str(value) for name, value in sorted((options or {}).items())},
        "files": files.hexdigest(),
        "reader": hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest(),
        "block": block,
        "store version": VERSION,
    }


def _difference(file: Path, manifest: dict[str, Any]) -> str:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError:
        return "its manifest is damaged"
    changed = [name for name in manifest if found.get(name) != manifest[name]]
    return f"other {', '.join(changed)}"


def _nearby(path: Path) -> str:
    """Return a hint from the deepest folder of `path` that exists."""
    parent = next((p for p in path.parents if p.is_dir()), None)
    if parent is None:
        return ""
    missing = path.relative_to(parent).parts[0]
    hint = nearest(missing, [entry.name for entry in sorted(parent.iterdir())[:1000]])
    return f" (in {parent}{hint})" if hint else f" ({parent} is empty)"
