"""Reads anybody's table of scores and outcomes, and refuses what cannot be evaluated with file, column and row.

A CSV file needs a header, commas and UTF-8; a Parquet file is read as it is. Only the named columns are read, batch by
batch. Rows are counted from 1 below the header.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from handrail.envs.errors import HandrailError, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow

    FloatArray = npt.NDArray[np.float64]
    BoolArray = npt.NDArray[np.bool_]
    IntArray = npt.NDArray[np.int64]

TRUE = ("1", "1.0", "true", "yes")
FALSE = ("0", "0.0", "false", "no")
CALIBRATION = ("calibration", "cal", "validation", "valid", "val", "dev")
MISSING = ("", "nan", "na", "n/a", "null", "none")
"""What stands for "no score" in a CSV file, in lower case; pandas writes NaN as an empty cell."""

MAX_GROUPS = 1000

_NO_ROWS = "{path} has no rows below its header; expected one row a step"
_SUFFIXES = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV"}
_MAGIC = (
    (b"\x1f\x8b", "gzip-compressed; unpack it first with gunzip"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; save the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first with unzstd"),
    (b"BZh", "bzip2-compressed; unpack it first with bunzip2"),
    (b"ARROW1", "an Arrow or Feather file; save the table as Parquet"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)


@dataclass(frozen=True)
class Columns:
    """Which columns of a file say what.

    Attributes:
        path: the file.
        scores: columns with a confidence, one or more.
        correct: column that says whether the step was right.
        group: column with the kind of case, or None.
        cluster: column with the session, or None.
        split: column that says calibration or test, or None.
        missing: whether a row without a score is an error or a step that never runs alone.
    """

    path: Path
    scores: tuple[str, ...]
    correct: str
    group: str | None = None
    cluster: str | None = None
    split: str | None = None
    missing: Literal["error", "defer"] = "error"

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that are read as text."""
        return tuple(name for name in (self.group, self.cluster, self.split) if name is not None)

    @property
    def all(self) -> tuple[str, ...]:
        """Every named column, once."""
        return tuple(dict.fromkeys((*self.scores, self.correct, *self.texts)))


@dataclass(frozen=True)
class ScoreTable:
    """The named columns of a table, as arrays of one length.

    Attributes:
        scores: one (n,) for each score column; −inf where the table has none.
        correct: (n,).
        groups: (n,) codes into `group_names`, or None.
        group_names: names of the groups, sorted.
        clusters: (n,) codes, or None.
        calibration: (n,) rows to choose thresholds on.
        test: (n,) rows to report on.
        counts: rows read, without a score, left out and so on, for the report.
    """

    scores: tuple[FloatArray, ...]
    correct: BoolArray
    groups: IntArray | None
    group_names: list[str]
    clusters: IntArray | None
    calibration: BoolArray
    test: BoolArray
    counts: dict[str, int]


def read_table(columns: Columns, *, seed: int = 0) -> ScoreTable:
    """Read the named columns and nothing else.

    Args:
        columns: the file and its columns.
        seed: of the split where the file brings none: half of the clusters by a hash of name and seed, or half of the
            rows.

    Raises:
        HandrailError: the file cannot be read or is something else than its name says; a column is missing or there
            twice; a cell is empty, a score no finite number, an outcome neither right nor wrong; all scores are equal;
            there are more than `MAX_GROUPS` groups; or calibration or test rows are missing.
    """
    import numpy as np

    scores: list[list[FloatArray]] = [[] for _ in columns.scores]
    outcomes: list[BoolArray] = []
    texts: dict[str, list[pyarrow.DictionaryArray]] = {name: [] for name in columns.texts}
    n = 0
    for batch in _batches(columns):
        for values, name in zip(scores, columns.scores, strict=True):
            values.append(_scores(batch.column(name), columns, name, n))
        outcomes.append(_outcomes(batch.column(columns.correct), columns, n))
        for name, chunks in texts.items():
            chunks.append(_text(batch.column(name), columns.path, name, n))
        n += batch.num_rows
    if n == 0:
        raise HandrailError(_NO_ROWS.format(path=columns.path))
    arrays = tuple(np.concatenate(values) for values in scores)
    groups, group_names = _codes(texts, columns.group)
    if len(group_names) > MAX_GROUPS:
        raise HandrailError(
            f"{columns.path}, column {columns.group!r}: {len(group_names):,} different values; expected at most "
            f"{MAX_GROUPS:,} groups: name a coarser column"
        )
    clusters, cluster_names = _codes(texts, columns.cluster)
    words, word_names = _codes(texts, columns.split)
    if words is not None:
        lowered = np.array([word.strip().lower() for word in word_names])
        calibration, test = np.isin(lowered, CALIBRATION)[words], (lowered == "test")[words]
        found = f"column {columns.split!r} says {_some(word_names)}"
    else:
        calibration = _half(clusters, cluster_names, n, seed)
        test = ~calibration
        found = f"there are {n} rows" + (f" in {len(cluster_names)} clusters" if columns.cluster else "")
    if not calibration.any() or not test.any():
        raise HandrailError(
            f"{columns.path}: {int(calibration.sum())} calibration and {int(test.sum())} test rows, where {found}; "
            "thresholds are chosen on one part and reported on the other, so both need rows: name a column whose "
            "values are calibration and test by split=…"
        )
    for name, whole in zip(columns.scores, arrays, strict=True):
        for part, rows in (("", calibration | test), ("calibration ", calibration), ("test ", test)):
            _check_varies(columns.path, name, whole[rows], part, int(rows.argmax()))
    counts = {
        "rows": n,
        "rows_without_score": int(np.logical_or.reduce([np.isneginf(values) for values in arrays]).sum()),
        "rows_calibration": int(calibration.sum()),
        "rows_test": int(test.sum()),
        "rows_left_out": int((~calibration & ~test).sum()),
    }
    if clusters is not None:
        counts["clusters"] = len(cluster_names)
    return ScoreTable(arrays, np.concatenate(outcomes), groups, group_names, clusters, calibration, test, counts)


def _batches(columns: Columns) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa

    kind = _kind(columns.path)
    try:
        yield from _parquet(columns) if kind == "Parquet" else _csv(columns)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise HandrailError(
            f"{columns.path} cannot be read as {kind}: {reason}; expected a Parquet file, or a CSV file in UTF-8 with "
            "a header, commas and as many cells in each row"
        ) from error


def _kind(path: Path) -> str:
    """Return `CSV` or `Parquet`, by name and content, which must agree."""
    if path.is_dir():
        raise HandrailError(f"scores={path}: a folder; expected a CSV or Parquet file")
    if not path.exists():
        raise HandrailError(f"scores={path}: no such file; expected a CSV or Parquet file")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise HandrailError(f"scores={path} cannot be read: {error.strerror}; expected a CSV or Parquet file") from None
    if not head:
        raise HandrailError(f"scores={path}: the file is empty; expected a CSV file with a header, or a Parquet file")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise HandrailError(f"scores={path}: its content is {what}; expected plain CSV or Parquet")
    is_parquet = head.startswith(b"PAR1")
    if not is_parquet and b"\0" in head:
        raise HandrailError(f"scores={path}: its content is binary, not text; expected CSV in UTF-8, or Parquet")
    named, found = _SUFFIXES.get(path.suffix.lower()), "Parquet" if is_parquet else "CSV"
    if named is not None and named != found:
        raise HandrailError(
            f"scores={path}: named {path.suffix}, but its content is {'' if is_parquet else 'not '}Parquet; "
            "expected a file that is what its name says: rename it, or name the right file"
        )
    return found


def _parquet(columns: Columns) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(columns.path)
    _check_columns(columns, file.schema_arrow.names)
    yield from file.iter_batches(batch_size=1 << 16, columns=list(columns.all))


def _csv(columns: Columns) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa
    import pyarrow.csv

    ragged: list[pyarrow.csv.InvalidRow] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    # Threads read faster, but do not know in which row they are.
    read = pa.csv.ReadOptions(use_threads=False)
    parse = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse)
    # Bytes as they are: text that is not UTF-8 is then found by row, and ids do not change their type on the way.
    convert = pa.csv.ConvertOptions(
        include_columns=list(columns.all), column_types=dict.fromkeys(columns.all, pa.binary()), null_values=[]
    )
    try:
        with pa.csv.open_csv(columns.path, read_options=read, parse_options=parse) as header:
            _check_columns(columns, header.schema.names)
        with pa.csv.open_csv(columns.path, read, parse, convert) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            # A header without a line end, or blank lines.
            raise HandrailError(_NO_ROWS.format(path=columns.path)) from None
        if not ragged:
            raise
        row = ragged[0]
        raise HandrailError(
            f"{columns.path}, row {row.number - 1}: {row.actual_columns} cells, {row.text[:60]!r}, where the header "
            f"has {row.expected_columns}; expected as many in every row, with quotes around a cell that holds a comma"
        ) from None


def _check_columns(columns: Columns, known: Sequence[str]) -> None:
    often = Counter(known)
    for name in columns.all:
        if name not in often:
            raise HandrailError(f"{columns.path} has no column {name!r}{nearest(name, often)}")
        if often[name] > 1:
            raise HandrailError(
                f"{columns.path} has {often[name]} columns named {name!r}; expected one: rename or remove the others"
            )


def _scores(column: pyarrow.Array, columns: Columns, name: str, before: int) -> FloatArray:
    """Finite scores of a batch, −inf where the table has none; `before` rows came in earlier batches."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_binary(column.type) or pa.types.is_string(column.type):
        words = pc.utf8_trim_whitespace(_decoded(column, columns.path, name, before))
        absent = pc.is_in(pc.utf8_lower(words), value_set=pa.array(MISSING))
        column = pc.if_else(absent, None, words)
    try:
        values: FloatArray = np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row, value = _first_bad_number(column)
        raise HandrailError(
            f"{_place(columns.path, name, before + row)}: {value!r} is no number; expected a score"
        ) from None
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise HandrailError(
            f"{_place(columns.path, name, before + row)}: the score is {values[row]}; expected a finite number"
        )
    missing = np.isnan(values)
    if missing.any() and columns.missing == "error":
        row = int(missing.argmax())
        raise HandrailError(
            f"{_place(columns.path, name, before + row)}: the score is empty or NaN; expected a finite number: give it "
            "one, leave the row out, or say missing=defer if such steps go to the operator"
        )
    values[missing] = -np.inf
    return values


def _first_bad_number(column: pyarrow.Array) -> tuple[int, object]:
    import pyarrow as pa

    for row, value in enumerate(column):
        try:
            value.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return row, value.as_py()
    return 0, str(column.type)


def _outcomes(column: pyarrow.Array, columns: Columns, before: int) -> BoolArray:
    """Right or wrong, for a batch."""
    import numpy as np

    encoded = _text(column, columns.path, columns.correct, before, expected="0 or 1, true or false, yes or no")
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    words = [str(value).strip().lower() for value in encoded.dictionary.to_pylist()]
    strange = np.array([word not in TRUE and word not in FALSE for word in words], dtype=np.bool_)
    if strange.any():
        row = int(strange[indices].argmax())
        value = encoded.dictionary[int(indices[row])].as_py()
        raise HandrailError(
            f"{_place(columns.path, columns.correct, before + row)}: the outcome is {value!r}; expected 0 or 1, true "
            "or false, yes or no"
        )
    right: BoolArray = np.array([word in TRUE for word in words], dtype=np.bool_)[indices]
    return right


def _text(
    column: pyarrow.Array, path: Path, name: str, before: int, expected: str = "text in every row"
) -> pyarrow.DictionaryArray:
    """A batch of a column as text without empty cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
    try:
        words = _decoded(plain, path, name, before)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise HandrailError(f"{path}, column {name!r} holds {column.type}; expected {expected}") from None
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(words), ""), True)
    if pc.any(empty).as_py():
        row = pc.index(empty, True).as_py()
        raise HandrailError(f"{_place(path, name, before + row)}: the cell is empty; expected {expected}")
    return words.dictionary_encode()


def _decoded(column: pyarrow.Array, path: Path, name: str, before: int) -> pyarrow.Array:
    """A column as text; bytes must be UTF-8."""
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        if not pa.types.is_binary(column.type):
            raise
    row, value = next((row, value) for row, value in enumerate(column.to_pylist()) if not _is_utf8(value or b""))
    raise HandrailError(f"{_place(path, name, before + row)}: {value!r} is not UTF-8; expected the file saved as UTF-8")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _place(path: Path, column: str, row: int) -> str:
    return f"{path}, column {column!r}, row {row + 1}"


def _check_varies(path: Path, name: str, scores: FloatArray, part: str, first: int) -> None:
    if scores.min() == scores.max():
        value = "missing" if scores[0] == -float("inf") else f"{scores[0]:g}"
        raise HandrailError(
            f"{path}, column {name!r}, from row {first + 1} on: the score is {value} in all {len(scores)} {part}rows; "
            "expected scores that differ, or nothing can be ranked"
        )


def _codes(texts: dict[str, list[pyarrow.DictionaryArray]], name: str | None) -> tuple[IntArray | None, list[str]]:
    """Codes (n,) of a text column into its sorted distinct values."""
    if name is None:
        return None, []
    import numpy as np
    import pyarrow as pa

    whole = pa.chunked_array(texts[name]).unify_dictionaries().combine_chunks()
    names = whole.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return rank[whole.indices.to_numpy(zero_copy_only=False)], [names[i] for i in order]


def _half(clusters: IntArray | None, names: Sequence[str], rows: int, seed: int) -> BoolArray:
    """Half of the clusters (or rows), by a hash that does not change when other clusters come or go."""
    import numpy as np

    if clusters is None:
        # A stream of its own: rows simulated with default_rng(seed) would otherwise be split by their own draws.
        chosen: BoolArray = np.random.default_rng([seed, 0x5B117]).random(rows) < 0.5
        return chosen
    coins = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=1).digest()[0] < 128 for name in names]
    picked: BoolArray = np.array(coins, dtype=np.bool_)[clusters]
    return picked


def _some(words: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(map(repr, words[:limit])) + more
