"""The copilot loop: rounds of deploy, collect, aggregate, retrain (DAgger; Ross, Gordon & Bagnell 2011).

In each round the last policy works new cases under a rule that says who acts and what is labelled. What comes of it is
added to the sessions of all rounds before and to a share of the base logs, and from these the policy learns on, from
its last weights, with corrections weighed up.

| rule | who acts | what it teaches |
|---|---|---|
| `alone` | the operator; the policy is not asked | more plain logs: the control |
| `copilot` | the policy suggests, the operator accepts or corrects (the paper) | what was executed |
| `dagger` | the operator by chance, ever more rarely, else the policy | what the operator did, or would have done |
| `gated` | the policy, unless critic or novelty call the operator | what was executed while they had the session |

The invariant: **the action that is learned is the operator's, whoever acted.** Of a step that an operator did or
reviewed it is what is stored and was executed, their correction or the suggestion they accepted. Of a step that ran
alone it is their label, kept beside the executed action; without a label nothing is learned
(`handrail.algorithms.sft.label`).

On disk, one folder a round, files whole or not there:

    loop.json                what the loop was started with
    round_000/
        stages.json          the stages that are finished: collect, retrain, measure
        collected/*.arrow    while sessions are collected: those of the parts that are finished
        sessions.parquet     the sessions of the round (`handrail.envs.logs.store`)
        training/            while the policy is retrained: checkpoints
        preference/          the same, if corrections are preferred besides (`handrail.algorithms.preference`)
        policy/              the policy that learned from them (`Policy.load`)
        metrics.json         flat, finite numbers

A loop that was killed goes on by the same call, where it was: at most the sessions of one part and the batches since
the last checkpoint are worked again. It ends with the sessions, metrics and weights of a loop that was not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

from handrail.agents.critic import Critic
from handrail.agents.desk import Desk
from handrail.agents.operators.seat import Staff
from handrail.agents.policy import Policy
from handrail.agents.queries import Gated, Mixture, recorded
from handrail.agents.rollout import Reset, rollout
from handrail.agents.rules import Alone, Copilot, Rule
from handrail.agents.runtime import Runtime
from handrail.algorithms.config import DaggerConfig
from handrail.algorithms.preference import prefer
from handrail.algorithms.sft import fine_tune, label
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.files import write_json
from handrail.envs.logs.store import PART_SUFFIX, SessionWriter, load_sessions, merge
from handrail.envs.schema import Feedback, Session
from handrail.envs.spaces import Observation

STAGES = ("collect", "retrain", "measure")
_log = logging.getLogger(__name__)


class RoundRule(Protocol):
    """What makes the rule of a round; its fields are the options of the rule."""

    def __call__(self, number: int, earlier: Sequence[Sequence[Session]]) -> Rule:
        """Return the rule of round `number`, from 0.

        Args:
            number: of the round.
            earlier: the sessions of each round before.
        """
        ...


@dataclass(frozen=True)
class AloneRounds:
    """Operators work alone."""

    def __call__(self, number: int, earlier: Sequence[Sequence[Session]]) -> Rule:
        """Return the same rule in every round."""
        return Alone()


@dataclass(frozen=True)
class CopilotRounds:
    """Operators accept or correct what the policy suggests.

    Attributes:
        everywhere: see `handrail.agents.rules.Copilot`.
    """

    everywhere: bool = True

    def __call__(self, number: int, earlier: Sequence[Sequence[Session]]) -> Rule:
        """Return the same rule in every round."""
        return Copilot(self.everywhere)


@dataclass(frozen=True)
class MixtureRounds:
    """The chance that the operator acts falls by a factor each round.

    Attributes:
        decay: the factor, which is also the chance in the first round, in [0, 1]: the base logs were a round in which
            operators always acted.
    """

    decay: float = 0.5

    def __call__(self, number: int, earlier: Sequence[Sequence[Session]]) -> Rule:
        """Return the mixture of a round."""
        return Mixture(self.decay ** (number + 1))


@dataclass(frozen=True)
class GatedRounds:
    """A copilot in the first round; then operators are called as often as thresholds of the round before say.

    Attributes:
        share: of the steps, to be asked.
        release, budget: see `handrail.agents.queries.Gated`.
    """

    share: float = 0.3
    release: float = 0.8
    budget: int | None = None

    def __call__(self, number: int, earlier: Sequence[Sequence[Session]]) -> Rule:
        """Return the gate of a round."""
        if not earlier:
            return Copilot()
        return Gated.for_share(recorded(earlier[-1]), self.share, self.release, self.budget)


RULES: dict[str, type[Any]] = {
    "alone": AloneRounds,
    "copilot": CopilotRounds,
    "dagger": MixtureRounds,
    "gated": GatedRounds,
}
"""Name of a rule -> what makes it, round by round (`RoundRule`)."""


def round_rule(config: DaggerConfig) -> RoundRule:
    """Return what makes the rules that a configuration names.

    Raises:
        HandrailError: there is no such rule, or it has no such option.
    """
    if config.rule not in RULES:
        raise HandrailError(f"unknown rule dagger.rule={config.rule!r}{nearest(config.rule, RULES)}")
    kind = RULES[config.rule]
    known = [option.name for option in dataclasses.fields(kind)]
    for name in config.options:
        if name not in known:
            raise HandrailError(f"rule {config.rule!r} has no option dagger.options.{name}{nearest(name, known)}")
    made: RoundRule = kind(**config.options)
    return made


@dataclass(frozen=True)
class Deployed:
    """What is at work in a round.

    Attributes:
        number: of the round, from 0.
        rule: who acts and what is labelled.
        checkpoint: folder of the policy.
    """

    number: int
    rule: Rule
    checkpoint: Path

    @cached_property
    def policy(self) -> Policy:
        """The policy, on the GPU if there is one."""
        return policy_of(self.checkpoint)


Collect = Callable[[Deployed, range], Iterable[Session]]
"""Works the cases of these numbers, which run through all rounds, and yields their sessions in order.

For a killed loop to end like any other, a session may depend on what is deployed and on the numbers asked for with it,
and on nothing else.
"""

Measure = Callable[[Policy, int], Mapping[str, float]]
"""Measures the policy that a round, given by its number, ended with."""


@dataclass(frozen=True)
class Simulator:
    """Collects in simulated environments; case `n` is the reset with seed `first_seed + n`.

    Attributes:
        make: makes an environment.
        staff: who works which case.
        first_seed: of the first case of the first round.
        slots: how many cases are worked at once.
        constrained, copied: how the policy writes (`handrail.agents.decoding.Writer`).
        critic: of a policy; suggestions are not scored without one.
    """

    make: Callable[[], gymnasium.Env[Observation, Any]]
    staff: Staff
    first_seed: int
    slots: int = 64
    constrained: bool = True
    copied: bool = False
    critic: Callable[[Policy], Critic] | None = None

    def __call__(self, deployed: Deployed, numbers: range) -> Iterator[Session]:
        """Work the cases of these numbers."""
        desk, critic = None, None
        if deployed.rule.suggests:
            desk = Desk(deployed.policy, constrained=self.constrained, copied=self.copied)
            critic = None if self.critic is None else self.critic(deployed.policy)
        runtime = Runtime(self.staff, deployed.rule, desk, critic)
        resets = [Reset(self.first_seed + number) for number in numbers]
        for played in rollout(self.make, runtime, resets, self.slots):
            yield runtime.told(played)


@dataclass(frozen=True)
class Round:
    """A round on disk.

    Attributes:
        folder: its folder.
        number: from 0.
    """

    folder: Path
    number: int

    @property
    def store(self) -> Path:
        """The file of its sessions."""
        return self.folder / "sessions.parquet"

    @property
    def policy(self) -> Path:
        """The folder of the policy it ended with."""
        return self.folder / "policy"

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured."""
        return dict(json.loads((self.folder / "metrics.json").read_text(encoding="utf-8")))

    @cached_property
    def sessions(self) -> list[Session]:
        """What was collected."""
        return load_sessions(self.store)

    @property
    def stages(self) -> dict[str, dict[str, float]]:
        """Each stage that is finished, with what it notes for later ones."""
        path = self.folder / "stages.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def mark(self, stage: str, **notes: float) -> None:
        """Record that a stage is finished, once all it leaves is on disk."""
        write_json(self.folder / "stages.json", {**self.stages, stage: notes})


@dataclass(frozen=True)
class Loop:
    """Rounds of deploy, collect, aggregate, retrain.

    Attributes:
        folder: where the rounds are kept; that of a loop that was killed goes on with it.
        config: how.
        policy: folder of the policy to begin with.
        base: the logs it learned from.
        collect: lets the policy of a round work.
        measure: adds to the metrics of a round; left out, these tell of its sessions only.
        seed: of what is replayed and of training.
        tune: fine-tunes as `handrail.algorithms.sft.fine_tune` does, perhaps in several processes.
        prefer: the same for `handrail.algorithms.preference.prefer`.
    """

    folder: Path
    config: DaggerConfig
    policy: Path
    base: Sequence[Session]
    collect: Collect
    measure: Measure | None = None
    seed: int = 0
    tune: Callable[..., dict[str, float]] = fine_tune
    prefer: Callable[..., dict[str, float]] = prefer
    _rule: RoundRule = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rule", round_rule(self.config))

    @property
    def rounds(self) -> list[Round]:
        """All rounds, finished or not."""
        return [Round(self.folder / f"round_{n:03d}", n) for n in range(self.config.rounds)]

    def run(self) -> list[Round]:
        """Do what is not done yet, and return the rounds.

        Raises:
            HandrailError: the folder holds a loop that was started with something else, or a round yields too few
                sessions or none that anything can be learned from.
        """
        self._claim()
        rounds = self.rounds
        for one in rounds:
            for stage, work in zip(STAGES, (self._collect, self._retrain, self._measure), strict=True):
                if stage not in one.stages:
                    _log.info("round %d: %s", one.number, stage)
                    one.mark(stage, **work(one, rounds[: one.number]))
            # A kill may come after the mark and before the removal, so this is not part of the stages.
            for leftover in ("collected", "training"):
                shutil.rmtree(one.folder / leftover, ignore_errors=True)
        return rounds

    def _claim(self) -> None:
        """Raise HandrailError if the folder holds another loop; the number of rounds may grow."""
        mark = hashlib.sha256(repr([(s.id, len(s.steps)) for s in self.base]).encode()).hexdigest()[:16]
        config = {**dataclasses.asdict(self.config), "seed": self.seed, "base": mark}
        del config["rounds"]
        config = json.loads(json.dumps(config))
        path = self.folder / "loop.json"
        if not path.exists():
            write_json(path, config)
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted(config.keys() | before.keys()):
            if config.get(name) != before.get(name):
                raise HandrailError(
                    f"the loop in {self.folder} was started with {name}={before.get(name)}, now it is "
                    f"{config.get(name)}; go on as it was started, or choose another folder"
                )

    def _deployed(self, one: Round, earlier: Sequence[Round]) -> Deployed:
        rule = self._rule(one.number, [before.sessions for before in earlier])
        return Deployed(one.number, rule, earlier[-1].policy if earlier else self.policy)

    def _collect(self, one: Round, earlier: Sequence[Round]) -> dict[str, float]:
        size, part = self.config.sessions, self.config.part
        cases = range(one.number * size, (one.number + 1) * size)
        deployed = self._deployed(one, earlier)
        paths = []
        for first in cases[::part]:
            numbers = range(first, min(first + part, cases.stop))
            paths.append(one.folder / "collected" / f"{first:09d}{PART_SUFFIX}")
            if paths[-1].exists():
                continue
            # Each part is one row group of the store: a larger one than it can be.
            with SessionWriter(paths[-1], row_group=1 << 30) as writer:
                for session in self.collect(deployed, numbers):
                    writer.write(session)
                if writer.sessions != len(numbers):
                    raise HandrailError(
                        f"round {one.number}: {writer.sessions} sessions came of {len(numbers)} cases; expected one "
                        f"of each. Go on in {self.folder} when they do"
                    )
        merge(paths, one.store)
        return {}

    def _retrain(self, one: Round, earlier: Sequence[Round]) -> dict[str, float]:
        policy = policy_of(earlier[-1].policy if earlier else self.policy)
        seed = int(np.random.SeedSequence([self.seed, one.number]).generate_state(1)[0])
        sessions = self.aggregated(one.number)
        summary = self.tune(policy, sessions, self.config.sft, one.folder / "training", seed)
        _log.info("round %d: retrained in %.0f s, mean loss %.3f", one.number, summary["seconds"], summary["loss"])
        learned = {name: summary[name] for name in ("steps", "tokens", "sessions")}
        if self.config.preference is not None:
            made = self.prefer(policy, sessions, self.config.preference, one.folder / "preference", seed)
            _log.info(
                "round %d: of %d corrections %.1f %% are preferred, %.1f %% were",
                one.number,
                made["pairs"],
                100 * made["preferred"],
                100 * made["preferred_before"],
            )
            learned |= {name: made[name] for name in ("pairs", "preferred_before", "preferred")}
        partial = one.folder / "policy.partial"
        for folder in (partial, one.policy):
            shutil.rmtree(folder, ignore_errors=True)
        policy.save(partial)
        os.replace(partial, one.policy)
        # Loss and seconds are of the part since the last kill.
        return learned

    def aggregated(self, number: int) -> list[Session]:
        """Return what the policy of a round learns from: a draw of the base logs, and all rounds up to this one."""
        count = round(self.config.replay * len(self.base))
        drawn = np.random.default_rng([self.seed, number]).permutation(len(self.base))[:count]
        collected = [session for one in self.rounds[: number + 1] for session in one.sessions]
        return [*(self.base[index] for index in sorted(drawn)), *collected]

    def _measure(self, one: Round, earlier: Sequence[Round]) -> dict[str, float]:
        found = session_metrics(one.sessions)
        found |= {f"train.{name}": value for name, value in one.stages["retrain"].items()}
        if self.measure is not None:
            found |= self.measure(policy_of(one.policy), one.number)
        write_json(one.folder / "metrics.json", dict(sorted(found.items())))
        return {}


def session_metrics(sessions: Sequence[Session]) -> dict[str, float]:
    """Return what a round's sessions say of policy and operators.

    Returns:
        `sessions`, `steps`; `operator_share`: share of the steps that an operator did or reviewed; `interventions`: how
        often a session went to the operator, on average; `labels`, `corrections`: how many steps something can be
        learned of, and at how many the operator did or named something else than was suggested or done;
        `accepted_share`: of the suggestions shown, and `critical_accepted_share`: of the critical ones;
        `success_rate`, `active_seconds`: where the sessions' outcomes tell. Shares of nothing are left out.
    """
    steps = [step for session in sessions for step in session.steps]
    learned = [made for step in steps if (made := label(step)) is not None]
    shown = [step for step in steps if step.actor == "operator" and step.feedback is not None]
    gated = [session.steps[n] for session in sessions for n in session.hidden.get("critical_suggestions", ())]
    found = {
        "sessions": float(len(sessions)),
        "steps": float(len(steps)),
        "labels": float(len(learned)),
        "corrections": float(sum(made.corrected for made in learned)),
    }
    shares: dict[str, list[float]] = {
        "operator_share": [float(step.actor == "operator") for step in steps],
        "accepted_share": [_accepted(step.feedback) for step in shown],
        "critical_accepted_share": [_accepted(step.feedback) for step in gated],
        "interventions": [float(_interventions(session)) for session in sessions],
        "success_rate": [float(s.outcome["success"]) for s in sessions if "success" in s.outcome],
        "active_seconds": [float(s.outcome["active_seconds"]) for s in sessions if "active_seconds" in s.outcome],
    }
    return found | {name: float(np.mean(values)) for name, values in shares.items() if values}


def _accepted(feedback: Feedback | None) -> float:
    return float(feedback is not None and feedback.verdict == "accept")


def _interventions(session: Session) -> int:
    actors = ["policy", *(step.actor for step in session.steps)]
    return sum(now == "operator" != before for before, now in pairwise(actors))


def policy_of(folder: Path) -> Policy:
    """Return the policy of a folder, on the GPU if there is one."""
    import torch

    policy = Policy.load(folder)
    return policy.to("cuda") if torch.cuda.is_available() else policy
