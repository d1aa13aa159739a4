"""The copilot loop: what is learned of whom, what is kept, and that a killed loop ends as one that was not."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from toys import tiny_policy

from handrail.agents.operators.human import Person
from handrail.agents.operators.seat import Seat, Staff, crew_staff
from handrail.agents.operators.verdicts import Review
from handrail.agents.policy import Policy
from handrail.agents.queries import Gated, Mixture
from handrail.agents.rollout import Episode
from handrail.agents.rules import Alone, Copilot
from handrail.agents.simulate import simulate
from handrail.algorithms import sft
from handrail.algorithms.config import DaggerConfig, PreferenceConfig, SFTConfig, TrainingConfig
from handrail.algorithms.dagger import RULES, Deployed, Loop, Round, Simulator, policy_of, round_rule, session_metrics
from handrail.algorithms.preference import encode_pairs
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Feedback, Session, Step, UIState

PEOPLE = (Person("ann"), Person("bob", seed=1))
TRAINING = TrainingConfig(epochs=1.0, token_budget=600, learning_rate=1e-2, bf16=False, save_steps=2)
CONFIG = DaggerConfig(rounds=2, sessions=4, part=2, replay=0.3, sft=SFTConfig(TRAINING, corrected_weight=3.0))
EVENTS = 114
"""What happens in a loop of this configuration that a kill can fall between."""


@dataclass(frozen=True)
class Start:
    """What loops begin with."""

    policy: Path
    base: list[Session]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    base = list(simulate("mock", 10, seed=0, operators=PEOPLE))
    folder = tmp_path_factory.mktemp("start") / "policy"
    tiny_policy(base, layers=1).save(folder)
    return Start(folder, base)


def simulator(staff: Staff | None = None) -> Simulator:
    return Simulator(lambda: BPMEnv("mock", max_steps=12), staff or crew_staff(PEOPLE), first_seed=100, slots=4)


def answer(policy: Policy, number: int) -> dict[str, float]:
    return {"answer": 42.0 + number}


def loop(start: Start, folder: Path, config: DaggerConfig = CONFIG, collect: Any = None) -> Loop:
    return Loop(folder, config, start.policy, start.base, collect or simulator(), answer)


def left(folder: Path) -> dict[str, bytes]:
    """The files that count: sessions, metrics and weights of each round."""
    names = ("sessions.parquet", "metrics.json", "policy/model.safetensors", "policy/tokenizer.json")
    found = {str(p.relative_to(folder)): p.read_bytes() for name in names for p in folder.glob(f"round_*/{name}")}
    assert len(found) == len(names) * CONFIG.rounds
    return found


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    loop(start, folder).run()
    return folder


# ---- kills ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of the process, wherever it is."""


class Fuse:
    """Counts what happens in a loop, and kills it at one of these events.

    Events lie before and after each file or folder gets its name, each folder is removed and each batch is learned,
    and at each session. A dead process tidies nothing up.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None) -> None:
        self.at = at
        self.events: list[str] = []
        for where, name in ((os, "replace"), (shutil, "rmtree"), (sft, "token_loss")):
            patch.setattr(where, name, self._around(getattr(where, name), name))
        unlink = Path.unlink
        patch.setattr(Path, "unlink", lambda *a, **k: None if len(self.events) == self.at else unlink(*a, **k))

    def tick(self, event: str) -> None:
        self.events.append(event)
        if len(self.events) == self.at:
            raise Killed(event)

    def _around(self, function: Any, name: str) -> Any:
        def around(*args: Any, **kwargs: Any) -> Any:
            what = f"{name} {Path(args[1]).name}" if name == "replace" else name
            self.tick(f"before {what}")
            result = function(*args, **kwargs)
            self.tick(f"after {what}")
            return result

        return around

    def collect(self, deployed: Deployed, numbers: range) -> Iterator[Session]:
        for session in simulator()(deployed, numbers):
            self.tick("session")
            yield session


def work(start: Start, folder: Path, at: int | None) -> list[str]:
    """Run a loop up to its event `at`, or to its end, and return what happened."""
    with pytest.MonkeyPatch.context() as patch:
        fuse = Fuse(patch, at)
        try:
            loop(start, folder, collect=fuse.collect).run()
        except Killed:
            assert len(fuse.events) == at
    return fuse.events


def killed_and_resumed(start: Start, whole: Path, folder: Path, at: int) -> None:
    assert len(work(start, folder, at)) == at
    loop(start, folder).run()
    assert left(folder) == left(whole)
    assert not [p for name in ("collected", "training", "policy.partial") for p in folder.glob(f"round_*/{name}")]


def test_kills_can_fall_into_every_stage(start: Start, whole: Path, tmp_path: Path) -> None:
    events = work(start, tmp_path, None)
    assert len(events) == EVENTS
    for what in ("session", "before token_loss", "after replace policy", "before replace metrics.json"):
        assert events.count(what) >= CONFIG.rounds
    # Starting anew in another folder is no resuming: the same seed gives the same bytes.
    assert left(tmp_path) == left(whole)


@pytest.mark.parametrize("at", [8, 26, 71])
def test_a_killed_loop_ends_as_one_that_was_not(start: Start, whole: Path, tmp_path: Path, at: int) -> None:
    """In the middle of collecting, of training, and of the second round."""
    killed_and_resumed(start, whole, tmp_path, at)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, EVENTS + 1, 4))
def test_wherever_it_is_killed(start: Start, whole: Path, tmp_path: Path, at: int) -> None:
    killed_and_resumed(start, whole, tmp_path, at)


@pytest.mark.slow
def test_a_loop_that_is_killed_again_and_again_gets_there(start: Start, whole: Path, tmp_path: Path) -> None:
    lives = 1
    while len(work(start, tmp_path, 17)) == 17:
        lives += 1
        assert lives < 30
    assert lives >= EVENTS // 17
    assert left(tmp_path) == left(whole)


def test_a_finished_loop_does_nothing_more(start: Start, whole: Path) -> None:
    before = left(whole)
    stamps = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    loop(start, whole).run()
    assert left(whole) == before
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == stamps


def test_more_rounds_may_follow(start: Start, whole: Path, tmp_path: Path) -> None:
    loop(start, tmp_path, dataclasses.replace(CONFIG, rounds=1)).run()
    loop(start, tmp_path).run()
    assert left(tmp_path) == left(whole)


def test_another_loop_is_not_gone_on_with(start: Start, whole: Path) -> None:
    other = dataclasses.replace(CONFIG, replay=0.9)
    with pytest.raises(HandrailError, match=r"was started with replay=0\.3, now it is 0\.9"):
        loop(start, whole, other).run()
    with pytest.raises(HandrailError, match="was started with base="):
        loop(dataclasses.replace(start, base=start.base[:-1]), whole).run()


# ---- what is learned ----------------------------------------------------------------------------------------------


class Witness:
    """A seat that writes down what the operator did or said at each step."""

    def __init__(self, seat: Seat, book: dict[tuple[str, int], Action]) -> None:
        self.seat, self.book, self.name = seat, book, seat.name

    def _write(self, env: BPMEnv, action: Action) -> Action:
        session = env.session()
        key = session.id, len(session.steps)
        assert key not in self.book
        self.book[key] = action
        return action

    def act(self, env: BPMEnv) -> Action:
        return self._write(env, self.seat.act(env))

    def label(self, env: BPMEnv) -> Action:
        return self._write(env, self.seat.label(env))

    def review(self, env: BPMEnv, suggestion: Action) -> Review:
        review = self.seat.review(env, suggestion)
        self._write(env, review.action)
        return review

    def passed(self, action: Action) -> None:
        self.seat.passed(action)

    def truth(self) -> dict[str, Any]:
        return self.seat.truth()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_what_is_learned_is_the_operators(start: Start, tmp_path: Path, rule: str) -> None:
    """Whoever acted: every action that is learned is what the operator did or said there, and all of that is learned.

    What is stored of a step that the operator did or reviewed is theirs as well.
    """
    book: dict[tuple[str, int], Action] = {}

    def staff(episode: Episode) -> Witness:
        return Witness(crew_staff(PEOPLE)(episode), book)

    config = dataclasses.replace(CONFIG, rule=rule, replay=0.0)
    rounds = loop(start, tmp_path, config, simulator(staff)).run()
    policy = Policy.load(start.policy)
    learned: dict[tuple[str, int], list[int]] = {}
    expected: dict[tuple[str, int], list[int]] = {}
    actors = set()
    for session in (session for one in rounds for session in one.sessions):
        for item in sft.encode_sessions(policy, [session]):
            for step, (first, last) in item.actions.items():
                assert (session.id, step) not in learned
                learned[session.id, step] = item.ids[first:last].tolist()
        for step in session.steps:
            actors.add(step.actor)
            said = book.get((session.id, step.index))
            if step.actor == "operator":
                assert step.action == said
            if said is not None:
                expected[session.id, step.index] = tokens(policy, step, said)
    assert learned == expected
    assert set(book) == set(expected)
    assert actors == {"alone": {"operator"}, "copilot": {"operator"}}.get(rule, {"operator", "policy"})


def tokens(policy: Policy, step: Step, action: Action) -> list[int]:
    text = policy.transcript.action(msgspec.structs.replace(step, action=action)).text
    return policy.encoder.tokens(text)[1:]


def test_retraining_goes_on_from_the_last_weights(start: Start, tmp_path: Path) -> None:
    """With rates of 0 it ends where it began."""
    still = dataclasses.replace(TRAINING, learning_rate=0.0, matrix_learning_rate=0.0)
    config = dataclasses.replace(CONFIG, sft=SFTConfig(still))
    last = loop(start, tmp_path, config).run()[-1]
    before, after = (Policy.load(folder).model.state_dict() for folder in (start.policy, last.policy))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_corrections_can_be_preferred_besides(start: Start, whole: Path, tmp_path: Path) -> None:
    preferring = dataclasses.replace(CONFIG, rounds=1, preference=PreferenceConfig(TRAINING))
    [one] = loop(start, tmp_path / "loop", preferring).run()
    made = one.stages["retrain"]
    assert made["pairs"] == len(encode_pairs(policy_of(one.policy), one.sessions)) > 0
    assert made["preferred"] >= made["preferred_before"]
    plain = policy_of(whole / "round_000" / "policy").model.state_dict()
    assert any(not torch.equal(plain[name], value) for name, value in policy_of(one.policy).model.state_dict().items())


def test_a_round_learns_from_all_before_and_a_share_of_the_base(start: Start, whole: Path) -> None:
    finished = loop(start, whole)
    first, second = finished.rounds
    base = {session.id for session in start.base}
    for number, collected in ((0, first.sessions), (1, first.sessions + second.sessions)):
        found = finished.aggregated(number)
        assert found[3:] == collected
        assert len({session.id for session in found[:3]} & base) == 3
    assert finished.aggregated(0)[:3] != finished.aggregated(1)[:3]
    assert second.metrics["train.sessions"] == 3 + 8
    assert second.metrics["answer"] == 43


# ---- rules --------------------------------------------------------------------------------------------------------


def test_rules_are_made_round_by_round(whole: Path) -> None:
    earlier = [Round(whole / "round_000", 0).sessions]

    def made(rule: str, number: int, **options: Any) -> Any:
        return round_rule(DaggerConfig(rule=rule, options=options))(number, earlier[:number])

    assert made("alone", 0) == Alone()
    assert made("copilot", 1, everywhere=False) == Copilot(everywhere=False)
    assert [made("dagger", n, decay=0.5) for n in (0, 1)] == [Mixture(0.5), Mixture(0.25)]
    assert made("gated", 0) == Copilot()
    gate = made("gated", 1, share=0.4, budget=2)
    assert isinstance(gate, Gated)
    assert gate.budget == 2


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("copliot", {}, "did you mean copilot"),
        ("gated", {"shar": 0.1}, r"has no option dagger\.options\.shar; did you mean share"),
    ],
)
def test_rules_nobody_knows_are_told_at_once(
    start: Start, tmp_path: Path, rule: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HandrailError, match=message):
        loop(start, tmp_path, DaggerConfig(rule=rule, options=options))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"sessions": 0}, {"part": 0}, {"replay": 1.1}, {"replay": -0.1}])
def test_impossible_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HandrailError, match=f"dagger.{next(iter(wrong))}"):
        DaggerConfig(**wrong)


def test_a_round_that_yields_too_few_sessions_is_told_and_can_go_on(start: Start, whole: Path, tmp_path: Path) -> None:
    def lazy(deployed: Deployed, numbers: range) -> Iterator[Session]:
        yield from simulator()(deployed, numbers if numbers.start == 0 else numbers[:1])

    with pytest.raises(HandrailError, match="round 0: 1 sessions came of 2 cases"):
        loop(start, tmp_path, collect=lazy).run()
    loop(start, tmp_path).run()
    assert left(tmp_path) == left(whole)


# ---- metrics ------------------------------------------------------------------------------------------------------


def test_the_metrics_of_sessions_by_hand() -> None:
    go, stay = Action("navigate", "there"), Action("navigate", "here")
    accepted, rejected = Feedback(go, "accept"), Feedback(stay, "reject", go)
    given: list[tuple[Any, Feedback | None]] = [
        ("operator", accepted),
        ("operator", rejected),
        ("policy", None),
        ("policy", Feedback(go, "reject", stay)),
        ("operator", None),
    ]
    state = UIState("desk", None)
    steps = tuple(Step(n, state, (), go, actor, feedback=said) for n, (actor, said) in enumerate(given))
    one = Session(
        "a",
        "toy",
        "i",
        "ann",
        steps=steps,
        outcome={"success": True, "active_seconds": 10.0},
        hidden={"critical_suggestions": [1]},
    )
    two = Session("b", "toy", "i", "ann", steps=steps[2:3], outcome={"success": False, "active_seconds": 4.0})
    assert session_metrics([one, two]) == pytest.approx(
        {
            "sessions": 2,
            "steps": 6,
            "labels": 4,
            "corrections": 2,
            "operator_share": 3 / 6,
            "interventions": (2 + 0) / 2,
            "accepted_share": 1 / 2,
            "critical_accepted_share": 0,
            "success_rate": 0.5,
            "active_seconds": 7,
        }
    )
    assert session_metrics([]) == {"sessions": 0, "steps": 0, "labels": 0, "corrections": 0}
