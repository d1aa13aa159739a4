"""What can be certified at all: closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handrail.algorithms.certify import binomial_tail, certify
from handrail.algorithms.feasibility import feasibility, largest_coverage, steps_needed
from handrail.algorithms.selective import coverage_at_precision
from handrail.envs.errors import HandrailError


@given(st.floats(0, 1), st.floats(0.5, 0.99))
def test_abstention_in_terms_of_error_and_risk(accuracy: float, target: float) -> None:
    """With error e and risk a, operators keep at least (e − a) / (1 − a)."""
    error, risk = 1 - accuracy, 1 - target
    expected = max(0.0, (error - risk) / (1 - risk))
    assert 1 - largest_coverage(accuracy, target) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.5, 0.8, 0.9]), st.integers(0, 1000))
def test_no_score_covers_more_and_the_ideal_one_reaches_it(n: int, right: int, target: float, seed: int) -> None:
    correct = np.arange(n) < right
    bound = largest_coverage(correct.mean(), target)
    assert coverage_at_precision(np.random.default_rng(seed).random(n), correct, target) <= bound + 1e-12
    assert coverage_at_precision(correct + 0.001 * np.arange(n, 0, -1) / n, correct, target) > bound - 1 / n - 1e-12


def test_what_labels_can_do() -> None:
    """0.76 / 0.95 = 0.8; 59 of 75 steps would be covered by 0.787 of them, of 70 by 0.843."""
    correct = np.r_[np.ones(76), np.zeros(24)]
    found = feasibility(correct, 0.95)
    assert found.max_coverage == pytest.approx(0.8)
    assert found.abstention == pytest.approx(0.2)
    assert (found.required, found.steps, found.worth, found.possible) == (59, 100, 100.0, True)
    assert "at most 80.0% can run alone" in found.sentence
    few = feasibility(correct[::2], 0.95)
    assert not few.possible
    # 59 / (0.8 * 50) = 1.475
    assert "1.5 times as many" in few.sentence
    assert feasibility(np.ones(60), 0.95).max_coverage == 1.0
    assert "nothing can be certified" in feasibility(np.zeros(60), 0.95).sentence


def test_sessions_are_worth_less() -> None:
    found = feasibility(np.ones(500), 0.95, sessions=np.repeat(np.arange(50), 10))
    assert found.worth == pytest.approx(50)
    assert not found.possible
    assert "50 sessions, worth at most 50 independent ones" in found.sentence


def test_what_is_said_to_be_impossible_is_not_certified() -> None:
    assert not feasibility(np.ones(58), 0.95).possible
    assert certify(np.zeros(58), np.ones(58), 0.95).threshold is None
    assert feasibility(np.ones(59), 0.95).possible
    assert certify(np.zeros(59), np.ones(59), 0.95).threshold is not None


@pytest.mark.parametrize(("precision", "target", "chance"), [(0.97, 0.95, 0.8), (0.995, 0.99, 0.5), (0.93, 0.9, 0.9)])
def test_steps_needed_give_the_chance(precision: float, target: float, chance: float) -> None:
    """Checked by the sum over numbers of errors, not by the function's own way."""
    n = steps_needed(precision, target, chance=chance)
    allowed = max(e for e in range(n) if float(binomial_tail(e, n, target)) <= 0.05)
    assert float(binomial_tail(allowed, n, precision)) >= chance
    fewer = int(n * 0.9)
    allowed = max([-1, *(e for e in range(fewer) if float(binomial_tail(e, fewer, target)) <= 0.05)])
    assert allowed < 0 or float(binomial_tail(allowed, fewer, precision)) < chance


def test_mistakes_are_told() -> None:
    for call, words in (
        (lambda: largest_coverage(1.2, 0.9), "accuracy is 1.2"),
        (lambda: largest_coverage(0.5, 1.0), "target is 1.0"),
        (lambda: feasibility([], 0.9), "no labelled steps"),
        (lambda: feasibility([1, 0], 0.9, sessions=["a"]), "2 outcomes but 1 session"),
        (lambda: steps_needed(0.9, 0.9), "more than the target"),
        (lambda: steps_needed(0.9000001, 0.9), "too close"),
    ):
        with pytest.raises(HandrailError, match=words):
            call()
