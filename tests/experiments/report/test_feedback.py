"""The report's part on corrections: numbers as they are in the file, and nothing where there is no file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from handrail.envs.errors import HandrailError
from handrail.experiments.report.feedback import RESULT, section
from handrail.experiments.studies import feedback


def told() -> dict[str, Any]:
    rows = []
    for name in feedback.SETS:
        for measure in feedback.MEASURES:
            first = {"set": name, "measure": measure, "arm": "first", "mean": [0.5, 0.4, 0.6], "over": {}}
            gap = {"by_seed": [0.25], "seeds": [0.25, None, None], "cases": [0.25, 0.125, 0.375]}
            second = {**first, "arm": "a<b", "mean": [0.75, None, None], "over": {"first": gap}}
            rows += [first, second]
    rounds = {"a<b": [[{"sessions": 3.0, "corrections": 1.0, "train.tokens": 1000.0}]] * 2}
    return {"arms": ["first", "a<b"], "rows": rows, "rounds": rounds, "hard": {"0": ["recall/2"], "1": ["two_issues"]}}


def test_it_says_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text(json.dumps(told()))
    page = section(tmp_path)
    assert page is not None
    assert page.count("50.0 % (40.0 % to 60.0 %)") == 8
    assert page.count("+25.0<br>") == 8
    assert page.count("+25.0 (+12.5 to +37.5)") == 8
    assert "recall/2" in page
    assert "1,000" in page
    assert "each of the 2 seeds" in page
    # Names are text, not markup, and every element that is opened is closed.
    assert "a&lt;b" in page
    assert "a<b" not in page
    for tag in ("table", "tr", "td", "th", "tbody", "details", "ul", "li", "p"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")


def test_a_run_without_the_study_has_no_such_part(tmp_path: Path) -> None:
    assert section(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "{}", '{"arms": [], "rows": [], "rounds": 3, "hard": {}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(HandrailError, match=r"feedback\.json.* is damaged"):
        section(tmp_path)
