"""Transcripts as tokens: which tokens are actions, windows and batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import random_sessions, tiny_policy

from handrail.agents.encoding import Encoded, Encoder, batches, windows
from handrail.agents.transcript import Span, Transcript


def encoded(pieces: list[tuple[int, bool]], header: int) -> Encoded:
    """Tokens 100, 101, …: a header, then stretches of (length, is an action); an action's first token is its marker."""
    step = [-1] * header
    index = 0
    for length, action in pieces:
        step.extend([-1] + [index] * (length - 1) if action else [-1] * length)
        index += action
    return Encoded("s", np.arange(100, 100 + len(step)), np.array(step, dtype=np.int64), header)


def test_the_tokens_of_a_transcript_by_hand() -> None:
    words = ["<|case|>", "<|action|>", "<|end|>", "<|customer|>", "a", "b", "c"]

    class Words:
        def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
            calls.append(texts)
            return {"input_ids": [[words.index(w) for w in text.replace(">", "> ").split()] for text in texts]}

    calls: list[list[str]] = []
    encoder = Encoder(Words())  # type: ignore[arg-type]
    spans = [Span("<|case|>a b", 0), Span("<|customer|>c", 0), Span("<|action|>b <|end|>", 0, True)]
    spans += [Span("<|action|>a c <|end|>", 1, True)]
    for _ in range(2):
        found = encoder.encode("s1", spans)
    assert found.ids.tolist() == [0, 4, 5, 3, 6, 1, 5, 2, 1, 4, 6, 2]
    assert found.step.tolist() == [-1, -1, -1, -1, -1, -1, 0, 0, -1, 1, 1, 1]
    assert (found.header, found.session_id, len(found)) == (3, "s1", 12)
    assert found.actions == {0: (6, 8), 1: (9, 12)}
    assert sum(len(batch) for batch in calls) == 5
    assert encoder.marker_length("<|customer|>c") == 1


def test_no_action_at_all() -> None:
    assert encoded([(4, False)], 2).actions == {}


def test_windows_by_hand() -> None:
    whole = encoded([(4, False), (3, True), (5, False), (3, True)], header=2)
    assert [w.ids.tolist() for w in windows(whole, 17)] == [list(range(100, 117))]
    first, second = windows(whole, 10)
    assert first.ids.tolist() == list(range(100, 110))
    assert first.actions == {0: (7, 9)}
    assert second.ids.tolist() == [100, 101, 111, 112, 113, 114, 115, 116]
    assert second.actions == {1: (6, 8)}
    assert second.step.tolist() == [-1] * 6 + [1, 1]


pieces = st.lists(st.tuples(st.integers(2, 30), st.booleans()), min_size=1, max_size=12)


@given(pieces, st.integers(1, 20), st.integers(8, 64))
def test_windows_supervise_every_action_once_within_the_limit(
    parts: list[tuple[int, bool]], header: int, limit: int
) -> None:
    whole = encoded(parts, header)
    seen: dict[int, list[int]] = {}
    cuts = list(windows(whole, limit))
    for window in cuts:
        assert len(window) <= limit
        assert window.ids[: window.header].tolist() == whole.ids[: window.header].tolist()
        body = window.ids[window.header :]
        assert (np.diff(body) == 1).all()
        for step, (first, last) in window.actions.items():
            seen.setdefault(step, []).extend(window.ids[first:last].tolist())
            assert window.ids[first - 1] == whole.ids[whole.actions[step][0] - 1], "the marker comes before the action"
    assert sorted(seen) == sorted(whole.actions)
    kept = limit - min(header, limit // 4)
    for step, tokens in seen.items():
        first, last = whole.actions[step]
        expected = whole.ids[first:last].tolist()
        assert tokens == expected or (last - first >= kept and tokens == expected[: len(tokens)] and tokens)


@given(pieces, st.integers(1, 20), st.integers(8, 64))
def test_an_action_that_fits_keeps_half_a_window_of_context(
    parts: list[tuple[int, bool]], header: int, limit: int
) -> None:
    whole = encoded(parts, header)
    for window in list(windows(whole, limit))[1:]:
        body = limit - window.header
        step, (first, last) = next(iter(window.actions.items()))
        before = whole.actions[step][0] - window.header
        assert first - window.header >= min(body // 2, body - (last - first), before) - 1


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200), st.one_of(st.none(), st.integers(0, 9)))
def test_batches_hold_each_item_once_and_stay_in_the_budget(lengths: list[int], budget: int, seed: int | None) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    grouped = batches(lengths, budget, rng)
    assert sorted(i for batch in grouped for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= budget for b in grouped)
    again = None if seed is None else np.random.default_rng(seed)
    assert batches(lengths, budget, again) == grouped


def test_batches_by_hand() -> None:
    assert batches([5, 1, 4, 2, 9], 8) == [[1, 3], [2], [0], [4]]
    many = batches([3] * 2000, 30, np.random.default_rng(0))
    assert Counter(map(len, many)) == {10: 3 * 51 + 46, 2: 3, 4: 1}, "pools of 512, 512, 512 and 464"
    assert many != batches([3] * 2000, 30, np.random.default_rng(1))


@pytest.mark.parametrize("seed", [0, 1])
def test_spans_are_tokenised_apart(seed: int) -> None:
    sessions = random_sessions(seed, 3)
    policy = tiny_policy(sessions)
    spans = Transcript().spans(sessions[0])
    whole = policy.encoder.encode("s0", spans)
    part = policy.encoder.encode("s0", spans[:4])
    assert whole.ids[: len(part)].tolist() == part.ids.tolist()
    for step, (first, last) in whole.actions.items():
        span = next(s for s in spans if s.action and s.step == step)
        assert [int(whole.ids[first - 1]), *whole.ids[first:last].tolist()] == policy.encoder.tokens(span.text)
