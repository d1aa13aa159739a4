from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from handrail.cli import main as command
from handrail.envs.errors import HandrailError
from handrail.experiments.curves import main


def table(n: int = 3000, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.85
    noise = rng.normal(size=(2, n))
    p, q = 1 / (1 + np.exp(-(noise + np.array([[2.5], [1.0]]) * correct)))
    sessions = [f"s{i:03d}" for i in rng.integers(n // 10, size=n)]
    issue = rng.choice(["bank", "hotel", "rare"], n, p=[0.6, 0.385, 0.015])
    return pd.DataFrame(
        {"session": sessions, "issue": issue, "p": p, "q": q, "right": correct.astype(int), "note": "x,y"}
    )


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
    assert metrics["resamples"] == 1000
    for key in ("auroc", "auprc", "aurc", "eaurc", "augrc", "brier", "ece", "risk_at_coverage_80"):
        assert metrics[f"{key}.ci_low"] <= metrics[key] <= metrics[f"{key}.ci_high"]
    curves = json.loads((out / "curves.json").read_text())
    (found,) = curves["scores"].values()
    assert found["certificates"]["0.95"]["threshold"] == threshold
    assert found["groups"]["bank"]["certificate"]["scope"] == "bank"
    assert found["groups"]["rare"]["certificate"]["scope"].startswith("pool")
    assert found["groups"]["rare"]["coverage"]["estimate"] == 0.0
    bank = test[test.issue == "bank"]
    certified = bank.p >= found["groups"]["bank"]["certificate"]["threshold"]
    assert found["groups"]["bank"]["rows_test"] == len(bank)
    assert found["groups"]["bank"]["coverage"]["estimate"] == pytest.approx(certified.mean())
    assert found["groups"]["bank"]["precision"]["estimate"] == pytest.approx(bank.right[certified].mean())
    assert found["groups"]["bank"]["correct"]["estimate"] == pytest.approx(bank.right.mean())
    assert found["curve"]["coverage"][-1] == 1.0
    assert found["curve"]["precision"][-1] == pytest.approx(test.right.mean())
    assert curves["differences"] == {}


def test_csv_and_parquet_say_the_same_and_so_does_a_second_run(files, tmp_path) -> None:
    arguments = ("score=p", "correct=right", "cluster=session", "group=issue", "resamples=50")
    found = [
        run(f"scores={path}", *arguments, out=tmp_path / str(number))
        for number, path in enumerate((files["csv"], files["parquet"], files["csv"]))
    ]
    assert found[0] == found[2]
    assert found[0] == pytest.approx(found[1])
    assert (tmp_path / "0" / "report.html").read_text() == (tmp_path / "2" / "report.html").read_text()


def test_two_scores_are_compared_in_pairs(files, tmp_path) -> None:
    arguments = (f"scores={files['parquet']}", "correct=right", "cluster=session", "group=issue", "resamples=300")
    both = run(*arguments, "score=p,q", out=tmp_path / "both")
    for name in ("p", "q"):
        alone = run(*arguments, f"score={name}", out=tmp_path / name)
        assert {key: both[f"{name}.{key}"] for key in ("auroc", "augrc", "certified.90.coverage")} == {
            key: pytest.approx(alone[key]) for key in ("auroc", "augrc", "certified.90.coverage")
        }
    for key in ("auroc", "augrc", "coverage_at_precision_95", "certified.90.coverage"):
        difference = both[f"difference.q.{key}"]
        assert difference == pytest.approx(both[f"q.{key}"] - both[f"p.{key}"])
        assert both[f"difference.q.{key}.ci_low"] <= difference <= both[f"difference.q.{key}.ci_high"]
    # The second score is made far worse: all 300 resamples agree.
    assert both["difference.q.auroc.p_value"] == pytest.approx(2 / 301)
    assert both["difference.q.auroc.ci_high"] < 0
    page = (tmp_path / "both" / "report.html").read_text()
    assert "less p" in page
    assert "p&nbsp;=&nbsp;0.0066" in page


def test_missing_scores_count_as_deferred_when_told(tmp_path, capsys) -> None:
    frame = split_by_row(table())
    frame.loc[frame.part == "test", "p"] = frame.p.where(np.arange(3000) % 4 == 1, np.nan)
    frame.to_csv(tmp_path / "s.csv", index=False)
    arguments = (f"scores={tmp_path / 's.csv'}", "score=p", "correct=right", "split=part")
    with pytest.raises(HandrailError, match=r"row 4: the score is empty or NaN.*missing=defer"):
        run(*arguments, out=tmp_path / "out")
    metrics = run(*arguments, "missing=defer", out=tmp_path / "out")
    assert metrics["rows_without_score"] == 750
    assert "750 rows have no score" in capsys.readouterr().err
    assert metrics["certified.90.coverage"] < 0.5


def test_groups_without_rows_in_a_part_are_told(tmp_path, capsys) -> None:
    frame = split_by_row(table(600))
    frame.loc[frame.part == "test", "issue"] = "only_test"
    frame.loc[0, "issue"] = "only_calibration"
    frame.to_csv(tmp_path / "s.csv", index=False)
    arguments = (f"scores={tmp_path / 's.csv'}", "score=p", "correct=right", "split=part", "group=issue")
    run(*arguments, "resamples=20", out=tmp_path / "out")
    said = capsys.readouterr().err
    assert "without calibration rows: issue only_test" in said
    assert "without test rows: issue bank, hotel, only_calibration, rare" in said
    (found,) = json.loads((tmp_path / "out" / "curves.json").read_text())["scores"].values()
    assert found["groups"]["only_test"]["certificate"] is None
    assert found["groups"]["only_test"]["coverage"]["estimate"] == 0.0
    assert found["groups"]["bank"]["rows_test"] == 0
    assert found["groups"]["bank"]["coverage"]["estimate"] is None
    assert "No calibration rows." in (tmp_path / "out" / "report.html").read_text()


def test_names_from_the_table_do_no_harm_in_the_page(tmp_path) -> None:
    frame = table(400).rename(columns={"p": "<b>p & q</b>"}).assign(issue="<script>alert(1)</script>")
    frame.to_csv(tmp_path / "s.csv", index=False)
    run(f"scores={tmp_path / 's.csv'}", "score=<b>p & q</b>", "correct=right", "group=issue", out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;b&gt;p &amp; q&lt;/b&gt;" in page


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("delta=2", "delta=2"),
        ("target=0.9,95", "target=95"),
        ("target=", "target= is empty"),
        ("resamples=0", "resamples=0"),
        ("scores=no.csv", "no.csv"),
        ("score=p,p", "score=p,p; expected one to 8 different columns"),
        ("score=p q,p_q", "names that differ in letters"),
        ("missing=drop", "missing='drop' is not one of error, defer"),
        ("group=session", "column 'session': 2,000 different values; expected at most 1,000 groups"),
        ("out={csv}", "is a file; expected a folder"),
    ],
)
def test_options_out_of_range(tmp_path, argument, message) -> None:
    path = tmp_path / "scores.csv"
    table(20_000).to_csv(path, index=False)
    arguments = {"scores": str(path), "score": "p", "correct": "right"}
    key, value = argument.format(csv=path).split("=", 1)
    with pytest.raises(HandrailError, match=message):
        main([f"{name}={text}" for name, text in {**arguments, key: value}.items()])
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_a_run_is_refused_before_any_work(files, tmp_path) -> None:
    arguments = ("score=p", "correct=right", "resamples=10")
    run(f"scores={files['csv']}", *arguments, out=tmp_path / "out")
    with pytest.raises(HandrailError, match="already holds a run"):
        main([f"scores={tmp_path / 'absent.csv'}", *arguments, f"out={tmp_path / 'out'}"])


def test_nothing_certified_is_an_answer(tmp_path, capsys) -> None:
    table(200).to_csv(tmp_path / "s.csv", index=False)
    arguments = ["curves", f"scores={tmp_path / 's.csv'}", "score=p", "correct=right", "target=0.99"]
    assert command([*arguments, f"out={tmp_path / 'out'}"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["certified.99.coverage"] == 0.0
    assert "certified.99.threshold" not in metrics
    assert "cannot be certified" in capsys.readouterr().err
    assert "not certified" in (tmp_path / "out" / "report.html").read_text()


def test_one_session_gives_a_curve_without_intervals(tmp_path) -> None:
    split_by_row(table(400)).assign(session="only").to_csv(tmp_path / "s.csv", index=False)
    metrics = run(
        f"scores={tmp_path / 's.csv'}",
        "score=p",
        "correct=right",
        "cluster=session",
        "split=part",
        out=tmp_path / "out",
    )
    assert 0.5 < metrics["auroc"] <= 1
    assert not [key for key in metrics if key.endswith("ci_low")]


def test_all_right_is_an_answer(tmp_path) -> None:
    table(400).assign(right=1).to_csv(tmp_path / "s.csv", index=False)
    metrics = run(f"scores={tmp_path / 's.csv'}", "score=p", "correct=right", out=tmp_path / "out")
    assert metrics["aurc"] == metrics["augrc"] == 0
    assert "auroc" not in metrics


@pytest.mark.slow
def test_a_million_rows(tmp_path) -> None:
    table(1_000_000).to_parquet(tmp_path / "s.parquet")
    metrics = run(
        f"scores={tmp_path / 's.parquet'}", "score=p,q", "correct=right", "cluster=session", out=tmp_path / "out"
    )
    assert metrics["resamples"] == 1000
    # Intervals of the AUROC over half a million rows are narrow: the resampling saw them all.
    assert metrics["p.auroc.ci_high"] - metrics["p.auroc.ci_low"] < 0.01
    assert metrics["p.certified.95.precision"] > 0.945
