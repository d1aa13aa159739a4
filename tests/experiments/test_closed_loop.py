"""Closed loops: what is counted, on episodes made by hand and on the small desk."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from handrail.agents.actors import OperatorActor, RandomActor
from handrail.agents.operators.expert import Expert
from handrail.agents.rollout import Played, Reset
from handrail.envs.schema import Action, Message, Session, Step, UIState
from handrail.experiments import closed_loop
from handrail.experiments.closed_loop import Cases

SMALL = Cases("mock", 6, first=500, slots=3)


def played(number: int, success: bool, broken: int = 0, truncated: bool = False, error: bool = False) -> Played:
    values = {"error": "no such button"} if error else {}
    step = Step(0, UIState("desk", None, values=values), (), Action("click", "close:resolved"))
    session = Session(f"s{number}", "bpm.mock", "fine", "", steps=(step,))
    info = {"success": success, "violations": ["rule"] * broken, "outcome": None if truncated else "resolved"}
    return Played(number, Reset(number), session, info, (step.action,) * (number + 1), float(success), truncated)


def test_rates_and_paired_difference_by_hand() -> None:
    """Four cases: one actor does 1 of 4 right, the next 3 of 4; cases 1 and 2 make the difference of 2/4."""
    frame = closed_loop.outcome_frame(
        {
            "weak": [played(0, True), played(1, False, broken=2), played(2, False, truncated=True), played(3, False)],
            "strong": [played(0, True), played(1, True), played(2, True), played(3, False, error=True)],
        }
    )
    metrics = closed_loop.outcome_metrics(frame, "closed_loop", np.random.default_rng(0))
    assert metrics["closed_loop.weak.sessions"] == 4
    assert metrics["closed_loop.weak.success_rate"] == 0.25
    assert metrics["closed_loop.strong.success_rate"] == 0.75
    assert metrics["closed_loop.weak.violation_rate"] == 0.25
    assert metrics["closed_loop.weak.truncated_rate"] == 0.25
    assert metrics["closed_loop.weak.steps"] == 2.5
    assert metrics["closed_loop.strong.errors_per_session"] == 0.25
    assert metrics["closed_loop.strong.success_over.weak"] == 0.5
    assert (
        metrics["closed_loop.strong.success_rate.ci_low"] <= 0.75 <= metrics["closed_loop.strong.success_rate.ci_high"]
    )


def test_an_expert_does_right_what_chance_does_not() -> None:
    expert, _ = closed_loop.play(SMALL, OperatorActor(lambda rng: Expert(seed=int(rng.integers(99)))))
    chance, _ = closed_loop.play(SMALL, RandomActor())
    assert [p.session.id for p in expert] == [p.session.id for p in chance], "actors work the same cases"
    assert all(p.info["success"] for p in expert)
    assert not any(p.info["success"] for p in chance)


def test_a_story_tells_who_said_and_did_what() -> None:
    steps = (
        Step(0, UIState("desk", None), (Message("customer", "Hello?"),), Action("navigate", "loans"), actor="policy"),
        Step(1, UIState("loans", None, values={"error": "pick a loan"}), (), Action("send_reply", "bye")),
    )
    session = Session("s", "bpm.mock", "fine", "", steps=steps, tail=(Message("operator", "Goodbye."),))
    assert closed_loop.story(session) == [
        {"who": "customer", "text": "Hello?"},
        {"who": "policy", "text": "Navigate loans"},
        {"who": "screen", "text": "The screen refuses: pick a loan"},
        {"who": "operator", "text": "Goodbye."},
    ]
    alone = msgspec.structs.replace(session, steps=(steps[0], msgspec.structs.replace(steps[1], actor="policy")))
    assert closed_loop.story(alone)[-1] == {"who": "policy", "text": "Goodbye."}


def test_the_picture_is_the_busiest_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail.envs.bpm.screenshot.find_chromium", lambda: None)
    full = UIState("loan", None, values={"loan.title": "A long winter", "loan.due": "2026-01-01"})
    steps = (Step(0, full, (), Action("click", "a")), Step(1, UIState("desk", None), (), Action("click", "b")))
    shown = closed_loop.picture(Session("s", "bpm.mock", "fine", "", steps=steps), "mock")
    assert set(shown) == {"page"}
    assert "A long winter" in shown["page"]
