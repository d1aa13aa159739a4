"""A Ray for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from handrail.experiments.cluster.config import RayConfig


@contextmanager
def connected(config: RayConfig) -> Iterator[None]:
    """Start or join the Ray that is configured, and leave it at the end; one that is joined already stays.

    Raises:
        HandrailError: it does not start, or none is there.
    """
    import ray

    from handrail.experiments.launchers import start_ray

    if ray.is_initialized():
        yield
        return
    assert config.address is not None
    start_ray(config.address, config.num_cpus, config.store_mb)
    try:
        yield
    finally:
        ray.shutdown()


def usable(config: RayConfig) -> bool:
    """Tell whether work is to run on Ray: not where it is off, and not inside a task or an actor of Ray.

    A job of a sweep has the CPUs that the sweep gave it. Actors of its own would wait for CPUs that jobs like it hold.
    """
    if not config.on:
        return False
    import ray

    return not ray.is_initialized() or ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE
