"""Why do operators reject suggestions, and what do critics make of it? The paper's error taxonomy, with the truth.

A policy works new cases as a copilot: it suggests, operators accept or correct. Verdicts on its critical suggestions
are what critics learn from, and they are noisy: operators also reject what is right. Simulated operators tell the true
cause of each rejection, so critics can be judged twice, against the verdicts and against the truth.

- **Shares**: of all rejections, how many have which cause, beside the paper's.
- **Caught**: each critic gets the threshold at which a set share of the suggestions of calibration sessions would run
  alone. Of the test suggestions that were rejected for a cause, the share that scores below it and goes to an operator
  is caught. That is wanted of model errors and of wrong suggestions that were accepted all the same
  (`rubber_stamp`), and is a needless hand-off for all others.

The policy is that of a finished run of `bpm` (`run=DIR`), or is trained first as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.agents.critic import feedback_verdicts, true_cause, truths
from handrail.agents.operators.config import OperatorConfig
from handrail.agents.operators.verdicts import SHARES
from handrail.algorithms.bootstrap import Interval, mean_interval
from handrail.algorithms.selective import accepted, put_interval, with_prefix
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json
from handrail.envs.logs.store import SessionWriter, load_sessions
from handrail.envs.schema import Session
from handrail.experiments import closed_loop, offline
from handrail.experiments.configs import build
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import bpm, star

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from handrail.agents.policy import Policy

SESSIONS, TABLE, RESULT = "copilot.parquet", "rejections.parquet", "rejections.json"
SPLITS = ("learn", "calibration", "test")
ACCEPTED_WRONG = "rubber_stamp"
_FOLDER = "critic_feedback"
_EXAMPLES = 3


class Study(bpm.Study):
    """One run.

    Args:
        cfg: the run's configuration; `run` is the folder of a finished run, or null.
        run: where its files are.

    Raises:
        HandrailError: the folder is no finished run of `bpm`, or shares are out of range.
    """

    def __init__(self, cfg: DictConfig, run: RunDirectory) -> None:
        super().__init__(cfg, run)
        self.source, self.source_cfg = run, self.cfg
        if cfg.run is not None:
            self.source = RunDirectory.open(Path(cfg.run))
            self.source_cfg = self.source.config
            if "domain" not in self.source_cfg or not (self.source.checkpoints / "policy").is_dir():
                raise HandrailError(
                    f"run={cfg.run} has no policy that works in a simulated domain; expected a finished run of "
                    "experiment=bpm"
                )
        options = cfg.copilot
        if min(options.learn, options.calibration) <= 0 or options.learn + options.calibration >= 1:
            raise HandrailError(
                f"copilot.learn={options.learn}, copilot.calibration={options.calibration}: expected positive shares "
                "that leave sessions to test on"
            )
        if not 0 < cfg.coverage < 1:
            raise HandrailError(f"coverage={cfg.coverage}: expected a share in (0, 1)")

    @cached_property
    def policy(self) -> Policy:
        """The policy of the finished run, or of this one."""
        from handrail.agents.policy import Policy

        return Policy.load(self.source.checkpoints / "policy")

    # ---- stages -------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Let the policy suggest and operators judge."""
        from handrail.agents.desk import Desk
        from handrail.agents.operators.seat import crew_staff
        from handrail.agents.rollout import rollout
        from handrail.agents.rules import Copilot
        from handrail.agents.runtime import Runtime
        from handrail.agents.simulate import crew_of

        options, source = self.cfg.copilot, self.source_cfg
        operators = build(OperatorConfig, source.get("operator", {}), "operator")
        people = crew_of(source.domain, int(source.seed), operators.people, operators.slips)
        cases = closed_loop.Cases(source.domain, options.sessions, options.first_seed, options.slots)
        desk = Desk(self.policy, constrained=source.constrained, copied=source.copied)
        runtime = Runtime(crew_staff(people, operators.rates), Copilot(), desk)
        bar = star.bar("operators judge")
        with SessionWriter(self.run.file(SESSIONS)) as writer:
            for played in bar(rollout(cases.make, runtime, cases.resets(), cases.slots)):
                writer.write(runtime.told(played))
        self.run.log.info("%d sessions with a copilot are in %s", writer.sessions, self.run.file(SESSIONS))

    def fit(self) -> None:
        """Learn each critic from the verdicts of one part of the sessions."""
        cases = feedback_verdicts(self.parts["learn"])
        for name in map(str, self.cfg.critic):
            self.fit_critic(_FOLDER, name, cases)

    def score(self) -> None:
        """Score the suggestions of all sessions that no critic has learned from."""
        frame = self.scored()
        with atomic_path(self.run.file(TABLE)) as path:
            frame.to_parquet(path)

    def tell(self) -> None:
        """Write metrics, examples and the report."""
        import pandas as pd

        from handrail.experiments.report.build import build_report

        frame = pd.read_parquet(self.run.file(TABLE))
        rng = np.random.default_rng(self.seed)
        thresholds = deployed(frame, float(self.cfg.coverage))
        metrics = taxonomy_metrics(frame, rng) | critic_metrics(frame, thresholds, rng)
        self.run.write_metrics(metrics)
        told = {
            "domain": str(self.source_cfg.domain),
            "coverage": float(self.cfg.coverage),
            "paper": SHARES,
            "methods": list(thresholds),
            "metrics": metrics,
            "examples": examples(frame, self.parts["test"], rng),
        }
        write_json(self.run.file(RESULT), told)
        write_json(self.run.file("summary.json"), {"question": self.cfg.experiment.question, "timings": self.timings})
        self.run.log.info(
            "%d of %d critical suggestions were rejected, %.1f %% of these for errors of the model",
            metrics["rejections.count"],
            metrics["rejections.suggestions"],
            100 * metrics["rejections.model_error.share"],
        )
        self.run.log.info("report: %s", build_report(self.run.path))

    # ---- what stages need -----------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, list[Session]]:
        """The sessions that critics learn from, that thresholds are set on, and that both are judged on."""
        sessions = load_sessions(self.run.file(SESSIONS))
        ends = np.round(np.cumsum([0, self.cfg.copilot.learn, self.cfg.copilot.calibration]) * len(sessions)).astype(
            int
        )
        return {
            name: sessions[start:stop]
            for name, start, stop in zip(SPLITS, ends, [*ends[1:], len(sessions)], strict=True)
        }

    def scored(self) -> pd.DataFrame:
        """Return a row for each judged critical suggestion, with `cause` and `right`; scores are NaN in `learn`."""
        cases = [case for members in self.parts.values() for case in feedback_verdicts(members)]
        known = {session.id for session in self.parts["learn"]}
        unseen = np.array([case.session.id not in known for case in cases], dtype=bool)
        asked = [case for case, new in zip(cases, unseen, strict=True) if new]
        scores: dict[str, Any] = {}
        for name in map(str, self.cfg.critic):
            critic = registry.load(star.CRITICS, name, "critic").load(self.policy, self._critic_folder(_FOLDER, name))
            scores[name] = np.full(len(cases), np.nan)
            scores[name][unseen] = critic.score(asked)
        frame = offline.verdict_frame(self.parts, cases, scores)
        return frame.assign(cause=list(map(true_cause, cases)), right=truths(cases))


def deployed(frame: pd.DataFrame, coverage: float) -> dict[str, float]:
    """Return, for each method, the lowest threshold at which at most `coverage` of calibration suggestions run alone.

    Critics whose scores mean different things are compared at the same amount of automation. No label is used.

    Args:
        frame: the table of a run.
        coverage: in (0, 1).
    """
    rows = frame[frame["split"] == "calibration"]
    found = {}
    for column in (c for c in frame.columns if c.startswith("score_")):
        scores, counts = np.unique(rows[column].to_numpy(dtype=float), return_counts=True)
        share = np.cumsum(counts[::-1])[::-1] / max(len(rows), 1)
        fitting = scores[share <= coverage]
        found[column.removeprefix("score_")] = float(fitting[0]) if len(fitting) else float("inf")
    return found


def taxonomy_metrics(frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Return what was rejected and why, over all sessions: `rejections.{count,suggestions,rate,wrong_rate}`.

    `wrong_rate` is the share of suggestions that were wrong. `rejections.<cause>.{count,share}` are of the rejections.
    Rates and shares have session-bootstrap intervals.
    """
    rejected = frame[frame["verdict"] == "reject"]
    sessions = frame["session_id"].to_numpy()
    metrics: dict[str, float] = {"count": len(rejected), "suggestions": len(frame)}
    put_interval(metrics, "rate", mean_interval(frame["verdict"] == "reject", sessions, rng))
    put_interval(metrics, "wrong_rate", mean_interval(~frame["right"].to_numpy(dtype=bool), sessions, rng))
    for cause in SHARES:
        metrics[f"{cause}.count"] = int((rejected["cause"] == cause).sum())
        put_interval(
            metrics,
            f"{cause}.share",
            mean_interval(rejected["cause"] == cause, rejected["session_id"].to_numpy(), rng),
        )
    metrics[f"{ACCEPTED_WRONG}.count"] = int((frame["cause"] == ACCEPTED_WRONG).sum())
    return with_prefix("rejections", metrics)


def critic_metrics(frame: pd.DataFrame, thresholds: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Return how each method does on the test sessions, with session-bootstrap intervals.

    | key | what |
    |---|---|
    | `critic_feedback.METHOD.{auroc,auprc,aurc,augrc}` | ranking, against the verdicts |
    | `critic_truth.METHOD.{auroc,auprc,aurc,augrc}` | ranking, against the truth |
    | `critic_feedback.METHOD.precision`, `critic_truth.METHOD.precision` | of what would run alone at its threshold |
    | `critic_truth.METHOD.{coverage,threshold}` | what would run alone |
    | `rejections.CAUSE.caught.METHOD` | share of suggestions with that cause that would not run alone |

    Args:
        frame: the table of a run.
        thresholds: method -> threshold.
        rng: of the bootstrap.
    """
    test = frame[frame["split"] == "test"]
    sessions = test["session_id"].to_numpy()
    metrics = offline.rank_metrics(test, thresholds, rng)
    for method, threshold in thresholds.items():
        scores = test[f"score_{method}"].to_numpy(dtype=float)
        runs = accepted(scores, threshold)
        for prefix, column in (("critic_feedback", "correct"), ("critic_truth", "right")):
            outcome = test[column].to_numpy(dtype=bool)
            put_interval(metrics, f"{prefix}.{method}.precision", _share(outcome, runs, sessions, rng))
        metrics[f"critic_truth.{method}.threshold"] = threshold
        put_interval(metrics, f"critic_truth.{method}.coverage", mean_interval(runs, sessions, rng))
        for cause in (*SHARES, ACCEPTED_WRONG):
            rows = (test["cause"] == cause).to_numpy()
            put_interval(metrics, f"rejections.{cause}.caught.{method}", _share(~runs, rows, sessions, rng))
    return with_prefix("", metrics)


def _share(values: Any, rows: Any, sessions: Any, rng: np.random.Generator) -> Interval:
    """Return the mean of `values` over the chosen rows."""
    if not rows.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    return mean_interval(values[rows], sessions[rows], rng)


def examples(frame: pd.DataFrame, sessions: Sequence[Session], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return a few judged suggestions of each cause from the test sessions, in words.

    Args:
        frame: the table of a run.
        sessions: of its test rows.
        rng: draws them.
    """
    known = {session.id: session for session in sessions}
    test = frame[frame["split"] == "test"]
    methods = [c for c in frame.columns if c.startswith("score_")]
    found = []
    for cause in (*SHARES, ACCEPTED_WRONG):
        rows = test[test["cause"] == cause]
        picks: Any = rng.choice(len(rows), size=min(_EXAMPLES, len(rows)), replace=False) if len(rows) else []
        for _, row in rows.iloc[sorted(picks)].iterrows():
            session = known[row["session_id"]]
            found.append(
                {
                    "cause": cause,
                    "title": f"{session.issue.replace('_', ' ')}, step {row['step']}",
                    "context": offline.context_of(session, int(row["step"])),
                    "suggestion": row["suggestion"],
                    "operator_did": row["logged"],
                    "scores": {c.removeprefix("score_"): float(row[c]) for c in methods},
                }
            )
    return found


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run the whole path, from a policy or from nothing to the report."""
    study = Study(cfg, run)
    if cfg.run is None:
        study.stage("simulate", study.simulate)
        study.stage("ingest", study.ingest)
        study.prepare()
        study.stage("policy", study.train_policy)
    study.stage("copilot", study.collect)
    study.stage("critic", study.fit)
    study.stage("score", study.score)
    study.tell()
