"""Splits by session: disjoint, of the shares asked for, and the same whatever the order sessions come in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.algorithms.splits import split_sessions
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session

SHARES = {"train": 0.72, "feedback": 0.08, "calibration": 0.1, "test": 0.1}


def sessions(count: int) -> list[Session]:
    return [Session(f"s{number}", "toy", "desk", "ann") for number in range(count)]


def ids(splits: dict[str, list[Session]]) -> dict[str, list[str]]:
    return {name: [session.id for session in members] for name, members in splits.items()}


@settings(deadline=None)
@given(st.integers(13, 200), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_every_session_is_in_one_split_whatever_the_order(count: int, seed: int, order) -> None:  # type: ignore[no-untyped-def]
    given_sessions = sessions(count)
    splits = ids(split_sessions(given_sessions, SHARES, seed))
    assert sorted(name for members in splits.values() for name in members) == sorted(s.id for s in given_sessions)
    assert list(splits) == list(SHARES)
    for name, share in SHARES.items():
        assert abs(len(splits[name]) - share * count) < 1
    order.shuffle(given_sessions)
    assert ids(split_sessions(given_sessions, SHARES, seed)) == splits


def test_sizes_by_hand() -> None:
    splits = split_sessions(sessions(100), SHARES, 0)
    assert {name: len(members) for name, members in splits.items()} == {
        "train": 72, "feedback": 8, "calibration": 10, "test": 10,
    }  # fmt: skip
    part = split_sessions(sessions(10), {"train": 0.5, "test": 0.25}, 0)
    assert {name: len(members) for name, members in part.items()} == {"train": 5, "test": 2}


def test_the_seed_decides() -> None:
    first, again, other = (ids(split_sessions(sessions(50), SHARES, seed)) for seed in (1, 1, 2))
    assert first == again
    assert set(first["test"]) != set(other["test"])


@pytest.mark.parametrize(
    "shares", [{"train": 0.9, "test": 0.2}, {"train": 1.1, "test": -0.1}, {"train": 1.0, "test": 0}]
)
def test_shares_that_are_none(shares: dict[str, float]) -> None:
    with pytest.raises(HandrailError, match="expected positive numbers that sum to at most 1"):
        split_sessions(sessions(50), shares, 0)


def test_a_split_without_sessions_is_told() -> None:
    with pytest.raises(HandrailError, match="5 sessions leave nothing for the splits calibration with"):
        split_sessions(sessions(5), SHARES, 0)
