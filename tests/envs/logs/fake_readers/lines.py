"""Folders of JSON files, each one Session as msgspec writes it; `kill` ends the process when it meets that file."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import msgspec

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Problem, Session


class Reader:
    name = "lines"

    def __init__(self, path, kill=None):
        self.path, self.kill = Path(path), kill
        self.counts = Counter()
        if not self.path.is_dir():
            raise HandrailError(f"{path} is no folder")

    def units(self):
        return sorted(self.path.glob("*.json"))

    def read(self, unit):
        if os.environ.get("KILL_AT") == unit.stem:
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts["files_read"] += 1
        data = unit.read_bytes()
        if data == b"raise":
            raise RuntimeError("the reader has a bug")
        if data == b"surrogate":
            yield msgspec.structs.replace(msgspec.json.decode(_GOOD, type=Session), id="surrogate", brief="\ud83d")
            return
        try:
            yield msgspec.json.decode(data, type=Session)
        except msgspec.ValidationError as error:
            rule = "missing_key" if "missing required" in str(error) else "wrong_type"
            yield Problem(unit.name, "", -1, rule, str(error), True)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield Problem(unit.name, "", -1, "corrupt_json", str(error), True)


_GOOD = b"""{"id":"s","source":"lines","issue":"i","operator":"o","steps":[{"index":0,"state":{"screen":"a",
"procedure":null},"events":[],"action":{"tool":"wait"}}]}"""
