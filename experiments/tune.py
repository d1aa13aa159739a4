"""`handrail tune experiment=NAME tune.space.KEY=VALUES`: a search for hyperparameters, with Ray Tune and ASHA.

A trial is a run of the experiment with values drawn from the space, composed and checked as `handrail run` would. While
its policy learns it is judged several times on the split that critics learn from (`feedback`), and ASHA (Li et al.
2020, "A System for Massively Parallel Hyperparameter Tuning") stops those that fall behind. A trial ends when its
policy has learned: nothing of the calibration and test splits is read, so a search does not spoil what is measured
later.

A search's folder, `outputs/<experiment>/<date>_<time>_search/`:

search.json            the command line that started it, from which it goes on
<n>/                   run directory of trial n, with `curve.json`: percent of the training -> metric
trials.csv, trials.png what came of each trial
ray/                   what Ray Tune needs to go on
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.envs.errors import HandrailError, nearest
from handrail.envs.files import write_json, write_text
from handrail.experiments.options import option, parse_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from handrail.algorithms.progress import Progress

DESCRIPTION = (
    "Draws values of hyperparameters, trains the policy of an experiment with each, stops what falls behind, and tells "
    "which were best on the feedback split; the test split is not read. A space is given key by key, in the words of "
    "Hydra's sweeps: tune.space.sft.training.epochs=2,4,8 chooses among values or options, interval(A,B) draws between "
    "two numbers, int(interval(A,B)) whole ones, tag(log,interval(A,B)) on a logarithmic scale. All other arguments "
    "are as for handrail run. resume=DIR goes on with a search. See docs/sweeps.md."
)

METRICS = {"sft.validation_accuracy": "max", "sft.validation_loss": "min"}
"""What a search can go by -> which end of it is good."""

FILE, CURVE, TABLE, FIGURE = "search.json", "curve.json", "trials.csv", "trials.png"

_SPACE = "tune.space."
_RAY = "ray"


@dataclass(frozen=True)
class Options:
    """Options of `handrail tune`."""

    metric: str = option("sft.validation_accuracy", name="tune.metric", help=f"one of {', '.join(METRICS)}")
    trials: int = option(16, name="tune.trials", help="how many are drawn")
    judged: int = option(8, name="tune.judged", help="how often a trial is judged as it learns")
    grace: float = option(0.25, name="tune.grace", help="share of its training that every trial may do")
    reduction: float = option(3.0, name="tune.reduction", help="one in so many goes on from each rung; above 1")
    num_cpus: float = option(1.0, name="tune.num_cpus", help="CPUs of a trial")
    num_gpus: float = option(0.0, name="tune.num_gpus", help="GPUs of a trial")
    folder: Path | None = option(None, name="tune.dir", help="of the search, by default one named by the time")

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise HandrailError(
                f"tune.metric={self.metric}: expected one of {', '.join(METRICS)}{nearest(self.metric, METRICS)}; what "
                "runs measure on the test split is no metric to search by, or it would tell nothing of new sessions"
            )
        for name in ("trials", "judged"):
            if getattr(self, name) < 1:
                raise HandrailError(f"tune.{name}={getattr(self, name)}: expected at least 1")
        if not 0 < self.grace <= 1:
            raise HandrailError(f"tune.grace={self.grace}: expected a share in (0, 1]")
        if not self.reduction > 1:
            raise HandrailError(f"tune.reduction={self.reduction}: expected a number above 1")


@dataclass(frozen=True)
class Search:
    """A search as its command line describes it.

    Attributes:
        argv: the command line, without `resume=`.
        options: of the search.
        space: key -> sweep, in Hydra's words.
        overrides: of the study.
    """

    argv: tuple[str, ...]
    options: Options
    space: Mapping[str, str]
    overrides: tuple[str, ...]

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Search:
        """Return the search that a command line describes.

        Raises:
            HandrailError: an option is wrong, or there is no space.
        """
        space = dict(a.removeprefix(_SPACE).split("=", 1) for a in argv if a.startswith(_SPACE) and "=" in a)
        own = [a for a in argv if a.startswith(("tune.", "-")) and not a.startswith(_SPACE)]
        options = parse_options(own, Options, prog="handrail tune experiment=NAME", description=DESCRIPTION)
        if not space:
            raise HandrailError(
                "handrail tune: nothing to search; give tune.space.KEY=VALUES, e.g. "
                "'tune.space.sft.training.learning_rate=tag(log,interval(1e-4,1e-2))'"
            )
        others = tuple(a for a in argv if not a.startswith(("tune.", "-")))
        return cls(tuple(argv), options, space, (*others, f"sft.training.watch={options.judged}"))

    def domains(self) -> dict[str, Any]:
        """Return key -> distribution that Ray Tune draws from; choices are as they are written in overrides.

        Raises:
            HandrailError: a sweep is none, or cannot be drawn from.
        """
        return {key: _domain(key, text) for key, text in self.space.items()}

    def with_values(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of the study with values of the space."""
        return [*self.overrides, *(f"{key}={value}" for key, value in values.items())]

    def check(self) -> str:
        """Check the ends of every interval and all choices before any work; return the name of the experiment.

        Raises:
            HandrailError: the study cannot be composed with one of them, or is not judged while it learns.
        """
        from omegaconf import OmegaConf

        from handrail.experiments.run import study_config

        cfg, _ = study_config(self.overrides)
        if "feedback" not in (OmegaConf.select(cfg, "data.splits") or {}):
            raise HandrailError(
                f"experiment={cfg.experiment.name} has no split `feedback`, by which a search judges its trials; "
                "expected one of the family of star or bpm"
            )
        for key, domain in self.domains().items():
            for value in _ends(domain):
                study_config(self.with_values({key: value}))
        return str(cfg.experiment.name)


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Attributes:
        number: its folder's name.
        values: key -> value.
        status: `finished`, `stopped` (by ASHA) or `failed`.
        curve: percent of the training -> metric.
    """

    number: int
    values: Mapping[str, Any]
    status: str
    curve: Mapping[int, float]

    @property
    def last(self) -> float:
        """The metric when it was last judged, NaN if it never was."""
        return self.curve[max(self.curve)] if self.curve else math.nan


def main(argv: Sequence[str]) -> int:
    """Search, or go on with a search; return 0, or 1 if a trial failed.

    Raises:
        HandrailError: an option is wrong, or `resume=` names no search or comes with other options.
    """
    given = [a.removeprefix("resume=").strip("'\"") for a in argv if a.startswith("resume=")]
    arguments = [a for a in argv if not a.startswith("resume=")]
    address = _address(arguments)
    if not given:
        search = Search.parse(arguments)
        experiment = search.check()
        folder = search.options.folder or _new_folder(experiment)
        if is_search(folder):
            raise HandrailError(f"{folder} already holds a search; go on with it by resume={folder}, or name another")
        folder = folder.absolute()
        write_json(folder / FILE, {"argv": list(search.argv)})
    else:
        folder = Path(given[-1]).absolute()
        search = _read(folder)
        new = [a for a in arguments if a not in search.argv and not a.startswith("ray=")]
        if new:
            raise HandrailError(
                f"{folder} was started with {' '.join(search.argv)}; leave {' '.join(new)} out to go on, or leave "
                "resume= out to start a new search"
            )
        search.check()
    failed = _work(search, folder, address)
    trials = read_trials(search, folder, failed)
    _report(search, folder, trials)
    return int(bool(failed))


def is_search(path: Path) -> bool:
    """Return whether the folder `path` is a search's."""
    return (path / FILE).is_file()


def read_trials(search: Search, folder: Path, failed: Mapping[int, str]) -> list[Trial]:
    """Return what came of each trial, the best first.

    Args:
        search: what was searched.
        folder: of the search.
        failed: number -> error.
    """
    trials = []
    for path in _trial_folders(folder):
        number = int(path.name)
        content = _json(path / CURVE)
        curve = {int(percent): float(value) for percent, value in content["curve"].items()}
        status = "failed" if number in failed else "finished" if 100 in curve else "stopped"
        trials.append(Trial(number, content["values"], status, curve))
    sign = 1 if METRICS[search.options.metric] == "min" else -1
    return sorted(trials, key=lambda t: (t.status != "finished", math.isnan(t.last), sign * t.last, t.number))


def _work(search: Search, folder: Path, address: str) -> dict[int, str]:
    """Do the trials that are missing; return number -> error of those that failed."""
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    from handrail.experiments.launchers import start_ray
    from handrail.experiments.run import study_config

    options = search.options
    seed = int(study_config(search.overrides)[0].seed)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # It tells what nobody asked for, whatever `verbose` says.
    # What Ray Tune logs for itself would double what the run directories hold.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    variables = {name: value for name, value in os.environ.items() if name.startswith(("HANDRAIL_", "WANDB_"))}
    trainable = tune.with_resources(
        partial(_trial, search=search, folder=folder, start=os.getcwd(), variables=variables),
        {"CPU": options.num_cpus, "GPU": options.num_gpus},
    )
    joined = ray.is_initialized()
    if not joined:
        start_ray(address, None, 200)
    try:
        if tune.Tuner.can_restore(str(folder / _RAY)):
            tuner = tune.Tuner.restore(str(folder / _RAY), trainable, resume_unfinished=True, restart_errored=True)
        else:
            tuner = tune.Tuner(
                trainable,
                param_space=search.domains(),
                tune_config=tune.TuneConfig(
                    metric=options.metric,
                    mode=METRICS[options.metric],
                    num_samples=options.trials,
                    search_alg=BasicVariantGenerator(random_state=seed),
                    scheduler=AsyncHyperBandScheduler(
                        time_attr="percent",
                        max_t=100,
                        grace_period=max(1, round(100 * options.grace)),
                        reduction_factor=options.reduction,
                    ),
                ),
                run_config=tune.RunConfig(
                    name=_RAY, storage_path=str(folder), verbose=0, callbacks=[_teller(options.metric, options.trials)]
                ),
            )
        found = tuner.fit()
    finally:
        if not joined:
            ray.shutdown()
    results = [found[place] for place in range(len(found))]
    failed = {_number(Path(r.path).name): str(r.error) for r in results if r.error is not None}
    for path in _trial_folders(folder):
        if int(path.name) not in failed:
            shutil.rmtree(path / "checkpoints", ignore_errors=True)
    return failed


def _trial(
    values: Mapping[str, Any], *, search: Search, folder: Path, start: str, variables: Mapping[str, str]
) -> None:
    """Train with values of the space and report to Ray Tune as it goes; runs in a worker process."""
    from ray import tune

    from handrail.algorithms.progress import listening
    from handrail.envs import registry
    from handrail.experiments.configs import STUDIES
    from handrail.experiments.run import limit_threads, study_config
    from handrail.experiments.rundir import RunDirectory
    from handrail.experiments.tracking import tracked

    os.environ.update(variables)
    os.chdir(start)
    path = folder / str(_number(tune.get_context().get_trial_id()))
    if (path / "config.yaml").is_file():
        run = RunDirectory.open(path)
        if run.finished:  # Ray Tune had not yet written that down when the search was stopped.
            tune.report({search.options.metric: _json(path / CURVE)["curve"]["100"], "percent": 100})
            return
        run.note_continuation(["tune", *search.argv])
    else:
        cfg, choices = study_config(search.with_values(values))
        write_json(path / CURVE, {"values": dict(values), "curve": {}})
        run = RunDirectory.create(path, cfg, ["tune", *search.argv], stillborn=True, choices=choices)
    cfg = run.config
    curve: dict[str, float] = dict(_json(path / CURVE)["curve"])
    name, _, key = search.options.metric.partition(".")

    def hear(progress: Progress) -> None:
        if progress.name != name or key not in progress.values:
            return
        percent = round(100 * progress.share)
        curve[str(percent)] = progress.values[key]
        write_json(path / CURVE, {"values": dict(values), "curve": curve})
        run.write_metrics({search.options.metric: progress.values[key], "tune.percent": percent})
        if percent == 100:
            raise _Learned
        tune.report({search.options.metric: progress.values[key], "percent": percent})

    run.start_log()
    try:
        limit_threads(cfg.threads)
        with tracked(cfg, run), listening(hear):
            try:
                registry.load(STUDIES, cfg.experiment.study, "study").run(cfg, run)
            except _Learned:
                run.log.info("the policy has learned, which ends the trial")
    except Exception:
        run.log.exception("the trial failed")
        raise
    finally:
        run.stop_log()
    if "100" not in curve:
        raise HandrailError(f"{path}: the policy was not judged as it learned; expected {search.options.metric}")
    shutil.rmtree(run.checkpoints)
    run.note_finish()
    tune.report({search.options.metric: curve["100"], "percent": 100})


class _Learned(Exception):
    """Ends a study whose policy has learned."""


def _teller(metric: str, count: int) -> Any:
    """Return a callback of Ray Tune that tells on stderr how far the search is."""
    from ray.tune import Callback

    class Teller(Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._tell(trial, f"{trial.last_result[metric]:.4g} at {trial.last_result['percent']} %")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._tell(trial, "failed")

        def _tell(self, trial: Any, became: str) -> None:
            values = " ".join(f"{key}={_short(value)}" for key, value in trial.config.items())
            _say(f"trial {_number(trial.trial_id)} of {count} ({values}): {became}")

    return Teller()


def _report(search: Search, folder: Path, trials: Sequence[Trial]) -> None:
    """Write the table and the figure, and print the table and how to run the best."""
    import csv
    from io import StringIO

    from handrail.experiments.report.plots import save_png

    keys = list(search.space)
    content = StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["trial", "status", "percent", search.options.metric, *keys])
    rows = [
        [t.number, t.status, max(t.curve, default=0), t.last if t.curve else "", *(t.values[key] for key in keys)]
        for t in trials
    ]
    writer.writerows(rows)
    write_text(folder / TABLE, content.getvalue())
    save_png(_drawn(search.options.metric, trials), folder / FIGURE)
    header = ["trial", "status", "percent", search.options.metric, *keys]
    lines = [header, *([_short(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    best = trials[0] if trials else None
    if best is not None and best.status == "finished":
        given = [a for a in search.with_values(best.values) if not a.startswith(("sft.training.watch=", "ray="))]
        print(f"the best, whole: handrail run {shlex.join(given)}")
    print(f"search directory: {folder}", flush=True)


def _drawn(metric: str, trials: Sequence[Trial]) -> Figure:
    """Draw the metric by how much of its training a trial has done, the best in colour."""
    from matplotlib.figure import Figure

    from handrail.experiments.report.plots import INK, PALETTE, styled

    @styled
    def draw() -> Figure:
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for place, trial in reversed(list(enumerate(trials))):
            points = sorted(trial.curve.items())
            axes.plot(
                [percent for percent, _ in points],
                [value for _, value in points],
                marker="o",
                markersize=3,
                color=PALETTE[0] if place == 0 else INK,
                alpha=1.0 if place == 0 else 0.35,
                label=f"trial {trial.number}, the best" if place == 0 else None,
            )
        axes.set_xlabel("training done, %")
        axes.set_ylabel(metric)
        if trials:
            axes.legend()
        return figure

    return draw()


def _domain(key: str, text: str) -> Any:
    """Return what a sweep of Hydra's grammar is to Ray Tune."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep
    from hydra.errors import HydraException
    from ray import tune

    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise HandrailError(f"{_SPACE}{key}={text}: {str(error).splitlines()[0]}") from error
    if not override.is_sweep_override():
        raise HandrailError(
            f"{_SPACE}{key}={text}: expected values to draw from: A,B,C, range(A,B), interval(A,B) or "
            "tag(log,interval(A,B))"
        )
    if not override.is_interval_sweep():
        return tune.choice(list(override.sweep_string_iterator()))
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    low: Any = sweep.start
    high: Any = sweep.end
    whole = isinstance(low, int) and isinstance(high, int)
    if low is None or high is None or not low < high or ("log" in sweep.tags and low <= 0):
        raise HandrailError(f"{_SPACE}{key}={text}: expected interval(A,B) with A below B, and above 0 where it is log")
    if "log" in sweep.tags:
        return tune.lograndint(low, high + 1) if whole else tune.loguniform(low, high)
    return tune.randint(low, high + 1) if whole else tune.uniform(low, high)


def _ends(domain: Any) -> list[Any]:
    """Return the values of a choice, or the ends of an interval."""
    from ray.tune.search.sample import Categorical, Integer

    if isinstance(domain, Categorical):
        return list(domain.categories)
    return [domain.lower, domain.upper - 1 if isinstance(domain, Integer) else domain.upper]


def _address(argv: Sequence[str]) -> str:
    given = [a.removeprefix("ray=") for a in argv if a.startswith("ray=")]
    address = given[-1] if given else "local"
    if address == "off":
        raise HandrailError("ray=off: a search runs on Ray; expected local or the address of a cluster")
    return "local" if address == "null" else address


def _new_folder(experiment: str) -> Path:
    from handrail.experiments.rundir import new_run_path

    path = new_run_path(experiment)
    return path.with_name(f"{path.name}_search")


def _read(folder: Path) -> Search:
    if not is_search(folder):
        raise HandrailError(f"{folder} holds no search (it has no {FILE}); expected a folder that handrail tune made")
    return Search.parse([str(argument) for argument in _json(folder / FILE)["argv"]])


def _trial_folders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise HandrailError(f"{path} is damaged or missing ({error}); restore it, or start a new search") from error


def _number(trial_id: str) -> int:
    """Return the number in an id such as `1ab2c_00003`, or in the name of a folder of one."""
    return int(next(part for part in reversed(trial_id.split("_")) if part.isdigit() and len(part) == 5))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
