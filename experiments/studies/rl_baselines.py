"""What reinforcement learning makes of a log and a simulator: BC, MARWIL and PPO beside count tables and the policy.

Stages, each skipped when a run is resumed: operators work cases; what they did becomes episodes on a fixed-size view of
situations and actions (`agents.features`); BC and MARWIL learn from the episodes; PPO starts from BC and works cases
of its own; baselines are fitted on the same sessions; then everybody chooses at the steps of held-out sessions, and
works the same new cases alone. `policy_run=DIR` adds the language policy of a finished run of `bpm`, with its own log.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from handrail.agents.actors import BaselineActor
from handrail.agents.baselines._moments import moments
from handrail.agents.feature_env import FeatureActor, FeatureEnv, RewardConfig
from handrail.agents.features import FeatureConfig, FeatureView
from handrail.agents.rollout import Actor, Played
from handrail.algorithms.bootstrap import mean_interval, paired_difference
from handrail.algorithms.rl.episodes import write_episodes
from handrail.algorithms.rl.task import Task, load_module
from handrail.algorithms.selective import put_interval
from handrail.algorithms.splits import split_sessions
from handrail.envs import registry
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json
from handrail.envs.logs.store import load_sessions
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Session
from handrail.experiments import closed_loop
from handrail.experiments.configs import build
from handrail.experiments.report import learners
from handrail.experiments.report.build import build_report
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import bpm

if TYPE_CHECKING:
    from omegaconf import DictConfig

STORE, EPISODES, VIEW = "sessions.parquet", "episodes.parquet", "view.pkl"
LEARNERS = "handrail.algorithms.rl.learners"


class Study:
    """One run.

    Args:
        cfg: its configuration.
        run: where its files are.
    """

    def __init__(self, cfg: DictConfig, run: RunDirectory) -> None:
        self.cfg, self.run, self.seed = cfg, run, int(cfg.seed)

    def stage(self, name: str, work: Callable[[], None]) -> None:
        """Do a stage unless it is done."""
        if not self.run.done(name):
            work()
            self.run.mark(name)

    def simulate(self) -> None:
        """Let operators work cases."""
        from handrail.agents.simulate import simulate_store

        simulate_store(
            self.run.file(STORE), self.cfg.domain, self.cfg.simulate.sessions, self.seed, self.cfg.simulate.workers or 1
        )

    @cached_property
    def splits(self) -> dict[str, list[Session]]:
        """The sessions, split."""
        return split_sessions(list(load_sessions(self.run.file(STORE))), self.cfg.data.splits, self.seed)

    @cached_property
    def view(self) -> FeatureView:
        """The view, learned on training sessions."""
        view: FeatureView = pickle.loads(self.run.file(VIEW).read_bytes())
        return view

    @property
    def operator(self) -> str:
        """Who worked most of the training sessions: whose way of working everybody follows."""
        names, counts = np.unique([session.operator for session in self.splits["train"]], return_counts=True)
        return str(names[counts.argmax()])

    def export(self) -> None:
        """Learn the view and write the episodes."""
        train = self.splits["train"]
        view = FeatureView(build(FeatureConfig, self.cfg.features, "features")).fit(train)
        with atomic_path(self.run.file(VIEW)) as path:
            path.write_bytes(pickle.dumps(view))
        done = write_episodes(train, view, self.run.file(EPISODES))
        self.run.write_metrics(
            {
                "episodes.train": done.episodes,
                "episodes.steps": done.steps,
                "episodes.left_out": done.left_out,
                "features.bits": len(view.names),
                "features.choices": len(view.choices),
            }
        )

    def share(self) -> None:
        """Write the episodes as a Minari data set."""
        from handrail.algorithms.rl.minari_data import write_minari

        count = write_minari(self.run.file(EPISODES), self.view, self.cfg.minari)
        self.run.log.info("Minari data set %s: %d episodes", self.cfg.minari, count)

    @property
    def make(self) -> Callable[[], FeatureEnv]:
        """Make an environment to learn in."""
        reward = build(RewardConfig, self.cfg.reward, "reward")
        # Not a method: Ray pickles it, and a run with open logs cannot be pickled.
        return partial(_env, str(self.cfg.domain), self.view, self.operator, reward)

    @property
    def learners(self) -> list[str]:
        """Their names, in the order in which they learn."""
        return [str(name) for name in self.cfg.algorithm]

    def learn(self, name: str) -> None:
        """Let a learner learn, as the options of its name say."""

        def told(number: int, mean: float) -> None:
            self.run.log.info("%s: round %d, mean return %.3f", name, number + 1, mean)

        learner = registry.load(LEARNERS, name, "algorithm")
        task = Task(
            self.run.file(EPISODES),
            int(self.run.metrics["episodes.steps"]),
            self.make,
            self.run.checkpoints,
            self.seed,
            told,
        )
        config = build(learner.Config, self.cfg.algorithm[name], f"algorithm.{name}")
        returns = learner.learn(config, task, self.run.checkpoints / name)
        write_json(self.run.file(f"{name}.json"), {"mean_return": [None if np.isnan(x) else x for x in returns]})
        self.run.log.info("%s has learned", name)

    def fit_baselines(self) -> None:
        """Fit the baselines on the same sessions."""
        folder = self.run.checkpoints / "baselines"
        folder.mkdir(exist_ok=True)
        for name in self.cfg.baselines:
            baseline = registry.load("handrail.agents.baselines", name, "baseline").Baseline()
            baseline.fit(self.splits["train"], self.seed)
            with atomic_path(folder / f"{name}.pkl") as path:
                path.write_bytes(pickle.dumps(baseline))

    def agree(self) -> None:
        """Measure how often everybody's choice at held-out steps is the logged action."""
        test = self.splits["test"]
        rng = np.random.default_rng(self.seed)
        steps = [(session.id, step.action) for session in test for _, step in moments(session)]
        clusters = [name for name, _ in steps]
        metrics: dict[str, float] = {}
        for name in (*self.cfg.baselines, *self.learners, *(["policy"] if self.cfg.policy_run else [])):
            chosen = self._chosen(name, test)
            right = [same_action(one, action) for one, (_, action) in zip(chosen, steps, strict=True)]
            put_interval(metrics, f"agreement.{name}", mean_interval(right, clusters, rng))
        self.run.write_metrics(metrics)

    def work_alone(self) -> None:
        """Let everybody work the same new cases."""
        cfg = self.cfg.closed_loop
        cases = closed_loop.Cases(self.cfg.domain, cfg.cases, cfg.first_seed, cfg.slots)
        actors: dict[str, Actor] = {
            name: BaselineActor(self._baseline(name), self.operator) for name in self.cfg.baselines
        }
        for name in self.learners:
            actors[name] = FeatureActor(self.view, load_module(self.run.checkpoints / name).choose, self.operator)
        if self.cfg.policy_run is not None:
            actors["policy"] = self.language.actor("policy")
        played: dict[str, list[Played]] = {}
        for name, actor in actors.items():
            played[name], seconds = closed_loop.play(cases, actor)
            self.run.log.info("%s worked %d cases in %.1f s", name, cfg.cases, seconds)
        frame = closed_loop.outcome_frame(played)
        frame.to_parquet(self.run.file("closed_loop.parquet"))
        rng = np.random.default_rng(self.seed)
        self.run.write_metrics(self._measured(frame, rng))

    def _measured(self, frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
        metrics = closed_loop.outcome_metrics(frame, "closed_loop", rng)
        for name in self.learners:
            start = self.cfg.algorithm[name].get("start")
            if start is not None:
                put_interval(metrics, f"closed_loop.{name}.success_over.{start}", _gap(frame, name, start, rng))
        return metrics

    def report(self) -> None:
        """Write the report."""
        metrics = self.run.metrics
        everybody = [*self.cfg.baselines, *self.learners, "policy"]
        names = [name for name in everybody if f"closed_loop.{name}.sessions" in metrics]
        returns = {name: json.loads(self.run.file(f"{name}.json").read_text())["mean_return"] for name in self.learners}
        told = {
            "cases": self.cfg.closed_loop.cases,
            "held_out": len(self.splits["test"]),
            "rows": [self._row(name, metrics) for name in names],
            "returns": returns,
        }
        write_json(self.run.file(learners.RESULT), told)
        write_json(self.run.file("summary.json"), {"question": self.cfg.experiment.question})
        self.run.log.info("report: %s", build_report(self.run.path))

    def _row(self, name: str, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return what the report says of a learner, a baseline or the policy."""

        def interval(key: str) -> list[float] | None:
            return [metrics[f"{key}{end}"] for end in ("", ".ci_low", ".ci_high")] if key in metrics else None

        start = self.cfg.algorithm[name].get("start") if name in self.learners else None
        gap = start and {"name": start, "gap": interval(f"closed_loop.{name}.success_over.{start}")}
        return {
            "name": name,
            "agreement": interval(f"agreement.{name}"),
            "success": interval(f"closed_loop.{name}.success_rate"),
            "violations": interval(f"closed_loop.{name}.violation_rate"),
            "steps": metrics[f"closed_loop.{name}.steps"],
            "over": gap,
        }

    def _chosen(self, name: str, sessions: Sequence[Session]) -> list[Action]:
        if name == "policy":
            alone = self.language.suggestions_alone(sessions)
            return [suggestion.action for suggestion in self.language.reranked(sessions, alone)]
        if name not in self.learners:
            return [suggestion.action for suggestion in self._baseline(name).suggest(sessions)]
        choose = load_module(self.run.checkpoints / name).choose
        chosen = []
        for session in sessions:
            seen = [self.view.see(moment) for moment, _ in moments(session)]
            picked = choose(np.stack([one.bits for one in seen]), np.stack([one.mask for one in seen]))
            chosen += [one.actions[int(choice)] for one, choice in zip(seen, picked, strict=True)]
        return chosen

    def _baseline(self, name: str) -> Any:
        return pickle.loads((self.run.checkpoints / "baselines" / f"{name}.pkl").read_bytes())

    @cached_property
    def language(self) -> bpm.Study:
        """The finished run whose language policy works beside.

        Raises:
            HandrailError: it is of another domain, or of the same seed, whose sessions are those held out here.
        """
        finished = RunDirectory.open(self.cfg.policy_run)
        domain = finished.config.get("domain")
        if domain != self.cfg.domain:
            raise HandrailError(
                f"policy_run={self.cfg.policy_run} is of domain {domain}, this run of {self.cfg.domain}; give a run of "
                "bpm in the same domain"
            )
        if int(finished.config.seed) == self.seed:
            raise HandrailError(
                f"policy_run={self.cfg.policy_run} has seed {self.seed}, as this run: its policy has learned from "
                "sessions that are held out here; give a run with another seed"
            )
        study = bpm.Study(finished.config, finished)
        study.prepare()
        return study


def _env(domain: str, view: FeatureView, operator: str, reward: RewardConfig) -> FeatureEnv:
    return FeatureEnv(BPMEnv(domain=domain), view, operator, reward)


def _gap(frame: pd.DataFrame, first: str, second: str, rng: np.random.Generator) -> Any:
    """Return by how much one actor does more of the same cases right than another."""
    right = frame.pivot(index="case", columns="actor", values="success")
    return paired_difference(right[first].astype(float), right[second].astype(float), right.index, rng)


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run all stages."""
    import ray

    study = Study(cfg, run)
    if cfg.policy_run is not None:
        run.log.info("the language policy is that of %s", study.language.run.path)
    study.stage("simulate", study.simulate)
    study.stage("export", study.export)
    if cfg.minari is not None:
        study.stage("minari", study.share)
    study.stage("baselines", study.fit_baselines)
    ours = not ray.is_initialized()
    if ours:
        # RLlib counts on Ray even where it starts no worker.
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
    try:
        for name in study.learners:
            study.stage(name, partial(study.learn, name))
    finally:
        if ours:
            ray.shutdown()
    study.stage("agreement", study.agree)
    study.stage("closed_loop", study.work_alone)
    study.report()
