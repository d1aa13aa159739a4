"""Who stands alone, and how delta is passed on, with made-up tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from handrail.algorithms.group_certificates import GroupCertificates, certify_all, share_out, standing


@dataclass(frozen=True)
class Found:
    threshold: float | None
    level: float = 0.0
    scope: str = ""


def passing_at(needed: float, whole: bool):
    """A test that certifies from a level on, all cases of its group or only some."""
    return lambda level: (Found(0.5 if level >= needed else None, level), whole and level >= needed)


def test_a_group_that_is_done_passes_its_level_on() -> None:
    """0.01 each. The first is done, so 0.005 goes to each of the others; the second is then done too."""
    found = share_out([passing_at(0.01, True), passing_at(0.015, True), passing_at(0.03, True)], 0.01)
    assert [one.level for one in found] == pytest.approx([0.01, 0.015, 0.03])
    assert [one.threshold for one in found] == [0.5, 0.5, 0.5]


def test_levels_are_kept_where_something_is_left_to_certify() -> None:
    found = share_out([passing_at(0.01, False), passing_at(0.015, True)], 0.01)
    assert [one.level for one in found] == [0.01, 0.01]
    assert found[1].threshold is None
    assert share_out([], 0.05) == []


def test_levels_never_exceed_delta_in_all() -> None:
    """Whatever the order in which groups are done, those not done have at most all of it."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 7))
        trials = [passing_at(float(need), bool(rng.random() < 0.7)) for need in rng.uniform(0, 0.1, size=count)]
        found = share_out(trials, 0.1 / count)
        done = [trial(one.level)[1] for trial, one in zip(trials, found, strict=True)]
        left = sum(one.level for one, finished in zip(found, done, strict=True) if not finished)
        assert left <= 0.1 + 1e-12


def test_as_many_as_possible_stand_alone() -> None:
    """At a share of 0.05 / 3 (two and a pool) 40 cases are enough; for three and no pool 60 would be needed."""
    names, sizes = np.array(["a", "b", "c"]), np.array([50, 30, 45])
    needed = {0.05: 35, 0.05 / 2: 38, 0.05 / 3: 40}
    own, pooled, share = standing(names, sizes, 0.05, lambda level: needed[level])
    assert (own, pooled, share) == (["a", "c"], ["b"], 0.05 / 3)
    assert standing(names, np.array([9, 9, 9]), 0.05, lambda level: 10) == ([], ["a", "b", "c"], 0.05)
    assert standing(names, np.array([9, 9, 9]), 0.06, lambda level: 9) == (["a", "b", "c"], [], 0.02)


def test_a_mapping_of_groups() -> None:
    found = certify_all(
        np.array(["a", "b", "c"]),
        np.array([50, 3, 4]),
        0.05,
        lambda level: 10,
        lambda groups, scope, _: lambda level: (Found(float(len(groups)), level, scope), False),
    )
    assert isinstance(found, GroupCertificates)
    assert list(found) == ["a", "b", "c"]
    assert len(found) == 3
    assert found["b"] is found["c"] is found.pool
    assert found["a"] == Found(1.0, 0.025, "a")
    assert found["b"].scope == "pool of 2 small groups"
    assert found.thresholds == {"a": 1.0, "b": 2.0, "c": 2.0}
    assert found.pooled == 2.0
    with pytest.raises(KeyError):
        found["d"]
