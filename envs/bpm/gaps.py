"""Where the time costs of `handrail.envs.bpm.clock` come from: the gaps between events in logs of a chat desk.

STAR's operators type what they want to say, see ranked reply templates, and take one or send their own words. Each of
these moments has a time, so the gaps between them tell reading, deciding, typing, confirming and correcting apart:

```python
from handrail.envs.bpm.gaps import measure
from handrail.envs.logs.readers.star import Reader
from handrail.envs.schema import Session

reader = Reader("star")
found = (item for unit in reader.units() for item in reader.read(unit))
print(measure(item for item in found if isinstance(item, Session)))
```

Gaps have long tails (operators look away), so all figures are medians, or median regressions (Koenker & Bassett 1978)
with coefficients >= 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from handrail.envs.errors import HandrailError
from handrail.envs.schema import Message, Result, Session, Step

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 120.0
"""Seconds; longer gaps are pauses and left out."""

_FEWEST = 20
_ITERATIONS = 1000
_TOLERANCE = 1e-4


class Gaps(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, in seconds unless said otherwise; names as in `handrail.envs.bpm.clock.Seconds`.

    Attributes:
        reading: per word of the customer's message, until the operator has typed what to say.
        deciding: the part of that gap which neither words nor characters explain, after a message.
        routine: the same where no message came since the operator's last action.
        typing: per character that the operator typed.
        pointing: from a result to selecting it, less `routine`.
        confirming: from seeing the suggestions to taking the first.
        correcting: from seeing the suggestions to sending the own words just as typed.
        answering: the part of the customer's gap which neither words nor characters explain.
        listening: per word that the customer read.
        writing: per character that the customer wrote.
        spread: standard deviation of the logarithm of one operator's times, over what the regression predicts.
        people: standard deviation of the logarithm of operators' speeds.
        first: by how much the first reply of a session takes longer than later ones, all else equal.
        looking: per field of a record that came back since the last action.
        counts: gaps behind `replies`, `selections`, `confirmations`, `corrections`, `customers`; `operators` with at
            least 20 replies.
    """

    reading: float
    deciding: float
    routine: float
    typing: float
    pointing: float
    confirming: float
    correcting: float
    answering: float
    listening: float
    writing: float
    spread: float
    people: float
    first: float
    looking: float
    counts: dict[str, int]


def measure(sessions: Iterable[Session]) -> Gaps:
    """Measure the time that parts of the work take.

    Args:
        sessions: with times, and with drafts and verdicts of a copilot; other steps are passed over.

    Raises:
        HandrailError: there are fewer than 20 gaps of some kind.
    """
    replies: list[tuple[float, ...]] = []
    people: list[str] = []
    selections: list[float] = []
    confirmations: list[float] = []
    corrections: list[float] = []
    customers: list[tuple[float, ...]] = []
    for session in sessions:
        before: Step | None = None
        for step in session.steps:
            newest = _newest(before, step)
            if newest is not None and step.time is not None and step.actor == "operator":
                message = [event for event in step.events if isinstance(event, Message) and event.role == "customer"]
                records = [event for event in step.events if isinstance(event, Result)]
                draft = step.drafts[0] if len(step.drafts) == 1 else None
                if draft is not None and draft.time is not None:
                    words = sum(len(event.text.split()) for event in message)
                    fields = sum(len(event.item or ()) for event in records)
                    told = bool(message)
                    features = (told, not told, words, len(draft.text), fields, before is None)
                    replies.append((draft.time - newest, *map(float, features)))
                    people.append(session.operator)
                    if step.action.tool == "send_message" and step.action.args.get("text") == draft.text:
                        corrections.append(step.time - draft.time)
                    elif step.feedback is not None and step.feedback.verdict == "accept":
                        confirmations.append(step.time - draft.time)
                elif step.action.tool == "select_item" and records and not message:
                    selections.append(step.time - newest)
            customers.extend(_answer(before, step))
            before = step
    counts = {
        "replies": len(replies),
        "selections": len(selections),
        "confirmations": len(confirmations),
        "corrections": len(corrections),
        "customers": len(customers),
    }
    for name, count in counts.items():
        if count < _FEWEST:
            raise HandrailError(f"the sessions hold {count} {name} with times, and measuring takes {_FEWEST} at least")
    table, names = _plausible(replies, people)
    weights = median_regression(table[:, 1:], table[:, 0])
    spread, between, operators = _noise(table, names, weights)
    answers, _ = _plausible(customers, [""] * len(customers))
    customer = median_regression(answers[:, 1:], answers[:, 0])
    return Gaps(
        deciding=weights[0],
        routine=weights[1],
        reading=weights[2],
        typing=weights[3],
        looking=weights[4],
        first=weights[5],
        pointing=max(float(np.median(selections)) - weights[1], 0.0),
        confirming=float(np.median(confirmations)),
        correcting=float(np.median(corrections)),
        answering=customer[0],
        listening=customer[1],
        writing=customer[2],
        spread=spread,
        people=between,
        counts={**counts, "operators": operators},
    )


def median_regression(features: NDArray[np.float64], target: NDArray[np.float64]) -> list[float]:
    """Return the non-negative weights that minimise the absolute error, to about 1 % of the residuals.

    Least squares, reweighted by the size of the residuals until the weights stand still (the MM algorithm of Hunter &
    Lange 2000).

    Args:
        features: of shape (n, k).
        target: of shape (n,).
    """
    from scipy.optimize import nnls

    weights, _ = nnls(features, target)
    smallest = 1e-3 * float(np.median(np.abs(target)))
    for _ in range(_ITERATIONS):
        root = 1.0 / np.sqrt(np.maximum(np.abs(target - features @ weights), smallest))
        before = weights
        weights, _ = nnls(features * root[:, None], target * root)
        if np.abs(weights - before).max() < _TOLERANCE:
            break
    return [float(weight) for weight in weights]


def _newest(before: Step | None, step: Step) -> float | None:
    times = [event.time for event in step.events if event.time is not None]
    if before is not None and before.time is not None:
        times.append(before.time)
    return max(times, default=None)


def _answer(before: Step | None, step: Step) -> Iterator[tuple[float, ...]]:
    """Yield the gap between an operator's reply and the first message of the customer after it."""
    if before is None or before.time is None or before.actor != "operator":
        return
    heard = sum(len(e.text.split()) for e in step.events if isinstance(e, Message) and e.role == "operator")
    for event in step.events:
        if isinstance(event, Message) and event.role == "customer" and event.time is not None:
            yield event.time - before.time, 1.0, float(heard), float(len(event.text))
            return


def _plausible(rows: list[tuple[float, ...]], names: list[str]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    table = np.array(rows, float)
    kept = (table[:, 0] > 0) & (table[:, 0] < LONGEST)
    return table[kept], np.array(names)[kept]


def _noise(table: NDArray[np.float64], names: NDArray[Any], weights: list[float]) -> tuple[float, float, int]:
    """Return the spread of the logarithm of gaps within operators and between them, and the number of operators."""
    residual = np.log(table[:, 0] / np.maximum(table[:, 1:] @ np.array(weights), 1.0))
    groups = defaultdict(list)
    for name, value in zip(names.tolist(), residual.tolist(), strict=True):
        groups[name].append(value)
    known = [np.array(values) for values in groups.values() if len(values) >= _FEWEST]
    if not known:
        return float(residual.std()), 0.0, 0
    within = float(np.mean([values.var(ddof=1) for values in known]))
    chance = float(np.mean([values.var(ddof=1) / len(values) for values in known]))
    between = float(np.var([values.mean() for values in known], ddof=1)) if len(known) > 1 else 0.0
    return within**0.5, max(between - chance, 0.0) ** 0.5, len(known)
