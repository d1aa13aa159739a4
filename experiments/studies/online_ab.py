"""The staged deployment, end to end: logs, copilot, critic, certificates, and the online test of three arms.

Stages, each skipped when a run is resumed:

1. operators work alone and are logged; a policy learns from the log;
2. copilot rounds (`handrail.algorithms.dagger`): the policy suggests, operators accept or correct, it learns on; then
   issues may get policies of their own (`handrail.algorithms.specialise`), and the policy gets its second reader
   (`handrail.agents.rerank`), if the run has one;
3. feedback: everything critical is reviewed, the rest runs alone. One part of these sessions is reviewed by the people
   of the desk, and teaches the critics, once somebody had a second look at what was rejected; the other is adjudicated,
   by people who accept what is right and correct what is wrong, and thresholds are certified on it;
4. the arms work the same new cases, in pairs: operators alone, operators with a copilot, and the gate, which lets alone
   what the critic is sure of. Confidence proxies get arms of their own, by the same certificates.

The cases of every stage are drawn from seeds of their own: `first_seed` plus 0, 1, … millions.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handrail.agents.critic import Case, before_override, feedback_verdicts, looked_at_again, truths
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json
from handrail.envs.logs.store import PART_SUFFIX, SessionWriter, load_sessions, merge
from handrail.envs.schema import Session
from handrail.experiments import closed_loop, offline
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.configs import build
from handrail.experiments.online import COPILOT, HUMAN, SELECTIVE
from handrail.experiments.studies import bpm, star
from handrail.experiments.workers import Workers

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from handrail.agents.desk import AnyDesk
    from handrail.agents.gate import Gate
    from handrail.agents.operators.seat import Staff
    from handrail.agents.rules import Rule
    from handrail.algorithms.dagger import Round
    from handrail.experiments.rundir import RunDirectory

ARMS, ONLINE, GATES = "arms", "online.json", "gates.json"
FEEDBACK, ADJUDICATED = "feedback.parquet", "adjudicated.parquet"
_VERDICTS, _SPECIALISED = "critic_feedback", "specialised"
_PART = 250
"""Sessions that are kept together: a kill costs at most so many."""

_LOOP, _FEEDBACK, _ONLINE, _ADJUDICATED = 1, 2, 3, 4
_MILLION = 1_000_000


class _Part(NamedTuple):
    """Cases that are worked together, under one rule.

    Attributes:
        path: where their sessions are kept.
        rule: who acts.
        critic: that scores suggestions, if any.
        first: seed of the first case.
        cases: how many.
        staff: who works them, `staff` or `adjudicators`.
    """

    path: Path
    rule: Rule
    critic: str | None
    first: int
    cases: int
    staff: str


class Study(bpm.Study):
    """One run: as in `studies.bpm`, and what comes after the log.

    Args:
        cfg: the run's configuration.
        run: where its files are.
    """

    # ---- stages -------------------------------------------------------------------------------------------------

    def simulate(self) -> None:
        """Let operators work cases: to the log of pages and clicks, or straight to the store."""
        from tqdm import tqdm

        from handrail.agents.simulate import simulate_store

        if self.cfg.simulate.html:
            super().simulate()
            return
        options = self.cfg.simulate
        with tqdm(desc="operators at work", total=options.sessions, unit="session", leave=False) as bar:
            simulate_store(
                self.run.file(bpm.STORE),
                self.cfg.domain,
                options.sessions,
                self.seed,
                workers=options.workers or 1,
                operators=self.people,
                progress=lambda done: bar.update(done - bar.n),
            )

    def ingest(self) -> None:
        """Read the log into the store, if there is a log."""
        if self.cfg.simulate.html:
            super().ingest()

    def loop(self) -> None:
        """Deploy the policy as a copilot, round by round, and let it learn from what operators make of it."""
        from handrail.algorithms.config import DaggerConfig
        from handrail.algorithms.dagger import Loop, Simulator
        from handrail.experiments.cluster.training import fine_tune, prefer

        ray = build(RayConfig, self.cfg.ray, "ray")
        config = build(DaggerConfig, self.cfg.dagger, "dagger")
        collect = Simulator(
            self.cases(0, 0).make,
            self.staff,
            self.first_seed(_LOOP),
            self.cfg.online.slots,
            self.cfg.constrained,
            self.cfg.copied,
        )
        made = Loop(
            self.run.file("rounds"),
            config,
            self.run.checkpoints / "policy",
            self.splits["train"],
            collect,
            seed=self.seed,
            tune=partial(fine_tune, validation=(), ray=ray),
            prefer=partial(prefer, ray=ray),
        )
        for one in made.run():
            self.run.write_metrics({f"loop.{one.number}.{name}": value for name, value in one.metrics.items()})

    def specialise(self) -> None:
        """Give issues with many sessions policies of their own, if the run is to have such."""
        from handrail.algorithms.config import SpecialiseConfig
        from handrail.algorithms.dagger import policy_of
        from handrail.algorithms.specialise import specialise
        from handrail.experiments.cluster.training import fine_tune

        config = build(SpecialiseConfig, self.cfg.specialise, "specialise")
        if config.least is None:
            return
        made = specialise(
            policy_of(self._last.policy),
            self.taught,
            config.least,
            config.sft,
            self.run.file("issues"),
            self.seed,
            partial(fine_tune, validation=(), ray=build(RayConfig, self.cfg.ray, "ray")),
        )
        made.save(self.run.checkpoints / _SPECIALISED)
        self.run.log.info("issues with policies of their own: %s", ", ".join(sorted(made.own)) or "none")
        self.run.write_metrics({"specialise.issues": float(len(made.own))})

    def weigh(self) -> None:
        """Weigh policy and second reader against each other."""
        self.fit_rerank([] if self.cfg.rerank is None else self.suggestions_alone(self.splits["feedback"]))

    def judge_policy(self) -> None:
        """Compare policy and baselines with the log on sessions nothing was learned from."""
        test = self.splits["test"]
        alone = self.suggestions_alone(test)
        compared = self.compared(alone, self.baseline_suggestions(test))
        frame = offline.policy_frame({"test": test}, self.reranked(test, alone), compared, {})
        self.run.write_metrics(offline.policy_metrics(frame, np.random.default_rng(self.seed)))

    def collect_feedback(self) -> None:
        """Let operators review everything critical."""
        from handrail.agents.rules import supervised

        options = self.cfg.feedback
        learn = round(options.learn * options.sessions)
        for what, file, stage, count in (
            ("reviewing", FEEDBACK, _FEEDBACK, learn),
            ("adjudicating", ADJUDICATED, _ADJUDICATED, options.sessions - learn),
        ):
            staff = "staff" if stage == _FEEDBACK else "adjudicators"
            merge(self.play(what, supervised(), None, stage, count, staff), self.run.file(file))

    def fit_feedback_critics(self) -> None:
        """Learn each critic from the verdicts of one part of the feedback."""
        cases = before_override(feedback_verdicts(self.feedback["learn"]))
        if self.cfg.feedback.second_look:
            rejected = sum(not case.accepted for case in cases)
            cases = looked_at_again(cases)
            right = rejected - sum(not case.accepted for case in cases)
            self.run.log.info("second look: %d of %d rejected suggestions were right", right, rejected)
            self.run.write_metrics({"second_look.rejected": float(rejected), "second_look.right": float(right)})
        for name in map(str, self.cfg.critic):
            self.fit_critic(_VERDICTS, name, cases)

    def certify(self) -> None:
        """Choose thresholds on the adjudicated part of the feedback, for critics and confidence proxies alike."""
        from dataclasses import asdict

        from handrail.algorithms.certify import certify
        from handrail.algorithms.session_risk import (
            certify_issues,
            certify_sessions,
            deferred,
            running_minimum,
            session_table,
        )

        gate = self.cfg.gate
        frame = self.judged(feedback_verdicts(self.feedback["calibrate"]))
        gates: dict[str, Any] = {}
        for method in self.methods:
            scores = frame[f"score_{method}"]
            if gate.keeps:
                scores = running_minimum(frame["session_id"], scores)
            table = session_table(frame["session_id"], scores, frame["right"], frame["issue"])
            if gate.per_issue:
                made = certify_issues(table, gate.alpha, gate.delta)
                found = [*made.own.values(), *([made.pool] if made.pool else [])]
                gates[method] = {"thresholds": made.thresholds, "pooled": None}
            else:
                found = [certify_sessions(table, gate.alpha, gate.delta)]
                gates[method] = {"thresholds": {}, "pooled": found[0].threshold}
            gates[method]["certificates"] = [_finite(asdict(one)) for one in found]
            # Operators see what is deferred, which is wrong more often than what runs alone.
            asked = frame[deferred(frame["issue"], scores, gates[method]["thresholds"], gates[method]["pooled"])]
            # What the operator has the last word on needs no certificate per session; none at all shows nothing.
            shown = certify(
                asked[f"score_{method}"],
                asked["right"],
                gate.shown_precision,
                gate.delta,
                sessions=asked["session_id"].to_numpy(),
            )
            gates[method]["shown"] = shown.threshold
            self.run.log.info("%s, suggestions to show: %s", method, shown.reason)
            for one in found:
                self.run.log.info("%s, %s: %s", method, one.scope, one.reason)
        self.run.write_decisions(frame)
        write_json(self.run.file(GATES), gates)

    def test_online(self) -> None:
        """Let every arm work the same cases."""
        from handrail.agents.rules import Alone, Copilot, Selective

        cfg = self.cfg.online
        rules: dict[str, tuple[Rule, str | None]] = {HUMAN: (Alone(), None), COPILOT: (Copilot(), None)}
        for method in self.methods:
            name = SELECTIVE if method == self.cfg.certify.method else f"{SELECTIVE}_{method}"
            if method in self.cfg.critic:
                rules[name] = Selective(self.gate(method), shown=self.shown(method)), method
            else:
                rules[name] = Selective(self.gate(method), self.proxies[method], self.shown(method)), None
        for name, (rule, critic) in rules.items():
            started = time.monotonic()
            parts = self.play(name, rule, critic, _ONLINE, cfg.cases, "staff")
            merge(parts, self.run.file(ARMS) / f"{name}.parquet")
            self.run.log.info("arm %s: %d sessions in %.0f s", name, cfg.cases, time.monotonic() - started)

    def tell(self) -> None:
        """Write metrics, tables and the report."""
        from handrail.experiments import online
        from handrail.experiments.report.build import build_report

        rng = np.random.default_rng(self.seed)
        arms = {path.stem: load_sessions(path) for path in sorted(self.run.file(ARMS).glob("*.parquet"))}
        frame = online.arm_frame(arms)
        with atomic_path(self.run.file("online.parquet")) as path:
            frame.to_parquet(path)
        margins = {
            "success": float(self.cfg.online.success_margin),
            "violation": float(self.cfg.online.violation_margin),
        }
        metrics = online.arm_metrics(frame, margins, rng)
        metrics |= self._calibrated(rng) | self._supervised(arms)
        self.run.write_metrics(metrics)
        write_json(self.run.file(ONLINE), self._told_online(arms))
        write_json(
            self.run.file("summary.json"),
            {
                "question": self.cfg.experiment.question,
                "data": self.data,
                "splits": {
                    name: {"sessions": len(members), "steps": sum(len(s.steps) for s in members)}
                    for name, members in self.splits.items()
                },
                "timings": self.timings,
                "notes": [],
            },
        )
        for name in (HUMAN, COPILOT, SELECTIVE):
            self.run.log.info(
                "%s: %.1f %% automated, %.0f s a session, %.2f %% done right",
                name,
                100 * metrics[f"online.{name}.automation_rate"],
                metrics[f"online.{name}.aat_seconds"],
                100 * metrics[f"online.{name}.success_rate"],
            )
        self.run.log.info("report: %s", build_report(self.run.path))

    # ---- what stages need -----------------------------------------------------------------------------------------

    def first_seed(self, stage: int) -> int:
        """Return the seed of the first case of a stage; runs of different seeds meet different cases."""
        return int(self.cfg.closed_loop.first_seed) + (10 * self.seed + stage) * _MILLION

    def cases(self, stage: int, count: int) -> closed_loop.Cases:
        """Return cases of a stage."""
        return closed_loop.Cases(self.cfg.domain, count, self.first_seed(stage), self.cfg.online.slots)

    @cached_property
    def staff(self) -> Staff:
        """The people who were logged, now beside the policy."""
        from handrail.agents.operators.seat import crew_staff

        return crew_staff(self.people, self.operators.rates)

    @cached_property
    def adjudicators(self) -> Staff:
        """The same people, with time to look twice: they slip nowhere, and their verdicts are the truth."""
        from handrail.agents.operators.human import NONE
        from handrail.agents.operators.seat import crew_staff
        from handrail.agents.operators.verdicts import CAREFUL
        from handrail.agents.simulate import crew_of

        return crew_staff(crew_of(self.cfg.domain, self.seed, self.operators.people, NONE), CAREFUL)

    @property
    def taught(self) -> Sequence[Session]:
        """The sessions that baselines learn from: the log, and what operators did in the copilot rounds."""
        rounds = [self._round(number) for number in range(int(self.cfg.dagger.rounds))]
        return [*self.splits["train"], *(session for one in rounds for session in one.sessions)]

    def _round(self, number: int) -> Round:
        from handrail.algorithms.dagger import Round

        return Round(self.run.file("rounds") / f"round_{number:03d}", number)

    @property
    def _last(self) -> Round:
        return self._round(int(self.cfg.dagger.rounds) - 1)

    @cached_property
    def policy(self) -> Any:
        """The policy that the last copilot round ended with, and those of single issues that came of it."""
        from handrail.algorithms.dagger import policy_of

        alone = self.cfg.specialise.least is None
        return policy_of(self._last.policy if alone else self.run.checkpoints / _SPECIALISED)

    @property
    def methods(self) -> list[str]:
        """Critics and confidence proxies; the one that is deployed comes first."""
        names = [str(name) for name in (*self.cfg.critic, *self.cfg.confidence)]
        return sorted(names, key=lambda name: name != self.cfg.certify.method)

    @cached_property
    def feedback(self) -> dict[str, list[Session]]:
        """The feedback sessions: those that critics learn from, and those that thresholds are certified on."""
        files = {"learn": FEEDBACK, "calibrate": ADJUDICATED}
        return {name: load_sessions(self.run.file(file)) for name, file in files.items()}

    def gate(self, method: str) -> Gate:
        """Return the gate of a method, as it was certified."""
        from handrail.agents.gate import GUARDRAILS, Gate

        made = self._gates()[method]
        return Gate(
            made["thresholds"], made["pooled"], GUARDRAILS, float(self.cfg.gate.audit_share), self.cfg.gate.keeps
        )

    def shown(self, method: str) -> float:
        """Return the least score of a critical suggestion that operators are shown."""
        threshold = self._gates()[method]["shown"]
        return math.inf if threshold is None else float(threshold)

    def critic(self, name: str) -> Any:
        """Return a critic that has learned from feedback."""
        return registry.load(star.CRITICS, name, "critic").load(self.policy, self._critic_folder(_VERDICTS, name))

    def judged(self, cases: Sequence[Case]) -> pd.DataFrame:
        """Return the decision table of judged suggestions, with `right`: whether each truly was."""
        critics = {str(name): self.critic(str(name)) for name in self.cfg.critic}
        scores = offline.critic_scores(self.policy, critics, cases)
        for name, score in self.proxies.items():
            scores[name] = [score(_confidence(case)) for case in cases]
        splits = {"calibration": self.feedback["calibrate"]}
        return offline.verdict_frame(splits, cases, scores).assign(right=truths(cases))

    def play(self, what: str, rule: Rule, critic: str | None, stage: int, count: int, staff: str) -> list[Path]:
        """Work the cases of a stage under a rule, part by part; parts that are on disk are not worked again.

        Args:
            what: names the parts.
            rule: who acts.
            critic: that scores suggestions, if any.
            stage: whose cases.
            count: of cases.
            staff: `staff` or `adjudicators`.
        """
        from tqdm import tqdm

        folder = self.run.file("parts") / what
        folder.mkdir(parents=True, exist_ok=True)
        parts = [
            _Part(
                folder / f"{first:09d}{PART_SUFFIX}",
                rule,
                critic,
                self.first_seed(stage) + first,
                min(_PART, count - first),
                staff,
            )
            for first in range(0, count, _PART)
        ]
        todo = [part for part in parts if not part.path.exists()]
        with tqdm(desc=what, total=count, unit="case", leave=False) as bar:
            bar.update(count - sum(part.cases for part in todo))
            for part in self.workers.each(todo):
                bar.update(part.cases)
        return [part.path for part in parts]

    def work(self, part: _Part) -> None:
        """Work the cases of a part and keep their sessions."""
        from handrail.agents.rollout import Reset, rollout
        from handrail.agents.runtime import Runtime

        desk = self.at_work if part.rule.suggests else None
        critic = None if part.critic is None else self.critic(part.critic)
        runtime = Runtime(getattr(self, part.staff), part.rule, desk, critic)
        resets = [Reset(part.first + number) for number in range(part.cases)]
        with SessionWriter(part.path, row_group=1 << 30) as writer:
            for played in rollout(self.cases(0, 0).make, runtime, resets, self.cfg.online.slots):
                writer.write(runtime.told(played))

    @cached_property
    def at_work(self) -> AnyDesk:
        """Where this process works part after part: the room of sessions that are over is that of the next ones."""
        return self.desk()

    @cached_property
    def workers(self) -> Workers[_Part]:
        """Who works the parts of a stage."""
        import torch

        count = self.cfg.online.workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
        return Workers(int(count), partial(_worker, self.run.path), self.work)

    def _calibrated(self, rng: np.random.Generator) -> dict[str, float]:
        """Return what the adjudicated sessions say of policy and critics, which have not learned from them."""
        import pandas as pd

        from handrail.algorithms.bootstrap import mean_interval
        from handrail.algorithms.selective import put_interval

        frame = pd.read_parquet(self.run.file("decisions.parquet"))
        metrics = offline.rank_metrics(frame, self.methods, rng)
        for name, column in (("accepted", "correct"), ("right", "right")):
            values = frame[column].to_numpy(dtype=float)
            put_interval(metrics, f"feedback.{name}_rate", mean_interval(values, frame["session_id"].to_numpy(), rng))
        metrics["feedback.sessions"] = float(frame["session_id"].nunique())
        metrics["feedback.sessions_right_rate"] = float(frame.groupby("session_id")["right"].all().mean())
        for method, made in self._gates().items():
            for one in made["certificates"]:
                for name in ("automated", "n_errors", "n_sessions"):
                    metrics[f"gate.{method}.{one['scope'].replace(' ', '_')}.{name}"] = float(one[name])
        return metrics

    def _gates(self) -> dict[str, Any]:
        return dict(json.loads(self.run.file(GATES).read_text(encoding="utf-8")))

    def _supervised(self, arms: Mapping[str, Sequence[Session]]) -> dict[str, float]:
        """Return what one operator would get done over many sessions of each arm, and what audits say of the gate."""
        from handrail.agents.supervision import mean_switching, sweep, sweep_metrics, timeline
        from handrail.algorithms.audit import audit_metrics, audits_of
        from handrail.envs.bpm.clock import Seconds
        from handrail.envs.bpm.load import load_domain

        switching = mean_switching(Seconds.of(load_domain(self.cfg.domain).desk.seconds))
        found: dict[str, float] = {}
        for arm in (HUMAN, COPILOT, SELECTIVE):
            found |= sweep_metrics(f"supervision.{arm}", sweep([timeline(session) for session in arms[arm]], switching))
        if self.cfg.gate.audit_share:
            found |= audit_metrics("audit", audits_of(arms[SELECTIVE]))
        return found

    def _told_online(self, arms: Mapping[str, Sequence[Session]]) -> dict[str, Any]:
        """Return what the report shows beside numbers: one session that ran alone and one that was handed over."""

        def first(wanted: Callable[[Session], bool]) -> dict[str, Any] | None:
            session = next((s for s in arms[SELECTIVE] if wanted(s) and len(s.steps) >= 8), None)
            if session is None:
                return None
            return {
                "title": session.issue.replace("_", " "),
                "success": bool(session.outcome["success"]),
                "lines": closed_loop.story(session),
            }

        def operators(session: Session) -> int:
            return sum(step.actor == "operator" for step in session.steps)

        return {
            "method": str(self.cfg.certify.method),
            "domain": str(self.cfg.domain),
            "stories": {
                "automated": first(lambda s: not operators(s)),
                "handed_over": first(lambda s: 0 < operators(s) < len(s.steps) / 2),
            },
        }


def _confidence(case: Case) -> Any:
    """Return the policy's confidence in a suggestion, as it was when it was made."""
    from handrail.agents.decoding import Suggestion

    notes = case.session.hidden.get("runtime") or []
    if case.step >= len(notes):
        raise HandrailError(
            f"session {case.session.id}, step {case.step}: the policy's confidence was not kept; expected sessions "
            "that policy and operator shared, with Session.hidden['runtime']"
        )
    note = notes[case.step]
    names = ("log_probability", "min_probability", "margin", "entropy", "second")
    return Suggestion(case.session.id, case.step, case.suggestion, (), *(float(note[name]) for name in names))


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def _worker(path: Path) -> Callable[[_Part], None]:
    """Return what works parts of a run in a process of its own."""
    from handrail.experiments.rundir import RunDirectory

    run = RunDirectory.open(path)
    return Study(run.config, run).work


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run the whole path, from a desk nobody has worked at to the three arms."""
    study = Study(cfg, run)
    study.stage("simulate", study.simulate)
    study.stage("ingest", study.ingest)
    study.prepare()
    study.stage("policy", study.train_policy)
    study.stage("loop", study.loop)
    study.stage("specialise", study.specialise)
    study.stage("baselines", study.fit_baselines)
    study.stage("rerank", study.weigh)
    study.stage("held_out", study.judge_policy)
    study.stage("closed_loop", study.work_alone)
    with study.workers:
        study.stage("feedback", study.collect_feedback)
        study.stage("critic", study.fit_feedback_critics)
        study.stage("certify", study.certify)
        study.stage("online", study.test_online)
    study.tell()
