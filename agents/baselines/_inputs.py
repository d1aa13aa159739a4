"""How baselines fill in one input, or choose a row of a table: counted rules of where such a value comes from.

The candidates for a value are

- `said_last`, `said_first`: what customers wrote. An option or a row is recognised by its name or by a word that no
  other has; in inputs that are typed into, what recurs in training data, or whatever has the shape of values there
  (`C-383368` has that of `C-517296`);
- `described`: the row whose text on the screen has the most words in common with the customer's messages;
- `usual`: the first row whose cells rows chosen in training data most often had (an overdue bill, the line's ticket);
- `shown`: what the screen shows in the place that most often held the value in training data;
- `first`: the first option or row;
- `frequent`: the most frequent value of training data, given procedure and last action.

Which to take is counted as for fields of forms: given the input, which candidates there are and which of them agree.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

from handrail.agents.baselines._moments import Head, Moment, head_of
from handrail.agents.baselines._situation import is_quantity, owners_of
from handrail.agents.baselines._values import RECURS, Field, Sources, Words, find, option_phrases, value_key, words
from handrail.envs.offers import Offer, offers
from handrail.envs.schema import SEPARATOR, Action, Arg, Control

_PART = re.compile(r"[^\W\d_]+|\d+|.", re.DOTALL)
_ALONE = r"(?<![\w-])(?<!\d[.,])(?:%s)(?![\w-]|[.,]\d)"
"""Not a part of a longer code, date or number."""

_NUMBER = re.compile(_ALONE % r"\d+(?:,\d{3})*(?:\.\d+)?")

_ALIKE = 0.5
"""Log-odds by which a row has to be ahead of others for its place in the table not to matter."""

Rows = Mapping[str, Sequence[str]]
"""Row -> its cells."""

SOURCES = ("said_last", "said_first", "described", "usual", "shown", "first", "frequent")
"""Where a value can come from, as the module says."""


def takes_one_value(offer: Offer) -> bool:
    """Tell whether an offer is an input, or a table that lists its rows."""
    return offer.tool in ("set_field", "select_item") and len(offer.fields) == 1


def _shape(text: str) -> str | None:
    """Return a pattern of texts that are built alike, `None` for words, which any text would match.

    Runs of letters may have any length, runs of digits have theirs.
    """
    parts = _PART.findall(text)
    if not any(part.isdigit() for part in parts):
        return None
    return "".join(
        rf"\d{{{len(part)}}}" if part.isdigit() else r"[^\W\d_]+" if part.isalpha() else re.escape(part)
        for part in parts
    )


class _Input:
    """What training data tells of one input or table: how its values are recognised and where they stood."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.place: str | None = None
        self._field = Field(control)
        self._places: Counter[str] = Counter()
        self._pattern: re.Pattern[str] | None = None
        self._chosen: Counter[str] = Counter()
        self._listed: Counter[str] = Counter()

    def count(self, value: Arg, shown: dict[str, Arg], rows: Rows) -> None:
        """Take in a value of training data, what the screen showed then, and the cells of the rows there were."""
        for row, cells in rows.items():
            self._listed.update(cells)
            if row == value:
                self._chosen.update(cells)
        self._field.count(value)
        key = value_key(value)
        self._places.update(place for place, held in shown.items() if value_key(held) == key)

    def close(self) -> None:
        """Draw up what values are recognised by."""
        self._field.close()
        if self._places:
            place, count = max(self._places.items(), key=lambda item: (item[1], item[0]))
            self.place = place if count >= RECURS else None
        if self.control.kind == "number":
            self._pattern = _NUMBER
        elif self.control.kind == "text":
            values, shapes = self._field.values, Counter[str]()
            for key, n in values.items():
                shape = _shape(str(self._field.spelling[key]))
                if shape is not None:
                    shapes[shape] += n
            usual = [shape for shape, n in shapes.items() if n >= RECURS]
            if 2 * sum(shapes[shape] for shape in usual) > values.total():
                longest_first = sorted(usual, key=lambda shape: (-len(shape), shape))
                self._pattern = re.compile(_ALONE % "|".join(longest_first))

    def recognise(self, text: str, options: tuple[str, ...]) -> list[Arg]:
        """Return the values in a text, in order."""
        if options:
            return list(_named(text, options))
        if self._pattern is not None:
            return list(self._pattern.findall(text))
        return self._field.recognise(text)

    def usual(self, rows: Rows) -> str | None:
        """Return the first of the rows most like those chosen in training data, `None` if all are alike."""
        weights = {
            row: sum(
                math.log((self._chosen[cell] + 1) / (self._listed[cell] + 2))
                for cell in cells
                if self._listed[cell] >= RECURS
            )
            for row, cells in rows.items()
        }
        best = max(weights.values(), default=0.0)
        ahead = [row for row, weight in weights.items() if weight > best - _ALIKE]
        return ahead[0] if len(ahead) < len(rows) else None

    def spelling(self, key: str) -> Arg:
        """Return a value as training data spells it."""
        return self._field.spelling[key]


class InputFiller:
    """Fills in inputs and chooses rows; the module says how."""

    def __init__(self) -> None:
        self._inputs: dict[Head, _Input] = {}
        self._frequent: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
        self._sources = Sources()

    def forget_values(self) -> None:
        """Forget the values of training data, but not which sources were right."""
        self._inputs, self._frequent = {}, defaultdict(Counter)

    def learn_value(self, moment: Moment, action: Action) -> None:
        """Count the value that an action enters, if it enters one."""
        taken = _entered(moment, action)
        if taken is None:
            return
        field, value = taken
        head = head_of(action)
        if head not in self._inputs:
            self._inputs[head] = _Input(field)
        others = {place: held for place, held in moment.state.values.items() if place != action.target}
        self._inputs[head].count(value, others, _rows(moment, head, field.options))
        for context in _value_contexts(moment, head):
            self._frequent[context][value_key(value) or ""] += 1

    def close(self) -> None:
        """Draw up what values are recognised by; the last to be called after values were counted."""
        for known in self._inputs.values():
            known.close()

    def learn_source(self, moment: Moment, action: Action) -> None:
        """Count which sources had the value that an action enters, if it enters one."""
        taken = _entered(moment, action)
        if taken is None:
            return
        field, value = taken
        head, truth = head_of(action), value_key(value)
        candidates = self._candidates(moment, head, field)
        right = [source for source, candidate in candidates.items() if value_key(candidate) == truth]
        self._sources.count(_contexts(moment, head, field, candidates), right)

    def candidates(self, moment: Moment, offer: Offer) -> dict[str, Arg]:
        """Return candidate values of an offer by where they come from, of `SOURCES`."""
        return self._candidates(moment, (offer.tool, offer.target), offer.fields[0])

    def fill(self, moment: Moment, offer: Offer) -> tuple[dict[str, Arg], list[float]]:
        """Return the argument of an offer and the chance that it is right; none if there is no candidate."""
        (field,) = offer.fields
        head = offer.tool, offer.target
        candidates = self._candidates(moment, head, field)
        if not candidates:
            return {}, []
        chances = self._sources.chances(candidates, _contexts(moment, head, field, candidates))
        best = max(chances, key=lambda source: chances[source])
        return {field.id: candidates[best]}, [chances[best]]

    def chances(self, moment: Moment, offer: Offer, args: Mapping[str, Arg]) -> list[float]:
        """Return the chance that the argument of an offer is right, 0 if it is no candidate."""
        (field,) = offer.fields
        head, key = (offer.tool, offer.target), value_key(args.get(field.id))
        candidates = self._candidates(moment, head, field)
        if not candidates:
            return [0.0]
        chances = self._sources.chances(candidates, _contexts(moment, head, field, candidates))
        return [max((chances[source] for source in candidates if value_key(candidates[source]) == key), default=0.0)]

    def _candidates(self, moment: Moment, head: Head, field: Control) -> dict[str, Arg]:
        """Return candidate values by where they come from; a source that has none is left out."""
        known = self._inputs.get(head)
        if known is None:
            known = _Input(field)
            known.close()
        options = {value_key(option): option for option in field.options}
        found: dict[str, Arg] = {}
        said = [value for text in moment.customer for value in known.recognise(text, field.options)]
        if said:
            # Of equally likely candidates the first is taken: whoever says two things corrects the first.
            found["said_last"], found["said_first"] = said[-1], said[0]
        described = _described(moment, head, field.options)
        if described is not None:
            found["described"] = described
        usual = known.usual(_rows(moment, head, field.options))
        if usual is not None:
            found["usual"] = usual
        shown = moment.state.values.get(known.place) if known.place is not None else None
        if shown is not None and not options:
            found["shown"] = shown
        elif shown is not None and value_key(shown) in options:
            found["shown"] = options[value_key(shown)]
        if field.options:
            found["first"] = field.options[0]
        for context in _value_contexts(moment, head):
            counts = self._frequent.get(context)
            if counts:
                key = counts.most_common(1)[0][0]
                if not options or key in options:
                    found["frequent"] = options[key] if options else known.spelling(key)
                break
        return found


@functools.lru_cache(maxsize=65536)
def _named(text: str, options: tuple[str, ...]) -> tuple[Arg, ...]:
    """Return the options that a text names, in order; what was said is read again at every step of a session."""
    return tuple(find(words(text), option_phrases(options)))


def _entered(moment: Moment, action: Action) -> tuple[Control, Arg] | None:
    """Return the field that an action fills in and with what, `None` if it fills in none that the screen offers."""
    if action.tool not in ("set_field", "select_item"):
        return None
    for control in moment.state.controls:
        if control.id == action.target:
            for offer in offers((control,)):
                if offer.tool == action.tool and takes_one_value(offer):
                    (field,) = offer.fields
                    value = action.args.get(field.id)
                    return None if value_key(value) is None else (field, value)
    return None


def _rows(moment: Moment, head: Head, rows: tuple[str, ...]) -> Rows:
    """Return the cells of each row of a table, empty if `head` chooses none.

    Of what a row belongs to the place is given; quantities are left out. Each procedure has its own reasons to choose
    a row, so cells carry its name.
    """
    if head[0] != "select_item":
        return {}
    shown = {row: moment.state.values.get(f"{head[1]}.{row}") for row in rows}
    owners = owners_of(moment.state.values)
    return {
        row: [
            f"{moment.procedure}: {f'of {owners[cell]}' if cell in owners else cell}"
            for cell in str(text).split(SEPARATOR)
            if not is_quantity(cell)
        ]
        for row, text in shown.items()
        if text is not None
    }


def _described(moment: Moment, head: Head, rows: tuple[str, ...]) -> str | None:
    """Return the row that messages describe best: read from the last one backwards, until one row is ahead.

    A word counts as much as it tells rows apart: one that n rows have counts 1 / n, one that all have nothing.
    """
    if head[0] != "select_item" or len(rows) < 2:
        return None
    shown: dict[str, frozenset[str]] = {}
    for row in rows:
        text = moment.state.values.get(f"{head[1]}.{row}")
        shown[row] = frozenset(words(f"{row} {text}" if isinstance(text, str) else row))
    having = Counter(word for told in shown.values() for word in told)
    heard: set[str] = set()
    for message in reversed(moment.customer):
        new: Words = tuple(word for word in words(message) if 0 < having[word] < len(rows) and word not in heard)
        if not new:
            continue
        heard.update(new)
        scores = {row: sum(1 / having[word] for word in told & heard) for row, told in shown.items()}
        best, second = sorted(scores.values(), reverse=True)[:2]
        if best > second:
            return max(scores, key=lambda row: scores[row])
    return None


def _value_contexts(moment: Moment, head: Head) -> Iterator[Hashable]:
    """Yield what the most frequent value is counted on, narrow to wide."""
    yield head, moment.procedure, moment.last_head()
    yield head, moment.procedure
    yield head


def _contexts(moment: Moment, head: Head, field: Control, candidates: dict[str, Arg]) -> Iterator[Hashable]:
    """Yield what the choice among candidates is counted on, narrow to wide."""
    rows = min(len(field.options), 3) if head[0] == "select_item" else 0
    alike: defaultdict[str | None, set[str]] = defaultdict(set)
    for source, value in candidates.items():
        alike[value_key(value)].add(source)
    agreeing = frozenset(map(frozenset, alike.values()))
    there = frozenset(candidates)
    yield head, rows, agreeing, moment.procedure
    yield head, rows, agreeing
    yield head, rows, there
    yield field.kind, rows, there
