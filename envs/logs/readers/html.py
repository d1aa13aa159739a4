"""Raw logs of work in a browser (`handrail.envs.logs.html_log` says what they hold) as sessions.

What an operator did on a page is one of seven actions, by what the element is:

| event | on | action |
|---|---|---|
| `click` | a link | `navigate`, target = link |
| | a tab | `open_procedure`, target = tab |
| | a table row | `select_item`, target = table, args = item |
| | a button | `click`, target = button |
| | a reply template | `send_reply`, target = template |
| `change` | an input | `set_field`, target = input, args = value |
| `submit` | the message box | `send_message`, target = box, args = text |
| `call` | anything | as it says |

Other events (focus, keys, clicks into inputs, submits that follow the click on a button) do nothing of their own; they
are counted in `Reader.counts` under `ignored_EVENT`. A step is critical if its event had an effect outside the screen.
The state of a step is read from the newest snapshot (`handrail.envs.logs.pages`), so it holds what was on the page and
nothing else. A session is quarantined if an event names an element that is not on the page (`unknown_element`), comes
before any snapshot (`no_snapshot`), or one of its lines is damaged (`corrupt_json`).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec

from handrail.envs.bpm.html import INPUTS
from handrail.envs.errors import HandrailError
from handrail.envs.logs.html_log import (
    CLICKS,
    SUFFIXES,
    CaseRecord,
    ChatRecord,
    CopilotRecord,
    DraftRecord,
    EventRecord,
    PasteRecord,
    Record,
    ResultRecord,
    SnapshotRecord,
    TruthRecord,
    open_log,
)
from handrail.envs.logs.pages import Page, parse, read_page
from handrail.envs.schema import Action, Event, Feedback, Message, Problem, Provenance, Result, Session, Step

__all__ = ["Reader", "parse"]

PAGES = 512
"""Pages whose state is remembered: cases begin on the same ones."""


class Reader:
    """Reads a folder of `*.jsonl`, `*.jsonl.gz` and `*.jsonl.zst` files.

    Args:
        path: the folder, or one file.

    Attributes:
        counts: events that did nothing, by name.

    Raises:
        HandrailError: there is no such file.
    """

    name: ClassVar[str] = "html"

    def __init__(self, path: Path) -> None:
        path = Path(path)
        files = [path] if path.is_file() else sorted(path.iterdir())
        self._files = [file for file in files if file.name.endswith(SUFFIXES) and not file.name.startswith(".")]
        if not self._files:
            raise HandrailError(f"no log of pages under {path}: expected {', '.join('*' + name for name in SUFFIXES)}")
        self.counts: Counter[str] = Counter()
        self._read = functools.lru_cache(PAGES)(read_page)

    def units(self) -> list[Path]:
        """Return the files, sorted by name."""
        return list(self._files)

    def read(self, unit: Path) -> Iterator[Session | Problem]:
        """Yield the problems of one file's lines, then its sessions, each with its problems, in order of their start.

        A file is held in memory, since its sessions may interleave.
        """
        try:
            content = open_log(unit)
        except OSError as error:
            yield Problem(unit.name, "", -1, "unreadable_file", str(error)[:200], True)
            return
        sessions: dict[str, list[Record]] = {}
        damaged: set[str] = set()
        for number, line in enumerate(content.split(b"\n")):
            if not line.strip():
                continue
            try:
                record = _DECODER.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                session = _session_of(line)
                damaged.add(session)
                yield Problem(unit.name, session, -1, "corrupt_json", f"line {number + 1}: {error}"[:200], True)
            else:
                sessions.setdefault(record.session, []).append(record)
        for session, lines in sessions.items():
            if session not in damaged:
                yield self._session(session, lines, unit.name)

    def _session(self, name: str, lines: list[Record], file: str) -> Session | Problem:
        case = CaseRecord(session=name, issue="unknown", operator="")
        truth = TruthRecord(session=name)
        steps: list[Step] = []
        events: list[Event] = []
        drafts: list[Message] = []
        provenance: dict[str, Provenance] = {}
        feedback: Feedback | None = None
        page: Page | None = None
        for record in lines:
            match record:
                case EventRecord():
                    if page is None:
                        return Problem(file, name, len(steps), "no_snapshot", record.element[:200], True)
                    action = _action(record, page)
                    if isinstance(action, str):
                        return Problem(file, name, len(steps), "unknown_element", action[:200], True)
                    if action is None:
                        self.counts[f"ignored_{record.event}"] += 1
                        continue
                    steps.append(
                        Step(
                            len(steps),
                            page.state,
                            tuple(events),
                            action,
                            record.actor,
                            record.time,
                            record.effect,
                            feedback,
                            tuple(drafts),
                            provenance,
                        )
                    )
                    events, drafts, provenance, feedback = [], [], {}, None
                case SnapshotRecord():
                    page = self._read(record.page, record.url)
                case ChatRecord():
                    events.append(Message(record.role, record.text, record.time))
                case ResultRecord():
                    events.append(Result(record.source, record.item, record.total, record.time))
                case CopilotRecord():
                    feedback = record.feedback
                case DraftRecord():
                    drafts.append(Message(record.role, record.text, record.time))
                case PasteRecord():
                    provenance = record.provenance
                case CaseRecord():
                    case = record
                case TruthRecord():
                    truth = record
        return Session(
            id=name,
            source=case.source or self.name,
            issue=case.issue,
            operator=case.operator,
            brief=case.brief,
            steps=tuple(steps),
            tail=tuple(events),
            tags=case.tags,
            outcome=truth.outcome,
            hidden=truth.hidden,
            file=file,
        )


class _Named(msgspec.Struct):
    session: str = ""


_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_NAMED = msgspec.json.Decoder(_Named)


def _session_of(line: bytes) -> str:
    """Return the session of a line that is no record, as far as it can be told."""
    try:
        return _NAMED.decode(line).session
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _action(record: EventRecord, page: Page) -> Action | str | None:
    """Return what an event does, `None` if it does nothing, or the name of its element if the page lacks it."""
    event = record.event
    if event == "call":
        return Action(record.tool, record.target, record.args)
    if event not in ("click", "change", "submit"):
        return None
    element = page.find(record.element)
    if element is None:
        # Clicks beside all controls are part of every log; what was typed or sent somewhere is not to be lost.
        return None if event != "change" and not page.exact else record.element
    kind, target = element.kind, element.target
    if event == "click":
        if kind in CLICKS:
            return Action(CLICKS[kind], target)
        return Action("select_item", target, {"item": element.item}) if kind == "table" else None
    if event == "submit":
        return Action("send_message", target, {"text": record.value}) if kind == "message_box" else None
    if kind in INPUTS:
        return Action("set_field", target, {"value": record.value if element.item is None else element.item})
    return None
