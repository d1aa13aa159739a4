"""Reading many candidate actions of a session in one pass.

A branch is a candidate written after the prefix of its step. The tokens of all branches are appended to the packed
transcript; the attention mask lets a branch see its own prefix and itself, nothing else, and its positions go on from
the prefix. The states are those of reading prefix and branch alone (tested), at the cost of one pass a session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from handrail.agents.critic import Case
from handrail.agents.encoding import batches
from handrail.agents.policy import Policy
from handrail.agents.references import References
from handrail.agents.transcript import DRAFT, escape
from handrail.envs.schema import Session

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Branched:
    """A transcript with branches.

    Attributes:
        ids: token ids of the transcript, then of the branches; shape (n,).
        positions: position of each token, shape (n,).
        trunk: how many tokens are transcript.
        starts: first token of each branch, shape (b,).
        ends: position after its last token, shape (b,).
        forks: how many transcript tokens each branch sees, shape (b,).
        cases: index of each branch's case in the list it was made from.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    trunk: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    forks: NDArray[np.int64]
    cases: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def mask(self, size: int) -> NDArray[np.bool_]:
        """Return which tokens each token sees, shape (size, size); padding sees only itself."""
        seen = np.zeros((size, size), dtype=bool)
        seen[: self.trunk, : self.trunk] = np.tri(self.trunk, dtype=bool)
        for start, end, fork in zip(self.starts, self.ends, self.forks, strict=True):
            seen[start:end, :fork] = True
            seen[start:end, start:end] = np.tri(end - start, dtype=bool)
        rest = np.arange(len(self.ids), size)
        seen[rest, rest] = True
        return seen


def branch(policy: Policy, cases: Sequence[Case]) -> list[Branched]:
    """Write each case's suggestion (after the operator's draft, if the case knows it) as a branch of its session.

    Sessions too long for the policy are read through a window that ends at the last branch it holds: the header and
    the most recent entries.

    Args:
        policy: gives transcript, tokenizer and window length.
        cases: what is judged; cases of one session are read together.
    """
    by_session: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        by_session.setdefault(case.session.id, []).append(number)
    found = []
    for numbers in by_session.values():
        session = cases[numbers[0]].session
        encoded = policy.encoder.encode(session.id, policy.transcript.spans(session))
        actions = encoded.actions
        viewed, names = policy.transcript.view(session)
        written = {n: _tokens(policy, cases[n], viewed, names) for n in numbers}
        pending = sorted(numbers, key=lambda n: cases[n].step)
        while pending:
            taken, room = [pending[0]], policy.max_length - len(written[pending[0]])
            first_fork = actions[cases[pending[0]].step][0] - 1
            cut = max(0, first_fork - room)
            for n in pending[1:]:
                if actions[cases[n].step][0] - 1 - cut > policy.max_length - len(written[n]):
                    break
                taken.append(n)
            pending = pending[len(taken) :]
            found.append(_assemble(encoded.ids, encoded.header, cut, cases, taken, actions, written))
    return found


def _tokens(policy: Policy, case: Case, viewed: Session, names: list[References] | None) -> list[int]:
    action = case.suggestion if names is None else names[case.step].named(case.suggestion)
    step = msgspec.structs.replace(viewed.steps[case.step], action=action)
    tokens = policy.encoder.tokens(policy.transcript.action(step).text)
    return policy.encoder.tokens(DRAFT + escape(case.draft)) + tokens if case.draft else tokens


def _assemble(
    ids: NDArray[np.int64],
    header: int,
    cut: int,
    cases: Sequence[Case],
    taken: list[int],
    actions: dict[int, tuple[int, int]],
    written: dict[int, list[int]],
) -> Branched:
    forks = np.array([actions[cases[n].step][0] - 1 for n in taken], dtype=np.int64)
    keep = np.arange(int(forks.max()))
    if cut:
        keep = np.concatenate([keep[:header], keep[header + cut :]])
        forks = forks - cut
    pieces = [np.asarray(written[n], dtype=np.int64) for n in taken]
    lengths = np.array([len(p) for p in pieces], dtype=np.int64)
    ends = len(keep) + np.cumsum(lengths)
    positions = [np.arange(len(keep))] + [f + np.arange(n) for f, n in zip(forks, lengths, strict=True)]
    return Branched(
        np.concatenate([ids[keep], *pieces]),
        np.concatenate(positions),
        len(keep),
        ends - lengths,
        ends,
        forks,
        tuple(taken),
    )


def tensors(items: Sequence[Branched], policy: Policy) -> dict[str, torch.Tensor]:
    """Return `ids` (n, length), `positions` (n, length) and `mask` (n, 1, length, length) of padded items."""
    import torch

    size = max(len(item) for item in items)
    filler: Any = policy.tokenizer.pad_token_id
    ids = torch.full((len(items), size), int(filler), dtype=torch.long)
    positions = torch.zeros((len(items), size), dtype=torch.long)
    mask = torch.zeros((len(items), 1, size, size), dtype=torch.bool)
    for row, item in enumerate(items):
        ids[row, : len(item)] = torch.from_numpy(item.ids)
        positions[row, : len(item)] = torch.from_numpy(item.positions)
        mask[row, 0] = torch.from_numpy(item.mask(size))
    return {"ids": ids, "positions": positions, "mask": mask}


def read(
    body: Any,
    policy: Policy,
    items: Sequence[Branched],
    take: Callable[[Branched, torch.Tensor], None],
    token_budget: int = 16384,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> None:
    """Run a transformer body over branched transcripts and hand each item's states to `take(item, states)`.

    Args:
        body: a transformer without its head; returns `last_hidden_state`.
        policy: gives the padding token and the device.
        items: what is read.
        take: receives an item and its states, shape (len(item), hidden size).
        token_budget: padded tokens a pass.
        progress: wraps the iteration over passes.
    """
    import torch

    with torch.inference_mode():
        for batch in progress(batches([len(item) for item in items], token_budget)):
            chosen = [items[i] for i in batch]
            given = {key: value.to(policy.device) for key, value in tensors(chosen, policy).items()}
            states = body(
                input_ids=given["ids"],
                attention_mask=given["mask"],
                position_ids=given["positions"],
                use_cache=False,
            ).last_hidden_state
            for row, item in enumerate(chosen):
                take(item, states[row, : len(item)])
