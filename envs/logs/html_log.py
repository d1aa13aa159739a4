"""Raw logs of a desk in a browser: snapshots of pages, what was clicked and typed, the chat, and case metadata.

A log is a folder of files of JSON lines: `*.jsonl.zst`, `*.jsonl.gz` or `*.jsonl`. Each line is a record of a session;
those of one session lie in one file, in order, though sessions may interleave. Kinds of record (key `record`):

| record | holds | where an enterprise has it |
|---|---|---|
| `case` | `issue`, `operator`, `brief`, `source`, `tags` | the case system |
| `snapshot` | `page`: the HTML before the next event, if it differs from the session's last; `url` | a page recorder |
| `event` | `time`, `actor`, `event`, `element`, `value`; `effect`: whether it reached beyond the screen | a page \
recorder, the audit trail |
| `chat` | `time`, `role`, `text` | the chat system |
| `result` | `time`, `source`, `item`, `total`: what the back end answered | its log |
| `copilot` | the suggestion shown for the next event, and its verdict | the copilot |
| `draft` | text typed before the next event and not sent | the chat system |
| `paste` | where the next event's values were copied from | a clipboard logger |
| `truth` | `outcome`, `hidden`: what a simulator or questionnaire knows and no operator saw | beside the log |

Events are `click`, `change` (with the resulting value), `submit` (of a written message) and `call`: an action that no
control on the page could produce, such as an automation's wrong guess, with `tool`, `target` and `args`. `element` is
the `id` of the element, or `@NUMBER` for the element that the snapshot marks with `data-rec="NUMBER"`.

`HtmlLogWriter` writes sessions so; `handrail ingest source=html` reads them back. What a log does not hold: `file` of a
session (the reader names the file of the log), and U+0000 in texts on the screen. A session without a `case` gets the
issue `unknown`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow as pa

from handrail.envs.bpm.html import INPUTS, PLAIN, Captions, element_id, render, row_id, stylesheet
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_text
from handrail.envs.schema import (
    Action,
    Actor,
    Arg,
    Control,
    ControlKind,
    Event,
    Feedback,
    Provenance,
    Result,
    Role,
    Session,
    Step,
    UIState,
)

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""Names of files that belong to a log end so."""

SESSIONS_PER_FILE = 64


class _Record(msgspec.Struct, frozen=True, tag_field="record", omit_defaults=True, kw_only=True):
    session: str


class CaseRecord(_Record, tag="case", frozen=True, kw_only=True):
    """What the case system knows of a session."""

    issue: str
    operator: str
    brief: str = ""
    source: str = ""
    tags: dict[str, str] = {}


class SnapshotRecord(_Record, tag="snapshot", frozen=True, kw_only=True):
    """The page from here on."""

    page: str
    url: str = ""


class EventRecord(_Record, tag="event", frozen=True, kw_only=True):
    """Something done on the page. `tool`, `target` and `args` are those of a `call`."""

    event: str
    element: str = ""
    value: Arg = None
    actor: Actor = "operator"
    time: float | None = None
    effect: bool = False
    tool: str = ""
    target: str = ""
    args: dict[str, Arg] = {}


class ChatRecord(_Record, tag="chat", frozen=True, kw_only=True):
    """A message that was sent or received."""

    role: Role
    text: str
    time: float | None = None


class ResultRecord(_Record, tag="result", frozen=True, kw_only=True):
    """An answer of the back end."""

    source: str
    item: dict[str, Any] | None
    total: int | None = None
    time: float | None = None


class CopilotRecord(_Record, tag="copilot", frozen=True, kw_only=True):
    """The suggestion for the next event, and what became of it."""

    feedback: Feedback


class DraftRecord(_Record, tag="draft", frozen=True, kw_only=True):
    """Text typed and not sent."""

    text: str
    role: Role = "operator"
    time: float | None = None


class PasteRecord(_Record, tag="paste", frozen=True, kw_only=True):
    """Where arguments of the next event were copied from."""

    provenance: dict[str, Provenance]


class TruthRecord(_Record, tag="truth", frozen=True, kw_only=True):
    """What no operator saw."""

    outcome: dict[str, Any] = {}
    hidden: dict[str, Any] = {}


Record = (
    CaseRecord
    | SnapshotRecord
    | EventRecord
    | ChatRecord
    | ResultRecord
    | CopilotRecord
    | DraftRecord
    | PasteRecord
    | TruthRecord
)
"""A line of a log."""

_encode = msgspec.json.Encoder().encode


class HtmlLogWriter:
    """Writes sessions as a raw log.

    The folder appears under its name only when the `with` block ends without an error.

    Args:
        folder: where the log goes; it must not be there yet, or be empty.
        captions: headings of the pages, see `handrail.envs.bpm.html.captions`.
        sessions_per_file: >= 1.

    Attributes:
        sessions: number of sessions written.

    Raises:
        HandrailError: the folder is not empty.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        captions: Captions = PLAIN,
        sessions_per_file: int = SESSIONS_PER_FILE,
    ) -> None:
        if sessions_per_file < 1:
            raise ValueError(f"sessions_per_file is {sessions_per_file}, expected at least 1")
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise HandrailError(f"{self.folder} is there already; remove it or name another folder for the log")
        self.sessions = 0
        self._captions = captions
        self._per_file = sessions_per_file
        self._temporary = self.folder.with_name(f".{self.folder.name}.unfinished")
        self._lines: list[bytes] = []
        self._in_file = self._files = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._temporary, ignore_errors=True)
        write_text(self._temporary / "desk.css", stylesheet())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                os.replace(self._temporary, self.folder)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def write(self, session: Session) -> None:
        """Append a session.

        Raises:
            HandrailError: it holds something that neither JSON nor HTML can express. Nothing of it is written then.
        """
        try:
            lines = [_encode(record) for record in records(session, self._captions)]
        except (UnicodeEncodeError, TypeError, ValueError) as error:
            raise HandrailError(f"session {session.id!r} cannot be logged: {error}") from None
        self._lines += lines
        self.sessions += 1
        self._in_file += 1
        if self._in_file == self._per_file:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            with (
                atomic_path(self._temporary / f"sessions_{self._files:06d}.jsonl.zst") as path,
                pa.CompressedOutputStream(str(path), "zstd") as file,
            ):
                file.write(b"\n".join(self._lines) + b"\n")
            self._files += 1
        self._lines.clear()
        self._in_file = 0


def write_html_log(
    sessions: Iterable[Session],
    folder: str | os.PathLike[str],
    captions: Captions = PLAIN,
    sessions_per_file: int = SESSIONS_PER_FILE,
) -> int:
    """Write sessions as a raw log; see `HtmlLogWriter`.

    Returns:
        The number of sessions.

    Raises:
        HandrailError: the folder is not empty, or a session cannot be expressed.
    """
    with HtmlLogWriter(folder, captions, sessions_per_file) as writer:
        for session in sessions:
            writer.write(session)
    return writer.sessions


def records(session: Session, captions: Captions = PLAIN) -> Iterator[Record]:
    """Yield the records of a session, in order."""
    name = session.id
    yield CaseRecord(
        session=name,
        issue=session.issue,
        operator=session.operator,
        brief=session.brief,
        source=session.source,
        tags=session.tags,
    )
    shown: UIState | None = None
    for step in session.steps:
        yield from (_said(name, event) for event in step.events)
        if shown is None or not _same(step.state, shown):
            # The chat is a window of its own, with a log of its own.
            yield SnapshotRecord(session=name, page=render(step.state, (), captions, linked=True))
            shown = step.state
        if step.feedback is not None:
            yield CopilotRecord(session=name, feedback=step.feedback)
        for draft in step.drafts:
            yield DraftRecord(session=name, text=draft.text, role=draft.role, time=draft.time)
        if step.provenance:
            yield PasteRecord(session=name, provenance=step.provenance)
        yield _event(name, step)
    yield from (_said(name, event) for event in session.tail)
    if session.outcome or session.hidden:
        yield TruthRecord(session=name, outcome=session.outcome, hidden=session.hidden)


def open_log(path: Path) -> bytes:
    """Return the content of a file of a log, decompressed.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    compression = {".zst": "zstd", ".gz": "gzip"}.get(path.suffix)
    with pa.input_stream(str(path), compression=compression) as file:
        content: bytes = file.read()
    return content


def _same(state: UIState, shown: UIState) -> bool:
    """Tell whether two states have one page. Comparing JSON tells `1` from `True`, as the page does."""
    return (
        state.controls is shown.controls
        and state.screen == shown.screen
        and state.procedure == shown.procedure
        and _encode(state.values) == _encode(shown.values)
        and _encode(state.selected) == _encode(shown.selected)
    )


def _said(session: str, event: Event) -> Record:
    if isinstance(event, Result):
        return ResultRecord(session=session, source=event.source, item=event.item, total=event.total, time=event.time)
    return ChatRecord(session=session, role=event.role, text=event.text, time=event.time)


CLICKS: dict[ControlKind, str] = {
    "link": "navigate",
    "tab": "open_procedure",
    "button": "click",
    "template": "send_reply",
}
"""Kind of control -> what a click on it does."""


def _event(session: str, step: Step) -> EventRecord:
    action, actor, time, effect = step.action, step.actor, step.time, step.critical

    def done(event: str, element: str, value: Arg = None) -> EventRecord:
        return EventRecord(
            session=session, event=event, element=element, value=value, actor=actor, time=time, effect=effect
        )

    control = _control_of(action, step.state.controls)
    if control is not None:
        if control.kind == "table":
            return done("click", row_id(control.id, str(action.args["item"])))
        element = element_id(control.kind, control.id)
        if control.kind in INPUTS:
            return done("change", element, action.args["value"])
        if control.kind == "message_box":
            return done("submit", element, action.args["text"])
        return done("click", element)
    return EventRecord(
        session=session,
        event="call",
        actor=actor,
        time=time,
        effect=effect,
        tool=action.tool,
        target=action.target,
        args=action.args,
    )


_TOOLS: dict[ControlKind, str] = {
    **CLICKS,
    **dict.fromkeys(INPUTS, "set_field"),
    "table": "select_item",
    "message_box": "send_message",
}
_NAMES: dict[str, tuple[str, ...]] = {
    "navigate": (),
    "open_procedure": (),
    "click": (),
    "send_reply": (),
    "select_item": ("item",),
    "set_field": ("value",),
    "send_message": ("text",),
}


def _control_of(action: Action, controls: tuple[Control, ...]) -> Control | None:
    """Return the control whose use in a browser is this action; `None` if there is none."""
    if "\0" in action.target or _NAMES.get(action.tool) != tuple(action.args):
        return None
    for control in controls:
        if control.id == action.target and control.enabled and _TOOLS.get(control.kind) == action.tool:
            if control.kind == "table":
                item = action.args["item"]
                return control if type(item) is str and item in control.options and "\0" not in item else None
            return control if control.kind != "message_box" or type(action.args["text"]) is str else None
    return None
