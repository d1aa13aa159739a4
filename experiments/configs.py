"""Defaults from the dataclasses into Hydra, and configurations back into dataclasses.

A hyperparameter's default stands in its dataclass; `register` puts it into Hydra as `<group>/base`, which the options
of the group build on. Critics are found by file name and heavy to import, so their values stand in `conf/critic/`.
"""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms.config import DaggerConfig, SFTConfig, TrainingConfig
from handrail.envs import registry
from handrail.envs.errors import HandrailError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

STUDIES = "handrail.experiments.studies"

T = TypeVar("T")

_GROUPS: dict[str, type[Any]] = {
    "policy": PolicyConfig,
    "sft": SFTConfig,
    "dagger": DaggerConfig,
    "transcript": TranscriptConfig,
}

_NAMED = {
    "critic": ("handrail.algorithms.critics", "critic"),
    "baselines": ("handrail.agents.baselines", "baseline"),
    "confidence": ("handrail.agents.confidence", "confidence score"),
}
"""Key whose items are file names -> the package they are found in, and what one is called in messages."""


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


def settle(cfg: DictConfig, overrides: Mapping[str, Any]) -> DictConfig:
    """Return the configuration with what follows from critics that are chosen on the command line.

    An experiment may set values of several critics; only those that are chosen stay. The first of them is the one whose
    thresholds are certified, unless `certify.method` is given or is one that stays.

    Args:
        cfg: composed.
        overrides: key or group -> value, as they were given.
    """
    from omegaconf import OmegaConf, open_dict

    chosen = overrides.get("critic")
    if chosen is None or "critic" not in cfg:
        return cfg
    names = [str(name) for name in (chosen if isinstance(chosen, list) else [chosen])]
    settled = copy.deepcopy(cfg)
    with open_dict(settled):
        for name in [name for name in settled.critic if name not in names]:
            del settled.critic[name]
    method = OmegaConf.select(settled, "certify.method")
    known = [*names, *map(str, OmegaConf.select(settled, "confidence", default=[]))]
    if names and method is not None and "certify.method" not in overrides and method not in known:
        settled.certify.method = names[0]
    return settled


def check(cfg: DictConfig, choices: Mapping[str, Any], defaults: DictConfig) -> None:
    """Find mistakes before any work.

    Args:
        cfg: composed and settled.
        choices: config group -> option.
        defaults: the same choices without any other override; says of which kind a value has to be.

    Raises:
        HandrailError: a value has the wrong type or is out of its range, a name is unknown, or values do not go
            together.
    """
    from omegaconf import OmegaConf

    plain = typing.cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    _check_kinds(plain, OmegaConf.to_container(defaults, resolve=True), "")
    study = plain["experiment"]["study"]
    known = registry.names(STUDIES)
    if study not in known:
        raise HandrailError(f"unknown study {study!r}{nearest(study, known)}")
    for group, kind in _GROUPS.items():
        if choices.get(group) is not None:
            build(kind, plain[group], group)
    if plain.get("pretrain") is not None:
        build(TrainingConfig, plain["pretrain"], "pretrain")
    for key, (package, kind_of_name) in _NAMED.items():
        known = registry.names(package)
        for name in map(str, plain.get(key) or ()):
            if name not in known:
                raise HandrailError(f"unknown {kind_of_name} {name!r}{nearest(name, known)}")
    for name, values in (plain.get("critic") or {}).items():
        build(registry.load(_NAMED["critic"][0], name, "critic").Config, values, f"critic.{name}")
    _check_combinations(plain)


def _check_combinations(plain: Mapping[str, Any]) -> None:
    methods = [*plain.get("critic", ()), *plain.get("confidence", ())]
    method = plain.get("certify", {}).get("method")
    if method is not None and method not in methods:
        raise HandrailError(
            f"certify.method={method!r} is none of this run's critics and confidence scores{nearest(method, methods)}"
        )
    second = plain.get("rerank")
    if second is not None and second not in plain.get("baselines", ()):
        raise HandrailError(
            f"rerank={second!r} is none of this run's baselines{nearest(second, plain.get('baselines', ()))}; "
            "rerank=null leaves the policy alone"
        )


def _check_kinds(given: Any, default: Any, where: str) -> None:
    """Raise HandrailError where a value is of another kind than the default it replaces; null is of every kind."""
    if given is None or default is None or default == "???":
        return
    if isinstance(default, dict) and isinstance(given, dict):
        for key, value in given.items():
            _check_kinds(value, default.get(key), f"{where}.{key}" if where else str(key))
        return
    if isinstance(default, list) and isinstance(given, list):
        kinds = {_kind(item) for item in default}
        for number, item in enumerate(given if len(kinds) == 1 else ()):
            _check_kinds(item, default[0], f"{where}[{number}]")
        return
    expected, found = _kind(default), _kind(given)
    if (
        expected == found
        or (expected == "a number" and found == "a whole number")
        or (expected == "a list" and found == "text")
    ):
        return
    raise HandrailError(f"{where}={given!r}: expected {expected}, as {default!r} is, which it replaces")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "options as NAME=…"}
    return next(name for kind, name in names.items() if isinstance(value, kind))


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
