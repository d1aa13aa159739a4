"""What tests share. Tests mirror the folders of the library and import it as `handrail.…`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Runs of tests are not recorded; those that test the recording say so.
os.environ["WANDB_MODE"] = "disabled"

CHECKOUT = Path(__file__).resolve().parent.parent


def _data_folder() -> Path | None:
    """The folder with the public logs: HANDRAIL_DATA, or `../shared/data` beside the checkout."""
    named = os.environ.get("HANDRAIL_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def _source(name: str) -> Path:
    folder = _data_folder()
    if folder is None or not (folder / name).is_dir():
        pytest.skip(f"no {name}/ in HANDRAIL_DATA ({folder}); the README says how to get the data")
    return folder / name


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return CHECKOUT


@pytest.fixture(scope="session")
def star_root() -> Path:
    """The real STAR logs; the test is skipped without them."""
    return _source("star")


@pytest.fixture(scope="session")
def ui_logs_root() -> Path:
    """The real UI event logs; the test is skipped without them."""
    return _source("ui_logs")
