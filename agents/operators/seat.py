"""An operator at a session that a policy may share: works by themself, or judges what is suggested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from handrail.agents.operators.human import Operator, Person
from handrail.agents.operators.verdicts import Rates, Review, Reviewer
from handrail.agents.rollout import Episode
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action


class Seat(Protocol):
    """An operator at one session; simulated operators and people at a terminal are alike here.

    Attributes:
        name: pseudonym, as in the log.
    """

    name: str

    def act(self, env: BPMEnv) -> Action:
        """Return what they do of themself; no suggestion is shown. The environment does not change."""
        ...

    def label(self, env: BPMEnv) -> Action:
        """Return what they say should be done, while somebody else acts."""
        ...

    def review(self, env: BPMEnv, suggestion: Action) -> Review:
        """Accept or correct a suggestion. The environment does not change."""
        ...

    def passed(self, action: Action) -> None:
        """Take note of an action that ran without them."""
        ...

    def truth(self) -> dict[str, Any]:
        """Return what is true of their work and no log shows, for `Session.hidden`."""
        ...


Staff = Callable[[Episode], Seat]
"""Who works an episode; called when it begins."""


@dataclass
class SimulatedSeat:
    """A simulated person at one session.

    Args:
        operator: who, at the beginning of the case.
        rates: how they judge.
        source: who suggests, for the log.
    """

    operator: Operator
    rates: Rates = field(default_factory=Rates)
    source: str = ""

    def __post_init__(self) -> None:
        self.name = self.operator.person.name
        self._reviewer = Reviewer(self.operator, self.rates, self.source)

    def act(self, env: BPMEnv) -> Action:
        """Return what they do of themself, slips included."""
        return self.operator.act(env.world)

    def label(self, env: BPMEnv) -> Action:
        """Return what they know should be done."""
        return self.operator.expert.act(env.world)

    def review(self, env: BPMEnv, suggestion: Action) -> Review:
        """Accept or correct a suggestion, with the true cause."""
        return self._reviewer.review(env.world, suggestion)

    def passed(self, action: Action) -> None:
        """Take note of an action that ran without them."""
        self.operator.took(action)

    def truth(self) -> dict[str, Any]:
        """Return their slips: (number of the action, kind)."""
        return {"slips": [list(slip) for slip in self.operator.slipped]}


def crew_staff(people: Sequence[Person], rates: Rates | None = None, source: str = "policy") -> Staff:
    """Return a staff drawn from `people`: who works a case, and their luck, follow from the episode's seed alone.

    Runs over the same episodes are thus paired: the same people meet the same cases.

    Args:
        people: who may work.
        rates: how they judge suggestions.
        source: who suggests, for the log.

    Raises:
        HandrailError: there is nobody.
    """
    if not people:
        raise HandrailError("people is empty; expected at least one operator")

    def hire(episode: Episode) -> SimulatedSeat:
        # The episode's own seed would give the operator the numbers that the environment draws.
        rng = np.random.default_rng([episode.seed, 1])
        person = people[int(rng.integers(len(people)))]
        operator = Operator(person, rng)
        env: Any = episode.env.unwrapped
        operator.begin(env.world)
        return SimulatedSeat(operator, rates or Rates(), source)

    return hire
