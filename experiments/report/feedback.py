"""The report's part on corrections against plain logs: what `studies.feedback` found, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.experiments.report.parts import part

if TYPE_CHECKING:
    from markupsafe import Markup

RESULT = "feedback.json"
TITLE = "Corrections against plain logs"

_ARMS = {
    "first": "the first policy",
    "logs": "more plain logs",
    "copilot": "corrections of a copilot",
    "weighted": "the same, corrections weighed up",
}
_MEASURES = {
    "success_rate": ("Cases done right, alone", "The policy works the cases alone, to their ends."),
    "violation_rate": ("Cases in which a rule was broken, alone", "Less is better."),
    "action_accuracy": (
        "Same action as the operator",
        "Careful operators work the cases; the policy is asked at each of their steps and not shown.",
    ),
    "right_critical_rate": (
        "Right critical suggestions",
        "At the same steps: of the suggestions with effects outside the screen, the share that is as good as what the "
        "operator would do.",
    ),
}
_SETS = {"all": "cases as they come", "hard": "the hardest cases"}


def section(folder: Path) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.

    Raises:
        HandrailError: its file is damaged.
    """
    return part(folder, RESULT, "feedback.html.j2", _content)


def _content(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seeds": len(told["hard"]),
        "blocks": [_block(told["rows"], told["arms"], name, measure) for measure in _MEASURES for name in _SETS],
        "rounds": _rounds(told["rounds"]),
        "hard": told["hard"],
    }


def _block(rows: Sequence[Mapping[str, Any]], arms: Sequence[str], name: str, measure: str) -> dict[str, Any]:
    some = [row for row in rows if row["set"] == name and row["measure"] == measure]
    title, words = _MEASURES[measure]
    others = arms[: max(len(arms) - 1, 1)]
    return {
        "title": f"{title}: {_SETS[name]}",
        "words": words,
        "caption": "Means over seeds.",
        "others": [_arm(other) for other in others],
        "rows": [
            {
                "name": _arm(row["arm"]),
                "share": _written(row["mean"], sign=False),
                "gaps": [
                    {part: _written(row["over"][other][part], sign=True) for part in ("seeds", "cases")}
                    if other in row["over"]
                    else None
                    for other in others
                ],
            }
            for row in some
        ],
    }


def _rounds(told: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> list[dict[str, Any]]:
    """Return a row for each arm and round with means over seeds."""
    found = []
    for arm, seeds in told.items():
        for number, rounds in enumerate(zip(*seeds, strict=True), start=1):

            def mean(key: str, rounds: Sequence[Mapping[str, float]] = rounds) -> float:
                return float(np.mean([one.get(key, np.nan) for one in rounds]))

            accepted, seconds = mean("critical_accepted_share"), mean("active_seconds")
            found.append(
                {
                    "name": _arm(arm),
                    "number": number,
                    "sessions": f"{mean('sessions'):,.0f}",
                    "corrections": f"{mean('corrections'):,.0f}",
                    "accepted": "–" if np.isnan(accepted) else f"{accepted:.1%}",
                    "seconds": "–" if np.isnan(seconds) else f"{seconds:.0f}",
                    "tokens": f"{mean('train.tokens'):,.0f}",
                }
            )
    return found


def _arm(name: str) -> str:
    return _ARMS.get(name, name.replace("_", " "))


def _written(interval: Sequence[float | None], *, sign: bool) -> str:
    """Return an interval of shares in percent, or of differences in points with their sign."""
    estimate, low, high = interval
    form = "{:+.1f}" if sign else "{:.1f} %"
    if estimate is None:
        return "–"
    text = form.format(100 * estimate)
    if low is None or high is None:
        return text
    return f"{text} ({form.format(100 * low)} to {form.format(100 * high)})"
