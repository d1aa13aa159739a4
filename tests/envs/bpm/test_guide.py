"""The guide builds a working domain, and says of every key what is true."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest

import handrail.envs  # noqa: F401 (registers the environments)
from handrail.agents.operators.expert import STYLES, Expert, finish
from handrail.envs.bpm import domain as form
from handrail.envs.bpm import expressions, load
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "domain_guide.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
FILES = {m[1]: text for kind, text in BLOCKS if kind == "yaml" and (m := re.match(r"# hotel/(\S+)\n", text))}
STRUCTS = [
    kind
    for kind in vars(form).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not kind.__name__.startswith("_")
]


@pytest.fixture
def hotel(tmp_path: Path) -> Path:
    folder = tmp_path / "hotel"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_guide_builds_a_domain_of_two_issues(hotel: Path) -> None:
    domain = load.load_domain(hotel)
    assert domain.name == "hotel"
    assert list(domain.issues) == ["late_checkout", "cancellation"]


@pytest.mark.parametrize("style", sorted(STYLES))
def test_the_expert_works_its_cases(hotel: Path, style: str) -> None:
    domain = load.load_domain(hotel)
    rng = np.random.default_rng(7)
    outcomes = set()
    for issue in domain.issues:
        for seed in range(40):
            world = World(domain, draw_case(domain, rng, issue))
            assert finish(world, Expert(style, seed)) is not None
            assert world.success, (issue, seed, world.outcome, world.violations)
            outcomes.add((issue, world.outcome))
    assert outcomes == {(issue, outcome) for issue in domain.issues for outcome in domain.desk.outcomes}


def test_doing_nothing_is_no_success(hotel: Path) -> None:
    env = gymnasium.make("handrail/BPM-v0", domain=str(hotel))
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step({"tool": "click", "target": "close:resolved"})
    assert terminated
    assert reward == 0
    assert info["success"] is False


def test_the_program_in_the_guide_runs(hotel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hotel.parent)
    (program,) = (text for kind, text in BLOCKS if kind == "python")
    with contextlib.redirect_stdout(printed := io.StringIO()):
        exec(program, {})
    assert printed.getvalue().split()[1] == "True"


def test_customers_write_the_language_of_the_guide(hotel: Path) -> None:
    (words,) = (text for kind, text in BLOCKS if kind == "yaml" and text.startswith("languages:"))
    (hotel / "german.yaml").write_text(words, encoding="utf-8")
    env = gymnasium.make("handrail/BPM-v0", domain=str(hotel), issues=["cancellation"], customer={"language": "de"})
    observation, _ = env.reset(seed=1)
    assert "buchung" in " ".join(e.text for e in observation.events).lower() or "absagen" in str(observation.events)


def test_the_mistake_in_the_guide_is_told_as_it_says(hotel: Path) -> None:
    path = hotel / "procedures.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("booking.arrival) < 3", "booking.arival) < 3"))
    with pytest.raises(HandrailError) as error:
        load.load_domain(hotel)
    (shown,) = (text.strip() for kind, text in BLOCKS if kind == "text")
    without_line = re.compile(r"(?<=\.yaml):\d+")
    assert without_line.sub("", shown) in without_line.sub("", str(error.value))


def rows(*heads: str) -> dict[str, list[str]]:
    """The rows of the guide's tables whose head begins with one of `heads`, by key; several keys may share a row."""
    found: dict[str, list[str]] = {}
    for head in heads:
        for table in re.findall(rf"^\| {re.escape(head)}[^\n]*\|\n\|[-|]+\|\n((?:\|[^\n]*\|\n)+)", GUIDE, re.MULTILINE):
            for line in table.splitlines():
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                for key in re.findall(r"`(\w+)`", cells[0]):
                    found[key] = cells[1:]
    return found


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_key_is_documented(struct: type[msgspec.Struct]) -> None:
    keys = {field.name for field in msgspec.structs.fields(struct)} - ({"name"} if struct is Domain else set())
    assert {key for key in keys if f"`{key}`" not in GUIDE} == set()


@pytest.mark.parametrize(
    ("struct", "heads"),
    [
        (form.RecordType, ["key of a type"]),
        (form.Screen, ["key of a screen"]),
        (form.Table, ["key of a table"]),
        (form.Form, ["key of a form"]),
        (form.Field, ["key of a field"]),
        (form.Fact, ["key of a fact"]),
        (form.Generator, ["key | draws"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tables_have_a_row_for_each_key(struct: type[msgspec.Struct], heads: list[str]) -> None:
    assert set(rows(*heads)) == {field.name for field in msgspec.structs.fields(struct)} - {"or_none"}


@pytest.mark.parametrize(
    ("struct", "head"),
    [
        (form.RecordType, "key of a type"),
        (form.Screen, "key of a screen"),
        (form.Form, "key of a form"),
        (form.Field, "key of a field"),
        (form.Fact, "key of a fact"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults_are_those_of_the_format(struct: type[msgspec.Struct], head: str) -> None:
    told = rows(head)
    for field in msgspec.structs.fields(struct):
        cell = told[field.name][0].strip("`")
        if field.required:
            assert cell == "needed", field.name
            continue
        assert cell != "needed", field.name
        default: Any = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if isinstance(default, bool):
            assert cell == str(default).lower(), field.name
        elif isinstance(default, int | float):
            assert float(cell) == default, field.name
        elif isinstance(default, list):
            assert cell == str(default), field.name


def test_the_language_is_documented() -> None:
    for name in ("times", *expressions._FUNCTIONS):
        assert f"`{name}(" in GUIDE, name


def test_sections_and_small_talk_are_documented() -> None:
    for name in (*load._SECTIONS, *form.Small.__struct_fields__):
        assert f"`{name}`" in GUIDE, name
