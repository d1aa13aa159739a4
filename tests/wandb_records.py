"""What Weights & Biases has written down offline, read without it: a log of protobuf records in LevelDB's format."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32768
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class Recorded:
    """One run there.

    Attributes:
        run: its record: project, group, name, config.
        history: rows of key -> value, in order.
        summary: key -> last value.
        artifacts: records of files.
        exit_code: None if it has not come to its end.
    """

    run: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    def curve(self, key: str, step: str) -> dict[int, float]:
        """Return the points of a curve."""
        return {row[step]: row[key] for row in self.history if key in row}


def recorded(run_directory: Path) -> Recorded:
    """Return what the last session of a run has recorded offline."""
    from wandb.proto import wandb_internal_pb2

    path = max(run_directory.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    found = Recorded()
    for content in _chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
        elif kind == "history":
            found.history.append(_values(record.history.item))
        elif kind == "summary":
            found.summary |= _values(record.summary.update)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found.artifacts.append(record.request.log_artifact.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _chunks(content: bytes) -> Iterator[bytes]:
    """Yield the records; one may be split over blocks."""
    place, whole = _HEADER, b""
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:  # Nothing begins in so small a rest of a block.
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEADER])
        part = content[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        whole = part if kind in (_FULL, _FIRST) else whole + part
        if kind in (_FULL, _LAST):
            yield whole
