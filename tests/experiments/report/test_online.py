"""The report's first part: what it claims and where it says "not shown", on figures made by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handrail.algorithms.bootstrap import Interval
from handrail.envs.errors import HandrailError
from handrail.experiments.report import plots, written
from handrail.experiments.report.online import RESULT, answers, claims, comparison, rivals, section
from handrail.experiments.report.online_figures import Stack, drawings, stacked

NAMES = {"human": "operators alone", "selective": "selective automation", "selective_margin": "margin"}


def put(metrics: dict[str, float], key: str, estimate: float, low: float, high: float) -> None:
    metrics.update({f"online.{key}": estimate, f"online.{key}.ci_low": low, f"online.{key}.ci_high": high})


def figures(
    automation: tuple[float, float, float] = (0.5, 0.48, 0.52),
    reduction: tuple[float, float, float] = (0.44, 0.42, 0.46),
    success: tuple[float, float, float, float] = (-0.001, -0.006, 0.004, 0.002),
    ahead: tuple[float, float, float] = (0.1, 0.08, 0.12),
) -> dict[str, float]:
    """Metrics of a run with one other confidence; `success` is difference, ends and p-value."""
    metrics: dict[str, float] = {"online.margin.success": 0.01, "online.margin.violation": 0.005}
    for arm in ("human", "copilot", "selective", "selective_margin"):
        own = arm == "selective"
        metrics[f"online.{arm}.sessions"] = 2000
        put(metrics, f"{arm}.automation_rate", *(automation if own else (0.0, 0.0, 0.002)))
        put(metrics, f"{arm}.aat_seconds", *((123.4, 120, 127) if own else (227.0, 224, 230)))
        put(metrics, f"{arm}.success_rate", 0.97, 0.96, 0.98)
        put(metrics, f"{arm}.violation_rate", 0.01, 0.006, 0.015)
        metrics[f"online.{arm}.seconds.reading"] = 30.0
        metrics[f"online.{arm}.seconds.typing"] = 20.0
        put(metrics, f"{arm}.deferred.low_confidence", 1.25, 1.2, 1.3)
        if arm == "human":
            continue
        put(metrics, f"{arm}.aat_reduction", *(reduction if own else (0.1, 0.05, 0.15)))
        put(metrics, f"{arm}.success_difference", *success[:3])
        metrics[f"online.{arm}.success_difference.p_value"] = success[3]
        put(metrics, f"{arm}.violation_difference", -0.002, -0.004, 0.001)
        metrics[f"online.{arm}.violation_difference.p_value"] = 0.0001
        metrics[f"online.{arm}.non_inferior"] = int(success[3] <= 0.05)
    put(metrics, "selective.automation_over.selective_margin", *ahead)
    put(metrics, "selective.success_over.selective_margin", 0.0, -0.01, 0.01)
    put(metrics, "selective.by_issue.card_lost.automation_rate", 0.6, 0.5, 0.7)
    metrics["online.selective.by_issue.card_lost.sessions"] = 80
    metrics["online.selective.by_issue.card_lost.success_rate"] = 0.95
    metrics["online.human.by_issue.card_lost.success_rate"] = 0.9
    return metrics


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_what_is_shown_is_claimed() -> None:
    first, quality, beside = map(plain, answers(figures()))
    assert "Of 2,000 cases, 50.0 % (48.0–52.0) were finished without an operator" in first
    assert "123 s a case instead of 227 s: 44.0 % (42.0–46.0) less." in first
    assert "as well as by operators alone is shown." in quality
    assert "done right differs by −0.1 (−0.6 to +0.4) points: not lower by 1 point or more (p = 0.002)" in quality
    assert "broken rule differs by −0.2 (−0.4 to +0.1) points: not higher by 0.5 points or more (p < 0.001)" in quality
    assert "at least 45 % of the sessions automated: shown; at least 39 % of operators’ time saved: shown." in beside
    assert [claim.outcome for claim in claims(figures())] == ["good", "good", "good"]


def test_what_an_interval_does_not_allow_is_not_claimed() -> None:
    """The estimates reach 45 % and 39 %, their intervals do not; success may be lower by the margin."""
    unsure = figures((0.46, 0.44, 0.48), (0.4, 0.38, 0.42), (-0.008, -0.013, -0.003, 0.24))
    _, quality, beside = map(plain, answers(unsure))
    assert "is not shown." in quality
    assert "that it is lower by 1 point is not ruled out (p = 0.240)" in quality
    assert "automated: not shown; at least 39 % of operators’ time saved: not shown." in beside
    assert [claim.outcome for claim in claims(unsure)] == ["fair", "fair", "fair"]
    assert plain(claims(unsure)[0].tag) == "not shown to reach the paper’s 45 %"


def test_what_failed_is_told() -> None:
    failed = figures((0.3, 0.28, 0.32), (0.01, -0.01, 0.03), (-0.03, -0.04, -0.02, 1.0))
    first, _, beside = map(plain, answers(failed))
    assert "that this is less is not shown." in first
    assert "automated: missed; at least 39 % of operators’ time saved: missed." in beside
    assert [claim.outcome for claim in claims(failed)] == ["bad", "bad", "bad"]


def test_the_critic_is_ahead_only_where_the_interval_says_so() -> None:
    def said(*ahead: float) -> str:
        return comparison(rivals(figures(ahead=(ahead[0], ahead[1], ahead[2])), NAMES))

    assert said(0.1, 0.08, 0.12) == "The critic automates more than every other confidence: “margin” (+10.0 points)."
    assert said(0.1, -0.01, 0.21) == "That it automates more is not shown against “margin” (+10.0 points)."
    assert said(-0.1, -0.12, -0.08) == "It automates less than “margin” (−10.0 points)."
    assert comparison([]) == ""


def test_more_automation_at_lower_quality_is_no_victory() -> None:
    metrics = figures(success=(-0.008, -0.013, -0.003, 0.24))
    put(metrics, "selective.success_over.selective_margin", -0.02, -0.03, -0.01)
    said = comparison(rivals(metrics, NAMES))
    assert "Fewer cases are done right than with “margin”, so automation alone does not decide." in said
    assert said.endswith("Not shown to be as good as operators alone: “margin”.")


def picture(figure: Any, anchor: str, description: str, *, caption: str, heading: str) -> Any:
    assert anchor.startswith("online-")
    assert plots.svg(figure, description=description).startswith("<svg")
    return SimpleNamespace(drawing=anchor, caption=caption, heading=heading)


def told(folder: Path, **more: Any) -> Path:
    (folder / "metrics.json").write_text(json.dumps(figures()))
    lines = [{"who": "policy", "text": "Block <it>"}, {"who": "operator", "text": "It is blocked."}]
    story = {"title": "card lost", "success": True, "lines": lines}
    alone = {**story, "lines": [{**line, "who": "policy"} for line in lines]}
    stories = {"automated": alone, "handed_over": {**story, "success": False}}
    (folder / RESULT).write_text(json.dumps({"method": "probe", "stories": stories, **more}))
    return folder


def test_the_page_says_what_the_files_say(tmp_path: Path) -> None:
    page = section(told(tmp_path), picture, "{} score".format)
    assert page is not None
    words = plain(re.sub(r"<[^>]+>", " ", page))
    for anchor in ("arms", "quality", "issues", "reasons", "seconds"):
        assert f"online-{anchor}" in page
    # The arm in the paper's form, with the paper's figures beside it.
    row = plain(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page[page.index('<tr class="own">') :].split("</tr>")[0])))
    assert row.strip() == (
        "selective automation 2,000 50.0 % 48.0–52.0 123.4 120.0–127.0 44.0 % 42.0–46.0 97.0 % 96.0–98.0 "
        "1.0 % 0.6–1.5 45 % 139.1 39 %"
    )
    assert "in place of the score of the probe score" in re.sub(r"\s+", " ", words)
    assert "what the paper reports of its own desk" in re.sub(r"\s+", " ", words)
    assert "lower by less than 1 point, broken rules higher by less than 0.5 points" in re.sub(r"\s+", " ", words)
    # Nobody but the assistant wrote in a session without an operator.
    assert re.findall(r"<b>(\w+)</b>", page) == ["assistant", "assistant", "assistant", "operator"]
    assert "Block &lt;it&gt;" in page
    assert "it went wrong" in page
    for tag in ("table", "tr", "td", "th", "tbody", "ul", "li", "p", "div", "figure", "article"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")


def test_a_run_without_the_arms_has_no_such_part(tmp_path: Path) -> None:
    assert section(tmp_path, picture, str) is None
    told(tmp_path, stories=None)
    page = section(tmp_path, picture, str)
    assert page is not None
    assert "sessions to read" not in page
    (tmp_path / "metrics.json").write_text("{}")
    assert section(tmp_path, picture, str) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    told(tmp_path)
    (tmp_path / RESULT).write_text("{")
    with pytest.raises(HandrailError, match=r"online\.json, .* is damaged"):
        section(tmp_path, picture, str)


def test_parts_of_a_stack_end_where_their_sum_is() -> None:
    figure = stacked([Stack("a", {"x": 1.0, "y": 2.5}), Stack("b", {"y": 1.0})], ["x", "y"], label="s", form="{:.1f} s")
    axes = figure.axes[0]
    ends = [(round(bar.get_x(), 6), round(bar.get_width(), 6)) for bar in axes.patches]
    assert ends == [(0, 1), (1, 2.5), (0, 0), (0, 1)]
    assert [text.get_text() for text in axes.texts] == ["3.5 s", "1.0 s"]


def test_figures_are_left_out_where_there_is_nothing_to_draw() -> None:
    from handrail.experiments.online import paper_table

    metrics = {k: v for k, v in figures().items() if not re.search(r"by_issue|deferred|seconds\.", k)}
    names = {**NAMES, "copilot": "copilot"}
    assert [one.anchor for one in drawings(metrics, paper_table(metrics), names)] == ["arms", "quality"]


def test_numbers_are_written_with_their_intervals() -> None:
    nan = float("nan")
    assert plain(written.share(Interval(0.5, nan, nan))) == "50.0 %"
    assert written.points(Interval(0.0004, -0.01, 0.0104)) == "0.0 (−1.0 to +1.0)"
    assert written.points(Interval(nan, nan, nan)) == "–"
    assert written.ends(Interval(-0.01, -0.02, 0.03)) == "−2.0 to 3.0"
    assert written.p_value(0.0004) == "p < 0.001"
