"""Bets on session sums: wealth by hand, expectations summed over all outcomes, the bet and the sizes in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.algorithms.betting import (
    affordable_errors,
    capacity,
    constant_bet,
    effective_steps,
    further_sessions,
    log_wealth,
    p_values,
    session_sums,
)

LEVEL = 0.05


def test_sums_by_hand() -> None:
    """Of 4, 2 and 10 accepted steps 4, 1 and 9 are right: 4 − 3.6, 1 − 1.8 and 9 − 9."""
    weights, sums = session_sums([4, 2, 10], [4, 1, 9], 0.9)
    assert weights.tolist() == [4, 2, 10]
    assert sums == pytest.approx([0.4, -0.8, 0.0])
    # Counting as at most 3: a share of 1, 0.5 and 0.9 right, times 3, 2 and 3.
    weights, sums = session_sums([4, 2, 10], [4, 1, 9], 0.9, cap=3)
    assert weights.tolist() == [3, 2, 3]
    assert sums == pytest.approx([0.3, -0.8, 0.0])


def test_wealth_by_hand() -> None:
    assert log_wealth(np.array([0.4, -0.8]), 0.5) == pytest.approx(math.log(1.2 * 0.6))
    assert log_wealth(np.array([0.4, -2.0]), 0.5) == -math.inf
    assert log_wealth(np.zeros(0), 0.0) == 0.0


def test_sessions_of_one_right_step_are_an_exact_binomial_test() -> None:
    """Up to 58 the largest bet is made; 0.95 ** 59 is the first power below 0.05, where a smaller bet is enough."""
    for count in (10, 58):
        assert constant_bet(np.ones(count), 0.95, LEVEL) == pytest.approx(1 / 0.95)
        assert p_values(np.arange(count), np.ones(count), [count], 0.95, LEVEL) == pytest.approx([0.95**count])
        assert 0.95**count > LEVEL
    assert 0.95**59 <= p_values(np.arange(59), np.ones(59), [59], 0.95, LEVEL)[0] <= LEVEL


def test_sessions_of_one_size_count_once() -> None:
    """All right, n sessions of five steps are as much evidence as n independent steps where n is small."""
    codes = np.repeat(np.arange(40), 5)
    assert capacity(codes, [200], 0.95) == pytest.approx([40])
    # A bet on a correlation in between would need log(1/delta) of 200 / sqrt(5) = 89 steps, more than 59, so it is
    # smaller than the largest one; with twenty sessions it is the largest.
    assert p_values(codes[:100], np.ones(100), [100], 0.95, LEVEL) == pytest.approx([0.95**20])


def test_affordable_errors_solve_chernoffs_equation() -> None:
    for steps, target, delta in ((100.0, 0.95, 0.05), (1e4, 0.9, 0.01), (333.3, 0.99, 0.1)):
        share = affordable_errors(steps, target, delta)
        assert 0 < share < 1 - target
        divergence = share * math.log(share / (1 - target)) + (1 - share) * math.log((1 - share) / target)
        assert steps * divergence == pytest.approx(math.log(1 / delta))
    assert affordable_errors(58, 0.95, 0.05) == 0.0


def test_effective_steps_in_closed_form() -> None:
    assert effective_steps([], 0.95) == 0.0
    assert effective_steps([7] * 30, 0.95) == pytest.approx(30)
    # A session half the size of the largest: log(1 + 0.5 · 0.05 / 0.95) in units of log(1 / 0.95).
    expected = 1 + math.log1p(0.025 / 0.95) / math.log(1 / 0.95)
    assert effective_steps([2, 1], 0.95) == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1)), min_size=1, max_size=7),
    st.floats(0.5, 0.99),
    st.floats(0.01, 0.3),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_wealth_is_not_expected_to_grow_where_precision_is_at_most_the_target(
    sessions: list[tuple[int, float]], target: float, delta: float, cap: int | None
) -> None:
    """Sessions are all right or all wrong; their chances are made such that the mean sum is at most 0.

    The expectation is summed over all outcomes.
    """
    sizes = np.array([size for size, _ in sessions], float)
    chances = np.array([chance for _, chance in sessions])
    weights, _ = session_sums(sizes, sizes, target, cap)
    mean = float(np.sum(weights * chances) / np.sum(weights))
    if mean > target:
        chances = chances * target / mean
    bet = constant_bet(weights, target, delta)
    expected = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=len(sizes)):
        right = np.array(outcome)
        _, sums = session_sums(sizes, sizes * right, target, cap)
        expected += float(np.prod(np.where(right, chances, 1 - chances))) * math.exp(log_wealth(sums, bet))
    assert expected <= 1 + 1e-9


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 10_000), st.one_of(st.none(), st.integers(1, 4)))
def test_growing_sets_are_what_their_words_say(steps: int, count: int, seed: int, cap: int | None) -> None:
    rng = np.random.default_rng(seed)
    codes, right = rng.integers(count, size=steps), rng.random(steps) < 0.8
    ends = np.unique(rng.integers(1, steps + 1, size=5))
    found, worth = p_values(codes, right, ends, 0.9, LEVEL, cap=cap), capacity(codes, ends, 0.9, cap=cap)
    for place, end in enumerate(ends):
        names = np.unique(codes[:end])
        accepted = [int((codes[:end] == name).sum()) for name in names]
        hits = [int(right[:end][codes[:end] == name].sum()) for name in names]
        weights, sums = session_sums(accepted, hits, 0.9, cap)
        wealth = math.prod(1 + constant_bet(weights, 0.9, LEVEL) * float(one) for one in sums)
        assert found[place] == pytest.approx(min(1.0, 1 / wealth) if wealth > 0 else 1.0)
        assert worth[place] == pytest.approx(effective_steps(weights, 0.9))


def test_further_sessions_suffice_and_one_fewer_does_not() -> None:
    """Fifteen sessions of four steps, one of them with a wrong step; the rest of the test adds sessions for real."""
    sizes, right = np.full(15, 4.0), np.full(15, 4.0)
    right[3] = 3
    weights, sums = session_sums(sizes, right, 0.95)
    more = further_sessions(weights, sums, 0.95, LEVEL)
    for added, enough in ((more, True), (more - 1, False)):
        count = 15 + added
        outcome = np.ones(4 * count)
        outcome[12] = 0
        found = p_values(np.repeat(np.arange(count), 4), outcome, [4 * count], 0.95, LEVEL)
        assert (found[0] <= LEVEL) == enough
    # Clean ones, each worth one independent step: 59 in all.
    assert further_sessions(np.ones(20), np.full(20, 0.05), 0.95, LEVEL) == 39
