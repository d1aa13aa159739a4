"""Pictures of pages, taken by headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from handrail.envs.errors import HandrailError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Commands that are looked for, after the one in `HANDRAIL_CHROMIUM`."""

SECONDS = 60.0
"""A browser that takes longer has hung."""


def find_chromium() -> str | None:
    """Return the path of Chromium, `None` if there is none.

    Raises:
        HandrailError: `HANDRAIL_CHROMIUM` names no program.
    """
    named = os.environ.get("HANDRAIL_CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            raise HandrailError(
                f"HANDRAIL_CHROMIUM={named} is no program that can be run; name a Chromium, or unset it"
            )
        return found
    return next(filter(None, map(shutil.which, NAMES)), None)


def screenshot(page: str, width: int = 1280, height: int = 800) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture of a page.

    Each call starts a browser, which takes about a second.

    Args:
        page: an HTML document that needs no other files.
        width: of the window, pixels, >= 1.
        height: of the window, pixels, >= 1.

    Returns:
        Array of shape (height, width, 3), red, green and blue in 0..255.

    Raises:
        HandrailError: there is no Chromium, or it fails.
    """
    program = find_chromium()
    if program is None:
        raise HandrailError(
            f"a picture of the desk needs Chromium, and none of {', '.join(NAMES)} is installed; install one "
            "(apt-get install chromium), name it in HANDRAIL_CHROMIUM, or use render_mode='html' or 'ansi'"
        )
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="handrail-") as folder:
        source, picture = Path(folder, "page.html"), Path(folder, "page.png")
        source.write_text(page, encoding="utf-8")
        command = [
            program,
            "--headless",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={Path(folder, 'profile')}",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
        ]
        # Chromium refuses to sandbox itself under root, as in containers; the page is our own.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")
        try:
            done = subprocess.run([*command, source.as_uri()], capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise HandrailError(f"{program} did not take a picture within {SECONDS:.0f} s") from None
        if done.returncode or not picture.is_file():
            raise HandrailError(f"{program} took no picture: {done.stderr.decode(errors='replace').strip()[-400:]}")
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
    # The last rows of the window may be missing in some releases: what is not there is white.
    filled = np.full((height, width, 3), 255, np.uint8)
    rows, columns = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    filled[:rows, :columns] = pixels[:rows, :columns]
    return filled
