"""`handrail compare DIR…`: many runs, or the runs of sweeps, in one table and one figure.

Only the files that every run leaves are read: `config.yaml`, `metrics.json`, `provenance.json`. Runs whose
configurations differ in nothing but the seed are one row; a cell is the mean over seeds with Student's t interval. Runs
that are not finished or are damaged are named, counted and left out.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from handrail.envs.errors import HandrailError, nearest
from handrail.experiments.options import option, parse_options
from handrail.experiments.rundir import PLACE, is_below, new_run_path

if TYPE_CHECKING:
    import pandas as pd

DESCRIPTION = (
    "Name run directories, sweeps, or folders that hold them: handrail compare outputs/star_fast. Runs that differ in "
    "nothing but the seed are one row: mean over seeds and 95 % t interval. Writes compare.html, compare.csv and "
    "compare.png. See docs/sweeps.md."
)

DEFAULT_METRICS = (
    "policy.action_accuracy",
    "critic.*.auroc",
    "critic.*.coverage_at_precision_95",
    "certified.95.coverage",
    "closed_loop.policy.success_rate",
    "online.*.automation_rate",
    "online.*.success_rate",
)
"""Patterns of the metrics that are shown if none are named and runs have them."""

LEVEL = 0.95
MAX_METRICS = 24

SEED = "seed"
_SAME_RESULT = ("resume", "logger", "tracking", "experiment.question", *PLACE)
"""Keys, with all below them, that leave a result as it is."""

_TRACES = ("config.yaml", "provenance.json", "metrics.json", "log.txt")


@dataclass(frozen=True)
class Options:
    """Options of `handrail compare`, beside the folders."""

    metrics: tuple[str, ...] = option((), help="keys of metrics.json, * for any part; by default the main ones")
    out: Path | None = option(None, help="folder to write to; by default outputs/compare/<date>_<time>")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        config: dotted key -> value.
        metrics: dotted key -> number.
        seed: of the run; None if its configuration has none.
        started: when, ISO 8601.
    """

    path: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    seed: Any
    started: str


class LeftOut(NamedTuple):
    """A run that is not compared: its folder, and why."""

    path: Path
    reason: str


class Cell(NamedTuple):
    """A metric over seeds: mean, bounds of its interval (NaN for one seed), and the values in the seeds' order."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed.

    Attributes:
        settings: shown setting -> value.
        seeds: of the runs.
        cells: metric -> what the runs that have it say.
    """

    settings: Mapping[str, str]
    seeds: tuple[Any, ...]
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{key}={value}" for key, value in self.settings.items()) or "all runs"


@dataclass(frozen=True)
class Comparison:
    """What the command found.

    Attributes:
        metrics: keys, in the order they are shown.
        rows: one for each configuration.
        implied: settings that differ too but tell no rows apart that the shown ones do not.
        left_out: runs that are in no row.
        runs: number of runs that are.
    """

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    implied: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    runs: int


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status.

    Raises:
        HandrailError: an option is wrong, or there is no finished run.
    """
    folders = [Path(argument).expanduser() for argument in argv if "=" not in argument and not argument.startswith("-")]
    settings = [argument for argument in argv if Path(argument).expanduser() not in folders]
    options = parse_options(settings, Options, prog="handrail compare DIR…", description=DESCRIPTION)
    if not folders:
        raise HandrailError(
            "handrail compare: no folder is named; expected run directories or sweeps, e.g. outputs/star"
        )
    from handrail.envs.files import write_text
    from handrail.experiments.report import comparison as report
    from handrail.experiments.report import plots

    runs, left_out = read(folders)
    for one in left_out:
        print(f"left out: {one.path}: {one.reason}", file=sys.stderr)
    found = compare(runs, left_out, options.metrics)
    out = options.out or new_run_path("compare")
    try:
        frame = table(found)
        write_text(out / "compare.csv", frame.to_csv(index=False))
        drawing = report.figure(found)
        plots.save_png(drawing, out / "compare.png")
        write_text(out / "compare.html", report.page(found, drawing))
    except OSError as error:
        raise HandrailError(f"handrail compare: cannot write to out={out}: {error}") from error
    print(text(found))
    print(f"comparison: {out / 'compare.html'}")
    return 0


def read(folders: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Read the runs in the folders and below them; return the finished ones, and the others with the reason.

    Raises:
        HandrailError: a folder does not exist or holds no run.
    """
    runs: dict[Path, Run] = {}
    left_out: dict[Path, LeftOut] = {}
    for folder in folders:
        if not folder.is_dir():
            raise HandrailError(f"handrail compare: {folder} is no folder; expected run directories or sweeps")
        paths = list(_runs_below(folder))
        if not paths:
            raise HandrailError(
                f"handrail compare: {folder} holds no run; expected folders that `handrail run` printed as "
                "`run directory: …`"
            )
        for path in paths:
            one = _read(path)
            if isinstance(one, Run):
                runs[path.resolve()] = one
            else:
                left_out[path.resolve()] = one
    return list(runs.values()), list(left_out.values())


def compare(runs: Sequence[Run], left_out: Sequence[LeftOut], wanted: Sequence[str]) -> Comparison:
    """Group the runs by what differs in their configurations.

    Args:
        runs: finished runs.
        left_out: the others.
        wanted: keys or patterns of metrics; empty for `DEFAULT_METRICS`.

    Raises:
        HandrailError: there is no run, a metric is unknown, or there are too many.
    """
    if not runs:
        raise HandrailError(
            f"handrail compare: none of the {len(left_out)} runs is finished; the reasons stand above, and "
            "`handrail run resume=DIR` goes on with one"
        )
    names = metrics_of(runs, wanted)
    different = _differences([run.config for run in runs])
    shown, implied = _telling(different)
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in range(len(runs)):
        groups.setdefault(tuple(values[number] for values in different.values()), []).append(number)
    rows, repeated = [], list(left_out)
    for members in groups.values():
        by_seed: dict[Any, Run] = {}
        for run in sorted((runs[number] for number in members), key=lambda run: run.started):
            before = by_seed.get(run.seed)
            if before is not None:
                repeated.append(LeftOut(before.path, f"{run.path} is the same with the same seed, and later"))
            by_seed[run.seed] = run
        kept = sorted(by_seed.values(), key=lambda run: (str(type(run.seed)), run.seed if run.seed is not None else 0))
        cells = {}
        for name in names:
            values = [float(run.metrics[name]) for run in kept if name in run.metrics]
            if values:
                cells[name] = t_interval(values)
        settings = {key: different[key][members[0]] for key in shown}
        rows.append(Row(settings, tuple(run.seed for run in kept), cells))
    rows.sort(key=lambda row: [(_number(value), value) for value in row.settings.values()])
    count = sum(len(row.seeds) for row in rows)
    return Comparison(tuple(names), tuple(rows), tuple(implied), tuple(repeated), count)


def metrics_of(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """Return the metrics that patterns name, in the order of the patterns, then of the keys.

    Raises:
        HandrailError: a pattern fits no metric of any run, or they fit more than can be shown.
    """
    known = sorted({key for run in runs for key in run.metrics})
    names: dict[str, None] = {}
    for pattern in wanted or DEFAULT_METRICS:
        fitting = [key for key in known if _fits(key, pattern)]
        if not fitting and wanted:
            raise HandrailError(f"handrail compare: no run has the metric {pattern!r}{nearest(pattern, known)}")
        names.update(dict.fromkeys(fitting))
    if not names:
        raise HandrailError(
            f"handrail compare: these runs have none of the usual metrics; name some by metrics=…"
            f"{nearest('', [key for key in known if not key.endswith(('.ci_low', '.ci_high'))][:20])}"
        )
    if len(names) > MAX_METRICS:
        raise HandrailError(
            f"handrail compare: {len(names)} metrics fit metrics={','.join(wanted or DEFAULT_METRICS)}; expected at "
            f"most {MAX_METRICS}: name fewer"
        )
    return list(names)


def t_interval(values: Sequence[float], level: float = LEVEL) -> Cell:
    """Return the mean with Student's t interval (Student 1908): mean ± t(n − 1) s / √n.

    Args:
        values: one a seed, at least one.
        level: coverage of the interval where values are normal, in (0, 1).
    """
    from scipy.stats import t

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Cell(mean, math.nan, math.nan, tuple(values))
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(t.ppf((1 + level) / 2, count - 1)) * spread / math.sqrt(count)
    return Cell(mean, mean - half, mean + half, tuple(values))


def table(found: Comparison) -> pd.DataFrame:
    """Return a row for each configuration and metric: settings, metric, n, mean, ci_low, ci_high, seeds."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                **row.settings,
                "metric": name,
                "n": len(cell.values),
                "mean": cell.mean,
                "ci_low": cell.low,
                "ci_high": cell.high,
                "seeds": " ".join(map(str, row.seeds)),
            }
            for row in found.rows
            for name, cell in row.cells.items()
        ]
    )


def text(found: Comparison) -> str:
    """Return the table as it is printed: a line for each configuration, or for each metric if there is but one."""
    keys = list(found.rows[0].settings)
    lines = [[*keys, "runs", *found.metrics]]
    for row in found.rows:
        cells = [written(row.cells.get(name), len(row.seeds)) for name in found.metrics]
        lines.append([*row.settings.values(), str(len(row.seeds)), *cells])
    if len(found.metrics) > 4 or len(found.rows) == 1:
        lines = [list(column) for column in zip(*lines, strict=True)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    printed = [
        "  ".join(item.ljust(width) for item, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([*printed, summary(found)])


def summary(found: Comparison) -> str:
    """Return what is in the table and what is not, in one line."""
    some = f", {len(found.left_out)} left out" if found.left_out else ""
    also = f"; with them differ {', '.join(found.implied)}" if found.implied else ""
    return f"{found.runs} runs in {len(found.rows)} configurations{some}; mean, 95 % t interval over seeds{also}"


def written(cell: Cell | None, seeds: int) -> str:
    """Return a cell as text; the number of values stands with it where not all seeds have the metric."""
    if cell is None:
        return "–"
    count = f" (n={len(cell.values)})" if len(cell.values) != seeds else ""
    if math.isnan(cell.low) or cell.low == cell.high:
        return f"{cell.mean:.4g}{count}"
    digits = max(0, min(6, 2 - math.floor(math.log10(max(cell.high - cell.low, 1e-6)))))
    return f"{cell.mean:.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]{count}"


def _fits(key: str, pattern: str) -> bool:
    """Whether a pattern names a key; a `*` stands for one part or a piece of it, so bounds are asked for in full."""
    parts, wanted = key.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _runs_below(folder: Path) -> Iterator[Path]:
    """Yield the folders that a run has left something in, without looking inside runs."""
    if any((folder / name).is_file() for name in _TRACES):
        yield folder
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _runs_below(Path(entry.path))


def _read(path: Path) -> Run | LeftOut:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not (path / "config.yaml").is_file():
        return LeftOut(path, "it stopped before it had a configuration")
    try:
        file = "provenance.json"
        provenance = json.loads((path / file).read_text(encoding="utf-8"))
        if "finished" not in provenance:
            return LeftOut(path, "it is not finished")
        started = str(provenance["started"])
        file = "metrics.json"
        metrics = json.loads((path / file).read_text(encoding="utf-8"))
        wrong = [
            key for key, value in metrics.items() if isinstance(value, bool) or not isinstance(value, (int, float))
        ]
        if wrong:
            return LeftOut(path, f"metrics.json is damaged ({wrong[0]} is no number)")
        file = "config.yaml"
        config = dict(_flat(OmegaConf.to_container(OmegaConf.load(path / file)), ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        return LeftOut(path, f"{file} is damaged or missing ({str(error).splitlines()[0]})")
    return Run(path, config, metrics, config.get(SEED), started)


def _flat(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their values; lists are values, and an empty mapping is one."""
    if isinstance(node, dict) and (node or not where):
        for key, value in node.items():
            yield from _flat(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, node


def _differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return setting -> its value in each configuration, for what differs, the outermost keys first.

    Where configurations have other keys below a node, the node's value is the names of the keys (`critic`: `probe` in
    one, `tfidf` in another), and what is below those that not all have is no setting of its own.
    """
    inner = [_children(config) for config in configs]
    nodes = sorted({node for children in inner for node in children}, key=lambda node: (node.count("."), node))
    found: dict[str, list[str]] = {}
    unshared: list[str] = []
    for node in nodes:
        if not node or is_below(node, unshared):
            continue
        names = [children.get(node) for children in inner]
        if any(other != names[0] for other in names):
            found[node] = ["absent" if own is None else "+".join(own) or "none" for own in names]
            everywhere = set.intersection(*(set(own or ()) for own in names))
            unshared += [f"{node}.{name}" for own in names for name in own or () if name not in everywhere]
    shared = set.union(*(set(config) for config in configs))
    for key in sorted(shared, key=lambda key: (key.count("."), key)):
        if key == SEED or is_below(key, _SAME_RESULT) or is_below(key, unshared) or key in found:
            continue
        values = [_yaml(config[key]) if key in config else "absent" for config in configs]
        if len(set(values)) > 1:
            found[key] = values
    return {key: values for key, values in found.items() if not is_below(key, _SAME_RESULT)}


def _children(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return node -> names below it, in order."""
    children: dict[str, dict[str, None]] = {}
    for key in config:
        parts = key.split(".")
        for depth in range(1, len(parts)):
            children.setdefault(".".join(parts[:depth]), {})[parts[depth]] = None
    return {node: list(names) for node, names in children.items()}


def _telling(different: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the settings that tell the rows apart, and those that differ but add nothing to these.

    Settings are looked at in turn, the experiment's name first, and shown if they split what those before them leave
    together.
    """
    order = sorted(different, key=lambda key: key != "experiment.name")
    shown: list[str] = []
    implied: list[str] = []
    for key in order:
        before = set(zip(*(different[other] for other in shown), strict=True)) if shown else {()}
        after = set(zip(*(different[other] for other in [*shown, key]), strict=True))
        (shown if len(after) > len(before) else implied).append(key)
    return shown, implied


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: str) -> float:
    """For sorting: numbers by size, other values after them."""
    try:
        return float(value)
    except ValueError:
        return math.inf
