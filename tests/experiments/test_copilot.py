"""`handrail copilot` as a person meets it, and what it stores of what they typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from omegaconf import OmegaConf
from toys import random_sessions, tiny_policy

from handrail.agents.desk import Desk
from handrail.agents.operators.expert import Expert
from handrail.agents.operators.terminal import Console, TerminalSeat
from handrail.agents.simulate import causes, simulate_store
from handrail.agents.spelling import spelled
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.errors import HandrailError
from handrail.envs.logs import store as stores
from handrail.envs.logs.store import load_sessions
from handrail.envs.schema import Action, Feedback, Session
from handrail.experiments.copilot import Sitting, Store, _busiest, main
from handrail.experiments.rundir import RunDirectory

DETOUR = Action("send_reply", "ask_identity_again")


class Keys:
    """Stands for stdin: lines to type; an exception in their place is raised."""

    def __init__(self, lines: Iterable[str | BaseException]) -> None:
        self._lines: Iterator[str | BaseException] = iter(lines)

    def readline(self) -> str:
        line = next(self._lines, "")
        if isinstance(line, BaseException):
            raise line
        return line + "\n" if line != "" else ""


Typed = Callable[..., int]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Runs the command with keys."""

    def run(keys: Iterable[str | BaseException], *argv: str) -> int:
        monkeypatch.setattr(sys, "stdin", Keys(keys))
        return main([*argv])

    return run


def replayed(session: Session, seed: int) -> Iterator[tuple[BPMEnv, Any, Any]]:
    """Yield each step with the environment and observation before it, worked again from the case's seed."""
    env = BPMEnv("mock")
    observation, _ = env.reset(seed=seed)
    assert env.world.case.id == session.id
    env.actor = "operator"
    for step in session.steps:
        assert step.state == observation.state
        assert step.events == observation.events
        yield env, observation, step
        env.note(step.feedback)
        observation, *_ = env.step(step.action)


def test_a_whole_session_is_stored_as_it_was_typed(
    typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accept, correct the second suggestion, then accept to the end; the copilot is never wrong."""
    out = tmp_path / "new" / "verdicts.parquet"
    keys = ["a", "c", "r", "ask_identity_again", *["a"] * 100]
    assert typed(keys, "domain=mock", "show=all", "error=0", "seed=3", "sessions=1", f"out={out}", "operator=ann") == 0
    (session,) = load_sessions(out)
    assert (session.operator, session.source, session.tags["completion"]) == ("ann", "bpm.mock", "closed")
    assert session.outcome["wall_seconds"] >= 0
    assert {step.actor for step in session.steps} == {"operator"}
    gated = []
    for env, _, step in replayed(session, 3):
        suggestion = Expert().act(env.world)
        if env.world.critical(suggestion):
            gated.append(step.index)
        if step.index == 1:
            assert step.action == DETOUR
            assert step.feedback == Feedback(suggestion, "reject", DETOUR, source="simulated")
        else:
            assert step.action == suggestion
            assert step.feedback == Feedback(suggestion, "accept", source="simulated")
    assert session.hidden["critical_suggestions"] == gated
    assert session.hidden["causes"] == {"1": "acceptable"}
    assert len(gated) >= 2
    accepted = len(session.steps) - 1
    printed = capsys.readouterr().out
    assert f"{accepted + 1} suggestions: {accepted} accepted, 1 corrected" in " ".join(printed.split())
    assert "1 session added, 1 in all" in printed


def test_at_steps_that_are_not_critical_the_person_chooses() -> None:
    """They type the expert's actions as `ID` or `ID=VALUE`; the second critical suggestion is wrong and corrected."""
    env = BPMEnv("mock")
    wrong = Action("click", "close:refused")
    spoilt: list[int] = []

    class Wrong:
        name, domain = "wrong", "mock"

        def begin(self, seed: int) -> None:
            self.critical = 0

        def suggest(self, env: BPMEnv, observation: Any) -> Action:
            meant = Expert().act(env.world)
            self.critical += env.world.critical(meant)
            if self.critical == 2 and not spoilt:
                spoilt.append(observation.index)
                return wrong
            return meant

    asked: list[str] = []

    def read(prompt: str) -> str:
        meant = Expert().act(env.world)
        step = len(env.session().steps)
        if env.world.critical(meant) and step not in spoilt:
            asked.append("a")
        else:
            value = "".join(f"={value}" for value in meant.args.values())
            asked.append(f"{meant.target}{value}")
        return asked[-1]

    seat = TerminalSeat("ann", "wrong", Console(read, lambda line: None, 100))
    sitting = Sitting(env, seat, Wrong())
    sitting.work(3)
    session = sitting.session()
    assert sitting.over
    assert session.outcome["success"]
    assert len(asked) == len(session.steps)
    for step in session.steps:
        if step.index in spoilt:
            assert step.feedback == Feedback(wrong, "reject", step.action, source="wrong")
        elif step.critical:
            assert step.feedback == Feedback(step.action, "accept", source="wrong")
        else:
            assert step.feedback is None
    assert causes(session) == {spoilt[0]: "model_error"}
    judged = [step.index for step in session.steps if step.feedback is not None]
    assert session.hidden["critical_suggestions"] == judged
    assert 2 <= len(judged) < len(session.steps)


def test_a_store_is_continued_with_cases_it_does_not_hold(
    typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verdicts.parquet"
    options = ["domain=mock", "show=all", f"out={out}"]
    assert typed([*["a"] * 2, "q"], *options) == 0
    first = load_sessions(out)
    assert [session.tags["completion"] for session in first] == ["open"]
    assert "you left it after 2 steps" in capsys.readouterr().out
    assert typed([*["a"] * 3, "q"], *options) == 0
    both = load_sessions(out)
    assert both[:1] == first
    assert [len(session.steps) for session in both] == [2, 3]
    env = BPMEnv("mock")
    for seed, session in enumerate(both):
        env.reset(seed=seed)
        assert session.id == env.world.case.id


def test_the_same_keys_make_the_same_sessions(typed: Typed, tmp_path: Path) -> None:
    stored = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.parquet"
        assert typed(["a"] * 100, "domain=mock", "show=all", "error=0.5", "sessions=1", f"out={out}") == 0
        (session,) = load_sessions(out)
        stored.append((session.steps, session.hidden))
    assert stored[0] == stored[1]


@pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt(), 130), ("q", 0)], ids=["ctrl-c", "q"])
def test_leaving_in_the_middle_keeps_everything(
    end: str | BaseException, status: int, typed: Typed, tmp_path: Path
) -> None:
    """The first session is worked to its end, the second is left at its third step; the mock's cases take under 40."""
    out = tmp_path / "verdicts.parquet"
    options = ["domain=mock", "show=all", "error=0", f"out={out}"]
    assert typed(["a"] * 100, *options, "sessions=1") == 0
    (whole,) = load_sessions(out)
    out.unlink()
    keys = [*["a"] * len(whole.steps), " ", "a", "a", end]
    assert typed(keys, *options) == status
    finished, left = load_sessions(out)
    assert (finished.steps, finished.tags["completion"]) == (whole.steps, "closed")
    assert (len(left.steps), left.tags["completion"]) == (2, "open")
    assert [step.feedback.verdict for step in left.steps if step.feedback] == ["accept", "accept"]


def test_leaving_before_the_first_step_writes_nothing(typed: Typed, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.parquet"
    assert typed(["q"], "domain=mock", "show=all", f"out={out}") == 0
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_a_session_is_being_stored(
    when: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C once, before the store is written or right after: the session is in it, and only once."""
    out = tmp_path / "verdicts.parquet"
    enter, leave = stores.SessionWriter.__enter__, stores.SessionWriter.__exit__
    struck: list[int] = []

    def before(self: Any) -> Any:
        if not struck:
            struck.append(1)
            raise KeyboardInterrupt
        return enter(self)

    def after(self: Any, *error: Any) -> None:
        leave(self, *error)
        if not struck:
            struck.append(1)
            raise KeyboardInterrupt

    if when == "before":
        monkeypatch.setattr(stores.SessionWriter, "__enter__", before)
    else:
        monkeypatch.setattr(stores.SessionWriter, "__exit__", after)
    assert typed(["a"] * 100, "domain=mock", "show=all", f"out={out}") == 130
    (session,) = load_sessions(out)
    assert session.tags["completion"] == "closed"


def test_a_terminated_process_stores_the_open_session(tmp_path: Path) -> None:
    out = tmp_path / "verdicts.parquet"
    code = "import sys\nfrom handrail.experiments.copilot import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-u", "-c", code, "domain=mock", "show=all", f"out={out}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("a\na\n")
        process.stdin.flush()
        for line in process.stdout:
            if " step 2 " in line:
                break
        os.kill(process.pid, signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 130
    (session,) = load_sessions(out)
    assert (len(session.steps), session.tags["completion"]) == (2, "open")


def test_what_cannot_be_continued_is_refused_before_any_work(typed: Typed, tmp_path: Path) -> None:
    other = simulate_store(tmp_path / "simulated.parquet", "mock", 2, seed=0)
    table = tmp_path / "text.parquet"
    table.write_text("no store")
    for out, says in [
        (other, "holds sessions of bpm.mock, and these would be of bpm.bank"),
        (table, "text.parquet"),
        (tmp_path / "verdicts.csv", "ends in .parquet"),
        (table / "below.parquet", "cannot be written"),
    ]:
        with pytest.raises(HandrailError, match=says):
            Store(out, "bpm.bank")
    assert Store(other, "bpm.mock").held == 2


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("sessions=0", "expected at least 1"),
        ("seed=-1", "expected at least 0"),
        ("error=1.5", "a share from 0 to 1"),
        ("show=most", "one of critical, all"),
        ("domain=bonk", "bank"),
        ("issues=renew", "renew_loan"),
        ("policy=nowhere", "not a run directory"),
    ],
)
def test_wrong_options(argument: str, says: str, typed: Typed, tmp_path: Path) -> None:
    given = [argument, f"out={tmp_path / 'out.parquet'}"]
    if argument.startswith("issues"):
        given.append("domain=mock")
    with pytest.raises(HandrailError, match=says):
        typed([], *given)


def test_error_is_of_the_stand_in(typed: Typed, tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match="error= is of the stand-in"):
        typed([], "error=0.2", f"policy={tmp_path}")


def test_a_trained_policy_suggests(typed: Typed, tmp_path: Path) -> None:
    """Three steps of an untrained policy: what is stored is what its desk says in these states, spelled."""
    policy = tiny_policy(random_sessions(0, 20))
    config = OmegaConf.create({"domain": "mock", "constrained": True, "copied": False, "seed": 0})
    run = RunDirectory.create(tmp_path / "toy" / "run", config, [])
    policy.save(run.checkpoints / "policy")
    out = tmp_path / "verdicts.parquet"
    assert typed(["a", "a", "a", "q"], f"policy={run.path}", "show=all", f"out={out}") == 0
    (session,) = load_sessions(out)
    assert session.source == "bpm.mock"
    assert len(session.steps) == 3
    desk: Desk = Desk(policy)
    for _, observation, step in replayed(session, 0):
        expected = spelled(desk.suggest({0: observation})[0].action, observation)
        assert step.feedback == Feedback(expected, "accept", source="toy/run")
        assert step.action == expected


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from handrail.experiments.copilot import main
try:
    main(["--help"])
finally:
    heavy = {"pyarrow", "torch", "pandas", "omegaconf", "yaml"} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "policy=" in done.stdout


def test_the_policy_follows_who_worked_most_sessions(tmp_path: Path) -> None:
    """Ann has more steps, Bob more sessions; a run without a log of its own follows nobody."""
    assert _busiest(tmp_path) == ""
    long, *short = random_sessions(0, 1, steps=9) + random_sessions(1, 2, steps=2)
    with stores.SessionWriter(tmp_path / "sessions.parquet") as writer:
        writer.write(msgspec.structs.replace(long, id="long", operator="ann"))
        for number, session in enumerate(short):
            writer.write(msgspec.structs.replace(session, id=f"short-{number}", operator="bob"))
    assert _busiest(tmp_path) == "bob"
