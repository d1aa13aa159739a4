"""Stepping `handrail/BPM-v0`, against a classic-control environment and against parsing alone.

An expert's actions on a hundred cases of a domain are worked out beforehand; what is timed is the environment doing
them again, resets included. With HTML, each state is read from the rendered page (`html=True`) or, for comparison, the
same pages are parsed by the HTML library alone.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium

from handrail.envs.registration import register_envs
from handrail.envs.schema import Action
from handrail.experiments.benchmarks import Measurement, Options, Skipped, seconds

KEYS = (
    "bpm.steps_per_s",
    "bpm.ratio_cartpole",
    "bpm.html_steps_per_s",
    "bpm.html_ratio_parse_only",
    "bpm.two_processes",
    "bpm.memory_mb_per_env",
    "bpm.snapshots_per_s",
    "bpm.generate_10k_sessions_s",
)

DOMAIN = "bank"
STEPS = 20_000
"""Steps of one repetition; a tenth of them with HTML."""

CASES = 100
SESSIONS = 10_000
_ENVS = 20
_PROCESSES = 2

Script = list[tuple[int, list[Action]]]
"""Seed of a case, and the actions that work it."""


def measure(options: Options, steps: int = STEPS, sessions: int = SESSIONS) -> Iterator[Measurement | Skipped]:
    """Yield rates and ratios of the simulator."""
    register_envs()
    script = expert_script(CASES)
    plain = gymnasium.make("handrail/BPM-v0", domain=DOMAIN)
    html = gymnasium.make("handrail/BPM-v0", domain=DOMAIN, html=True)
    cartpole = gymnasium.make("CartPole-v1")
    pages = _pages(script[:20])
    rates: dict[str, list[float]] = {name: [] for name in ("plain", "html", "cartpole", "parse", "snapshot", "two")}
    few = steps // 10
    for _ in range(options.repeats):
        rates["plain"].append(steps / seconds(_work, plain, script, steps))
        rates["cartpole"].append(steps / seconds(_push, cartpole, steps))
        rates["html"].append(few / seconds(_work, html, script, few))
        rates["parse"].append(few / seconds(_parse, pages, few))
        rates["snapshot"].append(few / seconds(_snapshots, plain.unwrapped, few))
        with ProcessPoolExecutor(_PROCESSES) as pool:
            list(pool.map(_warm, [script] * _PROCESSES))
            alone = seconds(_work, plain, script, steps)
            together = seconds(_both, pool, script, steps)
        rates["two"].append(_PROCESSES * alone / together)
    yield Measurement("bpm.steps_per_s", tuple(rates["plain"]), "steps/s")
    yield Measurement("bpm.ratio_cartpole", _ratios(rates, "plain", "cartpole"), "x the rate of CartPole-v1")
    yield Measurement("bpm.html_steps_per_s", tuple(rates["html"]), "steps/s, state read from the rendered page")
    yield Measurement("bpm.html_ratio_parse_only", _ratios(rates, "html", "parse"), "x the rate of parsing alone")
    yield Measurement("bpm.two_processes", tuple(rates["two"]), "x the steps of one process")
    yield Measurement("bpm.memory_mb_per_env", (_memory(script),), "MB")
    yield Measurement("bpm.snapshots_per_s", tuple(rates["snapshot"]), "snapshots taken and restored/s")
    yield Measurement("bpm.generate_10k_sessions_s", (_generate(sessions) * SESSIONS / sessions,), "s, with the store")
    yield Measurement("CartPole-v1", tuple(rates["cartpole"]), "steps/s", written=False)
    yield Measurement("parsing alone", tuple(rates["parse"]), "pages/s", written=False)


def expert_script(cases: int) -> Script:
    """Return the actions of an expert on the cases with the first seeds."""
    from handrail.agents.operators.expert import Expert
    from handrail.envs.bpm.env import BPMEnv

    env, expert = BPMEnv(domain=DOMAIN), Expert()
    script: Script = []
    for seed in range(cases):
        env.reset(seed=seed)
        actions: list[Action] = []
        ended = False
        while not ended:
            actions.append(expert.act(env.world))
            _, _, terminated, truncated, _ = env.step(actions[-1])
            ended = terminated or truncated
        script.append((seed, actions))
    return script


def _work(env: gymnasium.Env[Any, Any], script: Script, steps: int) -> None:
    left = steps
    while True:
        for seed, actions in script:
            env.reset(seed=seed)
            for action in actions:
                env.step(action)
                left -= 1
                if not left:
                    return


def _push(env: gymnasium.Env[Any, Any], steps: int) -> None:
    env.reset(seed=0)
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()


def _pages(script: Script) -> list[str]:
    from handrail.envs.bpm.env import BPMEnv

    env = BPMEnv(domain=DOMAIN, render_mode="html")
    found = []
    for seed, actions in script:
        env.reset(seed=seed)
        for action in actions[:-1]:
            env.step(action)
            found.append(str(env.render()))
    return found


def _parse(pages: Sequence[str], count: int) -> None:
    from selectolax.lexbor import LexborHTMLParser

    for number in range(count):
        LexborHTMLParser(pages[number % len(pages)])


def _snapshots(env: Any, count: int) -> None:
    env.reset(seed=0)
    for _ in range(count):
        env.restore(env.snapshot())


def _made() -> gymnasium.Env[Any, Any]:
    register_envs()
    return gymnasium.make("handrail/BPM-v0", domain=DOMAIN)


def _warm(script: Script) -> None:
    _work(_made(), script, 200)


def _half(script: Script, steps: int) -> None:
    _work(_made(), script, steps)


def _both(pool: ProcessPoolExecutor, script: Script, steps: int) -> None:
    for future in [pool.submit(_half, script, steps) for _ in range(_PROCESSES)]:
        future.result()


def _memory(script: Script) -> float:
    """Return the memory an environment takes in the middle of a case, in MB, what all share left out."""
    _work(_made(), script, 200)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        envs = [_made() for _ in range(_ENVS)]
        for env, (seed, actions) in zip(envs, script, strict=False):
            env.reset(seed=seed)
            for action in actions[: len(actions) // 2]:
                env.step(action)
        return (tracemalloc.get_traced_memory()[0] - before) / _ENVS / 1e6
    finally:
        tracemalloc.stop()


def _generate(sessions: int) -> float:
    from handrail.agents.simulate import simulate_store

    with tempfile.TemporaryDirectory() as scratch:
        return seconds(simulate_store, Path(scratch) / "sessions.parquet", DOMAIN, sessions, 0, _PROCESSES)


def _ratios(rates: dict[str, list[float]], first: str, second: str) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(rates[first], rates[second], strict=True))
