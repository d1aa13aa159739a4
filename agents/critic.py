"""What a critic judges, and where its labels come from.

Two sources of verdicts, one type: the policy's own suggestions replayed against the log, and the suggestions that the
log recorded with the operators' real verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Session

if TYPE_CHECKING:
    from handrail.agents.decoding import Suggestion


@dataclass(frozen=True)
class Case:
    """A suggestion at a step, to be judged.

    Attributes:
        session: where; a critic reads what precedes the step's action, and nothing later.
        step: index of the step.
        suggestion: what is judged.
        accepted: whether the operator executed it unchanged.
        draft: what the operator had typed before the suggestion was shown; empty if it is hidden from the critic.
    """

    session: Session
    step: int
    suggestion: Action
    accepted: bool
    draft: str = ""


class Critic(Protocol):
    """Estimates whether the operator would accept a suggestion."""

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,), in [0, 1]; never reads `Case.accepted`."""
        ...


def replayed_verdicts(sessions: Sequence[Session], suggestions: Sequence[Suggestion]) -> list[Case]:
    """Return the policy's suggestions on critical steps, accepted where they equal the logged action.

    Args:
        sessions: the logs.
        suggestions: the policy's, for steps of these sessions.
    """
    known = {session.id: session for session in sessions}
    cases = []
    for suggestion in suggestions:
        session = known[suggestion.session_id]
        step = session.steps[suggestion.step]
        if step.critical:
            cases.append(Case(session, step.index, suggestion.action, same_action(suggestion.action, step.action)))
    return cases


def recorded_verdicts(sessions: Sequence[Session], draft_known: bool) -> list[Case]:
    """Return the suggestions the log recorded, with the operators' verdicts.

    Overrides whose suggestion was not recorded are left out: there is nothing to judge.

    Args:
        sessions: the logs.
        draft_known: whether the critic may read what the operator typed before the suggestion was shown.
    """
    cases = []
    for session in sessions:
        for step in session.steps:
            if step.feedback is None or step.feedback.suggestion is None:
                continue
            draft = step.drafts[-1].text if draft_known and step.drafts else ""
            cases.append(Case(session, step.index, step.feedback.suggestion, step.feedback.verdict == "accept", draft))
    return cases
