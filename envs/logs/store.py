"""The session store: Parquet, one row a step, sessions contiguous, zstd.

| column | type | content |
|---|---|---|
| `session_id` | string | `Session.id` |
| `step` | int32 | `Step.index`, from 0 within each session |
| `source`, `issue`, `operator` | string | of the session |
| `time` | float64, null | UTC seconds |
| `actor`, `tool`, `target` | string | who did what to which control |
| `args` | string | JSON object of the action's arguments |
| `critical` | bool | whether the action has effects outside the screen |
| `verdict` | string, null | `accept` or `reject` where a suggestion was shown |
| `suggestion` | string, null | JSON of the whole `Feedback` |
| `screen`, `procedure` | string (`procedure` may be null) | of the state |
| `controls` | string | JSON list of the controls on the screen; few distinct values, dictionary-encoded |
| `values`, `selected` | string, null | JSON of the state's input contents and the record in focus; null if empty |
| `events`, `drafts`, `provenance` | string, null | JSON; null if empty |
| `session` | string, null | JSON of the session without its steps, on its first row only |

pandas, DuckDB, Ray Data and `datasets` read the file as it is. The schema version is in the file's metadata under
`handrail.store`. Writing and reading hold one row group at a time.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path
from handrail.envs.schema import (
    Action,
    Arg,
    Constraint,
    Control,
    Event,
    Feedback,
    Message,
    Provenance,
    Session,
    Step,
    UIState,
)

VERSION = "1"
"""Version of the columns; a reader refuses any other."""

ROW_GROUP = 4096
"""Steps a row group holds at least, unless it is the last (a session is never split between two)."""

PART_SUFFIX = ".arrow"
"""Suffix of the parts that `merge` joins."""

_KEY = b"handrail.store"
_CACHE = 2048
_TIME_TYPES = (float, int, type(None))

_FIELDS: dict[str, Any] = {
    "session_id": pa.string(),
    "step": pa.int32(),
    "source": pa.string(),
    "issue": pa.string(),
    "operator": pa.string(),
    "time": pa.float64(),
    "actor": pa.string(),
    "tool": pa.string(),
    "target": pa.string(),
    "args": pa.string(),
    "critical": pa.bool_(),
    "verdict": pa.string(),
    "suggestion": pa.string(),
    "screen": pa.string(),
    "procedure": pa.string(),
    "controls": pa.dictionary(pa.int32(), pa.string()),
    "values": pa.string(),
    "selected": pa.string(),
    "events": pa.string(),
    "drafts": pa.string(),
    "provenance": pa.string(),
    "session": pa.string(),
}
_REQUIRED = (
    frozenset(_FIELDS)
    - {"time", "verdict", "suggestion", "procedure", "values", "selected", "events"}
    - {
        "drafts",
        "provenance",
        "session",
    }
)
SCHEMA: pa.Schema = pa.schema(
    [pa.field(name, kind, nullable=name not in _REQUIRED) for name, kind in _FIELDS.items()],
    metadata={_KEY: VERSION.encode()},
)
"""The Arrow schema of the store."""

_LOW_CARDINALITY = ["source", "issue", "operator", "actor", "tool", "target", "verdict", "screen", "procedure"]
# The default dictionary page (1 MiB) overflows on wide desks: a screen of 200 reply templates is 20 KB of JSON.
_WRITE_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [*_LOW_CARDINALITY, "controls"],
    "dictionary_pagesize_limit": 1 << 28,
    "write_statistics": ["session_id", "step", "source", "issue", "operator", "time"],
}

_encode = msgspec.json.Encoder().encode
_args = msgspec.json.Decoder(dict[str, Arg])
_feedback = msgspec.json.Decoder(Feedback)
_controls = msgspec.json.Decoder(tuple[Control, ...])
_record = msgspec.json.Decoder(dict[str, Any])
_events = msgspec.json.Decoder(tuple[Event, ...])
_drafts = msgspec.json.Decoder(tuple[Message, ...])
_provenance = msgspec.json.Decoder(dict[str, Provenance])
_session = msgspec.json.Decoder(Session)

T = TypeVar("T")


class SessionWriter:
    """Writes sessions to a store, one row group at a time.

    The file appears under its name only when the `with` block ends without an error.

    Args:
        path: the file to write or replace; parent folders are created. A name that ends in `.arrow` gives an
            uncompressed Arrow stream of the same rows instead, a part for `merge`: quicker to write, larger on disk.
        row_group: steps a row group holds at least, >= 1. Memory is proportional to it.

    Attributes:
        sessions: number of sessions written.
        steps: number of steps written.
    """

    def __init__(self, path: str | os.PathLike[str], row_group: int = ROW_GROUP) -> None:
        if row_group < 1:
            raise ValueError(f"row_group is {row_group}, expected at least 1")
        self.path = Path(path)
        self.sessions = 0
        self.steps = 0
        self._row_group = row_group
        self._rows: list[tuple[Any, ...]] = []
        self._dictionary: dict[bytes, int] = {}
        # id() of a tuple is only its own while the tuple lives, hence the reference beside the code.
        self._seen: dict[int, tuple[tuple[Control, ...], int]] = {}
        self._plain = _Plain()
        self._stack = ExitStack()
        self._sink: Any = None

    def __enter__(self) -> Self:
        try:
            temporary = self._stack.enter_context(atomic_path(self.path))
            if self.path.suffix == PART_SUFFIX:
                self._sink = self._stack.enter_context(pa.ipc.new_stream(str(temporary), SCHEMA))
            else:
                self._sink = self._stack.enter_context(pq.ParquetWriter(temporary, SCHEMA, **_WRITE_OPTIONS))
        except OSError as error:
            self._stack.close()
            raise HandrailError(f"cannot write {self.path}: {error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._flush()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)

    def write(self, session: Session) -> None:
        """Append a session.

        Raises:
            HandrailError: the session has no step, or holds something JSON cannot express (a lone surrogate, an object
                of a foreign type). Nothing of it is written then.
        """
        if self._sink is None:
            raise RuntimeError("SessionWriter is a context manager: write inside its `with` block")
        if not session.steps:
            raise HandrailError(f"session {session.id!r} has no step, and a store holds one row a step")
        before = len(self._rows)
        try:
            self._append(session)
        except (UnicodeEncodeError, TypeError, OverflowError, ValueError, RecursionError, AttributeError) as error:
            del self._rows[before:]
            raise HandrailError(f"session {session.id!r} cannot be stored: {error}") from None
        self.sessions += 1
        self.steps += len(session.steps)
        if len(self._rows) >= self._row_group:
            self._flush()

    def _append(self, session: Session) -> None:
        encode, plain, add = _encode, self._plain, self._rows.append
        head: bytes | None = encode(msgspec.structs.replace(session, steps=()))
        session_id, source, issue, operator = (
            plain[x] for x in (session.id, session.source, session.issue, session.operator)
        )
        for step in session.steps:
            state, action, feedback, time = step.state, step.action, step.feedback, step.time
            procedure = state.procedure
            if type(step.index) is not int or type(step.critical) is not bool or type(time) not in _TIME_TYPES:
                raise TypeError(f"index {step.index!r}, critical {step.critical!r} or time {time!r} has a wrong type")
            known = self._seen.get(id(state.controls))
            row = (
                session_id,
                step.index,
                source,
                issue,
                operator,
                time,
                plain[step.actor],
                plain[action.tool],
                plain[action.target],
                encode(action.args) if action.args else b"{}",
                step.critical,
                None if feedback is None else plain[feedback.verdict],
                None if feedback is None else encode(feedback),
                plain[state.screen],
                None if procedure is None else plain[procedure],
                self._code(state.controls) if known is None else known[1],
                encode(state.values) if state.values else None,
                None if state.selected is None else encode(state.selected),
                encode(step.events) if step.events else None,
                encode(step.drafts) if step.drafts else None,
                encode(step.provenance) if step.provenance else None,
                head,
            )
            add(row)
            head = None

    def _code(self, controls: tuple[Control, ...]) -> int:
        code = self._dictionary.setdefault(_encode(controls), len(self._dictionary))
        if len(self._seen) < _CACHE:
            self._seen[id(controls)] = (controls, code)
        return code

    def _flush(self) -> None:
        if not self._rows:
            return
        arrays: list[Any] = []
        for (name, kind), column in zip(_FIELDS.items(), zip(*self._rows, strict=True), strict=True):
            if name == "controls":
                codes, texts = _array(column, pa.int32()), _array(self._dictionary, pa.string())
                arrays.append(pa.DictionaryArray.from_arrays(codes, texts))
            else:
                arrays.append(_array(column, kind, name not in _REQUIRED))
        self._sink.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self._rows.clear()
        self._dictionary.clear()
        self._seen.clear()
        self._plain.clear()


class _Plain(dict[str, bytes]):
    """Text to UTF-8; refuses what the JSON encoder would refuse: foreign types and lone surrogates."""

    def __missing__(self, text: str) -> bytes:
        if type(text) is not str:
            raise TypeError(f"expected text, got {type(text).__name__}: {text!r:.80}")
        encoded = self[text] = text.encode()
        return encoded


def _array(column: Collection[Any], kind: pa.DataType, nullable: bool = False) -> pa.Array:
    """Return an Arrow array of checked cells (`bytes` for text).

    Buffers are built here since `pyarrow.array` imports pandas (0.4 s) and takes twice as long.
    """
    length = len(column)
    present = np.array([cell is not None for cell in column]) if nullable else np.ones(length, bool)
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    if kind == pa.string():
        cells = column if validity is None else [cell or b"" for cell in column]
        ends = np.zeros(length + 1, np.int64)
        np.cumsum(np.fromiter(map(len, cells), np.int64, length), out=ends[1:])
        if ends[-1] > np.iinfo(np.int32).max:
            raise HandrailError("the cells of a row group exceed 2 GiB; write with a smaller row_group")
        buffers = [validity, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(cells))]
    elif kind == pa.bool_():
        buffers = [validity, pa.py_buffer(np.packbits(np.fromiter(column, bool, length), bitorder="little"))]
    elif kind == pa.float64():
        values = np.fromiter((0.0 if cell is None else cell for cell in column), np.float64, length)
        buffers = [validity, pa.py_buffer(values)]
    else:
        buffers = [validity, pa.py_buffer(np.fromiter(column, np.int32, length))]
    return pa.Array.from_buffers(kind, length, buffers)


def read_sessions(path: str | os.PathLike[str], first: int = 0, last: int | None = None) -> Iterator[Session]:
    """Yield the sessions of a store in order, holding one row group at a time.

    States with equal controls share one tuple, so that callers can cache by its identity.

    Args:
        path: a file that `SessionWriter` or `handrail ingest` wrote.
        first: the row group to begin with; row groups hold whole sessions.
        last: the row group to end before, `None` for all.

    Raises:
        HandrailError: there is no such file, it is no store of this version, it is truncated, or a cell does not
            hold what its column says.
    """
    path = Path(path)
    file = open_store(path)
    shared: dict[bytes, tuple[Control, ...]] = {}
    pending: Session | None = None
    steps: list[Step] = []
    try:
        for group in range(first, file.num_row_groups if last is None else last):
            for row_session, step in _rows(file.read_row_group(group), shared):
                if row_session is not None:
                    if pending is not None:
                        yield _with_steps(pending, steps)
                    pending, steps = row_session, []
                elif pending is None:
                    raise HandrailError(f"{path} begins within a session: its first row has no `session`")
                steps.append(step)
    except (pa.ArrowException, OSError) as error:
        raise HandrailError(f"{path} is damaged: {error}; ingest the raw logs again") from None
    except (msgspec.DecodeError, TypeError) as error:
        raise HandrailError(f"{path} has a cell that does not fit its column: {error}") from None
    finally:
        file.close()
    if pending is not None:
        yield _with_steps(pending, steps)


def load_sessions(path: str | os.PathLike[str]) -> list[Session]:
    """Return all sessions of a store; see `read_sessions`.

    Raises:
        HandrailError: as `read_sessions`.
    """
    with collector_paused():
        return list(read_sessions(path))


def merge(parts: list[Path], path: str | os.PathLike[str]) -> None:
    """Join parts into one store, in the given order, one row group at a time.

    Args:
        parts: `.arrow` files that `SessionWriter` wrote; each of their batches becomes a row group.
        path: the file to write or replace.

    Raises:
        HandrailError: one of `parts` cannot be read.
    """
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, **_WRITE_OPTIONS) as writer:
        for part in parts:
            try:
                with pa.memory_map(str(part)) as source, pa.ipc.open_stream(source) as stream:
                    for batch in stream:
                        writer.write_batch(batch)
            except (pa.ArrowException, OSError) as error:
                raise HandrailError(f"{part} cannot be read: {error}; remove it and ingest again") from None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cycle collector while many sessions are made.

    Sessions hold no cycles; letting the collector scan a growing heap again and again costs up to five times the
    decoding itself.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def open_store(path: str | os.PathLike[str]) -> pq.ParquetFile:
    """Open a store for reading by row group.

    Raises:
        HandrailError: there is no such file, or it is no store of this version.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise HandrailError(f"no file {path}; `handrail ingest source=… path=… out={path}` writes one") from None
    except (pa.ArrowException, OSError) as error:
        raise HandrailError(f"{path} is no Parquet file, or is cut off: {error}") from None
    version = (file.metadata.metadata or {}).get(_KEY, b"").decode()
    schema = file.schema_arrow
    missing = [name for name in _FIELDS if name not in schema.names]
    changed = [name for name in _FIELDS if name not in missing and schema.field(name).type != _FIELDS[name]]
    if version == VERSION and not missing and not changed:
        return file
    file.close()
    if not version:
        raise HandrailError(f"{path} is Parquet but no Handrail store: its metadata has no {_KEY.decode()!r}")
    if version != VERSION:
        raise HandrailError(f"{path} is a store of version {version}, expected {VERSION}; ingest the raw logs again")
    if missing:
        raise HandrailError(f"{path} lacks the columns {', '.join(missing)}; ingest the raw logs again")
    name = changed[0]
    raise HandrailError(f"{path}: column {name} is {schema.field(name).type}, expected {_FIELDS[name]}")


def _rows(table: pa.Table, shared: dict[bytes, tuple[Control, ...]]) -> Iterator[tuple[Session | None, Step]]:
    cells = {name: table.column(name) for name in _FIELDS}
    plain = {name: cells[name].to_pylist() for name in ("step", "time", "critical")}
    common = {name: _repeated(cells[name]) for name in ("actor", "tool", "target", "screen", "procedure", "verdict")}
    args = _decoded(cells["args"], _args.decode)
    states = zip(
        common["screen"],
        common["procedure"],
        _decoded_controls(cells["controls"], shared),
        (_restored(values) for values in _decoded(cells["values"], _args.decode)),
        _decoded(cells["selected"], _record.decode),
        strict=True,
    )
    rows = zip(
        _decoded(cells["session"], _session.decode),
        plain["step"],
        states,
        _decoded(cells["events"], _events.decode),
        common["tool"],
        common["target"],
        args,
        common["actor"],
        plain["time"],
        plain["critical"],
        _decoded(cells["suggestion"], _feedback.decode),
        _decoded(cells["drafts"], _drafts.decode),
        _decoded(cells["provenance"], _provenance.decode),
        strict=True,
    )
    for session, index, state, events, tool, target, arg, actor, time, critical, feedback, drafts, provenance in rows:
        screen, procedure, controls, values, selected = state
        yield (
            session,
            Step(
                index,
                UIState(screen, procedure, controls, values, selected),
                events or (),
                Action(tool, target, _restored(arg)),
                actor,
                time,
                critical,
                None if feedback is None else _restored_feedback(feedback),
                drafts or (),
                provenance or {},
            ),
        )


def _decoded(column: pa.ChunkedArray, decode: Any) -> Iterator[Any]:
    for cell in column.cast(pa.binary()).to_pylist():
        yield None if cell is None else decode(cell)


def _repeated(column: pa.ChunkedArray) -> list[Any]:
    """Return the column as a list in which equal cells are one object."""
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    values = encoded.dictionary.to_pylist()
    return [None if code is None else values[code] for code in encoded.indices.to_pylist()]


def _decoded_controls(
    column: pa.ChunkedArray, shared: dict[bytes, tuple[Control, ...]]
) -> Iterator[tuple[Control, ...]]:
    for chunk in column.chunks:
        tuples = []
        for encoded in chunk.dictionary.cast(pa.binary()).to_pylist():
            if encoded not in shared:
                if len(shared) >= _CACHE:
                    shared.clear()
                shared[encoded] = _controls.decode(encoded)
            tuples.append(shared[encoded])
        for code in chunk.indices.to_pylist():
            yield tuples[code]


def _with_steps(session: Session, steps: list[Step]) -> Session:
    return msgspec.structs.replace(session, steps=tuple(steps))


def _restored(args: dict[str, Arg] | None) -> dict[str, Arg]:
    """Give constraints inside an `all_of` their type again: JSON alone cannot tell them from records."""
    if not args:
        return {}
    for name, value in args.items():
        if type(value) is Constraint and value.op == "all_of":
            args[name] = _restored_constraint(value)
    return args


def _restored_constraint(constraint: Constraint) -> Constraint:
    if constraint.op != "all_of" or not isinstance(constraint.value, list):
        return constraint
    operands = [
        _restored_constraint(Constraint(item["op"], item["value"]))
        if isinstance(item, dict) and item.keys() == {"op", "value"}
        else item
        for item in constraint.value
    ]
    return Constraint("all_of", operands)


def _restored_feedback(feedback: Feedback) -> Feedback:
    for action in (feedback.suggestion, feedback.correction, *feedback.alternatives):
        if action is not None and action.args:
            _restored(action.args)
    return feedback
