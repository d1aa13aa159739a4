"""How training goes, told while it goes to whoever listens: a tracker draws curves, a search stops what goes badly.

Learners tell and know nobody who listens; where nobody does, telling costs nothing.

    with listening(lambda progress: print(progress.name, progress.share, progress.values)):
        fine_tune(policy, sessions, config, folder, seed)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a learner tells after a batch.

    Attributes:
        name: of what is trained, e.g. `sft`.
        step: batches done, counted from 1.
        share: of all its batches, in (0, 1].
        values: name -> number; `loss` is the mean over the batches since it was last told, names that begin with
            `validation_` are of sessions that nothing is learned from.
    """

    name: str
    step: int
    share: float
    values: Mapping[str, float]


Listener = Callable[[Progress], None]

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear what is told inside the block; what it raises ends the training that told it."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def tell(progress: Progress) -> None:
    """Tell every listener."""
    for listener in _listeners.get():
        listener(progress)
