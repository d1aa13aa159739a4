"""Greedy decoding constrained to what each screen offers: `Writer` token by token, `Decoder` for logged sessions.

The decoder suggests at every step of finished sessions; `handrail.agents.desk` does for running ones.

One packed pass over a session gives the distribution at every position of every logged action. Greedy decoding follows
the logged action for as long as the most probable admissible token is the logged one, so those tokens need no further
pass; from the first position where it is another, decoding goes on from the cached keys and values of the prefix. The
result is what step-by-step greedy decoding gives (tested), at the cost of one pass plus the tails that differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.encoding import Encoded, batches, windows
from handrail.agents.grammar import Cursor, Grammar, Words, text_tokens
from handrail.agents.policy import Policy
from handrail.agents.references import References
from handrail.agents.transcript import ACTION, END, read_action
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Control, Session

if TYPE_CHECKING:
    import torch

INVALID = Action("invalid")
"""What an unconstrained model wrote when it is no action."""

MAX_ACTION_TOKENS = 160
UNFINISHED = float(np.log(1e-9))
"""Added to the log-probability of an action that was cut off."""

_TAIL_TOKENS = 65536
"""Cached positions of one batch of tails: bounds the memory of decoding."""

_GRAMMARS = 4096
"""Screens whose grammars are remembered; running desks go on showing new ones."""


@dataclass(frozen=True)
class Suggestion:
    """What a policy would do at a step, and how sure it is.

    Attributes:
        session_id, step: where.
        action: the suggestion.
        tokens: its tokens, the end marker included.
        log_probability: of the whole action under the admissible tokens, <= 0.
        min_probability: the lowest probability of one of its tokens, in (0, 1].
        margin: the smallest gap between the most and the second most probable admissible token, in [0, 1].
        entropy: the largest entropy of an admissible distribution on the way, in nats.
        second: log-probability of the action by a second reader (`handrail.agents.rerank`), <= 0; 0 without one.
    """

    session_id: str
    step: int
    action: Action
    tokens: tuple[int, ...]
    log_probability: float
    min_probability: float
    margin: float
    entropy: float
    second: float = 0.0


@dataclass
class Writing:
    """An action being written; the measures are those of `Suggestion`, so far.

    Attributes:
        session_id, step: where.
        cursor: what may follow; `None` if anything may.
        references: the names that it may use; `None` if the transcript has none.
        done: whether it is complete, or was cut off.
    """

    session_id: str
    step: int
    cursor: Cursor | None
    references: References | None = None
    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    min_probability: float = 1.0
    margin: float = 1.0
    entropy: float = 0.0
    done: bool = False


class Writer:
    """Writes actions token by token, each time the most probable token that is admissible.

    Args:
        policy: whose actions.
        constrained: whether only tools, control ids and options that the state offers may be written.
        copied: whether what is entered into an input without options has to be copied from what was seen.
    """

    def __init__(self, policy: Policy, constrained: bool = True, copied: bool = False) -> None:
        self.policy, self.constrained, self.copied = policy, constrained, copied
        self._grammars: OrderedDict[int, tuple[tuple[Control, ...], Grammar]] = OrderedDict()
        model: Any = policy.model
        self._vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._text = text_tokens(policy.encoder, self._vocabulary)
        self._is_text = np.zeros(self._vocabulary, dtype=bool)
        self._is_text[self._text] = True
        self._words = Words(policy.encoder, self._vocabulary)
        self._end = policy.encoder.tokens(END)[0]
        if policy.encoder.marker_length(ACTION) != 1:
            raise HandrailError("the policy's tokenizer splits the transcript's markers; build it with build_policy")

    def grammar(self, controls: tuple[Control, ...]) -> Grammar:
        """Return the grammar of a screen; screens that share their controls share it."""
        key = id(controls)
        if key in self._grammars:
            self._grammars.move_to_end(key)
        else:
            self._grammars[key] = (controls, Grammar(controls, self.policy.encoder))
            if len(self._grammars) > _GRAMMARS:
                self._grammars.popitem(last=False)
        return self._grammars[key][1]

    def admissible(self, cursor: Cursor | None) -> NDArray[np.int64]:
        """Return the ids of the tokens that may follow, all of them without a cursor."""
        if cursor is None:
            return np.arange(self._vocabulary)
        ids = cursor.allowed()
        if ids is not None:
            return ids
        admitted = self._is_text.copy()
        admitted[cursor.markers()] = True
        return np.flatnonzero(admitted)

    def cursor(self, controls: tuple[Control, ...], seen: Sequence[int] | NDArray[np.int64] = ()) -> Cursor | None:
        """Return where an action on a screen begins, `None` for one that nothing constrains.

        Args:
            controls: of the screen.
            seen: the tokens before the action.
        """
        if not self.constrained:
            return None
        text = self._words.seen(np.asarray(seen, dtype=np.int64)) if self.copied else None
        return Cursor(self.grammar(controls), text)

    def choose(self, writing: Writing, scores: NDArray[np.float32]) -> int:
        """Take the most probable admissible token.

        Args:
            writing: is added to.
            scores: of the whole vocabulary, shape (n,), before the softmax.

        Returns:
            The token; -1 if none is admissible or the action has become too long, which ends it.
        """
        cursor = writing.cursor
        ids = self.admissible(cursor) if cursor is not None else None
        values = scores if ids is None else scores[ids]
        if not len(values) or self._cut(writing):
            return self._give_up(writing)
        top = int(values.argmax())
        token = top if ids is None else int(ids[top])
        if len(values) > 1:
            shifted = (values - values[top]).astype(np.float64)
            weights = np.exp(shifted)
            total = weights.sum()
            probability = 1.0 / total
            weights /= total
            second = np.partition(weights, -2)[-2]
            writing.log_probability += float(np.log(probability))
            writing.min_probability = min(writing.min_probability, float(probability))
            writing.margin = min(writing.margin, float(probability - second))
            writing.entropy = max(writing.entropy, float(np.log(total) - (weights * shifted).sum()))
        return self._take(writing, token)

    def force(self, writing: Writing) -> None:
        """Take tokens for as long as only one is admissible: the model need not be asked for those."""
        while not writing.done and writing.cursor is not None:
            ids = writing.cursor.allowed()
            if ids is None or len(ids) > 1:
                return
            if not len(ids) or self._cut(writing):
                self._give_up(writing)
            else:
                self._take(writing, int(ids[0]))

    def suggestion(self, writing: Writing) -> Suggestion:
        """Return what was written."""
        tokens = writing.tokens
        body = tokens[:-1] if tokens and tokens[-1] == self._end else tokens
        text: Any = self.policy.tokenizer.decode(body)
        try:
            action = read_action(text)
        except HandrailError:
            action = INVALID
        if writing.references is not None:
            action = writing.references.plain(action)
        return Suggestion(
            writing.session_id,
            writing.step,
            action,
            tuple(tokens),
            writing.log_probability,
            writing.min_probability,
            writing.margin,
            writing.entropy,
        )

    @staticmethod
    def _cut(writing: Writing) -> bool:
        return len(writing.tokens) >= MAX_ACTION_TOKENS - 1

    @staticmethod
    def _give_up(writing: Writing) -> int:
        writing.done = True
        writing.log_probability += UNFINISHED
        writing.min_probability = writing.margin = 0.0
        return -1

    def _take(self, writing: Writing, token: int) -> int:
        writing.tokens.append(token)
        if writing.cursor is not None:
            writing.cursor.push(token)
            writing.done = writing.cursor.done
        else:
            writing.done = token == self._end
        return token


@dataclass
class _Logged(Writing):
    """An action written at a logged step: after `prefix` tokens of a row of the batch."""

    prefix: int = 0
    row: int = 0


class Decoder(Writer):
    """Suggests the next action at every step of sessions.

    Args:
        policy: who suggests.
        constrained, copied: see `Writer`.
        token_budget: padded tokens of one packed pass.
    """

    def __init__(
        self, policy: Policy, constrained: bool = True, copied: bool = False, token_budget: int = 16384
    ) -> None:
        super().__init__(policy, constrained, copied)
        self.token_budget = token_budget

    def by(self, policy: Policy) -> Decoder:
        """Return a decoder of another policy that is like this one."""
        return Decoder(policy, self.constrained, self.copied, self.token_budget)

    def suggest(
        self, sessions: Sequence[Session], progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
    ) -> list[Suggestion]:
        """Return one suggestion for each step of an operator or a policy, in order of session and step.

        Args:
            sessions: logged sessions; ids are unique.
            progress: wraps the iteration over batches, e.g. in a progress bar.
        """
        import torch

        if self.policy.own:
            shared = self.policy.shared_out([session.issue for session in sessions])
            made = [self.by(policy).suggest([sessions[n] for n in places], progress) for policy, places in shared]
            by_session: dict[str, list[Suggestion]] = {}
            for suggestion in (one for some in made for one in some):
                by_session.setdefault(suggestion.session_id, []).append(suggestion)
            return [suggestion for session in sessions for suggestion in by_session.get(session.id, ())]
        views = {session.id: self.policy.transcript.view(session) for session in sessions}
        pieces: list[Encoded] = []
        for session in sessions:
            whole = self.policy.encoder.encode(session.id, self.policy.transcript.spans(session))
            pieces.extend(windows(whole, self.policy.max_length))
        found: dict[tuple[str, int], Suggestion] = {}
        with torch.inference_mode():
            for batch in progress(batches([len(p) for p in pieces], self.token_budget)):
                for writing in self._batch([pieces[i] for i in batch], views):
                    found[writing.session_id, writing.step] = self.suggestion(writing)
        order = {s.id: n for n, s in enumerate(sessions)}
        return [found[key] for key in sorted(found, key=lambda k: (order[k[0]], k[1]))]

    def _batch(
        self, pieces: list[Encoded], views: Mapping[str, tuple[Session, list[References] | None]]
    ) -> list[_Logged]:
        import torch

        model: Any = self.policy.model
        ids = pad([p.ids for p in pieces], self.policy)
        output = self.policy.body(input_ids=ids, use_cache=True)
        hidden, cache = output.last_hidden_state, output.past_key_values
        head = model.get_output_embeddings()
        writings: list[_Logged] = []
        rows: list[int] = []
        positions: list[int] = []
        targets: list[list[int]] = []
        for row, piece in enumerate(pieces):
            session, names = views[piece.session_id]
            for step, (first, last) in piece.actions.items():
                cursor = self.cursor(session.steps[step].state.controls, piece.ids[:first])
                known = None if names is None else names[step]
                writings.append(_Logged(piece.session_id, step, cursor, known, prefix=first, row=row))
                rows.extend([row] * (last - first))
                positions.extend(range(first - 1, last - 1))
                targets.append([int(t) for t in piece.ids[first:last]])
        logits = head(hidden[torch.tensor(rows, dtype=torch.long), torch.tensor(positions, dtype=torch.long)])
        scores = logits.float().cpu().numpy()
        start = 0
        for writing, logged in zip(writings, targets, strict=True):
            for offset, token in enumerate(logged):
                if self.choose(writing, scores[start + offset]) != token or writing.done:
                    break
            start += len(logged)
        tails = sorted((w for w in writings if not w.done), key=lambda w: w.prefix + len(w.tokens))
        while tails:
            longest = tails[-1].prefix + MAX_ACTION_TOKENS
            size = max(1, _TAIL_TOKENS // longest)
            chunk, tails = tails[-size:], tails[:-size]
            self._tails(chunk, cache, head)
        return writings

    def _tails(self, chunk: list[_Logged], cache: Any, head: Any) -> None:
        """Finish actions whose first tokens are decided, from the cached prefixes."""
        import torch

        device = self.policy.device
        known = torch.tensor([w.prefix + len(w.tokens) - 1 for w in chunk], device=device)
        length = int(known.max())
        room = MAX_ACTION_TOKENS + 1
        index = torch.tensor([w.row for w in chunk], device=device)
        growing = growing_cache(cache, index, length, room)
        mask = torch.zeros(len(chunk), length + room, dtype=torch.long, device=device)
        mask[:, :length] = torch.arange(length, device=device)[None] < known[:, None]
        active, used = list(chunk), 0
        while active:
            tokens = torch.tensor([[w.tokens[-1]] for w in active], device=device)
            mask[:, length + used] = 1
            used += 1
            output = self.policy.body(
                input_ids=tokens,
                attention_mask=mask[:, : length + used],
                position_ids=(known + used - 1)[:, None],
                past_key_values=growing,
                use_cache=True,
            )
            scores = head(output.last_hidden_state[:, -1]).float().cpu().numpy()
            for row, writing in enumerate(active):
                self.choose(writing, scores[row])
            keep = [n for n, w in enumerate(active) if not w.done]
            if len(keep) < len(active):
                active = [active[n] for n in keep]
                kept = torch.tensor(keep, dtype=torch.long, device=device)
                mask, known = mask[kept], known[kept]
                growing.batch_select_indices(kept)


def pad(sequences: Sequence[NDArray[np.int64]], policy: Policy) -> torch.Tensor:
    """Return token ids as a right-padded tensor (n, longest) on the policy's device.

    Under causal attention right padding changes nothing before it.
    """
    import torch

    filler: Any = policy.tokenizer.pad_token_id
    ids = torch.full((len(sequences), max(map(len, sequences))), int(filler), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
    return ids.to(policy.device)


def growing_cache(cache: Any, rows: torch.Tensor, length: int, room: int) -> Any:
    """Return a cache of `rows` cut to `length` positions, with room for `room` more without copying.

    Args:
        cache: keys and values of a packed pass.
        rows: which rows of it, shape (n,).
        length: positions to keep.
        room: positions that will be added.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class GrowingLayer(DynamicLayer):
        def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
            prepare: Any = super().__init__
            prepare()
            self.lazy_initialization(keys, values)
            shape = (rows.shape[0], keys.shape[1], length + room)
            self.filled = length
            self.key_buffer = keys.new_empty((*shape, keys.shape[3]))
            self.value_buffer = values.new_empty((*shape, values.shape[3]))
            self.key_buffer[:, :, :length] = keys[rows, :, :length]
            self.value_buffer[:, :, :length] = values[rows, :, :length]
            self.expose()

        def expose(self) -> None:
            self.keys = self.key_buffer[:, :, : self.filled]
            self.values = self.value_buffer[:, :, : self.filled]

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            end = self.filled + key_states.shape[2]
            self.key_buffer[:, :, self.filled : end] = key_states
            self.value_buffer[:, :, self.filled : end] = value_states
            self.filled = end
            self.expose()
            return self.keys, self.values

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            self.key_buffer, self.value_buffer = self.key_buffer[indices], self.value_buffer[indices]
            self.expose()

    return Cache(layers=[GrowingLayer(layer.keys, layer.values) for layer in cache.layers])
