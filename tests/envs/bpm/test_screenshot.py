"""Pictures of pages; those that need a browser are slow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handrail.envs.bpm.screenshot import find_chromium, screenshot
from handrail.envs.errors import HandrailError


def test_without_chromium_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HANDRAIL_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_chromium() is None
    with pytest.raises(HandrailError, match=r"needs Chromium.*apt-get install chromium.*render_mode"):
        screenshot("<p>x</p>")


def test_a_wrong_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDRAIL_CHROMIUM", "no-such-browser")
    with pytest.raises(HandrailError, match="HANDRAIL_CHROMIUM=no-such-browser is no program"):
        screenshot("<p>x</p>")


def test_a_browser_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("HANDRAIL_CHROMIUM", str(program))
    with pytest.raises(HandrailError, match="took no picture: out of memory"):
        screenshot("<p>x</p>")


@pytest.mark.slow
def test_a_picture() -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    page = "<body style='margin:0;background:#ff0000'><div style='height:50px;background:#0000ff'></div></body>"
    picture = screenshot(page, 200, 100)
    assert picture.shape == (100, 200, 3)
    assert picture.dtype == np.uint8
    assert picture[10, 100].tolist() == [0, 0, 255]
    assert picture[75, 100].tolist() == [255, 0, 0]
