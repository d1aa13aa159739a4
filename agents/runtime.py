"""Sessions that policy and operator share: at each step a rule says who acts, and the session goes on from there.

```python
actor = Runtime(crew_staff(people), Selective(gate), Desk(policy), critic)
for played in rollout(make_env, actor, resets):
    session = actor.told(played)
```

The policy is asked about all running sessions in one batch, and so is the critic. Whoever acts, acts in the same
session: a hand-off changes nothing but who is next, and the policy goes on from the screen the operator left.

What is stored is the action that was executed. Of a reviewed step that is the operator's: their correction, or the
suggestion they made their own by accepting it. A step that ran alone is stored as the policy's, with the operator's
label as feedback if the rule asks for labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from handrail.agents.critic import Case, Critic, StateCritic, trail
from handrail.agents.decoding import Suggestion
from handrail.agents.desk import AnyDesk
from handrail.agents.operators.seat import Seat, Staff
from handrail.agents.rollout import Episode, Played
from handrail.agents.rules import Moment, Rule, Ruling
from handrail.agents.spelling import spelled
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Feedback, Session, Step
from handrail.envs.spaces import Observation


@dataclass
class _Shared:
    """A session at work."""

    seat: Seat
    env: BPMEnv
    rng: np.random.Generator
    causes: dict[str, str] = field(default_factory=dict)
    gated: list[int] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)


class Runtime:
    """An actor of `handrail.agents.rollout` in which policy and operator take turns.

    Args:
        staff: who works which episode.
        rule: who acts at a step.
        desk: of the policy; may be left out if the rule asks for no suggestions.
        critic: scores critical suggestions; without one their scores are NaN.

    Raises:
        HandrailError: the rule needs a policy and there is none.
    """

    def __init__(self, staff: Staff, rule: Rule, desk: AnyDesk | None = None, critic: Critic | None = None) -> None:
        if rule.suggests and desk is None:
            raise HandrailError(f"the rule {type(rule).__name__} asks for suggestions, but there is no policy")
        self.staff, self.rule, self.desk, self.critic = staff, rule, desk, critic
        self._running: dict[int, _Shared] = {}
        self._over: dict[int, tuple[dict[str, float], dict[str, Any]]] = {}

    def begin(self, episode: Episode) -> None:
        """Take in an episode and seat its operator."""
        env: Any = episode.env.unwrapped
        seat = self.staff(episode)
        env.operator = seat.name
        # The environment draws from the episode's seed, the operator from [seed, 1].
        self._running[episode.number] = _Shared(seat, env, np.random.default_rng([episode.seed, 2]))
        if self.desk is not None and self.rule.suggests:
            self.desk.begin(episode.number, seat.name)

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        """Return what is executed in each episode."""
        if not self.rule.suggests:
            return {number: self._alone(self._running[number]) for number in observations}
        assert self.desk is not None
        made = self.desk.suggest(observations)
        actions = {number: spelled(one.action, observations[number]) for number, one in made.items()}
        critical = {n: self._running[n].env.world.critical(action) for n, action in actions.items()}
        scores = self._scores({n: action for n, action in actions.items() if critical[n]}, made, observations)
        return {
            number: self._decided(
                self._running[number],
                seen,
                actions[number],
                made[number],
                critical[number],
                scores.get(number, float("nan")),
            )
            for number, seen in observations.items()
        }

    def finish(self, number: int) -> None:
        """Forget an episode; `told` still knows what was true of it."""
        shared = self._running.pop(number)
        hidden = {
            **shared.seat.truth(),
            "causes": shared.causes,
            "critical_suggestions": shared.gated,
            "runtime": shared.steps,
        }
        self._over[number] = shared.env.world.clock.spent._asdict(), hidden
        if self.desk is not None and self.rule.suggests:
            self.desk.finish(number)

    def told(self, played: Played) -> Session:
        """Return the session of a finished episode with what is true of it in `hidden`; ask once for each.

        `outcome` gets `active`: the operator's active seconds by part of the clock.
        `hidden` gets the operator's slips, `causes` (step -> true cause of the verdict), `critical_suggestions` (steps
        at which one was judged) and `runtime`: for each step `route`, `reason`, `kept` (whether what was executed is
        what the policy suggested), `score`, `critical`, `probability` and the confidences of `Suggestion`; only
        `route` and `reason` where no policy was asked.
        """
        active, hidden = self._over.pop(played.number)
        session = played.session
        return msgspec.structs.replace(
            session, outcome={**session.outcome, "active": active}, hidden={**session.hidden, **hidden}
        )

    def _alone(self, shared: _Shared) -> Action:
        shared.env.actor = "operator"
        shared.steps.append({"route": "operator", "reason": "alone"})
        return shared.seat.act(shared.env)

    def _decided(
        self, shared: _Shared, seen: Observation, action: Action, made: Suggestion, critical: bool, score: float
    ) -> Action:
        env, seat = shared.env, shared.seat
        ruling = self.rule.route(Moment(seen.issue, seen, action, made, critical, score, shared.rng, env))
        noted = _noted(ruling, made, critical, score)
        shared.steps.append(noted)
        step = str(seen.index)
        if ruling.route == "operator":
            env.actor = "operator"
            return seat.act(env)
        if ruling.route == "review":
            env.actor = "operator"
            review = seat.review(env, action)
            env.note(review.feedback)
            if review.cause:
                shared.causes[step] = review.cause
            if review.critical:
                shared.gated.append(seen.index)
            noted["kept"] = same_action(review.action, action)
            return review.action
        env.actor = "policy"
        if self.rule.labels:
            env.note(_labelled(action, seat.label(env)))
        seat.passed(action)
        return action

    def _scores(
        self,
        actions: Mapping[int, Action],
        made: Mapping[int, Suggestion],
        observations: Mapping[int, Observation],
    ) -> dict[int, float]:
        """Return the critic's score of each action."""
        if self.critic is None or not actions:
            return {}
        cases = []
        for number, action in actions.items():
            seen, env = observations[number], self._running[number].env
            now = Step(seen.index, seen.state, seen.events, action, "policy")
            session = msgspec.structs.replace(env.session(), steps=(*seen.history, now), tail=())
            led = trail(self._running[number].steps)
            cases.append(Case(session, seen.index, action, False, trail=led, second=made[number].second))
        critic = self.critic
        if isinstance(critic, StateCritic) and self.desk is not None and critic.policy is self.desk.policy:
            readings = [
                replace(reading, suggestion=replace(reading.suggestion, second=made[number].second))
                for number, reading in self.desk.assess(actions).items()
            ]
            return dict(zip(actions, map(float, critic.judge(readings, cases)), strict=True))
        return dict(zip(actions, map(float, critic.score(cases)), strict=True))


def _noted(ruling: Ruling, made: Suggestion, critical: bool, score: float) -> dict[str, Any]:
    return {
        "route": ruling.route,
        "reason": ruling.reason,
        "kept": ruling.route == "run",
        "probability": ruling.probability,
        "critical": critical,
        "score": None if np.isnan(score) else score,
        "log_probability": made.log_probability,
        "min_probability": made.min_probability,
        "margin": made.margin,
        "entropy": made.entropy,
        "second": made.second,
    }


def _labelled(action: Action, label: Action) -> Feedback:
    if same_action(action, label):
        return Feedback(action, "accept", source="policy")
    return Feedback(action, "reject", label, source="policy")
