"""`handrail curves`: coverage–precision curves, certificates and plots for a table of anybody's scores."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from handrail.envs.errors import HandrailError
from handrail.envs.files import write_json, write_text
from handrail.experiments.options import option, parse_options
from handrail.experiments.rundir import RunDirectory, new_run_path
from handrail.experiments.score_table import Columns, ScoreTable, read_table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from handrail.algorithms.bootstrap import Interval
    from handrail.algorithms.certify import Certificate
    from handrail.algorithms.feasibility import Feasibility
    from handrail.algorithms.selective import Curve, Difference, Resampled, Summary

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

DESCRIPTION = (
    "Reads a table with a confidence score and an outcome a row (CSV or Parquet) and tells how much could run alone at "
    "which precision. Thresholds are chosen on calibration rows and reported on test rows: name a column with split=, "
    "or half of the clusters are taken for calibration, by a hash of cluster id and seed. See docs/curves.md."
)

CURVE_POINTS = 200
MAX_SCORES = 8


@dataclass(frozen=True)
class Options:
    """Options of `handrail curves`."""

    scores: Path = option(help="CSV file with a header, or Parquet file")
    score: tuple[str, ...] = option(
        help="column with the confidence, higher is more confident; several (a,b) are compared with the first"
    )
    correct: str = option(help="column that says whether the step was right: 0/1, true/false, yes/no")
    group: str | None = option(None, help="column with the kind of case: one certificate and one bar a group")
    cluster: str | None = option(None, help="column with the session; sessions are split and resampled whole")
    split: str | None = option(
        None, help="column that says calibration or test; rows that say another word are left out"
    )
    missing: Literal["error", "defer"] = option(
        "error", help="what an empty or NaN score is: a mistake, or a step that never runs alone"
    )
    delta: float = option(0.05, help="chance that a certificate may be wrong, in (0, 1)")
    target: tuple[float, ...] = option((0.90, 0.95, 0.98, 0.99), help="precisions to reach, each in (0, 1)")
    resamples: int = option(1000, help="bootstrap resamples, at least 1")
    seed: int = option(0, help="of the split and the bootstrap")
    out: Path | None = option(None, help="folder to write to; by default outputs/curves/<date>_<time>")

    @property
    def columns(self) -> Columns:
        """The file and its columns."""
        return Columns(self.scores, self.score, self.correct, self.group, self.cluster, self.split, self.missing)

    @property
    def group_target(self) -> float:
        """The precision that groups are certified for: the target nearest to 95 %."""
        return min(self.target, key=lambda value: abs(value - 0.95))


@dataclass(frozen=True)
class GroupResult:
    """One group on the test rows.

    Attributes:
        rows: test rows.
        certificate: on calibration rows; None without any in this group.
        coverage: share of its test rows over its threshold.
        precision: share of those that are right.
        correct: share of all its test rows that are right.
    """

    rows: int
    certificate: Certificate | None
    coverage: Interval
    precision: Interval
    correct: Interval


@dataclass(frozen=True)
class ScoreResult:
    """What was found about one score.

    Attributes:
        name: its column.
        prefix: what its metric keys start with; empty if it is the only one.
        metrics: flat metrics, without the prefix.
        curve: on test rows.
        grid: (g,) coverages of the band.
        low: (g,) lower edge of the precision.
        high: (g,) upper edge.
        certificates: target → certificate, on calibration rows.
        groups: by name, at `Options.group_target`; empty without a group column.
    """

    name: str
    prefix: str
    metrics: dict[str, float]
    curve: Curve
    grid: FloatArray
    low: FloatArray
    high: FloatArray
    certificates: Mapping[float, Certificate]
    groups: dict[str, GroupResult]


@dataclass(frozen=True)
class Analysis:
    """What the report shows.

    Attributes:
        possible: target → what can be certified at all, whatever the score.
        scores: one result a score column, in the order given.
        differences: of each further score, that score less the first, by statistic.
        metrics: all of it, flat, as `metrics.json`.
    """

    possible: Mapping[float, Feasibility]
    scores: list[ScoreResult]
    differences: dict[str, dict[str, Difference]]
    metrics: dict[str, float]


def main(argv: Sequence[str]) -> int:
    """Run the command. Nothing is written before everything is computed.

    Args:
        argv: arguments after `curves`.

    Returns:
        Exit status: 0 when the report is written, also if nothing could be certified.

    Raises:
        HandrailError: an option, the file or a column is wrong.
    """
    from handrail.experiments.report import score_curves

    options = parse_options(argv, Options, prog="handrail curves", description=DESCRIPTION)
    _check(options)
    started = time.perf_counter()
    table = read_table(options.columns, seed=options.seed)
    possible = feasible(options, table)
    for line in (*notes(options, table), *(one.sentence for one in possible.values())):
        print(line, file=sys.stderr)
    analysis = analyse(options, table, possible)
    figures = score_curves.figures(options, table, analysis)
    page = score_curves.page(options, table, analysis, figures)
    run = RunDirectory.create(
        options.out or new_run_path("curves"), _settings(options), list(argv), unique=options.out is None
    )
    run.write_metrics(analysis.metrics)
    write_json(run.file("curves.json"), _plain({"counts": table.counts, **_details(analysis)}))
    score_curves.save(figures, run.path)
    write_text(run.file("report.html"), page)
    for result in analysis.scores:
        for certificate in result.certificates.values():
            name = f"{result.name}: " if len(analysis.scores) > 1 else ""
            print(f"{name}{sentence(certificate)}", file=sys.stderr)
    print(f"{time.perf_counter() - started:.1f} s, report: {run.file('report.html')}", file=sys.stderr)
    run.note_finish()
    print(f"run directory: {run.path}")
    return 0


def feasible(options: Options, table: ScoreTable) -> dict[float, Feasibility]:
    """Say by target what the calibration rows can certify at all, before any score is looked at."""
    from handrail.algorithms.feasibility import feasibility

    correct = table.correct[table.calibration]
    sessions = _sessions(table)
    return {target: feasibility(correct, target, options.delta, sessions=sessions) for target in options.target}


def analyse(options: Options, table: ScoreTable, possible: Mapping[float, Feasibility]) -> Analysis:
    """Compute what the report shows, with one set of resamples for everything."""
    import numpy as np

    from handrail.algorithms.selective import compare, percent, put_difference, resample, with_prefix

    rng = np.random.default_rng(options.seed)
    clusters = table.clusters[table.test] if table.clusters is not None else None
    prefixes = _prefixes(options.score)
    summaries: list[Summary] = []
    certificates = []
    for scores in table.scores:
        found, summary = _certify(options, table, scores)
        certificates.append(found)
        summaries.append(summary)
    by_group, group_summary = _certify_groups(options, table)
    drawn = resample(
        [*summaries, *([group_summary] if group_summary is not None else [])],
        clusters,
        rng,
        resamples=options.resamples,
    )
    results = [
        _result(options, table, j, prefixes[j], certificates[j], drawn[j], by_group if j == 0 else {}, drawn[-1])
        for j in range(len(summaries))
    ]
    differences = {options.score[j]: compare(drawn[j], drawn[0]) for j in range(1, len(summaries))}
    metrics: dict[str, float] = dict(table.counts)
    metrics["resamples"] = options.resamples
    metrics["correct_share"] = float(table.correct[table.test].mean())
    for target, one in possible.items():
        metrics[f"feasible.{percent(target)}.coverage"] = one.max_coverage
        metrics[f"feasible.{percent(target)}.steps"] = one.required
    for result in results:
        metrics |= with_prefix(result.prefix, result.metrics)
    for prefix, compared in zip(prefixes[1:], differences.values(), strict=True):
        flat: dict[str, float] = {}
        for name, difference in compared.items():
            put_difference(flat, _key(name), difference)
        metrics |= with_prefix(f"difference.{prefix}", flat)
    return Analysis(possible, results, differences, metrics)


def notes(options: Options, table: ScoreTable) -> list[str]:
    """Sentences about the rows that a reader has to know of."""
    counts = table.counts
    found = [
        f"{counts['rows']:,} rows: {counts['rows_calibration']:,} for calibration, {counts['rows_test']:,} for test, "
        f"{counts['rows_left_out']:,} left out"
    ]
    if options.split is None:
        what = f"half of the clusters ({options.cluster})" if options.cluster else "half of the rows"
        found.append(f"no split= given: {what} taken for calibration, seed {options.seed}")
    if options.cluster is None:
        found.append(
            "no cluster= given: rows count as independent; if steps share a session, intervals are too narrow and "
            "certificates too generous"
        )
    if counts["rows_without_score"]:
        found.append(f"{counts['rows_without_score']:,} rows have no score: they count as steps that never run alone")
    if table.groups is not None:
        for part, rows in (("calibration", table.calibration), ("test", table.test)):
            seen = set(table.groups[rows].tolist())
            absent = [name for code, name in enumerate(table.group_names) if code not in seen]
            if absent:
                more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
                found.append(f"without {part} rows: {options.group} {', '.join(absent[:5])}{more}")
    return found


def sentence(certificate: Certificate) -> str:
    """What a certificate says, in one line."""
    return f"{100 * certificate.target:.4g} % precision, delta {certificate.delta:g}: {certificate.reason}"


def _check(options: Options) -> None:
    def refuse(what: str) -> None:
        raise HandrailError(f"handrail curves: {what}")

    for name, values in (("delta", (options.delta,)), ("target", options.target)):
        for value in values:
            if not 0 < value < 1:
                refuse(f"{name}={value:g}; expected a number between 0 and 1, e.g. {0.05 if name == 'delta' else 0.95}")
    if not options.target:
        refuse("target= is empty; expected precisions such as target=0.9,0.95")
    if options.resamples < 1:
        refuse(f"resamples={options.resamples}; expected at least 1")
    if not 1 <= len(set(options.score)) <= MAX_SCORES or len(set(options.score)) < len(options.score):
        refuse(f"score={','.join(options.score)}; expected one to {MAX_SCORES} different columns")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        refuse(f"out={options.out} is a file; expected a folder")
    if options.out is not None and (options.out / "config.yaml").exists():
        refuse(f"out={options.out} already holds a run; choose another folder")
    prefixes = _prefixes(options.score)
    if len(set(prefixes)) < len(prefixes):
        refuse(f"score={','.join(options.score)}; expected names that differ in letters or digits, as metric keys do")


def _settings(options: Options) -> dict[str, Any]:
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    return {"command": "curves", **settings}


def _prefixes(names: Sequence[str]) -> list[str]:
    """What the metric keys of each score start with: nothing if there is only one."""
    return [""] if len(names) == 1 else [re.sub(r"[^\w@%+-]", "_", name) for name in names]


def _sessions(table: ScoreTable) -> IntArray | None:
    """Sessions of the calibration rows, if the table names any."""
    return None if table.clusters is None else table.clusters[table.calibration]


def _certify(options: Options, table: ScoreTable, scores: FloatArray) -> tuple[dict[float, Certificate], Summary]:
    """Certificates of one score on calibration rows, and what they and the score do on test rows."""
    import numpy as np

    from handrail.algorithms.certify import certify_targets
    from handrail.algorithms.selective import percent, summarize_method

    calibration, test = table.calibration, table.test
    certificates = certify_targets(
        scores[calibration], table.correct[calibration], options.target, options.delta, sessions=_sessions(table)
    )
    summary = summarize_method(
        scores[calibration],
        table.correct[calibration],
        scores[test],
        table.correct[test],
        targets=options.target,
        thresholds={f"certified.{percent(target)}": one.threshold for target, one in certificates.items()},
        grid=np.linspace(0.005, 1, CURVE_POINTS),
    )
    return certificates, summary


def _certify_groups(options: Options, table: ScoreTable) -> tuple[Mapping[str, Certificate], Summary | None]:
    """Certificates of the first score by group, and what they do on test rows."""
    import numpy as np

    from handrail.algorithms.certify import certify_groups
    from handrail.algorithms.selective import summarize_groups

    if table.groups is None:
        return {}, None
    scores, names = table.scores[0], np.asarray(table.group_names)
    found = certify_groups(
        scores[table.calibration],
        table.correct[table.calibration],
        names[table.groups[table.calibration]],
        options.group_target,
        options.delta,
        sessions=_sessions(table),
    )
    thresholds = {
        str(code): found[name].threshold if name in found else None for code, name in enumerate(table.group_names)
    }
    return found, summarize_groups(scores[table.test], table.correct[table.test], table.groups[table.test], thresholds)


def _result(
    options: Options,
    table: ScoreTable,
    place: int,
    prefix: str,
    certificates: dict[float, Certificate],
    drawn: Resampled,
    by_group: Mapping[str, Certificate],
    drawn_groups: Resampled,
) -> ScoreResult:
    import numpy as np

    from handrail.algorithms.selective import coverage_curve, f1, percent, put_interval, select_threshold

    scores, correct = table.scores[place], table.correct
    metrics: dict[str, float] = {}
    for name, interval in drawn.intervals().items():
        put_interval(metrics, _key(name), interval)
    for target, certificate in certificates.items():
        chosen = select_threshold(scores[table.calibration], correct[table.calibration], target)
        metrics[f"coverage_at_precision_{percent(target)}.threshold"] = float("nan") if chosen is None else chosen
        limit = certificate.threshold
        metrics[f"certified.{percent(target)}.threshold"] = float("nan") if limit is None else limit
        metrics[f"certified.{percent(target)}.delta"] = certificate.delta
    middle = select_threshold(scores[table.calibration], correct[table.calibration], 0.95)
    metrics["f1"] = f1(scores[table.test], correct[table.test], middle)
    groups: dict[str, GroupResult] = {}
    if table.groups is not None and place == 0:
        intervals = drawn_groups.intervals()
        rows = np.bincount(table.groups[table.test], minlength=len(table.group_names))
        groups = {
            name: GroupResult(
                int(rows[code]),
                by_group.get(name),
                intervals[f"{code}"],
                intervals[f"{code}.precision"],
                intervals[f"{code}.correct"],
            )
            for code, name in enumerate(table.group_names)
        }
    low, high = drawn.band()
    curve = coverage_curve(scores[table.test], correct[table.test])
    return ScoreResult(
        options.score[place], prefix, metrics, curve, drawn.summary.grid, low, high, certificates, groups
    )


def _key(name: str) -> str:
    """Metric key of a statistic: a certified threshold's coverage is `certified.95.coverage`."""
    return re.sub(r"^(certified\.\w+)$", r"\1.coverage", name)


def _details(analysis: Analysis) -> dict[str, Any]:
    """The parts of `curves.json` that are no flat metrics."""
    import numpy as np

    scores = {}
    for one in analysis.scores:
        at = np.minimum(np.searchsorted(one.curve.coverage, one.grid), len(one.curve.coverage) - 1)
        scores[one.name] = {
            "curve": {
                "coverage": one.curve.coverage[at].tolist(),
                "precision": one.curve.precision[at].tolist(),
                "threshold": one.curve.thresholds[at].tolist(),
                "band_coverage": one.grid.tolist(),
                "band_low": one.low.tolist(),
                "band_high": one.high.tolist(),
            },
            "certificates": {f"{target:g}": asdict(found) for target, found in one.certificates.items()},
            "groups": {
                name: {
                    "rows_test": group.rows,
                    "certificate": None if group.certificate is None else asdict(group.certificate),
                    "coverage": group.coverage._asdict(),
                    "precision": group.precision._asdict(),
                    "correct": group.correct._asdict(),
                }
                for name, group in one.groups.items()
            },
        }
    differences = {
        name: {_key(key): one._asdict() for key, one in found.items()} for name, found in analysis.differences.items()
    }
    possible = {f"{target:g}": asdict(one) for target, one in analysis.possible.items()}
    return {"possible": possible, "scores": scores, "differences": differences}


def _plain(value: Any) -> Any:
    """For JSON: what is undefined or infinite is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
