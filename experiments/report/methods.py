"""The report's part on confidence methods side by side (`studies.critic_vs_confidence`)."""

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

RESULT = "methods.json"
ANCHOR = "methods"
TITLE = "Critics and confidence"

SOURCES = {
    "critic": "own suggestions",
    "critic_recorded": "recorded suggestions, draft hidden",
    "critic_recorded_draft": "recorded suggestions, draft known",
}
MAPS = {
    "raw": "as it is",
    "temperature": "temperature",
    "platt": "Platt",
    "isotonic": "isotonic",
    "venn_abers": "Venn–Abers",
}
_DRAWN = 95


def section(folder: Path, picture: Callable[..., Any], named: Callable[[str], str]) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.
        picture: makes a figure part of the page: figure, anchor, description, and by name `caption` and `heading`.
        named: a method's name for people.

    Raises:
        HandrailError: its file is damaged.
    """
    return part(folder, RESULT, "methods.html.j2", lambda told: _content(told, picture, named))


def _content(told: Mapping[str, Any], picture: Callable[..., Any], named: Callable[[str], str]) -> dict[str, Any]:
    targets = [percent(target) for target in told["targets"]]
    drawn = picture(
        draw(told, named),
        ANCHOR,
        "For each table AUROC of every method, and how much runs alone at the threshold for 95 % precision.",
        caption="Left: AUROC. Right: share of test steps over the threshold that reached the target on calibration "
        "sessions. Filled: learned critics. Lines: 95 % intervals over sessions.",
        heading="Which method knows what is right",
    )
    return {
        "picture": drawn,
        "targets": targets,
        "tables": [_table(one, told["metrics"], targets, told["maps"], named) for one in told["tables"]],
    }


def _table(
    one: Mapping[str, Any],
    metrics: Mapping[str, float],
    targets: Sequence[str],
    maps: Sequence[str],
    named: Callable[[str], str],
) -> dict[str, Any]:
    names = _ordered(one, metrics)
    kinds = ["raw", *maps]
    rows = []
    for name in names:
        prefix = f"{one['name']}.{name}"
        over = f".over.{one['best']}"
        rows.append(
            {
                "name": named(name),
                "learned": name in one["critics"],
                "best": name == one["best"],
                "auroc": _interval(metrics, f"{prefix}.auroc", 3),
                "auroc_over": _interval(metrics, f"{prefix}.auroc{over}", 3, signed=True),
                "augrc": _interval(metrics, f"{prefix}.augrc", 3),
                "augrc_over": _interval(metrics, f"{prefix}.augrc{over}", 3, signed=True),
                "coverages": [
                    {
                        "coverage": _interval(metrics, f"{prefix}.coverage_at_precision_{target}", 1, 100),
                        "over": _interval(
                            metrics, f"{prefix}.coverage_at_precision_{target}{over}", 1, 100, signed=True
                        ),
                        "precision": _number(metrics.get(f"{prefix}.coverage_at_precision_{target}.precision"), 1, 100),
                    }
                    for target in targets
                ],
                "errors": [
                    (_number(metrics.get(f"{prefix}.{kind}.brier"), 3), _number(metrics.get(f"{prefix}.{kind}.ece"), 3))
                    for kind in kinds
                ],
            }
        )
    return {
        "title": f"{str(one['run']).replace('_', ' ')}: {SOURCES.get(one['source'], one['source'])}",
        "steps": f"{one['steps']:,}",
        "sessions": f"{one['sessions']:,}",
        "right": _number(one["right"], 1, 100),
        "best": None if one["best"] is None else named(one["best"]),
        "rows": rows,
        "maps": [MAPS.get(kind, kind) for kind in kinds],
    }


def _ordered(one: Mapping[str, Any], metrics: Mapping[str, float]) -> list[str]:
    return sorted(one["methods"], key=lambda name: (-metrics.get(f"{one['name']}.{name}.auroc", 0.0), name))


@plots.styled
def draw(told: Mapping[str, Any], named: Callable[[str], str]) -> Figure:
    """Draw AUROC and coverage at 95 % precision of every method, a row of axes for each table."""
    from matplotlib.figure import Figure

    tables, metrics = told["tables"], told["metrics"]
    heights = [0.9 + 0.26 * len(one["methods"]) for one in tables]
    figure = Figure(figsize=(10.4, sum(heights)), layout="constrained")
    grid = figure.subplots(len(tables), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    target = next((percent(t) for t in told["targets"] if percent(t) == str(_DRAWN)), percent(told["targets"][0]))
    for (left, right), one in zip(grid, tables, strict=True):
        names = _ordered(one, metrics)[::-1]
        for axes, key in ((left, "auroc"), (right, f"coverage_at_precision_{target}")):
            for place, name in enumerate(names):
                prefix = f"{one['name']}.{name}.{key}"
                value, low, high = (metrics.get(f"{prefix}{end}", math.nan) for end in ("", ".ci_low", ".ci_high"))
                learned = name in one["critics"]
                axes.errorbar(
                    [value],
                    [place],
                    xerr=[[max(value - low, 0)], [max(high - value, 0)]],
                    fmt="o" if learned else "s",
                    markersize=6,
                    color=plots.PALETTE[0] if learned else plots.PALETTE[1],
                    markerfacecolor=plots.PALETTE[0] if learned else "white",
                )
            axes.set_yticks(range(len(names)), [named(name) for name in names] if axes is left else [""] * len(names))
            axes.set_ylim(-0.6, len(names) - 0.4)
        left.set_xlim(min(0.5, left.get_xlim()[0]), 1.0)
        left.set_title(f"{str(one['run']).replace('_', ' ')}: {SOURCES.get(one['source'], one['source'])}")
        left.axvline(0.5, color=plots.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        right.set_xlim(0, 1.0)
        right.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    grid[-1][0].set_xlabel("AUROC (dashed: chance)")
    grid[-1][1].set_xlabel(f"coverage at {target} % precision")
    return figure


def _number(value: float | None, digits: int, scale: float = 1, signed: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{scale * value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    return f"{text}\N{NO-BREAK SPACE}%" if scale == 100 and not signed else text


def _interval(
    metrics: Mapping[str, float], key: str, digits: int, scale: float = 1, signed: bool = False
) -> dict[str, str] | None:
    if key not in metrics:
        return None
    value, low, high = (metrics.get(f"{key}{end}", math.nan) for end in ("", ".ci_low", ".ci_high"))
    bounds = [f"{scale * end:{'+' if signed else ''}.{digits}f}".replace("-", "−") for end in (low, high)]
    return {"value": _number(value, digits, scale, signed), "interval": f"{bounds[0]} to {bounds[1]}"}
