"""What every shipped domain promises: whoever works a case can see what its procedures decide by."""

from __future__ import annotations

import re

import pytest

from handrail.envs.bpm.load import load_domain, names

_DAYS = re.compile(r"days\([^)]*\)")
_READ = re.compile(r"\b(\w+)\.(\w+)\b")


@pytest.mark.parametrize("name", names())
def test_decisions_read_only_what_a_screen_shows(name: str) -> None:
    """Days between two dates count as shown where a screen counts them: nobody is told today's date everywhere."""
    domain = load_domain(name)
    values = [shown.value for screen in domain.screens.values() for shown in screen.shows]
    days = {found for value in values for found in _DAYS.findall(value)}
    fields = {found for value in values for found in _READ.findall(value)}
    unseen = []
    for title, procedure in domain.procedures.items():
        for place, node in procedure.nodes.items():
            for branch in node.decide or []:
                read = branch.when or ""
                unseen += [(title, place, found) for found in _DAYS.findall(read) if found not in days]
                unseen += [
                    (title, place, ".".join(found))
                    for found in _READ.findall(read)
                    if found[0] in domain.records and found not in fields
                ]
    assert not unseen
