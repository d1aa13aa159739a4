from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.algorithms import selective, summaries
from handrail.algorithms.bootstrap import cluster_interval
from handrail.envs.errors import HandrailError


def simulated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, outcomes that they predict, and sessions."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.beta(4, 1, size=n), 3)
    return p, rng.random(n) < p, rng.integers(n // 10, size=n)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60), st.data())
def test_a_histogram_of_resampled_steps_gives_the_statistics_of_those_steps(case, data: st.DataObject) -> None:
    p = np.array([score for score, _ in case]) / 20
    correct = np.array([right for _, right in case])
    summary = summaries.summarize(
        p, correct, thresholds={"some": 0.5, "none": None}, coverages=(0.3, 0.8), probabilities=p
    )
    rows = np.array(data.draw(st.lists(st.integers(0, len(p) - 1), min_size=len(p), max_size=len(p))))
    histogram = np.bincount(summary.cells.index[rows], minlength=summary.cells.count).astype(float)
    found = dict(zip(summary.names, summary.compute(histogram[None, :])[0], strict=True))
    drawn, outcome = p[rows], correct[rows]
    expected = selective.rank_statistics(drawn, outcome)
    expected |= {f"risk_at_coverage_{c:.0%}"[:-1]: selective.risk_at_coverage(drawn, outcome, c) for c in (0.3, 0.8)}
    for name, threshold in (("some", 0.5), ("none", None)):
        coverage, precision, _ = selective.apply_threshold(drawn, outcome, threshold)
        expected |= {name: coverage, f"{name}.precision": precision}
    expected["brier"] = selective.brier(drawn, outcome)
    # The bins are those of the steps themselves.
    bins = summaries.bin_of(p, np.ones(len(p)), bins=summaries.ECE_BINS, equal_mass=True)[rows]
    gaps = [abs((drawn[bins == b] - outcome[bins == b]).sum()) for b in range(summaries.ECE_BINS)]
    expected["ece"] = sum(gaps) / len(p)
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("max_blocks", [4096, 64])
def test_intervals_agree_with_recomputing(monkeypatch: pytest.MonkeyPatch, max_blocks: int) -> None:
    monkeypatch.setattr(summaries, "MAX_BLOCKS", max_blocks)
    p, correct, sessions = simulated(900, 3)
    summary = summaries.summarize(p, correct, thresholds={"at": 0.83}, coverages=(0.8,), probabilities=p)
    (found,) = summaries.resample([summary], sessions, np.random.default_rng(4), resamples=2000)
    intervals = found.intervals()

    def risk(weights: np.ndarray) -> float:
        rows = np.repeat(np.arange(len(p)), weights.astype(int))
        return selective.risk_at_coverage(p[rows], correct[rows], 0.8)

    executed = p >= 0.83
    recomputed = {
        "brier": lambda w: selective.brier(p, correct, w),
        "eaurc": lambda w: selective.eaurc(p, correct, w),
        "at": lambda w: (w * executed).sum() / w.sum(),
        "at.precision": lambda w: (w * executed * correct).sum() / (w * executed).sum(),
        "risk_at_coverage_80": risk,
    }
    for name, statistic in recomputed.items():
        slow = cluster_interval(statistic, sessions, np.random.default_rng(5), resamples=1000)
        width = slow.high - slow.low
        assert intervals[name].estimate == pytest.approx(slow.estimate), name
        # An end of an interval has a resampling error of about 3 % of its width.
        assert abs(intervals[name].low - slow.low) < 0.2 * width, name
        assert abs(intervals[name].high - slow.high) < 0.2 * width, name


def test_a_threshold_stays_exact_where_scores_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    p, correct, sessions = simulated(900, 6)
    thresholds = {"a": 0.801, "b": 0.8}
    whole = summaries.summarize(p, correct, thresholds=thresholds)
    monkeypatch.setattr(summaries, "MAX_BLOCKS", 8)
    merged = summaries.summarize(p, correct, thresholds=thresholds)
    assert merged.cells.count < whole.cells.count / 10
    one, two = (
        summaries.resample([summary], sessions, np.random.default_rng(7), resamples=50)[0]
        for summary in (whole, merged)
    )
    for name in ("a", "b", "a.precision", "b.precision"):
        j = whole.names.index(name)
        np.testing.assert_allclose(two.draws[:, j], one.draws[:, j])


def test_calibration_error_is_spread_around_its_estimate() -> None:
    """Each resample adds noise to a calibration error; its interval must not sit above the estimate."""
    p, correct, sessions = simulated(1500, 8)
    summary = summaries.summarize(p, correct, probabilities=p)
    (found,) = summaries.resample([summary], sessions, np.random.default_rng(9), resamples=400)
    interval = found.intervals()["ece"]
    assert interval.estimate == pytest.approx(selective.ece(p, correct))
    assert 0 <= interval.low < interval.estimate < interval.high


def test_groups_by_hand() -> None:
    # Group a at 0.5: two of three run, one of them right; b has no threshold; c has no steps.
    scores, correct = [0.9, 0.6, 0.1, 0.7, -np.inf], [1, 0, 1, 1, 0]
    summary = summaries.summarize_groups(scores, correct, [0, 0, 0, 1, 1], {"a": 0.5, "b": None, "c": 0.2})
    found = dict(zip(summary.names, summary.estimates, strict=True))
    nan = math.nan
    assert found == pytest.approx(
        {
            "a": 2 / 3,
            "a.precision": 0.5,
            "a.correct": 2 / 3,
            "b": 0.0,
            "b.precision": nan,
            "b.correct": 0.5,
            "c": nan,
            "c.precision": nan,
            "c.correct": nan,
        },
        nan_ok=True,
    )


def test_a_score_does_not_differ_from_itself() -> None:
    p, correct, sessions = simulated(400, 10)
    both = [summaries.summarize(p, correct, probabilities=p), summaries.summarize(p**2, correct)]
    one, two = summaries.resample(both, sessions, np.random.default_rng(0), resamples=100)
    found = summaries.compare(one, two)
    assert set(found) == {"auroc", "auprc", "aurc", "eaurc", "augrc"}
    assert all(difference == (0.0, 0.0, 0.0, 1.0) for difference in found.values())


def test_pairing_narrows_a_difference() -> None:
    p, correct, sessions = simulated(3000, 11)
    noisy = p + np.random.default_rng(12).normal(scale=0.05, size=len(p))
    pair = summaries.resample(
        [summaries.summarize(p, correct), summaries.summarize(noisy, correct)],
        sessions,
        np.random.default_rng(13),
        resamples=500,
    )
    found = summaries.compare(*pair)["auroc"]
    alone = [one.intervals()["auroc"] for one in pair]
    assert found.estimate == pytest.approx(alone[0].estimate - alone[1].estimate)
    assert found.high - found.low < 0.6 * min(one.high - one.low for one in alone)
    assert found.p_value < 0.05


def test_only_resamples_of_one_call_are_compared() -> None:
    p, correct, sessions = simulated(100, 14)
    one, two = (
        summaries.resample([summaries.summarize(p, correct)], sessions, np.random.default_rng(0), resamples=b)[0]
        for b in (10, 20)
    )
    with pytest.raises(HandrailError, match="10 resamples against 20"):
        summaries.compare(one, two)


def test_one_session_says_nothing_of_differences() -> None:
    p, correct, _ = simulated(50, 15)
    both = [summaries.summarize(p, correct), summaries.summarize(-p, correct)]
    found = summaries.compare(*summaries.resample(both, np.zeros(50), np.random.default_rng(0)))["auroc"]
    assert math.isfinite(found.estimate)
    assert all(math.isnan(value) for value in found[1:])


@pytest.mark.slow
def test_p_values_of_equally_good_scores_are_not_too_small() -> None:
    """Two scores that are equally good, each leaning its own way in a session, where steps are right together.

    A p-value of at most 0.05 comes up in about 6 % of data sets of 50 sessions (the bootstrap is a little narrow); that
    150 of them give more than 24 (16 %) has then a chance below 1e-4. With rows taken as independent it is over a
    fifth of them.
    """
    rng = np.random.default_rng(16)
    sessions = np.repeat(np.arange(50), 6)
    small = naive = 0
    for _ in range(150):
        correct = rng.random(300) < np.repeat(rng.beta(0.9, 0.3, size=50), 6)
        leans = [np.repeat(rng.normal(size=50), 6) for _ in range(2)]
        both = [
            summaries.summarize(np.round(correct + 0.5 * rng.normal(size=300) + lean, 1), correct) for lean in leans
        ]
        for clusters in (sessions, None):
            pair = summaries.resample(both, clusters, rng, resamples=120)
            p = summaries.compare(*pair)["auroc"].p_value
            small += clusters is not None and p <= 0.05
            naive += clusters is None and p <= 0.05
    assert small <= 24
    assert naive > 24
