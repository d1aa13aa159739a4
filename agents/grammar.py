"""Which tokens may come next while an action is written, given what the screen offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.encoding import Encoder
from handrail.agents.transcript import END, FIELD, IS, JSON, MARKERS, escape
from handrail.envs.offers import offers
from handrail.envs.schema import Control

_DONE = -1
_SPACES = "▁Ġ "
"""How tokenizers write the space before a word."""

Trie = dict[int, Any]
"""Token -> deeper trie; the key `_DONE` holds what the path spells."""

MAX_VALUE_TOKENS = 64
"""A free value is closed after this many tokens."""


def _insert(trie: Trie, tokens: list[int], payload: Any) -> None:
    for token in tokens:
        trie = trie.setdefault(token, {})
    trie.setdefault(_DONE, payload)


class Grammar:
    """The actions one screen allows, as tries over tokens.

    Args:
        controls: what is on the screen.
        encoder: the policy's.
    """

    def __init__(self, controls: tuple[Control, ...], encoder: Encoder) -> None:
        self._encoder = encoder
        self.end, self.field, self.value, self.json = (encoder.tokens(m)[0] for m in (END, FIELD, IS, JSON))
        self.heads: Trie = {}
        self._names: dict[tuple[int, int], Trie] = {}
        self._options: dict[int, Trie | None] = {}
        for offer in offers(controls):
            text = f"{offer.tool} {escape(offer.target)}" if offer.target else offer.tool
            # Operators leave required fields of forms empty; any other action needs what it requires.
            must = offer.tool != "submit_form" and any(field.required for field in offer.fields)
            copied = offer.tool == "set_field"
            _insert(self.heads, self._tokens(text), (offer.fields, must, copied))

    def _tokens(self, text: str) -> list[int]:
        return self._encoder.tokens(IS + text)[1:]

    def names(self, fields: tuple[Control, ...], start: int) -> Trie:
        """Return the trie of the names of `fields[start:]`; a path ends in the field's position."""
        key = (id(fields), start)
        if key not in self._names:
            trie: Trie = {}
            for position in range(start, len(fields)):
                _insert(trie, self._tokens(escape(fields[position].id)), position)
            self._names[key] = trie
        return self._names[key]

    def options(self, control: Control) -> Trie | None:
        """Return the trie of the values a field allows, `None` if it takes free input."""
        key = id(control)
        if key not in self._options:
            values = ("true", "false") if control.kind == "checkbox" else control.options
            trie: Trie = {}
            for value in values:
                _insert(trie, self._tokens(escape(value)), value)
            self._options[key] = trie or None
        return self._options[key]


class Words:
    """Where words begin, for copying them whole.

    Args:
        encoder: the policy's.
        vocabulary: number of token ids.
    """

    def __init__(self, encoder: Encoder, vocabulary: int) -> None:
        tokenizer: Any = encoder.tokenizer
        texts = tokenizer.convert_ids_to_tokens(list(range(min(vocabulary, len(tokenizer)))))
        self._spaced = np.zeros(vocabulary, dtype=bool)
        self._sign = np.zeros(vocabulary, dtype=bool)
        for token, text in enumerate(texts):
            bare = (text or "").lstrip(_SPACES)
            self._spaced[token] = bool(text) and text[0] in _SPACES
            self._sign[token] = not any(map(str.isalnum, bare))
        self._marker = np.zeros(vocabulary, dtype=bool)
        self._marker[[encoder.tokens(marker)[0] for marker in MARKERS]] = True

    def seen(self, ids: NDArray[np.int64]) -> Seen:
        """Return a transcript from which words may be copied, its header left out: nobody said or saw that."""
        markers = np.flatnonzero(self._marker[ids])
        ids = ids[markers[1] :] if len(markers) > 1 else ids[:0]
        opens = self._spaced[ids] | self._marker[ids]
        after = np.append(opens[1:], True)
        # Full stops and brackets may stand between a word and the space after it, a hyphen inside a word may not.
        words = np.cumsum(~self._sign[ids])
        spaces = np.flatnonzero(after)
        ends = words[spaces[np.searchsorted(spaces, np.arange(len(ids)))]] == words
        opened = np.append(True, (self._marker | self._sign)[ids][:-1])
        begins = self._spaced[ids] | (opened & ~self._sign[ids])
        return Seen(ids, begins & ~self._marker[ids], ends, ~self._marker[ids])


@dataclass(frozen=True)
class Seen:
    """A text to copy from.

    Attributes:
        ids: its tokens, shape (n,).
        begins: whether a copy may begin with each.
        ends: whether a copy may end with each.
        text: whether each is no marker.
    """

    ids: NDArray[np.int64]
    begins: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    text: NDArray[np.bool_]


@dataclass
class Cursor:
    """A position inside an action being written under a grammar.

    `allowed()` tells which tokens may follow, `push(token)` goes on. An action is complete when `done` is true.

    Attributes:
        grammar: of the screen.
        seen: the text before the action. If it is given, what is entered into an input without options is copied from
            it: whole words, in their order. Messages are free.
        done: whether the action is complete.
    """

    grammar: Grammar
    seen: Seen | None = None
    done: bool = False

    def __post_init__(self) -> None:
        self._phase, self._node, self._next = "head", self.grammar.heads, 0
        self._fields: tuple[Control, ...] = ()
        self._copied = False
        self._source = np.empty(0, dtype=np.int64)
        self._length = 0

    def allowed(self) -> NDArray[np.int64] | None:
        """Return the ids that may follow, or `None` where any text may, or the end of the value."""
        grammar = self.grammar
        if self._phase == "free":
            return self._closing() if self._length >= MAX_VALUE_TOKENS else None
        if self._phase == "copy":
            return self._copies()
        ids = [token for token in self._node if token != _DONE]
        if self._phase == "value" and self._length == 0:
            ids.append(grammar.json)
        if _DONE in self._node:
            if self._phase == "head":
                fields, must, _ = self._node[_DONE]
                ids.extend([grammar.field] if must else [grammar.end, grammar.field] if fields else [grammar.end])
            elif self._phase == "name":
                ids.append(grammar.value)
            else:
                ids.extend(self._closing())
        return np.array(sorted(set(ids)), dtype=np.int64)

    def _closing(self) -> NDArray[np.int64]:
        more = self._next < len(self._fields)
        return np.array([self.grammar.end, self.grammar.field] if more else [self.grammar.end], dtype=np.int64)

    def markers(self) -> NDArray[np.int64]:
        """Return the markers that may follow where any text may."""
        return self._closing() if self._length else np.array([self.grammar.json], dtype=np.int64)

    def push(self, token: int) -> None:
        """Take `token`, which `allowed()` must have admitted."""
        grammar = self.grammar
        if token == grammar.end:
            self.done = True
        elif token == grammar.field:
            if self._phase == "head":
                self._fields, _, self._copied = self._node[_DONE]
                self._next = 0
            self._phase, self._node = "name", grammar.names(self._fields, self._next)
        elif token == grammar.value and self._phase == "name":
            position = self._node[_DONE]
            self._next, self._length = position + 1, 0
            options = grammar.options(self._fields[position])
            free = "copy" if self._copied and self.seen is not None else "free"
            self._phase, self._node = (free, {}) if options is None else ("value", options)
            self._source = np.empty(0, dtype=np.int64)
        elif token == grammar.json:
            self._phase, self._node, self._length = "free", {}, 1
        elif self._phase == "copy":
            assert self.seen is not None
            same = self.seen.ids == token
            self._source = np.flatnonzero(same & self._next_tokens())
            self._length += 1
        else:
            self._length += 1
            if self._phase != "free":
                self._node = self._node[token]

    def _next_tokens(self) -> NDArray[np.bool_]:
        """Return which tokens of the text may be copied next, shape (n,)."""
        assert self.seen is not None
        if not self._length:
            return self.seen.begins
        found = np.zeros(len(self.seen.ids), dtype=bool)
        found[self._source[self._source + 1 < len(found)] + 1] = True
        return found & self.seen.text

    def _copies(self) -> NDArray[np.int64]:
        """Return the tokens that go on with what was copied so far, and what may follow the value."""
        assert self.seen is not None
        if self._length >= MAX_VALUE_TOKENS:
            return self._closing()
        found = np.unique(self.seen.ids[self._next_tokens()])
        if self._length and self.seen.ends[self._source].any():
            found = np.union1d(found, self._closing())
        return found


def text_tokens(encoder: Encoder, vocabulary: int) -> NDArray[np.int64]:
    """Return the ids of all tokens that are no marker and no special token."""
    tokenizer: Any = encoder.tokenizer
    markers = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(list(MARKERS))}
    known = min(vocabulary, len(tokenizer))
    return np.array([token for token in range(known) if token not in markers], dtype=np.int64)
