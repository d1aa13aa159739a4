"""Runs recorded with Weights & Biases: curves while training goes on, then what the run directory holds.

What is measured stands in the run directory; the tracker gets it from there. Nothing of a run depends on the tracker:
where it cannot start or stops working, one line in the log says so, and the run goes on. A run of a sweep or of a
search is grouped under the name of its folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, cast

from handrail.algorithms.progress import Progress, listening
from handrail.experiments.configs import build
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.settings import LoggerConfig
from handrail.experiments.sweep import is_sweep
from handrail.experiments.tune import is_search

if TYPE_CHECKING:
    from omegaconf import DictConfig

FIGURE = "coverage_precision"
"""Name of the figure there."""

_PATIENCE = 30.0
"""Seconds until the server counts as out of reach."""


@contextmanager
def tracked(cfg: DictConfig, run: RunDirectory) -> Iterator[None]:
    """Record what happens inside the block, if `cfg.logger` says so and `WANDB_MODE` is not `disabled`.

    Args:
        cfg: of the run; one without `logger` is not recorded.
        run: its directory, whose log tells what could not be recorded.
    """
    config = build(LoggerConfig, cfg.get("logger", {"mode": "none"}), "logger")
    if config.mode == "none" or os.environ.get("WANDB_MODE") == "disabled":
        yield
        return
    tracker = _Tracker(cfg, config, run)
    with listening(tracker.hear):
        try:
            yield
        except BaseException:
            tracker.finish(failed=True)
            raise
    tracker.finish(failed=False)


def group_of(config: LoggerConfig, run: RunDirectory, experiment: str) -> str:
    """Return the name under which a run is shown with others."""
    if config.group is not None:
        return config.group
    folder = run.path.absolute().parent
    return folder.name if is_sweep(folder) or is_search(folder) else experiment


class _Tracker:
    """One run on Weights & Biases; after the first failure it does nothing."""

    def __init__(self, cfg: DictConfig, config: LoggerConfig, run: RunDirectory) -> None:
        self.run = run
        self.session: Any = None
        self._stopped = False
        self._charts: set[str] = set()
        self._try(lambda: self._start(cfg, config), "start")

    def hear(self, progress: Progress) -> None:
        """Add a point to the curves of a training."""
        self._try(lambda: self._draw(progress), "draw curves")

    def finish(self, *, failed: bool) -> None:
        """Add what the run directory holds, and end."""
        self._try(self._summarise, "add results")
        if not failed:
            self._try(self._add_figure, "add the figure")
            self._try(self._add_report, "add the report")
        if self.session is not None:
            self._stopped = False
            self._try(lambda: self._end(failed), "end")
            self._stopped = True

    def _start(self, cfg: DictConfig, config: LoggerConfig) -> None:
        import wandb
        from omegaconf import OmegaConf

        def begin(mode: Literal["offline", "online"]) -> Any:
            return wandb.init(
                project=config.project,
                entity=config.entity,
                group=group_of(config, self.run, str(cfg.experiment.name)),
                job_type=str(cfg.experiment.name),
                id=_identity(self.run),
                resume="allow" if mode == "online" else None,
                name=f"{self.run.path.absolute().parent.name}/{self.run.path.name}",
                mode=mode,
                dir=self.run.path,
                config=cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True)),
                settings=wandb.Settings(console="off", silent=True, init_timeout=_PATIENCE),
            )

        if config.mode == "online":
            try:
                if wandb.login(prompt=False):
                    self.session = begin("online")
                    return
                reason = "no account, see `wandb login`"
            except Exception as error:
                reason = _line(error)
            self.run.log.warning("recorded offline, `wandb sync` sends it later: %s", reason)
        self.session = begin("offline")

    def _end(self, failed: bool) -> None:
        import wandb

        self.session.finish(exit_code=int(failed))
        # Waits until all is on disk; a worker process may be gone before its exit handlers have run.
        wandb.teardown()

    def _draw(self, progress: Progress) -> None:
        name = progress.name
        if name not in self._charts:
            self.session.define_metric(f"{name}/*", step_metric=f"{name}/step")
            self._charts.add(name)
        values = {f"{name}/{key}": value for key, value in progress.values.items()}
        self.session.log({f"{name}/step": progress.step, **values})

    def _summarise(self) -> None:
        self.session.summary.update(self.run.metrics)

    def _add_figure(self) -> None:
        if not self.run.file("certificates.json").is_file():
            return
        import wandb
        from PIL import Image

        from handrail.experiments.report.build import coverage_figure

        figure = coverage_figure(self.run.path)
        if figure is not None:
            picture = BytesIO()
            figure.savefig(picture, format="png", dpi=150)
            self.session.log({FIGURE: wandb.Image(Image.open(picture))})

    def _add_report(self) -> None:
        import wandb

        report = self.run.file("report.html")
        if report.is_file():
            artifact = wandb.Artifact(f"report-{self.session.id}", "report")
            # Not copied to the user's home: it stays where it is until it is sent.
            artifact.add_file(str(report), policy="immutable")
            self.session.log_artifact(artifact)

    def _try(self, work: Callable[[], None], what: str) -> None:
        if self._stopped:
            return
        try:
            work()
        except Exception as error:
            self._stopped = True
            self.run.log.warning("Weights & Biases could not %s, the run goes on without it: %s", what, _line(error))


def _identity(run: RunDirectory) -> str:
    """Return the same id for a run however often it goes on."""
    return hashlib.sha256(f"{run.path.absolute()} {run.provenance['started']}".encode()).hexdigest()[:16]


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
