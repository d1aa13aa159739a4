"""`handrail compare` on run directories made by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from handrail import cli
from handrail.envs.errors import HandrailError
from handrail.experiments.compare import compare, read, t_interval, written
from handrail.experiments.rundir import RunDirectory

AUROC = "critic.probe.auroc"


def make(
    path: Path, seed: int, metrics: dict[str, float], finished: bool = True, started: str | None = None, **config: Any
) -> RunDirectory:
    """A run directory with a configuration and metrics; `a__b` in a key is `a.b`."""
    cfg = OmegaConf.create({"seed": seed, "experiment": {"name": "x"}})
    for key, value in config.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    run = RunDirectory.create(path, cfg, [])
    run.write_metrics(metrics)
    if started is not None:
        run.add_provenance(started=started)
    if finished:
        run.note_finish()
    return run


def test_the_interval_is_students() -> None:
    # 1, 2, 3: mean 2, s = 1, t(2, 0.975) = 4.30265, half width 4.30265 / sqrt(3) = 2.48414.
    cell = t_interval([1.0, 2.0, 3.0])
    assert cell.mean == 2.0
    assert (cell.low, cell.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    # Two values d apart: s / sqrt(2) = d / 2, t(1, 0.975) = tan(0.475 pi) = 12.7062.
    assert t_interval([0.0, 1.0]).high == pytest.approx(0.5 + math.tan(0.475 * math.pi) / 2)
    single = t_interval([0.25])
    assert single.mean == 0.25
    assert math.isnan(single.low)
    assert math.isnan(single.high)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6), st.randoms())
def test_the_interval_holds_the_mean_and_knows_no_order(values: list[float], random: Any) -> None:
    cell = t_interval(values)
    assert cell.low <= cell.mean <= cell.high
    mixed = list(values)
    random.shuffle(mixed)
    assert t_interval(mixed)[:3] == pytest.approx(cell[:3])


@pytest.mark.parametrize(
    ("values", "seeds", "expected"),
    [([0.5], 1, "0.5"), ([0.25], 3, "0.25 (n=1)"), ([0.5, 0.5], 2, "0.5"), ([1.0, 2.0, 3.0], 3, "2.00 [-0.48, 4.48]")],
)
def test_cells_are_written_with_the_digits_their_interval_bears(values: list[float], seeds: int, expected: str) -> None:
    assert written(t_interval(values), seeds) == expected
    assert written(None, seeds) == "–"


def test_runs_are_rows_by_what_differs_but_the_seed(tmp_path: Path) -> None:
    for number, (rate, seed, value) in enumerate([(0.1, 0, 1.0), (0.1, 1, 2.0), (0.1, 2, 3.0), (0.5, 0, 7.0)]):
        make(tmp_path / str(number), seed, {AUROC: value}, sft__rate=rate, threads=number, tracking__mode=str(number))
    found = compare(*read([tmp_path]), [AUROC])
    assert [(dict(row.settings), row.seeds) for row in found.rows] == [
        ({"sft.rate": "0.1"}, (0, 1, 2)),
        ({"sft.rate": "0.5"}, (0,)),
    ]
    assert found.rows[0].cells[AUROC] == t_interval([1.0, 2.0, 3.0])
    assert (found.runs, found.left_out, found.implied) == (4, (), ())


def test_other_critics_are_one_setting_and_what_follows_is_implied(tmp_path: Path) -> None:
    make(tmp_path / "0", 0, {AUROC: 0.5}, critic__probe={"folds": 3}, certify__method="probe")
    make(tmp_path / "1", 0, {"critic.tfidf.auroc": 0.6}, critic__tfidf={"min_df": 3}, certify__method="tfidf")
    found = compare(*read([tmp_path]), [])
    assert [dict(row.settings) for row in found.rows] == [{"critic": "probe"}, {"critic": "tfidf"}]
    assert found.implied == ("certify.method",)
    assert found.metrics == (AUROC, "critic.tfidf.auroc")
    assert [list(row.cells) for row in found.rows] == [[AUROC], ["critic.tfidf.auroc"]]


def test_a_repeated_seed_counts_once_and_is_named(tmp_path: Path) -> None:
    make(tmp_path / "0", 0, {AUROC: 0.5}, started="2026-01-02T00:00:00+00:00")
    make(tmp_path / "1", 0, {AUROC: 0.4}, started="2026-01-01T00:00:00+00:00")
    found = compare(*read([tmp_path]), [])
    assert found.rows[0].cells[AUROC].values == (0.5,)
    ((path, reason),) = found.left_out
    assert path == tmp_path / "1"
    assert "the same with the same seed" in reason


def test_what_is_unfinished_or_damaged_is_named(tmp_path: Path) -> None:
    make(tmp_path / "good", 0, {AUROC: 0.5})
    make(tmp_path / "open", 0, {AUROC: 0.5}, finished=False)
    for name, file, content in [
        ("half", "metrics.json", '{"a": '),
        ("words", "metrics.json", '{"a": "b"}'),
        ("yaml", "config.yaml", "a: [1"),
        ("list", "provenance.json", "[]"),
        ("lost", "metrics.json", None),
    ]:
        run = make(tmp_path / name, 0, {AUROC: 0.5})
        run.file(file).unlink()
        if content is not None:
            run.file(file).write_text(content)
    (tmp_path / "stillborn").mkdir()
    (tmp_path / "stillborn" / "log.txt").touch()
    runs, left_out = read([tmp_path])
    assert [run.path.name for run in runs] == ["good"]
    reasons = {one.path.name: one.reason for one in left_out}
    assert reasons.pop("open") == "it is not finished"
    assert reasons.pop("stillborn") == "it stopped before it had a configuration"
    assert {name: reason.split()[0] for name, reason in reasons.items()} == {
        "half": "metrics.json", "words": "metrics.json", "yaml": "config.yaml", "list": "it", "lost": "metrics.json",
    }  # fmt: skip


def test_the_command_writes_a_table_a_page_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (rate, seed) in enumerate([(0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1)]):
        metrics = {"policy.action_accuracy": rate + seed, "policy.action_accuracy.ci_low": 0.0, "other": 1.0}
        make(tmp_path / "sweep" / str(number), seed, metrics, sft__rate=rate)
    make(tmp_path / "alone", 0, {"other": 1.0}, finished=False)
    out = tmp_path / "out"
    assert cli.main(["compare", str(tmp_path / "sweep"), str(tmp_path / "alone"), f"out={out}"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["sft.rate", "runs", "policy.action_accuracy"]
    assert captured.out.splitlines()[1].startswith("0.1       2     0.6 [-5.8, 7.0]")  # 12.7062 * 0.5
    assert "4 runs in 2 configurations, 1 left out" in captured.out
    assert captured.out.splitlines()[-1] == f"comparison: {out / 'compare.html'}"
    assert f"left out: {tmp_path / 'alone'}: it is not finished" in captured.err
    with (out / "compare.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["sft.rate"], row["metric"], row["n"], float(row["mean"])) for row in rows] == [
        ("0.1", "policy.action_accuracy", "2", pytest.approx(0.6)),
        ("0.5", "policy.action_accuracy", "2", pytest.approx(1.0)),
    ]
    page = (out / "compare.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert str(tmp_path / "alone") in page
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no folder is named"),
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no run"),
        (["run", "metrics=critic.prob.auroc"], "no run has the metric 'critic.prob.auroc'; did you mean critic.probe"),
        (["run", "metric=x"], "unknown option 'metric'; did you mean metrics"),
        (["open"], "none of the 1 runs is finished"),
        (["few"], "none of the usual metrics"),
    ],
)
def test_mistakes_are_told(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if argv and argv[0] != ".":
        make(tmp_path / "run", 0, {AUROC: 0.5})
        make(tmp_path / "open", 0, {AUROC: 0.5}, finished=False)
        make(tmp_path / "few", 0, {"other": 1.0})
    assert cli.main(["compare", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_pattern_names_metrics_of_its_length(tmp_path: Path) -> None:
    make(tmp_path / "0", 0, {AUROC: 0.5, f"{AUROC}.ci_low": 0.4, "critic.full.auroc": 0.6})
    runs, left_out = read([tmp_path])
    assert compare(runs, left_out, ["critic.*.auroc"]).metrics == ("critic.full.auroc", AUROC)
    with pytest.raises(HandrailError, match=r"critic\.\*"):
        compare(runs, left_out, ["critic.*"])


def test_metrics_stay_as_the_runs_wrote_them(tmp_path: Path) -> None:
    run = make(tmp_path / "0", 0, {AUROC: 0.1 + 0.2})
    (found,), _ = read([tmp_path])
    assert found.metrics == json.loads(run.file("metrics.json").read_text())
