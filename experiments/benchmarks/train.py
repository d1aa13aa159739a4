"""Packed against stepwise training: seconds until the same share of held-out actions is right.

Both train the same small model from the same weights with the same optimiser, in rounds of one packed pass worth of
tokens. Packed training is the default of `SFTConfig`; stepwise training has the paper's loss, on the action that ends
the window alone. The target is what packed training reaches after `ROUNDS` rounds; stepwise training goes on until it
is there, or for `PATIENCE` times as many rounds, and then the ratio is a lower bound. Only training is timed.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.experiments.benchmarks import Measurement, Options, Skipped

if TYPE_CHECKING:
    from handrail.agents.policy import Policy
    from handrail.envs.schema import Session

KEYS = ("train.packed_vs_stepwise",)
SESSIONS, HELD_OUT = 300, 100
ROUNDS, PATIENCE = 6, 12


def measure(options: Options) -> Iterator[Measurement | Skipped]:
    """Yield the ratio of the seconds stepwise training needs to those packed training needs."""
    from handrail.envs.errors import HandrailError
    from handrail.experiments.offline import read_data

    folder = options.data_path or os.environ.get("HANDRAIL_DATA")
    try:
        sessions, _ = read_data("star", str(folder) if folder else None, {}, {"completion": "Complete"})
    except HandrailError as error:
        yield Skipped(KEYS[0], str(error))
        return
    drawn = [sessions[i] for i in np.random.default_rng(0).permutation(len(sessions))[: SESSIONS + HELD_OUT]]
    train, held_out = drawn[:SESSIONS], drawn[SESSIONS:]
    start = _policy(train)
    tokens = _tokens(start, train, "packed")
    curve = _learn(copy.deepcopy(start), train, held_out, "packed", 1.0, ROUNDS, target=None)
    target = max(accuracy for _, accuracy in curve)
    packed = next(seconds for seconds, accuracy in curve if accuracy >= target)
    share = tokens / _tokens(start, train, "stepwise")
    slow = _learn(copy.deepcopy(start), train, held_out, "stepwise", share, ROUNDS * PATIENCE, target)
    stepwise = slow[-1][0]
    yield Measurement(KEYS[0], (stepwise / packed,), f"x faster to {target:.1%} of held-out actions")


def _policy(train: Sequence[Session]) -> Policy:
    from handrail.agents.policy import PolicyConfig, build_policy
    from handrail.agents.transcript import Transcript

    transcript = Transcript()
    texts = ["".join(span.text for span in transcript.spans(session)) for session in train]
    return build_policy(PolicyConfig(vocab_size=2048, hidden_size=96, layers=2), transcript, texts, seed=0)


def _tokens(policy: Policy, sessions: Sequence[Session], serialisation: str) -> int:
    from handrail.algorithms.sft import encode_sessions

    return sum(len(item) for item in encode_sessions(policy, sessions, serialisation))


def _learn(
    policy: Policy,
    train: Sequence[Session],
    held_out: Sequence[Session],
    serialisation: Any,
    epochs: float,
    rounds: int,
    target: float | None,
) -> list[tuple[float, float]]:
    """Return (seconds trained, held-out action accuracy) after each round, up to the first that reaches `target`."""
    from dataclasses import replace

    from handrail.agents.transcript import Transcript
    from handrail.algorithms.config import SFTConfig, TrainingConfig
    from handrail.algorithms.sft import fine_tune

    policy.transcript = Transcript(replace(policy.transcript.config, serialisation=serialisation))
    weight = SFTConfig().context_weight if serialisation == "packed" else 0.0
    training = TrainingConfig(epochs=epochs, warmup=0.1, decay=0.0, save_steps=0)
    config = SFTConfig(training=training, context_weight=weight)
    curve: list[tuple[float, float]] = []
    spent = 0.0
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            result = fine_tune(policy, train, config, Path(scratch), seed=number)
            spent += result["seconds"]
        curve.append((spent, _accuracy(policy, held_out)))
        if target is not None and curve[-1][1] >= target:
            break
    return curve


def _accuracy(policy: Policy, sessions: Sequence[Session]) -> float:
    """Return the share of actions that unconstrained greedy decoding writes exactly as logged, token for token."""
    import torch

    from handrail.agents.decoding import pad
    from handrail.agents.encoding import batches
    from handrail.algorithms.sft import encode_sessions

    items = encode_sessions(policy, sessions, "packed")
    model: Any = policy.model
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for batch in batches([len(item) for item in items], 16384):
            chosen = [items[i] for i in batch]
            ids = pad([item.ids for item in chosen], policy)
            hidden = policy.body(input_ids=ids, use_cache=False).last_hidden_state
            for row, item in enumerate(chosen):
                inside = np.flatnonzero(item.step >= 0)
                guess = model.get_output_embeddings()(hidden[row, inside - 1]).argmax(-1).cpu().numpy()
                hits = guess == item.ids[inside]
                for step in np.unique(item.step[inside]):
                    right += bool(hits[item.step[inside] == step].all())
                    total += 1
    return right / total
