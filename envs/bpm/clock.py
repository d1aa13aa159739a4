"""How long work takes: the seconds that people and machines need for what they do at a desk.

An action of an operator costs the sum of its parts, times a factor for the person and a log-normal one for the moment:

| part | when | seconds |
|---|---|---|
| reading | messages arrived since the last look | `reading` a word |
| deciding | always, but not between the fields of one form | `deciding` after a message, else `routine` |
| typing | a text or number is entered, or a message written | `typing` a character |
| pointing | always | `pointing` |
| confirming | a suggestion is accepted: then nothing is typed or pointed at | `confirming`, and `judging` of deciding |
| correcting | a suggestion is rejected: beside all of the above | `correcting` |
| switching | the operator takes over a session that ran without them, or comes back to one | `switching` |

The customer needs `answering` seconds, `listening` for each word they read and `writing` for each character they write.
A policy needs `machine` seconds for an action. Only what the operator spends counts as active time.

The defaults are those that `handrail.envs.bpm.gaps` measures on STAR; `pace` makes up for the difference between STAR's
desk and the domains here. `docs/people.md` says which figure comes from where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Literal, NamedTuple

import msgspec

from handrail.envs.errors import HandrailError, nearest
from handrail.envs.schema import Action, Verdict

PARTS: tuple[str, ...] = ("reading", "deciding", "typing", "pointing", "confirming", "correcting", "switching")
"""What an operator's active time is made of, in the order of `Spent`."""

Hand = Literal["operator", "policy"]
"""Who acts: an operator, or a policy on its own."""


class Seconds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Time costs. A domain overrides them by name in `desk.seconds`.

    Attributes:
        reading: per word of a message that the operator reads.
        deciding: what to do after a message.
        routine: deciding where nothing new was said.
        typing: per character.
        pointing: finding and clicking a control.
        confirming: accepting a suggestion that is right.
        correcting: seeing that a suggestion will not do.
        switching: getting back into a session.
        judging: share of the time to decide that it takes to check a suggestion instead, 0 to 1.
        answering: a customer, before they write.
        listening: a customer, per word they read.
        writing: a customer, per character.
        machine: a policy, per action.
        spread: standard deviation of the logarithm of one operator's times for like work.
        people: standard deviation of the logarithm of operators' speeds.
        pace: factor on all of an operator's seconds.
    """

    reading: float = 0.34
    deciding: float = 6.4
    routine: float = 3.4
    typing: float = 0.23
    pointing: float = 0.6
    confirming: float = 2.0
    correcting: float = 4.0
    switching: float = 6.4
    judging: float = 0.33
    answering: float = 7.8
    listening: float = 0.12
    writing: float = 0.24
    machine: float = 1.0
    spread: float = 0.59
    people: float = 0.26
    pace: float = 1.5

    @classmethod
    def of(cls, given: Mapping[str, float]) -> Seconds:
        """Return the defaults with the values in `given` (a domain's `desk.seconds`).

        Raises:
            HandrailError: a name is unknown, or a value is no number of seconds, >= 0.
        """
        for name, value in given.items():
            if name not in cls.__struct_fields__:
                raise HandrailError(f"desk.seconds: unknown cost {name!r}{nearest(name, cls.__struct_fields__)}")
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise HandrailError(f"desk.seconds.{name} is {value!r}, expected a number >= 0")
        return cls(**given)


class Spent(NamedTuple):
    """Operator-active seconds by part."""

    reading: float = 0.0
    deciding: float = 0.0
    typing: float = 0.0
    pointing: float = 0.0
    confirming: float = 0.0
    correcting: float = 0.0
    switching: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


ClockState = tuple[float, int, int, str, bool, str, tuple[float, ...], float]
"""What `Clock.snapshot` returns."""

# Log-normal noise is drawn by hashing a counter and looking up a quantile: no generator whose state snapshots would
# have to copy.
_BITS = 12
_QUANTILES = tuple(NormalDist().inv_cdf((n + 0.5) / (1 << _BITS)) for n in range(1 << _BITS))
_MASK = (1 << 64) - 1


class Clock:
    """The time in one session.

    Args:
        seconds: time costs.
        start: when the session begins, UTC seconds.
        seed: of the noise.
        speed: factor on this operator's seconds.

    Attributes:
        now: UTC seconds.
        speed: factor on the seconds of the operator at work; assign to change the person.
    """

    __slots__ = ("_count", "_filling", "_hand", "_seed", "_spent", "_switch", "_unread", "now", "seconds", "speed")

    def __init__(self, seconds: Seconds, start: float = 0.0, seed: int = 0, speed: float = 1.0) -> None:
        self.seconds = seconds
        self.now = start
        self.speed = speed
        self._seed = seed & _MASK
        self._count = 0
        self._unread = -1
        self._filling = ""
        self._switch = False
        self._hand: str = ""
        self._spent = [0.0] * len(PARTS)

    @property
    def spent(self) -> Spent:
        """Operator-active seconds so far."""
        return Spent(*self._spent)

    @property
    def active(self) -> float:
        """Operator-active seconds so far, all parts together."""
        return sum(self._spent)

    def message(self, text: str, heard: str = "") -> float:
        """Let the customer read `heard` and write `text`; return when it arrives."""
        costs = self.seconds
        took = costs.answering + costs.listening * _words(heard) + costs.writing * len(text)
        self.now += took * math.exp(costs.spread * self._normal())
        self._unread = max(self._unread, 0) + _words(text)
        return self.now

    def switch(self) -> None:
        """The operator was away: the next thing they do costs `switching`."""
        self._switch = True

    def act(self, action: Action, actor: Hand = "operator", verdict: Verdict | None = None) -> float:
        """Let `actor` do `action`; return when it is done.

        A policy's action that the operator judged counts as the operator's: pass `actor="operator"` and the verdict.
        An operator who acts after a policy has acted alone takes the session over, which costs `switching`.

        Args:
            action: what is done.
            actor: who does it.
            verdict: what the operator made of the suggestion that was shown, `None` if none was.
        """
        costs = self.seconds
        form = action.target.partition(".")[0] if action.tool in ("set_field", "click") else ""
        within = bool(form) and form == self._filling
        self._filling = form if action.tool == "set_field" else ""
        if actor == "policy":
            self.now += costs.machine
            self._hand = actor
            return self.now
        factor = costs.pace * self.speed * math.exp(costs.spread * self._normal())
        spent, took = self._spent, 0.0
        if self._switch or self._hand == "policy":
            took = costs.switching
            spent[6] += took * factor
            self._switch = False
        self._hand = "operator"
        if self._unread > 0:
            part = costs.reading * self._unread
            spent[0] += part * factor
            took += part
        deciding = costs.deciding if self._unread >= 0 else 0.0 if within else costs.routine
        self._unread = -1
        if verdict == "accept":
            deciding *= costs.judging
            spent[4] += costs.confirming * factor
            took += costs.confirming
        else:
            if verdict == "reject":
                spent[5] += costs.correcting * factor
                took += costs.correcting
            spent[3] += costs.pointing * factor
            took += costs.pointing
            characters = _typed(action)
            if characters:
                part = costs.typing * characters
                spent[2] += part * factor
                took += part
        spent[1] += deciding * factor
        self.now += (took + deciding) * factor
        return self.now

    def snapshot(self) -> ClockState:
        """Return the state, immutable."""
        spent = tuple(self._spent)
        return self.now, self._count, self._unread, self._filling, self._switch, self._hand, spent, self.speed

    def restore(self, state: ClockState) -> None:
        """Go back to a state that `snapshot` returned."""
        self.now, self._count, self._unread, self._filling, self._switch, self._hand, spent, self.speed = state
        self._spent = list(spent)

    def _normal(self) -> float:
        """Draw from the standard normal distribution: SplitMix64 of the counter, then the inverse of the normal CDF."""
        self._count += 1
        z = (self._seed + self._count * 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return _QUANTILES[(z ^ (z >> 31)) >> (64 - _BITS)]


def _words(text: str) -> int:
    return text.count(" ") + 1 if text else 0


def _typed(action: Action) -> int:
    if action.tool == "set_field":
        value = action.args.get("value")
        return 0 if value is None or isinstance(value, bool) else len(str(value))
    if action.tool == "send_message":
        return len(str(action.args.get("text") or ""))
    return 0
