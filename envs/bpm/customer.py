"""The customer who writes: a persona that knows some facts, wants something, and answers as people do.

What is true in a case is fixed when it is drawn (`Known.value`, `first`, `later`); how it is told is drawn while the
case is worked. A customer

- tells some facts unasked in the opening (`Fact.volunteer`), and the others when they are asked,
- may leave out or evade what is asked, but each fact at most once, and only where the procedure would ask again,
- may say something else first and correct it in the same breath; the last value counts,
- says a mistaken value the first time and the right one when asked again, if the case says so,
- mistypes words (never the values themselves: a mistaken value is a fact of the case),
- digresses, grows impatient, thanks, is disappointed, and raises a second issue when told to.

A customer holds no source of chance: it is passed to each call. `snapshot` and `restore` are exact and cheap.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from handrail.envs.bpm.case import Case, Known, Matter, slip
from handrail.envs.bpm.domain import Domain, Fact, Procedure
from handrail.envs.bpm.draws import Uniform, choose, weighted
from handrail.envs.bpm.expressions import CompiledText, compile_text, text_of
from handrail.envs.bpm.program import Program, program
from handrail.envs.errors import HandrailError, nearest

_Say = tuple[CompiledText, ...] | dict[str, tuple[CompiledText, ...]]
"""Phrases for a fact, or value -> phrases."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How customers of an environment differ from the default ones.

    Attributes:
        language: a key of `Domain.languages`; empty for the language of the domain itself.
        typos: factor on the rate of mistyped words.
        omits: factor on how often something that was asked is left out or evaded.
        wavers: factor on how often something else is said first and corrected.
        chatter: factor on how often something is said that nobody asked.
        patience: factor on the number of replies after which they grow impatient.
    """

    language: str = ""
    typos: float = 1.0
    omits: float = 1.0
    wavers: float = 1.0
    chatter: float = 1.0
    patience: float = 1.0


def options_of(given: Mapping[str, Any]) -> Options:
    """Return options given as a mapping.

    Raises:
        HandrailError: an option is unknown, of the wrong kind or negative.
    """
    known = Options.__struct_fields__
    for name, value in given.items():
        if name not in known:
            raise HandrailError(f"customer option {name!r} is unknown{nearest(name, known)}")
        right = isinstance(value, str) if name == "language" else isinstance(value, int | float) and value >= 0
        if not right:
            wanted = "a language of the domain" if name == "language" else "a factor of 0 or more, 1 for the default"
            raise HandrailError(f"customer option {name} is {value!r}; expected {wanted}")
    return Options(**given)


class Persona(msgspec.Struct, frozen=True):
    """How a customer writes. Rates are probabilities in [0, 1].

    Attributes:
        name: the kind of person.
        weight: how often customers are such.
        chatter: rate of replies with something that nobody asked.
        quiet: rate of saying nothing to a reply that asks nothing.
        omits: rate of leaving out a fact that is asked for the first time.
        wavers: rate of saying something else first and correcting it.
        typos: rate of mistyped words.
        splits: rate of sending each sentence as a message of its own.
        patience: replies after which they grow impatient.
        lower: whether they write all in small letters.
        ending: how sentences end: `kept` as phrased, `none` without full stop, `loud` or `trailing`.
    """

    name: str
    weight: float
    chatter: float
    quiet: float
    omits: float
    wavers: float
    typos: float
    splits: float
    patience: int
    lower: bool = False
    ending: str = "kept"


PERSONAS: tuple[Persona, ...] = (
    Persona("plain", 4, 0.10, 0.3, 0.08, 0.03, 0.01, 0.1, 9),
    Persona("terse", 2, 0.02, 0.6, 0.15, 0.02, 0.02, 0.0, 7, lower=True, ending="none"),
    Persona("chatty", 2, 0.45, 0.1, 0.15, 0.08, 0.02, 0.3, 14, ending="trailing"),
    Persona("formal", 2, 0.10, 0.2, 0.04, 0.02, 0.0, 0.0, 12),
    Persona("hasty", 2, 0.05, 0.5, 0.12, 0.06, 0.08, 0.4, 4, lower=True, ending="none"),
    Persona("upset", 1, 0.20, 0.2, 0.12, 0.05, 0.04, 0.3, 3, ending="loud"),
    Persona("unsure", 1, 0.25, 0.2, 0.25, 0.15, 0.03, 0.1, 12, ending="trailing"),
)
"""The kinds of people who write."""


class Acts(NamedTuple):
    """What a customer did by writing.

    Attributes:
        said: fact -> value, as it was said; where a fact was corrected, the correction.
        raised: issues raised.
    """

    said: dict[str, Any]
    raised: tuple[str, ...] = ()


class State(NamedTuple):
    """All that changes about a customer: how often each fact was told and left out, matters raised, replies given."""

    told: dict[str, int]
    omitted: frozenset[str]
    raised: int
    replies: int


class Customer:
    """The customer of a case.

    Args:
        domain: of the desk.
        case: what is true.
        options: how customers differ from the default ones.

    Attributes:
        persona: how they write; drawn from the seed of the case.
        raised: how many of the case's matters they have raised.

    Raises:
        HandrailError: an option is wrong, or the domain has no phrases in the language wanted.
    """

    __slots__ = ("_matters", "_omitted", "_phrases", "_records", "_replies", "_told", "options", "persona", "raised")

    def __init__(self, domain: Domain, case: Case, options: Options | Mapping[str, Any] | None = None) -> None:
        self.options = options if isinstance(options, Options) else options_of(options or {})
        self._phrases = phrases(program(domain), self.options.language)
        self._matters = case.matters
        self._records = case.records
        self.persona = _persona(case.seed)
        self._told: dict[str, int] = {}
        self._omitted: frozenset[str] = frozenset()
        self.raised = 0
        self._replies = 0

    def snapshot(self) -> State:
        """Return all that changes, for `restore`."""
        return State(self._told.copy(), self._omitted, self.raised, self._replies)

    def restore(self, state: State) -> None:
        """Go back to `state`."""
        self._told = state.told.copy()
        self._omitted, self.raised, self._replies = state.omitted, state.raised, state.replies

    @property
    def waiting(self) -> bool:
        """Whether there is an issue that was not raised yet."""
        return self.raised < len(self._matters)

    def opening(self, uniform: Uniform) -> tuple[list[str], Acts]:
        """Write first: the first issue, and some facts unasked.

        Args:
            uniform: source of chance.
        """
        return self._raise(uniform, second=False)

    def raise_next(self, uniform: Uniform) -> tuple[list[str], Acts]:
        """Raise the next issue; the caller knows when the one before is done.

        Args:
            uniform: source of chance.
        """
        return self._raise(uniform, second=True)

    def reply(
        self, uniform: Uniform, template: str | None, facts: Sequence[str] = (), procedure: str | None = None
    ) -> tuple[list[str], Acts]:
        """Answer the operator.

        Args:
            uniform: source of chance.
            template: what was sent; `None` for a free message, which customers of this kind cannot read.
            facts: what it asks for in the open procedure.
            procedure: the open procedure.

        Returns:
            Messages (perhaps none), and what was said in them.
        """
        self._replies += 1
        said: dict[str, Any] = {}
        if template is None:
            parts = [self._small(uniform, "confused" if uniform() < 0.5 else "confirm")]
        elif facts:
            parts = self._answer(uniform, template, facts, procedure, said)
        else:
            parts = self._react(uniform, template, procedure)
        return self._write(uniform, parts), Acts(said)

    def _raise(self, uniform: Uniform, second: bool) -> tuple[list[str], Acts]:
        matter = self._matters[self.raised]
        self.raised += 1
        openings, seconds = self._phrases.issues[matter.issue]
        records = {kind: self._records[number].values for kind, number in matter.concerns.items()}
        parts = [self._fill(uniform, choose(uniform, seconds if second else openings), records)]
        said: dict[str, Any] = {}
        for fact, (spec, texts) in self._phrases.facts[matter.issue].items():
            if spec.volunteer and fact not in self._told and uniform() < spec.volunteer:
                self._tell(uniform, fact, matter.facts[fact], _unasked(texts), parts, said)
        return self._write(uniform, parts), Acts(said, (matter.issue,))

    def _answer(
        self, uniform: Uniform, template: str, facts: Sequence[str], procedure: str | None, said: dict[str, Any]
    ) -> list[str]:
        persona, parts = self.persona, []
        missing = 0
        patient = self._phrases.asked_again(procedure, template)
        for fact in facts:
            matter = self._matter_of(fact)
            if matter is None:
                missing += 1
                continue
            spec, texts = self._phrases.facts[matter.issue][fact]
            known = matter.facts[fact]
            if patient and fact not in self._told and fact not in self._omitted:
                share = persona.omits * self.options.omits
                if share and uniform() < share:
                    self._omitted |= {fact}
                    continue
            if known.value is None:
                parts.append(self._small(uniform, "unknown"))
            elif self._wavers(uniform, fact, known):
                self._waver(uniform, fact, known, spec, texts, parts, said)
            else:
                self._tell(uniform, fact, known, texts, parts, said)
        if not parts:
            parts.append(self._small(uniform, "confused" if missing == len(facts) else "nothing"))
        return parts

    def _react(self, uniform: Uniform, template: str, procedure: str | None) -> list[str]:
        matter = self._matters[max(self.raised - 1, 0)]
        if procedure is not None and procedure != self._phrases.procedures[matter.issue] and uniform() < 0.5:
            return [self._small(uniform, "confused")]
        mood = self._phrases.mood(procedure, template)
        if mood == "confirm" and uniform() < self.persona.quiet:
            return []
        return [self._small(uniform, mood)]

    def _matter_of(self, fact: str) -> Matter | None:
        """Return the matter that a fact belongs to: the latest raised, or another that was raised."""
        for matter in reversed(self._matters[: self.raised]):
            if fact in matter.facts:
                return matter
        return None

    def _tell(
        self,
        uniform: Uniform,
        fact: str,
        known: Known,
        texts: _Say,
        parts: list[str],
        said: dict[str, Any],
    ) -> None:
        times = self._told.get(fact, 0)
        value = known.later if times else known.first
        if value is None:
            return
        self._told[fact] = times + 1
        said[fact] = value
        parts.append(self._say(uniform, texts, value))

    def _wavers(self, uniform: Uniform, fact: str, known: Known) -> bool:
        share = self.persona.wavers * self.options.wavers
        return share > 0 and known.first == known.value and fact not in self._told and uniform() < share

    def _waver(
        self,
        uniform: Uniform,
        fact: str,
        known: Known,
        spec: Fact,
        texts: _Say,
        parts: list[str],
        said: dict[str, Any],
    ) -> None:
        """Say something else first, and correct it."""
        pick = spec.draw.pick if spec.draw is not None else None
        others = [
            other
            for other in (texts if isinstance(texts, dict) else pick or ())
            if text_of(other) != text_of(known.value)
        ]
        other = choose(uniform, others) if others else slip(known.value, uniform)
        parts.append(self._say(uniform, texts, other))
        self._told[fact] = 1
        said[fact] = known.value
        phrase = self._say(uniform, texts, known.value)
        parts.append(self._fill(uniform, choose(uniform, self._phrases.small["correct"]), {"phrase": phrase}))

    def _say(self, uniform: Uniform, texts: _Say, value: Any) -> str:
        options = texts.get(text_of(value)) or texts.get("") if isinstance(texts, dict) else texts
        if not options:
            return text_of(value)
        return self._fill(uniform, choose(uniform, options), {"value": value})

    def _small(self, uniform: Uniform, kind: str) -> str:
        options = self._phrases.small[kind] or self._phrases.small["confirm"]
        return self._fill(uniform, choose(uniform, options)) if options else ""

    def _fill(self, uniform: Uniform, text: CompiledText, scope: Mapping[str, Any] = {}) -> str:
        """Fill a phrase and let the persona mistype it; what fills `value` and `phrase` stays as it is."""
        filled = text.fill(scope, lambda count: int(uniform() * count))
        persona, rate = self.persona, self.persona.typos * self.options.typos
        if not rate and not persona.lower:
            return filled
        kept = text_of(scope.get("value", scope.get("phrase")))
        pieces = filled.split(kept) if kept else [filled]
        if persona.lower:
            pieces = [piece.lower() for piece in pieces]
        if rate:
            pieces = [_mistype(piece, rate, uniform) for piece in pieces]
        return kept.join(pieces)

    def _write(self, uniform: Uniform, parts: list[str]) -> list[str]:
        """Turn sentences into messages: chatter, impatience and the persona's way of ending and splitting."""
        persona, options = self.persona, self.options
        chatter = persona.chatter * options.chatter
        if parts and chatter and uniform() < chatter:
            parts.insert(0 if uniform() < 0.5 else len(parts), self._small(uniform, "nothing"))
        late = self._replies - persona.patience * options.patience
        if late > 0 and uniform() < min(0.1 * late, 0.4):
            parts.append(self._small(uniform, "impatient"))
        parts = [_end(part, persona.ending, uniform) for part in parts if part]
        if len(parts) > 1 and not uniform() < persona.splits:
            return [" ".join(parts)]
        return parts


class _Phrases:
    """What customers of a domain can say in one language, compiled, and what they expect of its replies.

    Args:
        compiled: the domain.
        language: a key of `Domain.languages`, or empty.

    Attributes:
        small: kind -> phrases beside facts.
        issues: issue -> openings, and phrases to raise it second.
        facts: issue -> fact -> its specification and phrases.
        procedures: issue -> its procedure.
    """

    def __init__(self, compiled: Program, language: str) -> None:
        domain = compiled.domain
        known = domain.languages
        if language and language not in known:
            raise HandrailError(
                f"domain {domain.name!r} has no customers who write {language!r}{nearest(language, known)}"
                " (leave `language` empty for the domain's own)"
            )
        other = known.get(language) or {}
        given = {field: getattr(domain.small, field) for field in domain.small.__struct_fields__}
        self.small = {kind: _texts(texts) for kind, texts in (given | (other.get("small") or {})).items()}
        self.issues: dict[str, tuple[tuple[CompiledText, ...], tuple[CompiledText, ...]]] = {}
        self.facts: dict[str, dict[str, tuple[Fact, _Say]]] = {}
        self.procedures = {name: issue.procedure for name, issue in domain.issues.items()}
        records = (*domain.records, "today")
        for name, issue in domain.issues.items():
            words = (other.get("issues") or {}).get(name) or {}
            says = words.get("facts") or {}
            self.issues[name] = (
                _texts(words.get("opening") or issue.opening, records),
                _texts(words.get("second") or issue.second or issue.opening, records),
            )
            self.facts[name] = {
                fact: (spec, _say(_say_of(says.get(fact)) or spec.say)) for fact, spec in issue.facts.items()
            }
        self._moods, self._patient = _expectations(domain)

    def mood(self, procedure: str | None, template: str) -> str:
        """Return the kind of small talk that answers a reply: `thanks`, `disappointed` or `confirm`."""
        return self._moods.get((procedure, template), "confirm")

    def asked_again(self, procedure: str | None, template: str) -> bool:
        """Return whether the procedure would ask once more if this question were not answered."""
        return self._patient.get((procedure, template), False)


_KNOWN: weakref.WeakKeyDictionary[Program, dict[str, _Phrases]] = weakref.WeakKeyDictionary()


def phrases(compiled: Program, language: str = "") -> _Phrases:
    """Return what customers of a domain say, compiled once for each domain and language.

    Args:
        compiled: the domain.
        language: a key of `Domain.languages`, or empty.

    Raises:
        HandrailError: the domain has no such language.
    """
    known = _KNOWN.setdefault(compiled, {})
    if language not in known:
        known[language] = _Phrases(compiled, language)
    return known[language]


def _texts(texts: Iterable[str], names: Iterable[str] = ("value", "phrase")) -> tuple[CompiledText, ...]:
    return tuple(compile_text(text, names) for text in texts)


def _say(say: list[str] | dict[str, list[str]]) -> _Say:
    if isinstance(say, dict):
        return {{"true": "yes", "false": "no"}.get(value, value): _texts(texts) for value, texts in say.items()}
    return _texts(say)


def _unasked(texts: _Say) -> _Say:
    """Return the phrases that are understood without the question: those that do not begin with the value."""
    if isinstance(texts, dict):
        return texts
    return tuple(text for text in texts if not text.text.startswith("{value}")) or texts


def _say_of(given: Any) -> Any:
    """Return the phrases of a fact in another language: they may stand under `say` or alone."""
    return given["say"] if isinstance(given, dict) and "say" in given else given


def _expectations(domain: Domain) -> tuple[dict[tuple[str | None, str], str], dict[tuple[str | None, str], bool]]:
    """Return the mood in which customers answer each reply of a procedure, and which questions are asked again.

    A reply after which a case can only close with the first outcome of the desk is good news, one after which it
    cannot is bad news.
    """
    good = domain.desk.outcomes[0]
    moods: dict[tuple[str | None, str], str] = {}
    patient: dict[tuple[str | None, str], bool] = {}
    for name, procedure in domain.procedures.items():
        if procedure.shared:
            continue
        ways = _ways(domain, name, procedure)
        for place in ways:
            node = domain.procedures[place[1]].nodes[place[2]]
            tells, asks = _listed(node.tell), _listed(node.ask)
            for template in tells:
                ends = _ends(domain, ways, place)
                mood = "confirm" if good in ends and len(ends) > 1 else "thanks" if good in ends else "disappointed"
                if moods.setdefault((name, template), mood) != mood:
                    moods[name, template] = "confirm"
            for template in asks:
                again = not node.again and node.limit > 1
                patient[name, template] = patient.get((name, template), True) and again
    return moods, patient


_Place = tuple[str, str, str]
"""The node that runs a shared procedure (empty outside of one), a procedure, a node of it."""


def _ways(domain: Domain, name: str, procedure: Procedure) -> dict[_Place, list[_Place]]:
    """Return the nodes reachable in a procedure and in those it runs, each with the nodes that may follow."""
    ways: dict[_Place, list[_Place]] = {}
    left: list[_Place] = [("", name, procedure.start)]
    while left:
        place = left.pop()
        if place in ways:
            continue
        runner, inside, number = place
        node = domain.procedures[inside].nodes[number]
        after: list[_Place] = [(runner, inside, to) for to in (node.next, *(b.to for b in node.decide or ())) if to]
        if node.run:
            after.append((number, node.run, domain.procedures[node.run].start))
        if node.exit and runner:
            after.append(("", name, procedure.nodes[runner].then[node.exit]))
        ways[place] = after
        left += after
    return ways


def _ends(domain: Domain, ways: dict[_Place, list[_Place]], place: _Place) -> set[str]:
    """Return the outcomes with which a case may close after `place`."""
    seen: set[_Place] = set()
    ends: set[str] = set()
    left = [place]
    while left:
        here = left.pop()
        if here in seen:
            continue
        seen.add(here)
        close = domain.procedures[here[1]].nodes[here[2]].close
        if close:
            ends.add(close)
        left += ways[here]
    return ends


def _listed(templates: str | list[str] | None) -> tuple[str, ...]:
    return () if templates is None else (templates,) if isinstance(templates, str) else tuple(templates)


def _persona(seed: int) -> Persona:
    # Multiplying by the golden ratio spreads seeds evenly, at a hundredth of the cost of seeding a generator.
    share = (seed * 0x9E3779B97F4A7C15 & _MASK) / (_MASK + 1)
    return weighted(lambda: share, PERSONAS, _WEIGHTS)


_MASK = 2**64 - 1
_WEIGHTS = tuple(persona.weight for persona in PERSONAS)


_WORD = re.compile(r"[^\W\d_]{4,}")


def _mistype(text: str, rate: float, uniform: Uniform) -> str:
    """Return `text` with slips of the finger: letters swapped, dropped or doubled in words of four letters or more.

    Args:
        text: what was meant.
        rate: slips per word.
        uniform: source of chance; one draw where nothing slips, as is usual.
    """
    for _ in range(int(rate * text.count(" ") + uniform())):
        words = list(_WORD.finditer(text))
        if not words:
            return text
        match = choose(uniform, words)
        word, start = match[0], match.start()
        place = 1 + int(uniform() * (len(word) - 2))
        kind = int(uniform() * 3)
        middle = (word[place + 1] + word[place], "", word[place] * 2)[kind]
        text = text[: start + place] + middle + text[start + place + (2 if kind == 0 else 1) :]
    return text


def _end(text: str, ending: str, uniform: Uniform) -> str:
    if ending == "kept" or not text.endswith("."):
        return text
    if ending == "none":
        return text.rstrip(".")
    if uniform() < 0.5:
        return text
    return text.rstrip(".") + ("!" if ending == "loud" else "...")
