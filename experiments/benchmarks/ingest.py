"""`handrail ingest source=star`, against plain `json.load` of the same files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.experiments.benchmarks import Measurement, Options, Skipped, seconds

KEYS = ("ingest.star.sessions_per_s", "ingest.star.ratio_json_load")


def measure(options: Options) -> Iterator[Measurement | Skipped]:
    """Yield the rate of the whole command, from raw files to the finished store, and its ratio to `json.load`."""
    folder = options.data_path or os.environ.get("HANDRAIL_DATA")
    if not folder:
        yield from _skip("no data: set HANDRAIL_DATA or data.path=DIR to a folder that holds star/")
        return
    try:
        reader = registry.load("handrail.envs.logs.readers", "star", "source").Reader(Path(folder))
    except HandrailError as error:
        yield from _skip(str(error))
        return
    files: list[Path] = reader.units()
    rates, ratios = [], []
    # The first reading of cold files times the disk; everything after finds them in memory.
    _load(files)
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            store = Path(scratch) / "star.parquet"
            plain = seconds(_load, files)
            ingesting = seconds(_ingest, Path(folder), store)
            rates.append(_count(store) / ingesting)
            ratios.append(plain / ingesting)
    yield Measurement(KEYS[0], tuple(rates), "sessions/s")
    yield Measurement(KEYS[1], tuple(ratios), "x the speed of json.load")


def _skip(reason: str) -> Iterator[Skipped]:
    for key in KEYS:
        yield Skipped(key, reason)


def _load(files: Sequence[Path]) -> None:
    for file in files:
        with open(file, encoding="utf-8") as stream:
            json.load(stream)


def _ingest(folder: Path, store: Path) -> None:
    from handrail.experiments.ingest import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["source=star", f"path={folder}", f"out={store}"])


def _count(store: Path) -> int:
    import pyarrow.parquet as pq

    heads = pq.read_table(store, columns=["session"]).column("session")
    return int(len(heads) - heads.null_count)
