"""The figure of one operator before many sessions: what gets done in an hour, and who waits for it.

It is drawn from the metrics of a run, `supervision.ARM.SLOTS.NAME` as
`handrail.agents.supervision.sweep_metrics` makes them, so a report can be built again without the sessions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from handrail.experiments.report import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = {"human": "operators alone", "copilot": "copilot", "selective": "selective automation"}
"""Arms by the names people know, in the order in which they are drawn; others keep theirs and follow."""

_HEADING = "One operator, several sessions"


class Drawing(NamedTuple):
    """A figure with its words: heading and caption of the page, and a description for screen readers."""

    figure: Figure
    heading: str
    caption: str
    description: str


@dataclass
class Line:
    """One arm over numbers of sessions at once.

    Attributes:
        name: what to call it.
        slots: ascending.
        rate: sessions an operator-hour.
        low: lower ends of its intervals, NaN where there is none.
        high: upper ends.
        wait: mean seconds from request to visit.
        late: their 95th percentile.
        lasts: mean minutes of a session, waiting included.
    """

    name: str
    slots: list[int] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    lasts: list[float] = field(default_factory=list)


def read_lines(metrics: Mapping[str, float], prefix: str = "supervision") -> list[Line]:
    """Return the arms that `metrics` has figures of, in the order of `ARMS`.

    Args:
        metrics: of a run.
        prefix: what the keys start with.
    """
    pattern = re.compile(rf"{re.escape(prefix)}\.(.+)\.(\d+)\.sessions_per_hour")
    found: dict[str, list[int]] = {}
    for match in filter(None, map(pattern.fullmatch, metrics)):
        found.setdefault(match.group(1), []).append(int(match.group(2)))
    lines = []
    for arm in sorted(found, key=lambda arm: (list(ARMS).index(arm) if arm in ARMS else len(ARMS), arm)):
        line = Line(ARMS.get(arm, arm.replace("_", " ")))
        for slots in sorted(found[arm]):
            key = f"{prefix}.{arm}.{slots}"
            line.slots.append(slots)
            line.rate.append(metrics[f"{key}.sessions_per_hour"])
            line.low.append(metrics.get(f"{key}.sessions_per_hour.ci_low", np.nan))
            line.high.append(metrics.get(f"{key}.sessions_per_hour.ci_high", np.nan))
            line.wait.append(metrics.get(f"{key}.wait_mean", np.nan))
            line.late.append(metrics.get(f"{key}.wait_p95", np.nan))
            line.lasts.append(metrics.get(f"{key}.duration_mean", np.nan) / 60)
        lines.append(line)
    return lines


def draw(metrics: Mapping[str, float], prefix: str = "supervision") -> Drawing | None:
    """Draw sessions an operator-hour, waiting time and session length against sessions at once, a line an arm.

    Args:
        metrics: of a run.
        prefix: what the keys start with.

    Returns:
        The figure with its words, or None if `metrics` has nothing of it.
    """
    lines = read_lines(metrics, prefix)
    if not lines:
        return None
    said = "; ".join(
        f"{line.name}: {line.rate[0]:.1f} sessions an hour at {line.slots[0]}, {line.rate[-1]:.1f} at "
        f"{line.slots[-1]}, where a request waits {line.wait[-1]:.0f} s and a session lasts {line.lasts[-1]:.0f} min "
        f"on average"
        for line in lines
    )
    sure = any(np.isfinite(line.low).any() for line in lines)
    return Drawing(
        supervision(lines),
        _HEADING,
        "Logged sessions of each arm, put together again before one operator. Left: how many they finish in an hour; a "
        "line is level where the operator has no time left. Middle: how long a session waits each time it needs them, "
        "mean and, dashed, 95th percentile. Right: how long sessions last with all that. "
        + ("Shaded: 95 % intervals by batch means. " if sure else "")
        + "What people do is taken from the log whatever the waiting.",
        f"Sessions an operator-hour, waiting time and session length against sessions at once. {said}.",
    )


@plots.styled
def supervision(lines: list[Line]) -> Figure:
    """Sessions an operator-hour, waiting time and session length, side by side, against sessions at once.

    Args:
        lines: at most eight.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    done, waits, lasts = figure.subplots(1, 3)
    for number, line in enumerate(lines):
        colour = plots.PALETTE[number % len(plots.PALETTE)]
        done.fill_between(line.slots, line.low, line.high, color=colour, alpha=0.13, linewidth=0)
        for axes, values, name in ((done, line.rate, line.name), (waits, line.wait, ""), (lasts, line.lasts, "")):
            axes.plot(line.slots, values, "o-", color=colour, markersize=4.5, label=name, zorder=3)
        waits.plot(line.slots, line.late, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
    slots = sorted({count for line in lines for count in line.slots})
    for axes, title in (
        (done, "sessions an operator-hour"),
        (waits, "seconds a request waits"),
        (lasts, "minutes a session lasts"),
    ):
        _slots_axis(axes, slots)
        axes.set_title(title)
    figure.legend(loc="outside upper left", frameon=False, ncols=4, fontsize=9.5)
    return figure


def _slots_axis(axes: Axes, slots: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(slots, [str(count) for count in slots])
    axes.minorticks_off()
    axes.set_xlim(slots[0] / 1.15, slots[-1] * 1.15)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sessions at once")
