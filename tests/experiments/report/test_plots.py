from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from handrail.algorithms.selective import coverage_curve, precision_band, reliability_bins
from handrail.experiments.report import plots


def simulated(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    correct = rng.random(n) < 0.8
    return 1 / (1 + np.exp(-rng.normal(size=n) - 2 * correct)), correct


def curves(count: int = 3) -> list[plots.MethodCurve]:
    scores, correct = simulated()
    grid = np.linspace(0.05, 1, 20)
    low, high = precision_band(scores, correct, None, grid, np.random.default_rng(0), resamples=50)
    points = [plots.CertifiedPoint(0.95, 0.5, 0.96)]
    names = ("critic & probe", "TF-IDF", "margin")
    return [plots.MethodCurve(name, coverage_curve(scores, correct), grid, low, high, points) for name in names[:count]]


FIGURES: dict[str, Callable[[], object]] = {
    "coverage": lambda: plots.coverage_precision(curves(), title="How much", targets=(0.9, 0.95, 0.98, 0.99)),
    "coverage of nothing": lambda: plots.coverage_precision([plots.MethodCurve("none", coverage_curve([], []))]),
    "reliability": lambda: plots.reliability(reliability_bins(*simulated()), title="Calibration"),
    "bars": lambda: plots.bars(
        [plots.Bar("bank", 0.4, 0.3, 0.5, "12 steps"), plots.Bar("hotel", float("nan"))], title="Automation"
    ),
    "no bars": lambda: plots.bars([], maximum=None),
    "histogram": lambda: plots.score_histogram(*simulated(), title="Scores", threshold=0.5),
    "histogram of one value": lambda: plots.score_histogram([1.0, 1.0, -np.inf], [True, False, True]),
    "histogram of nothing": lambda: plots.score_histogram([], []),
}


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_one_element_and_always_the_same(name: str) -> None:
    first, second = (plots.svg(FIGURES[name](), description='a "plot" of <things> & more') for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)
    assert root.tag.endswith("svg")
    assert root.attrib["aria-label"] == 'a "plot" of <things> & more'
    assert "width" not in root.attrib
    assert "<dc:date>" not in first


def texts(figure: object) -> list[str]:
    return [
        element.text or ""
        for element in ElementTree.fromstring(plots.svg(figure)).iter()
        if element.tag[-5:] == "}text"
    ]


def test_methods_and_targets_are_named_on_the_plot() -> None:
    found = texts(FIGURES["coverage"]())
    for words in ("critic & probe", "TF-IDF", "margin", "How much", "95%", "coverage: share of steps executed"):
        assert any(words in text for text in found), words


def test_names_at_line_ends_keep_apart() -> None:
    figure = plots.coverage_precision(curves())
    figure.draw_without_rendering()
    boxes = sorted(
        (
            text.get_window_extent()
            for text in figure.axes[0].texts
            if text.get_text() in ("critic & probe", "TF-IDF", "margin")
        ),
        key=lambda box: box.y0,
    )
    assert len(boxes) == 3
    for lower, upper in pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1
    assert boxes[0].y0 >= figure.axes[0].get_window_extent().y0 - 8


def test_bar_shows_value_interval_and_note() -> None:
    figure = FIGURES["bars"]()
    assert any("40.0%" in text and "12 steps" in text for text in texts(figure))
    axes = figure.axes[0]
    assert axes.patches[0].get_width() == pytest.approx(0.4)
    assert any(list(line.get_xdata()) == [0.3, 0.5] for line in axes.lines)


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    scores, correct = simulated(20_000)
    figure = plots.coverage_precision([plots.MethodCurve("x", coverage_curve(scores, correct))])
    drawn = figure.axes[0].lines[0]
    assert len(drawn.get_xdata()) <= 1500
    assert drawn.get_xdata()[-1] == 1.0
    assert drawn.get_ydata()[-1] == pytest.approx(correct.mean())


def test_png(tmp_path: Path) -> None:
    plots.save_png(FIGURES["bars"](), tmp_path / "deep" / "bars.png")
    assert (tmp_path / "deep" / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bars.png"]


def test_importing_does_not_import_matplotlib() -> None:
    code = "import sys, handrail.experiments.report.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3]).returncode == 0
