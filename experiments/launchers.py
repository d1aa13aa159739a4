"""Hydra's launchers for sweeps: one job after another in this process (`basic`), or as tasks on Ray (`ray`).

Both compose and check the configurations of all jobs before the first one starts, leave out jobs that are finished if
the sweep is resumed, go on after a job that fails, and tell how far the sweep is.

On Ray every job has a worker process of its own (nothing a job leaves in its process reaches the next one), is never
tried again by Ray (what it did is in its run directory, so `resume=true` knows better what is missing), and runs in the
folder the sweep was started in, which other machines of a cluster have to share.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import time
import types
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from handrail.envs.errors import HandrailError
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.sweep import DIRECTORY, Sweep, is_sweep

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_MODULE = "hydra_plugins.handrail"
"""Hydra takes plugins from the name space `hydra_plugins` only. A package of that name in our wheel would stand beside
`handrail`, so `register` makes this module known under it."""


@dataclass
class InTurnConfig:
    """`hydra/launcher=basic`: one job after another in this process."""

    _target_: str = f"{_MODULE}.InTurn"


@dataclass
class OnRayConfig:
    """`hydra/launcher=ray`: jobs as Ray tasks.

    Attributes:
        address: `local` or null starts a Ray here; the address of a cluster joins it; `off` runs one job after another
            in this process.
        num_cpus: CPUs of a job; a share lets several jobs have one.
        num_gpus: GPUs of a job; a share as well. A job sees only its own.
        total_cpus: CPUs that a Ray started here gives out, null for those of the machine.
        store_mb: shared memory of a Ray started here, in MB. Jobs leave their results in files.
    """

    _target_: str = f"{_MODULE}.OnRay"
    address: str | None = "${ray.address}"
    num_cpus: float = 1
    num_gpus: float = 0
    total_cpus: int | None = None
    store_mb: int = 200


class Task(Protocol):
    """What a launcher needs of the function that runs a job.

    Attributes:
        argv: the arguments that started the sweep.
        resume: whether jobs may find a run of theirs and go on with it.
        statuses: exit statuses of the jobs, to which the launcher adds.
        sweep: folder of the sweep, which the launcher tells.
    """

    argv: Sequence[str]
    resume: bool
    statuses: list[int]
    sweep: Path | None

    def __call__(self, cfg: DictConfig) -> int:
        """Run the job and return its exit status."""

    def check(self, config: DictConfig, folder: Path) -> None:
        """Raise HandrailError if the job cannot run as it is configured, or not in this folder."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        number: from 0.
        overrides: that make it.
        config: composed, Hydra's own part included.
        folder: its run directory.
    """

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    folder: Path


class _Launcher(Launcher):
    """What both launchers do. A subclass says how jobs are run, in `work`."""

    def __init__(self) -> None:
        self.sweep: Sweep | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives before the jobs are known."""
        self.context, self.config = hydra_context, config
        self.task = cast("Task", task_function)
        self.task.sweep = self._directory

    @abstractmethod
    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, int, float]]:
        """Run the jobs and yield each as it ends, with its exit status and its seconds."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs.

        Raises:
            HandrailError: before any job has started: one of them cannot be composed, or is not what the sweep that
                is resumed had under its number.
        """
        setup_globals()
        jobs = [self._compose(number, given) for number, given in enumerate(job_overrides, initial_job_idx)]
        self._check(jobs)
        missing = [job for job in jobs if not RunDirectory(job.folder).finished]
        done, failed = len(jobs) - len(missing), []
        shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
        _say(f"sweep {self._directory}: {len(jobs)} jobs" + (f", {done} finished before" if done else ""))
        for job, status, seconds in self._told(missing):
            self.task.statuses.append(status)
            if status:
                failed.append(job)
            else:
                done += 1
            became = f"failed, see {job.folder / 'log.txt'}" if status else f"done in {seconds:.0f} s"
            some = f", {len(failed)} failed" if failed else ""
            own = " ".join(override for override in job.overrides if override not in shared)
            _say(f"[{done + len(failed)}/{len(jobs)}{some}] job {job.number} ({own}) {became}")
        if failed:
            numbers = ", ".join(str(job.number) for job in failed)
            _say(
                f"sweep {self._directory}: {done} of {len(jobs)} jobs done, {len(failed)} failed ({numbers}); do "
                f"what is missing with: handrail run resume={self._directory}"
            )
        return [JobReturn(overrides=job.overrides, cfg=job.config, status=JobStatus.COMPLETED) for job in jobs]

    def _told(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, int, float]]:
        """Do the work, and say how to go on if it is interrupted."""
        try:
            yield from self.work(jobs)
        except KeyboardInterrupt:
            _say(f"sweep {self._directory}: interrupted; go on with: handrail run resume={self._directory}")
            raise

    @property
    def _directory(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    def _compose(self, number: int, overrides: Sequence[str]) -> Job:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
            # As text: a worker would read the clock again.
            config.hydra.sweep.dir = str(self._directory)
        return Job(number, tuple(overrides), config, self._directory / str(config.hydra.sweep.subdir))

    def _check(self, jobs: Sequence[Job]) -> None:
        """Check every job and record the batch; nothing is written if one is wrong."""
        before = self.sweep
        if before is None and is_sweep(self._directory):
            if not self.task.resume:
                raise HandrailError(
                    f"{self._directory} already holds a sweep; resume=true goes on with it, {DIRECTORY}=DIR names "
                    "another folder"
                )
            before = Sweep.read(self._directory)
        sweep = before or Sweep.start(self._directory, self.task.argv)
        sweep = sweep.with_jobs({job.number: job.overrides for job in jobs})
        for job in jobs:
            self.task.check(job.config, job.folder)
        sweep.write()
        self.sweep = sweep


class InTurn(_Launcher):
    """One job after another in this process."""

    __module__ = _MODULE

    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, int, float]]:
        """Run the jobs and yield each as it ends."""
        for job in jobs:
            yield job, *_run(self.context, self.task, job.config, job.folder)


class OnRay(_Launcher):
    """Jobs as Ray tasks, as many at once as their CPUs and GPUs allow.

    Args:
        address: see `OnRayConfig`, as for the others.
        num_cpus: of a job.
        num_gpus: of a job.
        total_cpus: of a Ray started here.
        store_mb: of a Ray started here.
    """

    __module__ = _MODULE

    def __init__(
        self, address: str | None, num_cpus: float, num_gpus: float, total_cpus: int | None, store_mb: int
    ) -> None:
        super().__init__()
        self.address, self.total_cpus, self.store_mb = address or "local", total_cpus, store_mb
        self.resources = {"CPU": float(num_cpus), "GPU": float(num_gpus)}

    def work(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, int, float]]:
        """Run the jobs and yield each as it ends.

        Raises:
            HandrailError: no Ray can be reached, or a job asks for more than there is.
        """
        if self.address == "off":
            for job in jobs:
                yield job, *_run(self.context, self.task, job.config, job.folder)
            return
        if not jobs:
            return
        import ray

        joined = ray.is_initialized()
        if not joined:
            start_ray(self.address, self.total_cpus, self.store_mb)
        try:
            self._check_resources()
            remote = ray.remote(
                num_cpus=self.resources["CPU"], num_gpus=self.resources["GPU"], max_retries=0, max_calls=1
            )(_work)
            variables = {name: value for name, value in os.environ.items() if name.startswith("HANDRAIL_")}
            running = {
                remote.options(name=f"job {job.number}").remote(
                    self.context, self.task, job.config, job.folder, os.getcwd(), variables
                ): job
                for job in jobs
            }
            while running:
                (ended,), _ = ray.wait(list(running), num_returns=1)
                job = running.pop(ended)
                try:
                    status, seconds = ray.get(ended)
                except ray.exceptions.RayError as error:
                    _note(job.folder, f"the worker process of this job died: {error}")
                    status, seconds = 1, 0.0
                if not status:
                    print(f"run directory: {job.folder}", flush=True)
                yield job, status, seconds
        finally:
            if not joined:
                ray.shutdown()

    def _check_resources(self) -> None:
        """Refuse jobs that no machine could take up: Ray would wait for ever."""
        import ray

        if self.address != "local":
            return  # A cluster may grow when jobs wait.
        there = ray.cluster_resources()
        for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
            if self.resources[name] > there.get(name, 0.0):
                raise HandrailError(
                    f"hydra.launcher.{key}={self.resources[name]:g}: Ray has {there.get(name, 0.0):g} here; ask for no "
                    "more than that, or join a cluster with ray=ADDRESS"
                )


def start_ray(address: str, total_cpus: int | None, store_mb: int) -> None:
    """Start a Ray here, or join one.

    Args:
        address: `local` starts one; else where a cluster is, `HOST:PORT`, `ray://HOST:PORT` or `auto`.
        total_cpus: CPUs that a Ray started here gives out, None for those of the machine.
        store_mb: shared memory of a Ray started here, in MB.

    Raises:
        HandrailError: it does not start, or none is there.
    """
    import ray

    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdigit():  # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=10).close()
        if address == "local":
            ray.init(
                address="local",
                num_cpus=total_cpus,
                object_store_memory=store_mb * 2**20,
                include_dashboard=False,
                # By default workers give way to everything else on the machine; here they are what it works for.
                _system_config={"worker_niceness": 0},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises the bare class where a node does not start in time.
        raise HandrailError(
            f"ray={address}: {str(error).strip()}; expected off, local (on a machine that is not too busy to start "
            "it) or the address of a Ray cluster that runs, e.g. ray=10.0.0.1:6379"
        ) from error


def register() -> None:
    """Make the launchers known to Hydra, `basic` in the place of its own."""
    plugins = Plugins.instance()  # First: it stores Hydra's own and looks for a real `hydra_plugins`.
    parent, _, name = _MODULE.partition(".")
    try:
        namespace = importlib.import_module(parent)
    except ModuleNotFoundError:
        namespace = sys.modules[parent] = types.ModuleType(parent)
        namespace.__path__ = []
    setattr(namespace, name, sys.modules[__name__])
    sys.modules[_MODULE] = sys.modules[__name__]
    for kind in (InTurn, OnRay):
        plugins.register(kind)
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="basic", node=InTurnConfig)
    store.store(group="hydra/launcher", name="ray", node=OnRayConfig)


def _work(
    context: HydraContext, task: Task, config: DictConfig, folder: Path, start: str, variables: dict[str, str]
) -> tuple[int, float]:
    """Run one job in a worker process of Ray; return its exit status and its seconds."""
    os.environ.update(variables)
    try:
        os.chdir(start)
    except OSError as error:
        raise HandrailError(
            f"{start}, where the sweep was started, is not on {os.uname().nodename} ({error}); machines of a sweep "
            "share that folder"
        ) from error
    setup_globals()
    return _run(context, task, config, folder)


def _run(context: HydraContext, task: Task, config: DictConfig, folder: Path) -> tuple[int, float]:
    """Run one job in this process; return its exit status and its seconds."""
    started = time.perf_counter()
    ended = run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    try:
        status = int(ended.return_value)
    except Exception as error:
        _note(folder, f"the job could not be run: {error!r}")
        status = 1
    return status, time.perf_counter() - started


def _note(folder: Path, text: str) -> None:
    """Log something about a job in its run directory and on stderr."""
    run = RunDirectory(folder)
    run.start_log()
    run.log.error("%s", text)
    run.stop_log()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
