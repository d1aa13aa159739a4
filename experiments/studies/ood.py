"""Which scores notice that the desk has changed: the simulator's shifts, and a task of STAR that was never seen.

In the simulator a policy learns from logs of the known issues. Fresh sessions of the same desk, and of the desk after
each shift at each severity, are worked by people; every operator step of them gets every score. What is measured is how
well a score tells shifted steps from others (AUROC, shifted ones higher), and shifted sessions from others, by the mean
of their steps. On STAR a policy learns without one task, and its sessions are the strange ones.

Scores are fitted on sessions that the policy learned from, and nothing is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.agents import ood
from handrail.agents.ood._read import read_steps
from handrail.agents.policy import Policy, PolicyConfig, build_policy
from handrail.agents.transcript import Transcript, TranscriptConfig
from handrail.algorithms.bootstrap import Interval
from handrail.algorithms.config import SFTConfig
from handrail.algorithms.selective import put_interval, rank_intervals
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.files import write_json
from handrail.experiments import offline
from handrail.experiments.configs import build
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies.star import bar

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from handrail.agents.ood import Score, Views
    from handrail.envs.bpm.domain import Domain
    from handrail.envs.schema import Session

RESULT = "ood.json"
SIMULATOR, STAR = "simulator", "star"
_AS_BEFORE = 10_000_000
"""Seeds of sessions that are judged begin here; those of logs are the run's seed."""


class Study:
    """One run.

    Args:
        cfg: the run's configuration.
        run: where its files are.
    """

    def __init__(self, cfg: DictConfig, run: RunDirectory) -> None:
        self.cfg, self.run, self.seed = cfg, run, int(cfg.seed)
        self.names = [str(name) for name in cfg.scores]

    @cached_property
    def domain(self) -> Domain:
        """The desk as it was logged."""
        from handrail.envs.bpm.load import load_domain

        return load_domain(self.cfg.domain)

    def simulator(self) -> dict[str, Any]:
        """Return what was found of the simulator's shifts."""
        from handrail.agents.simulate import simulate
        from handrail.envs.bpm.shifts import shifted, split_issues

        options = self.cfg.simulate
        known, unseen = split_issues(self.domain, np.random.default_rng(self.seed))
        logs = list(simulate(self.domain, options.sessions, self.seed, issues=known))
        policy = self._policy(SIMULATOR, logs)
        scores = self._scores(policy, logs)
        fresh = list(simulate(self.domain, options.judged, _AS_BEFORE + self.seed, issues=known))
        before = read_steps(policy, fresh, bar("reading as before"))
        rows: list[dict[str, Any]] = []
        for number, (name, severity) in enumerate(self.conditions):
            later = shifted(self.domain, name, np.random.default_rng(self.seed), severity)
            cases = list(simulate(later, options.judged, _AS_BEFORE + 1000 * (number + 1) + self.seed))
            after = read_steps(policy, cases, bar(f"reading {name} {severity:g}"))
            rows.append({"shift": name, "severity": severity, **self._judged(scores, before, after)})
            self.run.log.info("%s at %g: %s", name, severity, _told(rows[-1]["auroc"]))
        return {"domain": self.domain.name, "unseen": list(unseen), "rows": rows, **self._sizes(logs, fresh)}

    def star(self) -> dict[str, Any]:
        """Return what was found of STAR with a task left out."""
        options = self.cfg.star
        sessions, _ = offline.read_data(
            "star", self.cfg.data.path, {}, {"completion": "Complete"}, bar("reading sessions")
        )
        single = [session for session in sessions if session.issue != "multi_task"]
        strange = [session for session in single if session.issue == options.task]
        if not strange:
            issues = ", ".join(sorted({session.issue for session in single}))
            raise HandrailError(f"star.task={options.task}: no session has this task; expected one of {issues}")
        rng = np.random.default_rng(self.seed)
        others = [session for session in single if session.issue != options.task]
        others = [others[n] for n in rng.permutation(len(others))]
        logs, fresh = others[: options.sessions], others[options.sessions : options.sessions + options.judged]
        if not fresh:
            raise HandrailError(
                f"star.sessions={options.sessions}: only {len(others)} sessions have other tasks; leave some to judge"
            )
        policy = self._policy(STAR, logs)
        scores = self._scores(policy, logs)
        before, after = (
            read_steps(policy, some, bar(f"reading {what}"))
            for some, what in ((fresh, "known tasks"), (strange[: options.judged], options.task))
        )
        row = {"shift": f"task {options.task}", "severity": 1.0, **self._judged(scores, before, after)}
        self.run.log.info("%s: %s", row["shift"], _told(row["auroc"]))
        return {"rows": [row], **self._sizes(logs, fresh)}

    @property
    def conditions(self) -> list[tuple[str, float]]:
        """Shifts with their severities."""
        return [(str(name), float(one)) for name in self.cfg.shifts for one in self.cfg.severities]

    def _policy(self, name: str, logs: Sequence[Session]) -> Policy:
        """Return the policy of some logs, trained unless it is on disk."""
        from handrail.algorithms.sft import fine_tune

        folder = self.run.checkpoints / name
        if not self.run.done(f"policy_{name}"):
            cfg, started = self.cfg.policies[name], time.monotonic()
            transcript = Transcript(build(TranscriptConfig, cfg.transcript, f"policies.{name}.transcript"))
            texts = ["".join(span.text for span in transcript.spans(session)) for session in logs]
            policy = build_policy(
                build(PolicyConfig, cfg.policy, f"policies.{name}.policy"), transcript, texts, self.seed
            )
            fine_tune(policy, logs, build(SFTConfig, cfg.sft, f"policies.{name}.sft"), folder / "sft", self.seed)
            policy.save(folder / "policy")
            self.run.mark(f"policy_{name}", seconds=round(time.monotonic() - started, 1))
        return Policy.load(folder / "policy")

    def _scores(self, policy: Policy, logs: Sequence[Session]) -> dict[str, Score]:
        training = read_steps(policy, logs, bar("reading what was learned"))
        return {n: registry.load(ood.__name__, n, "out-of-distribution score").fit(training) for n in self.names}

    def _judged(self, scores: Mapping[str, Score], before: Views, after: Views) -> dict[str, Any]:
        """Return AUROC of steps and of sessions for each score, with intervals over sessions."""
        found: dict[str, Any] = {"auroc": {}, "session_auroc": {}, "steps": len(after)}
        sessions = np.concatenate([before.session_ids, after.session_ids])
        as_before = np.arange(len(sessions)) < len(before)
        for number, (name, score) in enumerate(scores.items()):
            rng = np.random.default_rng([self.seed, number])
            strangeness = np.concatenate([score(before), score(after)])
            found["auroc"][name] = _interval(rank_intervals(-strangeness, as_before, sessions, rng)["auroc"])
            names, code = np.unique(sessions, return_inverse=True)
            means = np.bincount(code, strangeness) / np.bincount(code)
            old = np.bincount(code, as_before) > 0
            found["session_auroc"][name] = _interval(rank_intervals(-means, old, names, rng)["auroc"])
        return found

    @staticmethod
    def _sizes(logs: Sequence[Session], fresh: Sequence[Session]) -> dict[str, int]:
        return {"learned": len(logs), "judged": len(fresh)}


def ood_metrics(told: Mapping[str, Any]) -> dict[str, float]:
    """Return `ood.SHIFT.SEVERITY.SCORE.auroc` and `.session_auroc`, severity in percent, and `ood.star.SCORE.…`."""
    metrics: dict[str, float] = {}
    for world, result in told.items():
        for row in result["rows"]:
            prefix = "ood.star" if world == STAR else f"ood.{row['shift']}.{100 * row['severity']:g}"
            for statistic in ("auroc", "session_auroc"):
                for name, interval in row[statistic].items():
                    put_interval(metrics, f"{prefix}.{name}.{statistic}", Interval(*interval))
    return {key: value for key, value in metrics.items() if np.isfinite(value)}


def _interval(interval: Interval) -> list[float]:
    return [float(value) for value in interval]


def _told(aurocs: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {values[0]:.3f}" for name, values in aurocs.items())


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Judge the scores in both worlds and write the report."""
    from handrail.experiments.report.build import build_report

    study = Study(cfg, run)
    told = {SIMULATOR: study.simulator()}
    if cfg.star.task is not None and cfg.data.path is not None:
        told[STAR] = study.star()
    elif cfg.star.task is not None:
        run.log.warning("STAR is left out: set HANDRAIL_DATA to the folder that holds star/, or give data.path=FOLDER")
    run.write_metrics(ood_metrics(told))
    write_json(run.file(RESULT), {"scores": study.names, **told})
    write_json(run.file("summary.json"), {"question": cfg.experiment.question})
    run.log.info("report: %s", build_report(run.path))
