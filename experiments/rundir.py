"""A run directory: the files one run leaves, each written whole or not at all.

config.yaml          the configuration, resolved
provenance.json      commit, dirty flag, versions, machine, seed, command line, data fingerprint, times
metrics.json         flat, dotted keys, finite numbers only
decisions.parquet    a row per evaluated step
report.html          written by the study
stages.json          which stages are finished, so that a resumed run skips them
checkpoints/         written by the study
log.txt              what was logged, over all continuations
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import numbers
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import handrail
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json, write_text

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from omegaconf import DictConfig

DECISION_COLUMNS = ("session_id", "step", "issue", "split", "tool", "critical", "correct", "verdict")
"""Columns every decision table has; `score_<method>` and free extra columns follow."""

PLACE = ("threads", "ray", "simulate.workers", "online.workers")
"""Keys of a configuration, with all below them, that say where a run is worked and by how many, not what comes out."""

_METRIC_KEY = re.compile(r"[\w@%+-]+(\.[\w@%+-]+)*")


def is_below(key: str, nodes: Iterable[str]) -> bool:
    """Tell whether a dotted key is one of `nodes` or below one of them."""
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


class RunDirectory:
    """One run's folder. Make it with `create` for a new run and with `open` for one that exists.

    Attributes:
        path: the folder.
        log: logger of the run; `start_log` sends it, and all loggers of `handrail`, to `log.txt` and stderr.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = logging.getLogger("handrail")
        self._handlers: list[logging.Handler] = []

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any] | DictConfig,
        argv: Sequence[str],
        *,
        unique: bool = False,
        stillborn: bool = False,
        **provenance: Any,
    ) -> RunDirectory:
        """Start a run in the folder `path`, which is made if need be.

        Args:
            path: the folder; it may hold other files, but no run.
            config: the configuration; interpolations are resolved before it is written.
            argv: the command line after the program's name, kept as provenance.
            unique: whether to choose `path-2`, `path-3`, … if `path` holds a run, as two runs started within one
                second would.
            stillborn: whether a folder may be taken where a run died before its configuration was written.
            provenance: entries of `provenance.json` beside the usual ones.

        Raises:
            HandrailError: `path` already holds a run, and `unique` is false.
        """
        from omegaconf import OmegaConf

        run = cls(Path(path))
        number = 1
        while not (run._claim() or (stillborn and not run.file("config.yaml").exists())):
            if not unique:
                raise HandrailError(f"{path} already holds a run; go on with it by resume={path}, or choose another")
            number += 1
            run = cls(Path(f"{path}-{number}"))
        cfg = OmegaConf.create(cast("dict[str, Any]", config))
        write_json(
            run.file("provenance.json"),
            {
                "argv": list(argv),
                "seed": OmegaConf.select(cfg, "seed"),
                "started": _now(),
                **environment(),
                **provenance,
            },
        )
        # config.yaml last: a folder that has it has all of what `open` needs.
        write_text(run.file("config.yaml"), OmegaConf.to_yaml(cfg, resolve=True))
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Return the run in the folder `path`.

        Raises:
            HandrailError: there is no run in `path`.
        """
        run = cls(Path(path))
        if not run.file("config.yaml").is_file():
            raise HandrailError(
                f"{run.path} is not a run directory (it has no config.yaml); expected a folder that "
                "`handrail run` printed as `run directory: …`, such as outputs/star/2026-01-31_12-00-00"
            )
        return run

    def file(self, name: str) -> Path:
        """Return the path of the file `name` in this run."""
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints, made on first use."""
        folder = self.path / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def config(self) -> DictConfig:
        """The resolved configuration this run was started with."""
        from omegaconf import OmegaConf

        return cast("DictConfig", OmegaConf.load(self.file("config.yaml")))

    @property
    def provenance(self) -> dict[str, Any]:
        """What `provenance.json` holds."""
        return self._load("provenance.json")

    def add_provenance(self, **entries: Any) -> None:
        """Add entries such as `data_fingerprint`; one that exists is replaced."""
        write_json(self.file("provenance.json"), {**self.provenance, **entries})

    def note_continuation(self, argv: Sequence[str]) -> None:
        """Add to the provenance that the run goes on in this process, and in which environment."""
        earlier = self.provenance.get("continued", [])
        self.add_provenance(continued=[*earlier, {"argv": list(argv), "started": _now(), **environment()}])

    def note_finish(self) -> None:
        """Add to the provenance that the run is finished, and when."""
        self.add_provenance(finished=_now())

    @property
    def finished(self) -> bool:
        """Whether the provenance says that the run came to its end."""
        return "finished" in self.provenance

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics written so far, empty before the first `write_metrics`."""
        return self._load("metrics.json")

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """Merge `metrics` into `metrics.json`.

        Args:
            metrics: dotted key -> finite number, Python's or NumPy's. The caller leaves out what is undefined.

        Raises:
            ValueError: a key is not dotted words, or a value is not a finite number; nothing is written.
        """
        merged = self.metrics
        for key, value in metrics.items():
            if not _METRIC_KEY.fullmatch(key):
                raise ValueError(f"metric key {key!r} is not words joined by dots")
            if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
                raise ValueError(f"metric {key} is {value!r}, not a number")
            if not math.isfinite(value):
                raise ValueError(f"metric {key} is {value!r}; leave undefined metrics out")
            merged[key] = int(value) if isinstance(value, (int, numbers.Integral)) else float(value)
        write_json(self.file("metrics.json"), dict(sorted(merged.items())))

    def write_decisions(self, decisions: pyarrow.Table | pandas.DataFrame) -> Path:
        """Write `decisions.parquet`, a row per evaluated step, and return its path.

        Raises:
            ValueError: one of `DECISION_COLUMNS` is missing.
        """
        import pyarrow
        import pyarrow.parquet

        if not isinstance(decisions, pyarrow.Table):
            decisions = pyarrow.Table.from_pandas(decisions, preserve_index=False)
        missing = [name for name in DECISION_COLUMNS if name not in decisions.column_names]
        if missing:
            raise ValueError(f"decisions lack the columns {missing}; they have {decisions.column_names}")
        path = self.file("decisions.parquet")
        with atomic_path(path) as temporary:
            pyarrow.parquet.write_table(decisions, temporary, compression="zstd")
        return path

    def done(self, stage: str) -> bool:
        """Return whether `stage` was finished, in this process or in one before it."""
        return stage in self._load("stages.json")

    def mark(self, stage: str, **info: Any) -> None:
        """Record that `stage` is finished; call it once everything the stage leaves is on disk.

        Args:
            stage: its name.
            info: what later stages need to know of it, as JSON; `stage_info` returns it.
        """
        stages = self._load("stages.json")
        stages[stage] = {"finished": _now(), "info": info}
        write_json(self.file("stages.json"), stages)

    def stage_info(self, stage: str) -> dict[str, Any]:
        """Return what `mark` recorded for `stage`.

        Raises:
            KeyError: the stage is not finished.
        """
        return dict(self._load("stages.json")[stage]["info"])

    def start_log(self) -> None:
        """Send the loggers of `handrail`, and warnings of all others, to `log.txt` and stderr."""
        if self._handlers:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(self.file("log.txt"), encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        to_stderr = logging.StreamHandler(sys.stderr)
        to_stderr.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self._handlers = [to_file, to_stderr]
        for handler in self._handlers:
            logging.getLogger().addHandler(handler)
        self.log.setLevel(logging.INFO)

    def stop_log(self) -> None:
        """Undo `start_log`."""
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        self._handlers = []

    def _claim(self) -> bool:
        """Return whether this process is the one that starts a run here; exactly one is, whatever runs at once."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.file("log.txt").open("x").close()
        except FileExistsError:
            return False
        return True

    def _load(self, name: str) -> dict[str, Any]:
        path = self.file(name)
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise HandrailError(f"{path} is damaged ({error}); restore it or start a new run") from error


def new_run_path(name: str) -> Path:
    """Return `outputs/<name>/<date>_<time>`, where commands that Hydra does not run put their run directory."""
    return Path("outputs", name, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def environment() -> dict[str, Any]:
    """Return what a result may depend on besides configuration and data.

    Returns:
        `commit` and `dirty` (null outside a git checkout), `python`, `platform`, `cpu_count`, and `versions` of
        Handrail and the installed packages it depends on.
    """
    commit, dirty = _git_state(Path(handrail.__file__).resolve().parent.parent)
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": _versions(),
    }


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit checked out in `root` and whether files differ from it; None for each that is unknown."""
    if not (root / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        dirty = bool(git("status", "--porcelain"))
        return git("rev-parse", "HEAD"), dirty
    except (OSError, subprocess.SubprocessError):
        return None, None


def _versions() -> dict[str, str]:
    versions = {"handrail": handrail.__version__}
    try:
        requirements = importlib.metadata.requires("handrail") or []
    except importlib.metadata.PackageNotFoundError:
        return versions
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        match = re.match(r"[\w.-]+", requirement)
        if match:
            versions[match.group()] = importlib.metadata.version(match.group())
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
