"""Calibration maps: against closed forms, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handrail.algorithms import calibration_maps
from handrail.algorithms.calibration import brier
from handrail.envs import registry
from handrail.envs.errors import HandrailError

NAMES = registry.names(calibration_maps.__name__)


def draws(n: int, slope: float, offset: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are log-odds of something else than what happens: right with sigmoid(slope * score + offset)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n) * 2
    return scores, rng.random(n) < 1 / (1 + np.exp(-(slope * scores + offset)))


@pytest.mark.parametrize("name", NAMES)
def test_a_map_brings_probabilities_close_to_what_happens(name: str) -> None:
    """True probabilities have the least Brier score there is; a map of 4,000 steps comes within 0.005 of it."""
    scores, correct = draws(4000, 0.5, 0.0, 0)
    new, outcome = draws(20000, 0.5, 0.0, 1)
    made = calibration_maps.fit(name, scores, correct)(new)
    best = brier(1 / (1 + np.exp(-0.5 * new)), outcome)
    raw = brier(1 / (1 + np.exp(-new)), outcome)
    assert raw - best > 0.01, "the scores themselves are far too sure"
    assert brier(made, outcome) - best < 0.005


@pytest.mark.parametrize("name", NAMES)
@given(data=st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=2, max_size=40), probe=st.data())
def test_maps_are_monotone_and_give_probabilities(
    name: str, data: list[tuple[float, bool]], probe: st.DataObject
) -> None:
    scores, correct = np.array([s for s, _ in data]), np.array([c for _, c in data])
    if correct.all() or not correct.any():
        with pytest.raises(HandrailError, match="the same outcome"):
            calibration_maps.fit(name, scores, correct)
        return
    new = np.sort(probe.draw(st.lists(st.floats(-60, 60), min_size=1, max_size=10)))
    made = calibration_maps.fit(name, scores, correct)(np.append(new, scores))[: len(new)]
    assert ((made >= 0) & (made <= 1)).all()
    assert (np.diff(made) >= -1e-9).all()


def test_temperature_leaves_one_half_where_it_is() -> None:
    """Probability 0.9 that is right in 3 of 4 cases: T = log 9 / log 3 = 2, so 0.9 becomes 3/4 and 0.5 stays."""
    scores, correct = np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])
    made = calibration_maps.fit("temperature", scores, correct)(np.array([0.9, 0.5, 0.1]))
    np.testing.assert_allclose(made, [0.75, 0.5, 0.25], atol=1e-4)


def test_isotonic_pools_adjacent_violators() -> None:
    """Outcomes 0 1 0 1 by score: the middle two pool to one half."""
    made = calibration_maps.fit("isotonic", np.array([1.0, 2, 3, 4]), np.array([0, 1, 0, 1]))(np.array([0.0, 2, 3, 9]))
    np.testing.assert_allclose(made, [0, 0.5, 0.5, 1])


def test_venn_abers_of_equal_scores_is_the_rule_of_succession() -> None:
    """k of n right: p0 = k / (n + 1), p1 = (k + 1) / (n + 1), merged (k + 1) / (n + 2)."""
    made = calibration_maps.fit("venn_abers", np.zeros(7), np.array([1, 1, 1, 1, 1, 0, 0]))(np.zeros(2))
    np.testing.assert_allclose(made, 6 / 9)


def test_mistakes_are_named() -> None:
    with pytest.raises(HandrailError, match="3 scores but 2 outcomes"):
        calibration_maps.fit("platt", [1.0, 2, 3], [True, False])
    with pytest.raises(HandrailError, match="nan is not finite"):
        calibration_maps.fit("platt", [1.0, np.nan], [True, False])
    with pytest.raises(HandrailError, match="did you mean isotonic"):
        calibration_maps.fit("isotonc", [1.0, 2], [True, False])
