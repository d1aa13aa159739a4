"""How likely the policy finds suggestions it did not make, and the states it reads them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.branches import Branched, branch, read
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder, Suggestion, Writer
from handrail.envs.schema import Action, Control

if TYPE_CHECKING:
    import torch

FLOOR = 1e-9
"""Probability of a token the screen does not admit, so that scores stay finite."""


@dataclass(frozen=True)
class Reading:
    """What a policy makes of one suggestion.

    Attributes:
        suggestion: the action with the policy's confidence in it; `margin` is negative where another token led.
        before: the state before the action, shape (hidden size,).
        after: the state after it, shape (hidden size,).
    """

    suggestion: Suggestion
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def assess(
    decoder: Decoder, cases: Sequence[Case], progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> list[Reading]:
    """Let the decoder's policy read suggestions; drafts are not read, the policy never saw any.

    Args:
        decoder: gives the policy and what each screen admits.
        cases: the suggestions.
        progress: wraps the iteration over passes.

    Returns:
        One reading a case, in order.
    """
    policy = decoder.policy
    if policy.own:
        readings: dict[int, Reading] = {}
        for one, places in policy.shared_out([case.session.issue for case in cases]):
            made = assess(decoder.by(one), [cases[n] for n in places], progress)
            readings.update(zip(places, made, strict=True))
        return [readings[n] for n in range(len(cases))]
    plain = [Case(c.session, c.step, c.suggestion, c.accepted) for c in cases]
    views = {case.session.id: policy.transcript.view(case.session)[0] for case in cases}
    found: dict[int, Reading] = {}
    model: Any = policy.model
    head = model.get_output_embeddings()

    def take(item: Branched, states: torch.Tensor) -> None:
        inside = np.concatenate([np.arange(a, b - 1) for a, b in zip(item.starts, item.ends, strict=True)])
        scores = head(states[inside.tolist()]).float().cpu().numpy()
        seen = states.float().cpu().numpy()
        row = 0
        for number, start, end, fork in zip(item.cases, item.starts, item.ends, item.forks, strict=True):
            tokens = [int(t) for t in item.ids[start + 1 : end]]
            case = plain[number]
            controls = views[case.session.id].steps[case.step].state.controls
            made = confidence(
                decoder,
                (case.session.id, case.step),
                case.suggestion,
                controls,
                item.ids[:fork],
                tokens,
                scores[row : row + len(tokens)],
            )
            row += len(tokens)
            made = replace(made, second=cases[number].second)
            found[number] = Reading(made, seen[start].copy(), seen[end - 1].copy())

    read(policy.body, policy, branch(policy, plain), take, progress=progress)
    return [found[number] for number in range(len(plain))]


def confidence(
    writer: Writer,
    where: tuple[str, int],
    action: Action,
    controls: tuple[Control, ...],
    seen: Sequence[int] | NDArray[np.int64],
    tokens: Sequence[int],
    scores: NDArray[np.float32],
) -> Suggestion:
    """Return an action with the policy's confidence in it.

    Args:
        writer: says what the screen admits.
        where: id of the session, and step.
        action: what the tokens say.
        controls: of the screen, as they are written.
        seen: the tokens before the action's marker.
        tokens: the action's, after its marker.
        scores: of the vocabulary at each of them, shape (n, vocabulary), before the softmax.
    """
    cursor = writer.cursor(controls, seen)
    refused = False
    log_probability, lowest, margin, entropy = 0.0, 1.0, 1.0, 0.0
    for token, row in zip(tokens, scores, strict=True):
        ids = writer.admissible(cursor)
        at = np.flatnonzero(ids == token)
        refused = refused or at.size == 0
        if refused:
            log_probability, lowest, margin = log_probability + np.log(FLOOR), FLOOR, -1.0
            continue
        if len(ids) > 1:
            values = row[ids].astype(np.float64)
            weights = np.exp(values - values.max())
            weights /= weights.sum()
            mine = weights[at[0]]
            log_probability += float(np.log(max(mine, FLOOR)))
            lowest = min(lowest, float(mine))
            margin = min(margin, float(mine - np.delete(weights, at[0]).max()))
            entropy = max(entropy, float(-(weights * np.log(np.maximum(weights, 1e-300))).sum()))
        if cursor is not None:
            cursor.push(token)
    return Suggestion(*where, action, tuple(tokens), float(log_probability), lowest, margin, entropy)
