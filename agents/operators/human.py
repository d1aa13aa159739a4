"""Operators as people: an expert with a speed, habits and slips.

| slip | what happens | and then |
|---|---|---|
| `mistype` | a text or number is entered with one character wrong | noticed and entered again, or not noticed |
| `misselect` | another row of the table is selected | noticed at the next look |
| `misnavigate` | another link is followed | noticed at the next look |
| `misreply` | another reply of the list is sent | the right one follows; the wrong one was sent |
| `forget` | a message that has to be sent is left out, and the case is closed | the case fails |
| `repeat` | the action before is done once more | seen on the screen |

What was noticed is put right, since the expert knows the way from any state; what was sent or submitted cannot be
undone. Each slip is noted with its kind (`Operator.slipped`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from handrail.agents.operators.expert import STYLES, Expert, Style
from handrail.envs.bpm import flow
from handrail.envs.bpm.case import slip as mistyped
from handrail.envs.bpm.clock import Seconds
from handrail.envs.bpm.flow import Todo
from handrail.envs.bpm.screen import CLOSE
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action


@dataclass(frozen=True)
class Slips:
    """Probabilities of slips, each per action of the kind it can happen to.

    Attributes:
        mistype: per text or number entered.
        misselect: per row selected, where there are several.
        misnavigate: per link followed.
        misreply: per reply sent.
        forget: per message that has to be sent.
        repeat: per action.
        unnoticed: probability that a mistyped value is not noticed before the form is submitted.
    """

    mistype: float = 0.02
    misselect: float = 0.01
    misnavigate: float = 0.01
    misreply: float = 0.004
    forget: float = 0.002
    repeat: float = 0.003
    unnoticed: float = 0.25

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value <= 1:
                raise HandrailError(f"slips: {item.name} is {value!r}, expected a probability")


NONE = Slips(0, 0, 0, 0, 0, 0, 0)
"""No slips."""


CREW = 6
"""People at a desk, if nothing else is said."""


@dataclass(frozen=True)
class Person:
    """Somebody who works at the desk.

    Attributes:
        name: pseudonym.
        style: how they work where there is a choice.
        seed: of their habits.
        speed: factor on the seconds they need; 1 is usual.
        slips: how often they slip.
        trait: name of the style theirs is nearest to.
    """

    name: str
    style: Style = field(default_factory=Style)
    seed: int = 0
    speed: float = 1.0
    slips: Slips = field(default_factory=Slips)
    trait: str = "thorough"

    def __post_init__(self) -> None:
        if not self.speed > 0:
            raise HandrailError(f"operator {self.name!r}: speed is {self.speed!r}, expected a factor > 0")


def crew(size: int, seed: int, seconds: Seconds | None = None, slips: Slips | None = None) -> tuple[Person, ...]:
    """Draw the people of a desk.

    Half of them lean to each style of `STYLES`; speeds are log-normal with the spread of `seconds`, scaled so that
    small crews are as fast as large ones on average; care varies by a factor of about 2 either way.

    Args:
        size: how many, >= 1.
        seed: of who they are.
        seconds: time costs of the domain; their `people` is the spread of speeds.
        slips: how often people slip on average.

    Raises:
        HandrailError: `size` is less than 1.
    """
    if size < 1:
        raise HandrailError(f"a crew of {size}; expected at least 1 operator")
    rng = np.random.default_rng([seed, 0x0C4E])
    spread = (seconds or Seconds()).people
    usual = slips or Slips()
    traits = list(STYLES)
    speeds = np.exp(rng.normal(0, spread, size))
    speeds *= np.exp(spread**2 / 2) / speeds.mean()
    people = []
    for number, speed in enumerate(speeds.tolist()):
        trait = traits[number % len(traits)]
        near = STYLES[trait]
        jitter = {item.name: _clip(getattr(near, item.name) + rng.normal(0, 0.05)) for item in fields(near)}
        care = float(np.exp(rng.normal(0, 0.35)))
        rates = {item.name: _clip(getattr(usual, item.name) * care) for item in fields(usual)}
        people.append(
            Person(
                name=f"{int(rng.integers(16**8)):08x}",
                style=Style(**{**jitter, "steady": near.steady}),
                seed=int(rng.integers(2**31)),
                speed=speed,
                slips=Slips(**{**rates, "unnoticed": usual.unnoticed}),
                trait=trait,
            )
        )
    return tuple(people)


class Operator:
    """A person at work on one case after the other.

    Args:
        person: who.
        rng: source of slips.

    Attributes:
        person: as given.
        expert: what they know.
        slipped: kinds of the slips since `begin`, with the number of the action (from 0) each happened at.
    """

    def __init__(self, person: Person, rng: np.random.Generator) -> None:
        self.person = person
        self.rng = rng
        self.expert = Expert(person.style, person.seed)
        self.slipped: list[tuple[int, str]] = []
        self._acted = 0
        self._believed: dict[str, Any] = {}
        self._last: Action | None = None
        self._filling: tuple[Todo, tuple[Any, ...]] | None = None

    def begin(self, world: World) -> None:
        """Sit down to a case: their speed is that of the clock, and they remember nothing of another case."""
        world.clock.speed = self.person.speed
        self.slipped = []
        self._acted = 0
        self._believed = {}
        self._last = self._filling = None

    def act(self, world: World) -> Action:
        """Return what they do now.

        Raises:
            HandrailError: the case is closed.
        """
        action = self._meant(world)
        chance = float(self.rng.random())
        slips = self.person.slips
        done = action
        if self._last is not None and chance < slips.repeat and not world.error:
            done, kind = self._last, "repeat"
        else:
            kind = ""
            if chance >= slips.repeat:
                kind, done = self._slip(world, action, (chance - slips.repeat) / (1 - slips.repeat))
        if kind:
            self.slipped.append((self._acted, kind))
        self.took(done)
        return done

    def took(self, action: Action) -> None:
        """Take note of what is done in this session: by themself, or a suggestion that they accepted."""
        if action.tool == "click":
            self._believed = {}
        self._acted += 1
        self._last = action

    def _meant(self, world: World) -> Action:
        """Return what they would do without a slip; a mistyped value that they have not noticed seems right."""
        # Entering something into a form changes nothing that procedures look at, so what is to be done stays the same.
        marks = len(world.log), len(world.views), world.procedure
        filling = self._last is not None and self._last.tool == "set_field"
        if filling and self._filling is not None and self._filling[1] == marks:
            todo = self._filling[0]
        else:
            todo = self.expert.choose(world, flow.pending(world))
            self._filling = todo, marks
        ways = flow.actions(world, todo, self.expert.template(world, todo))
        if self._believed:
            for action in ways:
                believed = self._believed.get(action.target)
                if action.tool != "set_field" or believed is None or world.fields.get(action.target) != believed:
                    return action
        return ways[0]

    def _slip(self, world: World, action: Action, chance: float) -> tuple[str, Action]:
        """Return what happens instead of `action`, and the kind of slip; no kind if nothing does.

        Args:
            world: never changed.
            action: what is meant.
            chance: a number from [0, 1).
        """
        slips, target = self.person.slips, action.target
        match action.tool:
            case "set_field" if chance < slips.mistype:
                value = action.args.get("value")
                if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
                    return "", action
                if world.program.forms[target.partition(".")[0]].fields[target].field.kind == "select":
                    return "", action
                wrong = mistyped(value, self.rng.random)
                if wrong == value:
                    return "", action
                if self.rng.random() < slips.unnoticed:
                    self._believed[target] = wrong
                return "mistype", Action("set_field", target, {"value": wrong})
            case "select_item" if chance < slips.misselect:
                others = [
                    option
                    for control in world.state().controls
                    if control.kind == "table" and control.id == target
                    for option in control.options
                    if option != action.args.get("item")
                ]
                if others:
                    return "misselect", Action("select_item", target, {"item": self._pick(others)})
            case "navigate" if chance < slips.misnavigate:
                others = self._ids(world, "link", target)
                if others:
                    return "misnavigate", Action("navigate", self._pick(others))
            case "send_reply":
                if chance < slips.misreply:
                    others = self._ids(world, "template", target)
                    if others:
                        return "misreply", Action("send_reply", self._pick(others))
                elif chance < slips.misreply + slips.forget:
                    return self._forget(world, action)
        return "", action

    def _forget(self, world: World, action: Action) -> tuple[str, Action]:
        """Leave out a message that has to be sent, if nothing but closing would follow it."""
        todo = self.expert.choose(world, flow.pending(world))
        if todo.kind != "tell" or todo.optional or not _last(world, todo):
            return "", action
        outcome = flow.expected(world).outcome
        return ("", action) if outcome is None else ("forget", Action("click", CLOSE + outcome))

    def _ids(self, world: World, kind: str, besides: str) -> list[str]:
        return [
            c.id for c in world.state().controls if c.kind == kind and c.enabled and c.id not in (besides, world.screen)
        ]

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.random() * len(options))]


def _last(world: World, todo: Todo) -> bool:
    """Tell whether all that has to follow `todo` in its procedure is to close the case."""
    procedure, _, name = todo.node.partition(".")
    nodes = world.domain.procedures[procedure].nodes
    following = nodes[name].next
    while following is not None:
        node = nodes[following]
        if node.close is not None:
            return True
        if not node.optional:
            return False
        following = node.next
    return False


def _clip(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))
