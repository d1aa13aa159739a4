from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handrail.algorithms import certify as module
from handrail.algorithms.betting import p_values
from handrail.algorithms.certify import (
    binomial_tail,
    certified_metrics,
    certify,
    certify_groups,
    certify_targets,
    required_steps,
)
from handrail.envs.errors import HandrailError


def test_required_steps_closed_form() -> None:
    assert required_steps(0.95, 0.05) == 59
    assert required_steps(0.99, 0.05) == 299
    assert required_steps(0.5, 0.25) == 2
    # 0.95^n + n 0.05 0.95^(n-1) first falls to 0.05 at 93.
    assert required_steps(0.95, 0.05, errors=1) == 93


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0.5, 0.99))
def test_binomial_tail_is_the_sum(steps: int, errors: int, target: float) -> None:
    errors = min(errors, steps)
    expected = sum(math.comb(steps, e) * (1 - target) ** e * target ** (steps - e) for e in range(errors + 1))
    assert float(binomial_tail(errors, steps, target)) == pytest.approx(expected)


def test_fifty_nine_right_steps_are_enough_and_fifty_eight_are_not() -> None:
    yes = certify(np.arange(59), np.ones(59), 0.95, 0.05)
    assert (yes.threshold, yes.n_accepted, yes.n_errors, yes.coverage, yes.precision) == (0.0, 59, 0, 1.0, 1.0)
    assert yes.p_value == pytest.approx(0.95**59)
    no = certify(np.arange(58), np.ones(58), 0.95, 0.05)
    assert no.threshold is None
    assert no.coverage == 0.0
    assert "58 calibration steps" in no.reason
    assert "59" in no.reason


def test_stops_at_the_first_set_that_cannot_be_rejected() -> None:
    # 600 right steps, then 150 wrong ones, then 5,000 right ones: full coverage would pass a single test (97.4 %).
    correct = np.concatenate([np.ones(600), np.zeros(150), np.ones(5000)])
    scores = -np.arange(len(correct), dtype=float)
    assert float(binomial_tail(150, 5750, 0.95)) < 0.05
    certificate = certify(scores, correct, 0.95, 0.05)
    assert 575 <= certificate.n_accepted < 650
    assert certificate.p_value <= 0.05
    # A second start past the dip finds the larger set, at its half of the level.
    assert certify(scores, correct, 0.95, 0.05, starts=(0.1, 0.9)).n_accepted == 5750


def test_certificate_describes_its_accepted_set() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(3000) < 0.8
    scores = rng.normal(size=3000) + 2.5 * correct
    found = certify(scores, correct, 0.95)
    chosen = scores >= found.threshold
    assert found.n_accepted == chosen.sum()
    assert found.n_errors == (~correct[chosen]).sum()
    assert found.coverage == pytest.approx(chosen.mean())
    assert found.precision == pytest.approx(correct[chosen].mean())
    assert found.p_value == pytest.approx(float(binomial_tail(found.n_errors, found.n_accepted, 0.95)))
    assert found.precision > 0.95


def test_ties_are_never_split() -> None:
    # The 40 top steps cannot be certified alone; with the next tie there are 140.
    scores = np.repeat([3.0, 2.0, 1.0], [40, 100, 100])
    correct = np.repeat([True, True, False], [40, 100, 100])
    found = certify(scores, correct, 0.95)
    assert (found.threshold, found.n_accepted) == (2.0, 140)
    assert certify(np.zeros(240), correct, 0.95).threshold is None
    assert certify(np.zeros(240), np.ones(240), 0.95).threshold == 0.0


def test_steps_without_confidence_are_never_certified() -> None:
    scores = np.concatenate([np.full(100, 0.5), np.full(300, -np.inf)])
    found = certify(scores, np.ones(400), 0.95)
    assert (found.threshold, found.coverage) == (0.5, 0.25)


def test_only_the_order_of_scores_matters() -> None:
    rng = np.random.default_rng(1)
    correct = rng.random(500) < 0.9
    scores = np.round(rng.normal(size=500) + 2 * correct, 1)
    order = rng.permutation(500)
    one, two = certify(scores, correct, 0.9), certify(np.exp(scores[order]), correct[order], 0.9)
    assert (one.n_accepted, one.n_errors) == (two.n_accepted, two.n_errors)
    assert two.threshold == pytest.approx(math.exp(one.threshold))


def test_empty_and_all_wrong() -> None:
    assert certify([], [], 0.9).threshold is None
    wrong = certify(np.arange(200), np.zeros(200), 0.9)
    assert wrong.threshold is None
    assert wrong.n_errors == wrong.n_accepted > 0
    assert wrong.reason.startswith("cannot be certified")


# Worlds: scores, and the chance of being right at each of them.
World = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def uninformative(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.random(n), np.full(n, 0.899)


def crossing(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    scores = rng.random(n)
    return scores, 0.82 + 0.1 * scores


def ties(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    scores = rng.integers(1, 6, size=n) / 5
    return scores, np.where(scores == 1, 0.899, 0.895)


def overconfident(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    scores = rng.random(n)
    return scores, np.where(scores < 0.7, 0.93, 0.894) - 0.2 * (scores < 0.4)


def waves(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    scores = rng.random(n)
    return scores, 0.896 + 0.08 * np.sin(60 * scores)


REFERENCE = 400_000


@pytest.mark.parametrize("world", [uninformative, crossing, ties, overconfident, waves])
@pytest.mark.parametrize("starts", [(0.1,), (0.05, 0.3, 0.7)])
def test_wrong_certificates_are_as_rare_as_promised(world: World, starts: tuple[float, ...]) -> None:
    """True precision above the certified threshold is below target in at most delta of the calibration sets.

    Truth comes from 400,000 scores with known chances (error below 0.0003, allowed for). With delta = 0.1, more than
    141 wrong certificates of 1,000 have chance below 2e-5. At three times the level, three of the worlds exceed it.
    """
    rng = np.random.default_rng(11)
    scores, chance = world(rng, REFERENCE)
    order = np.argsort(-scores)
    descending, running = scores[order], np.cumsum(chance[order])
    wrong = 0
    for _ in range(1000):
        scores, chance = world(rng, 800)
        found = certify(scores, rng.random(800) < chance, 0.9, 0.1, starts=starts)
        if found.threshold is not None:
            above = int(np.searchsorted(-descending, -found.threshold, side="right"))
            wrong += running[above - 1] / above < 0.9 - 0.0003
    assert wrong <= 141


def test_reading_the_curve_is_not_a_certificate() -> None:
    """The same simulation finds the plain threshold wrong most of the time, so it could have failed."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(100):
        scores, chance = uninformative(rng, 800)
        wrong += module.select_threshold(scores, rng.random(800) < chance, 0.9) is not None
    assert wrong > 50


def test_a_good_critic_is_certified() -> None:
    rng = np.random.default_rng(12)
    found = []
    for _ in range(50):
        correct = rng.random(2000) < 0.86
        found.append(certify(rng.normal(size=2000) + 2.2 * correct, correct, 0.95).coverage)
    # The coverage at which precision is truly 95 % is 0.866.
    assert np.mean(found) > 0.78


def test_groups_stand_for_themselves_or_share() -> None:
    groups = np.repeat(["big", "bad", "small", "tiny"], [400, 400, 60, 60])
    correct = np.where(groups == "bad", np.arange(920) % 2 == 0, True)
    found = certify_groups(np.ones(920), correct, groups, 0.95)
    assert list(found) == ["bad", "big", "small", "tiny"]
    assert found["big"].threshold == 1.0
    assert found["big"].scope == "big"
    assert found["bad"].threshold is None
    # Neither could be certified alone under the default of 93 steps; the failed group's steps stay out of their pool.
    assert found["small"] is found["tiny"]
    assert found["small"].n_calibration == 120
    assert found["small"].threshold == 1.0
    assert found["small"].scope == "pool of 2 small groups"
    alone = certify_groups(np.ones(920), correct, groups, 0.95, min_size=1)
    assert alone["tiny"].n_calibration == 60


def test_the_first_set_may_have_errors_where_steps_are_enough() -> None:
    """93 steps certify 95 % with one error, 124 with two, 153 with three (exact tails); 612 is four times the last.

    With 612 steps the first set has 153 and three errors among the first ten do no harm; with 600 the first set has
    124, and with three errors it fails.
    """
    assert [required_steps(0.95, 0.05, errors) for errors in (1, 2, 3)] == [93, 124, 153]
    for n, expected in ((612, 612), (600, None)):
        correct = np.ones(n)
        correct[[2, 5, 8]] = 0
        found = certify(-np.arange(n, dtype=float), correct, 0.95)
        assert (found.n_accepted if found.threshold is not None else None) == expected
        assert found.n_accepted == (expected or 124)


def test_how_many_further_steps_would_suffice() -> None:
    """Three errors among 124 steps: 153 steps may have three. 40 right steps lack 19 of the 59."""
    correct = np.ones(600)
    correct[[2, 5, 8]] = 0
    found = certify(-np.arange(600, dtype=float), correct, 0.95)
    assert (found.threshold, found.further) == (None, 153 - 124)
    assert "29 further accepted steps would do if none of them is wrong" in found.reason
    assert certify(np.arange(40), np.ones(40), 0.95).further == 19
    assert certify(np.arange(59), np.ones(59), 0.95).further == 0


def test_sessions_of_five_right_steps_count_once() -> None:
    """58 sessions of five right steps are worth 58 independent steps, one too few; 59 are enough."""
    for count in (58, 59):
        names = np.repeat([f"session {k}" for k in range(count)], 5)
        found = certify(np.zeros(5 * count), np.ones(5 * count), 0.95, sessions=names)
        assert (found.threshold is not None) == (count == 59)
        assert found.n_sessions == count
    none = certify(np.zeros(290), np.ones(290), 0.95, sessions=np.repeat(np.arange(58), 5))
    assert (none.n_accepted, none.further) == (0, 5)
    assert "worth at most 58 independent ones" in none.reason
    assert "takes 59" in none.reason
    assert certify(np.zeros(290), np.ones(290), 0.95).threshold == 0.0


def test_certificate_with_sessions_is_that_of_the_bet() -> None:
    rng = np.random.default_rng(3)
    names = rng.integers(300, size=1500)
    correct = rng.random(1500) < 0.85
    scores = rng.normal(size=1500) + 2.5 * correct
    found = certify(scores, correct, 0.95, sessions=names)
    chosen = scores >= found.threshold
    assert (found.n_accepted, found.n_errors) == (chosen.sum(), (~correct[chosen]).sum())
    again = p_values(names[chosen], correct[chosen], [chosen.sum()], 0.95, 0.05)
    assert found.p_value == pytest.approx(again[0])
    assert found.p_value <= 0.05
    # Neither the order of the rows nor the names of the sessions matter.
    order = rng.permutation(1500)
    other = certify(scores[order], correct[order], 0.95, sessions=[f"s{name}" for name in names[order]])
    assert replace(other, p_value=found.p_value) == found
    assert other.p_value == pytest.approx(found.p_value)
    assert found.coverage <= certify(scores, correct, 0.95).coverage


def test_a_cap_helps_where_one_session_is_far_larger() -> None:
    """One of 101 sessions has 60 steps, the others one: uncapped, all right, they are worth 1 + 100 · 0.0172 steps."""
    names = np.r_[np.arange(100), np.full(60, 100)]
    assert certify(np.zeros(160), np.ones(160), 0.95, sessions=names).threshold is None
    capped = certify(np.zeros(160), np.ones(160), 0.95, sessions=names, cap=1)
    assert capped.threshold == 0.0
    assert 0.95**101 <= capped.p_value <= 0.05


def test_further_sessions_are_told() -> None:
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(100), 3)
    found = certify(rng.random(300), rng.random(300) < 0.93, 0.95, sessions=names)
    assert found.threshold is None
    assert found.n_accepted > 0
    assert found.further > 0
    assert f"({found.further} accepted steps)" in found.reason
    empty = certify([-math.inf] * 3, [1, 1, 1], 0.95, sessions=["a", "b", "c"])
    assert (empty.threshold, empty.further) == (None, 59)


def test_groups_with_sessions_need_enough_sessions() -> None:
    """120 sessions of the big group, 10 of each of the small ones; 93 would stand alone at delta 0.05, more at half."""
    groups = np.repeat(["big", "one", "two"], [600, 50, 50])
    names = np.repeat(np.arange(140), 5)
    assert required_steps(0.95, 0.025, errors=1) <= 120
    found = certify_groups(np.ones(700), np.ones(700), groups, 0.95, sessions=names)
    assert list(found.own) == ["big"]
    assert found["big"].n_sessions == 120
    assert found["big"].delta == 0.025
    # The big group is certified for all its steps, so the pool has all of delta; 20 sessions are too few all the same.
    assert found.pool is not None
    assert (found.pool.n_sessions, found.pool.delta, found.pool.threshold) == (20, 0.05, None)


def test_metrics_of_certificates() -> None:
    certificates = certify_targets(np.arange(100), np.ones(100), (0.95, 0.99), 0.05)
    found = certified_metrics(
        "critic.x", certificates, [5.0, 500.0, -1.0, 3.0], [1, 1, 0, 0], list("abcd"), np.random.default_rng(0)
    )
    assert found["critic.x.certified.95.coverage"] == 0.75
    assert found["critic.x.certified.95.precision"] == pytest.approx(2 / 3)
    assert found["critic.x.certified.95.threshold"] == 0.0
    assert found["critic.x.certified.95.delta"] == 0.05
    assert found["critic.x.certified.95.precision.ci_low"] <= 2 / 3 <= found["critic.x.certified.95.precision.ci_high"]
    # 100 steps cannot certify 99 %.
    assert found["critic.x.certified.99.coverage"] == 0.0
    assert found["critic.x.certified.99.delta"] == 0.05
    assert "critic.x.certified.99.precision" not in found
    assert "critic.x.certified.99.threshold" not in found
    assert "certified.95.coverage" in certified_metrics("", certificates, [1.0], [1], None, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: certify([1], [1], 1.0), "target is 1.0"),
        (lambda: certify([1], [1], 0.9, 0), "delta is 0"),
        (lambda: certify([1], [1], 0.9, starts=()), "starts"),
        (lambda: certify([1], [1], 0.9, starts=(0.5, 0.1)), "ascending"),
        (lambda: certify([1], [1], 0.9, grid_size=0), "grid_size"),
        (lambda: certify([math.nan], [1], 0.9), "NaN"),
        (lambda: certify_groups([1], [1], ["a", "b"], 0.9), "2 groups"),
        (lambda: certify([1], [1], 0.9, sessions=["a", "b"]), "1 scores but 2 session ids"),
        (lambda: certify([1], [1], 0.9, sessions=["a"], cap=0), "cap is 0"),
        (lambda: certify([1], [1], 0.9, cap=3), "with sessions"),
    ],
)
def test_mistakes_are_told(call, words: str) -> None:
    with pytest.raises(HandrailError, match=words):
        call()
