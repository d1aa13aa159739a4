"""The online test: arms that work the same cases, and what each comes to in operators' time and in quality.

A row is a case in an arm; the id of the session is that of its case, so rows pair up. Sessions are independent of one
another, steps of a session are not: everything is counted per session.

- Rates of sessions (automated, successful, with a violation) have exact binomial intervals (Clopper & Pearson 1934),
  their differences paired score intervals (`handrail.algorithms.paired`). A bootstrap would do as well where outcomes
  are common, and has no width where there are none.
- Means, and the reduction of operators' time, have session-bootstrap intervals; all arms see the same redrawn cases.
- An arm is *not inferior* to operators alone if two exact one-sided paired tests say so, each at level `LEVEL`: that
  success is not lower by the margin, and that violations are not more frequent by theirs. Since both have to, the
  larger of their p-values is that of the whole (Berger 1982). Margins are settled before the arms are run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from handrail.agents.simulate import COPILOT_SECONDS, HUMAN_SECONDS
from handrail.algorithms.bootstrap import Interval, ratio_interval
from handrail.algorithms.paired import non_inferiority, pairs, score_interval
from handrail.algorithms.selective import put_interval, with_prefix
from handrail.envs.bpm.clock import PARTS
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.schema import Session

if TYPE_CHECKING:
    import pandas as pd

HUMAN, COPILOT, SELECTIVE = "human", "copilot", "selective"
"""The arms of the paper; `selective_NAME` is the gate with another confidence in place of the critic's."""

LEVEL = 0.05
"""Of the tests of non-inferiority, one-sided."""

MARGINS = ("success", "violation")
MIN_ISSUE_SESSIONS = 30
"""Issues with fewer cases have no figures of their own."""

_DEFERRED, _SECONDS = "deferred_", "seconds_"
_MEANS = {
    "aat_seconds": "active_seconds",
    "interventions_per_session": "interventions",
    "steps_per_session": "steps",
    "operator_steps_per_session": "operator_steps",
}
_RATES = ("automation_rate", "success_rate", "violation_rate")


class Published(NamedTuple):
    """What the paper reports of an arm, `None` where it reports nothing.

    Attributes:
        sessions: about how many.
        automation: share of sessions without an operator.
        aat: operator-active seconds a session.
        derived: whether the time is computed from other figures of the paper.
    """

    sessions: int
    automation: float | None
    aat: float
    derived: bool = False

    @property
    def reduction(self) -> float | None:
        """By how much less time is spent than by operators alone, `None` for these themselves."""
        return None if self.aat == HUMAN_SECONDS else 1 - self.aat / HUMAN_SECONDS


PAPER = {
    HUMAN: Published(15_000, None, HUMAN_SECONDS),
    COPILOT: Published(15_000, None, COPILOT_SECONDS, derived=True),
    SELECTIVE: Published(15_000, 0.45, 139.1),
}
"""The paper's A/B test (arXiv 2604.23855): another desk, other people and another policy; for orientation only."""


class Row(NamedTuple):
    """An arm in the form of the paper's table.

    Attributes:
        arm: its name.
        sessions: how many.
        automation: share of sessions without an operator.
        aat: operator-active seconds a session.
        reduction: by how much less that is than of operators alone; NaN for these.
        success: share of sessions with a right end and no violation.
        violations: share of sessions in which a rule was broken.
        paper: what the paper reports of such an arm, if it has one.
    """

    arm: str
    sessions: int
    automation: Interval
    aat: Interval
    reduction: Interval
    success: Interval
    violations: Interval
    paper: Published | None


def arm_frame(arms: Mapping[str, Sequence[Session]]) -> pd.DataFrame:
    """Return a row for each arm and case, arms in the order given, cases in the order of the first arm.

    Args:
        arms: name -> sessions, one for each case; of arms with a policy as `handrail.agents.runtime` tells them.

    Returns:
        | column | what |
        |---|---|
        | `arm`, `case`, `issue` | `case` is the id of the session |
        | `success`, `violations` | whether it ended right, how many rules were broken |
        | `active_seconds`, `seconds_PART` | the operator's; parts are NaN for a session that does not tell |
        | `steps`, `operator_steps`, `critical` | actions: all, the operator's, those with effects outside the screen |
        | `automated`, `interventions` | whether no step is the operator's, and maximal runs of steps that are |
        | `critical_alone` | critical steps the policy ran |
        | `wrong_alone` | how many of these the operator would have done differently; NaN unless all were labelled |
        | `deferred_REASON` | steps that went to the operator for that reason |

    Raises:
        HandrailError: an arm has other cases than the first, or a case twice; or a session has no outcome.
    """
    import pandas as pd

    if not arms or not all(arms.values()):
        empty = next((name for name, sessions in arms.items() if not sessions), None)
        raise HandrailError(
            f"no sessions{f' in arm {empty!r}' if empty else ''}; expected at least one case in each arm"
        )
    first = next(iter(arms))
    order = [session.id for session in arms[first]]
    rows = []
    for arm, sessions in arms.items():
        found = {session.id: session for session in sessions}
        odd = sorted(found.keys() ^ set(order))
        if odd or len(found) != len(sessions):
            raise HandrailError(
                f"arm {arm!r} has {len(sessions)} sessions of {len(found)} cases, {first!r} has {len(order)} of "
                f"{len(set(order))}{f'; only one of them has {odd[0]!r}' if odd else ''}; expected the same cases in "
                "both, a session each"
            )
        rows += [_row(arm, found[case]) for case in order]
    frame = pd.DataFrame(rows)
    reasons = [name for name in frame.columns if name.startswith(_DEFERRED)]
    frame[reasons] = frame[reasons].fillna(0).astype(int)
    return frame


def arm_metrics(frame: pd.DataFrame, margins: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Return the metrics of the arms, all `online.…`; what is undefined is left out.

    | of `online.ARM.` | what |
    |---|---|
    | `sessions` | cases |
    | `automation_rate`, `success_rate`, `violation_rate` | shares of sessions |
    | `aat_seconds` | operator-active seconds a session |
    | `interventions_per_session` | times that an operator took over |
    | `steps_per_session`, `operator_steps_per_session` | actions |
    | `critical_alone_rate` | share of critical steps that ran without an operator |
    | `wrong_alone_rate` | share of these that the operator would have done differently, where all were labelled |
    | `deferred.REASON` | steps a session that went to an operator for that reason |
    | `seconds.PART` | operator-active seconds a session by part |
    | `by_issue.ISSUE.` | `sessions`, `automation_rate`, `success_rate` where there are `MIN_ISSUE_SESSIONS` |

    | of every arm but `human` | what |
    |---|---|
    | `aat_reduction` | share of the operators' time that is saved against `human` |
    | `aat_reduction_over.copilot` | the same against `copilot`, for arms other than that |
    | `success_difference`, `violation_difference` | rate less that of `human` |
    | `success_difference.p_value`, `violation_difference.p_value` | of the two tests of non-inferiority |
    | `non_inferior.p_value`, `non_inferior` | the larger of the two, and 1 if it is at most `LEVEL`, else 0 |

    Of `selective`, `automation_over.ARM` and `success_over.ARM` compare it with arms of other confidences. Rates, means
    and differences have `.ci_low` and `.ci_high`. `online.margin.{success,violation}` are the margins.

    Args:
        frame: from `arm_frame`.
        margins: `success`: how much lower the rate may be; `violation`: how much higher; both in [0, 1).
        rng: for the bootstrap.

    Raises:
        HandrailError: there is no arm `human`, or a margin is missing, unknown or out of range.
    """
    _check_margins(margins)
    found = {str(arm): rows.set_index("case") for arm, rows in frame.groupby("arm", sort=False)}
    if HUMAN not in found:
        raise HandrailError(f"no arm {HUMAN!r} to compare with; there are: {', '.join(found)}")
    by_arm = {arm: rows.loc[found[HUMAN].index] for arm, rows in found.items()}
    metrics: dict[str, float] = {f"margin.{name}": value for name, value in margins.items()}
    for arm, rows in by_arm.items():
        metrics[f"{arm}.sessions"] = len(rows)
        _put_rates(metrics, arm, rows)
        for issue, some in rows.groupby("issue"):
            if len(some) >= MIN_ISSUE_SESSIONS:
                metrics[f"{arm}.by_issue.{issue}.sessions"] = len(some)
                _put_rates(metrics, f"{arm}.by_issue.{issue}", some, _RATES[:2])
        if arm != HUMAN:
            metrics |= _compared(arm, rows, by_arm[HUMAN], margins)
    if SELECTIVE in by_arm:
        for other in _other_confidences(by_arm):
            for name, column in (("automation_over", "automated"), ("success_over", "success")):
                gap = score_interval(pairs(by_arm[SELECTIVE][column], by_arm[other][column]))
                put_interval(metrics, f"{SELECTIVE}.{name}.{other}", gap)
    sums = list(_sums(by_arm))
    tops, bottoms = (np.column_stack([one[side] for one in sums]) for side in (1, 2))
    for (key, _, _), interval in zip(sums, ratio_interval(tops, bottoms, np.arange(len(tops)), rng), strict=True):
        put_interval(metrics, key, interval)
    return with_prefix("online", metrics)


def paper_table(metrics: Mapping[str, float]) -> list[Row]:
    """Return the arms in the form of the paper's table: human, copilot, selective, then the others by name.

    Args:
        metrics: of a run, with those of `arm_metrics` among them.
    """
    arms = {key.split(".")[1] for key in metrics if key.startswith("online.") and key.endswith(".aat_seconds")}
    first = [arm for arm in PAPER if arm in arms]
    rows = []
    for arm in (*first, *sorted(arms - set(first))):
        automation, aat, reduction, success, violations = (
            read_interval(metrics, f"online.{arm}.{name}")
            for name in ("automation_rate", "aat_seconds", "aat_reduction", "success_rate", "violation_rate")
        )
        sessions = int(metrics[f"online.{arm}.sessions"])
        rows.append(Row(arm, sessions, automation, aat, reduction, success, violations, PAPER.get(arm)))
    return rows


def read_interval(metrics: Mapping[str, float], key: str) -> Interval:
    """Return a metric with its ends, NaN where there is none."""
    return Interval(*(float(metrics.get(key + end, math.nan)) for end in ("", ".ci_low", ".ci_high")))


def _row(arm: str, session: Session) -> dict[str, Any]:
    outcome, steps = session.outcome, session.steps
    missing = [name for name in ("success", "violations", "active_seconds") if name not in outcome]
    if missing:
        raise HandrailError(
            f"session {session.id} of arm {arm!r}: outcome has no {missing[0]!r}; expected a session worked in the "
            f"simulator, whose outcome tells success, violations and active_seconds"
        )
    operators = [step.actor == "operator" for step in steps]
    alone = [step for step in steps if step.critical and step.actor == "policy"]
    verdicts = [step.feedback.verdict for step in alone if step.feedback is not None]
    deferred = Counter(note["reason"] for note in session.hidden.get("runtime", ()) if note["route"] != "run")
    active = outcome.get("active", {})
    return {
        "arm": arm,
        "case": session.id,
        "issue": session.issue,
        "success": bool(outcome["success"]),
        "violations": len(outcome["violations"]),
        "active_seconds": float(outcome["active_seconds"]),
        "steps": len(steps),
        "operator_steps": sum(operators),
        "automated": not any(operators),
        "interventions": sum(there for there, _ in groupby(operators)),
        "critical": sum(step.critical for step in steps),
        "critical_alone": len(alone),
        "wrong_alone": float(verdicts.count("reject")) if len(verdicts) == len(alone) else math.nan,
        **{f"{_DEFERRED}{reason}": count for reason, count in deferred.items()},
        **{f"{_SECONDS}{part}": float(active.get(part, math.nan)) for part in PARTS},
    }


def _check_margins(margins: Mapping[str, float]) -> None:
    for name in margins:
        if name not in MARGINS:
            raise HandrailError(f"unknown margin {name!r}{nearest(str(name), MARGINS)}")
    for name in MARGINS:
        if not (name in margins and 0 <= margins[name] < 1):
            raise HandrailError(
                f"margin {name!r} is {margins.get(name)!r}; expected a difference of rates of at least 0 and below 1, "
                "e.g. 0.01"
            )


def _put_rates(metrics: dict[str, float], key: str, rows: pd.DataFrame, names: Sequence[str] = _RATES) -> None:
    from scipy.stats import binomtest

    columns = {
        "automation_rate": rows["automated"],
        "success_rate": rows["success"],
        "violation_rate": rows["violations"] > 0,
    }
    for name in names:
        test = binomtest(int(columns[name].sum()), len(rows))
        ends = test.proportion_ci()
        put_interval(metrics, f"{key}.{name}", Interval(float(test.statistic), float(ends.low), float(ends.high)))


def _compared(arm: str, rows: pd.DataFrame, human: pd.DataFrame, margins: Mapping[str, float]) -> dict[str, float]:
    """Return differences of quality from operators alone, and what the tests say of them."""
    metrics: dict[str, float] = {}
    success = pairs(rows["success"], human["success"])
    clean = pairs(rows["violations"] == 0, human["violations"] == 0)
    worst = 0.0
    for name, found in (("success", success), ("violation", clean)):
        difference = score_interval(found)
        if name == "violation":
            difference = Interval(-difference.estimate, -difference.high, -difference.low)
        put_interval(metrics, f"{arm}.{name}_difference", difference)
        p = non_inferiority(found, margins[name])
        metrics[f"{arm}.{name}_difference.p_value"] = p
        worst = max(worst, p)
    metrics[f"{arm}.non_inferior"] = int(worst <= LEVEL)
    metrics[f"{arm}.non_inferior.p_value"] = worst
    return metrics


def _other_confidences(arms: Mapping[str, Any]) -> list[str]:
    return [arm for arm in arms if arm.startswith(f"{SELECTIVE}_")]


def _sums(by_arm: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, npt.ArrayLike, npt.ArrayLike]]:
    """Yield key, numerators and denominators, both (cases,), of all that is a ratio of sums over sessions."""
    for arm, rows in by_arm.items():
        one = np.ones(len(rows))
        for name, column in _MEANS.items():
            yield f"{arm}.{name}", rows[column], one
        yield f"{arm}.critical_alone_rate", rows["critical_alone"], rows["critical"]
        if rows["wrong_alone"].notna().all():
            yield f"{arm}.wrong_alone_rate", rows["wrong_alone"], rows["critical_alone"]
        for prefix, what in ((_DEFERRED, "deferred"), (_SECONDS, "seconds")):
            for column in (name for name in rows.columns if name.startswith(prefix)):
                if rows[column].notna().all() and rows[column].any():
                    yield f"{arm}.{what}.{column.removeprefix(prefix)}", rows[column], one
        for other, key in ((HUMAN, "aat_reduction"), (COPILOT, f"aat_reduction_over.{COPILOT}")):
            if other in by_arm and arm not in (HUMAN, other):
                base = by_arm[other]["active_seconds"]
                yield f"{arm}.{key}", base - rows["active_seconds"], base
