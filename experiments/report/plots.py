"""Plots of a report: each function returns a matplotlib Figure, `svg` turns it into text for a page, `save_png` a file.

One style for all: a palette that colour-blind readers can tell apart (Okabe & Ito 2008), names written at the lines
instead of in a legend where there is room, light grid, no frame. The same data give the same SVG, byte by byte.
matplotlib is imported when the first figure is drawn; figures never open a window.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from handrail.algorithms.selective import Curve, Reliability
from handrail.envs.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C6D1F")
INK = "#222222"
MUTED = "#6E6E6E"
GRID = "#E4E4E4"

_STYLE: Any = {
    "text.parse_math": False,
    "svg.hashsalt": "handrail",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9A9A9A",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_MAX_POINTS = 1500


@dataclass(frozen=True)
class CertifiedPoint:
    """A certified threshold on a coverage–precision plot: target, and coverage and precision it reached on test."""

    target: float
    coverage: float
    precision: float


@dataclass(frozen=True)
class MethodCurve:
    """One method on a coverage–precision plot.

    Attributes:
        name: what to call it.
        curve: its curve on test steps.
        grid: (g,) coverages of the band; empty for no band.
        low: (g,) lower edge, from `selective.precision_band`.
        high: (g,) upper edge.
        certified: its certified points.
    """

    name: str
    curve: Curve
    grid: FloatArray = field(default_factory=lambda: np.zeros(0))
    low: FloatArray = field(default_factory=lambda: np.zeros(0))
    high: FloatArray = field(default_factory=lambda: np.zeros(0))
    certified: Sequence[CertifiedPoint] = ()


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: a value with an interval (NaN for none) and a note at its right end."""

    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    note: str = ""
    group: int = 0


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under the common style: matplotlib reads most settings when a thing is drawn, not saved."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return function(*args, **kwargs)

    return wrapper


@styled
def coverage_precision(
    methods: Sequence[MethodCurve],
    *,
    title: str = "",
    targets: Sequence[float] = (),
    min_coverage: float = 0.02,
) -> Figure:
    """Precision against coverage, a line per method, with bands and certified points (targets written at the first's).

    Args:
        methods: at most eight, the most important first.
        title: heading; empty for none.
        targets: precisions to mark by a dashed line.
        min_coverage: coverage below which a curve is not drawn: a handful of steps is noise.
    """
    figure, axes = _figure(8.6, 4.8)
    lowest = 1.0
    ends: list[tuple[float, str, str]] = []
    labelled = next((number for number, method in enumerate(methods) if method.certified), -1)
    for number, method in enumerate(methods):
        colour = PALETTE[number % len(PALETTE)]
        coverage, precision = _thin(method.curve.coverage, method.curve.precision, min_coverage)
        if len(coverage) == 0:
            continue
        inside = method.grid >= min_coverage
        axes.fill_between(
            method.grid[inside], method.low[inside], method.high[inside], color=colour, alpha=0.13, linewidth=0
        )
        axes.plot(coverage, precision, color=colour, solid_capstyle="round", zorder=3)
        for point in method.certified:
            axes.plot(
                point.coverage,
                point.precision,
                "o",
                color=colour,
                markeredgecolor="white",
                markeredgewidth=1.3,
                markersize=9,
                zorder=5,
            )
            if number == labelled:
                # To the upper right the plane is free of other curves, except where the title begins.
                high = point.precision > 0.995
                axes.annotate(
                    f"{100 * point.target:.4g}",
                    (point.coverage, point.precision),
                    xytext=(-5, -13) if high else (7, 5),
                    ha="right" if high else "left",
                    textcoords="offset points",
                    color=colour,
                    fontsize=9,
                    fontweight="bold",
                    zorder=6,
                )
        ends.append((float(precision[-1]), method.name, colour))
        lowest = min(lowest, float(precision.min()))
    bottom = max(0.0, np.floor((lowest - 0.02) * 20) / 20)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom, 1.0 + (1.0 - bottom) * 0.02)
    # A target line is written at the left edge; the finest ones may lie closer together than the text is high.
    written = 2.0
    for target in sorted(targets, reverse=True):
        axes.axhline(target, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        if written - target > 0.045 * (1.02 - bottom):
            axes.text(
                0.006,
                target,
                f"{target:.0%}",
                va="center",
                ha="left",
                fontsize=9,
                color=MUTED,
                zorder=6,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )
            written = target
    _write_ends(axes, ends)
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    axes.set_xlabel("coverage: share of steps executed without the operator")
    axes.set_ylabel("precision: share of those that are right")
    if title:
        axes.set_title(title)
    if any(method.certified for method in methods):
        _note(figure, "● threshold certified on calibration sessions, drawn where it landed on test sessions")
    return figure


@styled
def reliability(bins: Reliability, *, title: str = "", name: str = "score") -> Figure:
    """Reliability diagram: share correct against mean score per bin, with the share of steps below it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    filled = bins.steps > 0
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.text(0.985, 0.02, "dashed: perfectly calibrated", color=MUTED, fontsize=9, ha="right", va="bottom")
    axes.vlines(
        bins.mean_score[filled], bins.mean_score[filled], bins.precision[filled], color=PALETTE[1], alpha=0.5, lw=2.2
    )
    axes.plot(bins.mean_score[filled], bins.precision[filled], "o-", color=PALETTE[0], markersize=5, linewidth=1.4)
    axes.set_ylabel("share correct")
    axes.set_xlim(-0.015, 1.015)
    axes.set_ylim(-0.015, 1.025)
    edges = np.linspace(0, 1, len(bins.steps) + 1)
    share = bins.steps / max(float(bins.steps.sum()), 1.0)
    below.bar(edges[:-1], share, width=np.diff(edges) * 0.92, align="edge", color=PALETTE[0], alpha=0.55)
    below.set_ylabel("steps")
    below.set_xlabel(f"{name} (mean of the bin)")
    _percent_axis(below.yaxis)
    _percent_axis(axes.yaxis)
    if title:
        axes.set_title(title)
    return figure


@styled
def bars(rows: Sequence[Bar], *, title: str = "", label: str = "", maximum: float | None = 1.0) -> Figure:
    """Horizontal bars with intervals, one a row, first row on top.

    Args:
        rows: what to show; `Bar.group` chooses the colour.
        title: heading; empty for none.
        label: name of the horizontal axis.
        maximum: right end of the axis; None for whatever the values need.
    """
    figure, axes = _figure(8.6, 1.05 + 0.34 * max(len(rows), 1) + (0.3 if title else 0.0))
    places = np.arange(len(rows))
    for place, row in zip(places, rows, strict=True):
        colour = PALETTE[row.group % len(PALETTE)]
        axes.barh(place, 0 if np.isnan(row.value) else row.value, height=0.62, color=colour, alpha=0.8)
        if not np.isnan(row.low) and not np.isnan(row.high):
            axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.3, solid_capstyle="butt")
            for bound in (row.low, row.high):
                axes.plot([bound, bound], [place - 0.13, place + 0.13], color=INK, linewidth=1.3)
    tops = [value for row in rows for value in (row.value, row.high) if not np.isnan(value)]
    right = maximum if maximum is not None else 1.08 * max([*tops, 1e-9])
    axes.set_xlim(0, right)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(places, [_shorten(row.name, 34) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for place, row in zip(places, rows, strict=True):
        value = "–" if np.isnan(row.value) else f"{row.value:.1%}"
        axes.annotate(
            f"{value}  {row.note}".rstrip(),
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            annotation_clip=False,
        )
    _percent_axis(axes.xaxis)
    axes.set_xlabel(label)
    if title:
        axes.set_title(title)
    return figure


@styled
def score_histogram(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    title: str = "",
    name: str = "score",
    threshold: float | None = None,
    bins: int = 40,
) -> Figure:
    """How scores of right and of wrong steps spread, each as shares of its own; infinite scores are left out.

    Args:
        scores: (n,).
        correct: (n,).
        title: heading; empty for none.
        name: what the score is called.
        threshold: score to mark.
        bins: number of equal-width bins over the middle 99.8 % of the finite scores; the outermost take the rest.
    """
    values, outcome = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(correct).astype(bool).reshape(-1)
    finite = np.isfinite(values)
    values, outcome = values[finite], outcome[finite]
    figure, axes = _figure(8.6, 3.6)
    low, high = np.quantile(values, [0.001, 0.999]) if len(values) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    for chosen, word, colour in ((outcome, "right", PALETTE[0]), (~outcome, "wrong", PALETTE[1])):
        count = int(chosen.sum())
        heights, _ = np.histogram(np.clip(values[chosen], low, high), edges)
        axes.stairs(heights / max(count, 1), edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(heights / max(count, 1), edges, color=colour, linewidth=1.5, label=f"{word} ({count:,} steps)")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=f"threshold {threshold:.3g}")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=9.5, borderaxespad=0.2)
    _percent_axis(axes.yaxis)
    axes.set_xlabel(name)
    axes.set_ylabel("share of such steps")
    if title:
        axes.set_title(title, pad=24)
    return figure


@styled
def svg(figure: Figure, *, description: str = "") -> str:
    """Return the figure as one `<svg>` element that scales to the width of the page and can be read aloud.

    Args:
        figure: what one of the functions here returned.
        description: what the plot says, for screen readers.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    head, rest = text.split(">", 1)
    width = re.search(r'width="([\d.]+)pt"', head)
    head = re.sub(r'\s(width|height)="[\d.]+pt"', "", head)
    limit = f"{float(width.group(1)) * 4 / 3:.0f}px" if width else "100%"
    escaped = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'{head} role="img" aria-label="{escaped}" style="width:100%;max-width:{limit};height:auto">{rest}'


@styled
def save_png(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write the figure to `path` as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _thin(coverage: FloatArray, precision: FloatArray, min_coverage: float) -> tuple[FloatArray, FloatArray]:
    """At most `_MAX_POINTS` points of a curve from `min_coverage` on, always with the last."""
    start = int(np.searchsorted(coverage, min_coverage))
    x, y = coverage[start:], precision[start:]
    if len(x) > _MAX_POINTS:
        kept = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], _MAX_POINTS)).clip(0, len(x) - 1))
        x, y = x[kept], y[kept]
    return x, y


def _write_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names to the right of the axes at the heights given, moved apart where they would touch."""
    bottom, top = axes.get_ylim()
    gap = 0.052 * (top - bottom)
    order = sorted(range(len(ends)), key=lambda i: (-ends[i][0], i))
    heights = [ends[i][0] for i in order]
    for i in range(1, len(heights)):
        heights[i] = min(heights[i], heights[i - 1] - gap)
    # What was pushed below the axes goes back up, and pushes what is above it.
    for i in range(len(heights) - 1, -1, -1):
        floor = bottom + 0.5 * gap if i == len(heights) - 1 else heights[i + 1] + gap
        heights[i] = max(heights[i], floor)
    for i, height in zip(order, heights, strict=True):
        _, name, colour = ends[i]
        axes.annotate(
            _shorten(name, 26),
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=10,
            fontweight="bold",
            annotation_clip=False,
        )


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.99, ha="right", fontsize=9, color=MUTED)


def _percent_axis(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
