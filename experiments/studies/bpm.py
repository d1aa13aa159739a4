"""The embedded default: a simulated desk, its raw log, a policy that has read the log, and how well it works alone.

Stages, each skipped when a run is resumed: operators work cases and the desk is logged as pages and clicks; the log is
ingested; then everything that is done with any log (`studies.star`): the policy is trained and judged on held-out
sessions; and at last what no log can show: actors work new cases to their ends.
"""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from handrail.agents.operators.config import OperatorConfig
from handrail.envs.files import write_json
from handrail.experiments import closed_loop
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.connection import connected, usable
from handrail.experiments.configs import build
from handrail.experiments.studies import star

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from handrail.agents.operators.human import Person
    from handrail.agents.rollout import Actor, Played
    from handrail.experiments.rundir import RunDirectory

LOG, STORE, CLOSED_LOOP = "log", "sessions.parquet", "closed_loop.json"
_COMPARED = 60
"""Cases on which two experts are compared."""


class Study(star.Study):
    """One run: as in `studies.star`, on a log that the run makes itself.

    Args:
        cfg: the run's configuration; `data.path` is where the run keeps its sessions.
        run: where its files are.
    """

    def __init__(self, cfg: DictConfig, run: RunDirectory) -> None:
        cfg = OmegaConf.merge(cfg, {"data": {"path": str(run.file(STORE))}})  # type: ignore[assignment]
        super().__init__(cfg, run)

    def simulate(self) -> None:
        """Let operators work cases and log the desk."""
        from tqdm import tqdm

        from handrail.agents.simulate import simulate
        from handrail.envs.bpm.html import captions
        from handrail.envs.bpm.load import load_domain
        from handrail.envs.logs.html_log import HtmlLogWriter

        options = self.cfg.simulate
        shutil.rmtree(self.run.file(LOG), ignore_errors=True)
        sessions = simulate(
            self.cfg.domain,
            options.sessions,
            self.seed,
            workers=options.workers or os.cpu_count() or 1,
            operators=self.people,
        )
        with HtmlLogWriter(self.run.file(LOG), captions(load_domain(self.cfg.domain))) as writer:
            for session in tqdm(
                sessions, desc="operators at work", total=options.sessions, unit="session", leave=False
            ):
                writer.write(session)
        self.run.log.info("%d sessions are logged in %s", writer.sessions, self.run.file(LOG))

    def ingest(self) -> None:
        """Read the log into the store."""
        from tqdm import tqdm

        from handrail.envs.logs.ingest import ingest

        with tqdm(desc="reading pages", unit="file", leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            report = ingest(self.cfg.data.source, self.run.file(LOG), self.run.file(STORE), progress=progress, block=1)
        self.run.log.info("%d sessions ingested, %d quarantined", report.kept, report.quarantined)

    def work_alone(self) -> None:
        """Let actors work new cases, and write what came of it."""
        from handrail.agents.simulate import agreement
        from handrail.algorithms.bootstrap import ratio_interval

        cfg = self.cfg.closed_loop
        cases = closed_loop.Cases(self.cfg.domain, cfg.cases, cfg.first_seed, cfg.slots)
        ray = build(RayConfig, self.cfg.ray, "ray")
        played: dict[str, list[Played]] = {}
        with connected(ray) if usable(ray) else nullcontext():
            for name in map(str, cfg.actors):
                bar = _bar(f"{name} works alone", cfg.cases)
                played[name], seconds = closed_loop.play(cases, self.actor(name), bar, ray)
                self.run.log.info(
                    "%s: %.1f %% of %d cases done right, %.1f s",
                    name,
                    100 * float(np.mean([bool(p.info["success"]) for p in played[name]])),
                    cfg.cases,
                    seconds,
                )
        rng = np.random.default_rng(self.seed)
        # People drawn anew in each case: the policy imitates several, and one pair may be more alike than most.
        asked = agreement(self.cfg.domain, min(_COMPARED, cfg.cases), cfg.first_seed, redrawn=True)
        ceiling = ratio_interval(asked.equal, asked.steps, np.arange(len(asked.steps)), rng)[0]
        frame = closed_loop.outcome_frame(played)
        frame.to_parquet(self.run.file("closed_loop.parquet"))
        metrics = closed_loop.outcome_metrics(frame, "closed_loop", rng)
        for end, value in zip(("", ".ci_low", ".ci_high"), ceiling, strict=True):
            metrics[f"experts.agreement{end}"] = float(value)
        self.run.write_metrics(metrics)
        write_json(self.run.file(CLOSED_LOOP), self._told(frame, played))

    def actor(self, name: str) -> Actor:
        """Return who works: `random`, `expert`, `policy`, or a baseline's name."""
        from handrail.agents.actors import BaselineActor, OperatorActor, PolicyActor, RandomActor
        from handrail.agents.operators.expert import Expert

        if name == "random":
            return RandomActor()
        if name == "expert":
            return OperatorActor(lambda rng: Expert(seed=int(rng.integers(2**31))))
        if name == "policy":
            return PolicyActor(self.desk(self.operator))
        return BaselineActor(self._baseline(name), self.operator)

    @cached_property
    def operators(self) -> OperatorConfig:
        """How the people at the desk work."""
        return build(OperatorConfig, self.cfg.operator, "operator")

    @cached_property
    def people(self) -> tuple[Person, ...]:
        """Who works at the desk."""
        from handrail.agents.simulate import crew_of

        return crew_of(self.cfg.domain, self.seed, self.operators.people, self.operators.slips)

    @property
    def operator(self) -> str:
        """The operator whose way of working actors follow: who worked most of the training sessions."""
        names, counts = np.unique([s.operator for s in self.splits["train"]], return_counts=True)
        return str(names[counts.argmax()])

    def _told(self, frame: Any, played: dict[str, list[Played]]) -> dict[str, Any]:
        """Return what the report shows: failures by issue, a session as a story, and its busiest screen."""
        rows = frame[frame["actor"] == "policy"]
        issues = [
            {
                "issue": str(issue),
                "sessions": len(some),
                "success": float(some["success"].mean()),
                "violations": int((some["violations"] > 0).sum()),
                "given_up": int(some["truncated"].sum()),
            }
            for issue, some in rows.groupby("issue")
        ]
        issues.sort(key=lambda row: (row["success"], row["issue"]))
        if "policy" not in played:
            return {"issues": issues}
        told = next((p for p in played["policy"] if p.info["success"] and len(p.actions) >= 8), played["policy"][0])
        return {
            "issues": issues,
            "story": {
                "title": told.session.issue.replace("_", " "),
                "success": bool(told.info["success"]),
                "lines": closed_loop.story(told.session),
            },
            "screen": closed_loop.picture(told.session, self.cfg.domain),
        }


def _bar(text: str, total: int) -> Any:
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=text, total=total, unit="case", leave=False)


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run the whole path, from a desk nobody has worked at to the report."""
    study = Study(cfg, run)
    study.stage("simulate", study.simulate)
    study.stage("ingest", study.ingest)
    study.prepare()
    study.stage("policy", study.train_policy)
    study.stage("baselines", study.fit_baselines)
    study.stage("suggestions", study.suggest, learned_from=study.learned_from())
    study.stage("critic", lambda: study.fit_critics("critic"))
    study.stage("closed_loop", study.work_alone)
    study.judge_held_out(("critic",))
