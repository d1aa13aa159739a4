"""Values of fields and inputs: recognising them in text, and counting which source of a value tends to be right."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from handrail.envs.normalize import normalize_value
from handrail.envs.schema import Arg, Control

Words = tuple[str, ...]

RECURS = 3
"""How often something has to occur in training data to be taken for a habit."""

# fmt: off
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"
)
# fmt: on
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"[A-Z]?[a-z]+")
_LONGEST = 6
_SMOOTHING = 4.0
"""How many cases of the wider context count beside those of the narrower."""


@functools.lru_cache(maxsize=65536)
def words(text: str) -> Words:
    """Return the words and numbers of a text, case folded."""
    text = unicodedata.normalize("NFKC", text).casefold().replace(":00", "").replace(".m.", "m")
    return tuple(_TOKEN.findall(text))


@functools.lru_cache(maxsize=65536)
def spoken(text: str) -> str:
    """Return the words and numbers of a text with a space around each: texts that name it contain what this returns."""
    return f" {' '.join(words(text))} "


def value_key(value: Any) -> str | None:
    """Return a hashable canonical form of an argument, `None` if it holds nothing."""
    canonical = normalize_value(value)
    return canonical if canonical is None or isinstance(canonical, str) else msgspec.json.encode(canonical).decode()


def find(text: Words, phrases: Mapping[Words, Arg]) -> Iterator[Arg]:
    """Yield what the phrases in a text stand for, in order; of phrases that begin alike the longest counts."""
    position = 0
    while position < len(text):
        for length in range(min(_LONGEST, len(text) - position), 0, -1):
            value = phrases.get(text[position : position + length])
            if value is not None:
                yield value
                position += length
                break
        else:
            position += 1


def telling_words(options: Sequence[str]) -> Iterator[tuple[Words, str]]:
    """Yield words that only one of the options has, with it."""
    occurrences = Counter(word for option in options for word in set(words(option)))
    for option in options:
        for word in words(option):
            if occurrences[word] == 1 and len(word) > 3 and word not in _DIGITS:
                yield (word,), option


@functools.lru_cache(maxsize=4096)
def option_phrases(options: tuple[str, ...]) -> dict[Words, Arg]:
    """Return the phrases by which options are named: the whole option, or a word that only one of them has."""
    phrases: dict[Words, Arg] = {words(option): option for option in options if 0 < len(words(option)) <= _LONGEST}
    for word, option in telling_words(options):
        phrases.setdefault(word, option)
    return phrases


def _is_number(key: str) -> bool:
    return key.replace(".", "", 1).isdigit()


class Field:
    """What training data tells of one field: how its values are recognised and which recur."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.values: Counter[str] = Counter()
        self.spelling: dict[str, Arg] = {}
        self.phrases: dict[tuple[str, ...], Arg] = {}
        self.numeric = False
        self.lengths: frozenset[int] = frozenset()
        self._found: dict[str, list[Arg]] = {}

    def count(self, value: Arg) -> None:
        """Take in a value of training data."""
        key = value_key(value)
        if key is not None:
            self.values[key] += 1
            self.spelling.setdefault(key, value)

    def close(self) -> None:
        """Draw up the phrases by which values are recognised."""
        numbers = {key: n for key, n in self.values.items() if _is_number(key)}
        self.numeric = not self.control.options and sum(numbers.values()) > 0.8 * max(self.values.total(), 1)
        self.lengths = frozenset(len(key) for key, n in numbers.items() if n >= RECURS)
        if self.control.kind == "checkbox":
            parts = (word.casefold() for word in _CAMEL.findall(self.control.id))
            self.phrases = {(word,): True for word in parts if len(word) > 4}
            return
        if self.numeric:
            return
        known = {key: self.spelling[key] for key, n in self.values.items() if n >= RECURS and not key.startswith("{")}
        for option in self.control.options:
            known.setdefault(str(value_key(option)), option)
        split = {key: words(key) for key in known}
        self.phrases = {tokens: known[key] for key, tokens in split.items() if 0 < len(tokens) <= _LONGEST}
        for word, option in telling_words(self.control.options):
            self.phrases.setdefault(word, option)

    def recognise(self, text: str) -> list[Arg]:
        """Return the values named in `text`, in order."""
        if text not in self._found:
            self._found[text] = list(self._recognise(words(text)))
        return self._found[text]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": {}}

    def _recognise(self, tokens: tuple[str, ...]) -> Iterator[Arg]:
        if self.numeric:
            for token in tokens:
                number = _DIGITS.get(token, token)
                if number.isdigit() and len(number) in self.lengths:
                    yield number
            return
        yield from find(tokens, self.phrases)


class Sources:
    """How often each source of a value was right, by context, smoothed towards wider contexts."""

    def __init__(self) -> None:
        self._right: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
        self._tried: Counter[Hashable] = Counter()

    def count(self, contexts: Iterable[Hashable], right: Sequence[str]) -> None:
        """Take in a case of training data.

        Args:
            contexts: in which the value was needed.
            right: the sources that had it.
        """
        for context in contexts:
            self._tried[context] += 1
            self._right[context].update(right)

    def chances(self, sources: Iterable[str], contexts: Iterable[Hashable]) -> dict[str, float]:
        """Return the chance that each source is right.

        Args:
            sources: those that have a value.
            contexts: narrow to wide.
        """
        names = list(sources)
        chances = dict.fromkeys(names, 1.0 / len(names))
        for context in reversed(list(contexts)):
            tried, right = self._tried[context], self._right.get(context, Counter())
            for source in chances:
                chances[source] = (right[source] + _SMOOTHING * chances[source]) / (tried + _SMOOTHING)
        return chances
