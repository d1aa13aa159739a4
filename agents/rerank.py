"""A second reader for the policy: a product of experts over candidate actions.

A language model built from scratch is good at what follows what and weak at copying rare values; the counted argument
filler of the baselines is the other way round, and their errors differ. Candidates are the policy's own suggestion, the
same with fields filled in as the filler would, and the heads (tool and target) the baseline thinks likely. The action
with the highest weighted sum of log-probabilities is suggested:

    score(a) = w_policy log p(a) + w_head log q(head of a) + w_fields sum_f log q_f(value of f in a)

with p the policy's, q the baseline's and q_f the filler's probabilities: a product of experts (Hinton 2002) whose
weights are those of a conditional logit (McFadden 1974), fitted on sessions that neither learned from. The part of
log p(a) below `_PLAUSIBLE` has a weight of its own: the policy knows well what cannot be done, and among what can the
baseline often knows better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import assess
from handrail.agents.baselines._heads import HeadBaseline
from handrail.agents.baselines._inputs import takes_one_value
from handrail.agents.baselines._moments import Moment, moments
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder, Suggestion
from handrail.agents.policy import Policy
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import action_key, normalize_text, same_action
from handrail.envs.offers import Offer
from handrail.envs.schema import Action, Session

LIKELY = 0.05
"""Heads to which the baseline gives less are no candidates."""

_HEADS = 3
_SWAPS = 2
"""Up to this many disputed fields all combinations are candidates, above it one at a time and all together."""

_UNHEARD = 0.02
"""Chance of a field value the filler did not think of."""

WEIGHTS = ("policy", "ruled_out", "head", "fields")
"""Names of the weights, in order."""

_PLAUSIBLE = -3.0
"""Log-probability below which the policy rather rules an action out."""

_RULED_OUT = -8.0
"""Log-probabilities of the policy are cut here: how firmly it rules an action out depends on its length above all."""

Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Candidates:
    """The actions considered at one step.

    Attributes:
        suggestion: the policy's own; the first candidate.
        actions: the candidates, distinct.
        experts: log-probabilities of the baseline for the head and of the filler for the fields, shape (n, 2).
    """

    suggestion: Suggestion
    actions: tuple[Action, ...]
    experts: NDArray[np.float64]

    def second(self, place: int) -> float:
        """Return the baseline's log-probability of a candidate, head and fields."""
        return float(self.experts[place].sum())


class Reranker:
    """Chooses among candidates of a policy and a baseline.

    Args:
        decoder: the policy's.
        baseline: fitted on the sessions the policy learned from.
        weights: as named by `WEIGHTS`, each >= 0; `None` until `fit`.
    """

    def __init__(
        self, decoder: Decoder, baseline: HeadBaseline, weights: Sequence[float] | NDArray[np.float64] | None = None
    ) -> None:
        self.decoder, self.baseline = decoder, baseline
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float64)

    def by(self, policy: Policy) -> Reranker:
        """Return the same baseline and weights beside another policy."""
        return Reranker(self.decoder.by(policy), self.baseline, self.weights)

    def fit(
        self, sessions: Sequence[Session], suggestions: Sequence[Suggestion], progress: Progress = iter
    ) -> NDArray[np.float64]:
        """Learn the weights.

        Args:
            sessions: logs that neither policy nor baseline learned from.
            suggestions: the policy's, at each operator step of them.
            progress: wraps the iteration over passes.

        Returns:
            The weights, as named by `WEIGHTS`, shape (4,).

        Raises:
            HandrailError: at no step does the log's action stand among several candidates.
        """
        from scipy.optimize import minimize

        given = self.candidates(sessions, suggestions)
        features = self._features(sessions, given, progress)
        known = {session.id: session for session in sessions}
        choices = []
        for one, matrix in zip(given, features, strict=True):
            logged = known[one.suggestion.session_id].steps[one.suggestion.step].action
            right = [n for n, action in enumerate(one.actions) if same_action(action, logged)]
            if right and len(one.actions) > 1:
                choices.append((_evidence(matrix), right[0]))
        if not choices:
            raise HandrailError(
                f"rerank: in {len(sessions)} sessions the logged action is never one of several candidates, so there "
                "is nothing to weigh; give more sessions, or leave rerank out"
            )

        def loss(weights: NDArray[np.float64]) -> float:
            return sum(_log_share(matrix @ weights, right) for matrix, right in choices) / len(choices)

        found = minimize(loss, np.full(len(WEIGHTS), 0.5), method="L-BFGS-B", bounds=[(0.0, 4.0)] * len(WEIGHTS))
        weights: NDArray[np.float64] = np.asarray(found.x, dtype=np.float64)
        self.weights = weights
        return weights

    def rerank(
        self, sessions: Sequence[Session], suggestions: Sequence[Suggestion], progress: Progress = iter
    ) -> list[Suggestion]:
        """Return the best candidate at each step, with the policy's confidence in it, in the order given.

        Raises:
            HandrailError: the weights are not fitted.
        """
        given = self.candidates(sessions, suggestions)
        known = {session.id: session for session in sessions}
        features = self._features(sessions, given, progress)
        chosen = [self.best(matrix) for matrix in features]
        changed = [n for n, place in enumerate(chosen) if place]
        cases = [
            Case(known[given[n].suggestion.session_id], given[n].suggestion.step, given[n].actions[chosen[n]], False)
            for n in changed
        ]
        found = [one.suggestion for one in given]
        for n, reading in zip(changed, assess(self.decoder, cases, progress), strict=True):
            found[n] = reading.suggestion
        return [
            replace(one, second=given[n].second(place))
            for n, (one, place) in enumerate(zip(found, chosen, strict=True))
        ]

    def best(self, features: NDArray[np.float64]) -> int:
        """Return the place of the best candidate.

        Args:
            features: log-probabilities of policy, head and fields for each, shape (n, 3).

        Raises:
            HandrailError: the weights are not fitted.
        """
        if self.weights is None:
            raise HandrailError("rerank: the weights are not fitted; call fit first")
        return int((_evidence(features) @ self.weights).argmax())

    def candidates(self, sessions: Sequence[Session], suggestions: Sequence[Suggestion]) -> list[Candidates]:
        """Return the candidates of each suggestion, in the order given."""
        own = {(s.session_id, s.step): s for s in suggestions}
        scores = self.baseline.score(sessions)
        found: dict[tuple[str, int], Candidates] = {}
        for session in sessions:
            for moment, step in moments(session):
                heads = next(scores)
                key = (session.id, step.index)
                if key in own:
                    found[key] = self.consider(moment, heads, own[key])
        missing = [key for key in own if key not in found]
        if missing:
            raise HandrailError(f"rerank: no operator step {missing[0]} in the given sessions")
        return [found[s.session_id, s.step] for s in suggestions]

    def consider(self, moment: Moment, heads: NDArray[np.float64], own: Suggestion) -> Candidates:
        """Return what to choose from at one step.

        Args:
            moment: where.
            heads: what the baseline makes of it, of `HeadBaseline.score_moments`.
            own: the policy's suggestion.
        """
        offered, shares = self.baseline.shares(moment, heads)
        at = {(offer.tool, offer.target): n for n, offer in enumerate(offered)}
        actions = [own.action]
        mine = at.get((own.action.tool, own.action.target))
        if mine is not None and _has_fields(offered[mine]):
            actions.extend(self._refilled(moment, offered[mine], own.action))
        for n in np.argsort(-shares, kind="stable")[:_HEADS]:
            if shares[n] >= LIKELY and n != mine:
                offer = offered[n]
                actions.append(Action(offer.tool, offer.target, self.baseline.fill(moment, offer)[0]))
        distinct: dict[str, Action] = {}
        for action in actions:
            distinct.setdefault(action_key(action), action)
        experts = np.zeros((len(distinct), 2))
        for row, action in enumerate(distinct.values()):
            n = at.get((action.tool, action.target))
            experts[row, 0] = np.log(1e-6 if n is None else max(float(shares[n]), 1e-6))
            if n is not None and _has_fields(offered[n]):
                experts[row, 1] = self._fields(moment, offered[n], action)
        return Candidates(own, tuple(distinct.values()), experts)

    def _refilled(self, moment: Moment, offer: Offer, action: Action) -> list[Action]:
        """Return `action` with disputed fields as the filler would fill them in."""
        filled, _ = self.baseline.fill(moment, offer)
        written = _by_field(offer, action)
        disputed = [f.id for f in offer.fields if _differ(written.get(f.id), filled.get(f.id))]
        if len(disputed) <= _SWAPS:
            swaps = list(product((False, True), repeat=len(disputed)))[1:]
        else:
            swaps = [tuple(n == m for m in range(len(disputed))) for n in range(len(disputed))]
            swaps.append((True,) * len(disputed))
        found = []
        for swap in swaps:
            args = dict(written)
            for name, swapped in zip(disputed, swap, strict=True):
                if swapped:
                    args.pop(name, None)
                    if filled.get(name) is not None:
                        args[name] = filled[name]
            found.append(Action(action.tool, action.target, args))
        return found

    def _fields(self, moment: Moment, offer: Offer, action: Action) -> float:
        chances = self.baseline.chances(moment, offer, _by_field(offer, action))
        return float(np.log(np.maximum(chances, _UNHEARD)).sum())

    def _features(
        self, sessions: Sequence[Session], given: Sequence[Candidates], progress: Progress
    ) -> list[NDArray[np.float64]]:
        """Return for each step the log-probabilities of policy, head and fields, shape (candidates, 3)."""
        known = {session.id: session for session in sessions}
        cases, where = [], []
        for n, one in enumerate(given):
            for m, action in enumerate(one.actions[1:], start=1):
                cases.append(Case(known[one.suggestion.session_id], one.suggestion.step, action, accepted=False))
                where.append((n, m))
        found = [np.column_stack([np.zeros(len(one.actions)), one.experts]) for one in given]
        for n, one in enumerate(given):
            found[n][0, 0] = one.suggestion.log_probability
        for (n, m), reading in zip(where, assess(self.decoder, cases, progress), strict=True):
            found[n][m, 0] = reading.suggestion.log_probability
        return found


def _has_fields(offer: Offer) -> bool:
    """Tell whether the baseline's filler weighs the arguments of an offer."""
    return offer.tool == "submit_form" or takes_one_value(offer)


def _evidence(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what is weighed: of the policy's log-probabilities what is above and below plausible, and the experts'.

    Args:
        features: log-probabilities of policy, head and fields, shape (n, 3).

    Returns:
        Shape (n, 4).
    """
    own = features[:, 0]
    above, below = np.maximum(own, _PLAUSIBLE), np.clip(own, _RULED_OUT, _PLAUSIBLE) - _PLAUSIBLE
    return np.column_stack([above, below, features[:, 1:]])


def _by_field(offer: Offer, action: Action) -> dict[str, Any]:
    """Return arguments under the fields' own names: a tokenizer may have changed their spelling."""
    values = {normalize_text(name): value for name, value in action.args.items()}
    return {f.id: values[normalize_text(f.id)] for f in offer.fields if normalize_text(f.id) in values}


def _differ(first: Any, second: Any) -> bool:
    return not same_action(Action("fill", "", {"value": first}), Action("fill", "", {"value": second}))


def _log_share(scores: NDArray[np.float64], chosen: int) -> float:
    """Return the negative log of the softmax share of one score."""
    top = scores.max()
    return float(np.log(np.exp(scores - top).sum()) + top - scores[chosen])
