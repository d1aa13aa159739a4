"""The report's part on certificates: what can be certified, beside other methods (`studies.certificate_power`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.algorithms.selective import percent
from handrail.experiments.report import plots
from handrail.experiments.report.parts import part

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

RESULT = "certificate_power.json"
ANCHOR = "certificates"
TITLE = "How much can be certified"

METHODS = {
    "handrail": "Handrail, independent steps",
    "handrail_sessions": "Handrail, steps of sessions",
    "mapie": "MAPIE as it comes",
    "mapie_sequence": "MAPIE, fixed sequence",
    "sgr": "SGR",
    "naive": "read off the curve",
}
"""Methods by the names people know, in the order of the table."""

NAIVE = "naive"
"""Wrong nearly always at the boundary: told in words, since a line of it would leave no room for the others."""


def section(folder: Path, picture: Callable[..., Any]) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.
        picture: makes a figure part of the page: figure, anchor, description, and by name `caption` and `heading`.

    Raises:
        HandrailError: its file is damaged.
    """
    return part(folder, RESULT, "certificates.html.j2", lambda told: _content(told, picture))


def _content(told: Mapping[str, Any], picture: Callable[..., Any]) -> dict[str, Any]:
    metrics, rows = told["metrics"], told["rows"]
    tables = []
    for data, words in (
        ("independent", "Independent steps"),
        ("sessions", f"Sessions of {told['session_size']} steps"),
    ):
        inside = [row for row in rows if row["data"] == data]
        if inside:
            names = [name for name in METHODS if name in inside[0]["coverage"]]
            tables.append(
                {
                    "title": words,
                    "clustered": data == "sessions",
                    "methods": [METHODS[name] for name in names],
                    "rows": [_row(row, names) for row in inside],
                }
            )
    ahead = [
        {
            "target": _percent(target),
            "over": [
                (METHODS[name], _points(metrics, f"independent.{percent(target)}.over.{name}"))
                for name in METHODS
                if f"independent.{percent(target)}.over.{name}" in metrics
            ],
        }
        for target in told["targets"]
    ]
    naive = [metrics[f"boundary.{percent(rho)}.{NAIVE}.wrong"] for rho in told["correlations"]]
    drawn = picture(
        draw(told),
        ANCHOR,
        "Left: certified coverage by target for each method. Right: share of wrong certificates by correlation.",
        caption="Left: mean certified coverage of independent steps. Right: at the boundary, where accuracy is just "
        "below the target and scores say nothing but are alike within a session, every certificate is wrong; at most "
        f"{_percent(told['delta'])} of the calibrations may give one (dashed). Read off the curve it is "
        f"{_percent(min(naive), 0)} or more. Lines: 95 % intervals over draws.",
        heading="Certified coverage, and wrong certificates",
    )
    return {
        "delta": _percent(told["delta"]),
        "draws": told["draws"],
        "steps": f"{told['steps']:,}",
        "size": told["session_size"],
        "tables": tables,
        "ahead": ahead,
        "picture": drawn,
    }


@plots.styled
def draw(told: Mapping[str, Any]) -> Figure:
    """Draw certified coverage by target, and wrong certificates by correlation."""
    from matplotlib.figure import Figure

    metrics = told["metrics"]
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, metrics, told["targets"], lambda name, target: f"independent.{percent(target)}.{name}.coverage")
    left.set_xticks(range(len(told["targets"])), [_percent(target) for target in told["targets"]])
    left.set_xlabel("target precision")
    left.set_ylabel("certified coverage")
    left.set_title("Independent steps: how much is certified")
    _lines(right, metrics, told["correlations"], lambda name, rho: f"boundary.{percent(rho)}.{name}.wrong")
    right.axhline(told["delta"], color=plots.INK, linewidth=1.0, linestyle=(0, (4, 3)))
    right.set_xticks(range(len(told["correlations"])), [f"{rho:g}" for rho in told["correlations"]])
    right.set_xlabel("correlation within sessions")
    right.set_ylabel("share of calibrations")
    right.set_title("At the boundary: wrong certificates")
    for axes in (left, right):
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        axes.legend(frameon=False, fontsize=9, loc="upper right" if axes is left else "upper left")
    return figure


def _lines(axes: Any, metrics: Mapping[str, float], places: Sequence[float], key: Callable[[str, float], str]) -> None:
    """Draw a line with intervals for each method that has these metrics."""
    present = [name for name in METHODS if name != NAIVE and all(key(name, place) in metrics for place in places)]
    for name in present:
        number = list(METHODS).index(name)
        keys = [key(name, place) for place in places]
        middle = [metrics[one] for one in keys]
        below = [metrics[one] - metrics[f"{one}.ci_low"] for one in keys]
        above = [metrics[f"{one}.ci_high"] - metrics[one] for one in keys]
        offset = 0.06 * (present.index(name) - (len(present) - 1) / 2)
        at = [place + offset for place in range(len(places))]
        axes.errorbar(
            at, middle, [below, above], fmt="o-", markersize=5, color=plots.PALETTE[number], label=METHODS[name]
        )


def _row(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    best = max(round(row["coverage"][name], 3) for name in names)
    return {
        "target": _percent(row["target"]),
        "steps": f"{row['steps']:,}",
        "correlation": f"{row['correlation']:g}",
        "accuracy": _percent(row["accuracy"]),
        "separation": f"{row['separation']:g}",
        "cells": [
            {
                "coverage": _percent(row["coverage"][name], 1),
                "wrong": _percent(row["wrong"][name], 0),
                "best": best > 0 and round(row["coverage"][name], 3) == best,
            }
            for name in names
        ],
    }


def _percent(share: float, digits: int | None = None) -> str:
    text = f"{100 * share:.6g}" if digits is None else f"{100 * share:.{digits}f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def _points(metrics: Mapping[str, float], key: str) -> str:
    value, low, high = (100 * metrics.get(f"{key}{end}", math.nan) for end in ("", ".ci_low", ".ci_high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")
