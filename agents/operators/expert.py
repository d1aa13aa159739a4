"""The expert: works any case from any state, by the procedure and what is on the screen and in the chat.

What is to be done comes from `handrail.envs.bpm.flow`; where the procedure leaves a choice (which of several replies,
whether to do something optional, which of two things first) the expert's style decides. A choice depends on the style,
the node and the case alone, so the expert needs no memory: asked again in the same state, or after others acted, it
goes on with what it would have begun.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields

from handrail.envs.bpm import flow
from handrail.envs.bpm.flow import Todo
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action

LONGEST = 120
"""Steps after which `finish` gives up."""


@dataclass(frozen=True)
class Style:
    """How somebody works where the procedure leaves a choice.

    Attributes:
        brevity: probability of sending the shortest of the replies that will do, instead of the longest.
        courtesy: probability of doing something optional.
        reorder: probability of doing the second of two things first where they may trade places.
        steady: share of these choices that are habits, alike in all cases, instead of made anew in each case.
    """

    brevity: float = 0.3
    courtesy: float = 0.8
    reorder: float = 0.2
    steady: float = 0.7

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise HandrailError(f"style: {field.name} is {value!r}, expected a number from 0 to 1")


STYLES: dict[str, Style] = {
    "thorough": Style(brevity=0.1, courtesy=0.95, reorder=0.05),
    "brisk": Style(brevity=0.5, courtesy=0.65, reorder=0.3),
}
"""Two ways to work that both satisfy every procedure."""


def style(name: str) -> Style:
    """Return a style by name.

    Raises:
        HandrailError: there is none of this name.
    """
    if name not in STYLES:
        raise HandrailError(f"unknown style {name!r}{nearest(name, STYLES)}")
    return STYLES[name]


class Expert:
    """Decides like somebody who knows the procedures by heart.

    Args:
        style: how they choose where there is a choice; a name of `STYLES` or a `Style`.
        seed: of the choices; experts of one style and different seeds have different habits.
    """

    def __init__(self, style: Style | str = "thorough", seed: int = 0) -> None:
        self.style = _named(style) if isinstance(style, str) else style
        self.seed = seed

    def act(self, world: World) -> Action:
        """Return what to do now.

        Raises:
            HandrailError: the case is closed.
        """
        todo = self.choose(world, flow.pending(world))
        return flow.actions(world, todo, self.template(world, todo))[0]

    def choose(self, world: World, todos: list[Todo]) -> Todo:
        """Return which of `todos` (from `flow.pending`) to do.

        Raises:
            HandrailError: there is none, because the case is closed.
        """
        if not todos:
            raise HandrailError(f"case {world.case.id} is closed ({world.outcome}); there is nothing left to do")
        for todo in todos[:-1]:
            likes = self.style.courtesy if todo.optional else 1 - self.style.reorder
            if self.draw(world, "order", todo.node) < likes:
                return todo
        if todos[-1].optional and len(todos) > 1:
            # All of them may wait, but what is not optional is to be done some time.
            return next((todo for todo in todos if not todo.optional), todos[-1])
        return todos[-1]

    def template(self, world: World, todo: Todo) -> str:
        """Return which of the replies of `todo` to send; empty if it is no reply."""
        if len(todo.templates) < 2:
            return "".join(todo.templates)
        texts = world.domain.templates
        by_length = sorted(todo.templates, key=lambda name: (len(texts[name].text), name))
        return by_length[0 if self.draw(world, "wording", todo.node) < self.style.brevity else -1]

    def draw(self, world: World, what: str, node: str) -> float:
        """Return a number from [0, 1) that belongs to this person and choice and, unless it is a habit, to the case."""
        habit = f"{self.seed} {what} {node}"
        if _hashed(f"{habit} habit") < self.style.steady:
            return _hashed(habit)
        return _hashed(f"{habit} {world.case.id}")


def choices(world: World) -> list[Action]:
    """Return every action with which somebody who follows the procedure could go on now, the plainest first.

    They are the first actions of all that may be done now: any of the replies that will do, the fields of a form in any
    order, what may be left out or trade places.
    """
    found: list[Action] = []
    for todo in flow.pending(world):
        for template in todo.templates or ("",):
            ways = flow.actions(world, todo, template)
            count = 1
            while count < len(ways) and ways[0].tool == ways[count].tool == "set_field":
                count += 1
            for action in ways[:count]:
                if not any(same_action(action, other) for other in found):
                    found.append(action)
    return found


def finish(world: World, expert: Expert, limit: int = LONGEST) -> int | None:
    """Let `expert` work the case to its end.

    Args:
        world: changed in place.
        expert: who works.
        limit: give up after this many steps.

    Returns:
        The number of steps, `None` if the case was still open after `limit` of them.
    """
    for steps in range(limit):
        if world.outcome is not None:
            return steps
        world.do(expert.act(world))
    return limit if world.outcome is not None else None


def _named(name: str) -> Style:
    return style(name)


def _hashed(text: str) -> float:
    # CRC-32 alone leaves like texts with like values; a multiplication and a shift mix them.
    mixed = (zlib.crc32(text.encode()) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF) / 2**64
