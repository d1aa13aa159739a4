"""How baselines fill in arguments: candidate values for every field, and counts of which candidate tends to be right.

For a field of a form the candidates are the value submitted before (and that plus one), values recognised in the
customer's messages, a name the customer gave, the field of that name in the last record, the whole last message, the
most frequent value, and nothing. Recognised are the field's options, values that recur in training data and numbers as
long as those in training data. Which candidate to take is learned: the share of training submissions in which each was
right, given form, field, the last action, and which candidates there are, smoothed towards wider contexts. The shares
are counted on sessions other than those the values come from, so that rare values do not look better than they are.
Inputs and tables, which take one value, are filled in alike (`_inputs`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence

from handrail.agents.baselines._inputs import InputFiller, takes_one_value
from handrail.agents.baselines._moments import Head, Moment, head_of, moments
from handrail.agents.baselines._values import Field, Sources, value_key
from handrail.envs.offers import Offer
from handrail.envs.schema import Arg, Control, Session

_ABSENT, _FREQUENT = "absent", "frequent"
_NAMED = re.compile(
    r"\b(?:name is|name's|i am|i'm|this is|call me)\s+([a-z][a-z.'-]*(?:\s[a-z][a-z.'-]*)?)", re.IGNORECASE
)


class ArgumentFiller:
    """Fills in the arguments of an action that is chosen.

    Forms, inputs and tables that list their rows as described above; a message gets the most frequent text of training
    data, a selection where no rows are listed the newest result.
    """

    def __init__(self) -> None:
        self._fields: dict[tuple[str, str], Field] = {}
        self._frequent: dict[Hashable, Counter[str]] = {}
        self._sources = Sources()
        self._inputs = InputFiller()
        self._texts: Counter[str] = Counter()

    def fit(self, sessions: Sequence[Session]) -> None:
        """Learn from training sessions."""
        self._sources, self._inputs = Sources(), InputFiller()
        for known, unseen in ((sessions[::2], sessions[1::2]), (sessions[1::2], sessions[::2])):
            self._learn_values(known)
            self._learn_choices(unseen)
        self._learn_values(sessions)

    def fill(self, moment: Moment, offer: Offer) -> tuple[dict[str, Arg], list[float]]:
        """Return arguments for what the screen offers, and for each field to fill the chance that it is right."""
        if takes_one_value(offer):
            return self._inputs.fill(moment, offer)
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

    def candidates(self, moment: Moment, offer: Offer) -> dict[str, Arg]:
        """Return what could be entered into an input, or chosen of a table, by where it comes from."""
        return self._inputs.candidates(moment, offer)

    def chances(self, moment: Moment, offer: Offer, args: Mapping[str, Arg]) -> list[float]:
        """Return the chance that each argument is right, 0 for one that is no candidate; empty for messages."""
        if takes_one_value(offer):
            return self._inputs.chances(moment, offer, args)
        if offer.tool != "submit_form":
            return []
        return [self._chance(moment, offer.target, field, args.get(field.id)) for field in offer.fields]

    def _learn_values(self, sessions: Sequence[Session]) -> None:
        self._fields, self._texts = {}, Counter()
        self._frequent = defaultdict(Counter)
        self._inputs.forget_values()
        for session in sessions:
            for moment, step in moments(session):
                action = step.action
                if action.tool == "send_message":
                    self._texts[str(action.args.get("text", ""))] += 1
                for control in _form(moment, head_of(action)):
                    value = action.args.get(control.id)
                    self._field(action.target, control).count(value)
                    key = value_key(value)
                    if key is not None:
                        for context in self._value_contexts(moment, action.target, control):
                            self._frequent[context][key] += 1
                self._inputs.learn_value(moment, action)
        for field in self._fields.values():
            field.close()
        self._inputs.close()

    def _learn_choices(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            for moment, step in moments(session):
                for control in _form(moment, head_of(step.action)):
                    truth = value_key(step.action.args.get(control.id))
                    candidates = self._candidates(moment, step.action.target, control)
                    right = [source for source, value in candidates.items() if value_key(value) == truth]
                    self._sources.count(self._contexts(moment, step.action.target, control, candidates), right)
                self._inputs.learn_source(moment, step.action)

    def _field(self, form: str, control: Control) -> Field:
        key = form, control.id
        if key not in self._fields:
            self._fields[key] = Field(control)
        return self._fields[key]

    def _candidates(self, moment: Moment, form: str, control: Control) -> dict[str, Arg]:
        """Return candidate values by where they come from; a source that has none is left out."""
        field = self._fields.get((form, control.id))
        if field is None:
            field = Field(control)
            field.close()
        found: dict[str, Arg] = {_ABSENT: None}
        submitted = moment.submissions.get(form, [])
        since = 0
        if submitted:
            args, since = submitted[-1]
            if args.get(control.id) is not None:
                found["previous"] = args[control.id]
                key = value_key(args[control.id])
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

    def _chance(self, moment: Moment, form: str, control: Control, value: Arg) -> float:
        candidates = self._candidates(moment, form, control)
        key = value_key(value)
        chances = self._chances(moment, form, control, candidates)
        return max((chance for source, chance in chances.items() if value_key(candidates[source]) == key), default=0.0)

    def _choose(self, moment: Moment, form: str, control: Control, candidates: dict[str, Arg]) -> tuple[str, float]:
        """Return the candidate most often right and its chance."""
        chances = self._chances(moment, form, control, candidates)
        best = max(chances, key=lambda source: chances[source])
        return best, chances[best]

    def _chances(self, moment: Moment, form: str, control: Control, candidates: dict[str, Arg]) -> dict[str, float]:
        """Return how often each candidate was right in training submissions like this one."""
        return self._sources.chances(candidates, self._contexts(moment, form, control, candidates))

    @staticmethod
    def _value_contexts(moment: Moment, form: str, control: Control) -> Iterator[Hashable]:
        submitted = moment.submissions.get(form, [])
        previous = value_key(submitted[-1][0].get(control.id)) if submitted and control.kind == "select" else None
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
            and (value_key(candidates["previous"]) != value_key(candidates["heard_last"]))
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
