"""Are a copilot's corrections worth more than as many plain logs? The paper's claim, with the control it needs.

For each seed: operators' logs, a policy that has learned them, and then arms that all go on from that policy, on the
same new cases, with the same rounds and training (`handrail.algorithms.dagger`). The arms differ in who acts on those
cases and in what is learned of it: in one operators work alone, which gives as many plain logs; in another they correct
the policy.

Policies are judged on cases nobody learned from, in two sets: cases as they come, and the hardest ones. Which those are
is settled before any arm begins: kinds of case (issue and course, or two issues in one case) are ordered by how
often the first policy fails at them on cases of their own, and the hardest that make up a set share are kept.

- `success_rate`, `violation_rate`: the policy works the cases alone.
- `action_accuracy`, `right_critical_rate`: operators who make no slips work the cases; at each of their steps the
  policy is asked and not shown. Does it say what they do; and are its critical suggestions right
  (`handrail.agents.operators.verdicts.is_right`)? The steps of all policies are the same.

Every seed draws its own people, logs, weights and cases, so that its difference between two arms is one independent
observation; intervals are Student's over the seeds. Beside them stand bootstrap intervals over cases, which speak of
these trained policies alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.agents.operators.config import OperatorConfig
from handrail.agents.operators.expert import Expert
from handrail.agents.operators.human import NONE, Person
from handrail.agents.operators.seat import Staff, crew_staff
from handrail.agents.operators.verdicts import is_right
from handrail.agents.policy import PolicyConfig
from handrail.agents.rollout import Reset, rollout
from handrail.agents.rules import Moment, Rule, Ruling
from handrail.agents.simulate import crew_of
from handrail.agents.transcript import Transcript, TranscriptConfig
from handrail.algorithms.bootstrap import Interval, mean_interval, paired_difference
from handrail.algorithms.config import DaggerConfig, SFTConfig
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json
from handrail.envs.normalize import same_action
from handrail.envs.schema import Session
from handrail.experiments.configs import build

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from handrail.agents.policy import Policy
    from handrail.experiments.rundir import RunDirectory

RESULT = "feedback.json"
FIRST = "first"
"""The policy that all arms go on from."""

SETS = ("all", "hard")
MEASURES = ("success_rate", "violation_rate", "action_accuracy", "right_critical_rate")

_SPAN = 1_000_000
"""Seeds of cases that one use of one seed of the study has to itself."""
_USES = ("collect", "choose", "all", "hard")
_TWO = "two_issues"


def stratum(issues: Sequence[str], variants: Sequence[int]) -> str:
    """Return the kind of a case: its issue and the course it takes, or that it has two issues."""
    return _TWO if len(issues) > 1 else f"{issues[0]}/{variants[0]}"


def hardest(success: Mapping[str, Sequence[bool]], share: float, least: int) -> list[str]:
    """Return the kinds of case that fail most often, until they make up a share of the cases.

    Args:
        success: kind -> whether each case of it succeeded.
        share: of all cases, in (0, 1].
        least: kinds with fewer cases are left out: too few to tell.

    Raises:
        HandrailError: no kind has enough cases.
    """
    known = [kind for kind, cases in success.items() if len(cases) >= least]
    if not known:
        raise HandrailError(
            f"hard.least={least}: none of the {len(success)} kinds of case came up so often; raise hard.cases"
        )
    wanted = share * sum(len(cases) for cases in success.values())
    chosen: list[str] = []
    for kind in sorted(known, key=lambda kind: (float(np.mean(success[kind])), kind)):
        if chosen and sum(len(success[other]) for other in chosen) >= wanted:
            break
        chosen.append(kind)
    return chosen


@dataclass(frozen=True)
class Unattended:
    """The policy does everything; nobody is asked."""

    suggests: bool = True
    labels: bool = False

    def route(self, moment: Moment) -> Ruling:
        """Let the policy's action run."""
        return Ruling("run", "unattended", 0.0)


@dataclass(frozen=True)
class Shadow:
    """The operator does everything; the policy is asked at each step, judged, and not shown.

    Attributes:
        judged: (case, step) -> suggestion, whether it is critical, and if so whether it is right.
    """

    judged: dict[tuple[str, int], tuple[Any, bool, bool]] = field(default_factory=dict)
    suggests: bool = True
    labels: bool = False

    def route(self, moment: Moment) -> Ruling:
        """Judge the suggestion and let the operator act."""
        world = moment.env.world
        right = moment.critical and is_right(world, moment.action, Expert())
        self.judged[world.case.id, moment.observation.index] = moment.action, moment.critical, right
        return Ruling("operator", "shadow")


@dataclass(frozen=True)
class Trial:
    """One seed of the study.

    Attributes:
        cfg: of the run.
        run: where its files are.
        seed: of people, logs, weights and cases.
        first: seed of its first case.
    """

    cfg: DictConfig
    run: RunDirectory
    seed: int
    first: int

    @property
    def folder(self) -> Path:
        """Where it keeps what it learns."""
        return self.run.checkpoints / f"seed_{self.seed}"

    @property
    def logs(self) -> Path:
        """The store of the first policy's logs."""
        return self.folder / "logs.parquet"

    @cached_property
    def operators(self) -> OperatorConfig:
        """How the people at the desk work."""
        return build(OperatorConfig, self.cfg.operator, "operator")

    @cached_property
    def people(self) -> tuple[Person, ...]:
        """Who works at the desk."""
        return crew_of(self.cfg.domain, self.seed, self.operators.people, self.operators.slips)

    def make(self) -> BPMEnv:
        """Return an environment."""
        return BPMEnv(domain=self.cfg.domain)

    def seeds(self, use: str) -> Iterator[int]:
        """Yield seeds of cases for one use, which no other use and no other trial has."""
        return itertools.count(self.first + _USES.index(use) * _SPAN)

    def learn(self) -> None:
        """Let operators work, and a policy learn from their logs."""
        from handrail.agents.policy import build_policy
        from handrail.agents.simulate import simulate_store
        from handrail.algorithms.sft import fine_tune
        from handrail.envs.logs.store import load_sessions

        cfg = self.cfg
        workers = cfg.simulate.workers or os.cpu_count() or 1
        simulate_store(self.logs, cfg.domain, cfg.simulate.sessions, self.seed, workers, operators=self.people)
        sessions = load_sessions(self.logs)
        transcript = Transcript(build(TranscriptConfig, cfg.transcript, "transcript"))
        texts = ["".join(span.text for span in transcript.spans(session)) for session in sessions]
        policy = build_policy(build(PolicyConfig, cfg.policy, "policy"), transcript, texts, self.seed)
        fine_tune(policy, sessions, build(SFTConfig, cfg.sft, "sft"), self.folder / "sft", self.seed)
        policy.save(self.folder / FIRST)

    def choose(self) -> None:
        """Settle which kinds of case are hard: those at which the first policy fails."""
        options = self.cfg.hard
        success: dict[str, list[bool]] = defaultdict(list)
        cases = itertools.islice(self.seeds("choose"), options.cases)
        for session in self._work(
            self._policy(FIRST), Unattended(), crew_staff(self.people, self.operators.rates), cases
        ):
            success[_kind(session)].append(bool(session.outcome["success"]))
        kinds = hardest(success, options.share, options.least)
        rates = {kind: float(np.mean(success[kind])) for kind in sorted(success)}
        write_json(self.folder / "hard.json", {"kinds": kinds, "success": rates})

    @property
    def hard(self) -> list[str]:
        """The hard kinds of case."""
        return list(json.loads((self.folder / "hard.json").read_text(encoding="utf-8"))["kinds"])

    def cases(self, name: str) -> list[int]:
        """Return the seeds of the cases of a set."""
        count = int(self.cfg.judge.cases)
        if name == "all":
            return list(itertools.islice(self.seeds(name), count))
        env, kinds, found = self.make(), set(self.hard), []
        for seed in self.seeds(name):
            env.reset(seed=seed)
            matters = env.world.case.matters
            if stratum([m.issue for m in matters], [m.variant for m in matters]) in kinds:
                found.append(seed)
            if len(found) == count:
                break
        return found

    def go_on(self, arm: str) -> None:
        """Let the rounds of an arm follow the first policy."""
        from omegaconf import OmegaConf

        from handrail.algorithms.dagger import Loop, Simulator
        from handrail.envs.logs.store import load_sessions

        cfg = self.cfg
        config = build(DaggerConfig, OmegaConf.merge(cfg.dagger, cfg.arms[arm]), f"arms.{arm}")
        staff = crew_staff(self.people, self.operators.rates)
        first = next(self.seeds("collect"))
        collect = Simulator(self.make, staff, first, cfg.judge.slots, cfg.constrained, cfg.copied)
        base = load_sessions(self.logs)
        Loop(self.folder / arm, config, self.folder / FIRST, base, collect, seed=self.seed).run()

    def rounds(self, arm: str) -> list[dict[str, float]]:
        """Return the metrics of the rounds of an arm."""
        paths = sorted((self.folder / arm).glob("round_*/metrics.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def judge(self, arm: str) -> None:
        """Judge the policy of an arm and write a row for each set and case."""
        import pandas as pd

        policy = self._policy(arm)
        careful = [dataclasses.replace(person, slips=NONE) for person in self.people]
        rows = []
        for name in SETS:
            cases = self.cases(name)
            alone = list(self._work(policy, Unattended(), crew_staff(self.people, self.operators.rates), cases))
            shadow = Shadow()
            watched = list(self._work(policy, shadow, crew_staff(careful, self.operators.rates), cases))
            for number, (done, seen) in enumerate(zip(alone, watched, strict=True)):
                said = [(shadow.judged[seen.id, step.index], step.action) for step in seen.steps]
                rows.append(
                    {
                        "seed": self.seed,
                        "arm": arm,
                        "set": name,
                        "case": number,
                        "kind": _kind(done),
                        "success": bool(done.outcome["success"]),
                        "violated": bool(done.outcome["violations"]),
                        "steps": len(said),
                        "same": sum(same_action(action, did) for (action, _, _), did in said),
                        "critical": sum(critical for (_, critical, _), _ in said),
                        "right": sum(right for (_, _, right), _ in said),
                    }
                )
        with atomic_path(self.folder / f"judged_{arm}.parquet") as path:
            pd.DataFrame(rows).to_parquet(path)

    def judged(self, arm: str) -> pd.DataFrame:
        """Return what `judge` wrote."""
        import pandas as pd

        return pd.read_parquet(self.folder / f"judged_{arm}.parquet")

    def _policy(self, arm: str) -> Policy:
        import torch

        from handrail.agents.policy import Policy

        last = sorted((self.folder / arm).glob("round_*/policy"))
        policy = Policy.load(last[-1] if last else self.folder / arm)
        if torch.cuda.is_available():
            policy.model.to("cuda")  # type: ignore[arg-type]
        return policy

    def _work(self, policy: Policy, rule: Rule, staff: Staff, seeds: Any) -> Iterator[Session]:
        from handrail.agents.desk import Desk
        from handrail.agents.runtime import Runtime

        desk = Desk(policy, constrained=self.cfg.constrained, copied=self.cfg.copied)
        runtime = Runtime(staff, rule, desk)
        for played in rollout(self.make, runtime, [Reset(seed) for seed in seeds], self.cfg.judge.slots):
            yield runtime.told(played)


def _kind(session: Session) -> str:
    return stratum(session.hidden["issues"], session.hidden["variants"])


# ---- what it comes to ---------------------------------------------------------------------------------------------


_COLUMNS = {
    "success_rate": ("success", None),
    "violation_rate": ("violated", None),
    "action_accuracy": ("same", "steps"),
    "right_critical_rate": ("right", "critical"),
}
"""Measure -> columns of what is counted and of what it is a share of; `None`: of the cases."""


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return Student's interval of the mean of independent values, one a seed; without bounds for fewer than two."""
    from scipy import stats

    known = np.asarray(values, dtype=np.float64)
    mean = float(known.mean())
    if len(known) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return Interval(mean, mean - half, mean + half)


def compare(frame: pd.DataFrame, arms: Sequence[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return each measure of each arm on each set, and by how much it is ahead of every arm before it.

    Args:
        frame: rows as `Trial.judge` writes them, of all seeds and arms.
        arms: in order; the first is what all go on from.
        rng: of the bootstrap over cases.

    Returns:
        A row for each set, measure and arm: `set, measure, arm`, `by_seed` (the values), `mean` with its interval, and
        `over`: other arm -> `by_seed`, `seeds` (Student's interval over seeds) and `cases` (bootstrap over cases).
        Intervals are lists of estimate, low, high.
    """
    rows = []
    for name, measure in itertools.product(SETS, MEASURES):
        top, bottom = _COLUMNS[measure]
        some = frame[frame["set"] == name].sort_values(["seed", "case"])
        parts = {arm: some[some["arm"] == arm] for arm in arms}
        means = {arm: _by_seed(part, top, bottom) for arm, part in parts.items()}
        for place, arm in enumerate(arms):
            over = {}
            for other in arms[:place]:
                gaps = [mine - theirs for mine, theirs in zip(means[arm], means[other], strict=True)]
                cases = _by_cases(parts[arm], parts[other], top, bottom, rng)
                over[other] = {"by_seed": gaps, "seeds": list(seed_interval(gaps)), "cases": list(cases)}
            rows.append(
                {
                    "set": name,
                    "measure": measure,
                    "arm": arm,
                    "by_seed": means[arm],
                    "mean": list(seed_interval(means[arm])),
                    "over": over,
                }
            )
    return rows


def _by_seed(part: pd.DataFrame, top: str, bottom: str | None) -> list[float]:
    sums = part.assign(cases=1).groupby("seed")[[top, bottom or "cases"]].sum()
    return [float(a) / max(float(b), 1.0) for a, b in zip(sums.iloc[:, 0], sums.iloc[:, 1], strict=True)]


def _by_cases(one: pd.DataFrame, two: pd.DataFrame, top: str, bottom: str | None, rng: np.random.Generator) -> Interval:
    """Return the interval over cases of a difference of shares, the cases of all seeds taken together."""
    if bottom is None:
        return paired_difference(one[top].to_numpy(), two[top].to_numpy(), np.arange(len(one)), rng)
    # To first order a ratio of sums moves with its residuals, which resample like a mean.
    parts = []
    for part in (one, two):
        counted, of = part[top].to_numpy(dtype=float), part[bottom].to_numpy(dtype=float)
        ratio = counted.sum() / max(of.sum(), 1.0)
        parts.append(ratio + (counted - ratio * of) / max(of.mean(), 1e-9))
    return mean_interval(parts[0] - parts[1], np.arange(len(one)), rng)


def flat(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return rows of `compare` as metrics: `feedback.SET.ARM.MEASURE`, and `….over.OTHER` for differences."""
    metrics: dict[str, float] = {}

    def put(key: str, interval: Sequence[float]) -> None:
        for end, value in zip(("", ".ci_low", ".ci_high"), interval, strict=True):
            if np.isfinite(value):
                metrics[key + end] = float(value)

    for row in rows:
        key = f"feedback.{row['set']}.{row['arm']}.{row['measure']}"
        put(key, row["mean"])
        for other, gap in row["over"].items():
            put(f"{key}.over.{other}", gap["seeds"])
            put(f"{key}.over_on_cases.{other}", gap["cases"])
    return metrics


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run all seeds and arms, and compare."""
    import pandas as pd

    from handrail.experiments.report.build import build_report

    arms = [FIRST, *map(str, cfg.arms)]
    if FIRST in cfg.arms:
        raise HandrailError(f"arms.{FIRST}: that name is of the policy all arms go on from; choose another")
    trials = []
    for number, seed in enumerate(map(int, cfg.seeds)):
        trial = Trial(cfg, run, seed, (int(cfg.first_case) + number * len(_USES)) * _SPAN)
        trials.append(trial)
        stages = {"learn": trial.learn, "choose": trial.choose}
        stages |= {arm: lambda trial=trial, arm=arm: trial.go_on(arm) for arm in arms[1:]}  # type: ignore[misc]
        stages |= {f"judge_{arm}": lambda trial=trial, arm=arm: trial.judge(arm) for arm in arms}  # type: ignore[misc]
        for name, work in stages.items():
            stage = f"seed_{seed}.{name}"
            if not run.done(stage):
                run.log.info("stage %s", stage)
                work()
                run.mark(stage)
    frame = pd.concat([trial.judged(arm) for trial in trials for arm in arms], ignore_index=True)
    with atomic_path(run.file("feedback.parquet")) as path:
        frame.to_parquet(path)
    rows = compare(frame, arms, np.random.default_rng(int(cfg.seed)))
    rounds = {arm: [trial.rounds(arm) for trial in trials] for arm in arms[1:]}
    hard = {str(trial.seed): trial.hard for trial in trials}
    write_json(run.file(RESULT), _finite({"arms": arms, "rows": rows, "rounds": rounds, "hard": hard}))
    run.write_metrics(flat(rows))
    write_json(run.file("summary.json"), {"question": cfg.experiment.question})
    run.log.info("report: %s", build_report(run.path))


def _finite(value: Any) -> Any:
    """Return `value` with null for what is no number, as JSON has it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
