"""The figures of the online test, drawn from the metrics of the run (`handrail.experiments.online.arm_metrics`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from handrail.algorithms.bootstrap import Interval
from handrail.envs.bpm.clock import PARTS
from handrail.experiments.online import HUMAN, SELECTIVE, Row, read_interval
from handrail.experiments.report import plots
from handrail.experiments.report.supervision import ARMS
from handrail.experiments.report.written import percent, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REASONS = {
    "low_confidence": "not sure enough",
    "handed_over": "an operator has it",
    "not_shown": "probably wrong, not shown",
    "not_certified": "issue not certified",
    "guardrail": "guardrail",
    "audit": "random audit",
}
"""Why a step went to an operator, in words; others keep theirs."""


_MAX_ISSUES = 30


class Drawn(NamedTuple):
    """A figure with its words: anchor and heading on the page, caption, and a description for screen readers."""

    figure: Figure
    anchor: str
    heading: str
    caption: str
    description: str


@dataclass(frozen=True)
class Stack:
    """A row of a stacked bar chart: name, and the value of each part."""

    name: str
    parts: Mapping[str, float]


@plots.styled
def forest(rows: Sequence[Row], names: Mapping[str, str]) -> Figure:
    """Operators' time, success and broken rules, a line an arm, with intervals; each panel has a scale of its own.

    Args:
        rows: arms, the first on top.
        names: arm -> what to call it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 1.15 + 0.5 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1.25, 1, 1))
    shown: Sequence[tuple[str, Callable[[Row], Interval], float, str]] = (
        ("operator-active seconds", lambda row: row.aat, 1, "{:.0f}"),
        ("done right", lambda row: row.success, 100, "{:.1f}%"),
        ("with a broken rule", lambda row: row.violations, 100, "{:.2f}%"),
    )
    for axes, (title, of, scale, form) in zip(panels, shown, strict=True):
        for place, row in enumerate(rows):
            value, low, high = (scale * end for end in of(row))
            colour = _colour(row.arm, rows)
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt")
            axes.plot(value, place, "o", color=colour, markersize=6.5)
            axes.annotate(
                form.format(value), (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=9
            )
        axes.set_title(title, fontsize=10.5)
        axes.margins(x=0.14)
        axes.locator_params(axis="x", nbins=5 if scale == 1 else 3)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        if scale == 100:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.4g}%")
    panels[0].set_yticks(range(len(rows)), [names[row.arm] for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.75)
    panels[0].set_xlim(left=0)
    return figure


@plots.styled
def automation_quality(metrics: Mapping[str, float], arms: Sequence[str], names: Mapping[str, str]) -> Figure:
    """What runs alone against what it costs in quality: differences from operators alone, with margins.

    Args:
        metrics: of a run.
        arms: which to draw, the critic's first.
        names: arm -> what to call it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (name, title, sign) in zip(
        panels,
        (
            ("success", "done right, points more than alone", -1),
            ("violation", "broken rules, points more than alone", 1),
        ),
        strict=True,
    ):
        for number, arm in enumerate(arms):
            across = read_interval(metrics, f"online.{arm}.automation_rate")
            up = Interval(*(100 * end for end in read_interval(metrics, f"online.{arm}.{name}_difference")))
            colour = plots.PALETTE[(2, 0, 1, 3, 4, 5, 6, 7)[number % 8]]
            axes.plot([across.low, across.high], [up.estimate] * 2, color=colour, linewidth=1.5)
            axes.plot([across.estimate] * 2, [up.low, up.high], color=colour, linewidth=1.5)
            label = names[arm] if axes is panels[0] else None
            axes.plot(across.estimate, up.estimate, "o", color=colour, markersize=8 if number == 0 else 6, label=label)
        margin = 100 * sign * metrics[f"online.margin.{name}"]
        axes.axhline(0, color=plots.MUTED, linewidth=0.9)
        low, high = axes.get_ylim()
        low, high = min(low, margin * 1.3, -0.1), max(high, margin * 1.3, 0.1)
        axes.axhspan(
            margin,
            low if sign < 0 else high,
            color=plots.PALETTE[1],
            alpha=0.09,
            linewidth=0,
            label="over the limit set beforehand" if axes is panels[0] else None,
        )
        axes.set_ylim(low, high)
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.4g}".replace("-", "−") if value else "0")
        axes.set_xlabel("sessions without an operator")
        axes.set_title(title, fontsize=10.5)
    figure.legend(loc="outside upper left", frameon=False, ncols=4, fontsize=9.5)
    return figure


@plots.styled
def stacked(rows: Sequence[Stack], parts: Sequence[str], *, label: str, form: str) -> Figure:
    """Horizontal bars, each the sum of parts, with the sum at the end.

    Args:
        rows: the first on top.
        parts: in the order in which they are stacked, at most eight.
        label: name of the horizontal axis.
        form: how a sum is written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 1.5 + 0.42 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    for place, row in enumerate(rows):
        left = 0.0
        for number, part in enumerate(parts):
            value = row.parts.get(part, 0.0)
            axes.barh(
                place,
                value,
                left=left,
                height=0.6,
                color=plots.PALETTE[number],
                alpha=0.85,
                edgecolor="white",
                linewidth=0.8,
                label=part if place == 0 else None,
            )
            left += value
        axes.annotate(form.format(left), (left, place), (6, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * max([sum(row.parts.values()) for row in rows] + [1e-9]))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    figure.legend(loc="outside upper left", frameon=False, ncols=5, fontsize=9.5, columnspacing=1.4)
    return figure


def drawings(metrics: Mapping[str, float], rows: Sequence[Row], names: Mapping[str, str]) -> list[Drawn]:
    """Return the figures there is something to draw in.

    Args:
        metrics: of a run with the arms `human` and `selective`.
        rows: `handrail.experiments.online.paper_table` of them.
        names: arm -> what to call it.
    """
    own = [row for row in rows if row.paper is not None]
    gates = [row.arm for row in rows if row.arm.startswith(SELECTIVE)]
    scores = {**names, SELECTIVE: "the critic"}
    drawn = [
        Drawn(
            forest(own, names),
            "arms",
            "The arms",
            "Each panel has its own scale. Lines: 95 % intervals of each arm by itself. The tests compare arms case by "
            "case, which is sharper.",
            "Operator-active seconds, share done right and share with a broken rule. "
            + "; ".join(
                f"{names[row.arm]}: {row.aat.estimate:.0f} s, {percent(row.success.estimate)}, "
                f"{percent(row.violations.estimate)}"
                for row in own
            ),
        ),
        Drawn(
            automation_quality(metrics, gates, scores),
            "quality",
            "What runs alone, and at what price",
            "The gate with the critic’s score and with other confidences, each with a threshold certified in the same "
            "way. Further right: more sessions alone. Shaded: worse than operators alone by more than the margin. "
            "Lines: 95 % intervals.",
            "Automation against quality. "
            + "; ".join(
                f"{scores[arm]}: {percent(metrics[f'online.{arm}.automation_rate'])} automated, success "
                f"{signed(metrics[f'online.{arm}.success_difference'])} points"
                for arm in gates
            ),
        ),
    ]
    return [*drawn, *_by_issue(metrics), *_by_reason(metrics, gates, scores), *_by_part(metrics, rows, names)]


def _by_issue(metrics: Mapping[str, float]) -> list[Drawn]:
    start = f"online.{SELECTIVE}.by_issue."
    end = ".automation_rate"
    names = [key[len(start) : -len(end)] for key in metrics if key.startswith(start) and key.endswith(end)]
    if not names:
        return []
    names.sort(key=lambda name: (-metrics[start + name + end], name))
    rows = [
        plots.Bar(
            name.replace("_", " "),
            *read_interval(metrics, start + name + end),
            f"of {metrics[f'{start}{name}.sessions']:.0f}; {metrics[f'{start}{name}.success_rate']:.1%} right"
            f" (alone {metrics.get(f'online.{HUMAN}.by_issue.{name}.success_rate', math.nan):.1%})",
        )
        for name in names[:_MAX_ISSUES]
    ]
    return [
        Drawn(
            plots.bars(rows, label="share of the issue’s sessions without an operator"),
            "issues",
            "Automation by issue",
            "Selective automation. Right: how many of all the issue’s sessions were done right, and how many by "
            "operators alone. Lines: exact 95 % intervals. Issues with few cases are left out.",
            f"Share of sessions without an operator by issue, from {rows[0].name} ({percent(rows[0].value)}) to "
            f"{rows[-1].name} ({percent(rows[-1].value)}).",
        )
    ]


def _by_reason(metrics: Mapping[str, float], gates: Sequence[str], names: Mapping[str, str]) -> list[Drawn]:
    rows = []
    total: dict[str, float] = {}
    for arm in gates:
        start = f"online.{arm}.deferred."
        found = {
            _reason(key.removeprefix(start)): value
            for key, value in metrics.items()
            if key.startswith(start) and key.count(".") == start.count(".")
        }
        rows.append(Stack(names[arm], found))
        for name, value in found.items():
            total[name] = total.get(name, 0.0) + value
    if not total:
        return []
    parts = sorted(total, key=lambda name: (-total[name], name))
    said = ", ".join(f"{part} {rows[0].parts.get(part, 0.0):.2f}" for part in parts)
    return [
        Drawn(
            stacked(rows, parts, label="steps a session that went to the operator", form="{:.2f}"),
            "reasons",
            "Why steps went to the operator",
            "Steps that the gate did not let run, by its reason.",
            f"Steps a session that went to the operator, by reason. With the critic: {said}.",
        )
    ]


def _by_part(metrics: Mapping[str, float], rows: Sequence[Row], names: Mapping[str, str]) -> list[Drawn]:
    stacks = [
        Stack(
            names[row.arm],
            {part: metrics[key] for part in PARTS if (key := f"online.{row.arm}.seconds.{part}") in metrics},
        )
        for row in rows
        if row.paper is not None
    ]
    stacks = [stack for stack in stacks if stack.parts]
    if not stacks:
        return []
    parts = [part for part in PARTS if any(part in stack.parts for stack in stacks)]
    said = "; ".join(
        f"{stack.name}: " + ", ".join(f"{part} {value:.0f} s" for part, value in stack.parts.items())
        for stack in stacks
    )
    return [
        Drawn(
            stacked(stacks, parts, label="operator-active seconds a session", form="{:.0f} s"),
            "seconds",
            "Where operators’ time goes",
            "Mean seconds a session, by what the operator was busy with.",
            f"Operator-active seconds by part. {said}.",
        )
    ]


def _colour(arm: str, rows: Sequence[Row]) -> str:
    order = [*ARMS, *(row.arm for row in rows if row.arm not in ARMS)]
    return plots.PALETTE[order.index(arm) % len(plots.PALETTE)]


def _reason(name: str) -> str:
    return REASONS.get(name, name.replace("_", " "))
