"""`handrail curves`: coverage–precision curves, certificates and plots for a table of anybody's scores."""

from __future__ import annotations

import hashlib
import html
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.envs.errors import HandrailError, nearest
from handrail.envs.files import write_json, write_text
from handrail.experiments.options import option, parse_options
from handrail.experiments.rundir import RunDirectory, new_run_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow

    FloatArray = npt.NDArray[np.float64]
    BoolArray = npt.NDArray[np.bool_]
    IntArray = npt.NDArray[np.int64]

DESCRIPTION = (
    "Reads a table with a confidence score and an outcome a row (CSV or Parquet) and tells how much could run alone at "
    "which precision. Thresholds are chosen on calibration rows and reported on test rows: name a column with split=, "
    "or half of the clusters are taken for calibration, by a hash of cluster id and seed."
)

TRUE = ("1", "1.0", "true", "yes")
FALSE = ("0", "0.0", "false", "no")
CALIBRATION = ("calibration", "cal", "validation", "valid", "val", "dev")
CURVE_POINTS = 200


@dataclass(frozen=True)
class Options:
    """Options of `handrail curves`."""

    scores: Path = option(help="CSV file with a header, or Parquet file")
    score: str = option(help="column with the confidence, higher is more confident; empty or NaN is never executed")
    correct: str = option(help="column that says whether the step was right: 0/1, true/false, yes/no")
    group: str | None = option(None, help="column with the kind of case: one certificate and one bar a group")
    cluster: str | None = option(None, help="column with the session; sessions are split and resampled whole")
    split: str | None = option(
        None, help="column that says calibration or test; rows that say another word are left out"
    )
    delta: float = option(0.05, help="chance that a certificate may be wrong, in (0, 1)")
    target: tuple[float, ...] = option((0.90, 0.95, 0.98, 0.99), help="precisions to reach, each in (0, 1)")
    resamples: int | None = option(
        None, help="bootstrap resamples; by default 1000, fewer over 50,000 rows (at least 200)"
    )
    seed: int = option(0, help="of the split and the bootstrap")
    out: Path | None = option(None, help="folder to write to; by default outputs/curves/<date>_<time>")


@dataclass(frozen=True)
class Scores:
    """The named columns of a table, as arrays of one length.

    Attributes:
        scores: (n,) −inf where the table has none.
        correct: (n,).
        groups: (n,) codes into `group_names`, or None.
        group_names: names of the groups.
        clusters: (n,) codes, or None.
        calibration: (n,) rows to choose thresholds on.
        test: (n,) rows to report on.
        counts: rows read, without a score, left out and so on, for the report.
    """

    scores: FloatArray
    correct: BoolArray
    groups: IntArray | None
    group_names: list[str]
    clusters: IntArray | None
    calibration: BoolArray
    test: BoolArray
    counts: dict[str, int]


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: arguments after `curves`.

    Returns:
        Exit status: 0 when the report is written, also if nothing could be certified.

    Raises:
        HandrailError: an option, the file or a column is wrong.
    """
    options = parse_options(argv, Options, prog="handrail curves", description=DESCRIPTION)
    for name, values in (("delta", (options.delta,)), ("target", options.target)):
        for value in values:
            if not 0 < value < 1:
                raise HandrailError(f"handrail curves: {name}={value:g}; expected a number between 0 and 1, e.g. 0.05")
    if not options.target:
        raise HandrailError("handrail curves: target= is empty; expected precisions such as target=0.9,0.95")
    if options.resamples is not None and options.resamples < 1:
        raise HandrailError(f"handrail curves: resamples={options.resamples}; expected at least 1")
    started = time.perf_counter()
    data = read_scores(options)
    for note in _notes(options, data):
        print(note, file=sys.stderr)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    run = RunDirectory.create(
        options.out or new_run_path("curves"), {"command": "curves", **settings}, list(argv), unique=options.out is None
    )
    result = analyse(options, data)
    run.write_metrics(result["metrics"])
    write_json(run.file("curves.json"), {key: result[key] for key in ("counts", "curve", "certificates", "groups")})
    _write_report(options, data, result, run.path)
    for certificate in result["certificates"].values():
        print(_sentence(certificate), file=sys.stderr)
    print(f"{time.perf_counter() - started:.1f} s, report: {run.file('report.html')}", file=sys.stderr)
    run.note_finish()
    print(f"run directory: {run.path}")
    return 0


def read_scores(options: Options) -> Scores:
    """Read the named columns and nothing else, batch by batch.

    Raises:
        HandrailError: the file cannot be read, a column is missing, a score is no number, an outcome is neither right
            nor wrong, or calibration or test rows are missing.
    """
    import numpy as np

    names = [options.score, options.correct, options.group, options.cluster, options.split]
    wanted = list(dict.fromkeys(name for name in names if name is not None))
    columns: dict[str, list[pyarrow.Array]] = {name: [] for name in wanted}
    for batch in _batches(options.scores, wanted, options.score):
        for name in wanted:
            column = batch.column(name)
            is_text = name in (options.group, options.cluster, options.split)
            columns[name].append(_dictionary(column) if is_text and name != options.score else column)
    scores = np.concatenate([_score_values(chunk, options) for chunk in columns[options.score]] or [np.zeros(0)])
    outcomes = [_outcome_values(chunk, options) for chunk in columns[options.correct]]
    correct = np.concatenate(outcomes or [np.zeros(0, dtype=np.bool_)])
    if len(scores) == 0:
        raise HandrailError(f"{options.scores} has no rows below its header; expected one row a step")
    missing = np.isnan(scores)
    scores[missing] = -np.inf
    groups, group_names = _codes(columns, options.group)
    clusters, cluster_names = _codes(columns, options.cluster)
    words, word_names = _codes(columns, options.split)
    if words is not None:
        lowered = np.array([word.lower() for word in word_names])
        calibration, test = np.isin(lowered, CALIBRATION)[words], (lowered == "test")[words]
        found = f"column {options.split!r} says {', '.join(map(repr, word_names[:6]))}"
    else:
        calibration = _half(clusters, cluster_names, len(scores), options.seed)
        test = ~calibration
        found = f"there are {len(scores)} rows" + (f" in {len(cluster_names)} clusters" if options.cluster else "")
    if not calibration.any() or not test.any():
        raise HandrailError(
            f"{options.scores}: {int(calibration.sum())} calibration and {int(test.sum())} test rows, where {found}; "
            "thresholds are chosen on one part and reported on the other, so both need rows: name a column whose "
            "values are calibration and test by split=…"
        )
    counts = {
        "rows": len(scores),
        "rows_without_score": int(missing.sum()),
        "rows_calibration": int(calibration.sum()),
        "rows_test": int(test.sum()),
        "rows_left_out": int((~calibration & ~test).sum()),
    }
    if clusters is not None:
        counts["clusters"] = len(cluster_names)
    return Scores(scores, correct, groups, group_names, clusters, calibration, test, counts)


def analyse(options: Options, data: Scores) -> dict[str, Any]:
    """Compute what the report shows.

    Returns:
        `metrics` (flat, as in a study's metrics.json, without a method's prefix), `counts`, `curve` (at most
        `CURVE_POINTS` points on test with a band), `certificates` by target, `groups` by group (at the target nearest
        to 95 %).
    """
    import numpy as np

    from handrail.algorithms.certify import certified_metrics, certify_groups, certify_targets
    from handrail.algorithms.selective import coverage_curve, precision_band, selective_metrics, threshold_intervals

    rng = np.random.default_rng(options.seed)
    size = len(data.scores)
    resamples = options.resamples or max(200, min(1000, int(5e7 / size)))
    scores, correct = data.scores[data.test], data.correct[data.test]
    scores_calibration, correct_calibration = data.scores[data.calibration], data.correct[data.calibration]
    clusters = data.clusters[data.test] if data.clusters is not None else None
    metrics: dict[str, float] = dict(data.counts)
    metrics["resamples"] = resamples
    metrics["correct_share"] = float(correct.mean())
    metrics |= selective_metrics(
        "",
        scores_calibration,
        correct_calibration,
        scores,
        correct,
        clusters,
        rng,
        targets=options.target,
        resamples=resamples,
    )
    certificates = certify_targets(scores_calibration, correct_calibration, options.target, options.delta)
    metrics |= certified_metrics("", certificates, scores, correct, clusters, rng, resamples=resamples)
    curve = coverage_curve(scores, correct)
    grid = np.linspace(0.005, 1, CURVE_POINTS)
    low, high = precision_band(scores, correct, clusters, grid, rng, resamples=min(resamples, 500))
    at = np.minimum(np.searchsorted(curve.coverage, grid), len(curve.coverage) - 1)
    points = {
        "coverage": curve.coverage[at],
        "precision": curve.precision[at],
        "threshold": np.where(np.isfinite(curve.thresholds[at]), curve.thresholds[at], np.nan),
        "band_coverage": grid,
        "band_low": low,
        "band_high": high,
    }
    groups: dict[str, Any] = {}
    if data.groups is not None:
        target = min(options.target, key=lambda value: abs(value - 0.95))
        names = np.asarray(data.group_names)
        codes_test = data.groups[data.test]
        own = certify_groups(
            scores_calibration, correct_calibration, names[data.groups[data.calibration]], target, options.delta
        )
        for code, name in enumerate(data.group_names):
            chosen = codes_test == code
            if not chosen.any():
                continue
            certificate = own.get(name)
            threshold = certificate.threshold if certificate is not None else None
            coverage, precision = threshold_intervals(
                scores[chosen],
                correct[chosen],
                clusters[chosen] if clusters is not None else None,
                threshold,
                rng,
                resamples=resamples,
            )
            groups[name] = {
                "rows_test": int(chosen.sum()),
                "certificate": _plain(asdict(certificate)) if certificate is not None else None,
                "coverage": _plain(coverage._asdict()),
                "precision": _plain(precision._asdict()),
            }
    return {
        "metrics": metrics,
        "counts": data.counts,
        "curve": {key: [_number(value) for value in values] for key, values in points.items()},
        "certificates": {f"{target:g}": _plain(asdict(one)) for target, one in certificates.items()},
        "groups": groups,
    }


def _batches(path: Path, wanted: Sequence[str], score: str) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise HandrailError(f"scores={path}: no such file; expected a CSV or Parquet file")
    with path.open("rb") as start:
        is_parquet = start.read(4) == b"PAR1"
    try:
        if is_parquet:
            file = pa.parquet.ParquetFile(path)
            _check_columns(path, wanted, file.schema_arrow.names)
            yield from file.iter_batches(batch_size=1 << 16, columns=list(wanted))
            return
        with pa.csv.open_csv(path) as header:
            _check_columns(path, wanted, header.schema.names)
        # Text as text: a column of ids or outcomes must not change its type half way down the file.
        types = {name: pa.float64() if name == score else pa.string() for name in wanted}
        convert = pa.csv.ConvertOptions(
            include_columns=list(wanted),
            column_types=types,
            null_values=["", "NaN", "nan", "NA", "null", "None"],
            strings_can_be_null=True,
        )
        with pa.csv.open_csv(path, convert_options=convert) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        raise HandrailError(
            f"{path} cannot be read: {error}; expected a Parquet file, or a CSV file with a header and numbers in "
            f"column {score!r}"
        ) from error


def _check_columns(path: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            raise HandrailError(f"{path} has no column {name!r}{nearest(name, known)}")


def _dictionary(column: pyarrow.Array) -> pyarrow.Array:
    import pyarrow as pa

    plain = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
    return plain.cast(pa.string()).dictionary_encode()


def _score_values(column: pyarrow.Array, options: Options) -> FloatArray:
    import numpy as np
    import pyarrow as pa

    try:
        values: FloatArray = np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise HandrailError(
            f"{options.scores}: column {options.score!r} holds {column.type}, not numbers ({error}); expected a score"
        ) from error
    return values


def _outcome_values(column: pyarrow.Array, options: Options) -> BoolArray:
    import numpy as np
    import pyarrow as pa

    encoded = _dictionary(column) if not isinstance(column, pa.DictionaryArray) else column
    right = []
    for value in encoded.dictionary.to_pylist():
        word = str(value).strip().lower()
        if word not in TRUE and word not in FALSE:
            raise HandrailError(
                f"{options.scores}: column {options.correct!r} holds {value!r}; expected 0 or 1, true or false, "
                "yes or no"
            )
        right.append(word in TRUE)
    if encoded.null_count:
        raise HandrailError(
            f"{options.scores}: {encoded.null_count} rows of column {options.correct!r} are empty; expected 0 or 1, "
            "true or false: leave rows without an outcome out of the file"
        )
    values: BoolArray = np.array(right, dtype=np.bool_)[encoded.indices.to_numpy(zero_copy_only=False)]
    return values


def _codes(columns: dict[str, list[pyarrow.Array]], name: str | None) -> tuple[IntArray | None, list[str]]:
    """Codes (n,) of a text column into its sorted distinct values; empty cells are a value of their own."""
    if name is None:
        return None, []
    import numpy as np
    import pyarrow as pa

    chunks = [chunk if isinstance(chunk, pa.DictionaryArray) else _dictionary(chunk) for chunk in columns[name]]
    whole = pa.chunked_array(chunks).unify_dictionaries().combine_chunks()
    names = [str(value) for value in whole.dictionary.to_pylist()]
    indices = whole.indices.fill_null(len(names)).to_numpy(zero_copy_only=False).astype(np.int64)
    if whole.null_count:
        names.append("(empty)")
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return rank[indices], [names[i] for i in order]


def _half(clusters: IntArray | None, names: Sequence[str], rows: int, seed: int) -> BoolArray:
    """Half of the clusters (or rows), by a hash that does not change when other clusters come or go."""
    import numpy as np

    if clusters is None:
        # A stream of its own: rows simulated with default_rng(seed) would otherwise be split by their own draws.
        chosen: BoolArray = np.random.default_rng([seed, 0x5B117]).random(rows) < 0.5
        return chosen
    coins = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=1).digest()[0] < 128 for name in names]
    picked: BoolArray = np.array(coins, dtype=np.bool_)[clusters]
    return picked


def _notes(options: Options, data: Scores) -> list[str]:
    counts = data.counts
    notes = [
        f"{counts['rows']:,} rows: {counts['rows_calibration']:,} for calibration, {counts['rows_test']:,} for test, "
        f"{counts['rows_left_out']:,} left out"
    ]
    if options.split is None:
        what = f"half of the clusters ({options.cluster})" if options.cluster else "half of the rows"
        notes.append(f"no split= given: {what} taken for calibration, seed {options.seed}")
    if options.cluster is None:
        notes.append("no cluster= given: rows count as independent; if steps share a session, intervals are too narrow")
    if counts["rows_without_score"]:
        notes.append(f"{counts['rows_without_score']:,} rows have no score: they count as steps that never run alone")
    return notes


def _sentence(certificate: dict[str, Any]) -> str:
    return f"{100 * certificate['target']:.4g} % precision, delta {certificate['delta']:g}: {certificate['reason']}"


def _write_report(options: Options, data: Scores, result: dict[str, Any], folder: Path) -> None:
    import numpy as np

    from handrail.algorithms.selective import are_probabilities, coverage_curve, percent, reliability_bins
    from handrail.experiments.report import plots

    metrics = result["metrics"]
    scores, correct = data.scores[data.test], data.correct[data.test]
    points = [
        plots.CertifiedPoint(
            one["target"],
            metrics[f"certified.{percent(one['target'])}.coverage"],
            metrics[f"certified.{percent(one['target'])}.precision"],
        )
        for one in result["certificates"].values()
        if f"certified.{percent(one['target'])}.precision" in metrics
    ]
    band = {
        key: np.array([np.nan if value is None else value for value in result["curve"][key]])
        for key in ("band_coverage", "band_low", "band_high")
    }
    figures = {
        "coverage_precision": (
            plots.coverage_precision(
                [
                    plots.MethodCurve(
                        options.score,
                        coverage_curve(scores, correct),
                        band["band_coverage"],
                        band["band_low"],
                        band["band_high"],
                        points,
                    )
                ],
                title="How much can run alone, and how right it is then",
                targets=options.target,
            ),
            "Precision against coverage on test rows with a bootstrap band and the certified thresholds.",
        ),
        "scores": (
            plots.score_histogram(scores, correct, title="Scores of right and of wrong steps", name=options.score),
            "Histogram of scores, right and wrong steps apart.",
        ),
    }
    if are_probabilities(scores):
        figures["reliability"] = (
            plots.reliability(
                reliability_bins(scores, correct), title="Is the score a probability?", name=options.score
            ),
            "Share correct against mean score in fifteen bins.",
        )
    if result["groups"]:
        target = min(options.target, key=lambda value: abs(value - 0.95))
        rows = sorted(result["groups"].items(), key=lambda item: (-item[1]["coverage"]["estimate"], item[0]))
        figures["groups"] = (
            plots.bars(
                [_bar(name, row) for name, row in rows[:40]],
                title=f"Automation by {options.group}" + (f", the first 40 of {len(rows)}" if len(rows) > 40 else ""),
                label=f"share of test steps over the threshold certified for {100 * target:.4g} % precision",
            ),
            "Coverage on test rows at the certified threshold, a bar a group.",
        )
    for name, (figure, _) in figures.items():
        plots.save_png(figure, folder / f"{name}.png")
    body = [
        f"<h1>{html.escape(options.score)}</h1>",
        f"<p>{html.escape(options.scores.name)}. "
        + " ".join(f"{html.escape(note)}." for note in _notes(options, data))
        + "</p>",
        _table(options, result),
    ]
    body += [f"<figure>{plots.svg(figure, description=text)}</figure>" for figure, text in figures.values()]
    write_text(
        folder / "report.html",
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>handrail curves</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:900px;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:right;"
        "padding:.35rem .6rem;border-bottom:1px solid #e4e4e4}th:last-child,td:last-child{text-align:left}"
        "figure{margin:2rem 0}</style></head><body>" + "\n".join(body) + "</body></html>\n",
    )


def _bar(name: str, row: dict[str, Any]) -> Any:
    from handrail.experiments.report import plots

    certificate = row["certificate"]
    note = f"of {row['rows_test']:,}"
    if certificate is None or certificate["threshold"] is None:
        note += ", not certified"
        return plots.Bar(name, row["coverage"]["estimate"], note=note)
    low, high = (float("nan") if row["coverage"][key] is None else row["coverage"][key] for key in ("low", "high"))
    return plots.Bar(
        name, row["coverage"]["estimate"], low, high, note + (", pooled" if certificate["scope"] != name else "")
    )


def _table(options: Options, result: dict[str, Any]) -> str:
    from handrail.algorithms.selective import percent

    metrics = result["metrics"]

    def cell(key: str) -> str:
        if key not in metrics:
            return "–"
        text = f"{metrics[key]:.1%}"
        if f"{key}.ci_low" in metrics:
            text += f" <small>({metrics[key + '.ci_low']:.1%} to {metrics[key + '.ci_high']:.1%})</small>"
        return text

    rows = []
    for one in result["certificates"].values():
        key = f"certified.{percent(one['target'])}"
        cells = (f"{100 * one['target']:.4g}%", cell(f"{key}.coverage"), cell(f"{key}.precision"))
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in (*cells, html.escape(one["reason"]))) + "</tr>")
    ranks = ", ".join(
        f"{name.upper()} {metrics[name]:.4f}" for name in ("auroc", "auprc", "aurc", "augrc") if name in metrics
    )
    return (
        f"<p>{ranks}. Intervals: 95 %, {metrics['resamples']} resamples.</p><table><tr><th>target precision</th>"
        "<th>coverage on test</th><th>precision on test</th>"
        f"<th>certificate (delta {options.delta:g})</th></tr>{''.join(rows)}</table>"
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _number(value) if isinstance(value, float) else value for key, value in values.items()}


def _number(value: Any) -> float | None:
    """A float for JSON, where what is undefined is null."""
    number = float(value)
    return number if abs(number) < float("inf") else None
