from __future__ import annotations

import math

import numpy as np
import pytest

from handrail.algorithms import bootstrap
from handrail.envs.errors import HandrailError


def test_draws_are_whole_sessions() -> None:
    counts = bootstrap.draw_counts(7, 50, np.random.default_rng(0))
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == counts.round()).all()


def test_draws_are_multinomial() -> None:
    counts = bootstrap.draw_counts(10, 20_000, np.random.default_rng(0))
    # A count has variance 0.9 and two of them covariance −0.1; standard errors are below 0.011.
    assert np.cov(counts.T)[0, 0] == pytest.approx(0.9, abs=0.06)
    assert np.cov(counts.T)[0, 1] == pytest.approx(-0.1, abs=0.06)


def test_cluster_codes_number_ids_of_any_type() -> None:
    codes, count = bootstrap.cluster_codes(["b", "a", "b"])
    assert codes.tolist() == [1, 0, 1]
    assert count == 2


def test_one_session_gives_no_interval() -> None:
    rng = np.random.default_rng(0)
    for clusters in ([1, 1, 1], None):
        values = [1.0, 0.0, 1.0] if clusters else [1.0]
        found = bootstrap.mean_interval(values, clusters, rng)
        assert found.estimate == pytest.approx(np.mean(values))
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert math.isnan(bootstrap.cluster_interval(lambda w: float(w.sum()), ["a", "a"], rng).low)


def test_equal_sessions_give_an_interval_of_width_zero() -> None:
    found = bootstrap.mean_interval([1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2], np.random.default_rng(0))
    assert found == (0.5, 0.5, 0.5)


def test_ratios_share_resamples_and_match_one_by_one() -> None:
    rng = np.random.default_rng(1)
    tops, bottoms, clusters = rng.random((90, 3)), 1 + rng.random((90, 3)), rng.integers(20, size=90)
    together = bootstrap.ratio_interval(tops, bottoms, clusters, np.random.default_rng(2), resamples=300)
    for j in range(3):
        alone = bootstrap.ratio_interval(tops[:, j], bottoms[:, j], clusters, np.random.default_rng(2), resamples=300)[
            0
        ]
        assert together[j] == pytest.approx(alone)
        assert together[j].estimate == pytest.approx(tops[:, j].sum() / bottoms[:, j].sum())


def test_independent_rows_have_the_normal_width() -> None:
    values = np.arange(4000) % 2
    found = bootstrap.mean_interval(values, None, np.random.default_rng(3), resamples=4000)
    half = 1.96 * 0.5 / math.sqrt(4000)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    alike = bootstrap.mean_interval(values, np.arange(4000), np.random.default_rng(3), resamples=1000)
    assert alike.high - alike.low == pytest.approx(2 * half, rel=0.15)


def test_any_statistic_agrees_with_the_ratio_path() -> None:
    rng = np.random.default_rng(4)
    values, clusters = rng.random(400), rng.integers(50, size=400)
    ratio = bootstrap.mean_interval(values, clusters, np.random.default_rng(5), resamples=3000)
    general = bootstrap.cluster_interval(
        lambda w: float(w @ values / w.sum()), clusters, np.random.default_rng(6), resamples=3000
    )
    width = ratio.high - ratio.low
    assert general.estimate == pytest.approx(ratio.estimate)
    assert abs(general.low - ratio.low) < 0.12 * width
    assert abs(general.high - ratio.high) < 0.12 * width


def test_undefined_resamples_are_left_out_up_to_half() -> None:
    low, high = bootstrap.percentile_bounds([math.nan, 1.0, 1.0, 3.0], level=0.5)
    assert (low, high) == (1.0, 2.0)
    assert math.isnan(bootstrap.percentile_bounds([math.nan, math.nan, 1.0])[0])


def test_ratio_over_nothing_is_undefined() -> None:
    (found,) = bootstrap.ratio_interval([0, 0], [0, 0], ["a", "b"], np.random.default_rng(0), resamples=20)
    assert all(math.isnan(value) for value in found)


def test_pairing_cancels_what_sessions_share() -> None:
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(100), 5)
    shared = np.repeat(rng.normal(size=100), 5)
    first, second = shared + 0.1, shared
    found = bootstrap.paired_difference(first, second, clusters, rng)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    alone = bootstrap.mean_interval(first, clusters, rng)
    assert alone.high - alone.low > 0.2


def test_histograms_keep_sessions_whole() -> None:
    cells = [bootstrap.Cells(np.array([0, 1, 2, 2]), 3)]
    rng = np.random.default_rng(0)
    for (part,) in bootstrap.resampled_histograms(cells, ["a", "a", "b", "b"], rng, resamples=40):
        assert (part[:, 0] == part[:, 1]).all()
        assert (part.sum(axis=1) == 4).all()


@pytest.mark.parametrize("clusters", [None, np.arange(600) // 3])
@pytest.mark.parametrize("kinds", [2, 300])
def test_divisions_of_the_same_rows_share_the_resamples(clusters, kinds) -> None:
    rng = np.random.default_rng(1)
    fine = rng.integers(kinds, size=600)
    cells = [bootstrap.Cells(fine, kinds), bootstrap.Cells(fine % 2, 2)]
    for whole, halves in bootstrap.resampled_histograms(cells, clusters, rng, resamples=30):
        assert (halves[:, 0] == whole[:, ::2].sum(axis=1)).all()
        assert (halves.sum(axis=1) == 600).all()
        assert halves[:, 0].std() > 0


def test_rows_of_few_and_of_many_kinds_are_drawn_alike() -> None:
    """A cell of 60 among 600 independent rows: binomial, mean 60, variance 54.

    Over 5,000 resamples the standard errors are 0.10 and 1.08: five of them, a false alarm in a million.
    """
    index = np.arange(600) % 10
    for extra in (np.zeros(600, dtype=np.int64), np.arange(600)):
        cells = [bootstrap.Cells(index, 10), bootstrap.Cells(extra, 600)]
        parts = bootstrap.resampled_histograms(cells, None, np.random.default_rng(2), resamples=5000)
        drawn = np.concatenate([part[:, 0] for part, _ in parts])
        assert drawn.mean() == pytest.approx(60, abs=0.52)
        assert drawn.var() == pytest.approx(54, abs=5.4)


def test_p_value_by_hand() -> None:
    # One of nine resamples is not above 0: 2 · (1 + 1) / (9 + 1).
    assert bootstrap.p_value([-1, 1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(0.4)
    assert bootstrap.p_value([1, 2, 3, 4, 5, 6, 7, 8, 9]) == pytest.approx(0.2)
    assert bootstrap.p_value([0.0, 0.0, 0.0]) == 1.0
    assert math.isnan(bootstrap.p_value([]))
    assert math.isnan(bootstrap.p_value([math.nan, math.nan, 1.0]))


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: bootstrap.ratio_interval([1, 0], [1, 1], ["a"], rng),
        lambda rng: bootstrap.ratio_interval([1, 0], [1], None, rng),
        lambda rng: bootstrap.paired_difference([1, 0], [1], None, rng),
    ],
)
def test_lengths_must_agree(call) -> None:
    with pytest.raises(HandrailError, match="expected"):
        call(np.random.default_rng(0))


def test_intervals_cover_the_truth_where_sessions_are_alike_inside() -> None:
    """Beta-binomial sessions, true mean 0.8.

    A percentile interval over 100 sessions covers in about 94 % of data sets; that 300 of them give fewer than 264
    (88 %) has chance below 1e-4. Intervals that take rows for independent cover in about 70 %.
    """
    rng = np.random.default_rng(8)
    clusters = np.repeat(np.arange(100), 8)
    covered = naive = 0
    for _ in range(300):
        values = rng.random(800) < np.repeat(rng.beta(1.6, 0.4, size=100), 8)
        one = bootstrap.mean_interval(values, clusters, rng, resamples=400)
        other = bootstrap.mean_interval(values, None, rng, resamples=400)
        covered += one.low <= 0.8 <= one.high
        naive += other.low <= 0.8 <= other.high
    assert covered >= 264
    assert naive < 255
