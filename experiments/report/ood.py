"""The report's part on scores of strangeness (`studies.ood`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.experiments.report import plots
from handrail.experiments.report.parts import part

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

RESULT = "ood.json"
ANCHOR = "ood"
TITLE = "Has the desk changed?"

SCORES = {
    "relative_mahalanobis": "relative Mahalanobis",
    "knn": "nearest neighbours",
    "energy": "energy",
    "perplexity_ratio": "perplexity ratio",
}
SHIFTS = {
    "renamed": "names changed",
    "reordered": "order changed",
    "mandatory_field": "forms ask for more",
    "changed_rule": "rules changed",
    "unseen_issue": "unseen issues",
    "language": "another language",
}


def section(folder: Path, picture: Callable[..., Any]) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.
        picture: makes a figure part of the page: figure, anchor, description, and by name `caption` and `heading`.

    Raises:
        HandrailError: its file is damaged.
    """
    return part(folder, RESULT, "ood.html.j2", lambda told: _content(told, picture))


def _content(told: Mapping[str, Any], picture: Callable[..., Any]) -> dict[str, Any]:
    drawn = picture(
        draw(told),
        ANCHOR,
        "A map for each score: shifts by severity, with the AUROC of sessions.",
        caption="AUROC of sessions: the chance that one after the shift is stranger than one before, by the mean of "
        "its steps; one half is chance. Columns: severity.",
        heading="Which score notices what",
    )
    worlds = []
    for world, words in (("simulator", "The simulator"), ("star", "STAR")):
        if world in told:
            result = told[world]
            worlds.append(
                {
                    "title": words,
                    "learned": f"{result['learned']:,}",
                    "judged": f"{result['judged']:,}",
                    "rows": [_row(row, told["scores"]) for row in result["rows"]],
                }
            )
    return {"picture": drawn, "scores": [SCORES.get(name, name) for name in told["scores"]], "worlds": worlds}


def _row(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    best = max(row["session_auroc"][name][0] for name in names)
    return {
        "shift": SHIFTS.get(row["shift"], str(row["shift"]).replace("_", " ")),
        "severity": f"{row['severity']:g}",
        "cells": [
            {
                "steps": _interval(row["auroc"][name]),
                "sessions": _interval(row["session_auroc"][name]),
                "best": row["session_auroc"][name][0] == best,
            }
            for name in names
        ],
    }


@plots.styled
def draw(told: Mapping[str, Any]) -> Figure:
    """Draw a map of shifts by severities for each score."""
    from matplotlib.figure import Figure

    rows = told["simulator"]["rows"]
    shifts = list(dict.fromkeys(row["shift"] for row in rows))
    severities = sorted({row["severity"] for row in rows})
    names = told["scores"]
    figure = Figure(figsize=(10.4, 1.4 + 0.42 * len(shifts)), layout="constrained")
    for place, (axes, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)):
        values = {(row["shift"], row["severity"]): row["session_auroc"][name][0] for row in rows}
        table = [[values.get((shift, severity), math.nan) for severity in severities] for shift in shifts]
        axes.imshow(table, vmin=0.5, vmax=1.0, cmap="Blues", aspect="auto")
        for y, line in enumerate(table):
            for x, value in enumerate(line):
                if math.isfinite(value):
                    colour = "white" if value > 0.8 else plots.INK
                    axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(severities)), [f"{severity:g}" for severity in severities])
        labels = [SHIFTS.get(shift, shift) for shift in shifts] if place == 0 else [""] * len(shifts)
        axes.set_yticks(range(len(shifts)), labels)
        axes.set_title(SCORES.get(name, name))
        axes.grid(visible=False)
    return figure


def _interval(values: Sequence[float]) -> dict[str, str]:
    value, low, high = values
    return {"value": f"{value:.3f}", "interval": f"{low:.3f} to {high:.3f}"}
