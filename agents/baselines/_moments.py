"""What is visible at each operator step of a session, gathered in one walk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from handrail.envs.schema import Action, Arg, Event, Result, Session, Step, UIState

if TYPE_CHECKING:
    from handrail.envs.spaces import Observation

Head = tuple[str, str]
"""Tool and target of an action."""


@dataclass
class Moment:
    """What an operator can know when about to act. Valid until the walk goes on.

    Attributes:
        session: the session; of it only `id`, `issue`, `operator` and `brief` may be read.
        index: the step's position in the session.
        state: the screen.
        kind: of the last event: `customer`, `operator`, `system`, `result`, `nothing_found`, or `start`.
        heads: what operators did so far.
        customer: the customer's messages so far.
        heard: how many of them there were when the operator last acted.
        opened: how many of them there were when the open procedure was opened.
        shown: what each place on the screens acted on so far held when it was last shown.
        operator: the operator's and the system's messages so far.
        results: the back end's answers so far.
        submissions: for each form, what it was submitted with so far, each time with the number of customer messages
            there were by then.
    """

    session: Session
    index: int
    state: UIState
    kind: str = "start"
    heads: list[Head] = field(default_factory=list)
    customer: list[str] = field(default_factory=list)
    operator: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    submissions: dict[str, list[tuple[dict[str, Arg], int]]] = field(default_factory=dict)
    heard: int = 0
    opened: int = 0
    shown: dict[str, Arg] = field(default_factory=dict)

    @property
    def procedure(self) -> str:
        """The open procedure, or the issue where none is open."""
        return self.state.procedure or self.session.issue

    def last_head(self, back: int = 1) -> Head:
        """Return the head `back` actions ago, `("", "")` before the first."""
        return self.heads[-back] if len(self.heads) >= back else ("", "")

    def see(self, events: Sequence[Event]) -> None:
        """Take in what became visible."""
        for event in events:
            if isinstance(event, Result):
                self.results.append(event)
                self.kind = "result" if event.item is not None else "nothing_found"
            else:
                (self.customer if event.role == "customer" else self.operator).append(event.text)
                self.kind = event.role

    def did(self, action: Action) -> None:
        """Take in what the operator did, which ends the moment."""
        self.heads.append(head_of(action))
        self.shown.update(self.state.values)
        self.heard = len(self.customer)
        if action.tool == "open_procedure":
            self.opened = len(self.customer)
        if action.tool == "submit_form":
            self.submissions.setdefault(action.target, []).append((action.args, len(self.customer)))


def head_of(action: Action) -> Head:
    """Return tool and target."""
    return action.tool, action.target


def moments(session: Session) -> Iterator[tuple[Moment, Step]]:
    """Yield what is visible at each operator step, with the step itself, of which only training may read more.

    The moment is one object that grows: read it before the next is drawn.
    """
    if not session.steps:
        return
    moment = Moment(session, 0, session.steps[0].state)
    for step in session.steps:
        moment.index, moment.state = step.index, step.state
        moment.see(step.events)
        if step.actor == "operator":
            yield moment, step
        if step.actor in ("operator", "policy"):
            moment.did(step.action)


def moments_at(session: Session, steps: Collection[int]) -> Iterator[Moment]:
    """Yield what is visible at some steps of a session, in order, whoever acted; as `moments`, one that grows."""
    if not session.steps:
        return
    moment = Moment(session, 0, session.steps[0].state)
    for step in session.steps[: max(steps, default=-1) + 1]:
        moment.index, moment.state = step.index, step.state
        moment.see(step.events)
        if step.index in steps:
            yield moment
        if step.actor in ("operator", "policy"):
            moment.did(step.action)


class Watch:
    """What is visible in a running session, gathered as it goes on: the moments of the session once it is finished.

    Args:
        session_id: for suggestions.
        operator: who works it, or whose way of working a baseline is to follow.
    """

    def __init__(self, session_id: str, operator: str) -> None:
        self._session_id, self._operator = session_id, operator
        self._moment: Moment | None = None
        self._history: tuple[Step, ...] = ()
        self._events: tuple[Event, ...] = ()

    def see(self, observation: Observation) -> Moment:
        """Return the moment to act in; it is one object that grows.

        Args:
            observation: holds the whole history; what was gathered before is gathered again only if it changed.
        """
        moment, history = self._moment, observation.history
        known, shown = len(self._history), len(self._events)
        upcoming = history[known].events if known < len(history) else observation.events
        if moment is None or history[:known] != self._history or upcoming[:shown] != self._events:
            session = Session(self._session_id, "", observation.issue, self._operator, observation.brief)
            moment, known, shown = Moment(session, 0, observation.state), 0, 0
        for step in history[known:]:
            moment.index, moment.state = step.index, step.state
            moment.see(step.events[shown:])
            shown = 0
            if step.actor in ("operator", "policy"):
                moment.did(step.action)
        moment.see(observation.events[shown:])
        moment.index, moment.state = observation.index, observation.state
        self._moment, self._history, self._events = moment, history, observation.events
        return moment
