"""Estimates from audited steps: unbiased by enumeration, intervals by simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binom

from handrail.algorithms.audit import Audits, audit_metrics, audits_needed, audits_of, hajek, horvitz_thompson
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Feedback, Session, Step, UIState


def audits(
    right: Sequence[bool], audited: Sequence[bool], probability: Sequence[float], sessions: Sequence[Any] | None = None
) -> Audits:
    names = range(len(right)) if sessions is None else sessions
    return Audits(
        np.array(right, dtype=bool),
        np.array(audited, dtype=bool),
        np.array(probability, dtype=float),
        np.array(names, str),
    )


def outcomes(probability: Sequence[float]) -> list[tuple[tuple[bool, ...], float]]:
    """All outcomes of the audit draws with their chances."""
    found = []
    for seen in itertools.product([False, True], repeat=len(probability)):
        found.append((seen, math.prod(p if s else 1 - p for s, p in zip(seen, probability, strict=True))))
    return found


RIGHT = [True, True, False, True, False, True, True]
CHANCES = [0.1, 0.5, 0.8, 0.2, 0.9, 1.0, 0.05]


def test_horvitz_thompson_is_unbiased_over_all_outcomes() -> None:
    found = [(horvitz_thompson(audits(RIGHT, seen, CHANCES)), chance) for seen, chance in outcomes(CHANCES)]
    assert sum(chance for _, chance in found) == pytest.approx(1)
    assert sum(one.interval.estimate * chance for one, chance in found) == pytest.approx(5 / 7, abs=1e-12)
    # The plain share of right ones among the audited is not: it is what weights are for.
    plain = 0.0
    some = 0.0
    for seen, chance in outcomes(CHANCES):
        if any(seen):
            plain += chance * sum(r and s for r, s in zip(RIGHT, seen, strict=True)) / sum(seen)
            some += chance
    assert abs(plain / some - 5 / 7) > 0.05


def test_an_audit_may_change_what_follows() -> None:
    # The second step is reached, and right or not, by whether the first was audited.
    expected = truth = 0.0
    for first, second in itertools.product([False, True], repeat=2):
        chance = (0.25 if first else 0.75) * 0.5
        made = horvitz_thompson(audits([False, first], [first, second], [0.25, 0.5]))
        expected += chance * 2 * made.interval.estimate
        truth += chance * first
    assert expected == pytest.approx(truth)


def test_hajek_with_equal_chances_is_unbiased_given_any_audit() -> None:
    chances = [0.3] * 5
    right = [True, False, True, True, False]
    total = some = 0.0
    for seen, chance in outcomes(chances):
        if any(seen):
            total += chance * hajek(audits(right, seen, chances)).interval.estimate
            some += chance
    assert total / some == pytest.approx(0.6, abs=1e-12)


def test_estimates_by_hand() -> None:
    made = audits([True, False, True, True], [True, True, True, False], [0.5, 0.25, 1.0, 0.1], ["a", "a", "b", "b"])
    exact = horvitz_thompson(made)
    assert exact.interval.estimate == (2 + 1) / 4
    # Session sums 2 and 1 of 2 steps each, so residuals 0.5 and -0.5: sqrt(2 / 1 * 0.5) / 4.
    assert exact.error == pytest.approx(1 / 4)
    ratio = hajek(made)
    assert ratio.interval.estimate == (2 + 1) / (2 + 4 + 1)
    # Residuals 2 - 6 * 3 / 7 = -4 / 7 and 1 - 3 / 7 = 4 / 7.
    assert ratio.error == pytest.approx(math.sqrt(2 * 2 * (4 / 7) ** 2) / 7)
    assert (ratio.audits, ratio.steps) == (3, 4)
    assert ratio.wrong.estimate == pytest.approx(4 / 7)
    assert ratio.wrong.low == 1 - ratio.interval.high


def test_independent_steps_have_the_exact_binomial_interval() -> None:
    right = [True] * 95 + [False] * 5
    made = hajek(audits(right, [True] * 100, [0.2] * 100))
    # The sample variance has 99 in its denominator, not 100.
    size = 99
    low, high = beta.ppf(0.025, 0.95 * size, 0.05 * size + 1), beta.ppf(0.975, 0.95 * size + 1, 0.05 * size)
    assert made.interval == pytest.approx((0.95, low, high))


def test_no_error_seen_is_not_none_made() -> None:
    made = hajek(audits([True] * 59, [True] * 59, [0.1] * 59))
    # 59 of 59: the lower bound is the 59th root of 0.025.
    assert made.interval == pytest.approx((1.0, 0.025 ** (1 / 59), 1.0))
    assert hajek(audits([False] * 59, [True] * 59, [0.1] * 59)).interval == pytest.approx((0, 0, 1 - 0.025 ** (1 / 59)))


def test_steps_of_one_session_count_less() -> None:
    right = [True, True, True, False] * 10
    apart = hajek(audits(right, [True] * 40, [0.5] * 40))
    grouped = hajek(audits(sorted(right), [True] * 40, [0.5] * 40, [i // 5 for i in range(40)]))
    assert grouped.error > 1.5 * apart.error
    assert grouped.interval.low < apart.interval.low
    assert grouped.interval.estimate == apart.interval.estimate


def test_what_cannot_be_told_is_nan() -> None:
    nobody = audits([True, True], [False, False], [0.5, 0.5])
    assert math.isnan(hajek(nobody).interval.estimate)
    assert horvitz_thompson(nobody).interval.estimate == 0
    single = audits([True, False], [True, True], [0.5, 0.5], ["a", "a"])
    assert hajek(single).interval.estimate == 0.5
    assert math.isnan(hajek(single).interval.low)
    assert math.isnan(horvitz_thompson(single).error)
    nothing = audits([], [], [])
    assert math.isnan(horvitz_thompson(nothing).interval.estimate)
    assert audit_metrics("audit", nothing) == {"audit.steps": 0, "audit.audits": 0}


def drawn(rng: np.random.Generator, sessions: int, shares: Sequence[float]) -> Audits:
    """Steps whose sessions differ in how often they are right (0.94 on average), audited by two chances."""
    lengths = rng.integers(1, 9, sessions)
    names = np.repeat(np.arange(sessions), lengths)
    right = rng.random(len(names)) < rng.beta(0.94 * 6, 0.06 * 6, sessions)[names]
    chance = rng.choice(shares, len(names))
    return Audits(right, rng.random(len(names)) < chance, chance, names.astype(str))


@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.1, 0.5)])
def test_intervals_hold_the_truth_as_often_as_they_say(shares: tuple[float, float]) -> None:
    rng = np.random.default_rng(7)
    runs, exact, ratio = 400, [], []
    for _ in range(runs):
        made = drawn(rng, 300, shares)
        exact.append(horvitz_thompson(made))
        ratio.append(hajek(made))
    for found in (exact, ratio):
        mean = np.mean([one.interval.estimate for one in found])
        spread = np.std([one.interval.estimate for one in found])
        # Off by more than four standard errors once in 16,000 runs; Hájek's bias is of a smaller order.
        assert abs(mean - 0.94) < 4 * spread / math.sqrt(runs)
        # The mean standard error is that over runs, which 400 of them tell to 3.5 %.
        assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.15)
        hits = sum(one.interval.low <= 0.94 <= one.interval.high for one in found)
        # At 95 % each, fewer hits than this come once in 10,000 runs.
        assert hits >= binom.ppf(1e-4, runs, 0.95)
        assert hits < runs
    assert np.std([one.interval.estimate for one in ratio]) < 0.5 * np.std([one.interval.estimate for one in exact])


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, math.nan])
def test_chances_outside_zero_to_one_are_refused(probability: float) -> None:
    with pytest.raises(HandrailError, match=r"row 1, session b.*\(0, 1\].*audit_share"):
        audits([True, True], [True, False], [1.0, probability], ["a", "b"])


def test_columns_are_of_one_length() -> None:
    with pytest.raises(HandrailError, match="2 verdicts, 1 marks, 2 probabilities and 2 sessions"):
        audits([True, True], [True], [0.5, 0.5])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_levels_are_shares(level: float) -> None:
    for function in (hajek, horvitz_thompson):
        with pytest.raises(HandrailError, match="level"):
            function(audits([True], [True], [0.5]), level)


def session(name: str, notes: list[tuple[str, float, str | None]]) -> Session:
    """A session of (reason, probability, verdict)."""
    state, act = UIState("home", None), Action("click", "b")
    steps = tuple(
        Step(
            i,
            state,
            (),
            act,
            "policy" if verdict is None else "operator",
            feedback=None if verdict is None else Feedback(act, "accept" if verdict == "accept" else "reject"),
        )
        for i, (_, _, verdict) in enumerate(notes)
    )
    runtime = [{"reason": reason, "probability": probability} for reason, probability, _ in notes]
    return Session(name, "test", "issue", "ann", steps=steps, hidden={"runtime": runtime})


def test_audits_are_read_from_sessions() -> None:
    made = audits_of(
        [
            session("a", [("non_critical", 0.0, None), ("confident", 0.2, None), ("audit", 0.2, "accept")]),
            session("b", [("low_confidence", 1.0, "reject"), ("audit", 0.5, "reject"), ("guardrail", 1.0, "accept")]),
        ]
    )
    assert made.sessions.tolist() == ["a", "a", "b"]
    assert made.audited.tolist() == [False, True, True]
    assert made.right.tolist() == [False, True, False]
    assert made.probability.tolist() == [0.2, 0.2, 0.5]
    found = audit_metrics("selective.audit", made)
    assert found["selective.audit.steps"] == 3
    assert found["selective.audit.audits"] == 2
    assert found["selective.audit.precision"] == pytest.approx(5 / 7)
    assert found["selective.audit.precision_unbiased"] == pytest.approx(5 / 3)
    assert "selective.audit.precision.ci_low" in found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Session("a", "t", "i", "o", steps=session("a", [("audit", 1.0, None)]).steps), "0 notes for 1 steps"),
        (session("a", [("audit", 0.5, None)]), "step 0: audited, but there is no verdict"),
        (session("a", [("confident", 0.0, None)]), "audit_share"),
    ],
)
def test_sessions_that_cannot_be_read(given: Session, words: str) -> None:
    with pytest.raises(HandrailError, match=words):
        audits_of([given])


def test_number_of_audits_gives_the_half_width() -> None:
    for share, half in ((0.95, 0.02), (0.99, 0.005), (0.5, 0.1)):
        n = audits_needed(share, half)
        assert 1.959964 * math.sqrt(share * (1 - share) / n) <= half
        assert 1.959964 * math.sqrt(share * (1 - share) / (n - 1)) > half
    assert audits_needed(0.5, 0.1, level=0.9) == math.ceil(1.6448536**2 * 25)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 1.0, "half_width": 0.1}, "share"),
        ({"share": 0.9, "half_width": 0.0}, "half_width"),
        ({"share": 0.9, "half_width": 0.1, "level": 1.0}, "level"),
        ({"share": 0.9, "half_width": 0.1, "design_effect": 0.0}, "design_effect"),
    ],
)
def test_number_of_audits_is_asked_for_in_range(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(HandrailError, match=words):
        audits_needed(**arguments)
