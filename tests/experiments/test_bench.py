from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.experiments import bench
from handrail.experiments.benchmarks import Measurement, Options, Skipped, curves, decide, ingest, replay


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, float], list[str], str]:
    bench.main(list(argv))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[-1].startswith("run directory: ")
    directory = Path(lines[-1].removeprefix("run directory: "))
    assert json.loads((directory / "provenance.json").read_text())["argv"] == list(argv)
    return json.loads((directory / "bench.json").read_text()), lines, err


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """One family `made` with three keys, in place of the real ones."""
    module = types.ModuleType("made")

    def measure(options: Options) -> Iterator[Measurement | Skipped]:
        yield Measurement("made.rate", tuple(float(i * i) for i in range(options.repeats)), "things/s")
        yield Measurement("other", (1.0,), "things/s", written=False)
        yield Skipped("made.absent", "no data")
        yield Measurement("made.ratio", (0.5,), "x")

    module.KEYS = ("made.rate", "made.absent", "made.ratio")  # type: ignore[attr-defined]
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "names", lambda package: ["made"])
    monkeypatch.setattr(registry, "load", lambda package, name, kind: module)
    return module


def test_medians_are_written_and_all_is_printed(
    family: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, lines, err = run(capsys, "repeats=4", f"out={tmp_path}")
    # 0, 1, 4, 9 have the median 2.5; only what was measured and belongs to the contract is written.
    assert results == {"made.rate": 2.5, "made.ratio": 0.5}
    assert any(line.split() == ["made.rate", "2.5", "[0,", "9]", "things/s"] for line in lines)
    assert any(line.startswith("other") for line in lines)
    assert any("made.absent" in line and "skipped: no data" in line for line in lines)
    assert "[1/1] made" in err


def test_only_chooses_by_prefix(family: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, _, _ = run(capsys, "only=made.rat", "repeats=1", f"out={tmp_path}")
    assert set(results) == {"made.rate", "made.ratio"}
    results, _, _ = run(capsys, "only=made.rati", "repeats=1", f"out={tmp_path}")
    assert set(results) == {"made.ratio"}
    assert len(list((tmp_path / "bench").iterdir())) == 2, "two runs in one second must not share a directory"


def test_a_crash_keeps_the_families_before_it(
    family: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(options: Options) -> Iterator[Measurement]:
        raise ZeroDivisionError
        yield

    bad = types.SimpleNamespace(KEYS=("z.key",), measure=crash)
    monkeypatch.setattr(registry, "names", lambda package: ["made", "z"])
    monkeypatch.setattr(registry, "load", lambda package, name, kind: bad if name == "z" else family)
    with pytest.raises(ZeroDivisionError):
        bench.main(["repeats=1", f"out={tmp_path}"])
    (written,) = tmp_path.glob("bench/*/bench.json")
    assert json.loads(written.read_text()) == {"made.rate": 0.0, "made.ratio": 0.5}


def test_a_key_that_was_not_declared_is_a_fault(family: Any, tmp_path: Path) -> None:
    family.KEYS = ("made.rate", "made.absent")
    with pytest.raises(RuntimeError, match=r"'made\.ratio', which is not in its KEYS"):
        bench.main(["repeats=1", f"out={tmp_path}"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["only=repaly"], "no key begins with only='repaly'; did you mean replay"),
        (["repeats=0"], "repeats=0, expected at least 1"),
        (["onyl=replay"], "did you mean only"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(HandrailError) as caught:
        bench.main([*argv, f"out={tmp_path}"])
    assert message in str(caught.value)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HandrailError, match="cannot write to out="):
        bench.main(["only=replay", f"out={tmp_path / 'file'}"])


def test_every_family_says_what_it_measures() -> None:
    keys: list[str] = []
    for name in registry.names(bench.PACKAGE):
        family = registry.load(bench.PACKAGE, name, "benchmark")
        assert family.__doc__
        assert callable(family.measure)
        assert all(key == key.lower() and "." in key for key in family.KEYS)
        keys += family.KEYS
    assert len(keys) == len(set(keys)), "two families claim one key"
    assert set(replay.KEYS) | set(ingest.KEYS) | set(curves.KEYS) <= set(keys)


def test_replay_family() -> None:
    results = {m.key: m for m in replay.measure(Options(repeats=2), steps=3000)}
    assert set(replay.KEYS) < set(results)
    assert all(len(m.values) == 2 and min(m.values) > 0 for m in results.values())
    # Replay does more than nothing; 1.5 leaves room for noise on 3,000 steps.
    assert results["replay.ratio_null_env"].median < 1.5
    # The contract is 100,000; a quarter of it here, so that a busy machine does not fail the suite.
    assert results["replay.steps_per_s"].median > 25_000


def test_null_env_passes_the_checker() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(EnvSpec("handrail/Null-v0", entry_point=replay.NullEnv)).unwrapped)


def test_ingest_without_data_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HANDRAIL_DATA", raising=False)
    results = list(ingest.measure(Options()))
    assert [r.key for r in results] == list(ingest.KEYS)
    assert all(isinstance(r, Skipped) and "HANDRAIL_DATA" in r.reason for r in results)
    results = list(ingest.measure(Options(data_path=tmp_path)))
    assert all(isinstance(r, Skipped) and str(tmp_path) in r.reason for r in results)


def test_curves_family_measures_the_command_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("handrail.experiments.curves")
    if sys.platform != "linux":
        pytest.skip("peak memory is read from /proc")
    ballast = bytearray(400 << 20)
    results = {m.key: m for m in curves.measure(Options(repeats=1), rows=2000)}
    assert set(results) == set(curves.KEYS)
    assert results["curves.million_rows_s"].median > 0
    # A hundred times 2,000 rows would not take 400 MB: the peak must not be this process's.
    assert 20 < results["curves.million_rows_mb"].median < len(ballast) / 2**20


def test_decide_family() -> None:
    results = {m.key: m for m in decide.measure(Options(repeats=1), domain="mock", sessions=4, training=4)}
    assert set(decide.KEYS) < set(results)
    assert all(len(m.values) == 1 and m.median > 0 for m in results.values())
    assert results["rollout.non_model_share"].median < 1
