"""Numbers as a reader of a report wants them: shares in percent, differences in points, each with its interval."""

from __future__ import annotations

import math

from handrail.algorithms.bootstrap import Interval


def percent(value: float, digits: int = 1) -> str:
    """Write a share in percent, a dash for what is missing."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%" if math.isfinite(value) else "–"


def number(value: float, digits: int = 1) -> str:
    """Write a number, a dash for what is missing."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def ends(interval: Interval, scale: float = 100) -> str:
    """Write the ends of an interval, in percent unless `scale` is 1; nothing if they are unknown."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    low, high = (f"{scale * end:.1f}" for end in interval[1:])
    return f"{low}–{high}" if interval.low >= 0 else f"{low} to {high}".replace("-", "−")


def share(interval: Interval) -> str:
    """Write a share in percent with its interval."""
    between = ends(interval)
    return f"{percent(interval.estimate)} ({between})" if between else percent(interval.estimate)


def signed(difference: float) -> str:
    """Write a difference of shares in points with its sign; one that rounds to nothing has none."""
    if not math.isfinite(difference):
        return "–"
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def points(interval: Interval) -> str:
    """Write a difference of shares in points with its interval."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return signed(interval.estimate)
    return f"{signed(interval.estimate)} ({signed(interval.low)} to {signed(interval.high)})"


def p_value(value: float) -> str:
    """Write the result of a test."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
