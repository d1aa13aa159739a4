"""One operator supervises several sessions at once: who waits how long, and how much gets done in an hour.

Worked sessions are taken apart into what needs an operator and what does not, and put together again in N slots before
one operator. The simulation goes from event to event:

- A slot runs a session; when it ends, the next case begins there. All slots are full until one finds no more cases.
- A session goes on by itself while the customer writes or the policy acts. Where it needs the operator it makes a
  request and stands still until they come. Within a visit the operator is not called away.
- A free operator goes to the request that a rule puts first (`PRIORITIES`).
- A visit costs `switching` seconds more where the operator takes over from the policy, or comes back to a session after
  they were at another one. That is where `handrail.envs.bpm.clock` has it; a log of one session at a time has only
  the former kind, so with one slot nothing is added to what was logged but chance in single costs.

What operators and customers do is taken from the log whatever the waiting: customers do not leave or write again, and
operators hurry no more when many wait. `docs/supervision.md` says more of what is assumed.

The model is the machine repairman's, a closed queue with one server and N sources (Cox & Smith 1961, Queues), with
pieces and priorities from the log in place of exponential times.

```python
timelines = [timeline(session) for session in sessions]
for made in sweep(timelines, switching=mean_switching(Seconds.of(domain.desk.seconds))):
    print(made.slots, made.sessions_per_hour, made.wait_mean)
```
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.envs.bpm.clock import Seconds
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.schema import Message, Session, Step

FloatArray = npt.NDArray[np.float64]

SLOTS = (1, 2, 4, 8, 16)
"""Numbers of sessions at once that are reported."""

PRIORITY = "longest_waiting"
"""The rule if none is asked for."""

# Batch means: few enough batches to be all but independent, and the quantile of Student's t that goes with them.
_BATCHES = 20
_T = 2.0930240544
_BATCH_SESSIONS = 2

# Times are UTC seconds, exact to less than a microsecond.
_TICK = 1e-6


class Visit(NamedTuple):
    """Something the operator has to do in a session, between what goes on without them.

    Attributes:
        away: seconds before it that need no operator, since the visit before or the beginning of the session.
        active: seconds of the operator, without switching.
        takes_over: whether the policy acted since the operator did, or since the session began.
        asked: for how many seconds the customer had been waiting for an answer when the operator was needed, by the
            log; more than `away` if they waited before the last visit already. `None` if they were not.
    """

    away: float
    active: float
    takes_over: bool = False
    asked: float | None = None


@dataclass(frozen=True)
class Timeline:
    """A session as alternating pieces.

    Attributes:
        visits: in order.
        rest: seconds after the last visit that need no operator.

    Raises:
        HandrailError: a duration is negative or not finite.
    """

    visits: tuple[Visit, ...]
    rest: float = 0.0

    def __post_init__(self) -> None:
        for number, visit in enumerate(self.visits):
            for name, seconds in (("away", visit.away), ("active", visit.active), ("asked", visit.asked or 0.0)):
                if not 0 <= seconds < math.inf:
                    raise HandrailError(f"visits[{number}].{name} is {seconds!r}, expected seconds >= 0")
        if not 0 <= self.rest < math.inf:
            raise HandrailError(f"rest is {self.rest!r}, expected seconds >= 0")

    @property
    def active(self) -> float:
        """Seconds of the operator, without switching."""
        return sum(visit.active for visit in self.visits)

    @property
    def interventions(self) -> int:
        """Hand-offs: visits with no visit before them, or none since the policy acted."""
        return sum(visit.takes_over or not number for number, visit in enumerate(self.visits))


class Request(NamedTuple):
    """A session that needs the operator.

    Attributes:
        time: since when, seconds.
        since: since when the customer has been waiting for an answer; infinity if they are not.
    """

    time: float
    since: float


Priority = Callable[[Request], tuple[float, ...]]
"""A rule for who is next: the request with the least value is. It is asked once a request; ties go by time."""

PRIORITIES: dict[str, Priority] = {
    "first_come": lambda request: (request.time,),
    "customer_first": lambda request: (math.isinf(request.since), request.time),
    "longest_waiting": lambda request: (request.since, request.time),
}
"""The rules: who asked first; sessions whose customer is waiting before the others, then who asked first; whose
customer has waited longest, sessions whose customer is not waiting last."""


@dataclass(frozen=True)
class Supervision:
    """What came of supervising `slots` sessions at once.

    A request is answered by a visit; several visits with no act of the policy between them are one intervention.
    Waits and durations are those of all sessions; utilisation is that of the time during which all slots were full.

    Attributes:
        slots: sessions at once.
        priority: name of the rule.
        sessions: how many were worked, all of them to their end.
        visits: how many requests there were.
        switches: how many visits cost switching.
        service_seconds: operator-active seconds without switching.
        switching_seconds: seconds that switching took.
        full_seconds: for how long all slots were full.
        wait_mean: mean seconds from request to visit; 0 without requests.
        wait_p95: their 95th percentile; 0 without requests.
        waited: share of the requests that waited at all; 0 without requests.
        utilisation: share of the full time that the operator worked, switching included; NaN if it is 0 s.
        interventions: a session, mean.
        sessions_per_hour: finished in an hour of the operator's presence with all slots full. By the utilisation law
            (utilisation over operator seconds a session), or by Little's (slots over duration) if nothing needs the
            operator; so neither the filling nor the emptying of the slots biases it.
        duration_mean: seconds from the first message to the end of a session, waiting included, mean.
        duration_p95: their 95th percentile.
        bounds: name of an attribute -> ends of its 95 % interval, by means of 20 batches in order of time. Missing
            with fewer than 40 sessions a slot, as batches would depend on each other.
    """

    slots: int
    priority: str
    sessions: int
    visits: int
    switches: int
    service_seconds: float
    switching_seconds: float
    full_seconds: float
    wait_mean: float
    wait_p95: float
    waited: float
    utilisation: float
    interventions: float
    sessions_per_hour: float
    duration_mean: float
    duration_p95: float
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return the figures, without those that are undefined; `.ci_low` and `.ci_high` where there is an interval."""
        found: dict[str, float] = {}
        for name in _REPORTED:
            value = float(getattr(self, name))
            if math.isfinite(value):
                found[name] = value
                if name in self.bounds:
                    found[f"{name}.ci_low"], found[f"{name}.ci_high"] = self.bounds[name]
        return found


_REPORTED = (
    "sessions",
    "wait_mean",
    "wait_p95",
    "waited",
    "utilisation",
    "interventions",
    "sessions_per_hour",
    "duration_mean",
    "duration_p95",
)


def timeline(session: Session) -> Timeline:
    """Take a logged session apart.

    A step lasts from what was last done or said until it is done. What the customer needs to write, and the steps of
    anybody but the operator, need no operator; operator steps with nothing of it between them are one visit. Switching
    that the log counted (`outcome["active"]["switching"]`) is taken out of the steps at which the operator took over,
    in proportion to how long these lasted. The session begins with its first message.

    Args:
        session: with times on all steps; messages without a time are taken to arrive at once.

    Raises:
        HandrailError: there are no steps, one has no time, time goes back, or the operator took over from a policy and
            `outcome` does not say what switching cost.
    """
    if not session.steps:
        raise HandrailError(f"session {session.id}: no steps, so no timeline")
    first = _finished(session, session.steps[0])
    now = min([first, *(event.time for event in session.steps[0].events if event.time is not None)])
    visits: list[Visit] = []
    openings: list[tuple[int, float]] = []
    away, handed, within = 0.0, False, False
    asking: float | None = None
    for step in session.steps:
        ready = now
        for event in step.events:
            if event.time is not None:
                ready = max(ready, event.time)
            if isinstance(event, Message) and event.role == "customer":
                asking = ready if asking is None else asking
            elif isinstance(event, Message) and event.role == "operator":
                asking = None
        done = _finished(session, step)
        if done < ready - _TICK:
            raise HandrailError(
                f"session {session.id}, step {step.index}: done at {done!r}, before what it follows, at {ready!r}; "
                f"expected times in order"
            )
        if ready > now:
            away += ready - now
            within = False
        took = max(done - ready, 0.0)
        if step.actor != "operator":
            away += took
            handed, within = True, False
        elif within:
            last = visits[-1]
            visits[-1] = last._replace(active=last.active + took)
        else:
            if handed:
                openings.append((len(visits), took))
            visits.append(Visit(away, took, handed, None if asking is None else max(ready - asking, 0.0)))
            away, handed, within = 0.0, False, True
        now = max(done, ready)
    return Timeline(_without_switching(session, visits, openings), away)


def mean_switching(seconds: Seconds) -> float:
    """Return what switching costs in operator-active seconds, averaged over people and moments (both log-normal)."""
    return seconds.switching * seconds.pace * math.exp((seconds.spread**2 + seconds.people**2) / 2)


def supervise(timelines: Sequence[Timeline], slots: int, switching: float, priority: str = PRIORITY) -> Supervision:
    """Let one operator supervise `slots` sessions at once until all are worked.

    There is no chance in it: the same arguments give the same result.

    Args:
        timelines: of the cases, in the order in which they come in.
        slots: sessions at once, at least 1 and at most as many as there are timelines.
        switching: seconds it costs, >= 0.
        priority: a name in `PRIORITIES`.

    Raises:
        HandrailError: an argument is out of range.
    """
    if priority not in PRIORITIES:
        raise HandrailError(f"priority={priority!r}: no such rule{nearest(priority, PRIORITIES)}")
    if not 1 <= slots <= len(timelines):
        raise HandrailError(
            f"slots={slots!r} with {len(timelines)} timelines; expected at least 1 and a session for every slot"
        )
    if not 0 <= switching < math.inf:
        raise HandrailError(f"switching={switching!r}, expected seconds >= 0")
    return _measured(timelines, slots, switching, priority, _simulated(timelines, slots, switching, priority))


def sweep(
    timelines: Sequence[Timeline], switching: float, slots: Iterable[int] = SLOTS, priority: str = PRIORITY
) -> tuple[Supervision, ...]:
    """Supervise the same sessions in different numbers at once.

    Arguments and errors are those of `supervise`, but numbers above that of the sessions are left out.
    """
    return tuple(supervise(timelines, count, switching, priority) for count in slots if count <= len(timelines))


def sweep_metrics(prefix: str, made: Iterable[Supervision]) -> dict[str, float]:
    """Return the figures of several simulations as `PREFIX.SLOTS.NAME`, e.g. `supervision.copilot.4.wait_mean`."""
    return {f"{prefix}.{one.slots}.{name}": value for one in made for name, value in one.metrics().items()}


@dataclass
class _Course:
    """What happened, in order of time.

    Attributes:
        requested: when each visit was asked for.
        begun: when the operator turned to it.
        taken: how long it took, switching included.
        ended: when each session ended.
        durations: how long it took, in order of its end.
        switches: visits that cost switching.
        full: when the first slot found no case.
    """

    requested: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    switches: int = 0
    full: float = math.inf


class _Slot:
    """What runs in a slot."""

    __slots__ = ("begun", "place", "since", "timeline")

    def __init__(self, timeline: Timeline, begun: float) -> None:
        self.timeline, self.begun = timeline, begun
        self.place = 0
        self.since = math.inf

    def alone(self) -> float:
        """Return for how long it goes on by itself."""
        visits = self.timeline.visits
        return visits[self.place].away if self.place < len(visits) else self.timeline.rest

    def request(self, time: float) -> Request:
        """Return the request for the next visit."""
        visit = self.timeline.visits[self.place]
        if visit.asked is None:
            self.since = math.inf
        elif visit.asked <= visit.away + _TICK or math.isinf(self.since):
            self.since = time - visit.asked
        return Request(time, self.since)


def _simulated(timelines: Sequence[Timeline], slots: int, switching: float, priority: str) -> _Course:
    course, rule = _Course(), PRIORITIES[priority]
    cases = iter(timelines)
    running: list[_Slot] = [_Slot(next(cases), 0.0) for _ in range(slots)]
    # When the session in a slot next needs something: the operator, or, at its end, to be followed by another.
    due: list[tuple[float, int]] = [(slot.alone(), number) for number, slot in enumerate(running)]
    heapq.heapify(due)
    queue: list[tuple[tuple[float, ...], float, int]] = []
    clock, seat = 0.0, -1
    while due or queue:
        if not queue:
            clock = max(clock, due[0][0])
        while due and due[0][0] <= clock:
            time, number = heapq.heappop(due)
            slot = running[number]
            if slot.place < len(slot.timeline.visits):
                heapq.heappush(queue, (rule(slot.request(time)), time, number))
                continue
            course.ended.append(time)
            course.durations.append(time - slot.begun)
            case = next(cases, None)
            if case is None:
                course.full = min(course.full, time)
            else:
                running[number] = slot = _Slot(case, time)
                heapq.heappush(due, (time + slot.alone(), number))
        if not queue:
            continue
        _, time, number = heapq.heappop(queue)
        slot = running[number]
        visit = slot.timeline.visits[slot.place]
        turns = visit.takes_over or (slot.place > 0 and seat != number)
        taken = visit.active + (switching if turns else 0.0)
        course.requested.append(time)
        course.begun.append(clock)
        course.taken.append(taken)
        course.switches += turns
        clock, seat = clock + taken, number
        slot.place += 1
        heapq.heappush(due, (clock + slot.alone(), number))
    return course


def _measured(
    timelines: Sequence[Timeline], slots: int, switching: float, priority: str, course: _Course
) -> Supervision:
    begun, taken = np.asarray(course.begun), np.asarray(course.taken)
    waits = begun - np.asarray(course.requested)
    durations = np.asarray(course.durations)
    sessions = len(timelines)
    service = sum(one.active for one in timelines)
    busy = service + course.switches * switching
    edges = np.linspace(0.0, course.full, _BATCHES + 1)
    worked = _worked(begun, taken, edges)
    utilisation = float(worked[-1] / course.full) if course.full > 0 else math.nan
    duration = float(durations.mean())
    if busy > 0:
        rate = 3600 * utilisation * sessions / busy
    else:
        rate = 3600 * slots / duration if duration > 0 else math.nan
    bounds: dict[str, tuple[float, float]] = {}
    if sessions >= _BATCH_SESSIONS * _BATCHES * slots and course.full > 0:
        width = course.full / _BATCHES
        finished, _ = np.histogram(course.ended, edges)
        bounds["utilisation"] = _interval(utilisation, np.diff(worked) / width)
        bounds["sessions_per_hour"] = _interval(rate, 3600 * finished / width)
        bounds["duration_mean"] = _interval(duration, _means(durations))
        if len(waits) >= _BATCHES:
            bounds["wait_mean"] = _interval(float(waits.mean()), _means(waits))
    return Supervision(
        slots=slots,
        priority=priority,
        sessions=sessions,
        visits=len(waits),
        switches=course.switches,
        service_seconds=service,
        switching_seconds=course.switches * switching,
        full_seconds=course.full,
        wait_mean=float(waits.mean()) if len(waits) else 0.0,
        wait_p95=float(np.quantile(waits, 0.95)) if len(waits) else 0.0,
        waited=float((waits > _TICK).mean()) if len(waits) else 0.0,
        utilisation=utilisation,
        interventions=sum(one.interventions for one in timelines) / sessions,
        sessions_per_hour=rate,
        duration_mean=duration,
        duration_p95=float(np.quantile(durations, 0.95)),
        bounds=bounds,
    )


def _worked(begun: FloatArray, taken: FloatArray, times: FloatArray) -> FloatArray:
    """Return how many seconds the operator had worked by each of `times`; visits do not overlap."""
    if not len(begun):
        return np.zeros(len(times))
    total = np.cumsum(taken)
    place = np.searchsorted(begun, times, side="right")
    before = np.concatenate([[0.0], total])[np.maximum(place - 1, 0)]
    last = np.maximum(place - 1, 0)
    current = np.clip(times - begun[last], 0.0, taken[last])
    return np.where(place > 0, before + current, 0.0)


def _means(values: FloatArray) -> FloatArray:
    return np.array([batch.mean() for batch in np.array_split(values, _BATCHES)])


def _interval(value: float, batches: FloatArray) -> tuple[float, float]:
    half = _T * float(np.std(batches, ddof=1)) / math.sqrt(len(batches))
    return value - half, value + half


def _without_switching(session: Session, visits: list[Visit], openings: list[tuple[int, float]]) -> tuple[Visit, ...]:
    """Take the logged switching out of visits; `openings`: those that took over, and how long their first step was."""
    if not openings:
        return tuple(visits)
    parts = session.outcome.get("active")
    if not isinstance(parts, Mapping) or "switching" not in parts:
        raise HandrailError(
            f"session {session.id}: the operator took over from the policy, but outcome has no active.switching; "
            f"keep `world.clock.spent` in it as `handrail.agents.simulate.work` does"
        )
    lasted = sum(took for _, took in openings)
    share = min(float(parts["switching"]) / lasted, 1.0) if lasted > 0 else 0.0
    for number, took in openings:
        visits[number] = visits[number]._replace(active=max(visits[number].active - share * took, 0.0))
    return tuple(visits)


def _finished(session: Session, step: Step) -> float:
    if step.time is None:
        raise HandrailError(
            f"session {session.id}, step {step.index}: no time; expected UTC seconds, as simulated logs have"
        )
    return step.time
