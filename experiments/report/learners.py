"""The report's part on imitation and reinforcement learning (`studies.rl_baselines`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.experiments.report import plots
from handrail.experiments.report.parts import part

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

RESULT = "learners.json"
ANCHOR = "learners"
TITLE = "Learning from a log, and from practice"

NAMES = {"bc": "BC (cloning)", "marwil": "MARWIL", "ppo": "PPO", "policy": "the language policy"}
"""Learners by the names people know; others keep theirs."""


def section(folder: Path, picture: Callable[..., Any], actor_name: Callable[[str], str]) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.
        picture: makes a figure part of the page: figure, anchor, description, and by name `caption` and `heading`.
        actor_name: the words for who works.

    Raises:
        HandrailError: its file is damaged.
    """
    return part(folder, RESULT, "learners.html.j2", lambda told: _content(told, picture, actor_name))


def _content(told: Mapping[str, Any], picture: Callable[..., Any], actor_name: Callable[[str], str]) -> dict[str, Any]:
    def words(name: str) -> str:
        return NAMES.get(name) or actor_name(name)

    drawn = picture(
        draw(told["rows"], told["returns"], words),
        ANCHOR,
        "Left: shares of cases done right alone, with intervals. Right: mean return in training by rounds.",
        caption=f"Left: {told['cases']:,} new cases worked alone, share done right with 95 % intervals; hollow: share "
        "of held-out steps with the logged action. Right: what a case returned in training, with actions drawn at "
        "random by their chances; penalties are part of it.",
        heading="Who works how well alone",
    )
    rows = [
        {
            "name": words(row["name"]),
            "agreement": _percent(row["agreement"]),
            "success": _percent(row["success"]),
            "violations": _percent(row["violations"]),
            "steps": f"{row['steps']:.1f}",
            "over": row["over"] and {"name": words(row["over"]["name"]), **_points(row["over"]["gap"])},
        }
        for row in told["rows"]
    ]
    return {"picture": drawn, "rows": rows, "cases": f"{told['cases']:,}", "held_out": f"{told['held_out']:,}"}


@plots.styled
def draw(
    rows: Sequence[Mapping[str, Any]], returns: Mapping[str, Sequence[float | None]], words: Callable[[str], str]
) -> Figure:
    """Draw success and agreement of everybody, and beside them the mean returns of those who practised."""
    from matplotlib.figure import Figure

    practised = {name: values for name, values in returns.items() if any(value is not None for value in values)}
    figure = Figure(figsize=(10.4 if practised else 6.2, 1.4 + 0.45 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 1 + bool(practised), squeeze=False)[0]
    for place, row in enumerate(reversed(rows)):
        value, low, high = (100 * x for x in row["success"])
        panels[0].plot([low, high], [place, place], color=plots.PALETTE[0])
        panels[0].plot([value], [place], "o", color=plots.PALETTE[0])
        if row["agreement"] is not None:
            panels[0].plot([100 * row["agreement"][0]], [place], "o", mfc="none", color=plots.PALETTE[1])
    panels[0].set_yticks(range(len(rows)), [words(row["name"]) for row in reversed(rows)])
    panels[0].set_xlim(0, 100)
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    panels[0].set_xlabel("per cent")
    panels[0].set_title("Cases done right alone (full), held-out steps (hollow)")
    for number, (name, values) in enumerate(practised.items()):
        known = [(round_, value) for round_, value in enumerate(values, 1) if value is not None]
        panels[1].plot(*zip(*known, strict=True), color=plots.PALETTE[number], label=words(name))
        panels[1].xaxis.get_major_locator().set_params(integer=True)
        panels[1].set_xlabel("round")
        panels[1].set_title("Mean return in training")
        panels[1].legend(frameon=False)
    return figure


def _percent(values: Sequence[float] | None) -> dict[str, str] | None:
    if values is None:
        return None
    value, low, high = (100 * x for x in values)
    return {"value": f"{value:.1f} %", "interval": f"{low:.1f} to {high:.1f}"}


def _points(values: Sequence[float]) -> dict[str, str]:
    value, low, high = (100 * x for x in values)
    return {"value": f"{value:+.1f}", "interval": f"{low:+.1f} to {high:+.1f}"}
