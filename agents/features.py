"""A fixed-size view of situations and actions, for learners that read vectors and choose a number.

A `FeatureView` is learned from training sessions. It reads a moment as bits: marks of its situation
(`baselines._situation`) that are set, and for each quantity whether it is above some edges (quantiles of the training
data, and 0). Of all bits those are kept that tell most of what operators do next given what they did last. An action
is one of a fixed list: tool and target, and for an input or a table also where its value comes from, by the copying
rules of the baselines (`baselines._inputs`) or as one of the values that recur. A mask says which are possible now.
Nothing in it knows a domain, and it reads only what an operator sees.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handrail.agents.baselines._arguments import ArgumentFiller
from handrail.agents.baselines._inputs import SOURCES, takes_one_value
from handrail.agents.baselines._moments import Head, Moment, head_of, moments
from handrail.agents.baselines._situation import situation
from handrail.agents.baselines._values import value_key
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.offers import Offer, offers
from handrail.envs.schema import Action, Arg, Control, Session

Bits = NDArray[np.int8]

_ALWAYS = ("last1=", "last2=", "issue=", "procedure=", "kind=", "screen=")
"""What every view keeps: where in the work one is."""

_QUANTILES = 8
"""Edges of a quantity beside 0."""


@dataclass(frozen=True)
class FeatureConfig:
    """Size of a view.

    Attributes:
        bits: most bits of a situation.
        least: a bit or a value that occurs less often in training data is left out.
        options: most values of one input that are actions of their own.
    """

    bits: int = 1200
    least: int = 5
    options: int = 12

    def __post_init__(self) -> None:
        for name in ("bits", "least"):
            if getattr(self, name) < 1:
                raise HandrailError(f"features.{name}={getattr(self, name)}: expected at least 1")
        if self.options < 0:
            raise HandrailError(f"features.options={self.options}: expected at least 0")


class Choice(NamedTuple):
    """One of the fixed actions.

    Attributes:
        head: tool and target.
        source: where the value comes from, one of the copying rules; empty if the filler decides or `value` is given.
        value: canonical form of the value entered, `None` unless the choice is a value of its own.
    """

    head: Head
    source: str = ""
    value: str | None = None


class View(NamedTuple):
    """A moment as a learner sees it.

    Attributes:
        bits: shape (bits,), 0 or 1.
        mask: shape (choices,), 1 for what can be done now; at least one is.
        actions: what each possible choice does, by number.
    """

    bits: Bits
    mask: Bits
    actions: dict[int, Action]


class FeatureView:
    """Reads moments as bits and numbers actions.

    Args:
        config: its size.

    Attributes:
        names: of the bits, in order: a mark, or `quantity>edge`.
        choices: the fixed actions, in order.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self.names: list[str] = []
        self.choices: list[Choice] = []
        # Feature -> its edges, ascending, and the bit of each; a mark has one edge below everything.
        self._places: dict[str, tuple[list[float], list[int]]] = {}
        self._filler = ArgumentFiller()
        self._plain: dict[Head, int] = {}
        self._sourced: dict[Head, dict[str, int]] = {}
        self._valued: dict[Head, dict[str, int]] = {}
        self._offered: dict[int, tuple[tuple[Control, ...], list[Offer]]] = {}

    def fit(self, sessions: Sequence[Session]) -> FeatureView:
        """Learn bits and choices from training sessions; nothing is drawn at random.

        Raises:
            HandrailError: no session holds an operator's action.
        """
        self._filler.fit(sessions)
        rows: list[dict[str, float]] = []
        heads: list[Head] = []
        last: list[Head] = []
        values: defaultdict[Head, Counter[str]] = defaultdict(Counter)
        single: dict[Head, bool] = {}
        for session in sessions:
            for moment, step in moments(session):
                head = head_of(step.action)
                rows.append(situation(moment))
                heads.append(head)
                last.append(moment.last_head())
                offer = self._offer(moment, head)
                single[head] = single.get(head, False) or (offer is not None and takes_one_value(offer))
                if offer is not None and takes_one_value(offer) and offer.fields[0].options and head[0] == "set_field":
                    values[head][value_key(step.action.args.get(offer.fields[0].id)) or ""] += 1
        if not rows:
            raise HandrailError(f"features: none of {len(sessions)} sessions holds an operator's action")
        self._number_choices(single, values)
        self._choose_bits(rows, heads, last)
        return self

    def see(self, moment: Moment) -> View:
        """Return a moment as bits, what is possible, and what each possible choice does.

        A screen that offers none of the choices leaves the first one: it then costs a step, as any impossible action.
        """
        on: list[int] = []
        for name, value in situation(moment).items():
            place = self._places.get(name)
            if place is not None:
                edges, columns = place
                on += columns[: bisect_left(edges, value)]
        bits = np.zeros(len(self.names), dtype=np.int8)
        bits[on] = 1
        actions = self._actions(moment)
        mask = np.zeros(len(self.choices), dtype=np.int8)
        if actions:
            mask[list(actions)] = 1
        else:
            mask[0] = 1
            actions = {0: Action(*self.choices[0].head)}
        return View(bits, mask, actions)

    def label(self, view: View, action: Action) -> int | None:
        """Return the choice that does `action`, `None` if none does; the first one where several do the same."""
        for number, possible in view.actions.items():
            if possible.tool == action.tool and possible.target == action.target and same_action(possible, action):
                return number
        return None

    def _offer(self, moment: Moment, head: Head) -> Offer | None:
        for offer in self._offers(moment.state.controls):
            if (offer.tool, offer.target) == head:
                return offer
        return None

    def _offers(self, controls: tuple[Control, ...]) -> list[Offer]:
        known = self._offered.get(id(controls))
        if known is None or known[0] is not controls:
            if len(self._offered) > 4096:
                self._offered.clear()
            known = self._offered[id(controls)] = controls, offers(controls)
        return known[1]

    def _actions(self, moment: Moment) -> dict[int, Action]:
        found: dict[int, Action] = {}
        for offer in self._offers(moment.state.controls):
            head = offer.tool, offer.target
            if (number := self._plain.get(head)) is not None:
                args: dict[str, Arg] = self._filler.fill(moment, offer)[0] if offer.fields else {}
                found[number] = Action(*head, args)
            elif head in self._sourced:
                (field,) = offer.fields
                for source, value in self._filler.candidates(moment, offer).items():
                    found[self._sourced[head][source]] = Action(*head, {field.id: value})
                spelled = {value_key(option): option for option in field.options}
                for value_name, number in self._valued.get(head, {}).items():
                    if value_name in spelled:
                        found[number] = Action(*head, {field.id: spelled[value_name]})
        return found

    def _number_choices(self, single: dict[Head, bool], values: dict[Head, Counter[str]]) -> None:
        for head in sorted(single):
            if not single[head]:
                self._plain[head] = len(self.choices)
                self.choices.append(Choice(head))
                continue
            # Values first: what has a number of its own is told apart from what is copied from the same words.
            common = [value for value, n in values[head].most_common() if n >= self.config.least and value]
            self._valued[head] = {}
            for value in sorted(common[: self.config.options]):
                self._valued[head][value] = len(self.choices)
                self.choices.append(Choice(head, value=value))
            self._sourced[head] = {}
            for source in SOURCES:
                self._sourced[head][source] = len(self.choices)
                self.choices.append(Choice(head, source))

    def _choose_bits(self, rows: Sequence[dict[str, float]], heads: Sequence[Head], last: Sequence[Head]) -> None:
        from scipy import sparse

        edges = self._draw_edges(rows)
        starts: dict[str, int] = {}
        names: list[str] = []
        for name in sorted({name for row in rows for name in row}):
            starts[name] = len(names)
            names += [f"{name}>{edge:g}" for edge in edges[name]] if name in edges else [name] * (name[0] != "#")
        columns: list[int] = []
        pointers = [0]
        for row in rows:
            for name, value in row.items():
                if name in edges:
                    columns += range(starts[name], starts[name] + int(np.searchsorted(edges[name], value)))
                elif name[0] != "#":
                    columns.append(starts[name])
            pointers.append(len(columns))
        table = sparse.csr_matrix((np.ones(len(columns)), columns, pointers), shape=(len(rows), len(names)))
        seen = np.asarray(table.sum(axis=0)).ravel()
        worth = _information(table, heads, last)
        worth[(seen < self.config.least) | (seen > len(rows) - self.config.least)] = -1.0
        worth[[n for n, name in enumerate(names) if name.startswith(_ALWAYS) and worth[n] >= 0]] = np.inf
        order = np.lexsort((np.arange(len(names)), -worth))
        kept = sorted(n for n in order[: self.config.bits].tolist() if worth[n] >= 0)
        self.names = [names[n] for n in kept]
        place = {n: column for column, n in enumerate(kept)}
        for name, start in starts.items():
            if name in edges:
                inside = [n for n in range(start, start + len(edges[name])) if n in place]
                if inside:
                    own = [float(edges[name][n - start]) for n in inside]
                    self._places[name] = own, [place[n] for n in inside]
            elif start in place and name[0] != "#":
                self._places[name] = [-np.inf], [place[start]]

    def _draw_edges(self, rows: Sequence[dict[str, float]]) -> dict[str, NDArray[np.float64]]:
        values: defaultdict[str, list[float]] = defaultdict(list)
        for row in rows:
            for name, value in row.items():
                if name[0] == "#":
                    values[name].append(value)
        edges = {}
        for name, held in values.items():
            if len(held) < self.config.least:
                continue
            inner = np.quantile(held, np.linspace(0, 1, _QUANTILES + 2)[1:-1], method="inverted_cdf")
            # An edge below everything says that the quantity is known; one just below 0 tells "at least 0".
            edges[name] = np.unique([np.float64(-1e300), -1e-9, 0.0, *inner])
        return edges

    def __getstate__(self) -> dict[str, Any]:
        # Remembered screens are known by identity, which means nothing in another process.
        return {**self.__dict__, "_offered": {}}


def _information(table: Any, heads: Sequence[Head], last: Sequence[Head]) -> NDArray[np.float64]:
    """Return how much each bit tells of the next head given the last one: conditional mutual information in nats.

    Args:
        table: sparse, shape (n, bits), 0 or 1.
        heads: n heads.
        last: what was done before, n heads.

    Returns:
        Shape (bits,).
    """
    from scipy import sparse

    total = np.zeros(table.shape[1])
    codes = {head: n for n, head in enumerate(sorted(set(heads)))}
    label = np.array([codes[head] for head in heads])
    groups: defaultdict[Head, list[int]] = defaultdict(list)
    for row, head in enumerate(last):
        groups[head].append(row)
    for members in groups.values():
        kinds, own = np.unique(label[members], return_inverse=True)
        if len(kinds) < 2:
            continue
        n = len(members)
        marks = sparse.csr_matrix((np.ones(n), (own, np.arange(n))), shape=(len(kinds), n))
        both = (marks @ table[members]).toarray()
        of_kind = np.bincount(own)[:, None].astype(float)
        on = both.sum(axis=0)
        for joint, side in ((both, on), (of_kind - both, n - on)):
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = joint * np.log(joint * n / (of_kind * side))
            total += np.nan_to_num(terms).sum(axis=0)
    return total / len(heads)
