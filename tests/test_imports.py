"""Rooms import one way, and only as `handrail.…`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOMS = ["envs", "agents", "algorithms", "experiments"]
"""A room may import itself and those before it."""


def imported(source: str) -> list[str]:
    """Dotted names that `source` imports, at any level of nesting; `from a import b` counts as `a.b`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def wrong_imports(room: str, source: str) -> list[str]:
    later = ROOMS[ROOMS.index(room) + 1 :]
    bare = [name for name in imported(source) if name.split(".")[0] in [*ROOMS, "conf"]]
    upward = [name for name in imported(source) if name.startswith(tuple(f"handrail.{other}" for other in later))]
    return bare + upward


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room: str, checkout: Path) -> None:
    files = sorted((checkout / room).rglob("*.py"))
    assert files
    found = {str(path.relative_to(checkout)): wrong_imports(room, path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("envs", "from handrail.agents import policy", ["handrail.agents.policy"]),
        ("envs", "from handrail import agents", ["handrail.agents"]),
        ("agents", "def f():\n    import handrail.algorithms.sft", ["handrail.algorithms.sft"]),
        ("experiments", "import envs", ["envs"]),
        ("algorithms", "from handrail.agents import policy\nimport handrail.envs.schema", []),
    ],
)
def test_the_check_sees_each_kind_of_wrong_import(room: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports(room, source) == wrong
