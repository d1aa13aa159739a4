"""The arms' numbers: counted by hand on sessions made by hand, and the paper's table."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from handrail.agents.operators.human import NONE, Person
from handrail.agents.operators.seat import crew_staff
from handrail.agents.rollout import Reset, rollout
from handrail.agents.rules import Alone
from handrail.agents.runtime import Runtime
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Feedback, Session, Step, UIState
from handrail.experiments import online

CLICK = Action("click", "close:resolved")
MARGINS = {"success": 0.1, "violation": 0.05}


def session(
    case: int,
    who: str,
    seconds: float,
    success: bool = True,
    violations: int = 0,
    issue: str = "loss",
    reasons: tuple[str, ...] = (),
    labels: str = "",
    active: dict[str, float] | None = None,
) -> Session:
    """A session of steps by (o)perator and (p)olicy, capitals critical; `labels` (a, r) are those of critical p."""
    verdicts = iter(labels)
    steps = []
    for index, letter in enumerate(who):
        label = next(verdicts, None) if letter == "P" else None
        feedback = None if label is None else Feedback(CLICK, "accept" if label == "a" else "reject")
        actor: Any = "operator" if letter in "oO" else "policy"
        steps.append(Step(index, UIState("desk", None), (), CLICK, actor, critical=letter.isupper(), feedback=feedback))
    return Session(
        f"case{case}",
        "bpm.mock",
        issue,
        "ann",
        steps=tuple(steps),
        outcome={
            "success": success,
            "violations": ["rule"] * violations,
            "active_seconds": seconds,
            **({"active": active} if active else {}),
        },
        hidden={
            "runtime": [
                {"route": "run" if r in ("confident", "non_critical") else "review", "reason": r} for r in reasons
            ]
        },
    )


def arms() -> dict[str, list[Session]]:
    """Four cases: the operator needs 100 s each; the gate runs two of them alone."""
    parts = {"reading": 30.0, "deciding": 70.0}
    return {
        "human": [session(n, "oOoO", 100.0, success=n != 3, violations=int(n == 3), active=parts) for n in range(4)],
        "selective": [
            session(0, "pPpP", 0.0, reasons=("non_critical", "confident", "non_critical", "confident"), labels="ar"),
            session(1, "pPpP", 0.0, reasons=("non_critical", "confident", "non_critical", "confident"), labels="aa"),
            session(2, "pOpO", 60.0, reasons=("non_critical", "low_confidence", "non_critical", "audit")),
            session(3, "ooPO", 40.0, success=False, reasons=("guardrail", "guardrail", "confident", "low_confidence")),
        ],
    }


def test_a_row_is_what_happened() -> None:
    frame = online.arm_frame(arms()).set_index(["arm", "case"])
    row = frame.loc["selective", "case3"]
    assert (row["steps"], row["operator_steps"], row["interventions"]) == (4, 3, 2)
    assert (row["critical"], row["critical_alone"], row["automated"]) == (2, 1, False)
    assert math.isnan(row["wrong_alone"]), "nobody labelled it"
    assert (row["deferred_guardrail"], row["deferred_low_confidence"], row["deferred_audit"]) == (2, 1, 0)
    assert math.isnan(row["seconds_reading"])
    assert frame.loc["selective", "case0"]["wrong_alone"] == 1
    assert frame.loc["selective", "case0"]["automated"]
    assert frame.loc["selective", "case2"]["wrong_alone"] == 0
    alone = frame.loc["human", "case3"]
    assert (alone["interventions"], alone["violations"], alone["success"]) == (1, 1, False)
    assert alone["seconds_deciding"] == 70
    assert "deferred_confident" not in frame.columns


def test_metrics_by_hand() -> None:
    """Two of four run alone; (0 + 0 + 60 + 40) / 4 s against 100; success 3 of 4 in both; one violation less."""
    metrics = online.arm_metrics(online.arm_frame(arms()), MARGINS, np.random.default_rng(0))
    selective = {k.removeprefix("online.selective."): v for k, v in metrics.items() if ".selective." in k}
    assert selective["sessions"] == 4
    assert selective["automation_rate"] == 0.5
    assert selective["aat_seconds"] == 25
    assert selective["aat_reduction"] == 0.75
    assert selective["success_rate"] == 0.75
    assert selective["success_difference"] == 0
    assert selective["violation_difference"] == -0.25
    assert selective["interventions_per_session"] == (0 + 0 + 2 + 2) / 4
    assert selective["operator_steps_per_session"] == 5 / 4
    assert selective["critical_alone_rate"] == 5 / 8
    assert selective["deferred.low_confidence"] == 2 / 4
    assert selective["deferred.guardrail"] == 2 / 4
    assert metrics["online.human.seconds.reading"] == 30
    assert metrics["online.margin.success"] == 0.1
    # Half of four is anything from 6.8 % to 93.2 % (Clopper & Pearson, tabulated).
    assert selective["automation_rate.ci_low"] == pytest.approx(0.0676, abs=1e-4)
    assert selective["automation_rate.ci_high"] == pytest.approx(0.9324, abs=1e-4)
    assert selective["violation_difference.ci_low"] < -0.25 < selective["violation_difference.ci_high"]
    # Not defined: parts of the time are unknown, one critical step that ran was not labelled, no seconds typing.
    assert not {"seconds.reading", "wrong_alone_rate", "by_issue.loss.sessions"} & selective.keys()
    assert "online.human.seconds.typing" not in metrics
    assert "online.human.aat_reduction" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_reduction_is_paired_by_case() -> None:
    """Cases differ by a factor of 50, the arm halves each: whichever are drawn, the reduction is a half."""
    seconds = np.linspace(10, 500, 40)
    made = {
        name: [session(n, "o", factor * s) for n, s in enumerate(seconds)]
        for name, factor in (("human", 1.0), ("copilot", 0.5))
    }
    made["copilot"].reverse()
    metrics = online.arm_metrics(online.arm_frame(made), MARGINS, np.random.default_rng(0))
    key = "online.copilot.aat_reduction"
    assert [metrics[key + end] for end in ("", ".ci_low", ".ci_high")] == pytest.approx([0.5, 0.5, 0.5])
    assert metrics["online.human.aat_seconds.ci_low"] < 230 < 280 < metrics["online.human.aat_seconds.ci_high"]


def quality(n: int, lost: int, broken: int = 0) -> dict[str, float]:
    """Metrics of an arm that fails in `lost` of n cases and breaks a rule in `broken`; operators do neither."""
    frame = online.arm_frame(
        {
            "human": [session(i, "o", 100.0) for i in range(n)],
            "copilot": [session(i, "o", 90.0) for i in range(n)],
            "selective": [session(i, "p", 0.0, success=i >= lost, violations=int(i < broken)) for i in range(n)],
        }
    )
    margins = {"success": 0.03, "violation": 0.02}
    return online.arm_metrics(frame, margins, np.random.default_rng(0))


def test_non_inferiority_needs_both() -> None:
    """Of 400, 4 lost against a margin of 12, and 0 violations against one of 8: both are shown. Either may be missing.

    If gains have the rate 0, the chance at the margin of at most 4 losses of 400 at 3 % is 0.7 %, of none at 2 % 3e-4,
    of at most 8 at 3 % 15 %. The p-values are at least these.
    """
    both = quality(400, 4)
    assert both["online.selective.non_inferior"] == 1
    assert binom.cdf(4, 400, 0.03) <= both["online.selective.success_difference.p_value"] < 0.05
    assert binom.cdf(0, 400, 0.02) <= both["online.selective.violation_difference.p_value"] < 0.005
    assert both["online.selective.non_inferior.p_value"] == both["online.selective.success_difference.p_value"]
    failing = quality(400, 8)
    assert failing["online.selective.non_inferior"] == 0
    assert failing["online.selective.success_difference.p_value"] >= binom.cdf(8, 400, 0.03)
    breaking = quality(400, 0, broken=6)
    assert breaking["online.selective.non_inferior"] == 0
    assert (
        breaking["online.selective.success_difference.p_value"]
        < 0.001
        < 0.05
        < breaking["online.selective.non_inferior.p_value"]
    )
    assert breaking["online.selective.violation_difference"] == 6 / 400
    assert breaking["online.copilot.non_inferior"] == 1
    assert breaking["online.selective.aat_reduction_over.copilot"] == 1


def test_issues_with_enough_cases_have_figures() -> None:
    few = online.MIN_ISSUE_SESSIONS - 1
    made = {
        name: [
            *(session(n, who, 1.0, issue="rare") for n in range(few)),
            *(session(few + n, "o" if n % 2 else who, 1.0, success=n > 9) for n in range(40)),
        ]
        for name, who in (("human", "o"), ("selective", "p"))
    }
    metrics = online.arm_metrics(online.arm_frame(made), MARGINS, np.random.default_rng(0))
    assert metrics["online.selective.by_issue.loss.sessions"] == 40
    assert metrics["online.selective.by_issue.loss.automation_rate"] == 0.5
    assert metrics["online.selective.by_issue.loss.success_rate"] == 0.75
    assert not [key for key in metrics if "rare" in key]


def test_another_confidence_is_compared_with_the_critic() -> None:
    """The critic runs cases 0–5 of 10 alone, the margin 4–6: three more, and one failure less."""
    made = {
        "human": [session(n, "o", 1.0) for n in range(10)],
        "selective": [session(n, "p" if n < 6 else "o", 1.0) for n in range(10)],
        "selective_margin": [session(n, "p" if 4 <= n < 7 else "o", 1.0, success=n != 6) for n in range(10)],
    }
    metrics = online.arm_metrics(online.arm_frame(made), MARGINS, np.random.default_rng(0))
    assert metrics["online.selective.automation_over.selective_margin"] == pytest.approx(0.3)
    assert metrics["online.selective.success_over.selective_margin"] == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_metrics() -> None:
    frame = online.arm_frame(arms())
    first, second, other = (online.arm_metrics(frame, MARGINS, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == second
    assert first["online.selective.aat_seconds"] == other["online.selective.aat_seconds"]


def test_what_cannot_be_compared_is_told() -> None:
    made = arms()
    with pytest.raises(HandrailError, match=r"'selective' has 3 sessions of 3 cases.*'case3'"):
        online.arm_frame({**made, "selective": made["selective"][:3]})
    with pytest.raises(HandrailError, match="5 sessions of 4 cases"):
        online.arm_frame({**made, "selective": [*made["selective"], made["selective"][0]]})
    with pytest.raises(HandrailError, match="no sessions in arm 'selective'"):
        online.arm_frame({**made, "selective": []})
    bare = msgspec.structs.replace(made["human"][0], outcome={"success": True, "violations": []})
    with pytest.raises(HandrailError, match="'active_seconds'"):
        online.arm_frame({"human": [bare]})
    frame, rng = online.arm_frame(made), np.random.default_rng(0)
    with pytest.raises(HandrailError, match="no arm 'human'"):
        online.arm_metrics(frame[frame["arm"] != "human"], MARGINS, rng)
    with pytest.raises(HandrailError, match="unknown margin 'succes'; did you mean success"):
        online.arm_metrics(frame, {**MARGINS, "succes": 0.1}, rng)
    with pytest.raises(HandrailError, match="margin 'violation' is None"):
        online.arm_metrics(frame, {"success": 0.1}, rng)


def test_the_paper_stands_beside_the_arms() -> None:
    """45 %; 227.4 → 139.1 s is 38.8 % less, which the paper calls 39 %."""
    rows = online.paper_table(quality(40, 1))
    assert [row.arm for row in rows] == ["human", "copilot", "selective"]
    human, copilot, selective = rows
    assert human.paper is not None
    assert (human.paper.aat, human.paper.reduction, human.paper.automation) == (227.4, None, None)
    assert copilot.paper is not None
    assert copilot.paper.derived
    assert selective.paper is not None
    assert (selective.paper.automation, selective.paper.aat) == (0.45, 139.1)
    assert selective.paper.reduction == pytest.approx(0.388, abs=5e-4)
    assert selective.sessions == 40
    assert selective.success.estimate == 39 / 40
    assert selective.aat.estimate == 0
    assert math.isnan(human.reduction.estimate)
    assert not online.paper_table({"closed_loop.policy.success_rate": 0.5})


def test_sessions_of_the_runtime_are_understood() -> None:
    runtime = Runtime(crew_staff((Person("ann", slips=NONE),)), Alone())
    played = list(rollout(lambda: BPMEnv("mock"), runtime, [Reset(seed) for seed in range(3)], slots=2))
    frame = online.arm_frame({"human": [runtime.told(one) for one in played]})
    assert frame["success"].all()
    assert (frame["interventions"] == 1).all()
    assert (frame["deferred_alone"] == frame["steps"]).all()
    assert (frame["active_seconds"] > 0).all()
