"""The main job: a policy and critics from logged sessions; how much could have run alone, and at which precision.

Stages, each skipped when a run is resumed: read and split the sessions; fine-tune the policy; fit the baselines;
suggest on held-out sessions; learn critics from two sources of verdicts (the policy's suggestions replayed against the
log, and the suggestions the log recorded); certify thresholds on calibration sessions; report on test sessions.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from handrail.agents.critic import Case, recorded_verdicts, replayed_verdicts
from handrail.agents.decoding import Suggestion
from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import Transcript, TranscriptConfig
from handrail.algorithms.config import CRITIC_CONFIGS, SFTConfig, TrainingConfig
from handrail.algorithms.splits import split_sessions
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json
from handrail.envs.schema import Session
from handrail.experiments import offline
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.training import fit_critic
from handrail.experiments.configs import build
from handrail.experiments.rundir import RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from handrail.agents.decoding import Decoder
    from handrail.agents.desk import AnyDesk
    from handrail.agents.policy import Policy
    from handrail.agents.rerank import Reranker

BASELINES = "handrail.agents.baselines"
CONFIDENCE = "handrail.agents.confidence"
CRITICS = "handrail.algorithms.critics"
SOURCES = ("critic", "critic_recorded", "critic_recorded_draft")
"""Prefixes of the metric keys of each source of verdicts."""

TABLES = {
    "critic": "decisions.parquet",
    "critic_recorded": "decisions_recorded.parquet",
    "critic_recorded_draft": "decisions_recorded_draft.parquet",
}
"""Source of verdicts -> the file of its decision table."""


_HELD_OUT = ("calibration", "test")


@dataclass
class Judged:
    """What one source of verdicts gives on the held-out sessions."""

    cases: list[Case]
    scores: dict[str, list[float]]


def bar(text: str) -> Callable[[Any], Any]:
    """Return a progress bar for an iteration."""
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=text, unit="batch", leave=False)


class Study:
    """One run: its configuration, its splits and the models it has learned.

    Args:
        cfg: the run's configuration.
        run: where its files are.
    """

    def __init__(self, cfg: DictConfig, run: RunDirectory) -> None:
        self.cfg, self.run, self.seed = cfg, run, int(cfg.seed)
        self.timings: dict[str, float] = {}
        self.data: dict[str, Any] = {}
        self.splits: dict[str, list[Session]] = {}
        self._read_before: dict[tuple[str, int], Suggestion] = {}

    # ---- stages -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the sessions and draw the splits; cheap enough to repeat when a run is resumed."""
        data = self.cfg.data
        sessions, self.data = offline.read_data(
            data.source, data.path, data.options, data.where, bar("reading sessions")
        )
        if data.max_sessions is not None:
            keep = np.random.default_rng(self.seed).permutation(len(sessions))[: data.max_sessions]
            sessions = [sessions[i] for i in sorted(keep)]
        mark = offline.fingerprint(sessions)
        before = self.run.provenance.get("data_fingerprint", mark)
        if before != mark:
            raise HandrailError(
                f"the run in {self.run.path} was started on other sessions (fingerprint {before}, now {mark}); "
                "point data.path at the same logs, or leave resume= out"
            )
        self.run.add_provenance(data_fingerprint=mark)
        self.splits = split_sessions(sessions, data.splits, self.seed)
        sizes = ", ".join(f"{name} {len(members)}" for name, members in self.splits.items())
        self.run.log.info(
            "%d sessions, %d quarantined; splits by session: %s", len(sessions), self.data["quarantined"], sizes
        )

    def train_policy(self) -> None:
        """Fine-tune the policy on the training split."""
        from handrail.agents.policy import build_policy
        from handrail.algorithms.pretrain import pretrain
        from handrail.experiments.cluster.training import fine_tune

        cfg = self.cfg
        transcript = Transcript(build(TranscriptConfig, cfg.transcript, "transcript"))
        train = self.splits["train"]
        texts = ["".join(span.text for span in transcript.spans(session)) for session in train]
        policy = build_policy(build(PolicyConfig, cfg.policy, "policy"), transcript, texts, self.seed)
        parameters = sum(p.numel() for p in policy.model.parameters())
        self.run.log.info("policy: %.1f million parameters", parameters / 1e6)
        if cfg.pretrain is not None:
            training = build(TrainingConfig, cfg.pretrain, "pretrain")
            pretrain(policy, train, training, self.run.checkpoints / "pretrain", self.seed)
        sft = build(SFTConfig, cfg.sft, "sft")
        folder, watched = self.run.checkpoints / "sft", self.splits["feedback"]
        result = fine_tune(policy, train, sft, folder, self.seed, watched, build(RayConfig, cfg.ray, "ray"))
        self.run.log.info("fine-tuned in %.0f steps, mean loss %.3f", result["steps"], result["loss"])
        policy.save(self.run.checkpoints / "policy")
        self.run.write_metrics(
            {
                "train.sft.steps": result["steps"],
                "train.sft.tokens": result["tokens"],
                "train.policy_parameters": float(parameters),
            }
        )

    def fit_baselines(self) -> None:
        """Fit the cheap policies on the sessions the policy learned from."""
        from handrail.agents.baselines._arguments import ArgumentFiller

        filler = ArgumentFiller()
        filler.fit(self.taught)
        for name in self.cfg.baselines:
            baseline = registry.load(BASELINES, name, "baseline").Baseline()
            baseline.fit(self.taught, self.seed, filler)
            folder = self.run.checkpoints / "baselines"
            folder.mkdir(exist_ok=True)
            with atomic_path(folder / f"{name}.pkl") as path:
                path.write_bytes(pickle.dumps(baseline))
            self.run.log.info("baseline %s is fitted", name)

    def suggest(self) -> None:
        """Let policy and baselines suggest at every step of the sessions the policy has not seen."""
        held_out = [s for name in ("feedback", *_HELD_OUT) for s in self.splits[name]]
        alone = self.suggestions_alone(held_out)
        self._write("suggestions_alone.json", alone)
        self.fit_rerank(alone)
        self._write("suggestions.json", self.reranked(held_out, alone))
        judged = [s for name in _HELD_OUT for s in self.splits[name]]
        for name, made in self.baseline_suggestions(judged).items():
            self._write(f"suggestions_{name}.json", made)

    def fit_rerank(self, alone: Sequence[Suggestion]) -> None:
        """Weigh policy and second reader against each other on the feedback split; nothing if the run has none.

        Args:
            alone: the policy's suggestions, those of that split among them.
        """
        from handrail.agents.rerank import WEIGHTS, Reranker

        if self.cfg.rerank is None:
            return
        feedback = self.splits["feedback"]
        known = {session.id for session in feedback}
        reranker = Reranker(self.decoder(), self._baseline(self.cfg.rerank))
        weights = reranker.fit(
            feedback, [s for s in alone if s.session_id in known], bar("weighing candidates")
        ).tolist()
        write_json(self.run.checkpoints / "rerank.json", dict(zip(WEIGHTS, weights, strict=True)))
        self.run.log.info("rerank: weights of %s", ", ".join(f"{w:.2f}" for w in weights))

    def fit_critics(self, source: str) -> None:
        """Learn each critic from one source of verdicts."""
        known = source == "critic_recorded_draft"
        train = self.splits["feedback"] if source == "critic" else self.splits["train"] + self.splits["feedback"]
        cases = self.replayed(train) if source == "critic" else recorded_verdicts(train, known)
        for name in map(str, self.cfg.critic):
            given = cases
            if name in self.cfg.critics_share_views and source != "critic":
                if known:
                    continue
                given = cases + [case for case in recorded_verdicts(train, True) if case.draft]
            self.fit_critic(source, name, given)

    def fit_critic(self, source: str, name: str, cases: Sequence[Case]) -> None:
        """Learn one critic from verdicts.

        Args:
            source: of the verdicts; names the folder of what is learned.
            name: of the critic.
            cases: suggestions with their verdicts.
        """
        module = registry.load(CRITICS, name, "critic")
        config = build(CRITIC_CONFIGS[name], self.cfg.critic[name], f"critic.{name}")
        folder, ray = self._critic_folder(source, name), build(RayConfig, self.cfg.ray, "ray")
        fit_critic(module, self.policy, cases, config, folder, self.seed, ray)
        self.run.log.info("%s: critic %s has learned %d verdicts", source, name, len(cases))

    # ---- what evaluation needs ----------------------------------------------------------------------------------

    @cached_property
    def policy(self) -> Policy:
        """The trained policy."""
        import torch

        from handrail.agents.policy import Policy

        policy = Policy.load(self.run.checkpoints / "policy")
        if torch.cuda.is_available():
            policy.model.to("cuda")  # type: ignore[arg-type]
        return policy

    @property
    def taught(self) -> Sequence[Session]:
        """The sessions that baselines learn from: those the policy learned from."""
        return self.splits["train"]

    def decoder(self) -> Decoder:
        """Return the policy as it decodes in this run."""
        from handrail.agents.decoding import Decoder

        return Decoder(self.policy, self.cfg.constrained, self.cfg.copied)

    def suggestions_alone(self, sessions: Sequence[Session]) -> list[Suggestion]:
        """Return what the policy would do at each operator step, without a second reader."""
        return self.decoder().suggest(sessions, bar("suggesting"))

    def reranked(self, sessions: Sequence[Session], alone: Sequence[Suggestion]) -> list[Suggestion]:
        """Return what policy and second reader would do together; `alone` if the run has no second reader."""
        if self.cfg.rerank is None:
            return list(alone)
        return self.reranker.rerank(sessions, alone, bar("weighing candidates"))

    @cached_property
    def reranker(self) -> Reranker:
        """Policy and second reader, as they were weighed against each other."""
        from handrail.agents.rerank import WEIGHTS, Reranker

        weights = msgspec.json.decode((self.run.checkpoints / "rerank.json").read_bytes(), type=dict[str, float])
        return Reranker(self.decoder(), self._baseline(self.cfg.rerank), [weights[name] for name in WEIGHTS])

    def desk(self, operator: str = "") -> AnyDesk:
        """Return where the policy works running sessions, with its second reader if the run has one.

        Args:
            operator: whose way of working it follows, unless a session says.
        """
        from handrail.agents.desk import Desk
        from handrail.agents.issue_desk import IssueDesk
        from handrail.agents.reranked_desk import RerankedDesk

        def make(policy: Policy) -> Desk:
            if self.cfg.rerank is None:
                return Desk(policy, operator, self.cfg.constrained, self.cfg.copied)
            return RerankedDesk(self.reranker.by(policy), operator, self.cfg.constrained, self.cfg.copied)

        return IssueDesk(self.policy, make) if self.policy.own else make(self.policy)

    def baseline_suggestions(self, sessions: Sequence[Session]) -> dict[str, list[Suggestion]]:
        """Return what each baseline would do at each operator step."""
        return {name: self._baseline(name).suggest(sessions) for name in self.cfg.baselines}

    def compared(
        self, alone: Sequence[Suggestion], baselines: Mapping[str, Sequence[Suggestion]]
    ) -> dict[str, Sequence[Suggestion]]:
        """Return what the policy is compared with: the baselines and, if it has a second reader, itself without."""
        return dict(baselines) if self.cfg.rerank is None else {**baselines, "without_rerank": alone}

    def _baseline(self, name: str) -> Any:
        return pickle.loads((self.run.checkpoints / "baselines" / f"{name}.pkl").read_bytes())

    def replayed(self, sessions: Sequence[Session]) -> list[Case]:
        """Return the policy's suggestions on critical steps of held-out sessions, with the log's verdicts."""
        known = {s.id for s in sessions}
        return replayed_verdicts(sessions, [s for s in self._read("suggestions.json") if s.session_id in known])

    def judge(self, source: str, cases: list[Case]) -> Judged:
        """Score cases with every critic and confidence proxy."""
        if not cases:
            return Judged([], {name: [] for name in (*map(str, self.cfg.critic), *self.proxies)})
        critics = {}
        for name in map(str, self.cfg.critic):
            module = registry.load(CRITICS, name, "critic")
            shared = name in self.cfg.critics_share_views and source == "critic_recorded_draft"
            critics[name] = module.load(self.policy, self._critic_folder("critic_recorded" if shared else source, name))
        scores = offline.critic_scores(self.policy, critics, cases)
        if source != "critic":
            made = self._confidences(cases)
            for name, score in self.proxies.items():
                scores[name] = [score(suggestion) for suggestion in made]
        return Judged(cases, scores)

    def _confidences(self, cases: Sequence[Case]) -> list[Suggestion]:
        """Return the policy's confidence in recorded suggestions; both settings judge the same ones."""
        from handrail.agents.assess import assess

        keys = [(case.session.id, case.step) for case in cases]
        if any(key not in self._read_before for key in keys):
            readings = assess(self.decoder(), cases, bar("reading suggestions"))
            self._read_before = {key: r.suggestion for key, r in zip(keys, readings, strict=True)}
        return [self._read_before[key] for key in keys]

    @property
    def proxies(self) -> dict[str, Callable[[Suggestion], float]]:
        """Name -> confidence proxy."""
        return {n: registry.load(CONFIDENCE, n, "confidence score").score for n in self.cfg.confidence}

    def table(
        self,
        source: str,
        splits: Mapping[str, Sequence[Session]],
        suggestions: Sequence[Suggestion],
        baselines: Mapping[str, Sequence[Suggestion]],
    ) -> pd.DataFrame:
        """Return the decision table of one source of verdicts on the given sessions."""
        sessions = [s for members in splits.values() for s in members]
        if source != "critic":
            judged = self.judge(source, recorded_verdicts(sessions, source == "critic_recorded_draft"))
            return offline.verdict_frame(splits, judged.cases, judged.scores)
        frame = offline.policy_frame(splits, suggestions, baselines, self.proxies)
        judged = self.judge(source, replayed_verdicts(sessions, suggestions))
        at = {(row.session_id, row.step): n for n, row in enumerate(frame.itertuples())}
        rows = [at[case.session.id, case.step] for case in judged.cases]
        columns = {f"score_{name}": np.full(len(frame), np.nan) for name in judged.scores}
        for name, values in judged.scores.items():
            columns[f"score_{name}"][rows] = values
        return frame.assign(**columns)

    def report(
        self,
        target: RunDirectory,
        tables: Mapping[str, pd.DataFrame],
        calibration: Mapping[str, pd.DataFrame],
        sessions: Sequence[Session],
        notes: Sequence[str] = (),
    ) -> None:
        """Write metrics, decisions, certificates, examples and the report of test rows.

        Args:
            target: where they go.
            tables: source -> decision table with rows of the split `test` (and `calibration`).
            calibration: source -> the rows that thresholds are chosen on.
            sessions: the sessions of the test rows.
            notes: what a reader should know.
        """
        from handrail.experiments.report.build import build_report

        cfg = self.cfg
        rng = np.random.default_rng(self.seed)
        tests = {source: frame[frame["split"] == "test"] for source, frame in tables.items()}
        metrics = offline.policy_metrics(tests["critic"], rng)
        certificates: dict[str, Any] = {"deployed": {}, "feasible": {}}
        for source, test in tests.items():
            if test.empty:
                continue
            certificates["feasible"][source] = offline.feasible(
                calibration[source], cfg.certify.targets, cfg.certify.delta
            )
            for sentence in certificates["feasible"][source]:
                target.log.info("%s, possible at best: %s", source, sentence)
            found, issued = offline.verdict_metrics(
                source, calibration[source], test, cfg.certify.targets, cfg.certify.delta, cfg.certify.starts, rng
            )
            metrics |= found
            certificates[source] = offline.certificate_table(issued)
            certificates["deployed"][source] = cfg.certify.method
        prefix = f"critic.{cfg.certify.method}.certified."
        metrics |= {f"certified.{k.removeprefix(prefix)}": v for k, v in metrics.items() if k.startswith(prefix)}
        target.write_metrics(metrics)
        for source, frame in tables.items():
            if source == "critic":
                target.write_decisions(frame)
                continue
            with atomic_path(target.file(TABLES[source])) as path:
                frame.to_parquet(path)
        write_json(target.file("certificates.json"), certificates)
        deployed = f"score_{cfg.certify.method}"
        main = 0.95 if 0.95 in cfg.certify.targets else min(cfg.certify.targets)
        threshold = certificates["critic"][cfg.certify.method][str(main)]["threshold"]
        write_json(
            target.file("examples.json"),
            offline.example_decisions(tests["critic"], sessions, deployed, threshold, rng),
        )
        counts = {
            name: {"sessions": len(members), "steps": sum(s.actor == "operator" for x in members for s in x.steps)}
            for name, members in self.splits.items()
        }
        write_json(
            target.file("summary.json"),
            {
                "question": cfg.experiment.question,
                "data": self.data,
                "splits": counts,
                "timings": self.timings,
                "notes": list(notes),
            },
        )
        target.log.info(
            "tool accuracy %.3f, action accuracy %.3f over %d steps",
            metrics["policy.tool_accuracy"],
            metrics["policy.action_accuracy"],
            metrics["policy.steps"],
        )
        target.log.info("report: %s", build_report(target.path))

    def judge_held_out(self, sources: Sequence[str]) -> None:
        """Judge policy and critics on calibration and test sessions and write the report of the test sessions.

        Args:
            sources: of verdicts; `critic` is one of them.
        """
        started = time.monotonic()
        splits = {name: self.splits[name] for name in _HELD_OUT}
        baselines = {name: self._read(f"suggestions_{name}.json") for name in self.cfg.baselines}
        held_out = {s.id for members in splits.values() for s in members}
        made = [s for s in self._read("suggestions.json") if s.session_id in held_out]
        compared = self.compared(self._read("suggestions_alone.json"), baselines)
        tables = {source: self.table(source, splits, made, compared) for source in sources}
        self.timings["evaluation"] = round(time.monotonic() - started, 1)
        calibration = {source: frame[frame["split"] == "calibration"] for source, frame in tables.items()}
        self.report(self.run, tables, calibration, self.splits["test"])

    # ---- files ----------------------------------------------------------------------------------------------------

    def _critic_folder(self, source: str, name: str) -> Path:
        return self.run.checkpoints / source / name

    def _write(self, name: str, suggestions: Sequence[Suggestion]) -> None:
        with atomic_path(self.run.checkpoints / name) as path:
            path.write_bytes(msgspec.json.encode(list(suggestions)))

    def _read(self, name: str) -> list[Suggestion]:
        return msgspec.json.decode((self.run.checkpoints / name).read_bytes(), type=list[Suggestion])

    def learned_from(self) -> list[str]:
        """Return the ids of sessions that anything was learned from or calibrated on."""
        return sorted(s.id for name, members in self.splits.items() if name != "test" for s in members)

    def stage(self, name: str, work: Callable[[], None], **info: Any) -> None:
        """Do a stage unless it is done, and note how long it took and what later stages or commands need."""
        if not self.run.done(name):
            self.run.log.info("stage %s", name)
            started = time.monotonic()
            work()
            self.run.mark(name, seconds=round(time.monotonic() - started, 1), **info)
        self.timings[name] = self.run.stage_info(name)["seconds"]


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run the whole path, from sessions to the report."""
    study = Study(cfg, run)
    study.prepare()
    study.stage("policy", study.train_policy)
    study.stage("baselines", study.fit_baselines)
    study.stage("suggestions", study.suggest, learned_from=study.learned_from())
    for source in SOURCES:
        study.stage(source, lambda source=source: study.fit_critics(source))  # type: ignore[misc]
    study.judge_held_out(SOURCES)
