"""Branches: many candidates in one pass, each as if it were read alone."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from toys import random_sessions, sharpen, tiny_policy

from handrail.agents.branches import Branched, branch, read
from handrail.agents.critic import Case
from handrail.agents.policy import Policy
from handrail.agents.transcript import ACTION, DRAFT, END, field_order, write_action
from handrail.envs.schema import Action, Message, Session

SUGGESTED = (
    Action("send_reply", "bye"),
    Action("submit_form", "book", {"Guests": 3, "Name": "red"}),
    Action("send_message", "chat", {"text": "blue room please"}),
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return sharpen(tiny_policy(random_sessions(0, 30)), inner=6.0)


def cases_of(session: Session, drafts: bool = True) -> list[Case]:
    """Every suggestion at every step, not in order of the steps, some after a draft."""
    made = [
        Case(session, step.index, action, bool(n), "my draft" if drafts and n == 1 else "")
        for n, action in enumerate(SUGGESTED)
        for step in session.steps
    ]
    return made[1:] + made[:1]


def states_of(policy: Policy, cases: list[Case], token_budget: int = 16384) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}

    def take(item: Branched, states: torch.Tensor) -> None:
        for number, start, end in zip(item.cases, item.starts, item.ends, strict=True):
            assert number not in found
            found[number] = states[int(start) : int(end)].numpy().copy()

    read(policy.body, policy, branch(policy, cases), take, token_budget)
    return found


def branch_tokens(policy: Policy, case: Case) -> list[int]:
    order = field_order(case.session.steps[case.step].state.controls, case.suggestion.target)
    action = policy.encoder.tokens(f"{ACTION}{write_action(case.suggestion, order)}{END}")
    return (policy.encoder.tokens(DRAFT + case.draft) if case.draft else []) + action


def alone(policy: Policy, case: Case) -> np.ndarray:
    """The states of a branch when its prefix and it are all there is."""
    prefix = policy.encoder.encode("x", policy.transcript.prefix(case.session, case.step)).ids.tolist()
    written = branch_tokens(policy, case)
    with torch.no_grad():
        states = policy.body(input_ids=torch.tensor([prefix + written])).last_hidden_state[0]
    return np.asarray(states[-len(written) :])


def test_states_equal_reading_prefix_and_branch_alone(policy: Policy) -> None:
    cases = [case for session in random_sessions(5, 2, steps=3) for case in cases_of(session)]
    for budget in (1, 16384):
        found = states_of(policy, cases, budget)
        assert sorted(found) == list(range(len(cases)))
        for number, case in enumerate(cases):
            np.testing.assert_allclose(found[number], alone(policy, case), atol=1e-5)
    different = np.stack([state[-1] for state in found.values()])
    assert np.abs(different[:, None] - different[None]).max(axis=2)[np.triu_indices(len(cases), 1)].min() > 1e-3


def test_a_branch_sees_neither_the_later_transcript_nor_other_branches(policy: Policy) -> None:
    session, other = random_sessions(6, 2, steps=4)
    mine = Case(session, 1, SUGGESTED[1], True)
    expected = states_of(policy, [mine])[0]
    replaced = msgspec.structs.replace(
        session,
        steps=(
            session.steps[0],
            msgspec.structs.replace(session.steps[1], action=Action("send_message", "chat", {"text": "green green"})),
            *(msgspec.structs.replace(step, events=(Message("customer", "later"),)) for step in other.steps[2:]),
        ),
    )
    for changed in (session, replaced):
        others = [Case(changed, n, action, False) for n in (0, 1, 3) for action in SUGGESTED[::-1]]
        crowd = [*others, Case(changed, 1, SUGGESTED[1], True)]
        np.testing.assert_allclose(states_of(policy, crowd)[len(others)], expected, atol=1e-5)


def test_the_mask_by_hand() -> None:
    item = Branched(
        ids=np.arange(7),
        positions=np.array([0, 1, 2, 2, 3, 3, 4]),
        trunk=3,
        starts=np.array([3, 5]),
        ends=np.array([5, 7]),
        forks=np.array([2, 3]),
        cases=(0, 1),
    )
    expected = """
        x.......
        xx......
        xxx.....
        xx.x....
        xx.xx...
        xxx..x..
        xxx..xx.
        .......x
    """
    assert ["".join("x" if seen else "." for seen in row) for row in item.mask(8)] == expected.split()


def test_the_layout_by_hand(policy: Policy) -> None:
    (session,) = random_sessions(7, 1, steps=2)
    whole = policy.encoder.encode("x", policy.transcript.spans(session))
    forks = [first - 1 for first, _ in whole.actions.values()]
    (item,) = branch(policy, [Case(session, 1, SUGGESTED[0], True), Case(session, 0, SUGGESTED[1], False, "d")])
    lengths = [int(b - a) for a, b in zip(item.starts, item.ends, strict=True)]
    assert item.cases == (1, 0)
    assert item.forks.tolist() == forks
    assert item.trunk == forks[1]
    assert item.ids[: item.trunk].tolist() == whole.ids[: forks[1]].tolist()
    assert item.positions.tolist() == [
        *range(forks[1]),
        *range(forks[0], forks[0] + lengths[0]),
        *range(forks[1], forks[1] + lengths[1]),
    ]
    assert len(item) == forks[1] + sum(lengths)


def test_long_sessions_are_read_through_the_most_recent_tokens() -> None:
    policy: Any = sharpen(tiny_policy(random_sessions(0, 30), max_length=60), inner=6.0)
    (session,) = random_sessions(8, 1, steps=8)
    whole = policy.encoder.encode("x", policy.transcript.spans(session))
    assert len(whole) > 120
    cases = cases_of(session, drafts=False)
    items = branch(policy, cases)
    assert sorted(n for item in items for n in item.cases) == list(range(len(cases)))
    found = states_of(policy, cases)
    for item in items:
        for number, fork in zip(item.cases, item.forks, strict=True):
            case, written = cases[number], branch_tokens(policy, cases[number])
            assert fork + len(written) <= 60
            at = whole.actions[case.step][0] - 1
            recent = [*whole.ids[: whole.header], *whole.ids[whole.header + at - fork : at]]
            assert len(recent) == fork
            with torch.no_grad():
                states = policy.body(input_ids=torch.tensor([recent + written])).last_hidden_state[0]
            np.testing.assert_allclose(found[number], states[-len(written) :], atol=1e-5)
