from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from handrail.envs.bpm import load
from handrail.envs.errors import HandrailError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the smallest domain, to be spoilt."""
    return Path(shutil.copytree(load.FOLDER / "mock", tmp_path / "desk"))


def spoil(folder: Path, old: str, new: str, file: str = "desk.yaml") -> None:
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def error_of(folder: Path | str) -> str:
    with pytest.raises(HandrailError) as error:
        load.load_domain(folder)
    return str(error.value)


def line_of(folder: Path, text: str, file: str = "desk.yaml") -> int:
    lines = (folder / file).read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize("name", load.names())
def test_every_shipped_domain_loads(name: str) -> None:
    domain = load.load_domain(name)
    assert domain.name == name
    assert load.load_domain(name) is domain
    assert load.load_domain(load.FOLDER / name) is domain


def test_the_shipped_domains_are_found() -> None:
    assert {"bank", "mock", "telecom"} <= set(load.names())


def test_a_folder_is_a_domain_of_its_name(folder: Path) -> None:
    domain = load.load_domain(str(folder))
    assert domain.name == "desk"
    assert domain.issues == load.load_domain("mock").issues


def test_a_changed_file_is_read_again(folder: Path) -> None:
    first = load.load_domain(folder)
    spoil(folder, "Elmfield Library", "Oakfield Library")
    os.utime(folder / "desk.yaml", ns=(1, 1))
    assert first.desk.title == "Elmfield Library"
    assert load.load_domain(folder).desk.title == "Oakfield Library"


def test_sections_may_be_spread_over_files(folder: Path) -> None:
    (folder / "more.yaml").write_text("rules:\n  more: {never: [renew], when: today < '2020-01-01', text: No.}\n")
    assert "unknown" not in (told := error_of(folder))
    assert "more.yaml:2: rules.more.when: guard `today < '2020-01-01'` never holds" in told


def test_an_entry_in_two_files_is_an_error(folder: Path) -> None:
    (folder / "more.yaml").write_text("templates:\n  ask_book: {text: Which?}\n")
    assert "templates.ask_book: `ask_book` is also in more.yaml" in error_of(folder)


@pytest.mark.parametrize(
    ("old", "new", "path", "told"),
    [
        ("kind: select", "kind: selct", "screens.loans.forms[0].fields[0].kind", "did you mean select?"),
        ("label: Renew", "lable: Renew", "screens.loans.forms[0].lable", "unknown key `lable`; did you mean label"),
        ("two_issues: 0.2", "two_issues: often", "desk.two_issues", "expected a number, got 'often'"),
        ("needs: [loan]", "needs: loan", "screens.loans.forms[0].needs", "expected a list, each text, got 'loan'"),
        ("title: Loans", "title: 3", "screens.loans.title", "expected text, got 3; put it in quotes"),
        ("title: Loans", "title:", "screens.loans.title", "nothing is given after the colon"),
        ("required: true", "required: yes", "screens.search.forms[0].fields[0].required", "expected true or false"),
        ("  title: Elmfield Library\n", "", "desk", "`title` is missing: text"),
        (
            'options: ["1", "2", "4"]',
            "options: [1, 2]",
            "screens.loans.forms[0].fields[0].options[0]",
            "put it in quotes",
        ),
        ("rules:", "ruels:", "ruels", "unknown section `ruels`; did you mean rules"),
        ("  home: search", "  home: search\n  home: member", "desk.home", "given twice; the second is on line"),
    ],
)
def test_values_of_the_wrong_form_are_told_with_place_and_remedy(
    folder: Path, old: str, new: str, path: str, told: str
) -> None:
    spoil(folder, old, new)
    message = error_of(folder)
    assert f"{path}: " in message
    assert told in message


def test_the_line_of_a_mistake_is_told(folder: Path) -> None:
    spoil(folder, "kind: select", "kind: selct")
    assert f"desk.yaml:{line_of(folder, 'selct')}: screens.loans" in error_of(folder)


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    spoil(folder, "two_issues: 0.2", "two_issues: often")
    spoil(folder, "kind: select", "kind: selct")
    assert "domain desk: 2 problems" in error_of(folder)


def test_scalars_are_those_of_yaml_1_2(folder: Path) -> None:
    spoil(
        folder,
        "case: {identified: false}",
        "case: {identified: false, a: no, b: 2025-03-01, c: 12:30, d: ~, e: 1e3, f: 010}",
    )
    case = load.load_domain(folder).desk.case
    assert case == {"identified": False, "a": "no", "b": "2025-03-01", "c": "12:30", "d": None, "e": 1000.0, "f": 10}


def test_plain_values_stand_for_expressions(folder: Path) -> None:
    spoil(folder, 'concerns: {customer: "true"}', "concerns: {customer: true}", "issues.yaml")
    assert load.load_domain(folder).issues["change_email"].concerns == {"customer": "true"}


def test_anchors_and_merges_work(folder: Path) -> None:
    spoil(folder, "      born: *born\n", "      born:\n        <<: *born\n        volunteer: 0.5\n", "issues.yaml")
    fact = load.load_domain(folder).issues["renew_loan"].facts["born"]
    assert fact.value == "customer.born"
    assert fact.volunteer == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("desk: [", "not readable as YAML: line 2"),
        ("just text", "expected sections"),
        ("", "this section is missing"),
    ],
)
def test_files_that_are_no_domain_are_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "desk.yaml").write_text(text)
    assert told in error_of(tmp_path)


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "desk.yaml").write_bytes(b"desk: \xff\xfe")
    assert "not UTF-8 at byte 6" in error_of(tmp_path)


def test_what_is_no_domain_is_told(tmp_path: Path, folder: Path) -> None:
    assert "did you mean telecom?" in error_of("telekom")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no *.yaml files" in error_of(empty)
    assert "is a file; a domain is a folder" in error_of(folder / "desk.yaml")
