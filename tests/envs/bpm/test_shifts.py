"""Shifts: what they change, what they leave, and that a shifted desk can still be worked."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from handrail.envs.bpm import flow, load
from handrail.envs.bpm.case import Case, draw_case
from handrail.envs.bpm.check import check_domain
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.shifts import SHIFTS, shifted, split_issues
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Control, UIState

# What the smallest domain does not have: a second language, and a decision that could go another way.
_NEEDS_MORE = {("mock", "language"), ("mock", "changed_rule")}
_STEPS = 90


@pytest.fixture(scope="module")
def telecom() -> Domain:
    return load.load_domain("telecom")


@pytest.fixture(scope="module")
def mock() -> Domain:
    return load.load_domain("mock")


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _states(domain: Domain, case: Case) -> Iterator[tuple[World, UIState]]:
    """Work a case by the next thing its procedure asks for; yield every state."""
    world = World(domain, case)
    yield world, world.state()
    for _ in range(_STEPS):
        if world.outcome is not None:
            return
        outcome = world.do(flow.actions(world, flow.pending(world)[0])[0], "operator")
        assert outcome.error is None
        yield world, world.state()


def _worked(domain: Domain, case: Case) -> World:
    return list(_states(domain, case))[-1][0]


def _cases(domain: Domain, count: int, seed: int = 0) -> Iterator[Case]:
    for number in range(count):
        yield draw_case(domain, np.random.default_rng((seed, number)))


@pytest.mark.parametrize("severity", [0.5, 1.0])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", load.names())
def test_a_shifted_domain_is_consistent_and_can_be_worked(name: str, shift: str, severity: float) -> None:
    domain = load.load_domain(name)
    before = msgspec.json.encode(domain)
    if (name, shift) in _NEEDS_MORE:
        with pytest.raises(HandrailError, match=f"'{name}'.*'{shift}'"):
            shifted(domain, shift, _rng(), severity)
        return
    new = shifted(domain, shift, _rng(), severity)
    if severity == 1:
        check_domain(new)
    assert msgspec.json.encode(domain) == before
    assert msgspec.json.encode(new) != before
    for case in _cases(new, 4):
        world = _worked(new, case)
        assert world.success
        assert not world.violations


@pytest.mark.parametrize("shift", ["renamed", "reordered", "mandatory_field", "changed_rule", "language"])
def test_severity_zero_changes_nothing(telecom: Domain, shift: str) -> None:
    assert shifted(telecom, shift, _rng(), 0) is telecom


@pytest.mark.parametrize("shift", [shift for shift in SHIFTS if ("mock", shift) not in _NEEDS_MORE])
def test_the_same_seed_gives_the_same_domain_and_another_seed_another(mock: Domain, shift: str) -> None:
    first, again, *others = (shifted(mock, shift, _rng(seed), 1.0) for seed in (1, 1, 2, 3, 4, 5, 6))
    assert first == again
    assert any(other != first for other in others)


def test_an_unknown_shift_names_the_nearest(mock: Domain) -> None:
    with pytest.raises(HandrailError, match=r"unknown shift 'rename'; did you mean renamed"):
        shifted(mock, "rename", _rng(), 0.5)


@pytest.mark.parametrize("severity", [-0.1, 1.5, float("nan")])
def test_a_severity_out_of_range_is_an_error(mock: Domain, severity: float) -> None:
    with pytest.raises(HandrailError, match="expected a number from 0 to 1"):
        shifted(mock, "renamed", _rng(), severity)


# --- names ---------------------------------------------------------------------------------------------------------


def _controls(domain: Domain, case: Case) -> dict[str, Control]:
    return {control.id: control for _, state in _states(domain, case) for control in state.controls}


def test_renaming_leaves_no_id_but_outcomes_and_the_message_box(telecom: Domain) -> None:
    new = shifted(telecom, "renamed", _rng(3), 1.0)
    case = next(_cases(telecom, 1))
    before, after = _controls(telecom, case), _controls(new, case)
    kept = set(before) & set(after)
    assert kept == {"message", "close:resolved", "close:refused", "close:escalated"}
    labels = {
        control.label for control in before.values() if control.kind in ("link", "tab", "table", "text", "select")
    }
    assert not labels & {control.label for control in after.values()}
    # What is said to customers stays.
    texts = {control.label for control in before.values() if control.kind == "template"}
    assert texts == {control.label for control in after.values() if control.kind == "template"}


def test_renaming_half_renames_about_half(telecom: Domain) -> None:
    """Of 100 or more template ids each changes with probability 1/2; 4 standard deviations: false alarm 6e-5."""
    new = shifted(telecom, "renamed", _rng(3), 0.5)
    count = len(telecom.templates)
    changed = count - len(set(telecom.templates) & set(new.templates))
    assert abs(changed - count / 2) <= 4 * (count / 4) ** 0.5


def test_a_renamed_desk_does_the_same_things(telecom: Domain) -> None:
    new = shifted(telecom, "renamed", _rng(8), 1.0)
    for case in _cases(telecom, 4):
        old_world, new_world = _worked(telecom, case), _worked(new, case)
        assert old_world.outcome == new_world.outcome
        assert {n: r.values for n, r in old_world.ground.records.items()} == {
            n: r.values for n, r in new_world.ground.records.items()
        }


def test_an_old_action_means_nothing_on_a_renamed_desk(mock: Domain) -> None:
    new = shifted(mock, "renamed", _rng(), 1.0)
    world = World(new, next(_cases(new, 1)))
    assert world.do(Action("set_field", "find.number", {"value": "L-00001"}), "policy").error


# --- order ---------------------------------------------------------------------------------------------------------


def test_reordering_keeps_all_controls_and_moves_them(telecom: Domain) -> None:
    new = shifted(telecom, "reordered", _rng(), 1.0)
    case = next(_cases(telecom, 1))
    old_first, new_first = next(_states(telecom, case))[1], next(_states(new, case))[1]
    old_ids, new_ids = ([control.id for control in state.controls] for state in (old_first, new_first))
    assert old_ids != new_ids
    assert sorted(old_ids) == sorted(new_ids)
    assert new.desk.outcomes == telecom.desk.outcomes
    # Options of a select move as well, as a set they stay.
    old_plan, new_plan = (
        next(f for form in d.screens["plan"].forms for f in form.fields if f.id == "plan") for d in (telecom, new)
    )
    assert sorted(old_plan.options) == sorted(new_plan.options)


def test_reordering_a_little_moves_things_a_little(telecom: Domain) -> None:
    def distance(severity: float) -> int:
        moved = list(shifted(telecom, "reordered", _rng(), severity).templates)
        return sum(abs(i - moved.index(name)) for i, name in enumerate(telecom.templates))

    assert 0 < distance(0.1) < distance(0.5) < distance(1.0)


# --- a new mandatory field -----------------------------------------------------------------------------------------


def test_a_form_with_a_new_mandatory_field_refuses_what_used_to_do(mock: Domain) -> None:
    new = shifted(mock, "mandatory_field", _rng(), 1.0)
    case = next(_cases(new, 1))
    number = case.records[case.customer].values["number"]
    world = World(new, case)
    assert world.do(Action("set_field", "find.number", {"value": number}), "operator").error is None
    error = world.do(Action("click", "find"), "operator").error
    added = next(
        field for field in new.screens["search"].forms[0].fields if field not in mock.screens["search"].forms[0].fields
    )
    assert error is not None
    assert added.label in error or added.error in error


def test_the_severity_is_the_share_of_forms(telecom: Domain) -> None:
    def grown(severity: float) -> set[str]:
        new = shifted(telecom, "mandatory_field", _rng(), severity)
        fields = {form.id: len(form.fields) for screen in telecom.screens.values() for form in screen.forms}
        return {f.id for screen in new.screens.values() for f in screen.forms if len(f.fields) > fields[f.id]}

    submitted = {node.submit for p in telecom.procedures.values() for node in p.nodes.values() if node.submit}
    assert grown(1.0) == submitted
    assert len(grown(0.5)) == -(-len(submitted) // 2)


# --- rules ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(mock: Domain) -> Domain:
    """The library, where a loan is renewed at most ten times: one threshold, and no branch that could be escalated."""
    data = msgspec.to_builtins(mock)
    data["records"]["loan"]["fields"]["renewed"] = {"integer": [0, 40]}
    issue = data["issues"]["renew_loan"]
    issue["concerns"] = {"loan": "true"}
    loans = data["screens"]["loans"]["forms"][0]
    loans["when"] = "loan.renewed <= 10"
    nodes = data["procedures"]["renew_loan"]["nodes"]
    nodes["reserved"]["decide"][0]["when"] = "loan.state == 'reserved' or loan.renewed > 10"
    data["rules"]["too_often"] = {"never": ["renew"], "when": "loan.renewed > 10", "text": "Not more than 10 times."}
    data["templates"]["tell_reserved"]["text"] = "{loan.book} is reserved, or was renewed more than 10 times."
    domain = msgspec.convert(data, Domain)
    check_domain(domain)
    return domain


def test_a_threshold_moves_in_guard_rule_button_and_text_alike(counted: Domain) -> None:
    """Severity 1/4 moves 10 by a factor of 1.25 to 1.5: to 12.5 … 15, or 6.7 … 8, rounded to whole numbers."""
    moved = set()
    for seed in range(12):
        new = shifted(counted, "changed_rule", _rng(seed), 0.25)
        guard = new.procedures["renew_loan"].nodes["reserved"].decide
        assert guard is not None
        number = int(str(guard[0].when).rpartition("> ")[2])
        assert guard[0].when == f"loan.state == 'reserved' or loan.renewed > {number}"
        assert new.rules["too_often"].when == f"loan.renewed > {number}"
        assert new.rules["too_often"].text == f"Not more than {number} times."
        assert new.screens["loans"].forms[0].when == f"loan.renewed <= {number}"
        assert f"more than {number} times" in new.templates["tell_reserved"].text
        moved.add(number)
    assert moved <= {7, 8, 12, 13, 14, 15}
    # Up and down, each with probability 1/2; 12 draws agree with probability 2^-11.
    assert min(moved) < 10 < max(moved)


def test_a_moved_threshold_changes_how_cases_end(counted: Domain) -> None:
    new = shifted(counted, "changed_rule", _rng(), 1.0)
    cases = [case for case in _cases(counted, 60) if case.matters[0].issue == "renew_loan" and len(case.matters) == 1]
    assert any(_worked(counted, case).outcome != _worked(new, case).outcome for case in cases)


def test_a_branch_can_lead_to_escalation(mock: Domain) -> None:
    data = msgspec.to_builtins(mock)
    data["desk"]["outcomes"] = ["resolved", "refused", "escalated"]
    domain = msgspec.convert(data, Domain)
    # The one branch outside of the shared procedure that is guarded: reserved loans were refused.
    new = shifted(domain, "changed_rule", _rng(), 1.0)
    decide = new.procedures["renew_loan"].nodes["reserved"].decide
    assert decide is not None
    assert new.procedures["renew_loan"].nodes[decide[0].to].close == "escalated"
    assert "tell_reserved" not in new.procedures["renew_loan"].nodes
    outcomes = {_worked(new, case).outcome for case in _cases(new, 30)}
    assert outcomes == {"resolved", "refused", "escalated"}


# --- issues --------------------------------------------------------------------------------------------------------


def test_issues_are_split_into_known_and_unseen(telecom: Domain) -> None:
    known, unseen = split_issues(telecom, _rng(5))
    assert sorted(known + unseen) == sorted(telecom.issues)
    assert len(unseen) == 2  # a quarter of nine
    assert split_issues(telecom, _rng(5)) == (known, unseen)


def test_the_severity_is_the_share_of_unseen_issues(telecom: Domain) -> None:
    """At 0 and 1 exactly, in first and second issues; at 0.4 within 4 standard deviations (false alarm 6e-5)."""
    known, unseen = split_issues(telecom, _rng(5))
    for severity, group in ((0.0, known), (1.0, unseen)):
        cases = list(_cases(shifted(telecom, "unseen_issue", _rng(5), severity), 150))
        assert {matter.issue for case in cases for matter in case.matters} <= set(group)
    cases = list(_cases(shifted(telecom, "unseen_issue", _rng(5), 0.4), 300))
    share = np.mean([case.matters[0].issue in unseen for case in cases])
    assert abs(share - 0.4) <= 4 * (0.4 * 0.6 / 300) ** 0.5


def test_a_split_needs_two_issues(mock: Domain) -> None:
    one = msgspec.structs.replace(mock, issues={"renew_loan": mock.issues["renew_loan"]})
    with pytest.raises(HandrailError, match="one issue, 'renew_loan'"):
        split_issues(one, _rng())


# --- language ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in load.names() if load.load_domain(name).languages])
def test_languages_are_complete(name: str) -> None:
    """Every phrase of the domain has its counterpart, value by value."""
    domain = load.load_domain(name)
    for words in domain.languages.values():
        assert sorted(words["small"]) == sorted(key for key in domain.small.__struct_fields__)
        assert sorted(words["issues"]) == sorted(domain.issues)
        for key, issue in domain.issues.items():
            assert words["issues"][key]["opening"]
            assert bool(words["issues"][key]["second"]) == bool(issue.second)
            for fact, spec in issue.facts.items():
                says = words["issues"][key]["facts"][fact]
                assert (sorted(says) if isinstance(says, dict) else None) == (
                    sorted(spec.say) if isinstance(spec.say, dict) else None
                )


def test_a_full_change_of_language_leaves_no_phrase_of_the_old_one(telecom: Domain) -> None:
    new = shifted(telecom, "language", _rng(), 1.0)
    german = telecom.languages["de"]
    assert msgspec.to_builtins(new.small) == german["small"]
    for name, issue in new.issues.items():
        words = german["issues"][name]
        assert issue.opening == words["opening"]
        assert issue.second == words["second"]
        assert {fact: spec.say for fact, spec in issue.facts.items()} == words["facts"]


def test_a_share_of_the_phrases_is_in_the_other_language(telecom: Domain) -> None:
    new = shifted(telecom, "language", _rng(), 0.3)
    german = set(telecom.languages["de"]["small"]["thanks"])
    assert sum(phrase in german for phrase in new.small.thanks) == 6
    assert sum(phrase in telecom.small.thanks for phrase in new.small.thanks) == 14
