"""The page of `handrail curves`: what it found about anybody's scores, in plain words, in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.experiments import curves
from handrail.experiments.curves import Analysis, GroupResult, Options, ScoreResult
from handrail.experiments.score_table import ScoreTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from handrail.algorithms.bootstrap import Interval

MAX_BARS = 40

STATISTICS = (
    ("auroc", "AUROC", True, "chance that a right step scores above a wrong one; 0.5 is guessing"),
    ("auprc", "AUPRC", True, "average precision at finding the right steps"),
    ("aurc", "AURC", False, "error rate among the executed steps, averaged over all coverages"),
    ("eaurc", "E-AURC", False, "the same, above what a perfect ranking of these steps has"),
    ("augrc", "AUGRC", False, "share of all steps that run and are wrong, averaged over all coverages"),
    ("brier", "Brier score", False, "mean squared gap between probability and outcome"),
    ("ece", "ECE", False, "how far stated probabilities are from what happens, in fifteen bins of equal size"),
    ("risk_at_coverage_50", "error rate at 50 %", False, "share wrong among the most confident half"),
    ("risk_at_coverage_80", "error rate at 80 %", False, "share wrong among the most confident 80 %"),
    ("risk_at_coverage_90", "error rate at 90 %", False, "share wrong among the most confident 90 %"),
)
"""Key, name, whether more is better, and meaning."""


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: of its PNG file.
        heading: what it shows.
        caption: how to read it.
        figure: the drawing.
    """

    name: str
    heading: str
    caption: str
    figure: Figure


def figures(options: Options, table: ScoreTable, analysis: Analysis) -> list[Picture]:
    """Draw the curve, the scores, the reliability if the first score is a probability, and the groups if there are."""
    from handrail.algorithms.selective import are_probabilities, percent, reliability_bins
    from handrail.experiments.report import plots

    def point(result: ScoreResult, target: float) -> plots.CertifiedPoint | None:
        key = f"certified.{percent(target)}"
        precision = result.metrics[f"{key}.precision"]
        if math.isnan(precision):
            return None
        return plots.CertifiedPoint(target, result.metrics[f"{key}.coverage"], precision)

    lines = [
        plots.MethodCurve(
            one.name,
            one.curve,
            one.grid,
            one.low,
            one.high,
            [found for found in (point(one, target) for target in one.certificates) if found is not None],
        )
        for one in analysis.scores
    ]
    first = analysis.scores[0]
    scores, correct = table.scores[0][table.test], table.correct[table.test]
    found = [
        Picture(
            "coverage_precision",
            "How much can run alone, and how right it is then",
            "Going to the right, ever less confident test steps run alone. The band is where 95 % of resamples lie, "
            "coverage by coverage. A dot is a threshold certified on calibration rows, at the place it reached on test "
            "rows.",
            plots.coverage_precision(lines, targets=options.target),
        ),
        Picture(
            "scores",
            "Scores of right and of wrong steps",
            "The less the two shapes overlap, the better the score tells right from wrong. The dashed line is the "
            f"threshold certified for {_percent(options.group_target)} precision, if there is one.",
            plots.score_histogram(
                scores, correct, name=first.name, threshold=first.certificates[options.group_target].threshold
            ),
        ),
    ]
    if are_probabilities(scores):
        found.append(
            Picture(
                "reliability",
                "Is the score a probability?",
                "Of the steps that are said to be right with 80 %, are 80 % right? On the dashed line they are; below "
                "it the score promises too much.",
                plots.reliability(reliability_bins(scores, correct), name=first.name),
            )
        )
    if first.groups:
        rows = _ordered(first.groups)
        more = f" The first {MAX_BARS} of {len(rows)} groups." if len(rows) > MAX_BARS else ""
        found.append(
            Picture(
                "groups",
                f"How much can run alone, by {options.group}",
                f"Share of a group's test steps over the threshold certified for {_percent(options.group_target)} "
                f"precision, with 95 % intervals.{more}",
                plots.bars([_bar(name, group) for name, group in rows[:MAX_BARS]], label="share of test steps"),
            )
        )
    return found


def save(pictures: list[Picture], folder: Path) -> None:
    """Write each figure as PNG."""
    from handrail.experiments.report import plots

    for picture in pictures:
        plots.save_png(picture.figure, folder / f"{picture.name}.png")


def page(options: Options, table: ScoreTable, analysis: Analysis, pictures: list[Picture]) -> str:
    """Return the page as HTML that opens offline."""
    from jinja2 import Environment
    from markupsafe import Markup

    from handrail.experiments.report import plots

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, bounds=_bounds, sentence=_sentence)
    template = files("handrail.experiments.report").joinpath("score_curves.html.j2").read_text(encoding="utf-8")
    drawn = {
        one.name: {
            "heading": one.heading,
            "caption": one.caption,
            "svg": Markup(plots.svg(one.figure, description=f"{one.heading}. {one.caption}")),
        }
        for one in pictures
    }
    return environment.from_string(template).render(
        options=options,
        counts=table.counts,
        correct_share=analysis.metrics["correct_share"],
        notes=curves.notes(options, table),
        possible=[one.sentence for one in analysis.possible.values()],
        scores=[_score(one) for one in analysis.scores],
        groups=[_group(name, group) for name, group in _ordered(analysis.scores[0].groups)],
        statistics=_statistics(analysis),
        pictures=drawn,
    )


def _score(result: ScoreResult) -> dict[str, Any]:
    from handrail.algorithms.selective import percent

    rows = []
    for target, certificate in result.certificates.items():
        key = f"certified.{percent(target)}"
        rows.append(
            {
                "target": target,
                "certificate": certificate,
                "coverage": _interval(result.metrics, f"{key}.coverage"),
                "precision": _interval(result.metrics, f"{key}.precision"),
            }
        )
    return {"name": result.name, "rows": rows}


def _group(name: str, group: GroupResult) -> dict[str, Any]:
    certificate = group.certificate
    return {
        "name": name,
        "rows": group.rows,
        "certificate": certificate,
        "pooled": certificate is not None and certificate.scope != name,
        "coverage": group.coverage,
        "precision": group.precision,
        "correct": group.correct,
    }


def _statistics(analysis: Analysis) -> list[dict[str, Any]]:
    """A row for each statistic: its value for every score, and the differences from the first."""
    found = []
    for key, name, more_is_better, meaning in STATISTICS:
        values = [_interval(one.metrics, key) for one in analysis.scores]
        if all(math.isnan(value.estimate) for value in values):
            continue
        differences = [analysis.differences[one.name].get(key) for one in analysis.scores[1:]]
        found.append(
            {"name": name, "up": more_is_better, "meaning": meaning, "values": values, "differences": differences}
        )
    return found


def _interval(metrics: Mapping[str, float], key: str) -> Interval:
    from handrail.algorithms.bootstrap import Interval

    missing = float("nan")
    bounds = (metrics.get(f"{key}.{end}", missing) for end in ("ci_low", "ci_high"))
    return Interval(metrics.get(key, missing), *bounds)


def _ordered(groups: Mapping[str, GroupResult]) -> list[tuple[str, GroupResult]]:
    """Groups by coverage, the largest first; those without test rows last."""
    return sorted(
        groups.items(),
        key=lambda item: (math.isnan(item[1].coverage.estimate), -item[1].coverage.estimate, -item[1].rows, item[0]),
    )


def _bar(name: str, group: GroupResult) -> Any:
    from handrail.experiments.report import plots

    certificate, note = group.certificate, f"of {group.rows:,}"
    if certificate is None or certificate.threshold is None:
        return plots.Bar(name, group.coverage.estimate, note=f"{note}, not certified")
    pooled = ", pooled" if certificate.scope != name else ""
    return plots.Bar(name, *group.coverage, note=f"{note}{pooled}")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}".removesuffix(".0") + " %"


def _bounds(interval: Interval | tuple[float, ...], scale: float = 100.0) -> str:
    low, high = interval[1], interval[2]
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if scale == 100 else f"{low:.4f} to {high:.4f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
