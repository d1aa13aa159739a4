from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handrail.cli import main
from handrail.envs.errors import HandrailError
from handrail.experiments.score_table import Columns, read_table

ROWS = [("0.9", "1", "a", "s1"), ("0.2", "0", "b", "s2"), ("0.7", "1", "a", "s3"), ("0.4", "0", "b", "s4")]


def csv(*changes: tuple[int, int, str], header: str = "p,right,kind,session") -> str:
    """Eight good rows with some cells replaced: (row from 1, column from 0, text)."""
    rows = [list(row) for row in ROWS * 2]
    for row, column, text in changes:
        rows[row - 1][column] = text
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


NAMED = ("score=p", "correct=right", "group=kind", "cluster=session")


def refused(path: Path, *options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `handrail curves` says of a bad file: one line, status 2, and nothing written."""
    monkeypatch.chdir(path.parent)
    before = sorted(path.parent.iterdir())
    assert main(["curves", f"scores={path.name}", *(options or NAMED)]) == 2
    assert sorted(path.parent.iterdir()) == before
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert path.name in line
    return line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Scores.
        (csv((3, 0, "nan")), "column 'p', row 3: the score is empty or NaN"),
        (csv((3, 0, "NaN")), "column 'p', row 3: the score is empty or NaN"),
        (csv((4, 0, "")), "column 'p', row 4: the score is empty or NaN"),
        (csv((2, 0, "inf")), "column 'p', row 2: the score is inf"),
        (csv((8, 0, "-inf")), "column 'p', row 8: the score is -inf"),
        (csv((8, 0, "1e999")), "column 'p', row 8: the score is inf"),
        (csv((5, 0, "high")), "column 'p', row 5: 'high' is no number"),
        (csv((5, 0, "0;5")), "column 'p', row 5: '0;5' is no number"),
        (csv(*((row, 0, "0.5") for row in range(1, 9))), "column 'p', from row 1 on: the score is 0.5 in all 8 rows"),
        # Outcomes.
        (csv((6, 1, "2")), "column 'right', row 6: the outcome is '2'; expected 0 or 1"),
        (csv((6, 1, "0.5")), "column 'right', row 6: the outcome is '0.5'"),
        (csv((6, 1, "-1")), "column 'right', row 6: the outcome is '-1'"),
        (csv((7, 1, "maybe")), "column 'right', row 7: the outcome is 'maybe'"),
        (csv((7, 1, "")), "column 'right', row 7: the cell is empty; expected 0 or 1"),
        (csv((7, 1, "nan")), "column 'right', row 7: the outcome is 'nan'"),
        # Groups and clusters.
        (csv((2, 2, "")), "column 'kind', row 2: the cell is empty"),
        (csv((2, 2, "  ")), "column 'kind', row 2: the cell is empty"),
        (csv((3, 3, "")), "column 'session', row 3: the cell is empty"),
        # Columns.
        (csv(header="pp,right,kind,session"), "no column 'p'; did you mean pp?"),
        (csv(header="p,right,kind,sessions"), "no column 'session'; did you mean sessions?"),
        (csv(header="p,right,p,session"), "2 columns named 'p'"),
        # Files.
        ("", "the file is empty"),
        ("p,right,kind,session\n", "no rows below its header"),
        ("p,right,kind,session", "no rows below its header"),
        (csv() + "0.5,1,a\n", "row 9: 3 cells, '0.5,1,a', where the header has 4"),
        (csv() + "0.5,1,a,s1,extra\n", "row 9: 5 cells"),
        (csv().replace(",", ";"), "no column 'p'; known: p;right;kind;session"),
        ("\0\1\2" * 100, "binary, not text"),
    ],
)
def test_a_bad_csv_is_one_line_with_file_column_and_row(text, message, tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    assert message in refused(path, monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.csv", gzip.compress(csv().encode(), mtime=0), "gzip-compressed; unpack it first"),
        ("scores.csv.gz", gzip.compress(csv().encode(), mtime=0), "gzip-compressed; unpack it first"),
        ("scores.csv", b"PK\x03\x04rest", "a ZIP archive or an Excel workbook"),
        ("scores.csv", csv().encode("utf-16"), "UTF-16"),
        ("scores.csv", csv((4, 2, "é")).encode("latin-1"), "column 'kind', row 4: b'\\xe9' is not UTF-8"),
        ("scores.parquet", csv().encode(), "named .parquet, but its content is not Parquet"),
        ("scores.parquet", b"PAR1" + b"x" * 200, "cannot be read as Parquet"),
        ("scores.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_not_what_it_says(name, content, message, tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(path, monkeypatch=monkeypatch, capsys=capsys)


def test_parquet_named_csv_a_folder_and_no_file(tmp_path, monkeypatch, capsys) -> None:
    pq.write_table(pa.table({"p": [0.1, 0.2], "right": [0, 1]}), tmp_path / "scores.csv")
    line = refused(tmp_path / "scores.csv", "score=p", "correct=right", monkeypatch=monkeypatch, capsys=capsys)
    assert "named .csv, but its content is Parquet" in line
    (tmp_path / "folder.csv").mkdir()
    assert "a folder" in refused(tmp_path / "folder.csv", monkeypatch=monkeypatch, capsys=capsys)
    assert "no such file" in refused(tmp_path / "absent.csv", monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"p": [0.5, float("nan"), 0.1]}, "column 'p', row 2: the score is empty or NaN"),
        ({"p": [0.5, None, 0.1]}, "column 'p', row 2: the score is empty or NaN"),
        ({"p": [0.5, 0.2, float("-inf")]}, "column 'p', row 3: the score is -inf"),
        ({"p": ["0.5", "0.2", "much"]}, "column 'p', row 3: 'much' is no number"),
        ({"p": [[0.5], [0.2], [0.1]]}, "column 'p'"),
        ({"right": [1, 0, 3]}, "column 'right', row 3: the outcome is '3'"),
        ({"right": [1, 0, None]}, "column 'right', row 3: the cell is empty"),
        ({"right": [True, None, False]}, "column 'right', row 2: the cell is empty"),
        ({"right": [[1], [0], [1]]}, "column 'right'"),
        ({"kind": ["a", None, "b"]}, "column 'kind', row 2: the cell is empty"),
        ({"session": pa.array(["a", "b", None]).dictionary_encode()}, "column 'session', row 3: the cell is empty"),
        ({"session": [{"x": 1}, {"x": 2}, {"x": 3}]}, "column 'session'"),
    ],
)
def test_a_bad_parquet_is_one_line_with_file_column_and_row(columns, message, tmp_path, monkeypatch, capsys) -> None:
    good = {"p": [0.5, 0.2, 0.1], "right": [1, 0, 1], "kind": ["a", "b", "a"], "session": ["s", "t", "u"]}
    pq.write_table(pa.table({**good, **columns}), tmp_path / "scores.parquet")
    assert message in refused(tmp_path / "scores.parquet", monkeypatch=monkeypatch, capsys=capsys)


def test_rows_are_counted_over_batches(tmp_path) -> None:
    n = 200_000
    p = np.linspace(0, 1, n)
    p[150_000] = np.inf
    frame = pd.DataFrame({"p": p, "right": np.arange(n) % 2, "pad": "x" * 20})
    frame.to_csv(tmp_path / "s.csv", index=False)
    frame.to_parquet(tmp_path / "s.parquet")
    for name in ("s.csv", "s.parquet"):
        with pytest.raises(HandrailError, match="column 'p', row 150001: the score is inf"):
            read_table(Columns(tmp_path / name, ("p",), "right"))


def test_the_other_columns_do_not_matter(tmp_path) -> None:
    (tmp_path / "s.csv").write_bytes(csv(header="p,right,note,note").replace("s3", "\xe9").encode("latin-1"))
    table = read_table(Columns(tmp_path / "s.csv", ("p",), "right"))
    assert table.scores[0].tolist() == [0.9, 0.2, 0.7, 0.4] * 2
    assert table.correct.tolist() == [True, False] * 4


def test_quoted_cells_may_hold_commas_and_line_ends(tmp_path) -> None:
    (tmp_path / "s.csv").write_text(csv((3, 2, '"a, or\nb"')))
    table = read_table(Columns(tmp_path / "s.csv", ("p",), "right", group="kind"))
    assert table.group_names == ["a", "a, or\nb", "b"]
    assert table.counts["rows"] == 8


@pytest.mark.parametrize("words", [("true", "false"), ("True", "False"), ("1.0", "0.0"), ("yes", "no"), (" 1", "0 ")])
def test_words_for_right_and_wrong(tmp_path, words) -> None:
    rows = "".join(f"0.{i % 10},{words[i % 2]}\n" for i in range(40))
    (tmp_path / "s.csv").write_text("p,right\n" + rows)
    table = read_table(Columns(tmp_path / "s.csv", ("p",), "right"))
    assert table.correct.tolist() == [i % 2 == 0 for i in range(40)]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.float32(), pa.float64(), pa.bool_()])
def test_any_type_of_outcome(tmp_path, kind: pa.DataType) -> None:
    outcomes = pa.array([1, 0, 1, 0] * 5).cast(kind)
    pq.write_table(pa.table({"p": np.arange(20) / 20, "right": outcomes}), tmp_path / "s.parquet")
    assert read_table(Columns(tmp_path / "s.parquet", ("p",), "right")).correct.sum() == 10


def test_steps_without_a_score_are_deferred_only_when_told(tmp_path) -> None:
    (tmp_path / "s.csv").write_text(csv((3, 0, ""), (4, 0, "NaN")))
    table = read_table(Columns(tmp_path / "s.csv", ("p",), "right", missing="defer"))
    assert table.scores[0].tolist() == [0.9, 0.2, -np.inf, -np.inf, 0.9, 0.2, 0.7, 0.4]
    assert table.counts["rows_without_score"] == 2
    (tmp_path / "s.csv").write_text(csv((3, 0, "inf")))
    with pytest.raises(HandrailError, match="row 3: the score is inf"):
        read_table(Columns(tmp_path / "s.csv", ("p",), "right", missing="defer"))


def test_a_part_with_one_score_is_refused(tmp_path) -> None:
    rows = "".join(f"{0.5 if part == 'test' else i / 9},{i % 2},{part}\n" for i, part in enumerate(["cal", "test"] * 4))
    (tmp_path / "s.csv").write_text("p,right,part\n" + rows)
    with pytest.raises(HandrailError, match=r"'p', from row 2 on: the score is 0\.5 in all 4 test rows"):
        read_table(Columns(tmp_path / "s.csv", ("p",), "right", split="part"))


def test_a_split_without_a_part_is_refused(tmp_path) -> None:
    (tmp_path / "s.csv").write_text(csv())
    with pytest.raises(
        HandrailError, match=r"0 calibration and 0 test rows, where column 'kind' says 'a', 'b'; .*split="
    ):
        read_table(Columns(tmp_path / "s.csv", ("p",), "right", split="kind"))


def test_rows_of_other_splits_are_left_out_and_counted(tmp_path) -> None:
    parts = ["train", "test", "Validation", "test", "cal"] * 4
    frame = pd.DataFrame({"p": np.arange(20) / 20, "right": np.arange(20) % 2, "part": parts})
    frame.to_csv(tmp_path / "s.csv", index=False)
    table = read_table(Columns(tmp_path / "s.csv", ("p",), "right", split="part"))
    assert table.counts["rows_left_out"] == 4
    assert table.calibration.tolist() == [part in ("Validation", "cal") for part in parts]
    assert table.test.tolist() == [part == "test" for part in parts]


def sessions(n: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    names = [f"s{i:03d}" for i in rng.integers(n // 10, size=n)]
    return pd.DataFrame({"p": rng.random(n), "right": rng.integers(2, size=n), "session": names})


def test_without_split_sessions_stay_whole(tmp_path) -> None:
    sessions().to_csv(tmp_path / "s.csv", index=False)
    columns = Columns(tmp_path / "s.csv", ("p",), "right", cluster="session")
    table = read_table(columns)
    assert table.clusters is not None
    assert not set(table.clusters[table.calibration]) & set(table.clusters[table.test])
    assert 0.4 < table.calibration.mean() < 0.6
    assert (read_table(columns, seed=1).calibration != table.calibration).any()
    order = np.random.default_rng(0).permutation(3000)
    sessions().iloc[order].to_csv(tmp_path / "s.csv", index=False)
    assert (read_table(columns).calibration == table.calibration[order]).all()


def test_row_split_has_nothing_to_do_with_rows_drawn_from_the_same_seed(tmp_path) -> None:
    right = np.random.default_rng(0).random(4000) < 0.5
    pd.DataFrame({"right": right, "p": np.arange(4000)}).to_csv(tmp_path / "s.csv")
    table = read_table(Columns(tmp_path / "s.csv", ("p",), "right"))
    # The standard error is 0.011: over five of them.
    assert table.correct[table.calibration].mean() == pytest.approx(0.5, abs=0.06)
