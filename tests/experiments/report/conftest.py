"""Synthetic run directories: the files that a study leaves, from sessions that nobody worked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from handrail.experiments import offline

TARGETS = (0.9, 0.95, 0.98, 0.99)
METHODS = {"full": 2.6, "probe": 2.0, "entropy": 1.0}
"""Method -> how far the scores of right and wrong suggestions are apart."""

TABLES = {
    "critic": "decisions.parquet",
    "critic_recorded": "decisions_recorded.parquet",
    "critic_recorded_draft": "decisions_recorded_draft.parquet",
}
ISSUES = ("bank_balance", "hotel_book", "plane_search", "ride_status", "trivia", "weather")
TOOLS = ("send_reply", "send_message", "submit_form", "select_item")


def decisions(sessions: int, accuracy: float, rng: np.random.Generator) -> pd.DataFrame:
    """A decision table as `offline.policy_frame` makes it; half the sessions are for calibration, half for test."""
    lengths = rng.integers(4, 14, sessions)
    session = np.repeat(np.arange(sessions), lengths)
    n = len(session)
    tool = rng.choice(TOOLS, n, p=(0.6, 0.15, 0.15, 0.1))
    issue = rng.integers(len(ISSUES), size=sessions)[session]
    correct = rng.random(n) < accuracy + 0.06 * (issue - 2.5) / 2.5 + rng.normal(0, 0.05, sessions)[session]
    frame = pd.DataFrame(
        {
            "session_id": [f"s{i:04d}" for i in session],
            "step": np.concatenate([np.arange(length) for length in lengths]),
            "issue": np.array(ISSUES)[issue],
            "split": np.where(session % 2 == 0, "calibration", "test"),
            "tool": tool,
            "critical": tool != "select_item",
            "correct": correct,
            "verdict": np.where(correct, "accept", "reject"),
            "kind": rng.choice(["happy", "unhappy", "multi_task"], sessions)[session],
            "operator": rng.integers(4, size=sessions)[session].astype(str),
            "tool_correct": correct | (rng.random(n) < 0.5),
            "suggestion": "Reply “ask_name”: What is your name?",
            "logged": "Write: Could you tell me your name, please?",
        }
    )
    for name, share in (("majority", 0.2), ("backoff", 0.6), ("tfidf", 0.8)):
        frame[f"baseline_{name}_correct"] = correct & (rng.random(n) < share)
        frame[f"baseline_{name}_tool_correct"] = frame["tool_correct"] & (rng.random(n) < 0.5 + share / 2)
    for name, distance in METHODS.items():
        logit = distance * (correct - 0.5) * 1.6 + rng.normal(0, 1.0, n) + np.log(accuracy / (1 - accuracy))
        score = -np.logaddexp(0, -logit) if name == "entropy" else 1 / (1 + np.exp(-logit))
        frame[f"score_{name}"] = np.where(frame["critical"], score, np.nan)
    return frame


def write_run(folder: Path, sessions: int = 640, accuracy: float = 0.75) -> Path:
    """Write a run directory as `experiment=star` leaves it; all numbers come from the functions that study uses."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    metrics: dict[str, float] = {}
    certificates: dict[str, object] = {"deployed": dict.fromkeys(TABLES, "full")}
    for source, name in TABLES.items():
        frame = decisions(sessions, accuracy if source == "critic" else 0.5 * (1 + accuracy), rng)
        frame.to_parquet(folder / name)
        calibration, test = (frame[frame["split"] == split] for split in ("calibration", "test"))
        if source == "critic":
            metrics |= offline.policy_metrics(test, rng)
        found, issued = offline.verdict_metrics(source, calibration, test, TARGETS, 0.05, (0.1,), rng)
        metrics |= found
        certificates[source] = offline.certificate_table(issued)
    examples = [
        {
            "group": ("worst confident errors", "ran alone, rightly", "handed to the operator")[(i > 9) + (i > 14)],
            "title": f"{ISSUES[i % 6].replace('_', ' ')}, step {i}",
            "session_id": f"s{i:04d}",
            "step": i,
            "issue": ISSUES[i % 6],
            "context": [
                {"who": "customer", "text": "Hi, I would like to know how much money I have on my savings account."},
                {"who": "operator", "text": "Could I get your full name, please?"},
                {"who": "back end", "text": "bank_balance: Balance = 812.20, Currency = USD, Account = Savings"},
            ],
            "suggestion": "Reply “bank_ask_pin”: Could you please provide your PIN?",
            "operator_did": "Submit the form “bank_balance” with FullName = Mark Smith, AccountNumber = 12345678",
            "confidence": 0.97 - i / 50,
            "decision": "run alone" if i < 15 else "hand to operator",
            "verdict": "reject" if i < 10 or i == 17 else "accept",
        }
        for i in range(20)
    ]
    summary = {
        "question": "How much of the operators' work could have run without them, and at which precision?",
        "data": {
            "path": "star",
            "units": 5679,
            "sessions": sessions,
            "steps": 8 * sessions,
            "quarantined": 126,
            "problems": {"no_operator_action": 126, "time_goes_back": 4},
            "handled": {},
        },
        "splits": {
            name: {"sessions": int(share * sessions), "steps": int(8 * share * sessions)}
            for name, share in (("train", 0.72), ("feedback", 0.08), ("calibration", 0.1), ("test", 0.1))
        },
        "timings": {"policy": 1312.5, "evaluation": 48.0},
        "notes": ["12 sessions were left out."],
    }
    provenance = {
        "argv": ["experiment=star", "seed=0"],
        "seed": 0,
        "started": "2026-01-31T12:00:00+00:00",
        "commit": "0123456789abcdef",
        "dirty": True,
        "python": "3.11.7",
        "versions": {"handrail": "0.1.0", "torch": "2.13.0"},
        "data_fingerprint": "69c1bd1f64e746dd",
    }
    for name, content in (
        ("metrics.json", metrics),
        ("certificates.json", certificates),
        ("examples.json", examples),
        ("summary.json", summary),
        ("provenance.json", provenance),
    ):
        (folder / name).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    (folder / "config.yaml").write_text("experiment:\n  name: star\nseed: 0\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run directory without a report; not to be changed."""
    return write_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def make_run(tmp_path: Path, finished: Path) -> Callable[..., Path]:
    """Return a function that makes a run directory with the given files of `finished`, all by default."""

    def make(*names: str) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in finished.iterdir():
            if not names or path.name in names:
                shutil.copy(path, folder / path.name)
        return folder

    return make
