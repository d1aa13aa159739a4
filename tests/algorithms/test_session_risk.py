"""Certificates about sessions: tables worked by hand, and how often they are wrong where errors go together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handrail.agents.gate import Gate
from handrail.algorithms.certify import binomial_tail, certify
from handrail.algorithms.session_risk import (
    SessionTable,
    certify_issues,
    certify_sessions,
    deferred,
    running_minimum,
    session_curve,
    session_table,
)
from handrail.envs.errors import HandrailError

# Session a: a wrong step at 0.7 and one at 0.4; b: all right; c: wrong at 0.9; d: right, with a step that never runs.
NAMES = ["a", "b", "a", "c", "b", "a", "d", "d"]
SCORES = [0.7, 0.8, 0.4, 0.9, 0.6, 0.9, 0.8, -math.inf]
RIGHT = [False, True, False, False, True, True, True, True]


def test_a_table_by_hand() -> None:
    table = session_table(NAMES, SCORES, RIGHT)
    assert len(table) == 4
    assert table.names.tolist() == ["a", "b", "c", "d"]
    assert table.risk.tolist() == [0.7, -math.inf, 0.9, -math.inf]
    assert table.floor.tolist() == [0.4, 0.6, 0.9, -math.inf]
    assert table.grid.tolist() == [0.9, 0.8, 0.7, 0.6, 0.4]
    curve = session_curve(table)
    assert curve.thresholds.tolist() == table.grid.tolist()
    # From 0.9 c runs alone (wrongly), from 0.6 b does too, from 0.4 a; d never does.
    assert curve.automated.tolist() == [0.25, 0.25, 0.25, 0.5, 0.75]
    assert curve.in_error.tolist() == [0.25, 0.25, 0.5, 0.5, 0.5]


@given(st.integers(1, 40), st.integers(0, 1000))
def test_the_curve_is_what_its_words_say(steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names, scores, right = rng.integers(6, size=steps), rng.integers(5, size=steps) / 4, rng.random(steps) < 0.6
    curve = session_curve(session_table(names, scores, right))
    for threshold, automated, in_error in zip(*vars(curve).values(), strict=True):
        runs = scores >= threshold
        alone = [runs[names == name].all() for name in np.unique(names)]
        wrong = [(runs & ~right)[names == name].any() for name in np.unique(names)]
        assert automated == pytest.approx(np.mean(alone))
        assert in_error == pytest.approx(np.mean(wrong))


def sessions_of(
    risk: list[float] | np.ndarray, grid: list[float] | np.ndarray, issues: list[str] | None = None
) -> SessionTable:
    """Sessions with these risks; all run alone at any threshold."""
    count = len(risk)
    kinds = np.array(issues if issues is not None else [""] * count)
    return SessionTable(
        np.arange(count).astype(str), kinds, np.asarray(risk, float), np.full(count, np.inf), np.asarray(grid, float)
    )


def test_a_session_that_operators_keep_is_as_sure_as_its_least_sure_step_so_far() -> None:
    names = ["b", "a", "b", "a", "a", "b"]
    scores = [0.6, 0.9, 0.8, 0.5, 0.7, math.nan]
    found = running_minimum(names, scores)
    np.testing.assert_array_equal(found, [0.6, 0.9, 0.6, 0.5, 0.5, math.nan])
    # Session a is wrong at its last step, whose own score is 0.7: it runs alone only where the step before did.
    right = [True, True, True, True, False]
    assert session_table(names[:5], scores[:5], right).risk.tolist() == [0.7, -math.inf]
    assert session_table(names[:5], found[:5], right).risk.tolist() == [0.5, -math.inf]


def test_what_does_not_reach_its_threshold_is_deferred() -> None:
    issues = ["card", "card", "loan", "fee", "fee", "fee"]
    scores = [0.8, 0.79, 1.0, 0.5, 0.49, math.nan]
    thresholds = {"card": 0.8, "loan": None}
    assert deferred(issues, scores, thresholds, 0.5).tolist() == [False, True, True, False, True, True]
    assert deferred(issues, scores, thresholds, None).tolist() == [False, True, True, True, True, True]


def test_fifty_nine_sessions_without_an_error_are_enough_and_fifty_eight_are_not() -> None:
    """0.95 ** 59 = 0.0485 is the first power below 0.05."""
    clean = -math.inf
    yes = certify_sessions(sessions_of([clean] * 59, [0.5, 0.2]), 0.05)
    assert (yes.threshold, yes.n_sessions, yes.n_errors, yes.automated, yes.further) == (0.2, 59, 0, 1.0, 0)
    assert yes.p_value == pytest.approx(0.95**59)
    no = certify_sessions(sessions_of([clean] * 58, [0.5, 0.2]), 0.05)
    assert (no.threshold, no.automated, no.further) == (None, 0.0, 1)
    assert no.p_value == pytest.approx(0.95**58)
    assert "1 further sessions" in no.reason


def test_the_sequence_stops_at_the_first_threshold_with_too_many_sessions_in_error() -> None:
    """With 93 sessions one error may be: P(Bin(93, 0.05) <= 1) = 0.95^93 + 93 * 0.05 * 0.95^92 = 0.0498."""
    risk = np.full(93, -math.inf)
    risk[:2] = [0.8, 0.3]
    found = certify_sessions(sessions_of(risk, [0.9, 0.8, 0.5, 0.3, 0.1]), 0.05)
    assert (found.threshold, found.n_errors) == (0.5, 1)
    assert found.p_value == pytest.approx(0.95**93 + 93 * 0.05 * 0.95**92)
    # A step that runs alone at exactly the threshold is in error, so nothing passes where the two errors are on top.
    none = certify_sessions(sessions_of(np.where(risk > 0, 0.9, risk), [0.9, 0.1]), 0.05)
    assert (none.threshold, none.n_errors) == (None, 2)
    # 124 is the first n with P(Bin(n, 0.05) <= 2) <= 0.05.
    assert none.further == 124 - 93
    assert float(binomial_tail(2, 124, 0.95)) <= 0.05 < float(binomial_tail(2, 123, 0.95))


def test_nothing_to_go_by() -> None:
    empty = session_table([], [], [])
    found = certify_sessions(empty, 0.05)
    assert (found.threshold, found.n_sessions, found.p_value, found.further) == (None, 0, 1.0, 59)
    assert len(session_curve(empty).thresholds) == 0
    never = session_table(["a", "b"], [-math.inf, -math.inf], [True, False])
    assert certify_sessions(never, 0.6, 0.5).threshold is None
    issues = certify_issues(empty, 0.05)
    assert (issues.thresholds, issues.pooled) == ({}, None)


def test_issues_stand_for_themselves_or_share() -> None:
    """At alpha 0.1 and delta 0.05 / 3, one session in error takes 58 sessions (by the exact tail, checked here)."""
    level = 0.05 / 3
    assert float(binomial_tail(1, 58, 0.9)) <= level < float(binomial_tail(1, 57, 0.9))
    issues = ["big"] * 80 + ["bad"] * 70 + ["small"] * 30 + ["tiny"] * 20
    risk = np.full(200, -math.inf)
    risk[80:150] = 0.9
    found = certify_issues(sessions_of(risk, [0.9, 0.5], issues), 0.1, 0.05)
    assert list(found.own) == ["bad", "big"]
    assert found.own["big"].delta == pytest.approx(level)
    assert found.own["big"].threshold == 0.5
    assert found.own["bad"].threshold is None
    assert found.pooled_groups == ("small", "tiny")
    assert found.pool is not None
    assert (found.pool.n_sessions, found.pool.threshold) == (50, 0.5)
    assert found.pool.scope == "pool of 2 small groups"
    assert found.thresholds == {"big": 0.5, "bad": None, "small": 0.5, "tiny": 0.5}
    gate = Gate(thresholds=found.thresholds, pooled=found.pooled)
    assert gate.thresholds["bad"] is None
    assert gate.pooled == 0.5


def test_delta_is_split_over_as_few_certificates_as_there_are() -> None:
    one = certify_issues(sessions_of([-math.inf] * 80, [0.5], ["only"] * 80), 0.1, 0.05)
    assert one.own["only"].delta == 0.05
    assert (one.pool, one.pooled, one.pooled_groups) == (None, None, ())
    small = certify_issues(sessions_of([-math.inf] * 60, [0.5], ["a", "b", "c"] * 20), 0.1, 0.05)
    assert small.own == {}
    assert small.pool is not None
    assert (small.pool.delta, small.pool.n_sessions) == (0.05, 60)
    asked = certify_issues(sessions_of([-math.inf] * 60, [0.5], ["a", "b", "c"] * 20), 0.1, 0.05, min_size=20)
    assert set(asked.own) == {"a", "b", "c"}
    assert asked.own["a"].delta == pytest.approx(0.05 / 3)


STEPS, SESSIONS, ALPHA, DELTA, RUNS = 6, 152, 0.1, 0.1, 1000
PLACE = 0.5
"""Score at which the true share of sessions in error is exactly alpha."""


def correlated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps of sessions of which a fifth are bad: all their steps are wrong, and all steps have nearly one score.

    A bad session's highest score is uniform, so at a threshold t a share (1 − t) / 5 is in error: alpha at t = 0.5.
    """
    bad = rng.random(SESSIONS) < 0.2
    top = rng.random(SESSIONS)
    scores = top[:, None] - 0.001 * np.arange(STEPS)
    names = np.repeat(np.arange(SESSIONS), STEPS)
    return names, scores.reshape(-1), np.repeat(~bad, STEPS)


def test_wrong_certificates_are_as_rare_as_promised_where_errors_go_together() -> None:
    """A certificate is wrong if its threshold is below 0.5.

    152 sessions allow 10 errors: P(Bin(152, 0.1) <= 10) = 0.097, so about 97 of 1,000 certificates are wrong; more than
    141 has chance below 2e-5. A level three times too high would be seen. Where the same steps are tested as if they
    were independent, the promise fails: no threshold keeps 80.1 % right, yet more than a fifth of the runs certify it
    at delta = 0.1.
    """
    rng = np.random.default_rng(5)
    wrong = by_steps = 0
    for _ in range(RUNS):
        names, scores, right = correlated(rng)
        found = certify_sessions(session_table(names, scores, right), ALPHA, DELTA)
        wrong += found.threshold is not None and found.threshold < PLACE
    assert wrong <= 141
    assert wrong >= 60
    for _ in range(200):
        _, scores, right = correlated(rng)
        # A step is wrong with chance 0.2 at any score, so no threshold keeps 80.1 % right.
        by_steps += certify(scores, right, 0.801, DELTA, starts=(1.0,)).threshold is not None
    assert by_steps > 40


def test_mistakes_are_told() -> None:
    table = sessions_of([0.5], [0.5])
    for call, words in (
        (lambda: certify_sessions(table, 1.0), "alpha is 1.0"),
        (lambda: certify_sessions(table, 0.1, 0.0), "delta is 0.0"),
        (lambda: certify_issues(table, 0.0), "alpha is 0.0"),
        (lambda: session_table(["a"], [0.5, 0.6], [True]), "1 session ids, 2 scores"),
        (lambda: session_table(["a"], [math.nan], [True]), "row 0 is nan"),
        (lambda: session_table(["a"], [math.inf], [True]), "row 0 is inf"),
        (lambda: session_table(["a", "a"], [0.5, 0.5], [True, True], ["x", "y"]), "session a has issue 'y'"),
    ):
        with pytest.raises(HandrailError, match=words):
            call()
