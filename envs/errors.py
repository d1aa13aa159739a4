"""Errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HandrailError(Exception):
    """A mistake in input or options, told without a traceback.

    The message says what is wrong, where, the offending value, what was expected and what to do next.
    """


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `"; did you mean a, b?"` for the known names nearest to `name`, or the list of all if none is near."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=limit, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(close)}?"
    return f"; known: {', '.join(choices)}" if choices else ""
