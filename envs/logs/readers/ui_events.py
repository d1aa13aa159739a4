"""Logs of low-level UI events (browser, spreadsheet, clipboard) as sessions of filling forms.

Made for `StudentRecord.csv` of volodymyrLeno/RPM_Segmentator and logs of its kind; column and event names are options.

| rows | action | critical |
|---|---|---|
| a cell is selected | `select_cell`, target = workbook/sheet, args = cell | no |
| a field is clicked, pasted into, edited | one `set_field`, target = field, args = resulting value | no |
| a submit button is clicked | `submit_form`, target = form, args = its field values | yes |
| another button is clicked | `press_button`, target = button | no |
| a link is clicked | `navigate`, target = link | no |

Rows are put in order of time first: loggers write the spreadsheet's events late. A session ends with a submission, or
before a navigation once a field was set. What was copied and pasted is the provenance of a field's value, also
when the operator reformatted it after pasting.

A state shows what was known before its action, whatever the log says later: the controls of a page are those met on it
earlier in the same file; the page is the one of the latest action or, after a submission, the one that followed earlier
submissions; a field's value is the one last set in the session. So the first use of each control is a
`target_not_on_screen` in the validation report.

Every row of a file is counted once, in `Reader.counts` under `row_…` or as a Problem whose rule begins with `row_`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import urljoin, urlsplit

from handrail.envs.errors import HandrailError, nearest
from handrail.envs.normalize import normalize_text
from handrail.envs.schema import (
    Action,
    Arg,
    Control,
    ControlKind,
    Event,
    Problem,
    Provenance,
    Result,
    Session,
    Step,
    UIState,
)

COLUMNS: dict[str, str | None] = {
    "time": "timeStamp",
    "user": "userID",
    "event": "eventType",
    "url": "url",
    "content": "content",
    "workbook": "target.workbookName",
    "sheet": "target.sheetName",
    "id": "target.id",
    "type": "target.type",
    "name": "target.name",
    "value": "target.value",
    "text": "target.innerText",
    "checked": "target.checked",
    "href": "target.href",
}
"""Column of each property, by default; `None` for a property that the log does not have."""

EVENTS: dict[str, tuple[str, ...]] = {
    "read_cell": ("getCell",),
    "copy": ("copy",),
    "focus": ("clickTextField", "clickCheckbox"),
    "paste": ("paste",),
    "edit": ("editField",),
    "press": ("clickButton",),
    "follow": ("clickLink",),
}
"""Event types of each kind, by default."""

_FIELD_ROLES = frozenset({"focus", "paste", "edit"})
_CHECKABLE = frozenset({"checkbox", "radio"})
_KINDS: dict[str, ControlKind] = {"checkbox": "checkbox", "radio": "checkbox", "number": "number", "select": "select"}


class Reader:
    """Reads CSV files of UI events.

    Args:
        path: a CSV file, a folder of them, or the folder that holds it as `ui_logs/`.
        columns: names of columns that differ from `COLUMNS`.
        events: event types of kinds that differ from `EVENTS`.

    Attributes:
        counts: what became of the rows, and oddities, by name.

    Raises:
        HandrailError: there is no CSV file, or an option names no property or kind.
    """

    name: ClassVar[str] = "ui_events"

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str | None] | None = None,
        events: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        path = Path(path)
        folder = path / "ui_logs" if (path / "ui_logs").is_dir() else path
        self._files = [folder] if folder.is_file() else sorted(folder.glob("*.csv"))
        if not self._files:
            raise HandrailError(f"no UI event log under {path}: expected *.csv there or in its folder ui_logs/")
        for option, given, known in (("columns", columns, COLUMNS), ("events", events, EVENTS)):
            for name in given or {}:
                if name not in known:
                    raise HandrailError(f"source ui_events: {option} has no entry {name!r}{nearest(name, known)}")
        self._columns = {**COLUMNS, **(columns or {})}
        self._kinds = {kind: role for role, kinds in {**EVENTS, **(events or {})}.items() for kind in kinds}
        self.counts: Counter[str] = Counter()

    def units(self) -> list[Path]:
        """Return the CSV files, sorted by name."""
        return list(self._files)

    def read(self, unit: Path) -> Iterator[Session | Problem]:
        """Yield the problems of one file's rows, then its sessions, user by user.

        A file is held in memory, since its rows have to be sorted.
        """
        try:
            with unit.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.DictReader(file)
                missing = [c for c in self._columns.values() if c is not None and c not in (lines.fieldnames or ())]
                if missing:
                    hint = nearest(missing[0], lines.fieldnames or ())
                    yield Problem(unit.name, "", -1, "missing_key", f"no column {', '.join(missing)}{hint}"[:200], True)
                    return
                table = list(lines)
        except (OSError, UnicodeDecodeError) as error:
            yield Problem(unit.name, "", -1, "unreadable_file", str(error)[:200], True)
            return
        except csv.Error as error:
            yield Problem(unit.name, "", -1, "corrupt_csv", str(error)[:200], True)
            return
        rows: list[_Row] = []
        for number, cells in enumerate(table):
            row = self._row(number, cells, unit.name)
            if isinstance(row, Problem):
                yield row
            else:
                rows.append(row)
        self.counts["reordered"] += sum(b.time < a.time for a, b in pairwise(rows))
        by_user = _by_user(sorted(rows, key=lambda row: row.time))
        for user, events in by_user.items():
            prefix = unit.stem if len(by_user) == 1 else f"{unit.stem}-{user}"
            yield from _Walk(user, prefix, unit.name, self.counts).sessions(events)

    def _row(self, number: int, cells: dict[str, str], file: str) -> _Row | Problem:
        def cell(name: str) -> str:
            column = self._columns[name]
            return (cells.get(column) or "") if column is not None else ""

        if None in cells or None in cells.values():
            return Problem(file, "", number, "row_malformed", str(list(cells.values()))[:200], False)
        role = self._kinds.get(cell("event"))
        if role is None:
            return Problem(file, "", number, "row_unknown_event", cell("event")[:200], False)
        try:
            time = datetime.fromisoformat(cell("time"))
        except ValueError:
            return Problem(file, "", number, "row_without_time", cell("time")[:200], False)
        target = cell("id") or cell("name") or cell("text").strip() or cell("href")
        if not target and role != "copy":
            return Problem(file, "", number, "row_without_target", cell("event"), False)
        checkable = cell("type") in _CHECKABLE
        return _Row(
            role=role,
            time=(time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp(),
            user=cell("user"),
            page=_page(cell("url")),
            content=cell("content"),
            sheet="/".join(filter(None, (cell("workbook"), cell("sheet")))) or "sheet",
            target=target,
            type=cell("type"),
            label=cell("text").strip() or cell("name"),
            value=(cell("checked").lower() == "true") if checkable else cell("value"),
            href=_page(urljoin(cell("url"), cell("href"))) if cell("href") else "",
        )


class _Row(NamedTuple):
    role: str
    time: float
    user: str
    page: str
    content: str
    sheet: str
    target: str
    type: str
    label: str
    value: str | bool
    href: str


class _Copy:
    """Something on the clipboard."""

    __slots__ = ("pasted", "provenance")

    def __init__(self, provenance: Provenance) -> None:
        self.provenance, self.pasted = provenance, False


def _page(url: str) -> str:
    """Return the address without scheme, query and fragment: the same page, whatever it was asked."""
    parts = urlsplit(url)
    return (parts.netloc + parts.path).rstrip("/")


def _form(page: str) -> str:
    return page.rsplit("/", 1)[-1]


def _by_user(rows: list[_Row]) -> dict[str, list[_Row]]:
    """Split rows by user; a row without one (the clipboard's) goes to the user of the row before it."""
    user = next((row.user for row in rows if row.user), "")
    users: dict[str, list[_Row]] = {}
    for row in rows:
        user = row.user or user
        users.setdefault(user, []).append(row)
    return users


class _Desk:
    """What an observer of the log has learned so far: pages, sheets, and where links and submissions lead."""

    def __init__(self) -> None:
        self._inputs: dict[str, dict[str, Control]] = {}
        self._forms: dict[str, Control] = {}
        self._sheets: dict[str, Control] = {}
        self._followers: dict[tuple[str, str], str] = {}
        self._left: tuple[str, str] | None = None
        self._screens: dict[str, tuple[Control, ...]] = {}
        self.page = ""

    def controls(self) -> tuple[Control, ...]:
        """Return what can be acted on: the sheets, and the page that is open as far as known."""
        if self.page not in self._screens:
            inputs = tuple(self._inputs.get(self.page, {}).values())
            form = self._forms.get(self.page)
            fields = tuple(control for control in inputs if control.kind not in ("button", "link"))
            forms = () if form is None else (Control(form.id, "form", label=form.label, fields=fields),)
            self._screens[self.page] = (*self._sheets.values(), *inputs, *forms)
        return self._screens[self.page]

    def learn_sheet(self, sheet: str) -> None:
        if sheet not in self._sheets:
            self._sheets[sheet] = Control(sheet, "table", label=sheet)
            self._screens.clear()

    def learn(self, page: str, control: Control) -> None:
        """Take up that `control` is on `page`, which is open now."""
        if page != self.page:
            if self._left is not None:
                self._followers[self._left] = page
            self.page = page
        self._left = None
        if control.kind == "form":
            place = self._forms
            key = page
        else:
            place = self._inputs.setdefault(page, {})
            key = control.id
        if key not in place:
            place[key] = control
            self._screens.pop(page, None)

    def leave(self, page: str, target: str, href: str = "") -> None:
        """Take up that `target` on `page` was used, which leads to `href`, or to where it led before."""
        self._left = (page, target)
        self.page = href or self._followers.get(self._left, page)


class _Walk:
    """Turns the rows of one user, in order of time, into sessions."""

    def __init__(self, user: str, prefix: str, file: str, counts: Counter[str]) -> None:
        self.user, self.prefix, self.file, self.counts = user, prefix, file, counts
        self.number = 0
        self.desk = _Desk()
        self.screen = ""
        self.selected: dict[str, str] | None = None
        self.cells: dict[str, str] = {}
        self.copies: list[_Copy] = []
        self.clipboard: dict[str, _Copy] = {}
        self.steps: list[Step] = []
        self.events: list[Event] = []
        self.values: dict[str, Arg] = {}
        self.issue = ""
        # Rows on one field that are not an action yet.
        self.group: list[_Row] = []

    def sessions(self, rows: list[_Row]) -> Iterator[Session]:
        for row in rows:
            if row.role == "copy":
                self._copy(row)
                continue
            if self.group and not self._continues(row):
                self._close_group()
            if row.role in _FIELD_ROLES:
                self.group.append(row)
            elif row.role == "read_cell":
                self._read_cell(row)
            elif row.role == "press" and row.type == "submit":
                self._submit(row)
                yield self._session("submitted")
            elif row.role == "press":
                self._act(row, Action("press_button", row.target), "button")
                self.counts["row_press_button"] += 1
            else:
                if self.values:
                    yield self._session("left")
                self._act(row, Action("navigate", row.target), "link")
                self._leave(row.page, row.target, row.href)
                self.counts["row_navigate"] += 1
        if self.group:
            self._close_group()
        if self.steps:
            yield self._session("end_of_log")
        pasted = sum(copy.pasted for copy in self.copies)
        self.counts["row_copy_pasted"] += pasted
        self.counts["row_copy_never_pasted"] += len(self.copies) - pasted

    def _continues(self, row: _Row) -> bool:
        first = self.group[0]
        return row.role in _FIELD_ROLES and (row.page, row.target) == (first.page, first.target)

    def _copy(self, row: _Row) -> None:
        if not row.content:
            # Ctrl+C with nothing selected: the clipboard keeps what it has.
            self.counts["row_copy_of_nothing"] += 1
            return
        key = normalize_text(row.content)
        source = self.cells.get(key, "")
        if row.target:
            source = f"{row.page}#{row.target}"
        elif not source and self.selected is not None and key in normalize_text(self.selected["value"]):
            source = self.cells[normalize_text(self.selected["value"])]
        copy = _Copy(Provenance(source, row.content, row.time))
        self.copies.append(copy)
        self.clipboard[key] = copy

    def _read_cell(self, row: _Row) -> None:
        value = str(row.value)
        self._step(row, Action("select_cell", row.sheet, {"cell": row.target}))
        self.desk.learn_sheet(row.sheet)
        self.screen = row.sheet
        self.selected = {"cell": row.target, "value": value}
        self.events.append(Result(row.sheet, dict(self.selected), None, row.time))
        self.cells[normalize_text(value)] = f"{row.sheet}!{row.target}"
        self.counts["row_select_cell"] += 1

    def _close_group(self) -> None:
        group, self.group = self.group, []
        roles = Counter(row.role for row in group)
        if not roles["edit"]:
            # A paste that was undone, or a click without a change, leaves the form as it was.
            self.counts["row_paste_undone"] += roles["paste"]
            self.counts["row_focus_without_edit"] += roles["focus"]
            return
        self.counts["row_set_field"] += 1
        self.counts["row_edit_merged"] += roles["edit"] - 1
        self.counts["row_paste_merged"] += roles["paste"]
        self.counts["row_focus_merged"] += roles["focus"]
        last = [row for row in group if row.role == "edit"][-1]
        provenance: dict[str, Provenance] = {}
        for row in group:
            if row.role == "paste":
                provenance["value"] = self._origin(row)
        action = Action("set_field", last.target, {"value": last.value})
        self._act(last, action, _KINDS.get(last.type, "text"), provenance)
        self.values[last.target] = last.value

    def _origin(self, paste: _Row) -> Provenance:
        copy = self.clipboard.get(normalize_text(paste.content))
        if copy is None:
            self.counts["paste_of_unknown_origin"] += 1
            return Provenance("", paste.content)
        copy.pasted = True
        return copy.provenance

    def _submit(self, row: _Row) -> None:
        form = _form(row.page)
        self._step(row, Action("submit_form", form, dict(self.values)), critical=True)
        self.desk.learn(row.page, Control(form, "form", label=row.label))
        self._leave(row.page, form)
        self.issue = form
        self.counts["row_submit_form"] += 1

    def _act(
        self, row: _Row, action: Action, kind: ControlKind, provenance: dict[str, Provenance] | None = None
    ) -> None:
        self._step(row, action, provenance=provenance)
        self.desk.learn(row.page, Control(row.target, kind, label=row.label))
        self.screen, self.issue = row.page, _form(row.page)

    def _leave(self, page: str, target: str, href: str = "") -> None:
        self.desk.leave(page, target, href)
        self.screen = self.desk.page

    def _step(
        self, row: _Row, action: Action, critical: bool = False, provenance: dict[str, Provenance] | None = None
    ) -> None:
        self.steps.append(
            Step(
                index=len(self.steps),
                state=UIState(self.screen, None, self.desk.controls(), dict(self.values), self.selected),
                events=tuple(self.events),
                action=action,
                time=row.time,
                critical=critical,
                provenance=provenance or {},
            )
        )
        self.events = []

    def _session(self, completion: str) -> Session:
        self.number += 1
        session = Session(
            id=f"{self.prefix}-{self.number:05d}",
            source=Reader.name,
            issue=self.issue or "spreadsheet",
            operator=self.user,
            steps=tuple(self.steps),
            tail=tuple(self.events),
            tags={"completion": completion},
            file=self.file,
        )
        self.steps, self.events, self.values, self.issue = [], [], {}, ""
        return session
