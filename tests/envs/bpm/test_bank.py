"""What the bank promises: depth, and that its cases can be worked."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from handrail.envs.bpm import flow
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.load import load_domain
from handrail.envs.bpm.world import World


@pytest.fixture(scope="module")
def bank() -> Domain:
    return load_domain("bank")


def work(world: World) -> tuple[int, set[str]]:
    """Work a case by its procedure; return the number of steps and the nodes of its course."""
    steps, course = 0, set()
    while world.outcome is None:
        todo = flow.pending(world)[0]
        if todo.kind == "close" or todo.kind == "tell":
            course.update(flow.expected(world).course)
        world.do(flow.actions(world, todo)[0])
        steps += 1
    return steps, course


def test_screens_hold_20_to_60_controls(bank: Domain) -> None:
    world = World(bank, draw_case(bank, np.random.default_rng(0)))
    sizes = []
    for procedure in [None, *(name for name, given in bank.procedures.items() if not given.shared)]:
        for screen in bank.screens:
            world.screen, world.procedure = screen, procedure
            world._changed()
            sizes.append(len(world.state().controls))
    assert min(sizes) >= 20
    assert max(sizes) <= 60


@pytest.mark.slow
def test_cases_are_deep_and_every_way_is_taken(bank: Domain) -> None:
    rng = np.random.default_rng(3)
    single: list[int] = []
    outcomes: Counter[str | None] = Counter()
    passed: set[str] = set()
    pairs = 0
    count = 2000
    for _ in range(count):
        world = World(bank, draw_case(bank, rng))
        steps, course = work(world)
        assert world.success, (world.case.id, world.violations)
        passed |= course
        outcomes[world.outcome] += 1
        if len(world.case.matters) == 2:
            pairs += 1
        else:
            single.append(steps)
    assert np.mean([8 <= steps <= 25 for steps in single]) > 0.9
    assert min(single) >= 8
    assert min(outcomes.values()) > 0.1 * count
    # 10 % of 2,000 with a standard deviation of 13: four of them are a false alarm in 16,000.
    assert abs(pairs - 0.1 * count) < 54
    nodes = {f"{name}.{node}" for name, procedure in bank.procedures.items() for node in procedure.nodes}
    assert len(nodes - passed) <= 0.01 * len(nodes)
