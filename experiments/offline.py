"""Tables and metrics of a policy and its critics on logged sessions; shared by studies and `handrail evaluate`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.agents.critic import Case, Critic, StateCritic
from handrail.agents.decoding import Suggestion
from handrail.envs.errors import HandrailError
from handrail.envs.logs.ingest import open_source, read_source
from handrail.envs.logs.store import load_sessions
from handrail.envs.logs.validate import Validator
from handrail.envs.normalize import action_key, normalize_text, same_action
from handrail.envs.schema import Action, Message, Session

if TYPE_CHECKING:
    import pandas as pd

    from handrail.agents.policy import Policy
    from handrail.algorithms.certify import Certificate

SLICES = ("tool", "issue", "operator", "kind")
MIN_SLICE_STEPS = 30
"""Slices with fewer test steps are left out of the metrics: their intervals say nothing."""


def read_data(
    source: str,
    path: str | None,
    options: Mapping[str, Any],
    where: Mapping[str, str],
    progress: Any = iter,
) -> tuple[list[Session], dict[str, Any]]:
    """Read logged sessions and say what was kept.

    Args:
        source: name of a reader; not used if `path` is a Parquet store.
        path: a folder of raw logs, or a store that `handrail ingest` wrote.
        options: of the reader.
        where: tags a session must have, e.g. `{"completion": "Complete"}`.
        progress: wraps the iteration over units.

    Returns:
        Sessions in the source's order, and counts: units, sessions, steps, problems by rule, quarantined, and how many
        did not match `where`.

    Raises:
        HandrailError: there is nothing to read.
    """
    if path is None:
        raise HandrailError(
            "no data: set HANDRAIL_DATA to the folder that holds star/, or give data.path=FOLDER; STAR is public "
            "(git clone https://github.com/RasaHQ/STAR star)"
        )
    found: list[Session] = []
    rules: Counter[str] = Counter()
    handled: Counter[str] = Counter()
    quarantined = 0
    if str(path).endswith(".parquet"):
        found = load_sessions(path)
        units = len(found)
    else:
        reader = open_source(source, path, options)
        files = reader.units()
        units = len(files)
        validator = Validator()
        for unit in progress(files):
            for item in read_source(reader, unit):
                problems = validator.check(item) if isinstance(item, Session) else [item]
                rules.update(problem.rule for problem in problems)
                if isinstance(item, Session) and not any(p.quarantined for p in problems):
                    found.append(item)
                else:
                    quarantined += 1
        handled.update(getattr(reader, "counts", {}))
    kept = [s for s in found if all(s.tags.get(tag) == value for tag, value in where.items())]
    if not kept:
        raise HandrailError(
            f"{path}: none of {units} units gave a session with {dict(where)}; look at its validation report"
        )
    summary = {
        "path": Path(path).name,
        "units": units,
        "sessions": len(kept),
        "steps": sum(step.actor == "operator" for s in kept for step in s.steps),
        "operators": len({s.operator for s in kept}),
        "issues": len({s.issue for s in kept}),
        "quarantined": quarantined,
        "other_tags": len(found) - len(kept),
        "problems": dict(rules.most_common()),
        "handled": dict(handled.most_common()),
    }
    return kept, summary


def fingerprint(sessions: Iterable[Session]) -> str:
    """Return a hash of what was done in which session, whatever the order of sessions."""
    rows = sorted(
        f"{s.id}\t{len(s.steps)}\t" + "\t".join(action_key(step.action) for step in s.steps) for s in sessions
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def describe(action: Action, session: Session, step: int) -> str:
    """Return an action in words a support manager reads."""
    labels = {c.id: c.label for c in session.steps[step].state.controls}
    if action.tool == "send_reply":
        text = " ".join(labels.get(action.target, "").split())
        return f"Reply “{action.target}”" + (f": {text}" if text else "")
    if action.tool == "send_message":
        return f"Write: {action.args.get('text', '')}"
    if action.tool == "submit_form":
        fields = ", ".join(f"{name} = {_plain(value)}" for name, value in action.args.items())
        return f"Submit the form “{action.target}” with {fields or 'nothing filled in'}"
    fields = ", ".join(f"{name} = {_plain(value)}" for name, value in action.args.items())
    return f"{action.tool.replace('_', ' ').capitalize()} {action.target} {fields}".strip()


def _plain(value: Any) -> str:
    return f"{value.op} {value.value}" if hasattr(value, "op") else str(value)


def policy_frame(
    splits: Mapping[str, Sequence[Session]],
    suggestions: Sequence[Suggestion],
    baselines: Mapping[str, Sequence[Suggestion]],
    proxies: Mapping[str, Any],
) -> pd.DataFrame:
    """Return a row for each operator step: what was suggested, what was done, and how sure the policy was.

    Args:
        splits: split name -> sessions; suggestions outside them are left out.
        suggestions: the policy's.
        baselines: name -> suggestions of a baseline.
        proxies: name -> function of a suggestion, for the `score_<name>` columns; NaN on steps that are not critical.
    """
    import pandas as pd

    others = {name: {(s.session_id, s.step): s.action for s in made} for name, made in baselines.items()}
    where = {session.id: (name, session) for name, members in splits.items() for session in members}
    rows = []
    for suggestion in suggestions:
        if suggestion.session_id not in where:
            continue
        split, session = where[suggestion.session_id]
        step = session.steps[suggestion.step]
        correct = same_action(suggestion.action, step.action)
        row = {
            "session_id": session.id,
            "step": step.index,
            "issue": session.issue,
            "split": split,
            "tool": step.action.tool,
            "critical": step.critical,
            "correct": correct,
            "verdict": "accept" if correct else "reject",
            "kind": session.tags.get("kind", ""),
            "operator": session.operator,
            "tool_correct": normalize_text(suggestion.action.tool) == normalize_text(step.action.tool),
            "suggestion": describe(suggestion.action, session, step.index),
            "logged": describe(step.action, session, step.index),
        }
        for name, made in others.items():
            action = made.get((session.id, step.index))
            row[f"baseline_{name}_tool_correct"] = action is not None and action.tool == step.action.tool
            row[f"baseline_{name}_correct"] = action is not None and same_action(action, step.action)
        for name, score in proxies.items():
            row[f"score_{name}"] = float(score(suggestion)) if step.critical else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def policy_metrics(frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Return `policy.*` and `baseline.*` of the rows of `frame`, with intervals that resample sessions."""
    from handrail.algorithms.bootstrap import paired_difference, ratio_interval
    from handrail.algorithms.selective import put_interval

    metrics: dict[str, float] = {"policy.steps": float(len(frame))}
    sessions = frame["session_id"].to_numpy()
    names = sorted(
        c.removeprefix("baseline_").removesuffix("_tool_correct") for c in frame if c.endswith("_tool_correct")
    )
    columns = {"policy.tool_accuracy": "tool_correct", "policy.action_accuracy": "correct"}
    for name in names:
        columns[f"baseline.{name}.tool_accuracy"] = f"baseline_{name}_tool_correct"
        columns[f"baseline.{name}.action_accuracy"] = f"baseline_{name}_correct"
    values = frame[list(columns.values())].to_numpy(dtype=float)
    for key, interval in zip(columns, ratio_interval(values, np.ones(len(frame)), sessions, rng), strict=True):
        put_interval(metrics, key, interval)
    for name in names:
        gap = paired_difference(frame["correct"], frame[f"baseline_{name}_correct"], sessions, rng)
        put_interval(metrics, f"policy.action_accuracy_over.{name}", gap)
    for column in SLICES:
        groups = [(value, rows) for value, rows in frame.groupby(column) if value and len(rows) >= MIN_SLICE_STEPS]
        if not groups:
            continue
        inside = np.column_stack([(frame[column] == value).to_numpy(dtype=float) for value, _ in groups])
        for name, outcome in (("tool_accuracy", "tool_correct"), ("action_accuracy", "correct")):
            hits = inside * frame[outcome].to_numpy(dtype=float)[:, None]
            for (value, _), interval in zip(groups, ratio_interval(hits, inside, sessions, rng), strict=True):
                put_interval(metrics, f"policy.by_{column}.{value}.{name}", interval)
        for value, rows in groups:
            metrics[f"policy.by_{column}.{value}.steps"] = float(len(rows))
    return metrics


def critic_scores(policy: Policy, critics: Mapping[str, Critic], cases: Sequence[Case]) -> dict[str, list[float]]:
    """Return p(accept) of each case by each critic; `policy`, which theirs is, reads the cases once for all of them."""
    from handrail.agents.assess import assess
    from handrail.agents.decoding import Decoder

    scores: dict[str, list[float]] = {}
    readings = None
    for name, critic in critics.items():
        if isinstance(critic, StateCritic) and critic.policy is policy:
            readings = assess(Decoder(policy), cases) if readings is None else readings
            scores[name] = critic.judge(readings, cases).tolist()
        else:
            scores[name] = critic.score(cases).tolist()
    return scores


def verdict_frame(
    splits: Mapping[str, Sequence[Session]], cases: Sequence[Case], scores: Mapping[str, Sequence[float]]
) -> pd.DataFrame:
    """Return a row for each judged suggestion; `correct` is whether the operator accepted it."""
    import pandas as pd

    where = {session.id: name for name, members in splits.items() for session in members}
    frame = pd.DataFrame(
        {
            "session_id": [case.session.id for case in cases],
            "step": [case.step for case in cases],
            "issue": [case.session.issue for case in cases],
            "split": [where[case.session.id] for case in cases],
            "tool": [case.suggestion.tool for case in cases],
            "critical": True,
            "correct": [case.accepted for case in cases],
            "verdict": ["accept" if case.accepted else "reject" for case in cases],
            "kind": [case.session.tags.get("kind", "") for case in cases],
            "operator": [case.session.operator for case in cases],
            "suggestion": [describe(case.suggestion, case.session, case.step) for case in cases],
            "logged": [describe(case.session.steps[case.step].action, case.session, case.step) for case in cases],
        }
    )
    return frame.assign(**{f"score_{name}": np.asarray(values, dtype=float) for name, values in scores.items()})


def verdict_metrics(
    prefix: str,
    calibration: pd.DataFrame,
    test: pd.DataFrame,
    targets: Sequence[float],
    delta: float,
    starts: Sequence[float],
    rng: np.random.Generator,
) -> tuple[dict[str, float], dict[str, dict[float, Certificate]]]:
    """Return the metrics of every score column under `prefix`, and the certificates of each.

    Thresholds and certificates come from `calibration` alone, the metrics from `test`. Rows with NaN scores (steps
    that are not critical) are not judged.
    """
    from handrail.algorithms.certify import certified_metrics, certify_targets
    from handrail.algorithms.selective import selective_metrics

    metrics: dict[str, float] = {}
    certificates: dict[str, dict[float, Certificate]] = {}
    for column in (c for c in test.columns if c.startswith("score_")):
        name = column.removeprefix("score_")
        known, new = calibration[calibration[column].notna()], test[test[column].notna()]
        if known.empty or new.empty:
            continue
        key = f"{prefix}.{name}"
        metrics |= selective_metrics(
            key,
            known[column],
            known["correct"],
            new[column],
            new["correct"],
            new["session_id"].to_numpy(),
            rng,
            targets=targets,
        )
        certificates[name] = certify_targets(
            known[column],
            known["correct"],
            targets=targets,
            delta=delta,
            starts=starts,
            sessions=known["session_id"].to_numpy(),
        )
        metrics |= certified_metrics(
            key, certificates[name], new[column], new["correct"], new["session_id"].to_numpy(), rng
        )
    return metrics, certificates


def feasible(calibration: pd.DataFrame, targets: Sequence[float], delta: float) -> list[str]:
    """Return for each target what could be certified at best with these judged steps, whatever the scores.

    Args:
        calibration: decision table; rows without any score are not judged.
        targets: precisions.
        delta: accepted chance of a wrong certificate.
    """
    from handrail.algorithms.feasibility import feasibility

    judged = calibration[calibration.filter(like="score_").notna().any(axis=1)]
    if judged.empty:
        return []
    sessions = judged["session_id"].to_numpy()
    return [feasibility(judged["correct"], float(one), delta, sessions=sessions).sentence for one in targets]


def rank_metrics(frame: pd.DataFrame, methods: Iterable[str], rng: np.random.Generator) -> dict[str, float]:
    """Return how methods order judged suggestions, with intervals that resample sessions.

    Args:
        frame: a row for each suggestion, with `session_id`, `correct` (the operator accepted it), `right` (it truly
            was) and `score_<method>`.
        methods: which.
        rng: of the bootstrap.

    Returns:
        `critic_feedback.METHOD.{auroc,auprc,aurc,augrc}` against the verdicts, `critic_truth.METHOD.…` against the
        truth.
    """
    from handrail.algorithms.selective import put_interval, rank_intervals

    metrics: dict[str, float] = {}
    sessions = frame["session_id"].to_numpy()
    for method in methods:
        scores = frame[f"score_{method}"].to_numpy(dtype=float)
        for prefix, column in (("critic_feedback", "correct"), ("critic_truth", "right")):
            outcome = frame[column].to_numpy(dtype=bool)
            for name, interval in rank_intervals(scores, outcome, sessions, rng).items():
                put_interval(metrics, f"{prefix}.{method}.{name}", interval)
    return {key: value for key, value in metrics.items() if np.isfinite(value)}


def certificate_table(certificates: Mapping[str, Mapping[float, Certificate]]) -> dict[str, Any]:
    """Return certificates as JSON: method -> target -> fields."""
    return {m: {str(t): _finite(asdict(c)) for t, c in by.items()} for m, by in certificates.items()}


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in fields.items()}


def context_of(session: Session, step: int, entries: int = 6) -> list[dict[str, str]]:
    """Return what was last said and done before a step, for a reader."""
    found: list[dict[str, str]] = []
    for earlier in session.steps[: step + 1]:
        for event in earlier.events:
            if isinstance(event, Message):
                found.append({"who": event.role, "text": event.text})
            else:
                item = "nothing found" if event.item is None else ", ".join(f"{k} = {v}" for k, v in event.item.items())
                found.append({"who": "back end", "text": f"{event.source}: {item}"})
        if earlier.index < step and earlier.action.tool not in ("send_reply", "send_message"):
            found.append({"who": earlier.actor, "text": describe(earlier.action, session, earlier.index)})
    return found[-entries:]


def example_decisions(
    frame: pd.DataFrame, sessions: Sequence[Session], column: str, threshold: float | None, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Return twenty decisions to read: the ten worst confident errors, five that ran alone rightly, five handed over.

    Args:
        frame: test rows with `column`.
        sessions: of these rows.
        column: the score of the deployed critic.
        threshold: its certified threshold; `None` hands everything over.
        rng: draws the ten that are no errors.
    """
    known = {s.id: s for s in sessions}
    judged = frame[frame[column].notna()]
    wrong = (
        judged[~judged["correct"]].sort_values([column, "session_id", "step"], ascending=[False, True, True]).head(10)
    )
    bar = np.inf if threshold is None else threshold
    alone = judged[judged["correct"] & (judged[column] >= bar)]
    handed = judged[judged[column] < bar]
    groups = [("worst confident errors", wrong)]
    for title, rows in (("ran alone, rightly", alone), ("handed to the operator", handed)):
        picks: Any = rng.choice(len(rows), size=min(5, len(rows)), replace=False) if len(rows) else []
        groups.append((title, rows.iloc[sorted(picks)]))
    found = []
    for title, rows in groups:
        for _, row in rows.iterrows():
            session = known[row["session_id"]]
            found.append(
                {
                    "group": title,
                    "title": f"{session.issue.replace('_', ' ')}, step {row['step']}",
                    "session_id": row["session_id"],
                    "step": int(row["step"]),
                    "issue": row["issue"],
                    "context": context_of(session, int(row["step"])),
                    "suggestion": row["suggestion"],
                    "operator_did": row["logged"],
                    "confidence": float(row[column]),
                    "decision": "run alone" if row[column] >= bar else "hand to operator",
                    "verdict": row["verdict"],
                }
            )
    return found
