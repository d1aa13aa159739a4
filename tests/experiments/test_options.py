from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from handrail.envs.errors import HandrailError
from handrail.experiments.options import option, parse_options


@dataclass(frozen=True)
class Options:
    source: str = option(help="reader to use")
    data_path: Path = option(name="data.path", help="folder with the logs")
    limit: int | None = option(None, help="sessions to read")
    share: float = option(0.5, help="share of sessions, 0 to 1")
    strict: bool = option(False, help="stop at the first problem")
    order: Literal["id", "time"] = option("id", help="order of sessions")
    columns: tuple[str, ...] = option((), help="columns to keep")


REQUIRED = ["source=star", "data.path=d"]


def parse(*argv: str) -> Options:
    return parse_options(argv, Options, prog="handrail demo", description="Shows the parser at work.")


def test_values_take_the_type_of_their_field() -> None:
    options = parse(*REQUIRED, "limit=12", "share=1e-2", "strict=true", "order=time", "columns=a, b")
    assert options == Options("star", Path("d"), 12, 0.01, True, "time", ("a", "b"))


def test_defaults() -> None:
    assert parse(*REQUIRED) == Options("star", Path("d"), None, 0.5, False, "id", ())


def test_a_value_may_hold_an_equals_sign_and_null_is_none() -> None:
    assert parse("source=a=b", "data.path=d", "limit=null").source == "a=b"
    assert parse(*REQUIRED, "limit=null").limit is None


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse("source=a", "data.path=~/logs").data_path == Path("/home/someone/logs")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sorce=star"], "unknown option 'sorce'; did you mean source"),
        (["data_path=d"], "unknown option 'data_path'; did you mean data.path"),
        (["star"], "expected key=value, got 'star'"),
        (["source=a", "source=b"], "'source' is given twice"),
        (["source=a"], "data.path=… is missing"),
        ([*REQUIRED, "limit=many"], "limit='many' is not a whole number or null"),
        ([*REQUIRED, "limit=1.5"], "limit='1.5' is not a whole number or null"),
        ([*REQUIRED, "share=half"], "share='half' is not a number"),
        ([*REQUIRED, "strict=maybe"], "strict='maybe' is not true or false"),
        ([*REQUIRED, "order=size"], "order='size' is not one of id, time"),
        (["source=a", "data.path="], "data.path='' is not a path"),
    ],
)
def test_mistakes_name_the_option_the_value_and_what_was_expected(argv: list[str], message: str) -> None:
    with pytest.raises(HandrailError) as caught:
        parse(*argv)
    assert message in str(caught.value)
    assert "handrail demo" in str(caught.value)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_tells_every_option(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("nonsense", flag)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for text in ["Shows the parser", "source=…", "[limit=…]", "data.path", "folder with the logs", "required"]:
        assert text in out
    assert "(a number; default: 0.5)" in out
    assert "(a whole number or null; default: null)" in out
    assert "(one of id, time; default: id)" in " ".join(out.split())
