"""The report's first part: the three arms of the online test, what they came to, and whether that answers the question.

A claim is made only where an interval or a test allows it; otherwise the page says "not shown". Figures are drawn from
the metrics of the run (`handrail.experiments.online.arm_metrics`), so a report can be built again without the sessions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from handrail.algorithms.bootstrap import Interval
from handrail.experiments.online import HUMAN, LEVEL, PAPER, SELECTIVE, Row, paper_table, read_interval
from handrail.experiments.report import written
from handrail.experiments.report.online_figures import drawings
from handrail.experiments.report.parts import part
from handrail.experiments.report.supervision import ARMS
from handrail.experiments.report.written import p_value, percent, points, share, signed

if TYPE_CHECKING:
    from markupsafe import Markup

RESULT = "online.json"
ANCHOR = "online"
TITLE = "Three ways to work the same cases"

_MARGINS = {"success": ("done right", "lower"), "violation": ("with a broken rule", "higher")}
"""What is tested, in words, and which way is worse."""


class Claim(NamedTuple):
    """Something that was to be shown: a class for the page (`good`, `fair`, `bad`), a figure, and words."""

    outcome: str
    title: str
    figure: str
    words: str
    tag: str


class Rival(NamedTuple):
    """Another confidence behind the same gate: by how much the critic's arm is ahead of it."""

    name: str
    row: Row
    automation: Interval
    success: Interval
    non_inferior: bool


def section(folder: Path, picture: Callable[..., Any], named: Callable[[str], str]) -> Markup | None:
    """Return the part of a run's report, `None` for a run that has none.

    Args:
        folder: the run directory, with `online.json` and `metrics.json`. The former has `method`, whose scores decide
            in the arm `selective`, and `stories`: `automated` and `handed_over`, each null or with `title`, `success`
            and `lines` as `handrail.experiments.closed_loop.story` returns them.
        picture: makes a figure part of the page: figure, anchor, description, and by name `caption` and `heading`.
        named: puts a confidence method into words.

    Raises:
        HandrailError: a file is damaged.
    """
    filters: dict[str, Callable[..., Any]] = {
        "percent": percent,
        "number": written.number,
        "ends": written.ends,
        "points": points,
        "p": p_value,
    }
    return part(folder, RESULT, "online.html.j2", lambda told: _content(told, folder, picture, named), filters)


def _content(
    told: Mapping[str, Any], folder: Path, picture: Callable[..., Any], named: Callable[[str], str]
) -> dict[str, Any] | None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    rows = paper_table(metrics)
    if not {HUMAN, SELECTIVE} <= {row.arm for row in rows}:
        return None
    names = {row.arm: _name(row.arm, named) for row in rows}
    found = rivals(metrics, names)
    pictures = [
        picture(one.figure, f"{ANCHOR}-{one.anchor}", one.description, caption=one.caption, heading=one.heading)
        for one in drawings(metrics, rows, names)
    ]
    return {
        "names": names,
        "answers": answers(metrics),
        "claims": claims(metrics),
        "rows": [row for row in rows if row.paper is not None],
        "quality": {row.arm: _quality(metrics, row.arm) for row in rows if row.arm != HUMAN},
        "rivals": found,
        "comparison": comparison(found),
        "method": named(told["method"]),
        "pictures": pictures,
        "stories": _stories(told.get("stories") or {}),
        "margins": {name: _margin(metrics, name) for name in _MARGINS},
        "level": percent(LEVEL, 0),
    }


def answers(metrics: Mapping[str, float]) -> list[str]:
    """Return the run's question answered in sentences, "not shown" where the figures do not allow a claim.

    Args:
        metrics: of a run with the arms `human` and `selective`.
    """
    key = f"online.{SELECTIVE}"
    automation, reduction = (read_interval(metrics, f"{key}.{name}") for name in ("automation_rate", "aat_reduction"))
    spent, alone = (metrics[f"online.{arm}.aat_seconds"] for arm in (SELECTIVE, HUMAN))
    saved = f"{share(reduction)} less" if reduction.low > 0 else "that this is less is not shown"
    said = [
        f"Of {metrics[f'{key}.sessions']:,.0f} cases, {share(automation)} were finished without an operator, and "
        f"operators were active for {spent:.0f} s a case instead of {alone:.0f} s: {saved}."
    ]
    tests = []
    for name, (words, worse) in _MARGINS.items():
        margin, p = _margin(metrics, name), metrics[f"{key}.{name}_difference.p_value"]
        how = f"not {worse} by {margin} or more" if p <= LEVEL else f"that it is {worse} by {margin} is not ruled out"
        gap = points(read_interval(metrics, f"{key}.{name}_difference"))
        tests.append(f"The share {words} differs by {gap} points: {how} ({p_value(p)}).")
    shown = "shown" if metrics[f"{key}.non_inferior"] else "not shown"
    said.append(f"That the work is done as well as by operators alone is {shown}. {' '.join(tests)}")
    reached = []
    for interval, target, words in (
        (automation, _paper("automation"), "of the sessions automated"),
        (reduction, _paper("reduction"), "of operators’ time saved"),
    ):
        how = "shown" if interval.low >= target else "missed" if interval.high < target else "not shown"
        reached.append(f"at least {percent(target, 0)} {words}: {how}")
    said.append(f"Beside the paper’s own figures: {'; '.join(reached)}.")
    return said


def claims(metrics: Mapping[str, float]) -> list[Claim]:
    """Return what was to be shown, for the page's cards: automation, time and quality.

    Args:
        metrics: of a run with the arms `human` and `selective`.
    """
    key = f"online.{SELECTIVE}"
    found = []
    for name, target, title, words in (
        ("automation_rate", _paper("automation"), "Automated sessions", "ran from first to last without an operator"),
        ("aat_reduction", _paper("reduction"), "Operators’ time saved", "less operator-active time than alone"),
    ):
        interval = read_interval(metrics, f"{key}.{name}")
        outcome, tag = "fair", "not shown to reach the paper’s"
        if interval.low >= target:
            outcome, tag = "good", "at least the paper’s"
        elif interval.high < target:
            outcome, tag = "bad", "below the paper’s"
        between = written.ends(interval)
        about = f"{words} ({between})" if between else words
        found.append(Claim(outcome, title, percent(interval.estimate), about, f"{tag} {percent(target, 0)}"))
    success, broken = (read_interval(metrics, f"{key}.{name}_difference") for name in _MARGINS)
    outcome, tag = "fair", "not worse: not shown"
    if metrics[f"{key}.non_inferior"]:
        outcome, tag = "good", "not worse: shown"
    elif success.high < -metrics["online.margin.success"] or broken.low > metrics["online.margin.violation"]:
        outcome, tag = "bad", "worse by more than the margin"
    about = f"Cases done right, against operators alone: {points(success)}. Cases with a broken rule: {points(broken)}."
    found.append(Claim(outcome, "Quality", f"{signed(success.estimate)} points", about, tag))
    return found


def rivals(metrics: Mapping[str, float], names: Mapping[str, str]) -> list[Rival]:
    """Return the arms of other confidences, the one that automates most first.

    Args:
        metrics: of a run.
        names: arm -> what to call it.
    """
    key = f"online.{SELECTIVE}"
    found = [
        Rival(
            names[row.arm],
            row,
            read_interval(metrics, f"{key}.automation_over.{row.arm}"),
            read_interval(metrics, f"{key}.success_over.{row.arm}"),
            bool(metrics[f"online.{row.arm}.non_inferior"]),
        )
        for row in paper_table(metrics)
        if row.arm.startswith(f"{SELECTIVE}_")
    ]
    return sorted(found, key=lambda one: -one.row.automation.estimate)


def comparison(found: Sequence[Rival]) -> str:
    """Return in a sentence or two whether the critic's arm automates more than those of other confidences.

    Args:
        found: from `rivals`.
    """
    groups: dict[str, list[str]] = {"more": [], "unsure": [], "less": []}
    for one in found:
        how = "more" if one.automation.low > 0 else "less" if one.automation.high < 0 else "unsure"
        groups[how].append(f"“{one.name}” ({signed(one.automation.estimate)} points)")
    said = []
    if groups["more"]:
        every = "every other confidence: " if len(groups["more"]) == len(found) else ""
        said.append(f"The critic automates more than {every}{', '.join(groups['more'])}.")
    if groups["unsure"]:
        said.append(f"That it automates more is not shown against {', '.join(groups['unsure'])}.")
    if groups["less"]:
        said.append(f"It automates less than {', '.join(groups['less'])}.")
    worse = [f"“{one.name}”" for one in found if one.success.high < 0]
    if worse:
        said.append(f"Fewer cases are done right than with {', '.join(worse)}, so automation alone does not decide.")
    unsafe = [f"“{one.name}”" for one in found if not one.non_inferior]
    if unsafe:
        said.append(f"Not shown to be as good as operators alone: {', '.join(unsafe)}.")
    return " ".join(said)


def _quality(metrics: Mapping[str, float], arm: str) -> dict[str, Any]:
    """Return the differences from operators alone with the p-values of their tests."""
    key = f"online.{arm}"
    return {
        "success": read_interval(metrics, f"{key}.success_difference"),
        "success_p": metrics[f"{key}.success_difference.p_value"],
        "violations": read_interval(metrics, f"{key}.violation_difference"),
        "violations_p": metrics[f"{key}.violation_difference.p_value"],
        "shown": bool(metrics[f"{key}.non_inferior"]),
    }


def _stories(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sessions to read."""
    found = []
    for kind, words in (
        ("automated", "The assistant worked it alone, from its first line to its last"),
        ("handed_over", "The assistant began it, and an operator was called"),
    ):
        story = told.get(kind)
        if story:
            lines = [
                {"who": "assistant" if line["who"] == "policy" else line["who"], "text": line["text"]}
                for line in story["lines"]
            ]
            end = "it was done right" if story["success"] else "it went wrong"
            found.append({"kind": kind, "title": story["title"], "words": f"{words}; {end}.", "lines": lines})
    return found


def _name(arm: str, named: Callable[[str], str]) -> str:
    return ARMS.get(arm) or named(arm.removeprefix(f"{SELECTIVE}_"))


def _margin(metrics: Mapping[str, float], name: str) -> str:
    margin = 100 * metrics[f"online.margin.{name}"]
    return f"{margin:.4g} {'point' if margin == 1 else 'points'}"


def _paper(figure: str) -> float:
    """Return what the paper reports of selective automation; it gives whole percentages."""
    return round(float(getattr(PAPER[SELECTIVE], figure)), 2)
