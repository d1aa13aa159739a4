"""Reading sessions with a policy, for scores of strangeness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from handrail.agents.ood import Views
from handrail.agents.policy import Policy
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Session


def read_steps(
    policy: Policy,
    sessions: Sequence[Session],
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    budget: int = 16384,
) -> Views:
    """Return what the policy read at each operator step.

    Args:
        policy: who reads.
        sessions: logged sessions; ids are unique.
        progress: wraps the iteration over batches.
        budget: padded tokens of one pass.

    Raises:
        HandrailError: no operator acted in any of the sessions.
    """
    import torch

    from handrail.agents.decoding import pad
    from handrail.agents.encoding import batches, windows

    known = {session.id: session for session in sessions}
    pieces = [
        piece
        for session in sessions
        for piece in windows(policy.encoder.encode(session.id, policy.transcript.spans(session)), policy.max_length)
    ]
    model: Any = policy.model
    model.eval()
    found: dict[tuple[str, int], tuple[Any, float, float, Any]] = {}
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    with torch.inference_mode():
        for batch in progress(batches([len(piece) for piece in pieces], budget)):
            ids = pad([pieces[n].ids for n in batch], policy)
            hidden = policy.body(input_ids=ids, use_cache=False).last_hidden_state
            for row, n in enumerate(batch):
                piece = pieces[n]
                logits = model.get_output_embeddings()(hidden[row, : len(piece)]).float()
                energy, scores = logits.logsumexp(-1).cpu().numpy(), logits.log_softmax(-1).cpu().numpy()
                states = hidden[row].float().cpu().numpy()
                before = piece.header
                for step, (first, last) in sorted(piece.actions.items(), key=lambda item: item[1]):
                    if known[piece.session_id].steps[step].actor == "operator":
                        seen = piece.ids[before:first]
                        said = scores[np.arange(before, first) - 1, seen] if before else scores[:0, 0]
                        surprise = -float(said.mean()) if len(said) else 0.0
                        found[piece.session_id, step] = (
                            states[first - 1].copy(),
                            float(energy[first - 1]),
                            surprise,
                            seen,
                        )
                    before = last
    if not found:
        raise HandrailError(f"no operator acted in any of {len(sessions)} sessions; there is no step to score")
    order = {session.id: n for n, session in enumerate(sessions)}
    keys = sorted(found, key=lambda key: (order[key[0]], key[1]))
    rows = [found[key] for key in keys]
    actions = [known[name].steps[step].action for name, step in keys]
    return Views(
        session_ids=np.array([name for name, _ in keys]),
        steps=np.array([step for _, step in keys], dtype=np.int64),
        kinds=np.array([f"{action.tool}/{action.target}" for action in actions]),
        states=np.array([row[0] for row in rows], dtype=np.float32),
        energy=np.array([row[1] for row in rows]),
        surprise=np.array([row[2] for row in rows]),
        tokens=tuple(row[3] for row in rows),
        vocabulary=vocabulary,
    )
