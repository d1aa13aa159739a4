from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from handrail.envs.errors import HandrailError
from handrail.experiments.curves import Options, main, read_scores


def table(n: int = 3000, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.85
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + 2.5 * correct)))
    sessions = [f"s{i:03d}" for i in rng.integers(n // 10, size=n)]
    issue = rng.choice(["bank", "hotel", "rare"], n, p=[0.6, 0.385, 0.015])
    return pd.DataFrame({"session": sessions, "issue": issue, "p": score, "right": correct.astype(int), "note": "x,y"})


def split_by_row(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(part=np.where(np.arange(len(frame)) % 2 == 0, "calibration", "test"))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    frame = split_by_row(table())
    paths = {"csv": tmp_path / "scores.csv", "parquet": tmp_path / "scores.parquet"}
    frame.to_csv(paths["csv"], index=False)
    frame.to_parquet(paths["parquet"])
    return paths


def run(*arguments: str, out: Path) -> dict[str, float]:
    assert main([*arguments, f"out={out}"]) == 0
    return json.loads((out / "metrics.json").read_text())


def test_report_metrics_and_last_line(files, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    metrics = run(
        f"scores={files['csv']}", "score=p", "correct=right", "split=part", "cluster=session", "group=issue", out=out
    )
    assert capsys.readouterr().out.splitlines()[-1] == f"run directory: {out}"
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "curves.json", "metrics.json", "config.yaml", "provenance.json"} <= names
    assert {"coverage_precision.png", "scores.png", "reliability.png", "groups.png"} <= names
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4
    # Opens offline: the only addresses are names of XML vocabularies.
    assert "http" not in page.replace("http://www.w3.org/", "")
    frame = split_by_row(table())
    test = frame[frame.part == "test"]
    threshold = metrics["certified.95.threshold"]
    assert metrics["certified.95.coverage"] == pytest.approx((test.p >= threshold).mean())
    assert metrics["certified.95.precision"] == pytest.approx(test.right[test.p >= threshold].mean())
    assert metrics["certified.95.delta"] == 0.05
    assert metrics["rows_calibration"] == metrics["rows_test"] == 1500
    curves = json.loads((out / "curves.json").read_text())
    assert curves["certificates"]["0.95"]["threshold"] == threshold
    assert curves["groups"]["bank"]["certificate"]["scope"] == "bank"
    assert curves["groups"]["rare"]["certificate"]["scope"].startswith("pool")
    assert curves["groups"]["rare"]["coverage"]["estimate"] == 0.0
    assert curves["curve"]["coverage"][-1] == 1.0
    assert curves["curve"]["precision"][-1] == pytest.approx(test.right.mean())


def test_csv_and_parquet_say_the_same_and_so_does_a_second_run(files, tmp_path) -> None:
    arguments = ("score=p", "correct=right", "cluster=session", "resamples=50")
    found = [
        run(f"scores={path}", *arguments, out=tmp_path / str(number))
        for number, path in enumerate((files["csv"], files["parquet"], files["csv"]))
    ]
    assert found[0] == found[2]
    assert found[0] == pytest.approx(found[1])


def test_without_split_sessions_stay_whole(files, tmp_path) -> None:
    options = Options(scores=files["csv"], score="p", correct="right", cluster="session")
    data = read_scores(options)
    assert data.clusters is not None
    assert not set(data.clusters[data.calibration]) & set(data.clusters[data.test])
    assert 0.4 < data.calibration.mean() < 0.6
    shuffled = tmp_path / "shuffled.csv"
    order = np.random.default_rng(0).permutation(3000)
    split_by_row(table()).iloc[order].to_csv(shuffled, index=False)
    again = read_scores(Options(scores=shuffled, score="p", correct="right", cluster="session"))
    assert (again.calibration == data.calibration[order]).all()


def test_row_split_has_nothing_to_do_with_rows_drawn_from_the_same_seed(tmp_path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"right": rng.random(4000) < 0.5, "p": 0.5})
    frame.to_csv(tmp_path / "s.csv")
    data = read_scores(Options(scores=tmp_path / "s.csv", score="p", correct="right", seed=0))
    # The standard error is 0.011.
    assert data.correct[data.calibration].mean() == pytest.approx(0.5, abs=0.06)


def test_missing_scores_count_as_deferred(tmp_path, capsys) -> None:
    frame = split_by_row(table())
    frame.loc[frame.part == "test", "p"] = frame.p.where(np.arange(3000) % 4 == 1, np.nan)
    frame.to_csv(tmp_path / "s.csv", index=False)
    metrics = run(f"scores={tmp_path / 's.csv'}", "score=p", "correct=right", "split=part", out=tmp_path / "out")
    assert metrics["rows_without_score"] == 750
    assert "750 rows have no score" in capsys.readouterr().err
    assert metrics["certified.90.coverage"] < 0.5


def test_rows_of_other_splits_are_left_out_and_counted(tmp_path) -> None:
    frame = split_by_row(table())
    frame.loc[:99, "part"] = "train"
    frame.to_csv(tmp_path / "s.csv", index=False)
    data = read_scores(Options(scores=tmp_path / "s.csv", score="p", correct="right", split="part"))
    assert data.counts["rows_left_out"] == 100
    assert not (data.calibration | data.test)[:100].any()


@pytest.mark.parametrize("words", [("true", "false"), ("True", "False"), ("1.0", "0.0"), ("yes", "no")])
def test_words_for_right_and_wrong(tmp_path, words) -> None:
    rows = "".join(f"0.{i % 10},{words[i % 2]}\n" for i in range(40))
    (tmp_path / "s.csv").write_text("p,right\n" + rows)
    data = read_scores(Options(scores=tmp_path / "s.csv", score="p", correct="right"))
    assert data.correct.tolist() == [i % 2 == 0 for i in range(40)]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("score_a,right\n0.5,1\n", {"score": "scorea"}, "no column 'scorea'; did you mean score_a"),
        ("p,right\n0.5,maybe\n", {}, "'right' holds 'maybe'; expected 0 or 1"),
        ("p,right\n0.5,\n0.5,1\n", {}, "1 rows of column 'right' are empty"),
        ("p,right\nhigh,1\n", {}, "cannot be read.*high"),
        ("p,right\n", {}, "no rows"),
        ("p,right\n0.5,1\n0.6,1\n", {"split": "p"}, "0 calibration and 0 test rows.*'0.5'"),
        ("", {}, "cannot be read"),
    ],
)
def test_mistakes_are_told(tmp_path, text, arguments, message) -> None:
    (tmp_path / "s.csv").write_text(text)
    options = Options(**{"scores": tmp_path / "s.csv", "score": "p", "correct": "right", **arguments})
    with pytest.raises(HandrailError, match=message):
        read_scores(options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("delta=2", "delta=2"),
        ("target=0.9,95", "target=95"),
        ("resamples=0", "resamples=0"),
        ("scores=no.csv", "no.csv"),
    ],
)
def test_options_out_of_range(files, argument, message) -> None:
    arguments = {"scores": str(files["csv"]), "score": "p", "correct": "right"}
    key, value = argument.split("=", 1)
    with pytest.raises(HandrailError, match=message):
        main([f"{name}={text}" for name, text in {**arguments, key: value}.items()])


def test_nothing_certified_is_an_answer(tmp_path, capsys) -> None:
    table(200).to_csv(tmp_path / "s.csv", index=False)
    metrics = run(f"scores={tmp_path / 's.csv'}", "score=p", "correct=right", "target=0.99", out=tmp_path / "out")
    assert metrics["certified.99.coverage"] == 0.0
    assert "certified.99.threshold" not in metrics
    assert "cannot be certified" in capsys.readouterr().err


@pytest.mark.slow
def test_a_million_rows(tmp_path) -> None:
    table(1_000_000).to_parquet(tmp_path / "s.parquet")
    metrics = run(
        f"scores={tmp_path / 's.parquet'}", "score=p", "correct=right", "cluster=session", out=tmp_path / "out"
    )
    # Intervals of the AUROC over half a million rows are narrow: the resampling saw them all.
    assert metrics["auroc.ci_high"] - metrics["auroc.ci_low"] < 0.01
    assert metrics["certified.95.precision"] > 0.945
