"""The page and the figure of `handrail compare`."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import TYPE_CHECKING

from handrail.experiments.compare import Comparison, summary, written
from handrail.experiments.report.plots import INK, PALETTE, styled, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
_WIDTH, _ROW, _HEAD = 9.6, 0.34, 0.9
_NAME = 34
_TITLE = 30


@styled
def figure(found: Comparison) -> Figure:
    """Draw a panel for each metric: a line for each configuration with its mean, its interval and its seeds."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(found.metrics))
    lines = math.ceil(len(found.metrics) / columns)
    drawn = Figure(figsize=(_WIDTH, lines * (_HEAD + _ROW * len(found.rows))), layout="constrained")
    panels = drawn.subplots(lines, columns, squeeze=False)
    names = [row.name if len(row.name) <= _NAME else row.name[: _NAME - 1] + "…" for row in found.rows]
    for number, axes in enumerate(panels.flat):
        if number >= len(found.metrics):
            axes.set_axis_off()
            continue
        metric = found.metrics[number]
        for place, row in enumerate(found.rows):
            cell = row.cells.get(metric)
            if cell is None:
                continue
            colour = PALETTE[place % len(PALETTE)]
            axes.plot(cell.values, [place] * len(cell.values), "|", color=colour, markersize=9, alpha=0.6)
            if not math.isnan(cell.low):
                axes.plot([cell.low, cell.high], [place, place], color=colour)
            axes.plot(cell.mean, place, "o", color=colour, markeredgecolor="white", zorder=4)
        axes.set_title(_title(metric), color=INK, fontsize=9.5)
        axes.set_ylim(len(found.rows) - 0.5, -0.5)
        axes.set_yticks(range(len(found.rows)), names if number % columns == 0 else [""] * len(names))
    return drawn


def _title(metric: str) -> str:
    """Return the metric's key, in two lines if it is long."""
    head, dot, tail = metric.rpartition(".")
    return f"{head}{dot}\n{tail}" if len(metric) > _TITLE and dot else metric


def page(found: Comparison, drawing: Figure) -> str:
    """Return the page as HTML that opens offline."""
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = files("handrail.experiments.report").joinpath("comparison.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        summary=summary(found),
        keys=list(found.rows[0].settings),
        metrics=found.metrics,
        rows=[
            {
                "settings": list(row.settings.values()),
                "seeds": ", ".join(map(str, row.seeds)),
                "cells": [written(row.cells.get(name), len(row.seeds)) for name in found.metrics],
            }
            for row in found.rows
        ],
        implied=found.implied,
        left_out=found.left_out,
        drawing=Markup(svg(drawing, description=f"Metrics by configuration. {summary(found)}")),
    )
