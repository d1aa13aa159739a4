"""What reinforcement learning makes of a log and a simulator: BC, MARWIL and PPO beside count tables and the policy.

Stages, each skipped when a run is resumed: operators work cases; what they did becomes episodes on a fixed-size view of
situations and actions (`agents.features`); BC and MARWIL learn from the episodes; PPO starts from BC and works cases
of its own; baselines are fitted on the same sessions; then everybody chooses at the steps of held-out sessions, and
works the same new cases alone. `policy_run=DIR` adds the language policy of a finished run of `bpm`, with its own log.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
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
from handrail.algorithms.rl.train import (
    OfflineRLConfig,
    PPOTrainConfig,
    load_module,
    train_offline,
    train_ppo,
)
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
from handrail.experiments.report.build import build_report
from handrail.experiments.rundir import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

STORE, EPISODES, VIEW, CLOSED_LOOP = "sessions.parquet", "episodes.parquet", "view.pkl", "closed_loop.json"
LEARNERS = ("bc", "marwil", "ppo")


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

    @property
    def make(self) -> Callable[[], FeatureEnv]:
        """Make an environment to learn in."""
        reward = build(RewardConfig, self.cfg.reward, "reward")
        # Not a method: Ray pickles it, and a run with open logs cannot be pickled.
        return partial(_env, str(self.cfg.domain), self.view, self.operator, reward)

    def learn(self, name: str) -> None:
        """Learn from the episodes, as the options of that name say."""
        config = build(OfflineRLConfig, self.cfg[name], name)
        steps = int(self.run.metrics["episodes.steps"])
        train_offline(config, self.run.file(EPISODES), steps, self.make(), self.seed, self.run.checkpoints / name)
        self.run.log.info("%s has learned from %d steps", name, steps)

    def practise(self) -> None:
        """Let PPO go on from BC in the simulator."""
        hidden = build(OfflineRLConfig, self.cfg.bc, "bc").hidden

        def told(number: int, mean: float) -> None:
            self.run.log.info("ppo: round %d, mean return %.3f", number + 1, mean)

        returns = train_ppo(
            build(PPOTrainConfig, self.cfg.ppo, "ppo"),
            self.make,
            self.run.checkpoints / "bc",
            hidden,
            self.seed,
            self.run.checkpoints / "ppo",
            told,
        )
        write_json(self.run.file("ppo.json"), {"mean_return": [value for value in returns if value == value]})

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
        for name in (*self.cfg.baselines, *LEARNERS):
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
        for name in LEARNERS:
            actors[name] = FeatureActor(self.view, load_module(self.run.checkpoints / name).choose, self.operator)
        if self.cfg.policy_run is not None:
            actors["policy"] = self._policy()
        played: dict[str, list[Played]] = {}
        for name, actor in actors.items():
            played[name], seconds = closed_loop.play(cases, actor)
            self.run.log.info("%s worked %d cases in %.1f s", name, cfg.cases, seconds)
        frame = closed_loop.outcome_frame(played)
        frame.to_parquet(self.run.file("closed_loop.parquet"))
        write_json(self.run.file(CLOSED_LOOP), {"issues": []})
        rng = np.random.default_rng(self.seed)
        metrics = closed_loop.outcome_metrics(frame, "closed_loop", rng)
        put_interval(metrics, "closed_loop.ppo.success_over.bc", _gap(frame, "ppo", "bc", rng))
        self.run.write_metrics(metrics)

    def report(self) -> None:
        """Write the report."""
        write_json(self.run.file("summary.json"), {"question": self.cfg.experiment.question})
        self.run.log.info("report: %s", build_report(self.run.path))

    def _chosen(self, name: str, sessions: Sequence[Session]) -> list[Action]:
        if name not in LEARNERS:
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

    def _policy(self) -> Actor:
        from handrail.experiments.studies import bpm

        finished = RunDirectory.open(self.cfg.policy_run)
        if finished.config.domain != self.cfg.domain:
            raise HandrailError(
                f"policy_run={self.cfg.policy_run} is of domain {finished.config.domain}, this run of "
                f"{self.cfg.domain}; give a run of the same domain"
            )
        study = bpm.Study(finished.config, finished)
        study.prepare()
        return study.actor("policy")


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
    study.stage("simulate", study.simulate)
    study.stage("export", study.export)
    study.stage("baselines", study.fit_baselines)
    ours = not ray.is_initialized()
    if ours:
        # RLlib counts on Ray even where it starts no worker.
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
    try:
        study.stage("bc", lambda: study.learn("bc"))
        study.stage("marwil", lambda: study.learn("marwil"))
        study.stage("ppo", study.practise)
    finally:
        if ours:
            ray.shutdown()
    study.stage("agreement", study.agree)
    study.stage("closed_loop", study.work_alone)
    study.report()
