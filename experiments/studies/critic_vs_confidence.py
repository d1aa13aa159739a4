"""Every confidence method of finished runs side by side: learned critics against what the policy says of itself.

Nothing is trained. Of each run the decision tables are read: the policy's own suggestions, and recorded ones where the
log has them. Thresholds and calibration maps come from the run's calibration sessions, what is reported from its test
sessions. In each table the best learned critic is chosen by AUROC on calibration sessions, and every other method is
compared with it on the same resampled test sessions.

Confidence that is costly to get (`handrail.agents.elicited`) is asked for here, of the run's policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.agents import elicited
from handrail.agents.critic import Case, recorded_verdicts, replayed_verdicts
from handrail.algorithms import calibration_maps
from handrail.algorithms.calibration import are_probabilities, brier, ece
from handrail.algorithms.selective import (
    Resampled,
    auroc,
    compare,
    percent,
    put_difference,
    put_interval,
    resample,
    summarize_method,
)
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.files import write_json
from handrail.experiments import offline
from handrail.experiments.configs import build
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies.star import TABLES, bar

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

RESULT = "methods.json"
_TOLD = ("auroc", "augrc")


@dataclass(frozen=True)
class Table:
    """The judged suggestions of one run.

    Attributes:
        run: the run's name.
        source: prefix of their metrics in the run: `critic`, `critic_recorded` or `critic_recorded_draft`.
        calibration, test: rows with `session_id, step, correct` and `score_<method>`.
        critics: the methods that have learned from verdicts.
    """

    run: str
    source: str
    calibration: pd.DataFrame
    test: pd.DataFrame
    critics: tuple[str, ...]

    @property
    def name(self) -> str:
        """Prefix of its metrics here."""
        return f"{self.run}.{self.source}"

    @property
    def methods(self) -> list[str]:
        """Methods that have a score for every row of both splits and do not give all the same."""
        names = [c.removeprefix("score_") for c in self.test if c.startswith("score_")]
        both = ((name, self.calibration[f"score_{name}"], self.test[f"score_{name}"]) for name in names)
        return [n for n, old, new in both if old.notna().all() and new.notna().all() and new.nunique() > 1]

    @property
    def best(self) -> str | None:
        """The learned critic with the largest AUROC on calibration sessions."""
        learned = [name for name in self.methods if name in self.critics]
        ranks = {n: auroc(self.calibration[f"score_{n}"], self.calibration["correct"]) for n in learned}
        return max(ranks, key=lambda name: ranks[name]) if ranks else None


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Compare the methods of all runs and write the report."""
    from handrail.experiments.report.build import build_report

    if not cfg.runs:
        raise HandrailError(
            "runs is empty; expected folders of finished runs, e.g. runs=[outputs/star/RUN,outputs/bpm/RUN]"
        )
    rng = np.random.default_rng(cfg.seed)
    targets = [float(target) for target in cfg.targets]
    metrics: dict[str, float] = {}
    told = []
    for folder in map(str, cfg.runs):
        for table in tables(folder, cfg.elicited, int(cfg.seed), run):
            found = compare_methods(table, targets, rng)
            maps = calibration_errors(table)
            metrics |= {f"{table.name}.{key}": value for key, value in {**found, **maps}.items()}
            told.append(
                {
                    "name": table.name,
                    "run": table.run,
                    "source": table.source,
                    "best": table.best,
                    "methods": table.methods,
                    "critics": [name for name in table.methods if name in table.critics],
                    "steps": len(table.test),
                    "sessions": int(table.test["session_id"].nunique()),
                    "right": float(table.test["correct"].mean()),
                }
            )
            run.log.info("%s: %d test steps; best learned critic: %s", table.name, len(table.test), table.best)
            for line in lines(table, targets, metrics):
                run.log.info("%s", line)
    run.write_metrics(metrics)
    maps_there = registry.names(calibration_maps.__name__)
    write_json(run.file(RESULT), {"targets": targets, "maps": maps_there, "tables": told, "metrics": metrics})
    write_json(run.file("summary.json"), {"question": cfg.experiment.question})
    run.log.info("report: %s", build_report(run.path))


def lines(table: Table, targets: Sequence[float], metrics: Mapping[str, float]) -> list[str]:
    """Return a table as lines of text: estimates, in brackets the interval of the difference to the best critic."""
    columns = {"AUROC": "auroc", "AUGRC": "augrc"}
    columns |= {f"cov@{percent(target)}": f"coverage_at_precision_{percent(target)}" for target in targets}
    found = ["".join(f"{title:>25}" for title in ("method", *columns))]
    for name in sorted(table.methods, key=lambda one: -metrics.get(f"{table.name}.{one}.auroc", 0.0)):
        cells = [f"{name:>25}"]
        for statistic in columns.values():
            key = f"{table.name}.{name}.{statistic}"
            low, high = (metrics.get(f"{key}.over.{table.best}.{end}") for end in ("ci_low", "ci_high"))
            paired = "" if low is None or high is None else f" [{low:+.3f} {high:+.3f}]"
            cells.append(f"{metrics.get(key, float('nan')):.3f}{paired}".rjust(25))
        found.append("".join(cells))
    return found


def tables(folder: str, asked: Mapping[str, Any], seed: int, run: RunDirectory) -> Iterator[Table]:
    """Yield the tables of a finished run, those of its domains where it has several.

    Raises:
        HandrailError: there is no such run, or none with judged suggestions of calibration and test sessions.
    """
    import pandas as pd

    trained = RunDirectory.open(folder)
    if not trained.file(TABLES["critic"]).is_file():
        parts = [str(path.parent) for path in sorted(trained.path.glob("*/config.yaml"))]
        if not parts:
            raise HandrailError(
                f"{trained.path} has no {TABLES['critic']}; expected a finished run of star, bpm or bpm_sanity"
            )
        for part in parts:
            yield from tables(part, asked, seed, run)
        return
    inside = trained.path.parent.joinpath("config.yaml").is_file()
    name = trained.path.name if inside else str(trained.config.experiment.name)
    scores = _Elicited(trained, asked, seed) if asked else None
    for source, file in TABLES.items():
        if not trained.file(file).is_file():
            continue
        frame = pd.read_parquet(trained.file(file))
        scored = [c for c in frame if c.startswith("score_")]
        frame = frame[frame["split"].isin(["calibration", "test"]) & frame[scored].notna().any(axis=1)]
        if scores is not None:
            frame = scores.added(source, frame)
        by_split = [frame[frame["split"] == split].reset_index(drop=True) for split in ("calibration", "test")]
        if any(part.empty or part["correct"].nunique() < 2 for part in by_split):
            run.log.warning("%s: %s has too few judged calibration or test steps and is left out", trained.path, file)
            continue
        yield Table(name, source, by_split[0], by_split[1], tuple(map(str, trained.config.critic)))


class _Elicited:
    """Asks a run's policy.

    Args:
        trained: the run.
        asked: name -> options of the scores.
        seed: of what is drawn.
    """

    def __init__(self, trained: RunDirectory, asked: Mapping[str, Any], seed: int) -> None:
        study = registry.load("handrail.experiments.studies", str(trained.config.experiment.study), "study")
        self.study, self.asked, self.seed = study.Study(trained.config, trained), asked, seed
        data = self.study.cfg.data
        self.sessions, _ = offline.read_data(
            data.source, data.path, dict(data.options or {}), data.where, bar("reading sessions")
        )

    def added(self, source: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the table with a column for each score."""
        keys = list(zip(frame["session_id"], frame["step"], strict=True))
        cases = self._cases(source, {name for name, _ in keys})
        columns = {}
        for name, options in self.asked.items():
            module = registry.load(elicited.__name__, str(name), "elicited confidence")
            config = build(module.Config, options, f"elicited.{name}")
            given = [cases[key] for key in keys]
            scores = module.score(
                self.study.decoder(), given, config, np.random.default_rng(self.seed), bar(f"{name}, {source}")
            )
            columns[f"score_{name}"] = scores
        return frame.assign(**columns)

    def _cases(self, source: str, names: set[str]) -> dict[tuple[str, int], Case]:
        sessions = [session for session in self.sessions if session.id in names]
        if source == "critic":
            made = [s for s in self.study._read("suggestions.json") if s.session_id in names]
            found = replayed_verdicts(sessions, made)
        else:
            found = recorded_verdicts(sessions, draft_known=False)
        return {(case.session.id, case.step): case for case in found}


def compare_methods(table: Table, targets: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    """Return the statistics of every method with intervals, and differences to the best learned critic.

    | key | what |
    |---|---|
    | `METHOD.auroc`, `METHOD.augrc` | on test sessions |
    | `METHOD.coverage_at_precision_95` and the like | the threshold from calibration, its coverage on test |
    | `METHOD.coverage_at_precision_95.precision` | what it reaches there |
    | `METHOD.STATISTIC.over.BEST` | less that of the best learned critic, with `p_value` |
    """
    old, new = table.calibration, table.test
    summaries = {
        name: summarize_method(
            old[f"score_{name}"], old["correct"], new[f"score_{name}"], new["correct"], targets=targets
        )
        for name in table.methods
    }
    drawn: dict[str, Resampled] = dict(
        zip(summaries, resample(list(summaries.values()), new["session_id"].to_numpy(), rng), strict=True)
    )
    wanted = [*_TOLD, *(f"coverage_at_precision_{percent(target)}" for target in targets)]
    found: dict[str, float] = {}
    for name, one in drawn.items():
        intervals = one.intervals()
        for statistic in wanted:
            put_interval(found, f"{name}.{statistic}", intervals[statistic])
            if statistic.startswith("coverage"):
                put_interval(found, f"{name}.{statistic}.precision", intervals[f"{statistic}.precision"])
        if table.best is not None and name != table.best:
            differences = compare(one, drawn[table.best])
            for statistic in wanted:
                put_difference(found, f"{name}.{statistic}.over.{table.best}", differences[statistic])
    return {key: value for key, value in found.items() if np.isfinite(value)}


def calibration_errors(table: Table) -> dict[str, float]:
    """Return `METHOD.MAP.brier` and `.ece` of each map on test, and of probabilities as they are (`raw`)."""
    old, new = table.calibration, table.test
    found: dict[str, float] = {}
    for name in table.methods:
        before, after = old[f"score_{name}"].to_numpy(), new[f"score_{name}"].to_numpy()
        made = {} if not (are_probabilities(before) and are_probabilities(after)) else {"raw": after}
        for kind in registry.names(calibration_maps.__name__):
            made[kind] = calibration_maps.fit(kind, before, old["correct"])(after)
        for kind, values in made.items():
            found[f"{name}.{kind}.brier"] = brier(values, new["correct"])
            found[f"{name}.{kind}.ece"] = ece(values, new["correct"])
    return found
