"""Procedures at work: what is to be done now, and what a case should come to.

Both follow a procedure from its first node, on a copy of how things were when the issue came up. A node that was done
is done again in thought (`pending`), with what the customer said and what the back end did; the first that was not done
is what is to be done. Because the copy holds what was true when decisions were due, they do not turn around once their
consequences change the records. `expected` goes on in thought to the end, with what the customer would answer.

Doing counts once: a node that is passed twice has to be done twice. Things done that no node asks for are passed over,
so there is a way on from any state: records may be wrong by then, but the rest of the procedure is still right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from handrail.envs.bpm import effects
from handrail.envs.bpm.expressions import text_of
from handrail.envs.bpm.ground import Ground, Record
from handrail.envs.bpm.program import CompiledForm, CompiledNode, Program
from handrail.envs.bpm.screen import CLOSE, listed_rows
from handrail.envs.schema import Action

if TYPE_CHECKING:
    from handrail.envs.bpm.case import Matter
    from handrail.envs.bpm.world import World

_VISITS = 30


class Done(msgspec.Struct, frozen=True, gc=False):
    """One thing that was done, as far as procedures look back on it.

    Attributes:
        kind: `send` (a template), `submit` (a form) or `select` (a row).
        target: the template, form or table.
        focus: the records in focus before it.
        values: contents of the form; for a template, the facts that the customer told in answer.
        record: the record that was selected, else -1.
        added: the records it added, as they were then.
    """

    kind: str
    target: str
    focus: dict[str, int]
    values: dict[str, Any] = {}
    record: int = -1
    added: tuple[Record, ...] = ()


class Todo(NamedTuple):
    """Something to be done now.

    Attributes:
        kind: `open` (a procedure), `ask`, `tell`, `look`, `select`, `submit` or `close`.
        target: the procedure, screen, table, form or outcome; empty for `ask` and `tell`.
        templates: for `ask` and `tell`: those that will do and can be sent.
        item: key of the row to select.
        values: field -> content of the form to submit; all others are to be empty.
        optional: whether it may be left out.
        node: `procedure.node`, empty for what no node asks for.
    """

    kind: str
    target: str = ""
    templates: tuple[str, ...] = ()
    item: str = ""
    values: dict[str, Any] = {}
    optional: bool = False
    node: str = ""


Setter = tuple[str, str, str, dict[str, Any], str]
"""What brings a record into focus: `kind`, `target`, `item`, `values` and `node` of a `Todo`."""


class Base(NamedTuple):
    """How things were when an issue came up.

    Attributes:
        start: length of the log then.
        ground: a copy; never changed.
        runs: shared procedures that were worked before -> the exit they took.
        setters: record type -> what brought the record in focus there.
    """

    start: int
    ground: Ground
    runs: dict[str, str]
    setters: dict[str, Setter]


class Expected(NamedTuple):
    """What an issue should come to.

    Attributes:
        ground: how things should be in the end.
        tells: for each message that has to be sent, the templates of which one will do, and the records in focus that
            it speaks of.
        outcome: how the case should be closed if no other issue comes up.
        added: id of a record that should be added -> its fields that matter.
        runs: shared procedures that are worked -> the exit they take.
        setters: record type -> what brings the record in focus there.
        course: nodes passed, `procedure.node`, in order.
    """

    ground: Ground
    tells: tuple[tuple[tuple[str, ...], tuple[tuple[str, int], ...]], ...]
    outcome: str | None
    added: dict[int, tuple[str, ...]]
    runs: dict[str, str]
    setters: dict[str, Setter]
    course: tuple[str, ...]


def pending(world: World) -> list[Todo]:
    """Return what the procedure of the issue at hand asks for now.

    The first entry is next in the order of the procedure. Others may be done instead: what an optional entry before
    them leaves out, or what a node that `swaps` lets go first. Works in any state; empty once the case is closed.
    """
    if world.outcome is not None:
        return []
    index = len(world.bases) - 1
    name = world.domain.issues[world.case.matters[index].issue].procedure
    if world.procedure != name:
        return [Todo("open", name)]
    return _Walk(world, index, imagine=False).todo()


def expected(world: World) -> Expected:
    """Return what the issue at hand should come to, given what the customer said so far and would say.

    What was said and asked is taken as it happened; what was not, as the customer would answer it.
    """
    return _Walk(world, len(world.bases) - 1, imagine=True).expected()


def settled(world: World, wanted: Expected) -> bool:
    """Tell whether the records are as they should be in the end, and all messages were sent."""
    return _records_agree(world, wanted) and _told(world, wanted)


def actions(world: World, todo: Todo, template: str = "") -> list[Action]:
    """Return the actions that do `todo` from the present state, in the order of the screen.

    Args:
        world: the world.
        todo: one of `pending`.
        template: which of its templates to send; the first if left out.

    Returns:
        At least one action; after each the state may have changed so that others are better.
    """
    match todo.kind:
        case "open":
            return [Action("open_procedure", todo.target)]
        case "ask" | "tell":
            return [Action("send_reply", template or todo.templates[0])]
        case "close":
            return [Action("click", CLOSE + todo.target)]
        case "look":
            return _navigate(world, todo.target) or [Action("navigate", todo.target)]
        case "select":
            screen = world.program.tables[todo.target].screen
            return [*_navigate(world, screen), Action("select_item", todo.target, {"item": todo.item})]
    form = world.program.forms[todo.target]
    path = _navigate(world, form.screen)
    filled = {} if path else world.fields
    changes = []
    for target, field in form.fields.items():
        held, wanted = filled.get(target, ""), todo.values.get(field.field.id, "")
        if held != wanted and not (field.field.kind == "checkbox" and bool(held) == bool(wanted)):
            changes.append(Action("set_field", target, {"value": wanted}))
    return [*path, *changes, Action("click", todo.target)]


def route(world: World, screen: str) -> list[str] | None:
    """Return the screens to navigate through to reach `screen`, itself last; `None` if there is no way."""
    if world.screen == screen:
        return []
    screens, focus = world.program.screens, world.ground.focus
    before: dict[str, str] = {world.screen: ""}
    queue = [world.screen]
    for name in queue:
        for link in screens[name].links:
            if link not in before and all(kind in focus for kind in screens[link].screen.needs):
                before[link] = name
                if link == screen:
                    path = [link]
                    while before[path[-1]] != world.screen:
                        path.append(before[path[-1]])
                    return path[::-1]
                queue.append(link)
    return None


def _navigate(world: World, screen: str) -> list[Action]:
    return [Action("navigate", name) for name in route(world, screen) or []]


_TURNS = frozenset({"decide", "run", "close", "exit"})
"""Kinds of node that do nothing by themselves: nothing can trade places with them."""


class _Stop(Exception):
    """The walk has come to something that is to be done, or to the end."""


class _Walk:
    """Follows the procedure of one issue.

    Args:
        world: never changed.
        index: of the issue.
        imagine: go on to the end as if everything were done, instead of stopping at what is not.
    """

    def __init__(self, world: World, index: int, imagine: bool) -> None:
        base = world.bases[index]
        self.world = world
        self.program: Program = world.program
        self.matter: Matter = world.case.matters[index]
        self.imagine = imagine
        self.start = base.start
        self.ground = base.ground.copy()
        self.ground.said.clear()
        self.ground.said.update(world.ground.said)
        self.runs = dict(base.runs)
        self.used: set[int] = set()
        self.done: dict[tuple[str, str], list[int]] = {}
        for number, done in enumerate(world.log):
            self.done.setdefault((done.kind, done.target), []).append(number)
        self.setters = dict(base.setters)
        self.waiting: list[Todo] = []
        self.swapping = False
        self.stack: list[tuple[str, dict[str, str]]] = []
        self.procedure = world.domain.issues[self.matter.issue].procedure
        self.main = self.procedure
        self.visits: dict[str, int] = {}
        self.found: list[Todo] = []
        self.tells: list[tuple[tuple[str, ...], tuple[tuple[str, int], ...]]] = []
        self.added: dict[int, tuple[str, ...]] = {}
        self.course: list[str] = []
        self.outcome: str | None = None

    def todo(self) -> list[Todo]:
        self._run()
        return self.found

    def expected(self) -> Expected:
        self._run()
        return Expected(
            self.ground, tuple(self.tells), self.outcome, self.added, self.runs, self.setters, tuple(self.course)
        )

    def _run(self) -> None:
        name: str | None = self.program.procedure(self.procedure).start
        procedures, visits = self.program.procedures, self.visits
        try:
            while True:
                node = procedures[self.procedure].get(name) if name else None
                if node is None or visits.get(node.path, 0) == _VISITS:
                    self._stuck()
                    break
                if self.swapping and node.kind in _TURNS:
                    self.found = self.waiting
                    break
                swapped = self.swapping
                visits[node.path] = visits.get(node.path, 0) + 1
                self.course.append(node.path)
                name = self._pass(node)
                if swapped:
                    self.found = self.waiting
                    break
        except _Stop:
            pass

    def _pass(self, node: CompiledNode) -> str | None:
        """Do a node in thought and return the next one; raises `_Stop` if it is to be done."""
        kind, given = node.kind, node.node
        if kind == "decide":
            return self._decide(node)
        if kind == "ask":
            self._ask(node)
        elif kind == "submit":
            self._submit(node, given.submit or "")
        elif kind == "tell":
            self._tell(node)
        elif kind == "select":
            self._select(node, given.select or "")
        elif kind == "look":
            self._look(node, given.look or "")
        elif kind == "run":
            shared = given.run or ""
            if shared in self.runs:
                return given.then.get(self.runs[shared])
            self.stack.append((self.procedure, given.then))
            self.procedure = shared
            return self.program.procedure(shared).start
        elif kind == "exit":
            taken = self.runs[self.procedure] = given.exit or ""
            self.procedure, then = self.stack.pop()
            return then.get(taken)
        else:
            self.outcome = given.close
            if not self.imagine:
                self._stop(Todo("close", given.close or "", node=node.path), ())
            raise _Stop
        return given.next

    def _decide(self, node: CompiledNode) -> str | None:
        for guard, to in node.branches:
            if guard is None:
                return to
            self._know(guard.reads)
            if guard(self.ground.scope):
                return to
        return None

    def _ask(self, node: CompiledNode) -> None:
        said, given = self.ground.said, node.node
        sends = self._sends(node.templates)
        if given.again:
            if sends:
                self._use(sends[0])
                return
        elif all(said.get(fact) is not None for fact in given.facts):
            # Only what was sent until all was said is used up: later sends may be what a node after this one asks for.
            last = max((self._heard(fact) for fact in given.facts), default=-1)
            for number in sends:
                if number <= last:
                    self._use(number)
            return
        elif len(sends) >= given.limit:
            for number in sends[: given.limit]:
                self._use(number)
            return
        if self.imagine:
            template = node.templates[0]
            if sends:
                for number in sends:
                    self._use(number)
            else:
                self._count(template)
            for fact in given.facts:
                known = self.matter.facts.get(fact)
                if known is not None and (given.again or said.get(fact) is None):
                    said[fact] = known.first if said.get(fact) is None else known.later
            return
        self._send(Todo("ask"), node)

    def _tell(self, node: CompiledNode) -> None:
        sends = self._sends(node.templates)
        if sends:
            self._use(sends[0])
        if self.imagine:
            if not sends:
                self._count(node.templates[0])
            if not node.node.optional and any(self._fillable(name) for name in node.templates):
                types = {kind for name in node.templates for kind in self.program.templates[name].types}
                about = tuple((kind, number) for kind, number in self.ground.focus.items() if kind in types)
                self.tells.append((node.templates, about))
        elif sends:
            self.waiting.clear()
        else:
            self._send(Todo("tell", optional=node.node.optional), node)

    def _look(self, node: CompiledNode, screen: str) -> None:
        if self.imagine:
            return
        needs = self.program.screens[screen].screen.needs
        focus = self.ground.focus
        if not all(kind in focus for kind in needs) or self._opened(screen, needs):
            return
        self._offer(Todo("look", screen, optional=node.node.optional, node=node.path), needs, node)

    def _select(self, node: CompiledNode, name: str) -> None:
        table, ground = self.program.tables[name], self.ground
        kind = table.table.rows
        row = None
        scope = ground.scope
        for record in listed_rows(ground, table):
            scope["row"] = record.values
            if node.where is None or node.where(scope):
                row = record
                break
        scope["row"] = None
        if row is None:
            return
        item = text_of(row.values[table.key])
        if not self.imagine and ground.focus.get(kind) != row.id:
            log = self.world.log
            chosen = any(log[number].record == row.id for number in self.done.get(("select", name), ()))
            if not chosen and self.world.ground.focus.get(kind) != row.id:
                needs = self.program.domain.screens[table.screen].needs
                if all(other in ground.focus for other in needs):
                    todo = Todo("select", name, item=item, node=node.path)
                    self._offer(todo, (*self.program.lineage.above(kind), *needs), node)
                return
            self.waiting.clear()
        self.setters[kind] = "select", name, item, {}, node.path
        ground.bring(kind, row.id)

    def _submit(self, node: CompiledNode, name: str) -> None:
        form, ground = self.program.forms[name], self.ground
        for _, expression in node.values:
            self._know(expression.reads)
        try:
            values = effects.contents(form, {field: value(ground.scope) for field, value in node.values})
        except ValueError:
            return
        if effects.refusal(form, ground, values) is not None:
            return
        number = self._submitted(form, values)
        if number is None and not self.imagine:
            needs = self.program.domain.screens[form.screen].needs
            if not all(kind in ground.focus for kind in needs):
                return
            types = (*form.touches, *needs)
            # What was done out of turn may have closed this way for good (a card that is blocked cannot be blocked).
            if self._refocus(types) is not None or effects.refusal(form, self.world.ground, values) is None:
                self._offer(Todo("submit", name, values=values, node=node.path), types, node)
                return
        known: list[Record] = []
        if number is not None:
            self.used.add(number)
            self.waiting.clear()
            known = list(self.world.log[number].added)

        def draw(kind: str, owner: int, given: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
            if known:
                record = known.pop(0)
                return record.values, record.id
            return {**dict.fromkeys(self.program.domain.records[kind].fields), **given}, None

        applied = effects.submit(form, ground, values, draw)
        self.added.update(applied.added)
        for kind in form.finds:
            self.setters[kind] = "submit", name, "", values, node.path

    def _send(self, todo: Todo, node: CompiledNode) -> None:
        """Offer to send one of a node's templates, unless none can be sent."""
        templates = tuple(name for name in node.templates if self._fillable(name) and self._offered(name))
        if templates:
            types = tuple(kind for name in templates for kind in self.program.templates[name].types)
            self._offer(todo._replace(templates=templates, node=node.path), types, node)

    def _offer(self, todo: Todo, types: Iterable[str], node: CompiledNode) -> None:
        """Note something that is to be done, and stop unless something else may be done instead."""
        if todo.optional:
            self.waiting.append(todo)
        elif node.node.swaps and not self.swapping and self._refocus(types) is None:
            self.waiting.append(todo)
            self.swapping = True
        else:
            self._stop(todo, types)

    def _stop(self, todo: Todo, types: Iterable[str]) -> None:
        """End the walk at something that is to be done; first of all its records must be in focus."""
        missing = self._refocus(types)
        if self.swapping:
            self.found = self.waiting if missing is not None else [*self.waiting, todo]
        else:
            self.found = [*self.waiting, todo] if missing is None else [missing]
        raise _Stop

    def _refocus(self, types: Iterable[str]) -> Todo | None:
        """Return how to bring back a record that should be in focus but is not; `None` if all are."""
        wanted = set(types)
        for kind in tuple(wanted):
            wanted.update(self.program.lineage.above(kind))
        actual = self.world.ground.focus
        for kind in self.program.types:
            number = self.ground.focus.get(kind) if kind in wanted else None
            if number is not None and actual.get(kind) != number and kind in self.setters:
                what, target, item, values, path = self.setters[kind]
                return Todo(what, target, item=item, values=values, node=path)
        return None

    def _know(self, reads: Iterable[str]) -> None:
        """Stop to look first at what the operator has not seen."""
        if self.imagine:
            return
        focus = self.ground.focus
        for read in reads:
            kind, _, field = read.partition(".")
            if field and kind in focus and not self.world.knows(focus[kind], field):
                for screen in self.program.shown.get(read, ()):
                    needs = self.program.domain.screens[screen].needs
                    if all(other in focus for other in needs):
                        self._stop(Todo("look", screen), (kind, *needs))

    def _fillable(self, template: str) -> bool:
        return self.program.templates[template].text.fillable(self.ground.scope)

    def _offered(self, template: str) -> bool:
        procedures = self.program.templates[template].procedures
        return not procedures or self.main in procedures

    def _opened(self, screen: str, needs: Iterable[str]) -> bool:
        wanted = [(kind, self.ground.focus[kind]) for kind in needs]
        return any(name == screen and all(pair in focus for pair in wanted) for name, focus, _ in self.world.views)

    def _sends(self, templates: tuple[str, ...]) -> list[int]:
        """Return where in the log one of `templates` was sent about the records at hand, and not yet used."""
        found = []
        log = self.world.log
        for template in templates:
            for number in self.done.get(("send", template), ()):
                about = self.program.templates[template].types
                if number >= self.start and number not in self.used and self._same_focus(log[number], about):
                    found.append(number)
        return sorted(found)

    def _submitted(self, form: CompiledForm, values: dict[str, Any]) -> int | None:
        first = self.start if form.form.critical else 0
        for number in self.done.get(("submit", form.form.id), ()):
            done = self.world.log[number]
            unused = number >= first and number not in self.used
            if unused and done.values == values and self._same_focus(done, form.touches):
                return number
        return None

    def _same_focus(self, done: Done, types: Iterable[str]) -> bool:
        return all(done.focus.get(kind) == self.ground.focus.get(kind) for kind in types)

    def _heard(self, fact: str) -> int:
        """Return where in the log the customer first told `fact`, -1 if it was before."""
        for number in range(self.start, len(self.world.log)):
            done = self.world.log[number]
            if done.kind == "send" and fact in done.values:
                return number
        return -1

    def _use(self, number: int) -> None:
        self.used.add(number)
        self._count(self.world.log[number].target)

    def _count(self, template: str) -> None:
        self.ground.counts[template] = self.ground.counts.get(template, 0) + 1

    def _stuck(self) -> None:
        """Close with the nearest outcome: the procedure does not say what to do."""
        self.procedure = self.main
        nodes = self.program.procedures[self.main]
        queue = [self.program.procedure(self.main).start]
        seen = set(queue)
        for name in queue:
            node = nodes[name].node
            if node.close is not None:
                self.outcome = node.close
                break
            for after in (node.next, *(to for _, to in nodes[name].branches), *node.then.values()):
                if after is not None and after in nodes and after not in seen:
                    seen.add(after)
                    queue.append(after)
        self.found = [*self.waiting, Todo("close", self.outcome or self.world.domain.desk.outcomes[0])]


def _records_agree(world: World, wanted: Expected) -> bool:
    base = world.bases[-1].ground.records
    actual, target = world.ground.records, wanted.ground.records
    touched = world.ground.touched | wanted.ground.touched
    for number in touched:
        if number in base and actual[number].values != target[number].values:
            return False

    def added(records: dict[int, Record], fields: dict[int, tuple[str, ...]]) -> list[str]:
        return sorted(
            repr((record.type, record.owner, [record.values[field] for field in fields[number]]))
            for number in touched
            if number not in base and (record := records.get(number)) is not None
        )

    return added(actual, world.added) == added(target, wanted.added)


def _told(world: World, wanted: Expected) -> bool:
    used: set[int] = set()
    for templates, about in wanted.tells:
        focus = dict(about)
        for number in range(world.bases[-1].start, len(world.log)):
            done = world.log[number]
            if done.kind != "send" or done.target not in templates or number in used:
                continue
            if all(done.focus.get(kind) == focus.get(kind) for kind in world.program.templates[done.target].types):
                used.add(number)
                break
        else:
            return False
    return True
