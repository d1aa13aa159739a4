"""What pressing a button does to the back end, in the world and in thought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from handrail.envs.bpm.ground import Ground
from handrail.envs.bpm.program import CompiledForm
from handrail.envs.bpm.screen import content, form_enabled
from handrail.envs.normalize import normalize_value

Draw = Callable[[str, int, dict[str, Any]], tuple[dict[str, Any], int | None]]
"""Draws the fields of a new record, given its type, its owner and the fields that are set; its id, if it has one."""


class Applied(NamedTuple):
    """What a submission changed.

    Attributes:
        added: id of a record it added -> the fields that the form set.
        opens: the screen that opens, `None` if it stays.
    """

    added: dict[int, tuple[str, ...]]
    opens: str | None


def refusal(form: CompiledForm, ground: Ground, values: dict[str, Any]) -> str | None:
    """Tell why `form` cannot be submitted with `values`, in the words of the screen; `None` if it can.

    Args:
        form: the form.
        ground: how things are.
        values: field -> content; fields that are empty are missing.
    """
    if not form_enabled(ground, form):
        return f"{form.form.label} is not available now."
    scope = ground.scope
    for field, _, valid in form.fields.values():
        value = values.get(field.id)
        if value is None:
            if field.required:
                return f"{field.label} is required."
        elif valid is not None and not valid({**scope, "value": value}):
            return field.error or f"{field.label} is not valid."
    return None


def contents(form: CompiledForm, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the inputs of `form` hold once `given` is entered: empty fields are missing, check boxes never are.

    Args:
        form: the form.
        given: field -> value.

    Raises:
        ValueError: an input cannot hold its value.
    """
    held = {}
    for field, _, _ in form.fields.values():
        value = content(field, given.get(field.id))
        if value != "":
            held[field.id] = value
        elif field.kind == "checkbox":
            held[field.id] = False
    return held


def found(ground: Ground, kind: str, by: dict[str, Any]) -> int | None:
    """Return the first record of a type whose fields equal `by`, as search forms compare; `None` if there is none.

    Only what belongs to the owner in focus is searched, if one is.
    """
    owner = ground.lineage.owner[kind]
    numbers = ground.listed(kind) if owner is None or owner in ground.focus else ground.every(kind)
    wanted = [(field, value, normalize_value(value)) for field, value in by.items()]
    if any(normal is None for _, _, normal in wanted):
        return None
    records = ground.records
    for number in numbers:
        values = records[number].values
        for field, value, normal in wanted:
            held = values[field]
            if held != value and normalize_value(held) != normal:
                break
        else:
            return number
    return None


def submit(form: CompiledForm, ground: Ground, values: dict[str, Any], draw: Draw) -> Applied:
    """Do what the button of `form` does.

    Args:
        form: the form; `refusal` says `None`.
        ground: changed in place.
        values: field -> content.
        draw: draws fields of added records that the form does not set.
    """
    scope = ground.scope
    scope["form"] = values
    added: dict[int, tuple[str, ...]] = {}
    opens = None
    for effect, when, by, sets, fields in form.effects:
        if when is not None and not when(scope):
            continue
        if effect.find is not None:
            ground.bring(effect.find, found(ground, effect.find, {field: value(scope) for field, value in by}))
        elif effect.add is not None:
            owner = ground.lineage.owner[effect.add]
            number = -1 if owner is None else ground.focus[owner]
            given = {field: value(scope) for field, value in fields}
            values_drawn, wanted = draw(effect.add, number, given)
            added[ground.insert(effect.add, number, values_drawn, wanted)] = tuple(given)
        elif effect.open is not None:
            opens = effect.open
        for kind, field, expression in sets:
            value = expression(scope)
            if kind == "case":
                ground.case[field] = value
            elif kind in ground.focus:
                ground.put(kind, field, value)
    ground.counts[form.form.id] = ground.counts.get(form.form.id, 0) + 1
    scope["form"] = _EMPTY
    return Applied(added, opens)


_EMPTY: dict[str, Any] = {}
