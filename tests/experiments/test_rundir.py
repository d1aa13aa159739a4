from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

import handrail
from handrail.envs.errors import HandrailError
from handrail.experiments.rundir import DECISION_COLUMNS, RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"seed": 7, "a": {"b": "${seed}"}}, ["experiment=x"])


def test_a_new_run_has_its_resolved_config_and_provenance(run: RunDirectory) -> None:
    assert OmegaConf.to_container(run.config) == {"seed": 7, "a": {"b": 7}}
    assert "${" not in run.file("config.yaml").read_text()
    provenance = run.provenance
    assert provenance["seed"] == 7
    assert provenance["argv"] == ["experiment=x"]
    assert provenance["python"] == ".".join(map(str, sys.version_info[:3]))
    assert provenance["versions"]["handrail"] == handrail.__version__
    assert {"commit", "dirty", "platform", "cpu_count", "started"} <= set(provenance)


def test_provenance_entries_are_added(run: RunDirectory) -> None:
    run.add_provenance(data_fingerprint="abc")
    assert run.provenance["data_fingerprint"] == "abc"
    assert run.provenance["seed"] == 7


def test_a_directory_holds_one_run(run: RunDirectory) -> None:
    with pytest.raises(HandrailError, match="already holds a run"):
        RunDirectory.create(run.path, {}, [])
    assert run.config.seed == 7


def test_unique_runs_started_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    paths = [RunDirectory.create(tmp_path / "run", {"n": n}, [], unique=True).path for n in range(3)]
    assert [path.name for path in paths] == ["run", "run-2", "run-3"]
    assert [RunDirectory.open(path).config.n for path in paths] == [0, 1, 2]


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match=r"is not a run directory.*config\.yaml"):
        RunDirectory.open(tmp_path)


def test_metrics_merge_and_are_plain_sorted_json(run: RunDirectory) -> None:
    run.write_metrics({"policy.steps": np.int64(3), "policy.tool_accuracy": np.float32(0.5)})
    run.write_metrics({"critic.full.auroc": 0.25, "policy.steps": 4})
    text = run.file("metrics.json").read_text()
    assert json.loads(text) == {"critic.full.auroc": 0.25, "policy.steps": 4, "policy.tool_accuracy": 0.5}
    assert text.index("critic") < text.index("policy")
    assert run.metrics == json.loads(text)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"a.b": math.nan}, r"a\.b is nan"),
        ({"a.b": math.inf}, r"a\.b is inf"),
        ({"a.b": "0.5"}, r"a\.b is '0.5', not a number"),
        ({"a.b": None}, r"a\.b is None, not a number"),
        ({"a.b": True}, r"a\.b is True, not a number"),
        ({"a.b": np.array([1.0])}, r"a\.b is array"),
        ({"a b": 1.0}, "'a b' is not words"),
        ({"a..b": 1.0}, "is not words"),
    ],
)
def test_metrics_that_are_not_finite_numbers_are_refused(run: RunDirectory, metrics: dict, message: str) -> None:
    run.write_metrics({"kept": 1.0})
    with pytest.raises(ValueError, match=message):
        run.write_metrics({"new": 2.0, **metrics})
    assert run.metrics == {"kept": 1.0}


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_decisions_are_written_as_parquet(run: RunDirectory, kind: str) -> None:
    frame = pd.DataFrame({name: ["x"] for name in DECISION_COLUMNS} | {"score_full": [0.5]})
    path = run.write_decisions(frame if kind == "pandas" else pa.Table.from_pandas(frame, preserve_index=False))
    assert path == run.file("decisions.parquet")
    assert pq.read_table(path).column_names == [*DECISION_COLUMNS, "score_full"]


def test_decisions_without_a_contract_column_are_refused(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="verdict"):
        run.write_decisions(pd.DataFrame({name: ["x"] for name in DECISION_COLUMNS[:-1]}))
    assert not run.file("decisions.parquet").exists()


def test_finished_stages_are_known_to_the_next_process(run: RunDirectory) -> None:
    assert not run.done("train")
    run.mark("train", steps=10)
    again = RunDirectory.open(run.path)
    assert again.done("train")
    assert not again.done("report")
    assert again.stage_info("train") == {"steps": 10}
    with pytest.raises(KeyError):
        again.stage_info("report")


def test_a_damaged_file_is_named(run: RunDirectory) -> None:
    run.file("metrics.json").write_text('{"a": ')
    with pytest.raises(HandrailError, match=r"metrics\.json is damaged"):
        run.write_metrics({"b": 1.0})


def test_the_log_goes_to_the_file_and_stderr_until_stopped(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = list(logging.getLogger().handlers)
    run.start_log()
    logging.getLogger("handrail.some.module").info("a message")
    logging.getLogger("somebody.else").info("not ours")
    run.stop_log()
    run.log.info("too late")
    text = run.file("log.txt").read_text()
    assert "INFO handrail.some.module: a message" in text
    assert "not ours" not in text
    assert "too late" not in text
    captured = capsys.readouterr()
    assert "a message" in captured.err
    assert captured.out == ""
    assert logging.getLogger().handlers == handlers
