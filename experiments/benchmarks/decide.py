"""A policy at work on many cases at once, against `model.generate` called anew at each step.

Experts work cases of the simulated desk; a policy of the default size reads a few of their sessions twice, so that what
it suggests is as long as what is done there. Then it works beside them: in the same cases it is asked for every action,
and the expert's is executed, so that every repetition and every alternative has the same steps to decide. `generate`
reads the same transcripts, with its own cache inside a call, and writes as many tokens as the expert's action has; it
is spared the environment, the grammar and the reading of what it wrote.

The share outside the model is what the driver, the environments, transcripts, tokenizer and grammar take of a rollout.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handrail.experiments.benchmarks import Measurement, Options, seconds

if TYPE_CHECKING:
    from handrail.agents.desk import Desk
    from handrail.agents.policy import Policy
    from handrail.agents.rollout import Actor, Episode, Played
    from handrail.envs.schema import Action, Session
    from handrail.envs.spaces import Observation

KEYS = (
    "decide.vs_generate_single",
    "decide.vs_generate_batched",
    "rollout.sessions_per_s",
    "rollout.non_model_share",
)
DOMAIN, SLOTS = "bank", 32
SESSIONS, TRAINING, BATCHES = 64, 120, 3
"""Sessions of a rollout, sessions that the policy reads before, and batches of `generate` in a repetition."""


def measure(
    options: Options, domain: str = DOMAIN, sessions: int = SESSIONS, training: int = TRAINING
) -> Iterator[Measurement]:
    """Yield how many times faster the steps are decided, and what a rollout costs.

    Args:
        options: of `handrail bench`.
        domain: whose cases are worked.
        sessions: of a rollout.
        training: sessions that the policy reads before.
    """
    from handrail.agents.desk import Desk
    from handrail.agents.rollout import Reset

    worked = _play(domain, _expert(), [Reset(seed) for seed in range(training)])
    policy = _policy([one.session for one in worked])
    resets = [Reset(training + number) for number in range(sessions)]
    played = _play(domain, _expert(), resets)
    steps = [(one.session, index) for one in played for index in range(len(one.actions))]
    clock = _ModelClock(policy)
    rates: dict[str, list[float]] = {"rollout": [], "model": [], "single": [], "batched": []}
    rng = np.random.default_rng(0)
    for _ in range(options.repeats):
        clock.spent = 0.0
        rates["rollout"].append(seconds(_play, domain, _Beside(Desk(policy), played), resets))
        rates["model"].append(clock.spent)
        drawn = [steps[i] for i in rng.permutation(len(steps))]
        rates["single"].append(_generate(policy, [[one] for one in drawn[:SLOTS]]))
        batches = [drawn[n : n + SLOTS] for n in range(0, len(drawn), SLOTS)][:BATCHES]
        rates["batched"].append(_generate(policy, batches))
    ours = [len(steps) / taken for taken in rates["rollout"]]
    for key, name in (("decide.vs_generate_single", "single"), ("decide.vs_generate_batched", "batched")):
        ratios = tuple(a / b for a, b in zip(ours, rates[name], strict=True))
        yield Measurement(key, ratios, f"x the steps/s of generate, {name}")
    yield Measurement(KEYS[2], tuple(sessions / taken for taken in rates["rollout"]), "sessions/s")
    shares = tuple(1 - model / whole for model, whole in zip(rates["model"], rates["rollout"], strict=True))
    yield Measurement(KEYS[3], shares, "of a rollout's time")
    yield Measurement(f"{SLOTS} sessions at once", tuple(ours), "steps/s", written=False)
    yield Measurement("generate, one session", tuple(rates["single"]), "steps/s", written=False)
    yield Measurement(f"generate, batches of {SLOTS}", tuple(rates["batched"]), "steps/s", written=False)


def _expert() -> Actor:
    from handrail.agents.actors import OperatorActor
    from handrail.agents.operators.expert import Expert

    return OperatorActor(lambda rng: Expert(seed=int(rng.integers(2**31))))


def _play(domain: str, actor: Actor, resets: Sequence[Any]) -> list[Played]:
    from handrail.agents.rollout import rollout
    from handrail.envs.bpm.env import BPMEnv

    return list(rollout(lambda: BPMEnv(domain), actor, resets, SLOTS))


def _policy(sessions: Sequence[Session]) -> Policy:
    from handrail.agents.policy import PolicyConfig, build_policy
    from handrail.agents.transcript import Transcript
    from handrail.algorithms.config import SFTConfig, TrainingConfig
    from handrail.algorithms.sft import fine_tune

    transcript = Transcript()
    texts = ["".join(span.text for span in transcript.spans(session)) for session in sessions]
    policy = build_policy(PolicyConfig(), transcript, texts, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        fine_tune(policy, sessions, SFTConfig(TrainingConfig(epochs=2, save_steps=0)), Path(scratch), seed=0)
    policy.model.eval()
    return policy


class _Beside:
    """Asks a desk for every action and does what was done before."""

    def __init__(self, desk: Desk, played: Sequence[Played]) -> None:
        self._desk, self._played = desk, played

    def begin(self, episode: Episode) -> None:
        self._desk.begin(episode.number)

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Action]:
        self._desk.suggest(observations)
        return {number: self._played[number].actions[seen.index] for number, seen in observations.items()}

    def finish(self, number: int) -> None:
        self._desk.finish(number)


class _ModelClock:
    """Counts the seconds that a model's body and head are at work."""

    def __init__(self, policy: Policy) -> None:
        self.spent = self._since = 0.0
        model: Any = policy.model
        for module in (policy.body, model.get_output_embeddings()):
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.spent += time.perf_counter() - self._since


def _generate(policy: Policy, batches: Sequence[Sequence[tuple[Session, int]]]) -> float:
    """Return the steps/s of `generate` on batches of (session, step), left-padded, transcripts already tokenised."""
    import torch

    from handrail.agents.transcript import ACTION

    model: Any = policy.model
    filler: Any = policy.tokenizer.pad_token_id
    encoder, transcript = policy.encoder, policy.transcript
    given = []
    for batch in batches:
        prompts = [
            encoder.encode("", transcript.prefix(session, step)).ids.tolist() + encoder.tokens(ACTION)
            for session, step in batch
        ]
        longest = max(map(len, prompts))
        written = [len(encoder.tokens(transcript.action(session.steps[step]).text)) - 1 for session, step in batch]
        ids = torch.tensor([[filler] * (longest - len(prompt)) + prompt for prompt in prompts])
        given.append((ids, (ids != filler).long(), max(written)))

    def write() -> None:
        with torch.inference_mode():
            for ids, mask, length in given:
                model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=length,
                    min_new_tokens=length,
                    pad_token_id=filler,
                )

    return sum(map(len, batches)) / seconds(write)
