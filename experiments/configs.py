"""Defaults from the dataclasses into Hydra, and configurations back into dataclasses.

A hyperparameter's default stands in its dataclass; `register` puts it into Hydra as `<group>/base`, which the options
of the group build on. Critics are found by file name and heavy to import, so their values stand in `conf/critic/`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms.config import DaggerConfig, SFTConfig
from handrail.envs.errors import HandrailError, nearest

T = TypeVar("T")

_GROUPS: dict[str, type[Any]] = {
    "policy": PolicyConfig,
    "sft": SFTConfig,
    "dagger": DaggerConfig,
    "transcript": TranscriptConfig,
}


def register() -> None:
    """Make the dataclasses' defaults known to Hydra."""
    from hydra.core.config_store import ConfigStore

    for group, kind in _GROUPS.items():
        ConfigStore.instance().store(group=group, name="base", node=dataclasses.asdict(kind()))


def build(kind: type[T], node: Any, where: str) -> T:
    """Return the dataclass `kind` with the values of a configuration node.

    Args:
        kind: a dataclass; its fields may be dataclasses.
        node: a mapping with plain values.
        where: dotted key of the node, for errors.

    Raises:
        HandrailError: a key is unknown or missing, or a value has the wrong type.
    """
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(values, dict):
        raise HandrailError(f"{where}={values!r}: expected options as {where}.NAME=…")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise HandrailError(f"unknown option {where}.{key}{nearest(key, fields)}")
    given: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            given[name] = _value(hints[name], values[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise HandrailError(f"no value for {where}.{name}")
    return kind(**given)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise HandrailError(f"{where}={value!r}: expected one of {', '.join(map(str, choices))}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in typing.get_args(hint):
            return None
        return _value(next(a for a in typing.get_args(hint) if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise HandrailError(f"{where}={value!r}: expected a list")
        return tuple(_value(typing.get_args(hint)[0], item, f"{where}[{n}]") for n, item in enumerate(value))
    if hint is Any:
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise HandrailError(f"{where}={value!r}: expected {{name: value}}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise HandrailError(f"{where}={value!r}: expected {hint.__name__}")
    return value
