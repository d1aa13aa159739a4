from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from handrail.algorithms import selective, summaries
from handrail.algorithms.bootstrap import cluster_interval
from handrail.envs.errors import HandrailError

# Five steps, most confident first: right, wrong and right tied, right, wrong.
SCORES = np.array([0.9, 0.7, 0.7, 0.4, 0.2])
CORRECT = np.array([1, 0, 1, 1, 0])

cases = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40)


def arrays(case: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in case], dtype=float), np.array([right for _, right in case])


def test_curve_by_hand() -> None:
    curve = selective.coverage_curve(SCORES, CORRECT)
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.7, 0.4, 0.2])
    np.testing.assert_allclose(curve.coverage, [1 / 5, 3 / 5, 4 / 5, 1])
    np.testing.assert_allclose(curve.precision, [1, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(curve.generalized_risk, [0, 1 / 5, 1 / 5, 2 / 5])


def test_areas_by_hand() -> None:
    # Risk 0 for a fifth, 1/3 for two fifths, 1/4 for one, 2/5 for the last.
    assert selective.aurc(SCORES, CORRECT) == pytest.approx((0 + 2 / 3 + 1 / 4 + 2 / 5) / 5)
    # Trapezoids over widths 1/5, 2/5, 1/5, 1/5 of generalized risks 0, 0, 1/5, 1/5, 2/5.
    assert selective.augrc(SCORES, CORRECT) == pytest.approx((0 + 2 * 0.1 + 0.2 + 0.3) / 5)
    # Of six pairs: the first right beats both wrong, the tied one beats one and ties one, the last beats one.
    assert selective.auroc(SCORES, CORRECT) == pytest.approx((2 + 1.5 + 1) / 6)


def test_aurc_without_ties_is_the_mean_error_of_the_top_k() -> None:
    rng = np.random.default_rng(1)
    scores, correct = rng.normal(size=200), rng.random(200) < 0.7
    errors = ~correct[np.argsort(-scores)]
    expected = np.mean([errors[:k].mean() for k in range(1, 201)])
    assert selective.aurc(scores, correct) == pytest.approx(expected)


@given(cases)
def test_agrees_with_scikit_learn(case: list[tuple[int, bool]]) -> None:
    scores, correct = arrays(case)
    if correct.any() and not correct.all():
        assert selective.auroc(scores, correct) == pytest.approx(roc_auc_score(correct, scores))
    if correct.any():
        assert selective.auprc(scores, correct) == pytest.approx(average_precision_score(correct, scores))
        assert selective.f1(scores, correct, 3.0) == pytest.approx(f1_score(correct, scores >= 3.0))
    assert selective.brier(scores / 6, correct) == pytest.approx(brier_score_loss(correct, scores / 6))


@given(cases)
def test_augrc_closed_form(case: list[tuple[int, bool]]) -> None:
    scores, correct = arrays(case)
    accuracy = correct.mean()
    ranking = 0.0 if accuracy in (0, 1) else (1 - selective.auroc(scores, correct)) * accuracy * (1 - accuracy)
    assert selective.augrc(scores, correct) == pytest.approx(ranking + (1 - accuracy) ** 2 / 2)


@given(cases, st.randoms(use_true_random=False))
def test_nothing_depends_on_row_order_or_on_the_scale_of_scores(case: list[tuple[int, bool]], random) -> None:
    scores, correct = arrays(case)
    shuffled = list(case)
    random.shuffle(shuffled)
    other_scores, other_correct = arrays(shuffled)
    expected = selective.rank_statistics(scores, correct)
    assert selective.rank_statistics(np.exp(other_scores) - 7, other_correct) == pytest.approx(expected, nan_ok=True)


@given(cases, st.data())
def test_weights_are_repetitions(case: list[tuple[int, bool]], data: st.DataObject) -> None:
    scores, correct = arrays(case)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(case), max_size=len(case))))
    weighted = selective.rank_statistics(scores, correct, weights)
    repeated = selective.rank_statistics(np.repeat(scores, weights), np.repeat(correct, weights))
    assert weighted == pytest.approx(repeated, nan_ok=True)


@pytest.mark.parametrize(
    ("correct", "auroc", "auprc", "aurc", "augrc"),
    [
        ([], math.nan, math.nan, math.nan, math.nan),
        ([True, True, True], math.nan, 1.0, 0.0, 0.0),
        ([False, False, False], math.nan, math.nan, 1.0, 0.5),
    ],
)
def test_edge_cases(correct: list[bool], auroc: float, auprc: float, aurc: float, augrc: float) -> None:
    found = selective.rank_statistics(np.arange(len(correct), dtype=float), correct)
    eaurc = math.nan if math.isnan(aurc) else 0.0
    expected = {"auroc": auroc, "auprc": auprc, "aurc": aurc, "eaurc": eaurc, "augrc": augrc}
    assert found == pytest.approx(expected, nan_ok=True)


def test_one_score_for_all_is_one_point() -> None:
    scores, correct = np.full(4, 0.3), [True, True, True, False]
    curve = selective.coverage_curve(scores, correct)
    assert curve.coverage.tolist() == [1.0]
    assert curve.precision.tolist() == [0.75]
    # An ideal ranking errs in the last of four steps only: AURC 1/4 · 1/4.
    assert selective.rank_statistics(scores, correct) == pytest.approx(
        {"auroc": 0.5, "auprc": 0.75, "aurc": 0.25, "eaurc": 0.1875, "augrc": 0.125}
    )


def test_excess_by_hand() -> None:
    # Ideal: three right, then risks 1/4 and 2/5, so (1/4 + 2/5) / 5 of the area is not to be avoided.
    assert selective.eaurc(SCORES, CORRECT) == pytest.approx((0 + 2 / 3 + 1 / 4 + 2 / 5) / 5 - (1 / 4 + 2 / 5) / 5)
    assert selective.eaurc([5, 4, 3, 2, 1], [1, 1, 1, 0, 0]) == pytest.approx(0)


def test_risk_at_coverage_by_hand() -> None:
    # A fifth is reached by the first step; two fifths only by three, since the middle two are tied.
    for coverage, risk in ((0.2, 0), (0.4, 1 / 3), (0.6, 1 / 3), (0.61, 1 / 4), (0.8, 1 / 4), (1.0, 2 / 5)):
        assert selective.risk_at_coverage(SCORES, CORRECT, coverage) == pytest.approx(risk)
    # Seven of ten steps are reached by seven, whatever 0.7 · 10 is in floating point.
    assert selective.risk_at_coverage(np.arange(10), [1, 1, 1, 0, 1, 1, 1, 1, 1, 1], 0.7) == pytest.approx(1 / 7)
    assert math.isnan(selective.risk_at_coverage([0.5, -np.inf], [1, 1], 0.8))
    assert math.isnan(selective.risk_at_coverage([], [], 0.8))
    with pytest.raises(HandrailError, match="coverage is 80"):
        selective.risk_at_coverage([0.5], [1], 80)


def test_ece_by_hand() -> None:
    # Two bins of equal width: (0, 0.5] holds 0.5 and 0.1 (mean 0.3, half right), (0.5, 1] holds 0.9 (wrong).
    assert selective.ece([0.5, 0.1, 0.9], [1, 0, 0], bins=2, equal_mass=False) == pytest.approx(
        2 / 3 * 0.2 + 1 / 3 * 0.9
    )
    # Two of equal mass: 0.1 and 0.2 (mean 0.15, none right), 0.3 and 0.9 (mean 0.6, half right).
    assert selective.ece([0.2, 0.9, 0.1, 0.3], [0, 1, 0, 0], bins=2) == pytest.approx(0.5 * 0.15 + 0.5 * 0.1)
    # Tied steps stay together: the middle of 0.2 lies in the first half, so 0.9 is alone in the second.
    assert selective.ece([0.2, 0.2, 0.2, 0.9], [0, 0, 1, 1], bins=2) == pytest.approx(
        0.75 * abs(0.2 - 1 / 3) + 0.25 * 0.1
    )
    assert selective.ece([0.0, 1.0], [0, 1]) == 0.0
    assert math.isnan(selective.ece([], []))


def test_thresholds_by_hand() -> None:
    assert selective.select_threshold(SCORES, CORRECT, 0.75) == 0.4
    assert selective.select_threshold(SCORES, CORRECT, 0.9) == 0.9
    assert selective.select_threshold(SCORES, 1 - CORRECT, 0.9) is None
    assert selective.coverage_at_precision(SCORES, CORRECT, 0.75) == pytest.approx(0.8)
    assert selective.apply_threshold(SCORES, CORRECT, 0.7) == pytest.approx((0.6, 2 / 3, 3))
    assert selective.apply_threshold(SCORES, CORRECT, None) == pytest.approx((0.0, math.nan, 0), nan_ok=True)
    assert selective.f1(SCORES, CORRECT, None) == 0.0


def test_a_step_without_confidence_never_runs() -> None:
    scores = np.array([0.5, -np.inf])
    assert selective.select_threshold(scores, [True, True], 0.9) == 0.5
    assert selective.apply_threshold(scores, [True, True], -np.inf) == pytest.approx((0.5, 1.0, 1))


def test_threshold_holds_for_single_precision_scores() -> None:
    scores = np.array([0.1, 0.2, 0.7], dtype=np.float32)
    threshold = selective.select_threshold(scores, [False, True, True], 0.9)
    assert selective.apply_threshold(scores, [False, True, True], threshold).n == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: selective.auroc([0.1, math.nan], [0, 1]), "NaN.*row 1"),
        (lambda: selective.auroc([0.1, 0.2], [0, 2]), "2.*row 1.*expected 0 or 1"),
        (lambda: selective.auroc([0.1], [0, 1]), "1 scores but 2"),
        (lambda: selective.brier([-0.5], [1]), r"brier.*-0\.5.*\[0, 1\]"),
        (lambda: selective.ece([1.5], [1]), "ece.*1.5"),
        (lambda: selective.select_threshold([0.5], [1], 95), r"target is 95.*\(0, 1\]"),
        (lambda: selective.platt([-np.inf], [1]), "finite"),
    ],
)
def test_mistakes_are_told(call, words: str) -> None:
    with pytest.raises(HandrailError, match=words):
        call()


def test_platt_finds_the_line_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=40_000)
    correct = rng.random(40_000) < 1 / (1 + np.exp(-(1.5 * scores + 0.5)))
    # Standard errors are below 0.02: five of them, a false alarm in a million.
    assert selective.platt(scores, correct) == pytest.approx((1.5, 0.5), abs=0.1)
    p = selective.calibrated(scores, correct, [-1e9, 0.0, 1e9])
    assert 0 <= p[0] < p[1] < p[2] <= 1


@pytest.mark.parametrize("scores", [np.array([-3.0, -2.0, 1.0, 2.0]), np.zeros(4)])
@pytest.mark.parametrize("correct", [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
def test_platt_stays_finite(scores: np.ndarray, correct: list[int]) -> None:
    slope, intercept = selective.platt(scores, correct)
    assert math.isfinite(slope)
    assert math.isfinite(intercept)
    p = selective.calibrated(scores, correct, scores)
    assert ((p > 0) & (p < 1)).all()


def test_fast_intervals_agree_with_recomputing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    correct = rng.random(600) < 0.8
    scores = np.round(rng.normal(size=600) + correct, 2)
    clusters = rng.integers(60, size=600)
    fast = selective.rank_intervals(scores, correct, clusters, np.random.default_rng(4), resamples=2000)
    monkeypatch.setattr(summaries, "MAX_BLOCKS", 100)
    merged = selective.rank_intervals(scores, correct, clusters, np.random.default_rng(5), resamples=2000)
    for name in ("auroc", "auprc", "aurc", "augrc"):
        slow = cluster_interval(
            lambda weights, name=name: selective.rank_statistics(scores, correct, weights)[name],
            clusters,
            np.random.default_rng(6),
            resamples=1000,
        )
        width = slow.high - slow.low
        for other in (fast[name], merged[name]):
            assert other.estimate == slow.estimate
            # An end of the interval has a resampling error of about 3 % of its width.
            assert abs(other.low - slow.low) < 0.2 * width
            assert abs(other.high - slow.high) < 0.2 * width


def test_threshold_interval_agrees_with_recomputing() -> None:
    rng = np.random.default_rng(3)
    correct, scores, clusters = rng.random(600) < 0.8, rng.random(600), rng.integers(60, size=600)
    coverage, precision = selective.threshold_intervals(scores, correct, clusters, 0.4, np.random.default_rng(4))
    executed = scores >= 0.4
    slow = cluster_interval(lambda w: (w * executed * correct).sum() / (w * executed).sum(), clusters, rng)
    assert precision.estimate == pytest.approx(slow.estimate)
    assert abs(precision.low - slow.low) < 0.2 * (slow.high - slow.low)
    assert abs(precision.high - slow.high) < 0.2 * (slow.high - slow.low)
    assert coverage.low < executed.mean() < coverage.high


def test_band_holds_the_curve_and_ends_at_the_base_rate() -> None:
    rng = np.random.default_rng(7)
    correct = rng.random(500) < 0.8
    scores = rng.normal(size=500) + correct
    low, high = selective.precision_band(scores, correct, rng.integers(80, size=500), [0.25, 1.0], rng, resamples=300)
    curve = selective.coverage_curve(scores, correct)
    for j, coverage in enumerate((0.25, 1.0)):
        assert low[j] < np.interp(coverage, curve.coverage, curve.precision) < high[j]
    assert np.isnan(selective.precision_band(scores, correct, np.zeros(500), [1.0], rng)[0]).all()


def simulated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.8
    return rng.normal(size=n) + 2 * correct, correct, rng.integers(n // 10, size=n)


def test_metric_keys() -> None:
    scores, correct, _ = simulated(1000, 1)
    test_scores, test_correct, sessions = simulated(1000, 2)
    found = selective.selective_metrics(
        "critic.x",
        scores,
        correct,
        test_scores,
        test_correct,
        sessions,
        np.random.default_rng(0),
        targets=(0.95,),
        resamples=200,
    )
    ranged = ["auroc", "auprc", "aurc", "eaurc", "augrc", "brier", "ece"]
    ranged += ["coverage_at_precision_95", "coverage_at_precision_95.precision"]
    ranged += [f"risk_at_coverage_{coverage}" for coverage in (50, 80, 90)]
    plain = ("f1", "coverage_at_precision_95.threshold")
    expected = {f"critic.x.{key}{end}" for key in ranged for end in ("", ".ci_low", ".ci_high")}
    assert set(found) == expected | {f"critic.x.{key}" for key in plain}
    for key in ranged:
        assert found[f"critic.x.{key}.ci_low"] <= found[f"critic.x.{key}"] <= found[f"critic.x.{key}.ci_high"]
    threshold = selective.select_threshold(scores, correct, 0.95)
    executed = test_scores >= threshold
    assert found["critic.x.coverage_at_precision_95"] == pytest.approx(executed.mean())
    assert found["critic.x.coverage_at_precision_95.precision"] == pytest.approx(test_correct[executed].mean())
    # Log-odds were mapped to probabilities: no worse than always saying the base rate.
    assert found["critic.x.brier"] < 0.8 * 0.2


def test_metrics_leave_out_what_is_undefined() -> None:
    found = selective.selective_metrics(
        "", [0.1, 0.2], [0, 0], [0.1, 0.2], [0, 0], ["a", "b"], np.random.default_rng(0), targets=(0.9,), resamples=50
    )
    assert found["coverage_at_precision_90"] == 0.0
    assert not {"auroc", "coverage_at_precision_90.precision", "coverage_at_precision_90.threshold"} & set(found)
    assert all(math.isfinite(value) for value in found.values())


def test_same_seed_same_metrics() -> None:
    scores, correct, sessions = simulated(300, 3)
    one, two = (
        selective.selective_metrics(
            "m", scores, correct, scores, correct, sessions, np.random.default_rng(5), resamples=50
        )
        for _ in range(2)
    )
    assert one == two


@pytest.mark.parametrize(("target", "name"), [(0.95, "95"), (0.9, "90"), (0.995, "99_5"), (0.98, "98")])
def test_percent(target: float, name: str) -> None:
    assert selective.percent(target) == name


@settings(max_examples=30)
@given(cases)
def test_selected_threshold_is_the_largest_coverage_that_reaches_the_target(case: list[tuple[int, bool]]) -> None:
    scores, correct = arrays(case)
    threshold = selective.select_threshold(scores, correct, 0.7)
    reaching = [t for t in set(scores) if correct[scores >= t].mean() >= 0.7]
    assert threshold == (min(reaching) if reaching else None)
