from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from handrail.algorithms.bootstrap import Interval
from handrail.envs.errors import HandrailError
from handrail.experiments.report.build import SOURCES, Answer, build_report

MakeRun = Callable[..., Path]

SECTIONS = [
    "answer",
    "asked",
    "data",
    "policy",
    "curves",
    "critics",
    "reliability",
    "issues",
    "examples",
    "measured",
    "provenance",
]
VOID = {"meta", "br", "path", "circle", "use", "img", "hr", "col"}


class Page(HTMLParser):
    """What a page holds; raises if elements are not closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "section":
            self.sections.append(given["id"] or "")
        if "id" in given:
            self.ids.append(given["id"] or "")
        if given.get("role") == "img":
            self.labels.append(given.get("aria-label") or "")
        self.links += [given[name] or "" for name in ("href", "src", "xlink:href") if name in given]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "text", "tspan"):
            self.words.append(data)


def page(folder: Path) -> Page:
    return Page(build_report(folder).read_text(encoding="utf-8"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def whole(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(finished, folder)
    return folder, page(folder)


def test_a_complete_run_gives_every_section_in_order(whole: tuple[Path, Page]) -> None:
    found = whole[1]
    assert found.sections == SECTIONS
    assert found.links[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]


def test_nothing_outside_the_file_is_asked_for(whole: tuple[Path, Page]) -> None:
    folder, found = whole
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert found.links
    assert all(link.startswith("#") for link in found.links)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(found.tags)
    assert "http" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


def test_ids_are_unique_and_references_resolve(whole: tuple[Path, Page]) -> None:
    folder, found = whole
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert len(found.ids) == len(set(found.ids))
    targets = {link.removeprefix("#") for link in found.links} | set(re.findall(r"url\(#([^)]*)\)", text))
    assert len(targets) > len(SECTIONS)
    assert targets <= set(found.ids)


def test_figures_can_be_read_aloud_and_tables_have_captions(whole: tuple[Path, Page]) -> None:
    found = whole[1]
    # Curves, reliability and issues, each for three sources of verdicts.
    assert len(found.labels) == 9
    assert all(len(label) > 40 for label in found.labels)
    assert found.tags.count("caption") == found.tags.count("table")


def test_the_headline_repeats_the_metrics(whole: tuple[Path, Page]) -> None:
    folder, found = whole
    metrics = json.loads((folder / "metrics.json").read_text())
    for source in ("critic", "critic_recorded", "critic_recorded_draft"):
        coverage, precision = (metrics[f"{source}.full.certified.95.{key}"] for key in ("coverage", "precision"))
        assert f"{100 * coverage:.1f} % {SOURCES[source].claim}, at a target of 95 % right ones" in found.text
        assert f"{100 * precision:.1f} % of them were right" in found.text


def test_steps_in_the_headline_are_counted_from_the_decisions(whole: tuple[Path, Page]) -> None:
    folder, found = whole
    rows = pd.read_parquet(folder / "decisions.parquet")
    threshold = json.loads((folder / "certificates.json").read_text())["critic"]["full"]["0.95"]["threshold"]
    test = rows[(rows["split"] == "test") & rows["critical"]]
    ran = test[test["score_full"] >= threshold]
    wrong = (~ran["correct"]).sum()
    words = f"{len(ran):,} of {len(test):,} critical steps; the operator did something else in {wrong} of them"
    assert words in found.text


def test_policy_and_baselines_are_ranked_with_their_differences(whole: tuple[Path, Page]) -> None:
    text = whole[1].text
    places = [text.index(name) for name in ("TF-IDF + logistic regression", "back-off counts", "most frequent action")]
    assert places == sorted(places)
    metrics = json.loads((whole[0] / "metrics.json").read_text())
    assert f"{100 * metrics['policy.action_accuracy_over.majority']:+.1f}" in text


def test_twenty_examples_are_shown(whole: tuple[Path, Page]) -> None:
    found = whole[1]
    assert found.tags.count("article") == 20
    for title in ("Worst confident errors (10)", "Ran alone, rightly (5)", "Handed to the operator (5)"):
        assert title in found.text


def test_building_again_gives_the_same_bytes(whole: tuple[Path, Page]) -> None:
    folder = whole[0]
    before = (folder / "report.html").read_bytes()
    assert build_report(folder).read_bytes() == before


@pytest.mark.parametrize(
    ("names", "sections"),
    [
        (["config.yaml"], ["measured", "provenance"]),
        (["examples.json"], ["examples", "measured"]),
        (["summary.json"], ["asked", "data", "measured"]),
        (["metrics.json"], ["policy", "critics", "measured"]),
        (["decisions.parquet"], ["curves", "measured"]),
        (["certificates.json"], ["answer", "measured"]),
        (["certificates.json", "decisions.parquet"], ["answer", "curves", "reliability", "issues", "measured"]),
    ],
)
def test_a_section_without_its_file_is_absent(make_run: MakeRun, names: list[str], sections: list[str]) -> None:
    assert page(make_run(*names)).sections == sections


def test_an_empty_run_directory_gives_a_report(tmp_path: Path) -> None:
    assert page(tmp_path).sections == ["measured"]


def test_baselines_and_slices_may_be_missing(make_run: MakeRun) -> None:
    folder = make_run("metrics.json")
    (folder / "metrics.json").write_text('{"policy.tool_accuracy": 0.5}')
    found = page(folder)
    assert found.sections == ["policy", "measured"]
    assert "50.0 %" in found.text


def test_only_test_rows_as_evaluate_leaves_them(make_run: MakeRun) -> None:
    folder = make_run("certificates.json", "decisions.parquet")
    rows = pd.read_parquet(folder / "decisions.parquet")
    rows[rows["split"] == "test"].to_parquet(folder / "decisions.parquet")
    assert page(folder).sections == ["answer", "curves", "reliability", "issues", "measured"]


def test_what_cannot_be_certified_is_said(make_run: MakeRun) -> None:
    folder = make_run("certificates.json", "decisions.parquet", "metrics.json")
    certificates = json.loads((folder / "certificates.json").read_text())
    for target in ("0.95", "0.98", "0.99"):
        certificates["critic"]["full"][target] |= {"threshold": None, "reason": f"cannot be certified: why {target}"}
    (folder / "certificates.json").write_text(json.dumps(certificates))
    text = page(folder).text
    assert "Cannot be certified at a target of 95 % right ones" in text
    assert "At 90 % it can" in text
    assert "cannot be certified: why 0.98" in text
    assert "certified for 90 % precision over all issues (95 % cannot be certified)" in text


def test_nothing_certified_leaves_automation_by_issue_out(make_run: MakeRun) -> None:
    folder = make_run("certificates.json", "decisions.parquet")
    certificates = json.loads((folder / "certificates.json").read_text())
    for fields in certificates["critic"]["full"].values():
        fields |= {"threshold": None, "precision": None}
    certificates = {"deployed": certificates["deployed"], "critic": certificates["critic"]}
    (folder / "certificates.json").write_text(json.dumps(certificates))
    found = page(folder)
    assert "issues" not in found.sections
    assert "None of the targets can (90 %, 95 %, 98 %, 99 %)" in found.text


@pytest.mark.parametrize(
    ("precision", "outcome"),
    [
        (Interval(0.95, 0.94, 0.96), "good"),
        (Interval(0.949, 0.93, 0.951), "fair"),
        (Interval(0.94, 0.93, 0.949), "bad"),
        (Interval(float("nan"), float("nan"), float("nan")), "none"),
    ],
)
def test_a_reached_precision_is_compared_with_its_target(precision: Interval, outcome: str) -> None:
    answer = Answer(0.95, {"threshold": 0.8}, Interval(0.5, 0.4, 0.6), precision, 100, 50, 2)
    assert answer.outcome[0] == outcome


def test_texts_from_logs_cannot_become_markup(make_run: MakeRun) -> None:
    folder = make_run(
        "certificates.json", "config.yaml", "decisions.parquet", "examples.json", "provenance.json", "summary.json"
    )
    evil = "<script>alert('x')</script>\"><img src=x>"
    examples = json.loads((folder / "examples.json").read_text())
    examples[0] |= {"title": evil, "suggestion": evil, "operator_did": evil, "verdict": "reject"}
    examples[0]["context"] = [{"who": evil, "text": evil}]
    examples[0]["group"] = evil
    (folder / "examples.json").write_text(json.dumps(examples))
    edit(folder / "summary.json", question=evil, notes=[evil], data={"problems": {evil: 3}, "note": evil})
    edit(folder / "provenance.json", argv=[evil], commit=evil)
    (folder / "config.yaml").write_text(evil)
    rows = pd.read_parquet(folder / "decisions.parquet")
    rows["issue"] = np.where(rows["issue"] == "trivia", evil, rows["issue"])
    rows[f"score_{evil}"] = rows["score_full"]
    rows.to_parquet(folder / "decisions.parquet")
    found = page(folder)
    assert not {"script", "img"} & set(found.tags)
    assert found.text.count("alert('x')") >= 10


def test_dollar_signs_in_names_are_no_formula(make_run: MakeRun) -> None:
    folder = make_run("certificates.json", "decisions.parquet")
    rows = pd.read_parquet(folder / "decisions.parquet")
    rows["issue"] = np.where(rows["issue"] == "trivia", r"$\undefined{$", rows["issue"])
    rows.to_parquet(folder / "decisions.parquet")
    assert r"$\undefined{$" in build_report(folder).read_text()


def test_coverage_and_precision_of_an_issue_are_those_of_its_rows(make_run: MakeRun) -> None:
    folder = make_run("certificates.json", "decisions.parquet")
    # Six critical test steps of one issue: four run, one of them wrong.
    scores = [0.9, 0.9, 0.8, 0.7, 0.3, 0.2]
    rows = pd.DataFrame(
        {
            "session_id": list("aabbcc"),
            "step": [0, 1, 0, 1, 0, 1],
            "issue": "refund",
            "split": "test",
            "tool": "send_reply",
            "critical": True,
            "correct": [True, True, True, False, False, True],
            "verdict": "accept",
            "score_full": scores,
        }
    )
    rows.to_parquet(folder / "decisions.parquet")
    certificate = {"threshold": 0.7, "n_accepted": 100, "n_errors": 0, "coverage": 0.7, "precision": 1.0, "delta": 0.05}
    certificates = {"critic": {"full": {"0.95": certificate}}, "deployed": {"critic": "full"}}
    (folder / "certificates.json").write_text(json.dumps(certificates))
    text = page(folder).text
    assert "4 of 6 critical steps; the operator did something else in 1 of them" in text
    assert re.search(r"refund 6 4 1 66\.7 % \([\d.–]+\) 75\.0 %", text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{", "metrics.json is damaged"),
        ("examples.json", "{}", "examples.json holds a dict; expected a list"),
        ("decisions.parquet", "no parquet", "decisions.parquet is no readable Parquet file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(HandrailError, match=re.escape(message)):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="absent is no folder"):
        build_report(tmp_path / "absent")
