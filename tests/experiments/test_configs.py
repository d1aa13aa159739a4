"""Configurations into dataclasses, and every option of `conf/` that is one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import TranscriptConfig
from handrail.algorithms.config import CRITIC_CONFIGS, RobustConfig, SFTConfig, TrainingConfig
from handrail.envs import registry
from handrail.envs.bpm import load
from handrail.envs.errors import HandrailError
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.configs import GROUPS, build, check, register, register_paths, settle

CONF = Path(__file__).resolve().parents[2] / "conf"


def options(group: str) -> list[str]:
    """What may be chosen of a group, with `register`ed options."""
    return list(GlobalHydra.instance().config_loader().get_group_options(group))


def groups() -> list[str]:
    return [name for name in GlobalHydra.instance().config_loader().list_groups("") if name != "hydra"]


def files(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def filled(group: str, option: str) -> list[str]:
    """The choice of an option, with a value for each that it wants to be given."""
    path = CONF / group / f"{option}.yaml"
    changed = OmegaConf.load(path) if path.is_file() else OmegaConf.create({})
    wanted = [str(key) for key in changed if OmegaConf.is_missing(changed, str(key))]
    # What no experiment chooses by itself is appended.
    return [f"{'+' * (group == 'elicited')}{group}={option}", *(f"{group}.{key}=given" for key in wanted)]


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
    for group, kind in GROUPS.items():
        node = ConfigStore.instance().load(f"{group}/base.yaml").node
        assert OmegaConf.to_container(node) == OmegaConf.to_container(OmegaConf.create(dataclasses.asdict(kind())))
        assert build(kind, OmegaConf.to_container(node), group) == kind()
    cfg = compose("config", overrides=["experiment=star"])
    assert build(PolicyConfig, cfg.policy, "policy") == PolicyConfig()
    assert build(TranscriptConfig, cfg.transcript, "transcript") == TranscriptConfig()
    assert build(SFTConfig, cfg.sft, "sft") == SFTConfig(TrainingConfig(epochs=cfg.sft.training.epochs))


def test_what_is_found_by_name_is_an_option(hydra: None) -> None:
    assert options("domain") == load.names()
    assert options("critic") == registry.names("handrail.algorithms.critics") == sorted(CRITIC_CONFIGS)
    assert options("confidence") == registry.names("handrail.agents.confidence")
    assert options("source") == registry.names("handrail.envs.logs.readers")
    assert options("elicited") == registry.names("handrail.agents.elicited")
    assert options("algorithm") == registry.names("handrail.algorithms.rl.learners")


def test_every_option_of_a_group_builds_and_is_what_its_file_says(hydra: None) -> None:
    of_experiments = {"gate": "online_ab", "operator": "bpm", "sft": "star", "policy": "star", "transcript": "star"}
    for group in GROUPS:
        for option in files(group):
            overrides = [f"experiment={of_experiments.get(group, 'bpm')}", *filled(group, option)]
            built = build(GROUPS[group], compose("config", overrides=overrides)[group], group)
            changed = OmegaConf.load(CONF / group / f"{option}.yaml")
            for key in set(changed) - {"defaults", "training", "slips", "rates"}:
                expected = "given" if OmegaConf.is_missing(changed, str(key)) else changed[key]
                assert getattr(built, str(key)) == expected


@pytest.mark.slow
def test_every_option_of_every_group_composes_with_every_experiment_that_has_the_group(hydra: None) -> None:
    unused = set(groups()) - {"experiment"}
    for experiment in options("experiment"):
        start = [f"experiment={experiment}"]
        cfg = compose("config", overrides=start, return_hydra_config=True)
        choices = {group: cfg.hydra.runtime.choices.get(group) for group in groups()}
        lists = [name for name in ("critic", "confidence", "algorithm") if cfg.get(name)]
        lists += ["elicited"] * ("elicited" in cfg)
        for group in [name for name in groups() if name != "experiment" and (choices[name] or name in lists)]:
            unused.discard(group)
            for option in options(group):
                overrides = [*start, *filled(group, option)]
                given = compose("config", overrides=overrides)
                settled = settle(given, {group: option})
                refused = None
                if group == "source" and option != "html" and "simulate" in given:
                    refused = f"source={option}: this experiment reads the pages"
                if group == "data" and option == "base" and choices["data"] == "split":
                    refused = r"unknown option data\.(where|splits)"
                if group == "algorithm" and option == "ppo":
                    refused = r"algorithm\.ppo\.start='bc': expected an algorithm that learns before it"
                if refused is not None:
                    with pytest.raises(HandrailError, match=refused):
                        check(settled, {**choices, group: option}, given)
                else:
                    check(settled, {**choices, group: option}, given)
    assert unused == set(), "groups that no experiment of this test chooses from"


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
    experiment = next((one for one in overrides if one.startswith("experiment=")), "experiment=bpm")
    given = [experiment, *(one for one in overrides if one != experiment)]
    cfg = compose("config", overrides=given, return_hydra_config=True)
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    check(plain, cfg.hydra.runtime.choices, compose("config", overrides=[experiment]))


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
        ("certify.delta=1.5", r"certify\.delta=1\.5: expected a chance above 0 and below 1"),
        ("certify.targets=[0.9,95]", r"certify\.targets\[1\]=95\.0: expected a precision above 0 and below 1"),
        ("operator.people=0", r"operator\.people=0: expected at least 1 operator"),
        ("operator.slips.forget=2.0", r"slips: forget is 2\.0, expected a probability"),
        ("closed_loop.cases=0", r"closed_loop\.cases=0: expected at least 1"),
        ("closed_loop.actors=[majorty]", r"closed_loop\.actors: 'majorty' is neither .* did you mean majority"),
        ("logger.mode=of", r"logger\.mode='of': expected one of none, offline, online"),
        ("+logger.projct=x", r"unknown option logger\.projct; did you mean project"),
        ("+policy.optimizer=x", r"unknown option policy\.optimizer"),
        ("policy.lora_rank=8", r"policy\.lora_rank=8 with policy\.model=null: expected a pretrained model"),
        ("policy.heads=5", r"policy\.hidden_size=128, policy\.heads=5: expected a hidden size that is a multiple"),
        ("+simulate.session=5", r"unknown option simulate\.session; did you mean sessions"),
        ("simulate.workers=0", r"simulate\.workers=0: expected at least 1"),
        ("experiment=online_ab online.workers=0", r"online\.workers=0: expected at least 1"),
        ("data.max_sessions=0", r"data\.max_sessions=0: expected at least 1"),
        ("data.splits.test=none", r"data\.splits\.test='none': expected a number"),
        ("data.splits.test=0", r"data\.splits=.*: expected shares above 0 that sum to at most 1"),
        ("threads=0", r"threads=0: expected a whole number of at least 1, or null for all cores"),
        ("threads=many", r"threads='many': expected a whole number of at least 1, or null for all cores"),
        ("ray.workers=0", r"ray\.workers=0: expected at least 1"),
        ("policy.dtype=float8", r"policy\.dtype='float8': expected one of auto, float32, bfloat16"),
        ("sft.training.optimizer=sgd", r"sft\.training\.optimizer='sgd': expected one of muon, adamw"),
        ("sft.training.epochs=0", r"training\.epochs=0\.0: expected passes over the data, more than 0"),
        ("source=star", r"source=star: this experiment reads the pages and clicks it has logged itself"),
        ("data.splits.train=0.9", r"data\.splits=.*: expected shares above 0 that sum to at most 1"),
        ("critic.probe.folds=1", r"critic\.probe\.folds=1: expected at least 2"),
        ("critic.tfidf.inverse_regularisation=[]", r"inverse_regularisation=\[\]: expected at least one number"),
        ("certify.targets=0.9", r"certify\.targets=0\.9: expected a list"),
        ("certify.targets=[0.9,high]", r"certify\.targets\[1\]='high': expected a number"),
        ("policy.layers=0.5", r"policy\.layers=0\.5: expected a whole number"),
        ("sft.context_share=2.0", r"sft\.context_share=2\.0"),
        ("baselines=[backof]", r"unknown baseline 'backof'; did you mean backoff"),
        ("certify.method=full", r"certify\.method='full' is none of this run's critics"),
        ("rerank=tfidf baselines=[backoff]", r"rerank='tfidf' is none of this run's baselines"),
        ("critic.probe.folds=two", r"critic\.probe\.folds='two': expected a whole number"),
    ],
)
def test_mistakes_are_found_before_any_work(hydra: None, override: str, message: str) -> None:
    with pytest.raises(HandrailError, match=message):
        checked(*override.split())


def test_critics_are_chosen_by_name_with_options_that_build(hydra: None) -> None:
    cfg = compose("config", overrides=["experiment=star", "critic=[tfidf,robust]", "critic.robust.resumed=0.25"])
    assert list(cfg.critic) == ["tfidf", "robust"]
    assert build(RobustConfig, cfg.critic.robust, "critic.robust") == RobustConfig(resumed=0.25)


@pytest.mark.parametrize("method", ["margin", "[margin]"])
def test_only_scores_that_are_chosen_stay(hydra: None, method: str) -> None:
    cfg = compose("config", overrides=["experiment=star", f"confidence={method}", "critic=[]"])
    settled = settle(cfg, {"confidence": ["margin"] if "[" in method else "margin", "critic": []})
    assert (list(settled.critic), list(settled.confidence), settled.certify.method) == ([], ["margin"], "margin")


def test_a_domain_in_a_folder_is_an_option(hydra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(load.find("mock"), folder)
    monkeypatch.chdir(tmp_path)
    for written in (str(folder), "./shop", "shop/", "../" + tmp_path.name + "/shop"):
        register_paths([f"domain=mock,{written}", "seed=[", "no"])
        [override] = register_paths([f"domain={written}"])
        cfg = compose("config", overrides=["experiment=bpm", override])
        assert Path(cfg.domain).resolve() == folder
        check(cfg, {}, compose("config", overrides=["experiment=bpm"]))


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://10.0.0.1:10001", "auto"])
def test_the_address_of_a_cluster_is_an_option(hydra: None, address: str) -> None:
    register_paths([f"ray={address}"])
    cfg = compose("config", overrides=["experiment=bpm", f"ray={address}", "ray.workers=3"])
    assert build(RayConfig, cfg.ray, "ray") == RayConfig(address=address, workers=3)


def test_any_model_is_a_policy(hydra: None) -> None:
    register_paths(["policy=tiny,some-org/some.model-7B"])
    cfg = compose("config", overrides=["experiment=star", "policy=some-org/some.model-7B", "policy.lora_rank=4"])
    policy = build(PolicyConfig, cfg.policy, "policy")
    assert (policy.model, policy.lora_rank) == ("some-org/some.model-7B", 4)
    assert dataclasses.replace(policy, model="given", lora_rank=32) == build(
        PolicyConfig, compose("config", overrides=["experiment=star", *filled("policy", "hub")]).policy, "policy"
    )


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
