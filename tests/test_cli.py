"""The `handrail` command: names, messages, exit statuses, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import handrail
from handrail import cli
from handrail.envs.errors import HandrailError

HEAVY = {"torch", "transformers", "trl", "matplotlib", "sklearn", "ray", "wandb", "pandas"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    program = f"{code}\nimport sys\nprint('modules:', *(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import handrail",
        "import handrail.cli; handrail.cli.main(['--help'])",
        "import handrail.cli; handrail.cli.main(['--version'])",
        "import handrail.envs.schema, handrail.envs.files, handrail.envs.registry",
        "import handrail.experiments.run, handrail.experiments.options, handrail.experiments.rundir",
    ],
)
def test_heavy_libraries_are_imported_late(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


@pytest.mark.parametrize("command", sorted(set(cli.available()) - {"run"}))
def test_help_of_data_commands_stays_light(command: str) -> None:
    code = f"import handrail.cli\ntry:\n    handrail.cli.main(['{command}', '--help'])\nexcept SystemExit:\n    pass"
    assert modules_after(code) & (HEAVY - {"pandas"}) == set()


def test_help_lists_the_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if f"\n  {name} " in out] == list(cli.available())
    assert "run" in cli.available()


def test_a_command_without_a_module_is_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "nonesuch", cli.Command("never built"))
    assert "nonesuch" not in cli.available()
    assert cli.main(["nonesuch"]) == 2
    assert "unknown command 'nonesuch'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"handrail {handrail.__version__}\n"


def test_a_mistyped_command_answers_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rnu", "experiment=star"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unknown command 'rnu'; did you mean run" in captured.err
    assert captured.err.count("\n") == 1


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for `handrail.experiments.run` and its `main`."""
    module = ModuleType("handrail.experiments.run")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "available", lambda: cli.COMMANDS)
    return module


@pytest.mark.parametrize("debug", [False, True])
def test_a_users_mistake_is_one_message(
    fake_run: ModuleType, debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise HandrailError(f"no such thing as {argv}")

    fake_run.main = fail  # type: ignore[attr-defined]
    monkeypatch.setenv("HANDRAIL_DEBUG", "1" if debug else "")
    assert cli.main(["run", "a=1"]) == 2
    err = capsys.readouterr().err
    assert err.endswith("handrail: no such thing as ['a=1']\n")
    assert ("Traceback" in err) == debug


def test_other_errors_are_not_hidden(fake_run: ModuleType) -> None:
    def fail(argv: list[str]) -> int:
        raise RuntimeError("a bug")

    fake_run.main = fail  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run"])


def test_an_interruption_exits_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    module = ModuleType("handrail.experiments.ingest")
    module.main = interrupt  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "available", lambda: cli.COMMANDS)
    assert cli.main(["ingest"]) == 130
    assert "interrupted; to go on, run the same command again" in capsys.readouterr().err


def test_the_exit_status_of_a_command_is_passed_on(fake_run: ModuleType) -> None:
    fake_run.main = lambda argv: len(argv)  # type: ignore[attr-defined]
    assert cli.main(["run", "a", "b", "c"]) == 3


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("handrail")
    if not script.exists():
        pytest.skip("handrail is not installed in this environment")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"handrail {handrail.__version__}\n"
