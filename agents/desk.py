"""Running sessions of one policy: what each has read stays read, and the next actions are written together.

A step costs the new events of each session and the tokens that are a choice: the keys and values of everything before
are kept (`KeyValues`), sessions are read and written in one batch, and tokens that the screen leaves no choice about
are taken without asking the model. Suggestions are those of `Decoder` on the finished sessions (tested).

What is kept is a cache of tokens and nothing else. Each step says anew what the session's text is; what agrees with the
tokens that were read stays, the rest is read again. An operator who did something else than was suggested, a session
that was set back to an earlier state and a window that moved on are all the same case.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from handrail.agents.assess import Reading, confidence
from handrail.agents.decoding import MAX_ACTION_TOKENS, Suggestion, Writer, Writing
from handrail.agents.encoding import window_start
from handrail.agents.key_values import KeyValues
from handrail.agents.policy import Policy
from handrail.agents.references import References
from handrail.agents.transcript import ACTION, Span
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Control, Step, UIState
from handrail.envs.spaces import Observation

K = TypeVar("K", bound=Hashable)

_PASS_COST = {"cpu": 64}
_PASS_COST_ELSEWHERE = 4096
"""What a pass costs beside its tokens, by kind of device, in tokens: a few layers of overhead, or an idle GPU."""

_PASS_CELLS = 1 << 26
"""Tokens read times tokens seen in one pass: bounds the memory of its mask."""


class _Pass(NamedTuple):
    """What is read of a session in one pass.

    Attributes:
        running: the session.
        piece: its new tokens.
        ahead: how many of them, at the end, are those of an action whose scores are wanted, beside those after the
            token before it.
        item: what it is read for.
    """

    running: _Running
    piece: list[int]
    ahead: int
    item: Any


class _Text(NamedTuple):
    """What a policy reads at a step.

    Attributes:
        step: its index.
        tokens: up to the marker that opens the action.
        controls: of the screen, as they are written.
        names: that the action may use, if the transcript has names.
    """

    step: int
    tokens: list[int]
    controls: tuple[Control, ...]
    names: References | None


@dataclass
class _Running:
    """A session at the desk.

    Attributes:
        session_id: for suggestions.
        operator: named in the header.
        row: of the cache.
        read: the tokens whose keys and values the row holds.
        history: the steps that `tokens` holds.
        before: the last of them, as it is written.
        names: given out in them, if the transcript has names.
        known: of the step to come, by the tokens of an action that was read: the states before and after it, shape
            (2, hidden size), and the scores at each of its tokens, shape (n, vocabulary).
        tokens: the header, and what is known to be over.
        start: where the window begins in `tokens`, the repeated header aside.
        now: what was read last, up to the step to come; `None` before the first.
    """

    session_id: str
    operator: str
    row: int
    read: list[int] = field(default_factory=list)
    history: tuple[Step, ...] = ()
    before: Step | None = None
    names: References = field(default_factory=References)
    known: dict[tuple[int, ...], tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    header: int = 0
    start: int = 0
    now: _Text | None = None


class AnyDesk(Protocol):
    """What actors ask: `Desk`, or desks that share sessions out.

    Attributes:
        policy: who suggests.
    """

    policy: Policy

    def __len__(self) -> int:
        """Return how many sessions are running."""
        ...

    def begin(self, key: Hashable, operator: str | None = None, session_id: str | None = None) -> None:
        """Take in a session, as `Desk.begin` does."""
        ...

    def finish(self, key: Hashable) -> None:
        """Forget a session, as `Desk.finish` does."""
        ...

    def suggest(
        self, observations: Mapping[K, Observation], drafts: Mapping[K, Action] | None = None
    ) -> dict[K, Suggestion]:
        """Return the next action of each session, as `Desk.suggest` does."""
        ...

    def assess(self, actions: Mapping[K, Action], writer: Writer | None = None) -> dict[K, Reading]:
        """Return what a policy makes of an action in each session, as `Desk.assess` does."""
        ...


class Desk:
    """Suggests the next actions of running sessions.

    A session is known by a key of the caller's choice. It begins with its first observation and is kept until
    `finish`. Sessions longer than `policy.max_length` are read through the windows of
    `handrail.agents.encoding.windows`. There an action belongs to a window only if it ends in it, which is not known
    while it is being written: the step at which a window ends is read through that window, by the decoder through the
    next.

    Args:
        policy: who suggests.
        operator: whom the header names, for sessions that do not `begin` with another.
        constrained, copied: see `handrail.agents.decoding.Writer`.

    Raises:
        HandrailError: the model does not look back as far as the policy's window.
    """

    def __init__(self, policy: Policy, operator: str = "", constrained: bool = True, copied: bool = False) -> None:
        self.policy, self.operator = policy, operator
        self.writer = Writer(policy, constrained, copied)
        # Confidence is measured as on finished sessions, whatever may be written here.
        self._reader = self.writer if constrained and not copied else Writer(policy)
        config: Any = policy.body.config
        reach = getattr(config, "sliding_window", None)
        if reach is not None and reach < policy.max_length + MAX_ACTION_TOKENS:
            raise HandrailError(
                f"the model attends to the last {reach} tokens, but the policy's window has {policy.max_length} and an "
                f"action up to {MAX_ACTION_TOKENS}; set policy.max_length to {reach - MAX_ACTION_TOKENS} or less"
            )
        filler: Any = policy.tokenizer.pad_token_id
        self._cache = KeyValues(int(config.num_hidden_layers), int(filler))
        self._running: dict[Hashable, _Running] = {}
        self._action = policy.encoder.tokens(ACTION)
        self._pass_cost = _PASS_COST.get(policy.device.type, _PASS_COST_ELSEWHERE)
        # Where attention takes as long as the matrices: 4 L d operations against about 26 d^2, in each layer.
        self._reach = 6.5 * float(config.hidden_size)

    def __len__(self) -> int:
        """Return how many sessions are running."""
        return len(self._running)

    def begin(self, key: Hashable, operator: str | None = None, session_id: str | None = None) -> None:
        """Take in a session, for one that needs another operator or id than `suggest` gives it.

        Args:
            key: names it in `suggest` and `finish`.
            operator: whom the header names; the desk's if left out.
            session_id: as in suggestions; the key as text if left out.

        Raises:
            HandrailError: a session of this key is running.
        """
        if key in self._running:
            raise HandrailError(f"a session {key!r} is running; finish it first, or choose another key")
        self._running[key] = _Running(
            str(key) if session_id is None else session_id,
            self.operator if operator is None else operator,
            self._cache.add(),
        )

    def finish(self, key: Hashable) -> None:
        """Forget a session and free its row.

        Raises:
            HandrailError: there is no such session.
        """
        if key not in self._running:
            raise HandrailError(f"no session {key!r} is running, of {len(self)}")
        row = self._running.pop(key).row
        moved = self._cache.remove(row)
        for other in self._running.values():
            if other.row == moved:
                other.row = row

    def suggest(
        self, observations: Mapping[K, Observation], drafts: Mapping[K, Action] | None = None
    ) -> dict[K, Suggestion]:
        """Return the next action of each session, in the order given.

        Args:
            observations: by session. Each holds the session's whole history; what was read before is not read again.
            drafts: what somebody quicker expects the policy to write. It changes nothing but the cost: the tokens of a
                draft are read in one pass, and those that the policy would have written need no pass of their own
                (speculative decoding; Leviathan et al. 2023, arXiv 2211.17192). `assess` knows what it makes of it.
        """
        for key in observations:
            if key not in self._running:
                self.begin(key)
        written = self._write(observations, drafts or {})
        return {key: self.writer.suggestion(writing) for key, writing in written.items()}

    def assess(self, actions: Mapping[K, Action], writer: Writer | None = None) -> dict[K, Reading]:
        """Return what the policy makes of an action in each of several sessions, as `handrail.agents.assess` does.

        It costs the tokens of the actions alone, and nothing for drafts and for actions that were assessed before.

        Args:
            actions: at the step that `suggest` was last asked about, by session.
            writer: says what each screen admits; `None` for whatever the screen offers, as critics have it.

        Raises:
            HandrailError: `suggest` was not asked about a session.
        """
        written: dict[K, tuple[_Running, _Text, tuple[int, ...]]] = {}
        waiting: list[_Pass] = []
        for key, action in actions.items():
            running = self._running.get(key)
            if running is None or running.now is None:
                raise HandrailError(f"no suggestion was made in session {key!r}; ask for one before you assess")
            text = running.now
            tokens = self._tokens(text, action)
            written[key] = running, text, tuple(tokens)
            if tuple(tokens) not in running.known:
                kept = len(text.tokens) - 1
                self._cache.cut(running.row, kept)
                running.read = text.tokens[:kept]
                waiting.append(_Pass(running, [text.tokens[kept], *tokens], len(tokens), None))
        for one, states, scores in self._read(waiting):
            one.running.read += one.piece
            self._know(one, states, scores)
        found: dict[K, Reading] = {}
        for key, (running, text, known) in written.items():
            (before, after), scores = running.known[known]
            made = confidence(
                writer or self._reader,
                (running.session_id, text.step),
                actions[key],
                text.controls,
                text.tokens[:-1],
                known,
                scores,
            )
            found[key] = Reading(made, before, after)
        return found

    def _tokens(self, text: _Text, action: Action) -> list[int]:
        """Return an action as it is written at a step, without its marker."""
        named = action if text.names is None else text.names.named(action)
        written = Step(text.step, UIState("", "", text.controls), (), named, "policy")
        return self.policy.encoder.tokens(self.policy.transcript.action(written).text)[len(self._action) :]

    @staticmethod
    def _know(one: _Pass, states: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        """Remember what the policy makes of the action that a pass ended with."""
        if one.ahead:
            one.running.known[tuple(one.piece[-one.ahead :])] = states[[0, -1]], scores[:-1]

    def _write(self, observations: Mapping[K, Observation], drafts: Mapping[K, Action]) -> dict[K, Writing]:
        writings: dict[K, Writing] = {}
        waiting: list[_Pass] = []
        texts = self._texts(observations)
        for key, observation in observations.items():
            running, (_, text, controls, names) = self._running[key], texts[key]
            running.now, running.known = texts[key], {}
            kept = min(_agreeing(running.read, text), len(text) - 1)
            self._cache.cut(running.row, kept)
            running.read = text[:kept]
            cursor = self.writer.cursor(controls, text)
            writings[key] = Writing(running.session_id, observation.index, cursor, names)
            draft = self._tokens(texts[key], drafts[key]) if key in drafts else []
            waiting.append(_Pass(running, text[kept:] + draft, len(draft), (writings[key], len(text))))
        while waiting:
            going: list[_Pass] = []
            for one, states, scores in self._read(waiting):
                running, (writing, length) = one.running, one.item
                self._know(one, states, scores)
                running.read += one.piece
                draft = one.piece[len(one.piece) - one.ahead :]
                agreed = 0
                while self.writer.choose(writing, scores[agreed]) in draft[agreed : agreed + 1] and not writing.done:
                    agreed += 1
                if not writing.done:
                    self._cache.cut(running.row, len(running.read) - len(draft) + agreed)
                    running.read = running.read[: len(running.read) - len(draft) + agreed]
                    self.writer.force(writing)
                if not writing.done:
                    going.append(_Pass(running, writing.tokens[len(running.read) - length :], 0, one.item))
            waiting = going
        return writings

    def _read(self, waiting: Sequence[_Pass]) -> Iterator[tuple[_Pass, NDArray[np.float32], NDArray[np.float32]]]:
        """Read new tokens; yield with each pass the states and scores wanted, (ahead + 1, hidden size or vocabulary).

        The first of them are those after the last token before the action.
        """
        for group in self._groups(waiting):
            states, scores = self._states([one.running.row for one in group], group)
            end = 0
            for one in group:
                start, end = end, end + one.ahead + 1
                yield one, states[start:end], scores[start:end]

    @torch.inference_mode()
    def _states(self, rows: Sequence[int], group: Sequence[_Pass]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the states and scores wanted of all sessions of a group, one below the other."""
        states = self._cache.read(self.policy.body, rows, [one.piece for one in group])
        model: Any = self.policy.model
        place = [number for number, one in enumerate(group) for _ in range(one.ahead + 1)]
        after = [n for one in group for n in range(len(one.piece) - one.ahead - 1, len(one.piece))]
        wanted = states[torch.tensor(place, device=states.device), torch.tensor(after, device=states.device)]
        return wanted.float().cpu().numpy(), model.get_output_embeddings()(wanted).float().cpu().numpy()

    def _groups(self, waiting: Sequence[_Pass]) -> Iterator[list[_Pass]]:
        """Cut a batch into passes: a session joins one unless its padding costs more than a pass of its own."""
        group: list[_Pass] = []
        longest = seen = 0
        lengths = self._cache.lengths
        for item in sorted(waiting, key=lambda one: (len(one.piece), lengths[one.running.row]), reverse=True):
            new, length = len(item.piece), lengths[item.running.row]
            if group:
                wider = max(seen, length + longest)
                joined = self._cost(len(group) + 1, longest, wider)
                apart = self._cost(len(group), longest, seen) + self._pass_cost + self._cost(1, new, length + new)
                if joined > apart or (len(group) + 1) * longest * wider > _PASS_CELLS:
                    yield group
                    group = []
                else:
                    seen = wider
            if not group:
                longest, seen = new, length + new
            group.append(item)
        if group:
            yield group

    def _cost(self, rows: int, new: int, seen: int) -> float:
        """Return what it costs to read `new` tokens in each row, in tokens that see nothing before them."""
        return rows * new * (1 + seen / self._reach)

    def _texts(self, observations: Mapping[K, Observation]) -> dict[K, _Text]:
        """Return what a policy reads in each session, up to the marker that opens the action."""
        spans = {key: self._spans(self._running[key], observation) for key, observation in observations.items()}
        # All new texts go to the tokenizer together: a call costs more than a text.
        self.policy.encoder.lookup([span.text for over, now, *_ in spans.values() for span in (*over, *now)])
        texts = {}
        for key, (over, now, controls, names) in spans.items():
            running = self._running[key]
            for span in over:
                self._append(running, span)
            text = list(running.tokens)
            for span in now:
                text += self.policy.encoder.tokens(span.text)
            text += self._action
            start, first, body = running.start, len(text), self.policy.max_length - running.header
            if first >= start + body:
                start = window_start(running.header, body, first, first + 1)
            step = observations[key].index
            texts[key] = _Text(step, text[: running.header] + text[start:], controls, names)
        return texts

    def _spans(
        self, running: _Running, observation: Observation
    ) -> tuple[list[Span], list[Span], tuple[Control, ...], References | None]:
        """Return what came to be over since the session was last seen, what is new at the step to come, its controls
        as they are written, and the names it may use.
        """
        transcript, history = self.policy.transcript, observation.history
        known = len(running.history)
        over: list[Span] = []
        if not running.tokens or history[:known] != running.history:
            running.tokens, running.before, running.names, known = [], None, References(), 0
            over.append(transcript.opening(observation, running.operator))
        named = transcript.config.references
        for step in history[known:]:
            written = step
            if named:
                events, state = running.names.see(step.events, step.state)
                action = running.names.named(step.action)
                written = msgspec.structs.replace(step, events=events, state=state, action=action)
            over += [
                *transcript.seen(running.before, written.index, written.state, written.events),
                transcript.acted(written),
            ]
            running.before = written
        running.history = history
        events, state, names = observation.events, observation.state, None
        if named:
            # The step to come may be another one when it is over: what it names is not kept.
            names = running.names.copy()
            events, state = names.see(events, state)
        now = list(transcript.seen(running.before, observation.index, state, events))
        return over, now, state.controls, names

    def _append(self, running: _Running, span: Span) -> None:
        """Add what is over, and move the window on where an action does not end in it."""
        new = self.policy.encoder.tokens(span.text)
        if not running.tokens:
            running.header = running.start = min(len(new), self.policy.max_length // 4)
        first, last = len(running.tokens) + len(self._action), len(running.tokens) + len(new)
        running.tokens += new
        body = self.policy.max_length - running.header
        if span.action and last > running.start + body:
            running.start = window_start(running.header, body, first, last)


def _agreeing(read: list[int], text: list[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    shared = min(len(read), len(text))
    differ = np.flatnonzero(np.array(read[:shared]) != np.array(text[:shared]))
    return int(differ[0]) if len(differ) else shared
