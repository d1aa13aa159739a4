"""Configuration of Ray, apart from Ray: it is read before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

from handrail.envs.errors import HandrailError

OFF = (None, "off")
"""Addresses that mean this process alone."""


@dataclass(frozen=True)
class RayConfig:
    """Where work runs that one process could do as well.

    Attributes:
        address: `off` or null for this process alone, `local` for a Ray that is started here and ended with the work,
            or where a cluster is (`HOST:PORT`, `ray://HOST:PORT`, `auto`). Null lets a sweep's launcher start one.
        num_cpus: CPUs that a Ray started here gives out, null for those of the machine.
        store_mb: shared memory of a Ray started here, in MB.
        workers: environment actors of a rollout, processes of an ingest or a scoring.
        worker_cpus: CPUs of an environment actor; a share lets several have one.
        server_cpus: CPUs of a policy server.
        server_gpus: GPUs of a policy server.
        max_batch: sessions that a policy server reads at once, at most.
        max_wait_s: seconds that a request waits for others to join its batch, at most.
        max_waiting: requests that wait at a policy server, at most; who asks for more waits before being let in.
        trainers: processes that train one model together; with 1 the run's own process trains. Several follow the same
            loss curve up to rounding, so later digits of the metrics differ.
        trainer_cpus: CPUs of each of them.
        trainer_gpus: GPUs of each of them, 0 or 1.
        max_restarts: how often a process that died is started again, and its work with it, before the run fails.
    """

    address: str | None = None
    num_cpus: int | None = None
    store_mb: int = 300
    workers: int = 2
    worker_cpus: float = 0.5
    server_cpus: float = 1.0
    server_gpus: float = 0.0
    max_batch: int = 64
    max_wait_s: float = 0.005
    max_waiting: int = 256
    trainers: int = 1
    trainer_cpus: float = 1.0
    trainer_gpus: float = 0.0
    max_restarts: int = 3

    def __post_init__(self) -> None:
        for name in ("store_mb", "workers", "trainers", "max_batch", "max_waiting"):
            if getattr(self, name) < 1:
                raise HandrailError(f"ray.{name}={getattr(self, name)}: expected at least 1")
        shares = ("worker_cpus", "server_cpus", "server_gpus", "trainer_cpus", "trainer_gpus")
        for name in (*shares, "max_wait_s", "max_restarts"):
            if getattr(self, name) < 0:
                raise HandrailError(f"ray.{name}={getattr(self, name)}: expected at least 0")

    @property
    def on(self) -> bool:
        """Whether there is a Ray to use."""
        return self.address not in OFF
