"""The figure of one operator before many sessions, drawn from metrics alone."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from handrail.agents.supervision import Timeline, Visit, sweep, sweep_metrics
from handrail.experiments.report import plots
from handrail.experiments.report.supervision import draw, read_lines


@pytest.fixture(scope="module")
def metrics() -> dict[str, float]:
    found: dict[str, float] = {"critic.probe.auroc": 0.9}
    for arm, away in (("selective", 30.0), ("human", 3.0), ("by_hand", 10.0)):
        rng = np.random.default_rng(0)
        timelines = [
            Timeline(tuple(Visit(float(a), float(s)) for a, s in rng.exponential((away, 4.0), (3, 2))))
            for _ in range(200)
        ]
        found |= sweep_metrics(f"bank.supervision.{arm}", sweep(timelines, 1.0))
    return found


def test_arms_are_read_in_the_order_people_know(metrics: dict[str, float]) -> None:
    lines = read_lines(metrics, "bank.supervision")
    assert [line.name for line in lines] == ["operators alone", "selective automation", "by hand"]
    for line, arm in zip(lines, ("human", "selective", "by_hand"), strict=True):
        assert line.slots == [1, 2, 4, 8, 16]
        assert line.rate[3] == metrics[f"bank.supervision.{arm}.8.sessions_per_hour"]
        assert line.wait[2] == metrics[f"bank.supervision.{arm}.4.wait_mean"]
        assert line.late[2] == metrics[f"bank.supervision.{arm}.4.wait_p95"]
        assert line.lasts[0] == metrics[f"bank.supervision.{arm}.1.duration_mean"] / 60
        assert line.low[1] < line.rate[1] < line.high[1]
        assert np.isnan(line.low[4])


def test_the_figure_says_what_it_shows(metrics: dict[str, float]) -> None:
    drawing = draw(metrics, "bank.supervision")
    assert drawing is not None
    text = plots.svg(drawing.figure, description=drawing.description)
    again = draw(metrics, "bank.supervision")
    assert again is not None
    assert text == plots.svg(again.figure, description=again.description)
    written = [element.text for element in ElementTree.fromstring(text).iter() if element.tag.endswith("}text")]
    for words in ("operators alone", "by hand", "sessions at once", "sessions an operator-hour", "16"):
        assert words in written, words
    rate = metrics["bank.supervision.human.16.sessions_per_hour"]
    assert (
        f"operators alone: {metrics['bank.supervision.human.1.sessions_per_hour']:.1f} sessions" in drawing.description
    )
    assert f"{rate:.1f} at 16" in drawing.description
    assert "Shaded" in drawing.caption


def test_titles_and_legend_stay_on_the_figure(metrics: dict[str, float]) -> None:
    drawing = draw(metrics, "bank.supervision")
    assert drawing is not None
    drawing.figure.draw_without_rendering()
    boxes = [box for box in (axes.get_tightbbox() for axes in drawing.figure.axes) if box is not None]
    assert len(boxes) == 3
    assert all(one.x1 <= other.x0 for one, other in pairwise(boxes))
    assert boxes[-1].x1 <= drawing.figure.bbox.x1


def test_without_intervals_there_is_no_word_of_them(metrics: dict[str, float], tmp_path: Path) -> None:
    bare = {key: value for key, value in metrics.items() if ".ci_" not in key and ".wait_p95" not in key}
    drawing = draw(bare, "bank.supervision")
    assert drawing is not None
    assert "Shaded" not in drawing.caption
    plots.save_png(drawing.figure, tmp_path / "plot.png", dpi=50)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing(metrics: dict[str, float]) -> None:
    assert draw({}) is None
    assert draw(metrics) is None
