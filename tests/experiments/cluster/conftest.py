"""A Ray of two CPUs for the tests that need one, ended with the module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.connection import connected

LOCAL = RayConfig(address="local", num_cpus=2)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[RayConfig]:
    import ray

    assert not ray.is_initialized(), "a test has left its Ray running"
    with connected(LOCAL):
        yield LOCAL
    assert not ray.is_initialized()
