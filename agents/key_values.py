"""Keys and values of many texts that grow at their own pace: what running sessions keep between their steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_ROOM = 256
_COPY_COST = 2
"""What copying a row costs, in tokens read."""


class KeyValues:
    """One row of cached keys and values a text, of any length, for every layer of a transformer.

    A layer's buffers have shape (rows, heads, room, head size); rows and room double when they are too small, so the
    memory is that of the longest text times the number of texts, at most four times over.

    Args:
        layers: of the transformer.
        pad: token that fills up shorter pieces.

    Attributes:
        lengths: tokens held by each row in use.
    """

    def __init__(self, layers: int, pad: int) -> None:
        self.lengths: list[int] = []
        self.pad = pad
        self._layers = [_Rows() for _ in range(layers)]
        self._cache = Cache(layers=list(self._layers))

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self) -> int:
        """Take an empty row into use and return its number, the next one."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    @torch.inference_mode()
    def remove(self, row: int) -> int:
        """Give a row back. The last row moves into its place, so that rows in use stay together.

        Returns:
            The number that the moved row had before.
        """
        last = len(self.lengths) - 1
        length = self.lengths.pop()
        if row != last:
            self.lengths[row] = length
            for layer in self._layers:
                layer.move(last, row, length)
        return last

    def cut(self, row: int, length: int) -> None:
        """Forget what a row holds beyond `length` tokens."""
        self.lengths[row] = min(self.lengths[row], length)

    @torch.inference_mode()
    def read(self, body: Any, rows: Sequence[int], pieces: Sequence[Sequence[int]]) -> torch.Tensor:
        """Run a transformer body over new tokens of some rows and keep their keys and values.

        Args:
            body: without its head; returns `last_hidden_state`.
            rows: distinct row numbers.
            pieces: the new tokens of each, at least one.

        Returns:
            The state after each new token, shape (n, longest piece, hidden size). What stands beyond the end of a
            shorter piece means nothing.
        """
        device = body.device
        by_row = dict(zip(rows, pieces, strict=True))
        chosen = sorted(by_row)
        longest = max(map(len, pieces))
        idle = chosen[-1] + 1 - chosen[0] - len(chosen)
        # Rows that lie together need not be copied together: idle ones are read along where that costs less.
        if idle * longest <= _COPY_COST * len(chosen):
            chosen = list(range(chosen[0], chosen[-1] + 1))
        given = [list(by_row.get(row, (self.pad,))) for row in chosen]
        ids = torch.tensor([piece + [self.pad] * (longest - len(piece)) for piece in given], device=device)
        start = torch.tensor([self.lengths[row] for row in chosen], device=device)
        positions = start[:, None] + torch.arange(longest, device=device)
        seen = max(self.lengths[row] for row in chosen) + longest
        hidden = torch.arange(seen, device=device) > positions[:, :, None]
        dtype = body.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
        where = _Where(chosen, positions, seen, len(self.lengths))
        for layer in self._layers:
            layer.where = where
        states = body(
            input_ids=ids,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        for row, piece in by_row.items():
            self.lengths[row] += len(piece)
        place = {row: n for n, row in enumerate(chosen)}
        return torch.as_tensor(states[torch.tensor([place[row] for row in rows], device=device)])


class _Where:
    """Which rows and positions a pass reads and writes."""

    def __init__(self, rows: list[int], positions: torch.Tensor, seen: int, in_use: int) -> None:
        self.positions, self.seen, self.in_use = positions, seen, in_use
        self.index = torch.tensor(rows, device=positions.device)
        self.together = rows == list(range(rows[0], rows[-1] + 1))
        self.low, self.high = rows[0], rows[-1] + 1


class _Rows(CacheLayerMixin):
    """The rows of one layer."""

    is_sliding = False

    def __init__(self) -> None:
        prepare: Any = super().__init__
        prepare()
        self.where: _Where | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Zeros, not what happens to lie there: a hidden position has weight 0, and 0 times NaN is NaN.
        self.keys = key_states.new_zeros((0, key_states.shape[1], _FIRST_ROOM, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], _FIRST_ROOM, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        where = self.where
        assert where is not None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = _grown(self.keys, where.in_use, where.seen)
        self.values = _grown(self.values, where.in_use, where.seen)
        found = []
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer[where.index[:, None], :, where.positions] = states.transpose(1, 2)
            held = buffer[:, :, : where.seen]
            found.append(held[where.low : where.high] if where.together else held[where.index])
        return tuple(found)

    def move(self, source: int, target: int, length: int) -> None:
        for buffer in (self.keys, self.values):
            if buffer is not None and source < buffer.shape[0]:
                buffer[target, :, :length] = buffer[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self.where.seen if self.where is not None else query_length), 0

    def get_seq_length(self) -> int:
        return self.where.seen if self.where is not None else 0

    def get_max_length(self) -> int:
        return -1


def _grown(buffer: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    """Return a buffer with at least so many rows and so much room: the given one, or a larger copy."""
    if rows <= buffer.shape[0] and room <= buffer.shape[2]:
        return buffer
    shape = list(buffer.shape)
    for place, needed in ((0, rows), (2, room)):
        if needed > shape[place]:
            shape[place] = max(needed, 2 * shape[place])
    larger = buffer.new_zeros(shape)
    larger[: buffer.shape[0], :, : buffer.shape[2]] = buffer
    return larger
