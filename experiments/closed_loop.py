"""Who works how well alone: actors in the simulator, on the same cases.

Every actor works the same cases: case `n` is the environment's reset with seed `first + n`, so differences between
actors are paired. A case succeeds by its end state; `handrail.envs.bpm.env` says when.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.agents.rollout import Actor, Played, Reset, rollout
from handrail.envs.schema import Message, Session
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.connection import connected, usable
from handrail.experiments.offline import describe

if TYPE_CHECKING:
    import pandas as pd

    from handrail.envs.bpm.env import BPMEnv

Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Cases:
    """The cases that actors work.

    Attributes:
        domain: name or folder.
        count: how many.
        first: seed of the first; the seeds of those that a policy learned from lie elsewhere.
        slots: how many are worked at once.
        max_steps: a case that takes more is given up.
    """

    domain: str
    count: int
    first: int
    slots: int = 64
    max_steps: int = 80

    def make(self) -> BPMEnv:
        """Return an environment."""
        from handrail.envs.bpm.env import BPMEnv

        return BPMEnv(domain=self.domain, max_steps=self.max_steps)

    def resets(self) -> list[Reset]:
        """Return how the episodes begin."""
        return [Reset(self.first + number) for number in range(self.count)]


def play(
    cases: Cases, actor: Actor, progress: Progress = iter, ray: RayConfig | None = None
) -> tuple[list[Played], float]:
    """Let an actor work all cases; returns the episodes in order and the seconds it took.

    Args:
        cases: to be worked.
        actor: who works them.
        progress: shows how far it is.
        ray: where to; `None` for this process. The episodes are the same.
    """
    started = time.monotonic()
    if ray is not None and usable(ray):
        from handrail.experiments.cluster.rollouts import Rollouts

        with connected(ray), Rollouts(cases.make, actor, cases.slots, ray) as rollouts:
            played = list(progress(rollouts.play(cases.resets())))
    else:
        played = list(progress(rollout(cases.make, actor, cases.resets(), cases.slots)))
    return played, time.monotonic() - started


def outcome_frame(played: Mapping[str, Sequence[Played]]) -> pd.DataFrame:
    """Return a row for each actor and case.

    Args:
        played: actor -> its episodes.

    Returns:
        Columns `actor, case, session_id, issue, success, violations` (how many rules were broken)`, truncated, outcome,
        steps, errors` (actions that were impossible).
    """
    import pandas as pd

    rows = []
    for actor, episodes in played.items():
        for one in episodes:
            rows.append(
                {
                    "actor": actor,
                    "case": one.number,
                    "session_id": one.session.id,
                    "issue": one.session.issue,
                    "success": bool(one.info["success"]),
                    "violations": len(one.info["violations"]),
                    "truncated": one.truncated,
                    "outcome": one.info["outcome"] or "",
                    "steps": len(one.actions),
                    "errors": sum("error" in step.state.values for step in one.session.steps),
                }
            )
    return pd.DataFrame(rows)


def outcome_metrics(frame: pd.DataFrame, prefix: str, rng: np.random.Generator) -> dict[str, float]:
    """Return `<prefix>.<actor>.{sessions,success_rate,violation_rate,truncated_rate,steps,errors_per_session}`.

    Rates have exact binomial intervals (Clopper & Pearson 1934): cases are independent. For every pair of neighbours in
    the order given, `success_over` says by how much the later succeeds more often on the same cases.
    """
    from scipy.stats import binomtest

    from handrail.algorithms.bootstrap import Interval, paired_difference
    from handrail.algorithms.selective import put_interval

    metrics: dict[str, float] = {}
    before: tuple[str, Any] | None = None
    for actor, rows in frame.groupby("actor", sort=False):
        key, cases = f"{prefix}.{actor}", rows["case"].to_numpy()
        metrics[f"{key}.sessions"] = float(len(rows))
        rates = {
            "success_rate": rows["success"],
            "violation_rate": rows["violations"] > 0,
            "truncated_rate": rows["truncated"],
        }
        for name, values in rates.items():
            test = binomtest(int(values.sum()), len(values))
            ends = test.proportion_ci()
            put_interval(metrics, f"{key}.{name}", Interval(float(test.statistic), float(ends.low), float(ends.high)))
        metrics[f"{key}.steps"] = float(rows["steps"].mean())
        metrics[f"{key}.errors_per_session"] = float(rows["errors"].mean())
        if before is not None:
            gap = paired_difference(rows["success"].to_numpy(), before[1], cases, rng)
            put_interval(metrics, f"{key}.success_over.{before[0]}", gap)
        before = str(actor), rows["success"].to_numpy()
    return metrics


def story(session: Session) -> list[dict[str, str]]:
    """Return a session as lines of who did or said what, for a reader; a policy's replies are its own."""
    lines: list[dict[str, str]] = []
    before = "operator"
    for step in session.steps:
        lines.extend(_said(step.events, before))
        before = "policy" if step.actor == "policy" else "operator"
        for name, about in (("error", "The screen refuses"), ("notice", "The screen says")):
            if name in step.state.values:
                lines.append({"who": "screen", "text": f"{about}: {step.state.values[name]}"})
        if step.action.tool not in ("send_reply", "send_message"):
            lines.append({"who": step.actor, "text": describe(step.action, session, step.index)})
    return lines + _said(session.tail, before)


def _said(events: Iterable[Any], before: str) -> list[dict[str, str]]:
    """Return what was said after an action of `before`, whose reply the log has as an operator's."""
    return [
        {"who": before if event.role == "operator" else event.role, "text": event.text}
        for event in events
        if isinstance(event, Message)
    ]


def picture(session: Session, domain: str) -> dict[str, str]:
    """Return the session's busiest screen: `page`, as HTML, and `png`, base64, where there is a browser to take it."""
    from handrail.envs.bpm import screenshot
    from handrail.envs.bpm.html import captions, render
    from handrail.envs.bpm.load import load_domain

    step = max(session.steps, key=lambda s: (len(s.state.values), s.index))
    chat = [event for earlier in session.steps[: step.index + 1] for event in earlier.events]
    page = render(step.state, chat, captions(load_domain(domain)))
    if screenshot.find_chromium() is None:
        return {"page": page}
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, screenshot.screenshot(page), format="png")
    return {"page": page, "png": base64.b64encode(stream.getvalue()).decode()}
