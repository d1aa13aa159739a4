"""Shared sessions: who acts, what is stored, and that runs over the same cases are paired."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from toys import sharpen, tiny_policy

from handrail.agents.assess import Reading, assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder, Suggestion
from handrail.agents.desk import Desk
from handrail.agents.gate import Gate
from handrail.agents.operators.expert import Expert
from handrail.agents.operators.human import NONE, Person
from handrail.agents.operators.seat import crew_staff
from handrail.agents.operators.verdicts import Rates
from handrail.agents.policy import Policy
from handrail.agents.rollout import Reset, rollout
from handrail.agents.rules import Alone, Copilot, Rule, Ruling, Selective, supervised
from handrail.agents.runtime import Runtime
from handrail.agents.simulate import simulate
from handrail.agents.transcript import TranscriptConfig
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Session

PERFECT = Rates(rubber_stamp=0, acceptable=0, environment=0, other=0)
ONE = (Person("ann", slips=NONE),)
WRONG = Action("navigate", "nowhere")


class Scripted:
    """A policy that knows the procedure, and says something wrong at given steps."""

    def __init__(self, wrong: Sequence[int] = (), everywhere: bool = False) -> None:
        self.wrong, self.everywhere = wrong, everywhere
        self.runtime: Any = None
        self.expert = Expert("thorough", 0)

    def begin(self, key: int, operator: str) -> None:
        pass

    def finish(self, key: int) -> None:
        pass

    def suggest(self, observations: Mapping[int, Any]) -> dict[int, Suggestion]:
        found = {}
        for number, seen in observations.items():
            action = self.expert.act(self.runtime._running[number].env.world)
            if self.everywhere or seen.index in self.wrong:
                action = WRONG
            found[number] = Suggestion(str(number), seen.index, action, (), -0.1, 0.9, 0.8, 0.2)
        return found


class Sure:
    """A critic that gives every suggestion one score and remembers what it was shown."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.cases: list[Case] = []

    def score(self, cases: Sequence[Case]) -> Any:
        self.cases.extend(cases)
        return np.full(len(cases), self.value)


def worked(
    rule: Rule, desk: Any = None, critic: Any = None, cases: int = 4, people: Any = ONE, rates: Rates = PERFECT
) -> list[Session]:
    runtime = Runtime(crew_staff(people, rates), rule, desk, critic)
    if desk is not None:
        desk.runtime = runtime
    resets = [Reset(seed) for seed in range(cases)]
    played = list(rollout(lambda: BPMEnv("mock"), runtime, resets, slots=3))
    return [runtime.told(one) for one in played]


def test_alone_the_operator_does_everything_and_no_policy_is_needed() -> None:
    for session in worked(Alone()):
        assert session.outcome["success"]
        assert session.operator == "ann"
        assert all(step.actor == "operator" and step.feedback is None for step in session.steps)
        assert [note["route"] for note in session.hidden["runtime"]] == ["operator"] * len(session.steps)


def test_under_a_copilot_the_stored_action_is_the_operators() -> None:
    for session in worked(Copilot(), Scripted(wrong=(1, 2))):
        assert session.outcome["success"]
        for step in session.steps:
            assert step.actor == "operator"
            assert step.feedback is not None
            if step.index in (1, 2):
                assert step.feedback.suggestion == WRONG
                assert step.feedback.verdict == "reject"
                assert step.feedback.correction == step.action != WRONG
            else:
                assert step.feedback.verdict == "accept"
                assert step.feedback.suggestion is not None
                assert same_action(step.action, step.feedback.suggestion)
        assert session.hidden["causes"] == {"1": "model_error", "2": "model_error"}


def test_a_copilot_for_critical_steps_leaves_the_others_to_the_operator() -> None:
    for session in worked(Copilot(everywhere=False), Scripted()):
        for step in session.steps:
            assert (step.feedback is not None) == step.critical
        judged = [step.index for step in session.steps if step.critical]
        assert session.hidden["critical_suggestions"] == judged


def test_what_the_gate_lets_through_runs_alone_to_the_end() -> None:
    critic = Sure(0.9)
    for session in worked(Selective(Gate(pooled=0.5)), Scripted(), critic):
        assert session.outcome["success"]
        assert session.outcome["active_seconds"] == 0
        assert all(step.actor == "policy" and step.feedback is None for step in session.steps)
    assert all(case.suggestion == case.session.steps[case.step].action for case in critic.cases)
    assert all(len(case.session.steps) == case.step + 1 for case in critic.cases)


@pytest.mark.parametrize("keeps", [False, True])
def test_what_it_defers_is_reviewed_and_the_policy_goes_on_from_there(keeps: bool) -> None:
    for session in worked(Selective(Gate(pooled=0.5, keeps=keeps)), Scripted(), Sure(0.4)):
        assert session.outcome["success"]
        assert all((step.actor == "operator") == step.critical for step in session.steps)
        notes = session.hidden["runtime"]
        reasons = [note["reason"] for step, note in zip(session.steps, notes, strict=True) if step.critical]
        assert len(reasons) > 1
        assert reasons[0] == "low_confidence"
        assert set(reasons[1:]) == {"handed_over" if keeps else "low_confidence"}
        assert {note["reason"] for note in notes} - set(reasons) == {"non_critical"}


def test_what_is_probably_wrong_is_not_shown() -> None:
    """The scripted critic gives every critical suggestion 0.4."""
    for shown, unseen in ((0.4, False), (0.41, True)):
        for session in worked(Selective(Gate(pooled=0.5, keeps=False), shown=shown), Scripted(), Sure(0.4)):
            critical = [step for step in session.steps if step.critical]
            assert critical
            for step in critical:
                assert step.actor == "operator"
                assert (step.feedback is None) is unseen
                assert session.hidden["runtime"][step.index]["reason"] == ("not_shown" if unseen else "low_confidence")


def test_the_outcome_tells_what_the_operator_spent_their_time_on() -> None:
    for session in worked(Selective(Gate(pooled=0.5)), Scripted(), Sure(0.4)):
        spent = session.outcome["active"]
        assert sum(spent.values()) == pytest.approx(session.outcome["active_seconds"])
        actors = [step.actor for step in session.steps]
        assert (spent["switching"] > 0) == (("policy", "operator") in pairwise(actors))


def test_an_issue_without_a_certificate_stays_with_the_operator() -> None:
    for session in worked(Selective(Gate()), Scripted(), Sure(1.0)):
        assert all(step.actor == "operator" and step.feedback is not None for step in session.steps)


def test_supervised_everything_critical_is_reviewed_and_the_rest_runs() -> None:
    for session in worked(supervised(()), Scripted()):
        assert [step.actor == "operator" for step in session.steps] == [step.critical for step in session.steps]
        assert session.hidden["critical_suggestions"] == [step.index for step in session.steps if step.critical]


def test_a_confidence_stands_in_place_of_the_critics_score() -> None:
    """The scripted policy's margin is 0.8."""
    for threshold, alone in ((0.8, True), (0.81, False)):
        rule = Selective(Gate(pooled=threshold), lambda suggestion: suggestion.margin)
        for session in worked(rule, Scripted(), Sure(0.0)):
            assert all(step.actor == "policy" for step in session.steps) is alone


class Labelled:
    """A rule that runs everything and asks what the operator would have done."""

    suggests, labels = True, True

    def route(self, moment: Any) -> Ruling:
        return Ruling("run", "always", 1.0)


class Measured(Sure):
    """A critic that judges by what its policy reads, here the least likely token; asked for cases, it fails."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(0.0)
        self.policy = policy

    def judge(self, readings: Sequence[Reading], cases: Sequence[Case]) -> Any:
        assert [one.suggestion.step for one in readings] == [case.step for case in cases]
        return np.array([one.suggestion.min_probability for one in readings])

    def score(self, cases: Sequence[Case]) -> Any:
        return np.array([one.suggestion.min_probability for one in assess(Decoder(self.policy), cases)])


def test_a_critic_of_states_is_given_what_the_desk_has_read() -> None:
    """It gets what it would have read itself, without a session being read twice."""
    logs = simulate("mock", 3, seed=1)
    policy = sharpen(tiny_policy(logs, 1, TranscriptConfig(brief=False), vocab_size=600, max_length=2048))
    alike = copy.deepcopy(policy)
    told = {}
    for name, critic in (("desk", Measured(policy)), ("itself", Measured(alike))):
        sessions = worked(supervised(), Desk(policy), critic)
        told[name] = [note["score"] for one in sessions for note in one.hidden["runtime"]]
    ours, theirs = ([np.nan if score is None else score for score in told[name]] for name in ("desk", "itself"))
    assert np.isfinite(theirs).sum() >= 4
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_labels_of_what_ran_alone_are_the_operators() -> None:
    for session in worked(Labelled(), Scripted(wrong=(0,))):
        first, *others = session.steps
        assert first.actor == "policy"
        assert first.action == WRONG
        assert first.feedback is not None
        assert first.feedback.verdict == "reject"
        assert first.feedback.correction is not None
        assert first.feedback.correction != WRONG
        for step in others:
            assert step.feedback is not None
            assert step.feedback.verdict == "accept"


def test_the_same_people_meet_the_same_cases_in_every_arm() -> None:
    people = tuple(Person(name, seed=n) for n, name in enumerate("abc"))
    alone = worked(Alone(), people=people, cases=12)
    helped = worked(Copilot(), Scripted(), people=people, cases=12)
    assert [(s.id, s.operator) for s in alone] == [(s.id, s.operator) for s in helped]
    assert {s.operator for s in alone} == set("abc")


def test_the_same_seeds_give_the_same_sessions() -> None:
    first, second = (worked(Selective(Gate(pooled=0.5, audit_share=0.3)), Scripted(), Sure(0.9)) for _ in range(2))
    assert first == second
    assert any(note["reason"] == "audit" for session in first for note in session.hidden["runtime"])


def test_a_rule_that_asks_for_suggestions_needs_a_policy() -> None:
    with pytest.raises(HandrailError, match="Copilot asks for suggestions"):
        Runtime(crew_staff(ONE), Copilot())


def test_a_staff_of_nobody_is_refused() -> None:
    with pytest.raises(HandrailError, match="at least one operator"):
        crew_staff(())
