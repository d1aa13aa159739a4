"""The report's part on rejections: why operators reject, and what critics make of it (`studies.rejections`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.experiments.report.parts import part

if TYPE_CHECKING:
    from markupsafe import Markup

RESULT = "rejections.json"
TITLE = "Why suggestions are rejected"

CAUSES = {
    "model_error": ("wrong suggestion", "The suggestion was wrong."),
    "acceptable": ("right, done another way", "The suggestion was right; the operator preferred another way or order."),
    "environment": (
        "right, but the page did not take it",
        "The suggestion was right; the page had to be loaded again.",
    ),
    "other": ("right, no reason to be seen", "The suggestion was right; the operator did something else."),
    "rubber_stamp": ("wrong, but accepted", "The suggestion was wrong and was accepted all the same."),
}
"""True causes by the names people know, and in a sentence."""

_RANKS = (("auroc", "AUROC"), ("augrc", "AUGRC"))


def section(folder: Path, named: Callable[[str], str]) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory.
        named: puts a confidence method into words.

    Raises:
        HandrailError: its file is damaged.
    """
    return part(folder, RESULT, "rejections.html.j2", lambda told: _content(told, named))


def _content(told: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, Any]:
    metrics, methods = told["metrics"], told["methods"]
    causes = []
    for cause, (name, words) in CAUSES.items():
        paper = told["paper"].get(cause)
        causes.append(
            {
                "name": name,
                "words": words,
                "count": f"{metrics[f'rejections.{cause}.count']:,.0f}",
                "share": _percent(metrics, f"rejections.{cause}.share"),
                "paper": "–" if paper is None else f"{100 * paper:.1f} %",
                "caught": [_percent(metrics, f"rejections.{cause}.caught.{method}") for method in methods],
                "examples": [
                    {**one, "scores": [(named(m), f"{s:.2f}") for m, s in one["scores"].items()]}
                    for one in told["examples"]
                    if one["cause"] == cause
                ],
            }
        )
    rows = [
        {
            "name": named(method),
            "cells": [
                cell
                for key, _ in _RANKS
                for cell in (
                    _number(metrics, f"critic_feedback.{method}.{key}"),
                    _number(metrics, f"critic_truth.{method}.{key}"),
                )
            ]
            + [_percent(metrics, f"critic_{against}.{method}.precision") for against in ("feedback", "truth")],
        }
        for method in methods
    ]
    return {
        "domain": told["domain"],
        "coverage": f"{100 * told['coverage']:.0f} %",
        "count": f"{metrics['rejections.count']:,.0f}",
        "suggestions": f"{metrics['rejections.suggestions']:,.0f}",
        "rate": _percent(metrics, "rejections.rate"),
        "wrong": _percent(metrics, "rejections.wrong_rate"),
        "causes": causes,
        "methods": [named(method) for method in methods],
        "headings": [name for _, name in _RANKS] + ["Precision"],
        "rows": rows,
    }


def _percent(metrics: Mapping[str, float], key: str) -> str:
    return _written(metrics, key, lambda value: f"{100 * value:.1f}", " %")


def _number(metrics: Mapping[str, float], key: str) -> str:
    return _written(metrics, key, lambda value: f"{value:.3f}", "")


def _written(metrics: Mapping[str, float], key: str, form: Any, unit: str) -> str:
    """Return a metric with its interval in words, a dash where it is undefined."""
    value, low, high = (float(metrics.get(key + end, math.nan)) for end in ("", ".ci_low", ".ci_high"))
    if math.isnan(value):
        return "–"
    bounds = "" if math.isnan(low) or math.isnan(high) else f" ({form(low)} to {form(high)})"
    return f"{form(value)}{unit}{bounds}"
