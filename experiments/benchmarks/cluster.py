"""What Ray costs and gains on one machine: rollouts against the process alone, and ingestion on ten times STAR.

A rollout on Ray has environment actors and a policy server, a rollout in the process has neither; both work the same
cases with the same policy, and Ray is there and warm before the clock starts. The ratio is the rate on Ray over the
rate alone, so 1 is break-even. Ingestion is timed from raw files to the store; starting Ray is not part of it.

The corpus for ingestion is STAR's dialogues ten times over, with new ids, in a temporary folder. It is skipped without
the data.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.experiments.benchmarks import Measurement, Options, Skipped, seconds
from handrail.experiments.cluster.config import RayConfig

if TYPE_CHECKING:
    from handrail.agents.actors import PolicyActor
    from handrail.agents.rollout import Reset

KEYS = ("ray.rollout_ratio_1", "ray.rollout_ratio_2", "ray.ingest_ratio")
DOMAIN, SLOTS, SESSIONS, TRAINING, MAX_STEPS = "bank", 32, 64, 24, 20
COPIES = 10
LOCAL = RayConfig("local", num_cpus=2)


def measure(
    options: Options, domain: str = DOMAIN, sessions: int = SESSIONS, training: int = TRAINING, copies: int = COPIES
) -> Iterator[Measurement | Skipped]:
    """Yield rates on Ray over rates of the process alone.

    Args:
        options: of `handrail bench`.
        domain: whose cases are worked.
        sessions: of a rollout.
        training: sessions that the policy reads before.
        copies: how often STAR is read.
    """
    if any(key.startswith(options.only) for key in KEYS[:2]):
        yield from _rollouts(options.repeats, domain, sessions, training)
    if KEYS[2].startswith(options.only):
        yield from _ingest(options, copies)


def _rollouts(repeats: int, domain: str, sessions: int, training: int) -> Iterator[Measurement]:
    from handrail.agents.rollout import Reset, rollout
    from handrail.envs.bpm.env import BPMEnv
    from handrail.experiments.cluster.connection import connected
    from handrail.experiments.cluster.rollouts import Rollouts

    # A policy that has read so little ends few cases, so all of them are cut.
    make, actor = partial(BPMEnv, domain, max_steps=MAX_STEPS), _policy(domain, training)
    resets = [Reset(training + number) for number in range(sessions)]
    taken: dict[int, list[float]] = {0: [], 1: [], 2: []}
    with connected(LOCAL):
        for _ in range(repeats):
            taken[0].append(seconds(list, rollout(make, actor, resets, SLOTS)))
            for workers in (1, 2):
                with Rollouts(make, actor, SLOTS, replace(LOCAL, workers=workers)) as rollouts:
                    _warm(rollouts, resets)
                    taken[workers].append(seconds(list, rollouts.play(resets)))
    for workers in (1, 2):
        ratios = tuple(alone / there for alone, there in zip(taken[0], taken[workers], strict=True))
        yield Measurement(KEYS[workers - 1], ratios, f"x the sessions/s of one process, {workers} environment actors")
    for workers, name in enumerate(("one process", "Ray, 1 environment actor", "Ray, 2 environment actors")):
        yield Measurement(name, tuple(sessions / one for one in taken[workers]), "sessions/s", written=False)


def _warm(rollouts: Any, resets: Sequence[Reset]) -> None:
    """Let every actor start and load what it needs."""
    for _ in rollouts.play(resets[: len(rollouts.workers)]):
        pass


def _policy(domain: str, training: int) -> PolicyActor:
    from handrail.agents.actors import OperatorActor, PolicyActor
    from handrail.agents.desk import Desk
    from handrail.agents.operators.expert import Expert
    from handrail.agents.policy import PolicyConfig, build_policy
    from handrail.agents.rollout import Reset, rollout
    from handrail.agents.transcript import Transcript
    from handrail.algorithms.config import SFTConfig, TrainingConfig
    from handrail.algorithms.sft import fine_tune
    from handrail.envs.bpm.env import BPMEnv

    expert = OperatorActor(lambda rng: Expert(seed=int(rng.integers(2**31))))
    played = rollout(partial(BPMEnv, domain), expert, [Reset(seed) for seed in range(training)], SLOTS)
    worked = [one.session for one in played]
    transcript = Transcript()
    texts = ["".join(span.text for span in transcript.spans(session)) for session in worked]
    policy = build_policy(PolicyConfig(), transcript, texts, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        fine_tune(policy, worked, SFTConfig(TrainingConfig(epochs=2, save_steps=0)), Path(scratch), seed=0)
    policy.model.eval()
    return PolicyActor(Desk(policy))


def _ingest(options: Options, copies: int) -> Iterator[Measurement | Skipped]:
    from handrail.envs.logs.ingest import ingest
    from handrail.experiments.cluster.connection import connected
    from handrail.experiments.cluster.spread import Spread

    folder = options.data_path or os.environ.get("HANDRAIL_DATA")
    if not folder:
        yield Skipped(KEYS[2], "no data: set HANDRAIL_DATA or data.path=DIR to a folder that holds star/")
        return
    try:
        files: list[Path] = registry.load("handrail.envs.logs.readers", "star", "source").Reader(Path(folder)).units()
    except HandrailError as error:
        yield Skipped(KEYS[2], str(error))
        return
    alone, there = [], []
    config = replace(LOCAL, worker_cpus=1.0)
    with tempfile.TemporaryDirectory() as scratch, connected(config):
        _copy(files, Path(scratch, "star"), copies)
        spread, path = Spread(config), Path(scratch, "star")
        for _ in range(options.repeats):
            alone.append(seconds(ingest, "star", path, Path(scratch, "alone.parquet")))
            there.append(seconds(partial(ingest, spread=spread), "star", path, Path(scratch, "ray.parquet")))
            if Path(scratch, "alone.parquet").read_bytes() != Path(scratch, "ray.parquet").read_bytes():
                raise RuntimeError("Ray ingested other bytes than one process")
    yield Measurement(
        KEYS[2], tuple(a / b for a, b in zip(alone, there, strict=True)), "x the speed of one process, 2 on Ray"
    )
    count = len(files) * copies
    yield Measurement("one process", tuple(count / one for one in alone), "dialogues/s", written=False)
    yield Measurement("Ray Data, 2 processes", tuple(count / one for one in there), "dialogues/s", written=False)


def _copy(files: Sequence[Path], target: Path, copies: int) -> None:
    """Write every dialogue `copies` times under new ids, and link what describes the desk."""
    home, dialogues = files[0].parent.parent, target / files[0].parent.name
    dialogues.mkdir(parents=True)
    for name in ("tasks", "apis"):
        if (home / name).is_dir():
            (target / name).symlink_to(home / name)
    for file in files:
        dialogue = json.loads(file.read_bytes())
        for copy in range(copies):
            number = f"{file.stem}{copy:03d}"
            renamed = json.dumps({**dialogue, "DialogueID": int(number)})
            (dialogues / f"{number}.json").write_text(renamed, encoding="utf-8")
