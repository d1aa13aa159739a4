"""The world behind the screen: it executes actions, changes back-end records, and lets the customer answer.

Everything that happens follows from the domain, the case, the options and the actions: what is drawn is drawn from a
source of chance that is seeded with the case.
"""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

import msgspec

from handrail.envs.bpm import effects, flow
from handrail.envs.bpm.case import Case
from handrail.envs.bpm.clock import Clock, ClockState, Seconds
from handrail.envs.bpm.customer import Acts, Customer, Options, State
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.draws import Chance
from handrail.envs.bpm.expressions import text_of
from handrail.envs.bpm.flow import Base, Done
from handrail.envs.bpm.ground import Ground
from handrail.envs.bpm.program import program
from handrail.envs.bpm.screen import CLOSE, MESSAGE, View, content, layout, listed_rows
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Event, Message, UIState, Verdict

Focus = tuple[tuple[str, int], ...]
"""Records in focus: type and id."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What an action led to.

    Attributes:
        events: messages it brought about: what was sent, and the customer's answer.
        error: why it was impossible; `None` if it was done.
        critical: whether the action has effects outside the screen.
        violations: ids of the rules that it broke.
        closed: whether the case is closed.
        time: when it was done, UTC seconds.
    """

    events: tuple[Event, ...]
    error: str | None
    critical: bool
    violations: tuple[str, ...]
    closed: bool
    time: float


class Snapshot(NamedTuple):
    """All that changes in a world. It is never changed itself, so it can be restored any number of times."""

    ground: Ground
    screen: str
    procedure: str | None
    fields: dict[str, Any]
    notice: str
    error: str
    selected: dict[str, Any] | None
    log: tuple[Done, ...]
    views: tuple[tuple[str, Focus, int], ...]
    known: frozenset[tuple[int, str]]
    added: dict[int, tuple[str, ...]]
    violations: tuple[str, ...]
    bases: tuple[Base, ...]
    outcome: str | None
    success: bool | None
    chance: int
    customer: State
    clock: ClockState


class World:
    """A desk with one case on it.

    Args:
        domain: of the desk.
        case: who writes, about what.
        options: how customers differ from the default ones.

    Attributes:
        domain: as given.
        case: as given.
        program: the domain, compiled.
        ground: records, focus, case file, what was said and how often things were done.
        screen: id of the screen.
        procedure: the procedure that is open, `None` at the start.
        fields: what was entered on this screen, by control id.
        log: what was done, as far as procedures look back on it.
        views: screens that were open, each with the records in focus then; in order.
        added: id of a record that was added -> the fields that the form set.
        violations: ids of rules that were broken, in order.
        bases: for each issue raised so far, how things were when it came up.
        opening: the customer's first messages.
        outcome: how the case was closed, `None` while it is open.
        success: whether it was closed as it should be, `None` while it is open.
        customer: who writes.
        clock: the time.
    """

    def __init__(self, domain: Domain, case: Case, options: Options | None = None) -> None:
        self.domain = domain
        self.case = case
        self.options = options or Options()
        self.program = program(domain)
        self.layout = layout(self.program)
        self.ground = case.ground(self.program)
        self.screen = domain.desk.home
        self.procedure: str | None = None
        self.fields: dict[str, Any] = {}
        self.notice = ""
        self.error = ""
        self.selected: dict[str, Any] | None = None
        self.log: list[Done] = []
        self.views: dict[tuple[str, Focus, int], None] = {}
        self._known: set[tuple[int, str]] = set()
        self.added: dict[int, tuple[str, ...]] = {}
        self.violations: list[str] = []
        self.bases: list[Base] = [Base(0, self.ground.copy(), {}, {})]
        self.outcome: str | None = None
        self.success: bool | None = None
        self.clock = Clock(Seconds.of(domain.desk.seconds), case.start, case.seed)
        self._chance = Chance(case.seed)
        self.customer = Customer(domain, case, self.options)
        self._view: View | None = None
        self._missing: dict[str | None, tuple[bool, ...]] = {}
        self._look()
        self.opening: tuple[Event, ...] = self._hear(self.customer.opening(self._chance))[0]

    @property
    def issue(self) -> str:
        """The issue at hand: the one raised last."""
        return self.case.matters[len(self.bases) - 1].issue

    def state(self) -> UIState:
        """Return the screen."""
        view = self._view
        if view is None:
            procedure = self.procedure
            missing = self._missing.get(procedure)
            if missing is None:
                missing = self._missing[procedure] = self.layout.missing(self.ground, procedure)
            view = self._view = self.layout.view(self.ground, self.screen, procedure, missing)
        values = view.values
        if self.fields:
            held = self.fields
            filled = {target: held[target] for target in self.layout.screens[self.screen].targets if target in held}
            values = {**view.shown, **filled, **view.case}
        elif self.notice or self.error:
            values = values.copy()
        if self.notice:
            values["notice"] = self.notice
        if self.error:
            values["error"] = self.error
        return UIState(self.screen, self.procedure, view.controls, values, self.selected)

    def critical(self, action: Action) -> bool:
        """Tell whether `action` has effects outside the screen: submitting critical forms, closing, most messages."""
        target = action.target
        match action.tool:
            case "click":
                form = self.program.forms.get(target)
                return target.startswith(CLOSE) or (form is not None and form.form.critical)
            case "send_reply":
                template = self.program.templates.get(target)
                return template is None or template.critical
            case "send_message":
                return True
        return False

    def knows(self, number: int, field: str) -> bool:
        """Tell whether a screen that was open showed the field of a record."""
        return (number, field) in self._known

    def do(self, action: Action, actor: str = "operator", verdict: Verdict | None = None) -> Outcome:
        """Execute `action`.

        An impossible action changes nothing but the clock and the error that the screen shows.

        Args:
            action: what is done.
            actor: who does it, `operator` or `policy`; matters for the time it takes.
            verdict: what the operator made of the suggestion that was shown, `None` if none was.

        Raises:
            HandrailError: the case is closed.
        """
        if self.outcome is not None:
            raise HandrailError(f"case {self.case.id} is closed ({self.outcome}); no action is possible any more")
        time = self.clock.act(action, "policy" if actor == "policy" else "operator", verdict)
        self.notice = self.error = ""
        broken = len(self.violations)
        try:
            events = self._execute(action)
        except _ImpossibleError as error:
            self.error = str(error)
            return Outcome((), self.error, self.critical(action), (), False, time)
        violations = tuple(self.violations[broken:])
        return Outcome(events, None, self.critical(action), violations, self.outcome is not None, time)

    def snapshot(self) -> Snapshot:
        """Return all that changes, for `restore`."""
        return Snapshot(
            self.ground.copy(),
            self.screen,
            self.procedure,
            self.fields.copy(),
            self.notice,
            self.error,
            self.selected,
            tuple(self.log),
            tuple(self.views),
            frozenset(self._known),
            self.added.copy(),
            tuple(self.violations),
            tuple(self.bases),
            self.outcome,
            self.success,
            self._chance.state,
            self.customer.snapshot(),
            self.clock.snapshot(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken: what follows is what would have followed then.

        Args:
            snapshot: of this world, or of another one with the same domain, case and options.
        """
        self.ground = snapshot.ground.copy()
        self.screen = snapshot.screen
        self.procedure = snapshot.procedure
        self.fields = snapshot.fields.copy()
        self.notice = snapshot.notice
        self.error = snapshot.error
        self.selected = snapshot.selected
        self.log = list(snapshot.log)
        self.views = dict.fromkeys(snapshot.views)
        self._known = set(snapshot.known)
        self.added = snapshot.added.copy()
        self.violations = list(snapshot.violations)
        self.bases = list(snapshot.bases)
        self.outcome = snapshot.outcome
        self.success = snapshot.success
        if self._chance.state != snapshot.chance:
            self._chance.state = snapshot.chance
        self.customer.restore(snapshot.customer)
        self.clock.restore(snapshot.clock)
        self._changed()

    def __getstate__(self) -> dict[str, Any]:
        return {"domain": self.domain, "case": self.case, "options": self.options, "snapshot": self.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        World.__init__(self, state["domain"], state["case"], state["options"])
        self.restore(state["snapshot"])

    def _execute(self, action: Action) -> tuple[Event, ...]:
        target = action.target
        match action.tool:
            case "set_field":
                self._set_field(target, action.args.get("value"))
            case "click":
                if target.startswith(CLOSE):
                    self._close(target)
                else:
                    self._submit(target)
                    return self._next_issue() if self.program.forms[target].changes else ()
            case "send_reply":
                return self._reply(target)
            case "navigate":
                self._navigate(target)
            case "select_item":
                self._select(target, action.args.get("item"))
            case "open_procedure":
                procedure = self.domain.procedures.get(target)
                if procedure is None or procedure.shared:
                    raise _ImpossibleError(f"There is no procedure {target!r}.")
                self.procedure = target
                self._view = None
            case "send_message":
                return self._message(target, action.args.get("text"))
            case _:
                raise _ImpossibleError(f"There is no tool {action.tool!r}.")
        return ()

    def _navigate(self, target: str) -> None:
        if target not in self.program.screens[self.screen].links:
            raise _ImpossibleError(f"There is no link {target!r} on this screen.")
        focus = self.ground.focus
        missing = [kind for kind in self.domain.screens[target].needs if kind not in focus]
        if missing:
            raise _ImpossibleError(f"{self.domain.screens[target].title} needs a {self._title(missing[0])}.")
        self._open(target)

    def _open(self, screen: str) -> None:
        self.screen = screen
        self.fields = {}
        self.selected = None
        self._view = None
        self._look()

    def _set_field(self, target: str, value: Any) -> None:
        form = self.program.forms.get(target.partition(".")[0])
        if form is None or form.screen != self.screen or target not in form.fields:
            raise _ImpossibleError(f"There is no field {target!r} on this screen.")
        field = form.fields[target].field
        try:
            held = content(field, value)
        except ValueError as error:
            raise _ImpossibleError(f"{field.label} {error}, not {value!r:.80}.") from None
        if held == "":
            self.fields.pop(target, None)
        else:
            self.fields[target] = held

    def _select(self, target: str, item: Any) -> None:
        table = self.program.tables.get(target)
        if table is None or table.screen != self.screen:
            raise _ImpossibleError(f"There is no table {target!r} on this screen.")
        wanted = text_of(item).strip() if isinstance(item, str | int | float) else ""
        for record in listed_rows(self.ground, table):
            key = text_of(record.values[table.key])
            if key == wanted:
                break
        else:
            raise _ImpossibleError(f"There is no row {item!r:.80} in {table.table.label}.")
        self.log.append(Done("select", target, self.ground.focus.copy(), record=record.id))
        self.ground.bring(record.type, record.id)
        self.selected = {"table": target, "item": key}
        self._changed()
        self._look()

    def _submit(self, target: str) -> None:
        form = self.program.forms.get(target)
        if form is None or form.screen != self.screen:
            raise _ImpossibleError(f"There is no button {target!r} on this screen.")
        ground, prefix = self.ground, f"{target}."
        entered = {field.field.id: self.fields.get(name) for name, field in form.fields.items()}
        values = effects.contents(form, entered)
        refused = effects.refusal(form, ground, values)
        if refused is not None:
            raise _ImpossibleError(refused)
        self._check(target, values)
        focus, records = ground.focus.copy(), ground.records
        applied = effects.submit(form, ground, values, self._draw)
        added = tuple(records[number] for number in applied.added)
        self.added.update(applied.added)
        self.log.append(Done("submit", target, focus, values, added=added))
        self.fields = {name: value for name, value in self.fields.items() if not name.startswith(prefix)}
        self._changed()
        if applied.opens is not None and all(kind in ground.focus for kind in self.domain.screens[applied.opens].needs):
            self._open(applied.opens)
        else:
            self._look()
        if form.says is not None:
            self.notice = form.says.fill({**ground.scope, "form": values}, self._choose)

    def _draw(self, kind: str, owner: int, given: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        scope: dict[str, Any] = {"today": self.case.today}
        records = self.ground.records
        number = owner
        while number >= 0:
            scope[records[number].type] = records[number].values
            number = records[number].owner
        key = self.domain.records[kind].key
        keys = {(kind, record.values[key]) for record in records.values() if record.type == kind}
        today = datetime.date.fromisoformat(self.case.today).toordinal()
        return self.program.draw_new(kind, self._chance, scope, today, keys, given), None

    def _reply(self, target: str) -> tuple[Event, ...]:
        template = self.program.templates.get(target)
        if template is None or (template.procedures and self.procedure not in template.procedures):
            raise _ImpossibleError(f"There is no reply {target!r} here.")
        ground = self.ground
        if not template.text.fillable(ground.scope):
            raise _ImpossibleError(f"The reply {target!r} cannot be filled in yet.")
        self._check(target, {})
        text = template.text.fill(ground.scope, self._choose)
        asks = self.program.asks
        facts = asks.get((self.procedure, target)) or asks.get((None, target), ())
        sent = Message("operator", text, self.clock.now)
        ground.counts[target] = ground.counts.get(target, 0) + 1
        focus = ground.focus.copy()
        self._changed()
        answer = self.customer.reply(self._chance, target, facts, self.procedure)
        heard, acts = self._hear(answer, text)
        self.log.append(Done("send", target, focus, acts.said))
        if target in self.program.questions:
            return (sent, *heard)
        return (sent, *heard, *self._next_issue(text if not heard else ""))

    def _message(self, target: str, text: Any) -> tuple[Event, ...]:
        if target != MESSAGE or not self.domain.desk.free_text:
            raise _ImpossibleError(f"There is no message box {target!r} here.")
        if not isinstance(text, str) or not text.strip():
            raise _ImpossibleError("The message is empty.")
        self._check(MESSAGE, {})
        sent = Message("operator", text.strip(), self.clock.now)
        answer = self.customer.reply(self._chance, None, (), self.procedure)
        return (sent, *self._hear(answer, text)[0])

    def _next_issue(self, unanswered: str = "") -> tuple[Event, ...]:
        """Let the customer raise the second issue, once the first is what it should come to.

        Args:
            unanswered: what they have just read, if they have not answered it.
        """
        if not self.customer.waiting:
            return ()
        wanted = flow.expected(self)
        if not flow.settled(self, wanted):
            return ()
        said, first = self.ground.said, self.case.matters[0].facts
        for fact, known in self.case.matters[1].facts.items():
            if fact in first and first[fact].value != known.value:
                said.pop(fact, None)
        self._changed()
        self.bases.append(Base(len(self.log), self.ground.copy(), wanted.runs, wanted.setters))
        return self._hear(self.customer.raise_next(self._chance), unanswered)[0]

    def _close(self, target: str) -> None:
        outcome = target.removeprefix(CLOSE)
        if outcome not in self.domain.desk.outcomes:
            raise _ImpossibleError(f"There is no button {target!r} on this screen.")
        self._check(target, {})
        wanted = flow.expected(self)
        self.success = (
            not self.violations
            and not self.customer.waiting
            and outcome == wanted.outcome
            and flow.settled(self, wanted)
        )
        self.outcome = outcome

    def _hear(self, answer: tuple[list[str], Acts], heard: str = "") -> tuple[tuple[Event, ...], Acts]:
        texts, acts = answer
        said = self.ground.said
        if acts.said:
            said.update(acts.said)
            self._changed()
        messages: list[Event] = []
        for text in texts:
            messages.append(Message("customer", text, self.clock.message(text, heard)))
            heard = ""
        return tuple(messages), acts

    def _check(self, target: str, values: dict[str, Any]) -> None:
        """Note the rules that doing `target` breaks."""
        rules = self.program.rules.get(target)
        if rules:
            scope = {**self.ground.scope, "form": values}
            self.violations.extend(name for name, condition in rules if condition(scope))

    def _changed(self) -> None:
        """Forget what was computed from the ground."""
        self._view = None
        self._missing.clear()

    def _look(self) -> None:
        """Note what the screen shows now, as known to whoever sits before it."""
        ground = self.ground
        view = self.screen, tuple(ground.focus.items()), len(ground.records)
        if view in self.views:
            return
        self.views[view] = None
        known, focus = self._known, ground.focus
        sheet = self.layout.screens[self.screen]
        for kind, field in sheet.plan(focus).reads:
            known.add((focus[kind], field))
        for table in sheet.tables:
            for record in listed_rows(ground, table):
                number = record.id
                known.add((number, table.key))
                for column in table.columns:
                    known.add((number, column))

    def _choose(self, count: int) -> int:
        return int(self._chance() * count)

    def _title(self, kind: str) -> str:
        return self.domain.records[kind].title.lower()


class _ImpossibleError(Exception):
    """An action that the screen does not allow; says why."""
