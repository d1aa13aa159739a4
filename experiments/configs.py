"""Defaults from the dataclasses into Hydra, and configurations back into dataclasses.

A hyperparameter's default stands in its dataclass; `register` puts it into Hydra as `<group>/base`, which the options
of the group build on. What is found by name (domains, readers, critics, confidence scores) is an option of its group
without a file in `conf/`.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from handrail.agents.feature_env import RewardConfig
from handrail.agents.features import FeatureConfig
from handrail.agents.operators.config import OperatorConfig
from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms.config import (
    CRITIC_CONFIGS,
    CertifyConfig,
    DaggerConfig,
    GateConfig,
    SFTConfig,
    SpecialiseConfig,
    TrainingConfig,
)
from handrail.envs import registry
from handrail.envs.bpm import load
from handrail.envs.errors import HandrailError, nearest
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.settings import (
    ClosedLoopConfig,
    CopilotConfig,
    DataConfig,
    FeedbackConfig,
    HardConfig,
    JudgeConfig,
    LoggerConfig,
    OnlineConfig,
    SimulateConfig,
    SplitConfig,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

STUDIES = "handrail.experiments.studies"

T = TypeVar("T")

GROUPS: dict[str, type[Any]] = {
    "data": DataConfig,
    "simulate": SimulateConfig,
    "policy": PolicyConfig,
    "sft": SFTConfig,
    "dagger": DaggerConfig,
    "specialise": SpecialiseConfig,
    "transcript": TranscriptConfig,
    "operator": OperatorConfig,
    "certify": CertifyConfig,
    "gate": GateConfig,
    "closed_loop": ClosedLoopConfig,
    "feedback": FeedbackConfig,
    "online": OnlineConfig,
    "copilot": CopilotConfig,
    "hard": HardConfig,
    "judge": JudgeConfig,
    "logger": LoggerConfig,
    "ray": RayConfig,
    "features": FeatureConfig,
    "reward": RewardConfig,
}
"""Config group -> the dataclass that its options are values of, at the key of the same name."""

_VARIANTS: dict[tuple[str, str], type[Any]] = {("data", "split"): SplitConfig}
"""Config group and option -> the dataclass of options that have more keys than others of their group."""

READERS = "handrail.envs.logs.readers"

_NAMED = {
    "critic": ("handrail.algorithms.critics", "critic"),
    "baselines": ("handrail.agents.baselines", "baseline"),
    "confidence": ("handrail.agents.confidence", "confidence score"),
    "elicited": ("handrail.agents.elicited", "elicited confidence"),
    "algorithm": ("handrail.algorithms.rl.learners", "algorithm"),
}
"""Key whose items are file names -> the package they are found in, and what one is called in messages."""


_ACTORS = ("random", "policy", "expert")


def register() -> None:
    """Make the dataclasses' defaults, and what is found by name, known to Hydra."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance().store
    for group, kind in GROUPS.items():
        store(group=group, name="base", node=dataclasses.asdict(kind()))
    for (group, name), kind in _VARIANTS.items():
        store(group=group, name=name, node=dataclasses.asdict(kind()))
    for name, kind in CRITIC_CONFIGS.items():
        store(group="critic", name=name, node=dataclasses.asdict(kind()), package=f"critic.{name}")
    for name in registry.names(_NAMED["confidence"][0]):
        store(group="confidence", name=name, node={}, package=f"confidence.{name}")
    for name in registry.names(_NAMED["elicited"][0]):
        options = dataclasses.fields(registry.load(_NAMED["elicited"][0], name, "elicited confidence").Config)
        node = {option.name: option.default for option in options}
        store(group="elicited", name=name, node={name: node}, package="elicited")
    written = resources.files("handrail.conf") / "source"
    for name in registry.names(_NAMED["algorithm"][0]):
        node = dataclasses.asdict(_learner(name)())
        store(group="algorithm", name=name, node=node, package=f"algorithm.{name}")
    for name in registry.names(READERS):
        if not (written / f"{name}.yaml").is_file():
            store(group="source", name=name, node={"name": name, "options": {}})
    for name in load.names():
        _register_domain(name)


def register_paths(overrides: Sequence[str]) -> list[str]:
    """Make folders and models that overrides name known to Hydra as options of their groups.

    `domain=FOLDER` takes a domain of one's own, `policy=ORG/NAME` or `policy=FOLDER` any model, with the options of
    `policy=hub`, `ray=HOST:PORT` or `ray=auto` a cluster that runs. Overrides may be sweeps.

    Args:
        overrides: as typed; those that Hydra cannot read are left to it.

    Returns:
        The overrides for Hydra, to which a folder has no slash at its end.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    # FOLDER/, as shells complete it, is ./FOLDER: a name with a slash at its end Hydra cannot look up.
    readable = [re.sub(r"^(domain|policy)=([^/,]+)/$", r"\1=./\2", text) for text in overrides]
    readable = [text.rstrip("/") if text.startswith(("domain=", "policy=")) else text for text in readable]
    for text in readable:
        try:
            override = parser.parse_override(text)
            given = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
        except HydraException:
            continue
        for value in given:
            if not isinstance(value, str):
                continue
            group, store = override.key_or_group, ConfigStore.instance().store
            if group == "domain" and "/" in value:
                _register_domain(value)
            elif group == "policy" and "/" in value:
                store(**_option(group, value), node={"defaults": ["/policy/hub@_here_", "_self_"], "model": value})
            elif group == "ray" and (":" in value or value == "auto"):
                store(**_option(group, value), node={"defaults": ["/ray/base@_here_", "_self_"], "address": value})
    return readable


def _register_domain(name: str) -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(**_option("domain", name), node={"domain": name}, package="_global_")


def _option(group: str, name: str) -> dict[str, str]:
    """Return where an option stands whose name may be a path."""
    *folders, last = [part for part in name.split("/") if part]
    return {"group": "/".join([group, *folders]), "name": last}


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
    """Return the configuration with what follows from critics, confidences and algorithms chosen on the command line.

    An experiment may set values of several of them; only those that are chosen stay. If `certify.method` is none of
    them and was not given, it becomes the first critic, or the first confidence score where no critic is left.

    Args:
        cfg: composed.
        overrides: key or group -> value, as they were given.
    """
    from omegaconf import OmegaConf, open_dict

    settled = copy.deepcopy(cfg)
    chosen = [
        group for group in ("critic", "confidence", "algorithm") if overrides.get(group) is not None and group in cfg
    ]
    for group in chosen:
        given = overrides[group]
        names = [str(name) for name in (given if isinstance(given, list) else [given])]
        with open_dict(settled):
            settled[group] = {name: settled[group][name] for name in names}
    method = OmegaConf.select(settled, "certify.method")
    known = [*settled.get("critic", ()), *settled.get("confidence", ())]
    if chosen and known and method is not None and "certify.method" not in overrides and method not in known:
        settled.certify.method = str(known[0])
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
    threads = plain.get("threads")
    if threads is not None and (_kind(threads) != "a whole number" or threads < 1):
        raise HandrailError(f"threads={threads!r}: expected a whole number of at least 1, or null for all cores")
    study = plain["experiment"]["study"]
    known = registry.names(STUDIES)
    if study not in known:
        raise HandrailError(f"unknown study {study!r}{nearest(study, known)}")
    for group, kind in GROUPS.items():
        option = choices.get(group)
        if option is not None:
            build(_VARIANTS.get((group, str(option)), kind), plain[group], group)
    if plain.get("pretrain") is not None:
        build(TrainingConfig, plain["pretrain"], "pretrain")
    for key, (package, kind_of_name) in _NAMED.items():
        known = registry.names(package)
        for name in map(str, plain.get(key) or ()):
            if name not in known:
                raise HandrailError(f"unknown {kind_of_name} {name!r}{nearest(name, known)}")
    for name, values in (plain.get("critic") or {}).items():
        build(CRITIC_CONFIGS[name], values, f"critic.{name}")
    for name, values in (plain.get("algorithm") or {}).items():
        build(_learner(name), values, f"algorithm.{name}")
    _check_data(plain)
    _check_combinations(plain)


def _learner(name: str) -> type[Any]:
    kind: type[Any] = registry.load(_NAMED["algorithm"][0], name, "algorithm").Config
    return kind


def _check_data(plain: Mapping[str, Any]) -> None:
    """Check what is read or simulated."""
    for key in ("domain", "domains"):
        for name in [plain[key]] if isinstance(plain.get(key), str) else plain.get(key) or ():
            load.find(name)
    data = plain.get("data") or {}
    if data.get("source") is not None:
        known = registry.names(READERS)
        if data["source"] not in known:
            raise HandrailError(f"unknown source {data['source']!r}{nearest(data['source'], known)}")
    if "simulate" in plain and data.get("source") not in (None, "html"):
        raise HandrailError(
            f"source={data['source']}: this experiment reads the pages and clicks it has logged itself; expected "
            "source=html, or an experiment that reads logs, such as star"
        )


def _check_combinations(plain: Mapping[str, Any]) -> None:
    for actor in (plain.get("closed_loop") or {}).get("actors", ()):
        known = [*_ACTORS, *plain.get("baselines", ())]
        if actor not in known:
            raise HandrailError(
                f"closed_loop.actors: {actor!r} is neither {', '.join(_ACTORS)} nor one of this run's baselines"
                f"{nearest(actor, known)}"
            )
    methods = [*plain.get("critic", ()), *plain.get("confidence", ())]
    method = plain.get("certify", {}).get("method")
    if method is not None and method not in methods:
        raise HandrailError(
            f"certify.method={method!r} is none of this run's critics and confidence scores{nearest(method, methods)}"
        )
    learners = list(plain.get("algorithm") or ())
    for number, name in enumerate(learners):
        start = plain["algorithm"][name].get("start")
        if start is not None and start not in learners[:number]:
            raise HandrailError(
                f"algorithm.{name}.start={start!r}: expected an algorithm that learns before it; algorithm="
                f"[{start},{name}] is such an order"
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
