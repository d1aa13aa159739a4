"""The `handrail` command: finds the sub-command and hands over; everything heavy is imported by the sub-command."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from handrail import __version__
from handrail.envs.errors import HandrailError, nearest


class Command(NamedTuple):
    """A sub-command, served by `main(argv) -> exit status` of the module `handrail.experiments.<name>`.

    Attributes:
        help: what it does, in one line.
        resume: how to go on after an interruption; empty if the command says so itself or simply starts again.
    """

    help: str
    resume: str = ""


COMMANDS = {
    "run": Command("run a study: handrail run experiment=NAME [overrides]"),
    "evaluate": Command("evaluate a finished run on other sessions: handrail evaluate run=DIR data.path=DIR"),
    "compare": Command("many runs or sweeps in one table and one figure: handrail compare DIR…"),
    "tune": Command("search hyperparameters: handrail tune experiment=NAME tune.space.KEY=VALUES", "give resume=DIR"),
    "curves": Command("coverage-precision curves and certificates for a table of scores"),
    "ingest": Command("raw logs to a store: handrail ingest source=NAME path=… out=FILE", "run the same command again"),
    "score": Command("a finished run's policy and critics on a store of any size", "run the same command again"),
    "copilot": Command("work simulated cases yourself, with a copilot's suggestions: handrail copilot domain=bank"),
    "bench": Command("measure speed and memory as ratios against alternatives"),
}


def available() -> dict[str, Command]:
    """Return the sub-commands whose module is installed."""
    return {
        name: command
        for name, command in COMMANDS.items()
        if importlib.util.find_spec(f"handrail.experiments.{name}") is not None
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: the arguments after the program's name; those of this process if None.

    Returns:
        0 on success, 2 for a mistake of the user (told in one message on stderr; with HANDRAIL_DEBUG=1 the traceback
        is shown as well), 130 if interrupted, else what the sub-command returns.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = available()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(commands))
        return 0
    if arguments[0] == "--version":
        print(f"handrail {__version__}")
        return 0
    name, *rest = arguments
    try:
        if name not in commands:
            raise HandrailError(f"unknown command {name!r}{nearest(name, commands)} (see `handrail --help`)")
        status: int = importlib.import_module(f"handrail.experiments.{name}").main(rest)
    except HandrailError as error:
        if os.environ.get("HANDRAIL_DEBUG"):
            traceback.print_exc()
        print(f"handrail: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume = commands[name].resume
        print("handrail: interrupted" + (f"; to go on, {resume}" if resume else ""), file=sys.stderr)
        return 130
    return status


def _help(commands: dict[str, Command]) -> str:
    lines = [f"  {name:<10}{command.help}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: handrail COMMAND [key=value …]",
            "",
            "Selective autonomy for language models on business-process platforms.",
            "",
            "commands:",
            *lines,
            "",
            "`handrail COMMAND --help` tells the options of a command. HANDRAIL_DATA names the folder with the data.",
        ]
    )
