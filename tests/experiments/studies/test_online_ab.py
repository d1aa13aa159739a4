"""The staged deployment on the small desk: from nothing to three arms, and nothing lost wherever it is stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from handrail import cli
from handrail.agents.critic import feedback_verdicts, true_cause
from handrail.agents.policy import Policy
from handrail.envs.logs.store import load_sessions
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import online_ab

SMALL = [
    "domain=mock",
    "simulate.sessions=80",
    "simulate.workers=1",
    "data.splits={train: 0.7, feedback: 0.1, calibration: 0.1, test: 0.1}",
    "policy.hidden_size=16",
    "policy.layers=1",
    "policy.heads=2",
    "policy.vocab_size=500",
    "dagger.sessions=8",
    "dagger.part=4",
    "feedback.sessions=60",
    "gate.alpha=0.3",
    "critic=[probe]",
    "certify.method=probe",
    "critic.probe.inverse_regularisation=[0.01]",
    "confidence=[margin]",
    "closed_loop.cases=4",
    "online.cases=8",
    "threads=1",
]

STAGES = (
    "simulate",
    "train_policy",
    "loop",
    "judge_policy",
    "work_alone",
    "collect_feedback",
    "fit_feedback_critics",
    "certify",
)
"""Methods of the study before which a run is stopped; parts of the arms come on top."""


def command(folder: Path, *more: str) -> list[str]:
    changed = {one.split("=")[0] for one in more}
    given = [one for one in SMALL if one.split("=")[0] not in changed]
    return ["run", "experiment=online_ab", *given, *more, f"hydra.run.dir={folder}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("online") / "run"
    assert cli.main(command(folder)) == 0
    return RunDirectory.open(folder)


def test_every_arm_works_the_same_cases_with_the_same_people(finished: RunDirectory) -> None:
    arms = {path.stem: load_sessions(path) for path in finished.file(online_ab.ARMS).glob("*.parquet")}
    assert set(arms) == {"human", "copilot", "selective", "selective_margin"}
    met = {name: [(s.id, s.operator) for s in sessions] for name, sessions in arms.items()}
    assert len(met["human"]) == 8
    assert all(cases == met["human"] for cases in met.values())
    assert all(step.feedback is None for s in arms["human"] for step in s.steps)
    assert all(step.actor == "operator" for s in arms["copilot"] for step in s.steps)


def test_the_contracts_metrics_are_there(finished: RunDirectory) -> None:
    metrics = finished.metrics
    for arm in ("human", "copilot", "selective"):
        for name in (
            "sessions",
            "automation_rate",
            "aat_seconds",
            "success_rate",
            "violation_rate",
            "interventions_per_session",
        ):
            assert f"online.{arm}.{name}" in metrics
    assert metrics["online.human.automation_rate"] == 0
    assert metrics["online.human.interventions_per_session"] == 1
    for key in ("policy.action_accuracy", "baseline.backoff.action_accuracy", "experts.agreement"):
        assert 0 <= metrics[key] <= 1
    assert metrics["closed_loop.expert.success_rate"] == 1


def test_critics_learn_what_a_second_look_at_first_rejections_left(finished: RunDirectory) -> None:
    first = []
    for session in load_sessions(finished.file(online_ab.FEEDBACK)):
        judged = [case for case in feedback_verdicts([session]) if not case.accepted]
        first += [true_cause(judged[0])] if judged else []
    assert finished.metrics["second_look.rejected"] == len(first) > 0
    assert finished.metrics["second_look.right"] == len(first) - first.count("model_error")


def test_thresholds_come_from_sessions_no_critic_learned_from(finished: RunDirectory) -> None:
    rows = pd.read_parquet(finished.file("decisions.parquet"))
    learned, adjudicated = (
        {s.id for s in load_sessions(finished.file(name))} for name in (online_ab.FEEDBACK, online_ab.ADJUDICATED)
    )
    assert set(rows["session_id"]) <= adjudicated
    assert not learned & adjudicated
    assert (rows["correct"] == rows["right"]).all(), "adjudicators' verdicts are the truth"
    gates = json.loads(finished.file(online_ab.GATES).read_text())
    assert set(gates) == {"probe", "margin"}
    for method, gate in gates.items():
        if gate["shown"] is not None:
            shown = rows.loc[rows[f"score_{method}"] >= gate["shown"], "right"]
            assert shown.mean() >= 0.9


def test_the_report_opens_with_the_arms(finished: RunDirectory) -> None:
    page = finished.file("report.html").read_text()
    first = page.index("<section")
    assert page[first:].startswith('<section id="online"')
    assert "operators alone" in page


def test_a_lost_part_of_an_arm_is_worked_again_and_nothing_else(finished: RunDirectory) -> None:
    before = {name: finished.file(name).read_bytes() for name in ("metrics.json", "arms/selective.parquet")}
    stages = json.loads(finished.file("stages.json").read_text())
    del stages["online"]
    finished.file("stages.json").write_text(json.dumps(stages))
    (part,) = (finished.file("parts") / "selective").glob("*")
    part.unlink()
    assert cli.main(["run", "experiment=online_ab", f"resume={finished.path}"]) == 0
    assert {name: finished.file(name).read_bytes() for name in before} == before


@pytest.mark.parametrize(("alpha", "certified"), [(0.3, True), (0.01, False)])
def test_policies_critics_and_thresholds_can_be_those_of_single_issues(
    tmp_path: Path, alpha: float, certified: bool
) -> None:
    """With 24 adjudicated sessions 30 % in error can be certified and 1 % cannot: then all stays a copilot."""
    critics = "critic.by_issue={kind: probe, least: 15, least_rejected: 2}"
    chosen = ["critic=[by_issue]", critics, "certify.method=by_issue", "confidence=[]", "specialise.least=20"]
    given = command(tmp_path / "run", *chosen, "gate=per_issue", f"gate.alpha={alpha}")
    assert cli.main([one for one in given if not one.startswith("critic.probe")]) == 0
    run = RunDirectory.open(tmp_path / "run")
    issues = {session.issue for session in load_sessions(run.file("sessions.parquet"))}
    policy = Policy.load(run.checkpoints / "specialised")
    assert set(policy.own) == issues
    assert run.metrics["specialise.issues"] == len(issues) == 2
    written = run.checkpoints / "critic_feedback" / "by_issue" / "issues.json"
    assert set(json.loads(written.read_text())["folders"]) <= issues
    gate = json.loads(run.file(online_ab.GATES).read_text())["by_issue"]
    assert gate["pooled"] is None
    assert {threshold is not None for threshold in gate["thresholds"].values()} == {certified}
    steps = [step for session in load_sessions(run.file("arms/selective.parquet")) for step in session.steps]
    assert any(step.actor == "policy" for step in steps) == certified


@pytest.mark.slow
def test_parts_worked_by_two_processes_are_the_same(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    shutil.rmtree(folder / "parts")
    stages = json.loads((folder / "stages.json").read_text())
    for name in ("feedback", "critic", "certify", "online"):
        del stages[name]
    (folder / "stages.json").write_text(json.dumps(stages))
    config = (folder / "config.yaml").read_text()
    assert "  workers: null" in config
    (folder / "config.yaml").write_text(config.replace("  workers: null", "  workers: 2"))
    monkeypatch.setattr(online_ab, "_PART", 3)
    assert cli.main(["run", "experiment=online_ab", f"resume={folder}"]) == 0
    again = RunDirectory.open(folder)
    assert len(list((folder / "parts" / "selective").glob("*"))) == 3
    assert again.metrics == finished.metrics


def test_a_run_stopped_anywhere_ends_like_one_that_was_not(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve stops: before every stage, and in the middle of the feedback and of three arms."""
    folder = tmp_path / "run"
    hit: set[str] = set()

    def stopping(name: str, work: Any) -> Any:
        def once(self: Any, *args: Any) -> Any:
            key = f"{name} {args[0]}" if name == "play" else name
            if key not in hit:
                hit.add(key)
                raise KeyboardInterrupt
            return work(self, *args)

        return once

    for name in (*STAGES, "play"):
        monkeypatch.setattr(online_ab.Study, name, stopping(name, getattr(online_ab.Study, name)))
    status = cli.main(command(folder))
    stops = 0
    while status != 0:
        stops += 1
        assert stops < 20
        status = cli.main(["run", "experiment=online_ab", f"resume={folder}"])
    assert stops >= 12
    again = RunDirectory.open(folder)
    assert again.metrics == finished.metrics
    for arm in ("human", "copilot", "selective"):
        name = f"arms/{arm}.parquet"
        assert again.file(name).read_bytes() == finished.file(name).read_bytes()
