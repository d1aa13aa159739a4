"""Working logged sessions at a desk, step by step, for the tests of desks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from handrail.agents.decoding import Suggestion
from handrail.agents.desk import Desk
from handrail.envs.schema import Action, Session
from handrail.envs.spaces import Observation


def observe(session: Session, index: int) -> Observation:
    step = session.steps[index]
    return Observation(session.issue, session.brief, index, step.state, step.events, session.steps[:index])


def follow(
    desk: Desk,
    sessions: list[Session],
    starts: Iterable[int],
    group: int = 99,
    draft: Callable[[str, int], Action | None] = lambda session, step: None,
) -> list[Suggestion]:
    """Work sessions step by step as logged, each from its own start on, `group` at a time in changing order.

    `draft` gives what the desk is told to expect at a step of a session, if anything.
    """
    found = {}
    begun = dict(zip((s.id for s in sessions), starts, strict=True))
    for clock in range(max(begun.values()) + max(len(s.steps) for s in sessions)):
        running = [s for s in sessions if 0 <= clock - begun[s.id] < len(s.steps)]
        running = running[:: -1 if clock % 2 else 1]
        for s in running:
            if clock == begun[s.id]:
                desk.begin(s.id, operator=s.operator, session_id=s.id)
        for some in (running[n : n + group] for n in range(0, len(running), group)):
            asked = {s.id: observe(s, clock - begun[s.id]) for s in some}
            drafts = {key: made for key, seen in asked.items() if (made := draft(key, seen.index)) is not None}
            given = desk.suggest(asked, drafts)
            assert list(given) == list(asked)
            found.update({(key, suggestion.step): suggestion for key, suggestion in given.items()})
        for s in running:
            if clock - begun[s.id] == len(s.steps) - 1:
                desk.finish(s.id)
    acted = [(s.id, step.index) for s in sessions for step in s.steps if step.actor in ("operator", "policy")]
    return [found[key] for key in acted]


def assert_same(given: list[Suggestion], expected: list[Suggestion]) -> None:
    assert [(s.session_id, s.step, s.tokens, s.action) for s in given] == [
        (s.session_id, s.step, s.tokens, s.action) for s in expected
    ]
    for name in ("log_probability", "min_probability", "margin", "entropy", "second"):
        ours, theirs = ([getattr(s, name) for s in found] for found in (given, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=name)
