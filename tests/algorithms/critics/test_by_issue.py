"""Critics of single issues: who judges what, from which verdicts on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from toys import colour_sessions, tiny_policy

from handrail.agents.assess import assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms.config import ByIssueConfig, ProbeConfig
from handrail.algorithms.critics import by_issue, probe
from handrail.envs.schema import Action

DISLIKED = {"first/kind": "blue", "second": "red"}
"""Issue -> the colour that its operators reject."""


def cases_of(issue: str, seed: int, sessions: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases = []
    for session in colour_sessions(seed, sessions):
        named = msgspec.structs.replace(session, id=f"{issue}-{seed}-{session.id}", issue=issue)
        for step in named.steps:
            colour = str(rng.choice(["red", "green", "blue"]))
            cases.append(Case(named, step.index, Action("send_reply", colour), colour != DISLIKED.get(issue)))
    return cases


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(colour_sessions(0, 50))


@pytest.fixture(scope="module")
def verdicts() -> list[Case]:
    return [*cases_of("first/kind", 1, 40), *cases_of("second", 2, 40), *cases_of("rare", 3, 2)]


CONFIG = ByIssueConfig(kind="probe", least=60, least_rejected=10)


def test_each_issue_is_judged_by_what_was_learned_of_it_alone(
    policy: Policy, verdicts: list[Case], tmp_path: Path
) -> None:
    critic = by_issue.fit(policy, verdicts, CONFIG, tmp_path / "made", 0)
    assert sorted(critic.own) == sorted(DISLIKED)
    judged = [
        *cases_of("second", 5, 10),
        *cases_of("first/kind", 4, 10),
        *cases_of("rare", 6, 3),
        *cases_of("new", 7, 3),
    ]
    judged = [judged[n] for n in np.random.default_rng(0).permutation(len(judged))]
    issues = np.array([case.session.issue for case in judged])
    expected = np.zeros(len(judged))
    for issue in DISLIKED:
        alone = [case for case in verdicts if case.session.issue == issue]
        single = probe.fit(policy, alone, ProbeConfig(), tmp_path / issue.replace("/", "_"), 0)
        expected[issues == issue] = single.score([case for case in judged if case.session.issue == issue])
    pooled = probe.fit(policy, verdicts, ProbeConfig(), tmp_path / "all", 0)
    others = ~np.isin(issues, list(DISLIKED))
    expected[others] = pooled.score([case for case, other in zip(judged, others, strict=True) if other])
    scores = critic.score(judged)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_allclose(critic.judge(assess(Decoder(policy), judged), judged), scores, atol=1e-4)
    np.testing.assert_allclose(by_issue.load(policy, tmp_path / "made").score(judged), scores, atol=1e-4)


def test_what_operators_of_one_issue_like_is_not_taken_for_another(
    policy: Policy, verdicts: list[Case], tmp_path: Path
) -> None:
    critic = by_issue.fit(policy, verdicts, CONFIG, tmp_path, 0)
    for issue, colour in DISLIKED.items():
        judged = cases_of(issue, 8, 20)
        scores = critic.score(judged)
        disliked = np.array([case.suggestion.target == colour for case in judged])
        assert scores[disliked].max() < scores[~disliked].min()


@pytest.mark.parametrize(("least", "least_rejected"), [(1000, 1), (1, 1000)])
def test_too_few_verdicts_of_either_kind_go_to_the_pooled_critic(
    policy: Policy, verdicts: list[Case], tmp_path: Path, least: int, least_rejected: int
) -> None:
    critic = by_issue.fit(policy, verdicts, ByIssueConfig("probe", least, least_rejected), tmp_path, 0)
    assert critic.own == {}
    np.testing.assert_allclose(critic.score(verdicts), critic.pooled.score(verdicts), atol=1e-6)
