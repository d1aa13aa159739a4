"""What the documents say exists, and examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from handrail import cli

ROOMS = ["envs", "agents", "algorithms", "experiments"]
CHECKOUT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def examples() -> list[str]:
    """Dotted names of the modules whose source holds an example."""
    paths = [path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py") if ">>> " in path.read_text()]
    return sorted("handrail." + ".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for path in paths)


def test_the_cluster_example_has_the_form_that_ray_asks_for() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((CHECKOUT / "docs" / "ray_cluster.yaml").read_text()), schema)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = [link for link in LINK.findall(document.read_text()) if "://" not in link and "mailto:" not in link]
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"(?:`|^)handrail ([a-z]+)", text, re.MULTILINE)) <= set(cli.available())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_named_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:envs|agents|algorithms|experiments|conf)/[a-z0-9_/]+\.(?:py|yaml))`", text)
    assert [path for path in named if not (CHECKOUT / path).exists()] == []


@pytest.mark.parametrize("module", examples())
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
