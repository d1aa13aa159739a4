"""Policies of single issues: who reads what, at running sessions and finished ones, and how they are kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from desks import assert_same, follow, observe
from toys import random_sessions, sharpen, tiny_policy

from handrail.agents.assess import assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder, Suggestion
from handrail.agents.desk import Desk
from handrail.agents.issue_desk import IssueDesk
from handrail.agents.policy import Policy
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Session

ISSUES = ("refund", "lost/card", "other")


@pytest.fixture(scope="module")
def policies() -> dict[str, Policy]:
    """Three policies that write unlike each other; `other` has none of its own."""
    pooled = sharpen(tiny_policy(random_sessions(100, 30), 0))
    found = {"other": pooled}
    for seed, issue in enumerate(ISSUES[:2], start=1):
        other: Any = sharpen(tiny_policy(random_sessions(100, 30), seed)).model
        found[issue] = pooled.reading_alike(other)
    return found


@pytest.fixture(scope="module")
def whole(policies: dict[str, Policy]) -> Policy:
    return policies["other"].specialised({issue: policies[issue] for issue in ISSUES[:2]})


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    return [
        msgspec.structs.replace(session, id=f"s{n}", issue=ISSUES[n % 3])
        for n, session in enumerate(random_sessions(5, 7))
    ]


def expected_of(policies: dict[str, Policy], sessions: list[Session]) -> list[Suggestion]:
    return [one for session in sessions for one in Decoder(policies[session.issue]).suggest([session])]


def test_each_session_is_read_by_the_policy_of_its_issue(
    policies: dict[str, Policy], whole: Policy, sessions: list[Session]
) -> None:
    expected = expected_of(policies, sessions)
    pooled = Decoder(policies["other"]).suggest(sessions)
    assert [one.tokens for one in expected] != [one.tokens for one in pooled]
    assert_same(Decoder(whole).suggest(sessions), expected)
    desk = IssueDesk(whole, Desk)
    assert_same(follow(desk, sessions, range(len(sessions))), expected)  # type: ignore[arg-type]
    assert len(desk) == 0


def test_assessments_are_those_of_the_policy_of_the_issue(
    policies: dict[str, Policy], whole: Policy, sessions: list[Session]
) -> None:
    cases = [Case(one, 0, one.steps[0].action, True) for one in sessions]
    expected = [assess(Decoder(policies[case.session.issue]), [case])[0] for case in cases]
    desk = IssueDesk(whole, Desk)
    for one in sessions:
        desk.begin(one.id, operator=one.operator)
    desk.suggest({one.id: observe(one, 0) for one in sessions}, {one.id: Action("wait") for one in sessions[::2]})
    running = desk.assess({case.session.id: case.suggestion for case in cases})
    assert list(running) == [one.id for one in sessions]
    for given in (assess(Decoder(whole), cases), list(running.values())):
        assert_same([one.suggestion for one in given], [one.suggestion for one in expected])
        for one, other in zip(given, expected, strict=True):
            np.testing.assert_allclose(one.after, other.after, rtol=1e-3, atol=1e-3)


def test_all_policies_are_kept_together(
    policies: dict[str, Policy], whole: Policy, sessions: list[Session], tmp_path: Path
) -> None:
    whole.save(tmp_path)
    again = Policy.load(tmp_path)
    assert sorted(again.own) == sorted(ISSUES[:2])
    assert_same(Decoder(again).suggest(sessions), expected_of(policies, sessions))
    assert all(one.encoder is again.encoder for one in again.own.values())
    policies["other"].save(tmp_path / "alone")
    assert Policy.load(tmp_path / "alone").own == {}


def test_what_is_shared_out_covers_every_place_once(whole: Policy) -> None:
    issues = ["other", "refund", "new", "refund", "lost/card", "other"]
    shared = whole.shared_out(issues)
    assert sorted(place for _, places in shared for place in places) == list(range(len(issues)))
    assert {tuple(places) for _, places in shared} == {(0, 2, 5), (1, 3), (4,)}
    assert all(not policy.own for policy, _ in shared)
    plain = copy.copy(whole)
    plain.own = {}
    assert plain.shared_out(issues) == [(plain, list(range(len(issues))))]


def test_mistaken_calls_are_told(whole: Policy, sessions: list[Session]) -> None:
    desk = IssueDesk(whole, Desk)
    desk.begin("x")
    with pytest.raises(HandrailError, match="a session 'x' is running"):
        desk.begin("x")
    with pytest.raises(HandrailError, match="no suggestion was made in session 'x'"):
        desk.assess({"x": Action("wait")})
    desk.finish("x")
    with pytest.raises(HandrailError, match="no session 'x' is running, of 0"):
        desk.finish("x")
