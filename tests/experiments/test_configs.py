"""Configurations into dataclasses, and every option of `conf/` that is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms.config import SFTConfig, TrainingConfig
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.experiments.configs import build, check, register, settle

CONF = Path(__file__).resolve().parents[2] / "conf"
CRITICS = "handrail.algorithms.critics"
KINDS: dict[str, type[Any]] = {"policy": PolicyConfig, "sft": SFTConfig, "transcript": TranscriptConfig}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int = 3


@dataclass(frozen=True)
class Outer:
    name: str
    mode: Literal["fast", "slow"] = "fast"
    grid: tuple[float, ...] = ()
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None
    check: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def test_values_become_fields_and_the_rest_keeps_its_defaults() -> None:
    node = {"name": "a", "mode": "slow", "grid": [1, 0.5], "inner": {"rate": 1}, "limit": 7, "extra": {"x": [1]}}
    expected = Outer("a", "slow", (1.0, 0.5), Inner(1.0, 3), 7, True, {"x": [1]})
    for given in (node, OmegaConf.create(node)):
        found = build(Outer, given, "outer")
        assert found == expected
        assert [type(value) for value in (*found.grid, found.inner.rate)] == [float] * 3
    assert build(Outer, {"name": "a", "limit": None}, "outer") == Outer("a")
    assert build(Inner, {}, "inner") == Inner()


def test_interpolations_are_resolved() -> None:
    node = OmegaConf.create({"twice": "${one.rate}", "one": {"rate": 2.0}, "inner": {"rate": "${one.rate}"}})
    assert build(Inner, node.inner, "inner") == Inner(2.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "a", "mod": "fast"}, r"unknown option outer\.mod; did you mean mode"),
        ({"name": "a", "inner": {"step": 1}}, r"unknown option outer\.inner\.step; did you mean steps"),
        ({}, r"no value for outer\.name"),
        ({"name": 3}, r"outer\.name=3: expected str"),
        ({"name": "a", "mode": "medium"}, r"outer\.mode='medium': expected one of fast, slow"),
        ({"name": "a", "grid": 0.5}, r"outer\.grid=0\.5: expected a list"),
        ({"name": "a", "grid": [0.5, "x"]}, r"outer\.grid\[1\]='x': expected float"),
        ({"name": "a", "inner": {"steps": 1.5}}, r"outer\.inner\.steps=1\.5: expected int"),
        ({"name": "a", "inner": {"steps": True}}, r"outer\.inner\.steps=True: expected int"),
        ({"name": "a", "inner": {"rate": True}}, r"outer\.inner\.rate=True: expected float"),
        ({"name": "a", "inner": {"rate": None}}, r"outer\.inner\.rate=None: expected float"),
        ({"name": "a", "inner": 3}, r"outer\.inner=3: expected options as outer\.inner\.NAME="),
        ({"name": "a", "limit": "many"}, r"outer\.limit='many': expected int"),
        ({"name": "a", "check": 1}, r"outer\.check=1: expected bool"),
        ({"name": "a", "extra": 3}, r"outer\.extra=3: expected \{name: value\}"),
        (None, r"outer=None: expected options"),
    ],
)
def test_mistakes_name_the_key(node: Any, message: str) -> None:
    with pytest.raises(HandrailError, match=message):
        build(Outer, node, "outer")


@pytest.fixture
def hydra() -> Iterator[None]:
    register()
    with initialize_config_module("handrail.conf", version_base="1.3"):
        yield


def test_hydra_knows_the_defaults_of_the_dataclasses(hydra: None) -> None:
    for group, kind in KINDS.items():
        node = ConfigStore.instance().load(f"{group}/base.yaml").node
        assert OmegaConf.to_container(node) == dataclasses.asdict(kind())
    cfg = compose("config", overrides=["experiment=star"])
    assert build(PolicyConfig, cfg.policy, "policy") == PolicyConfig()
    assert build(TranscriptConfig, cfg.transcript, "transcript") == TranscriptConfig()
    assert build(SFTConfig, cfg.sft, "sft") == SFTConfig(TrainingConfig(epochs=cfg.sft.training.epochs))


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in KINDS for option in options(group)])
def test_every_option_of_a_group_builds(hydra: None, group: str, option: str) -> None:
    changed = OmegaConf.load(CONF / group / f"{option}.yaml")
    given = {str(key): "given" for key in changed if OmegaConf.is_missing(changed, key)}
    overrides = [f"{group}={option}", *(f"{group}.{key}={value}" for key, value in given.items())]
    built = build(KINDS[group], compose("config", overrides=["experiment=star", *overrides])[group], group)
    for key in set(changed) - {"defaults", "training"}:
        assert getattr(built, str(key)) == (given[str(key)] if key in given else changed[key])


@pytest.mark.slow
def test_every_option_of_every_group_composes_with_every_experiment_that_has_the_group(hydra: None) -> None:
    composed = 0
    for experiment in options("experiment"):
        cfg = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
        for group in sorted(set(cfg.hydra.runtime.choices) & {path.name for path in CONF.iterdir() if path.is_dir()}):
            for option in set(options(group)) - {experiment} if group != "experiment" else ():
                compose("config", overrides=[f"experiment={experiment}", f"{group}={option}"])
                composed += 1
    assert composed > len(options("experiment"))


@pytest.mark.parametrize("critic", ["probe", "[tfidf]"])
def test_only_critics_that_are_chosen_stay_and_the_first_is_certified(hydra: None, critic: str) -> None:
    name = critic.strip("[]")
    cfg = compose("config", overrides=["experiment=star_fast", f"critic={critic}"])
    settled = settle(cfg, {"critic": [name] if "[" in critic else name})
    assert list(settled.critic) == [name]
    assert settled.critic[name] == cfg.critic[name]
    assert settled.certify.method == name
    assert cfg.certify.method == "full"
    kept = settle(cfg, {"critic": name, "certify.method": "full"})
    assert kept.certify.method == "full"
    assert settle(cfg, {}) == cfg


def checked(*overrides: str) -> None:
    cfg = compose("config", overrides=["experiment=bpm", *overrides])
    choices = {"policy": "tiny", "sft": "scratch", "transcript": "packed"}
    check(cfg, choices, compose("config", overrides=["experiment=bpm"]))


@pytest.mark.parametrize(
    "override",
    ["seed=3", "threads=2", "rerank=null", "data.path=null", "sft.training.epochs=3", "confidence=[]", "data.path=x"],
)
def test_values_of_the_kind_of_their_default_pass(hydra: None, override: str) -> None:
    checked(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("simulate.sessions=many", r"simulate\.sessions='many': expected a whole number, as 3000 is"),
        ("simulate.sessions=0.5", r"simulate\.sessions=0\.5: expected a whole number"),
        ("copied=1", r"copied=1: expected true or false"),
        ("certify.delta=true", r"certify\.delta=True: expected a number"),
        ("certify.targets=0.9", r"certify\.targets=0\.9: expected a list"),
        ("certify.targets=[0.9,high]", r"certify\.targets\[1\]='high': expected a number"),
        ("closed_loop=3", r"closed_loop=3: expected options"),
        ("domain=3", r"domain=3: expected text"),
        ("policy.layers=0.5", r"policy\.layers=0\.5: expected a whole number"),
        ("sft.context_share=2.0", r"sft\.context_share=2\.0"),
        ("baselines=[backof]", r"unknown baseline 'backof'; did you mean backoff"),
        ("confidence=[margn]", r"unknown confidence score 'margn'; did you mean margin"),
        ("certify.method=full", r"certify\.method='full' is none of this run's critics"),
        ("rerank=tfidf baselines=[backoff]", r"rerank='tfidf' is none of this run's baselines"),
        ("critic.probe.folds=two", r"critic\.probe\.folds='two': expected a whole number"),
    ],
)
def test_mistakes_are_found_before_any_work(hydra: None, override: str, message: str) -> None:
    with pytest.raises(HandrailError, match=message):
        checked(*override.split())


def test_every_critic_has_options_that_build(hydra: None) -> None:
    cfg = compose("config", overrides=["experiment=star", f"critic=[{','.join(options('critic'))}]"])
    assert options("critic") == registry.names(CRITICS) == sorted(cfg.critic)
    for name in cfg.critic:
        config = build(registry.load(CRITICS, name, "critic").Config, cfg.critic[name], f"critic.{name}")
        assert dataclasses.is_dataclass(config)
    one = compose("config", overrides=["experiment=star", "critic=[tfidf]"])
    assert list(one.critic) == ["tfidf"]


def test_a_stage_of_continued_pretraining_builds(hydra: None) -> None:
    cfg = compose("config", overrides=["experiment=star", "pretrain={epochs: 2.0}"])
    assert build(TrainingConfig, cfg.pretrain, "pretrain") == TrainingConfig(epochs=2.0)


def test_star_fast_is_star_with_less_of_it(hydra: None) -> None:
    whole, fast = (compose("config", overrides=[f"experiment={name}"]) for name in ("star", "star_fast"))
    assert fast.experiment.study == whole.experiment.study == "star"
    assert list(fast.critic) == list(whole.critic)
    assert fast.certify == whole.certify
    assert fast.data.max_sessions is not None
    assert fast.sft.training.epochs < whole.sft.training.epochs
