"""What a critic judges, and where its labels come from.

Three sources of verdicts, one type: the policy's own suggestions replayed against the log, the suggestions that the
log recorded with the operators' real verdicts, and those of them that were critical, as copilot sessions record them.
What a simulated operator's verdict was worth is known too, but kept apart from the cases: no critic sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Session

if TYPE_CHECKING:
    from handrail.agents.assess import Reading
    from handrail.agents.decoding import Suggestion
    from handrail.agents.policy import Policy

WRONG = ("model_error", "rubber_stamp")
"""True causes of verdicts on suggestions that were wrong; any other verdict was on a right one."""


class Trail(NamedTuple):
    """How sure the policy was of what was done as it suggested, since an operator last overrode it.

    A suggestion builds on that, whether it ran alone or an operator accepted it.

    Attributes:
        log_probability: sum over those actions, <= 0.
        min_probability: of the least sure of their tokens, in (0, 1].
        second: log-probability by a second reader, of the action it finds least likely, <= 0; 0 without one.
    """

    log_probability: float = 0.0
    min_probability: float = 1.0
    second: float = 0.0


CLEAR = Trail()
"""Nothing was done as the policy suggested."""


def trail(notes: Sequence[Mapping[str, Any]]) -> Trail:
    """Return the trail that leads up to a step.

    Args:
        notes: what the runtime noted of the steps before (`handrail.agents.runtime`).
    """
    total, least, second = 0.0, 1.0, 0.0
    for note in reversed(notes):
        if not (note["kept"] if "kept" in note else note["route"] == "run"):
            break
        total += note["log_probability"]
        least = min(least, note["min_probability"])
        second = min(second, note.get("second", 0.0))
    return Trail(total, least, second)


@dataclass(frozen=True)
class Case:
    """A suggestion at a step, to be judged.

    Attributes:
        session: where; a critic reads what precedes the step's action, and nothing later.
        step: index of the step.
        suggestion: what is judged.
        accepted: whether the operator executed it unchanged.
        draft: what the operator had typed before the suggestion was shown; empty if it is hidden from the critic.
        trail: of what was done as the policy suggested before it.
        second: `Suggestion.second` of the suggestion.
    """

    session: Session
    step: int
    suggestion: Action
    accepted: bool
    draft: str = ""
    trail: Trail = CLEAR
    second: float = 0.0


class Critic(Protocol):
    """Estimates whether the operator would accept a suggestion."""

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,), in [0, 1]; never reads `Case.accepted`."""
        ...


@runtime_checkable
class StateCritic(Critic, Protocol):
    """A critic that needs no more than what its policy makes of a suggestion: where the policy runs, it is free.

    Attributes:
        policy: whose readings it judges.
    """

    policy: Policy

    def judge(self, readings: Sequence[Reading], cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of cases that the policy has read, shape (n,), as `score` would."""
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
            right = same_action(suggestion.action, step.action)
            cases.append(Case(session, step.index, suggestion.action, right, second=suggestion.second))
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


def feedback_verdicts(sessions: Sequence[Session]) -> list[Case]:
    """Return the critical suggestions that operators accepted or corrected in copilot sessions.

    What was critical is the suggestion: an operator who corrects it may do something that is not, so `Step.critical`,
    which speaks of what was executed, misses the rejections that were corrected by something harmless. Sessions that
    do not say which suggestions were critical (`Session.hidden["critical_suggestions"]`) give those of critical steps.

    Args:
        sessions: simulated with a copilot, or worked at a desk where policy and operator share sessions.
    """
    cases = []
    for session in sessions:
        gated = session.hidden.get("critical_suggestions")
        notes = session.hidden.get("runtime", ())
        for case in recorded_verdicts([session], draft_known=False):
            if session.steps[case.step].critical if gated is None else case.step in gated:
                second = notes[case.step].get("second", 0.0) if notes else 0.0
                cases.append(replace(case, trail=trail(notes[: case.step]), second=second))
    return cases


def before_override(cases: Sequence[Case]) -> list[Case]:
    """Return the cases of each session up to the first that its operator rejected, that one included.

    Whoever overrides the policy keeps what is critical (`handrail.agents.gate`), so no gate asks a critic about what
    comes later. It would teach the critic something else, too: a policy whose operator went another way suggests again
    and again what no longer fits.

    Args:
        cases: of each session in the order of its steps.
    """
    over: set[str] = set()
    kept = []
    for case in cases:
        if case.session.id not in over:
            kept.append(case)
        if not case.accepted:
            over.add(case.session.id)
    return kept


def looked_at_again(cases: Sequence[Case]) -> list[Case]:
    """Return the cases after a second look at each rejection: right suggestions count as accepted.

    In the simulator the second look finds the truth. Wrong suggestions that were waved through stay accepted: nobody
    looks at what was accepted.

    Raises:
        HandrailError: the true causes of the verdicts are unknown.
    """
    return [replace(case, accepted=case.accepted or true_cause(case) not in WRONG) for case in cases]


def true_cause(case: Case) -> str:
    """Return the true cause of a simulated operator's verdict, empty for a right suggestion that was accepted.

    For studies, and for people with time to find out: no log has it.

    Raises:
        HandrailError: the session does not say.
    """
    causes = case.session.hidden.get("causes")
    if causes is None:
        raise HandrailError(
            f"session {case.session.id}: the true causes of its verdicts are unknown; expected a session of simulated "
            "operators with a copilot, with Session.hidden['causes']"
        )
    return str(causes.get(str(case.step), ""))


def truths(cases: Sequence[Case]) -> NDArray[np.bool_]:
    """Return whether each suggestion was right, whatever the operator made of it, shape (n,); for studies only.

    Raises:
        HandrailError: a session does not say.
    """
    return np.array([true_cause(case) not in WRONG for case in cases], dtype=np.bool_)
