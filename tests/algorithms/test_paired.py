"""Paired rates: statistics worked by hand, and the chance of a false alarm, enumerated and simulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from handrail.algorithms.paired import Pairs, non_inferiority, pairs, score, score_interval
from handrail.envs.errors import HandrailError


def test_pairs_that_differ_are_counted() -> None:
    found = pairs([1, 1, 0, 0, 0], [1, 0, 1, 1, 0])
    assert found == Pairs(5, losses=2, gains=1)
    assert found.difference == -0.2
    with pytest.raises(HandrailError, match="2 outcomes against 1"):
        pairs([1, 0], [1])


def test_without_a_margin_the_score_is_mcnemar() -> None:
    """(c − b) / √(b + c): for 3 losses and 12 gains 9 / √15."""
    assert score(3, 12, 100, 0.0) == pytest.approx(9 / math.sqrt(15))
    assert score(0, 0, 100, 0.0) == 0


def test_the_score_by_hand() -> None:
    """Nothing differs: the likeliest rate of gains is 0, that of losses the margin, so nm / √(nm(1 − m)).

    With 4 losses, 1 gain, n = 100, m = 0.1: 200 q² − (4·1.1 + 0.9 − 20) q − 0.09 = 0 has the root
    (−14.7 + √(216.09 + 72)) / 400 = 0.00568303; the statistic is (10 − 3) / √(100 · (0.01136606 + 0.09)) = 2.198628.
    """
    assert score(0, 0, 2000, 0.01) == pytest.approx(20 / math.sqrt(20 * 0.99))
    assert score(4, 1, 100, 0.1) == pytest.approx(2.198628, abs=2e-6)
    # A margin in the other direction is the same question with the two arms changed.
    assert score(1, 4, 100, -0.1) == pytest.approx(-2.198628, abs=2e-6)


def test_without_a_loss_or_gain_the_normal_approximation_is_too_bold() -> None:
    """If gains have the rate 0, losses have a rate of 10 %, and 20 pairs show none with a chance of 0.9^20 = 0.122.

    The approximation says 0.068.
    """
    assert norm.sf(score(0, 0, 20, 0.1)) < 0.07
    assert non_inferiority(Pairs(20, 0, 0), 0.1) >= 0.9**20 * (1 - 1e-9)


def test_the_worst_rate_by_hand() -> None:
    """Two pairs, margin ½, none differs: at least as good are (losses, gains) with a score of √2 or more.

    These are (0, 0), √2 itself; (0, 1): root of 4q² + 1.5q − 0.25 is 0.125, so 2/√(2·0.5) = 2; (0, 2), 3/√1.5; and not
    (1, 1): 4q² − 0.25 has the root 0.25, so 1/√1.5 < √2. If gains have the rate q, losses have q + ½: nothing lost in
    two pairs has the chance (½ − q)², highest at q = 0: ¼. So none lost is 0.25.
    """
    assert non_inferiority(Pairs(2, 0, 0), 0.5) == pytest.approx(0.25, abs=1e-9)


def test_nothing_is_shown_where_there_is_nothing() -> None:
    assert non_inferiority(Pairs(0, 0, 0), 0.01) == 1.0
    assert non_inferiority(Pairs(500, 0, 0), 0.0) == 1.0
    assert math.isnan(score_interval(Pairs(0, 0, 0)).estimate)
    with pytest.raises(HandrailError, match="margin=1"):
        non_inferiority(Pairs(5, 0, 0), 1.0)


@pytest.mark.parametrize(("n", "margin"), [(12, 0.1), (25, 0.05)])
def test_false_alarms_are_within_the_level_at_all_rates(n: int, margin: float) -> None:
    """All outcomes of n pairs, and rates all over the hypothesis: enumerated, so no chance failure."""
    p = {(b, c): non_inferiority(Pairs(n, b, c), margin) for b in range(n + 1) for c in range(n + 1 - b)}
    rates = np.linspace(0, 1, 41)
    for level in (0.05, 0.2):
        rejected = np.array([outcome for outcome, value in p.items() if value <= level])
        assert len(rejected)
        b, c = rejected[:, 0], rejected[:, 1]
        worst = max(
            float((binom.pmf(c, n, gain) * binom.pmf(b, n - c, min(loss / max(1 - gain, 1e-12), 1))).sum())
            for gain in rates
            for loss in rates
            if loss - gain >= margin - 1e-12 and loss + gain <= 1 + 1e-12
        )
        assert level / 5 < worst <= level + 1e-9


def test_false_alarms_at_the_margin_by_simulation() -> None:
    """2,000 pairs, losses 2 %, gains 1 %, margin 1 point: at most 5 % of 1,000 trials may say "not inferior".

    A rate of 5 % gives more than 72 of them with a chance of 1e-3; below 20 the test would be useless.
    """
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(2000, [0.02, 0.01, 0.97], size=1000)
    known: dict[tuple[int, int], float] = {}
    alarms = 0
    for losses, gains, _ in drawn.tolist():
        # Far from the edge the normal approximation is enough to know the side.
        rough = float(norm.sf(score(losses, gains, 2000, 0.01)))
        if rough > 0.06:
            continue
        if (losses, gains) not in known:
            known[losses, gains] = non_inferiority(Pairs(2000, losses, gains), 0.01)
        alarms += known[losses, gains] <= 0.05
    assert 20 <= alarms <= binom.isf(1e-3, 1000, 0.05)


def test_a_good_arm_is_found_good() -> None:
    """Truth: nothing lost on balance, 1 % of pairs differ either way. The score is near 10 / √40 + … > 1.645."""
    assert non_inferiority(Pairs(2000, 20, 20), 0.01) < 0.01
    assert non_inferiority(Pairs(2000, 40, 20), 0.01) > 0.4


def test_interval_by_hand() -> None:
    """No pair differs: nm / √(nm(1 − m)) = z has the solution m = z² / (n + z²), on both sides."""
    z = norm.ppf(0.975)
    found = score_interval(Pairs(100, 0, 0))
    assert found.estimate == 0
    assert found.high == pytest.approx(z**2 / (100 + z**2))
    assert found.low == pytest.approx(-(z**2) / (100 + z**2))
    more = score_interval(Pairs(100, 4, 1))
    assert more.low < more.estimate == -0.03 < more.high
    for end in (more.low, more.high):
        assert abs(float(score(4, 1, 100, -end))) == pytest.approx(z)


def test_interval_at_the_ends() -> None:
    assert score_interval(Pairs(5, 5, 0))[:2] == (-1.0, -1.0)
    assert score_interval(Pairs(5, 0, 5)).high == 1.0


def test_interval_covers() -> None:
    """400 pairs, losses 1.5 %, gains 0.5 %, 2,000 trials: a coverage of 93.5 % or less has a chance of about 1e-3."""
    rng = np.random.default_rng(1)
    covered = 0
    known: dict[tuple[int, int], bool] = {}
    for losses, gains, _ in rng.multinomial(400, [0.015, 0.005, 0.98], size=2000).tolist():
        if (losses, gains) not in known:
            found = score_interval(Pairs(400, losses, gains))
            known[losses, gains] = found.low <= -0.01 <= found.high
        covered += known[losses, gains]
    assert covered >= binom.ppf(1e-3, 2000, 0.95)
