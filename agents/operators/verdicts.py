"""What a simulated operator makes of a suggestion: accept it or correct it, and the true cause of each rejection.

A suggestion is *right* if somebody who follows the procedure could go on with it, or if trying it in a copy of the
world shows that it leads to the expected end in no more steps than the operator's own way. Then:

| suggestion | what the operator does | cause |
|---|---|---|
| wrong | accepts it all the same (`rubber_stamp`) | `rubber_stamp` |
| wrong | corrects it | `model_error` |
| right | does it their own way, or something optional first (`acceptable`) | `acceptable` |
| right | the page does not take it (`environment`): loads it again | `environment` |
| right | is elsewhere with their thoughts (`other`): does something else | `other` |
| right | accepts it | |

`Rates.for_shares` gives rates under which causes have given shares of the rejections. The default rates give those of
the paper (43.2 / 37.2 / 6.9 / 12.7 % of more than 9,000 rejections in arXiv 2604.23855) if one critical suggestion in
ten is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

import numpy as np

from handrail.agents.operators.expert import Expert, choices, finish
from handrail.agents.operators.human import Operator
from handrail.envs.bpm.customer import Options
from handrail.envs.bpm.screen import CLOSE
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Feedback

Cause = Literal["", "model_error", "acceptable", "environment", "other", "rubber_stamp"]
"""Why a verdict is as it is; empty for a right suggestion that was accepted."""

SHARES: dict[str, float] = {"model_error": 0.432, "acceptable": 0.372, "environment": 0.069, "other": 0.127}
"""The paper's shares of the causes of rejections."""

ERROR = 0.1
"""Share of critical suggestions that are wrong, for which the default rates give the paper's shares."""

OWN_WAY = 0.1
"""Share of right critical suggestions that are not what the operator would do; 6 % in `bank`, 19 % in `telecom`."""


@dataclass(frozen=True)
class Rates:
    """Probabilities of what operators make of suggestions.

    Only critical suggestions are rejected without being wrong or other than what the operator would do: nothing else is
    worth the while.

    Attributes:
        rubber_stamp: of accepting a wrong suggestion.
        acceptable: of rejecting a right suggestion to do something optional first.
        preference: how many times as often that is where it is not what they would do themselves, a factor.
        environment: of a right suggestion that the page does not take.
        other: of rejecting a right suggestion for no reason to be seen.
    """

    rubber_stamp: float = 0.05
    acceptable: float = 0.0826
    preference: float = 2.0
    environment: float = 0.0169
    other: float = 0.031

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            what, most = ("factor", math.inf) if item.name == "preference" else ("probability", 1)
            if not 0 <= value <= most:
                raise HandrailError(f"rates of verdicts: {item.name} is {value!r}, expected a {what}")
        if self.acceptable * max(self.preference, 1) + self.environment + self.other > 1:
            raise HandrailError(f"rates of verdicts: right suggestions would be rejected more than always: {self}")

    @classmethod
    def for_shares(
        cls,
        shares: Mapping[str, float] = SHARES,
        error: float = ERROR,
        own_way: float = OWN_WAY,
        rubber_stamp: float = 0.05,
        preference: float = 2.0,
    ) -> Rates:
        """Return rates under which the causes of rejections have these shares.

        With error rate e and share m of rejections for model errors, the rejections are R = e (1 - rubber_stamp) / m of
        all suggestions, and a cause of share s strikes R s / (1 - e) of the right ones.

        Args:
            shares: cause -> share of the rejections; they sum to 1.
            error: share of critical suggestions that are wrong.
            own_way: share of right critical suggestions that are not what the operator would do.
            rubber_stamp: probability of accepting a wrong suggestion.
            preference: as the attribute.

        Raises:
            HandrailError: the shares are not those of the four causes, or no rates lead to them.
        """
        if set(shares) != set(SHARES) or abs(sum(shares.values()) - 1) > 1e-6 or not shares["model_error"] > 0:
            raise HandrailError(f"shares of causes are {dict(shares)}; expected {', '.join(SHARES)} with sum 1")
        if not (0 < error < 1 and 0 <= own_way <= 1):
            raise HandrailError(f"error={error}, own_way={own_way}: expected shares between 0 and 1")
        rejected = error * (1 - rubber_stamp) / shares["model_error"] / (1 - error)
        return cls(
            rubber_stamp=rubber_stamp,
            acceptable=rejected * shares["acceptable"] / (1 + own_way * (preference - 1)),
            preference=preference,
            environment=rejected * shares["environment"],
            other=rejected * shares["other"],
        )


CAREFUL = Rates(rubber_stamp=0, acceptable=0, preference=1, environment=0, other=0)
"""Verdicts that are the truth: what is right is accepted, what is wrong corrected."""


class Review(NamedTuple):
    """A verdict.

    Attributes:
        action: what the operator does: the suggestion, or the correction.
        feedback: as a log keeps it.
        cause: the true cause, which no log has and no policy may see.
        right: whether the suggestion was right.
        critical: whether the suggestion has effects outside the screen; a correction may have none.
    """

    action: Action
    feedback: Feedback
    cause: Cause
    right: bool
    critical: bool


@dataclass
class Reviewer:
    """An operator who judges suggestions.

    Args:
        operator: who.
        rates: how they judge.
        source: who suggests (a model id), for the log.
    """

    operator: Operator
    rates: Rates = field(default_factory=Rates)
    source: str = ""

    def review(self, world: World, suggestion: Action) -> Review:
        """Judge `suggestion` in the present state; the world does not change.

        Raises:
            HandrailError: the case is closed.
        """
        own = self.operator.expert.act(world)
        right = is_right(world, suggestion, self.operator.expert)
        critical = world.critical(suggestion)
        cause, correction = self._verdict(world, suggestion, own, right, critical)
        if correction is None:
            self.operator.took(suggestion)
            feedback = Feedback(suggestion, "accept", source=self.source)
            return Review(suggestion, feedback, cause, right, critical)
        feedback = Feedback(suggestion, "reject", correction, source=self.source)
        return Review(correction, feedback, cause, right, critical)

    def _verdict(
        self, world: World, suggestion: Action, own: Action, right: bool, critical: bool
    ) -> tuple[Cause, Action | None]:
        """Return the cause of the verdict, and the correction: `None` if the suggestion is accepted."""
        rates = self.rates
        chance = float(self.operator.rng.random())
        if not right:
            if chance < rates.rubber_stamp:
                return "rubber_stamp", None
            return "model_error", self._correction(world, suggestion, own)
        differs = not same_action(own, suggestion)
        strikes: list[tuple[Cause, float]] = []
        if critical:
            strikes = [("environment", rates.environment), ("other", rates.other)]
        if critical or differs:
            strikes.append(("acceptable", rates.acceptable * (rates.preference if differs else 1)))
        for cause, rate in strikes:
            if chance < rate:
                correction = self._instead(world, suggestion, own, cause)
                return (cause, correction) if correction is not None else ("", None)
            chance -= rate
        return "", None

    def _correction(self, world: World, suggestion: Action, own: Action) -> Action:
        """Return what they do instead of a wrong suggestion; a slip that would be just that is none."""
        action = self.operator.act(world)
        return own if same_action(action, suggestion) else action

    def _instead(self, world: World, suggestion: Action, own: Action, cause: Cause) -> Action | None:
        """Return what they do instead of a right suggestion, `None` if there is nothing else to do."""
        if cause == "environment":
            options = _reloads(world)
        elif cause == "acceptable":
            options = [own, *choices(world)]
        else:
            options = []
        found = [action for action in options if not same_action(action, suggestion)]
        if not found:
            found = [action for action in _looks(world) if not same_action(action, suggestion)]
            if found:
                found = [found[int(self.operator.rng.random() * len(found))]]
        if found:
            self.operator.took(found[0])
            return found[0]
        return None


def is_right(world: World, suggestion: Action, expert: Expert) -> bool:
    """Tell whether a suggestion is as good as what an operator would do.

    Both ways are tried in a copy of the world whose customer answers what is asked, so that chance does not decide
    which is the shorter. Where nothing leads to the expected end any more, only what the procedure says is right.

    Args:
        world: left as it is.
        suggestion: judged.
        expert: shows the way to the end.

    Raises:
        HandrailError: the case is closed.
    """
    if any(same_action(suggestion, action) for action in choices(world)):
        return True
    before = world.snapshot()
    copy = World(world.domain, world.case, Options(world.options.language, typos=0, omits=0, wavers=0, chatter=0))
    copy.restore(before)
    if copy.do(suggestion).error is not None or len(copy.violations) > len(before.violations):
        return False
    steps = finish(copy, expert)
    if steps is None or not copy.success:
        return False
    copy.restore(before)
    own = finish(copy, expert)
    return own is None or steps < own


class Suggester:
    """A copilot that is right at a set rate: the expert's action, or another critical one that is wrong.

    It stands in for a trained policy where verdicts are wanted before there is one.

    Args:
        expert: what it learned from.
        error: share of its critical suggestions that are wrong.
        rng: source of its errors.
    """

    def __init__(self, expert: Expert, error: float, rng: np.random.Generator) -> None:
        if not 0 <= error <= 1:
            raise HandrailError(f"a copilot with error={error!r}; expected a share from 0 to 1")
        self.expert, self.error, self.rng = expert, error, rng

    def suggest(self, world: World) -> Action:
        """Return a suggestion for the present state.

        Raises:
            HandrailError: the case is closed.
        """
        meant = self.expert.act(world)
        if not world.critical(meant) or self.rng.random() >= self.error:
            return meant
        mistakes = _mistakes(world, meant)
        while mistakes:
            action = mistakes.pop(int(self.rng.random() * len(mistakes)))
            if not is_right(world, action, self.expert):
                return action
        return meant


def _mistakes(world: World, meant: Action) -> list[Action]:
    """Return critical actions that models take for `meant`: a reply named like it, a button, another way to close."""
    state = world.state()
    replies = [Action("send_reply", c.id) for c in state.controls if c.kind == "template" and c.enabled]
    buttons = [Action("click", c.id) for c in state.controls if c.kind == "button" and c.enabled]
    replies = [action for action in replies if action.target != meant.target and world.critical(action)]
    replies.sort(key=lambda action: -_common(action.target, meant.target))
    if meant.tool != "click":
        buttons = [action for action in buttons if action.target.startswith(CLOSE)]
    return replies[:4] + [action for action in buttons if action.target != meant.target and world.critical(action)]


def _common(first: str, second: str) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def _reloads(world: World) -> list[Action]:
    """Return the ways to load the page again."""
    links = world.program.screens[world.screen].links
    found = [Action("navigate", world.screen)] if world.screen in links else []
    return [*found, Action("open_procedure", world.procedure)] if world.procedure is not None else found


def _looks(world: World) -> list[Action]:
    """Return the screens that can be looked up from here."""
    return [Action("navigate", c.id) for c in world.state().controls if c.kind == "link" and c.enabled]
