"""Transcripts as token arrays: which tokens are actions, of which step, and how long sessions are cut into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.transcript import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEMBERED = 1 << 18
"""Spans whose tokens are remembered: all of a large log, a few hundred megabytes."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of one transcript.

    Attributes:
        session_id: whose.
        ids: token ids, shape (n,), int64.
        step: for tokens after the `<|action|>` marker of an action span, the action's step index; -1 elsewhere;
            shape (n,).
        header: how many tokens the case header takes; windows repeat them.
    """

    session_id: str
    ids: NDArray[np.int64]
    step: NDArray[np.int64]
    header: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def actions(self) -> dict[int, tuple[int, int]]:
        """Step index -> (position of the first token of the action, position after its last)."""
        inside = np.flatnonzero(self.step >= 0)
        if inside.size == 0:
            return {}
        steps, first = np.unique(self.step[inside], return_index=True)
        last = np.append(first[1:], inside.size) - 1
        return {int(step): (int(inside[a]), int(inside[b]) + 1) for step, a, b in zip(steps, first, last, strict=True)}


class Encoder:
    """Tokenises spans one by one, remembering those seen before: reply actions and case headers recur.

    Args:
        tokenizer: any `transformers` tokenizer. Spans are tokenised apart, so a transcript's tokens do not depend on
            what follows a span.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._seen: dict[str, list[int]] = {}
        self._marker_length: dict[str, int] = {}

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a span."""
        return self.lookup([text])[0]

    def encode(self, session_id: str, spans: Sequence[Span]) -> Encoded:
        """Return the tokens of a transcript."""
        pieces = self.lookup([span.text for span in spans])
        steps = []
        for span, piece in zip(spans, pieces, strict=True):
            skip = self.marker_length(span.text) if span.action else len(piece)
            steps.append(np.full(len(piece), -1, dtype=np.int64))
            steps[-1][skip:] = span.step
        return Encoded(
            session_id,
            np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces]),
            np.concatenate(steps),
            len(pieces[0]),
        )

    def marker_length(self, text: str) -> int:
        """Return how many tokens the marker that opens a span takes (1, unless the tokenizer splits markers)."""
        marker = text[: text.index("|>") + 2]
        if marker not in self._marker_length:
            self._marker_length[marker] = len(self.tokens(marker))
        return self._marker_length[marker]

    def lookup(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each span; faster than one by one."""
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            batch: Any = self.tokenizer(new, add_special_tokens=False)
            self._seen.update(zip(new, batch["input_ids"], strict=True))
        return [self._seen[text] for text in texts]


def windows(encoded: Encoded, max_length: int) -> Iterator[Encoded]:
    """Cut a transcript into windows of at most `max_length` tokens.

    Every action is supervised in exactly one window. Windows after the first repeat the header and begin half a window
    before their first action, so an action keeps at least that much context. An action longer than a window is cut.
    """
    if len(encoded) <= max_length:
        yield encoded
        return
    header = min(encoded.header, max_length // 4)
    body = max_length - header
    start, done = header, -1
    while True:
        stop = min(start + body, len(encoded))
        inside = encoded.step[start:stop].copy()
        spans = [(s, a, b) for s, (a, b) in encoded.actions.items() if s > done and a > start]
        fits = [s for s, a, b in spans if b <= stop]
        if spans and not fits and spans[0][1] == start + 1:
            fits = [spans[0][0]]
        inside[~np.isin(inside, fits)] = -1
        if fits:
            yield Encoded(
                encoded.session_id,
                np.concatenate([encoded.ids[:header], encoded.ids[start:stop]]),
                np.concatenate([np.full(header, -1, dtype=np.int64), inside]),
                header,
            )
            done = fits[-1]
        rest = [(s, a, b) for s, a, b in spans if s > done]
        if not rest:
            return
        _, first, last = rest[0]
        start = window_start(header, body, first, last)


def window_start(header: int, body: int, first: int, last: int) -> int:
    """Return where the window begins whose first action stands at `first` to `last` in the transcript.

    Args:
        header: tokens of the header that the window repeats.
        body: tokens the window holds besides.
        first: position of the action's first token.
        last: position after its last token.
    """
    return max(header, min(first - 1, max(last - body, first - body // 2)))


def batches(lengths: Sequence[int], budget: int, rng: np.random.Generator | None = None) -> list[list[int]]:
    """Group items of similar length so that a padded batch holds at most `budget` tokens.

    Args:
        lengths: tokens of each item.
        budget: padded tokens a batch; an item longer than that is a batch of its own.
        rng: if given, items are shuffled, sorted within pools of 512 only, and batches shuffled.

    Returns:
        Lists of indices into `lengths`; each index occurs once.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    pool = len(lengths) if rng is None else 512
    grouped: list[list[int]] = []
    for start in range(0, len(order), max(pool, 1)):
        batch: list[int] = []
        longest = 0
        for index in sorted(order[start : start + pool], key=lambda i: lengths[i]):
            longest = max(longest, lengths[index])
            if batch and longest * (len(batch) + 1) > budget:
                grouped.append(batch)
                batch, longest = [], lengths[index]
            batch.append(int(index))
        if batch:
            grouped.append(batch)
    if rng is not None:
        grouped = [grouped[i] for i in rng.permutation(len(grouped))]
    return grouped
