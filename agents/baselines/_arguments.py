"""How baselines fill in arguments: candidate values for every field, and counts of which candidate tends to be right.

For a field of a form the candidates are the value submitted before (and that plus one), values recognised in the
customer's messages, a name the customer gave, the field of that name in the last record, the whole last message, the
most frequent value, and nothing. Recognised are the field's options, values that recur in training data and numbers as
long as those in training data. Which candidate to take is learned: the share of training submissions in which each was
right, given form, field, the last action, and which candidates there are, smoothed towards wider contexts. The shares
are counted on sessions other than those the values come from, so that rare values do not look better than they are.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import msgspec

from handrail.agents.baselines._moments import Head, Moment, head_of, moments
from handrail.envs.normalize import normalize_value
from handrail.envs.offers import Offer
from handrail.envs.schema import Arg, Control, Session

_ABSENT, _FREQUENT = "absent", "frequent"
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_NAMED = re.compile(
    r"\b(?:name is|name's|i am|i'm|this is|call me)\s+([a-z][a-z.'-]*(?:\s[a-z][a-z.'-]*)?)", re.IGNORECASE
)
_CAMEL = re.compile(r"[A-Z]?[a-z]+")
# fmt: off
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"
)
# fmt: on
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_SMOOTHING = 4.0
"""How many cases of the wider context count beside those of the narrower."""

_RECURS = 3
_LONGEST = 6


@functools.lru_cache(maxsize=65536)
def _tokens(text: str) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", text).casefold().replace(":00", "").replace(".m.", "m")
    return tuple(_TOKEN.findall(text))


def _key(value: Any) -> str | None:
    """Return a hashable canonical form of an argument, `None` if it holds nothing."""
    canonical = normalize_value(value)
    return canonical if canonical is None or isinstance(canonical, str) else msgspec.json.encode(canonical).decode()


def _is_number(key: str) -> bool:
    return key.replace(".", "", 1).isdigit()


class _Field:
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
        key = _key(value)
        if key is not None:
            self.values[key] += 1
            self.spelling.setdefault(key, value)

    def close(self) -> None:
        """Draw up the phrases by which values are recognised."""
        numbers = {key: n for key, n in self.values.items() if _is_number(key)}
        self.numeric = not self.control.options and sum(numbers.values()) > 0.8 * max(self.values.total(), 1)
        self.lengths = frozenset(len(key) for key, n in numbers.items() if n >= _RECURS)
        if self.control.kind == "checkbox":
            words = (word.casefold() for word in _CAMEL.findall(self.control.id))
            self.phrases = {(word,): True for word in words if len(word) > 4}
            return
        if self.numeric:
            return
        known = {key: self.spelling[key] for key, n in self.values.items() if n >= _RECURS and not key.startswith("{")}
        for option in self.control.options:
            known.setdefault(str(_key(option)), option)
        split = {key: _tokens(key) for key in known}
        self.phrases = {tokens: known[key] for key, tokens in split.items() if 0 < len(tokens) <= _LONGEST}
        occurrences = Counter(word for option in self.control.options for word in set(_tokens(option)))
        for option in self.control.options:
            for word in _tokens(option):
                if occurrences[word] == 1 and len(word) > 3 and word not in _DIGITS:
                    self.phrases.setdefault((word,), option)

    def recognise(self, text: str) -> list[Arg]:
        """Return the values named in `text`, in order."""
        if text not in self._found:
            self._found[text] = list(self._recognise(_tokens(text)))
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
        position = 0
        while position < len(tokens):
            for length in range(min(_LONGEST, len(tokens) - position), 0, -1):
                value = self.phrases.get(tokens[position : position + length])
                if value is not None:
                    yield value
                    position += length
                    break
            else:
                position += 1


class ArgumentFiller:
    """Fills in the arguments of an action that is chosen: forms as described above, messages and selections simply.

    A message gets the most frequent text of training data, a selection the newest result.
    """

    def __init__(self) -> None:
        self._fields: dict[tuple[str, str], _Field] = {}
        self._frequent: dict[Hashable, Counter[str]] = {}
        self._right: dict[Hashable, Counter[str]] = {}
        self._tried: Counter[Hashable] = Counter()
        self._texts: Counter[str] = Counter()

    def fit(self, sessions: Sequence[Session]) -> None:
        """Learn from training sessions."""
        self._right, self._tried = defaultdict(Counter), Counter()
        for known, unseen in ((sessions[::2], sessions[1::2]), (sessions[1::2], sessions[::2])):
            self._learn_values(known)
            self._learn_choices(unseen)
        self._learn_values(sessions)

    def fill(self, moment: Moment, offer: Offer) -> tuple[dict[str, Arg], list[float]]:
        """Return arguments for what the screen offers, and for each field of a form the chance that it is right."""
        if offer.tool == "send_message":
            text, count = self._texts.most_common(1)[0] if self._texts else ("", 0)
            return {"text": text}, [max(count, 0.5) / max(self._texts.total(), 1)]
        if offer.tool == "select_item":
            return ({"result": len(moment.results)} if moment.results else {}), []
        args, chances = {}, []
        for control in offer.fields:
            candidates = self._candidates(moment, offer.target, control)
            source, chance = self._choose(moment, offer.target, control, candidates)
            chances.append(chance)
            if source != _ABSENT:
                args[control.id] = candidates[source]
        return args, chances

    def chance(self, moment: Moment, form: str, control: Control, value: Arg) -> float:
        """Return the chance that `value` of a field is right, 0 if it is no candidate."""
        candidates = self._candidates(moment, form, control)
        key = _key(value)
        chances = self._chances(moment, form, control, candidates)
        return max((chance for source, chance in chances.items() if _key(candidates[source]) == key), default=0.0)

    def _learn_values(self, sessions: Sequence[Session]) -> None:
        self._fields, self._texts = {}, Counter()
        self._frequent = defaultdict(Counter)
        for session in sessions:
            for moment, step in moments(session):
                action = step.action
                if action.tool == "send_message":
                    self._texts[str(action.args.get("text", ""))] += 1
                for control in _form(moment, head_of(action)):
                    value = action.args.get(control.id)
                    self._field(action.target, control).count(value)
                    key = _key(value)
                    if key is not None:
                        for context in self._value_contexts(moment, action.target, control):
                            self._frequent[context][key] += 1
        for field in self._fields.values():
            field.close()

    def _learn_choices(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            for moment, step in moments(session):
                for control in _form(moment, head_of(step.action)):
                    truth = _key(step.action.args.get(control.id))
                    candidates = self._candidates(moment, step.action.target, control)
                    right = [source for source, value in candidates.items() if _key(value) == truth]
                    for context in self._contexts(moment, step.action.target, control, candidates):
                        self._tried[context] += 1
                        self._right[context].update(right)

    def _field(self, form: str, control: Control) -> _Field:
        key = form, control.id
        if key not in self._fields:
            self._fields[key] = _Field(control)
        return self._fields[key]

    def _candidates(self, moment: Moment, form: str, control: Control) -> dict[str, Arg]:
        """Return candidate values by where they come from; a source that has none is left out."""
        field = self._fields.get((form, control.id))
        if field is None:
            field = _Field(control)
            field.close()
        found: dict[str, Arg] = {_ABSENT: None}
        submitted = moment.submissions.get(form, [])
        since = 0
        if submitted:
            args, since = submitted[-1]
            if args.get(control.id) is not None:
                found["previous"] = args[control.id]
                key = _key(args[control.id])
                if field.numeric and key is not None and key.isdigit():
                    found["next"] = int(key) + 1
        heard = [value for text in moment.customer[since:] for value in field.recognise(text)]
        if heard:
            found["heard_first"], found["heard_last"] = heard[0], heard[-1]
        elif since:
            mentioned = [value for text in moment.customer[:since] for value in field.recognise(text)]
            if mentioned:
                found["mentioned"] = mentioned[-1]
        if control.kind == "text" and not field.numeric:
            named = [match for text in moment.customer for match in _NAMED.findall(text)]
            if named:
                found["named"] = named[-1]
            if moment.customer[since:]:
                found["whole_message"] = moment.customer[-1].strip().rstrip(".!")
        if moment.results and moment.results[-1].item is not None:
            value = moment.results[-1].item.get(control.id)
            if isinstance(value, str | int | float):
                found["record"] = value
        for context in self._value_contexts(moment, form, control):
            counts = self._frequent.get(context)
            if counts:
                found[_FREQUENT] = field.spelling[counts.most_common(1)[0][0]]
                break
        return found

    def _choose(self, moment: Moment, form: str, control: Control, candidates: dict[str, Arg]) -> tuple[str, float]:
        """Return the candidate most often right and its chance."""
        chances = self._chances(moment, form, control, candidates)
        best = max(chances, key=lambda source: chances[source])
        return best, chances[best]

    def _chances(self, moment: Moment, form: str, control: Control, candidates: dict[str, Arg]) -> dict[str, float]:
        """Return how often each candidate was right in training submissions like this one."""
        chances = dict.fromkeys(candidates, 1.0 / len(candidates))
        for context in reversed(list(self._contexts(moment, form, control, candidates))):
            tried, right = self._tried[context], self._right.get(context, Counter())
            for source in chances:
                chances[source] = (right[source] + _SMOOTHING * chances[source]) / (tried + _SMOOTHING)
        return chances

    @staticmethod
    def _value_contexts(moment: Moment, form: str, control: Control) -> Iterator[Hashable]:
        submitted = moment.submissions.get(form, [])
        previous = _key(submitted[-1][0].get(control.id)) if submitted and control.kind == "select" else None
        yield form, control.id, previous, moment.last_head()
        yield form, control.id, previous
        yield form, control.id

    @staticmethod
    def _contexts(moment: Moment, form: str, control: Control, candidates: dict[str, Arg]) -> Iterator[Hashable]:
        """Yield what the choice among candidates is counted on, narrow to wide."""
        times = min(len(moment.submissions.get(form, [])), 2)
        there = frozenset(candidates)
        changed = (
            "previous" in there
            and "heard_last" in there
            and (_key(candidates["previous"]) != _key(candidates["heard_last"]))
        )
        yield form, control.id, times, there, changed, moment.last_head(), moment.kind
        yield form, control.id, times, there, changed
        yield form, control.id, there
        yield control.kind, control.required, there


def _form(moment: Moment, head: Head) -> tuple[Control, ...]:
    """Return the fields of the form that `head` submits, empty if it does not."""
    if head[0] == "submit_form":
        for control in moment.state.controls:
            if control.id == head[1] and control.kind == "form":
                return control.fields
    return ()
