"""Actions in the spelling of the screen they are done on.

A tokenizer may fold case and white space, and actions that differ in these alone count as the same
(`handrail.envs.normalize`). A world that executes them need not be so generous: a control is found by its id, and what
is entered is stored as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from handrail.envs.normalize import normalize_text
from handrail.envs.offers import Offer, offers
from handrail.envs.schema import Action, Arg, Control, Message
from handrail.envs.spaces import Observation


def spelled(action: Action, observation: Observation) -> Action:
    """Return `action` as an operator would do it here.

    Tool, target, field names and options are spelled as the screen offers them; what can be entered freely as it was
    last seen, on the screen or in a message, if it was. What the screen does not offer is left as it is.

    Args:
        action: what is to be done.
        observation: what the operator sees.
    """
    offer = _offer(action, observation.state.controls)
    if offer is None:
        return action
    fields = {normalize_text(field.id): field for field in offer.fields}
    args: dict[str, Arg] = {}
    for name, value in action.args.items():
        field = fields.get(normalize_text(name))
        if field is None:
            args[name] = value
        else:
            args[field.id] = _value(value, field, observation) if isinstance(value, str) else value
    return Action(offer.tool, offer.target, args)


def _offer(action: Action, controls: tuple[Control, ...]) -> Offer | None:
    offered = offers(controls)
    for offer in offered:
        if (offer.tool, offer.target) == (action.tool, action.target):
            return offer
    wanted = normalize_text(action.tool), normalize_text(action.target)
    for offer in offered:
        if (normalize_text(offer.tool), normalize_text(offer.target)) == wanted:
            return offer
    return None


def _value(value: str, field: Control, observation: Observation) -> str:
    if value in field.options or not value.strip():
        return value
    for option in field.options:
        if normalize_text(option) == normalize_text(value):
            return option
    words = r"\s+".join(re.escape(word) for word in value.split())
    pattern = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    for text in _seen(observation):
        found = pattern.search(text)
        if found is not None:
            return found.group()
    return value


def _seen(observation: Observation) -> Iterator[str]:
    """Yield the texts an operator can copy from, the latest first."""
    yield from (value for value in observation.state.values.values() if isinstance(value, str))
    for events in (observation.events, *(step.events for step in reversed(observation.history))):
        yield from (event.text for event in reversed(events) if isinstance(event, Message))
