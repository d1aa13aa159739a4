"""Checking procedures: each node, the graph they make, and whether what a node uses can be there when it is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from handrail.envs.bpm.domain import Domain, Field, Node, Procedure
from handrail.envs.bpm.expressions import COMMON, Compiled, compile_expression, compile_text, text_of
from handrail.envs.bpm.load import KeyPath, Source
from handrail.envs.bpm.parts import Context, Parts, drawn_values

ACTIONS: Final = ("ask", "tell", "look", "select", "submit", "decide", "run", "close", "exit")
"""Keys of a node of which exactly one is given."""

# Keys of a node that only some actions have, and those actions.
_ONLY: Final[dict[str, tuple[str, ...]]] = {
    "facts": ("ask",),
    "again": ("ask",),
    "limit": ("ask",),
    "where": ("select",),
    "values": ("submit",),
    "then": ("run",),
    "optional": ("tell", "look"),
    "swaps": ("ask", "tell", "look", "select", "submit"),
    "next": ("ask", "tell", "look", "select", "submit"),
}
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(Node)}


def action_of(node: Node) -> str:
    """Return which of `ACTIONS` the node is."""
    return next(name for name in ACTIONS if getattr(node, name) is not None)


def templates_of(node: Node) -> tuple[str, ...]:
    """Return the templates that `ask` or `tell` names."""
    given = node.ask if node.ask is not None else node.tell
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def ways_on(node: Node) -> list[tuple[KeyPath, str]]:
    """Return where a node leads to, each with its path inside the node."""
    out: list[tuple[KeyPath, str]] = [(("decide", i, "to"), branch.to) for i, branch in enumerate(node.decide or [])]
    out += [(("then", exit_), to) for exit_, to in node.then.items()]
    if node.next is not None:
        out.append((("next",), node.next))
    return out


def worked_in(domain: Domain) -> dict[str, tuple[str, ...]]:
    """Return, for each procedure, the issues that are worked in it, through `run` too."""
    runs = {
        name: {node.run for node in procedure.nodes.values() if node.run is not None}
        for name, procedure in domain.procedures.items()
    }
    out: dict[str, list[str]] = {name: [] for name in domain.procedures}
    for issue, spec in domain.issues.items():
        seen: set[str] = set()
        waiting = [spec.procedure]
        while waiting:
            name = waiting.pop()
            if name in out and name not in seen:
                seen.add(name)
                out[name].append(issue)
                waiting += runs[name]
    return {name: tuple(issues) for name, issues in out.items()}


class Graphs(Parts):
    """Checks the procedures of one domain, and its parts.

    Args:
        domain: to be checked.
        source: where its values were read from, if they were.

    Attributes:
        issues: procedure -> the issues that are worked in it.
    """

    def __init__(self, domain: Domain, source: Source | None) -> None:
        super().__init__(domain, source)
        self.issues = worked_in(domain)

    def procedures(self) -> None:
        """Check procedures: nodes one by one, then the graph they make."""
        for name, procedure in self.domain.procedures.items():
            path: KeyPath = ("procedures", name)
            self.id(name, path)
            if not self.issues[name]:
                who = "no procedure in use runs it" if procedure.shared else "no issue is worked by it"
                self.add(path, f"{who}; name it in one or remove it")
            sound = self.known("node", procedure.start, procedure.nodes, (*path, "start"))
            for key, node in procedure.nodes.items():
                sound &= self.node(name, key, node)
            if sound:
                self._graph(name, procedure, path)
        self._recursion()

    def node(self, name: str, key: str, node: Node) -> bool:
        """Check one node; return whether it can be followed."""
        procedure = self.domain.procedures[name]
        path: KeyPath = ("procedures", name, "nodes", key)
        given = [action for action in ACTIONS if getattr(node, action) is not None]
        if len(given) != 1:
            got = f"{' and '.join(given)} are" if given else "none is"
            self.add(path, f"exactly one of {', '.join(ACTIONS)} says what is to be done; {got} given")
            return False
        action = given[0]
        for other, actions in _ONLY.items():
            value = getattr(node, other)
            if value not in (_DEFAULTS[other], {}, [], None) and action not in actions:
                self.add((*path, other), f"`{other}` goes with {' and '.join(actions)} only; this node is `{action}`")
                return False
        sound = True
        for at, to in ways_on(node):
            sound &= self.known("node", to, procedure.nodes, (*path, *at))
        if action in _ONLY["next"] and node.next is None:
            self.add(path, f"a dead end: `{action}` needs `next`, the node after it")
            sound = False
        getattr(self, f"_{action}")(name, node, path)
        return sound

    def _said_in(self, name: str) -> frozenset[str]:
        return frozenset(fact for issue in self.issues[name] for fact in self.domain.issues[issue].facts)

    def _asked(self, name: str, node: Node, path: KeyPath) -> None:
        for i, template in enumerate(templates_of(node)):
            action = action_of(node)
            here = (*path, action, i) if isinstance(getattr(node, action), list) else (*path, action)
            if self.known("template", template, self.domain.templates, here):
                self._offered(name, template, here)
        if not templates_of(node):
            self.add(path, "name at least one template")

    def _offered(self, name: str, template: str, path: KeyPath) -> None:
        """Note procedures that need a template which is not offered in them."""
        offered = self.domain.templates[template].procedures
        needing = {self.domain.issues[issue].procedure for issue in self.issues[name]}
        for missing in sorted(needing.difference(offered) if offered else ()):
            self.add(
                path,
                f"template {template!r} is not offered while {missing!r} is open; "
                f"add it to templates.{template}.procedures ({', '.join(offered)})",
            )

    def _ask(self, name: str, node: Node, path: KeyPath) -> None:
        self._asked(name, node, path)
        if not node.facts:
            self.add(path, "`ask` needs `facts`: what is asked for")
        if node.limit < 1:
            self.add((*path, "limit"), f"expected at least 1, got {node.limit}")
        for i, fact in enumerate(node.facts):
            here = (*path, "facts", i)
            if not self.known("fact", fact, self.facts, here):
                continue
            for issue in self.issues[name]:
                if fact not in self.domain.issues[issue].facts:
                    self.add(
                        here, f"customers of the issue {issue!r} have no fact {fact!r}; add it to issues.{issue}.facts"
                    )

    def _tell(self, name: str, node: Node, path: KeyPath) -> None:
        self._asked(name, node, path)

    def _look(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.look is not None
        self.known("screen", node.look, self.domain.screens, (*path, "look"))

    def _select(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.select is not None
        if not self.known("table", node.select, self.tables, (*path, "select")):
            return
        if node.where is None:
            self.add(path, "`select` needs `where`, an expression over `row` that tells which row")
            return
        table = self.tables[node.select]
        compiled = self.expression(node.where, (*path, "where"), Context(self._said_in(name), row=table.rows))
        if compiled is None or table.rows not in self.domain.records:
            return
        kind = self.domain.records[table.rows]
        for read in sorted(compiled.reads):
            root, _, field = read.partition(".")
            if root == "row" and field in kind.fields and field not in (*table.columns, kind.key):
                self.add(
                    (*path, "where"),
                    f"expression `{node.where}`: the table {table.id!r} does not show {field!r}, so nobody could "
                    f"choose by it; add it to the columns ({', '.join([kind.key, *table.columns])})",
                )
        self._visible(compiled, (*path, "where"))

    def _submit(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.submit is not None
        if not self.known("form", node.submit, self.forms, (*path, "submit")):
            return
        fields = {field.id: field for field in self.forms[node.submit].fields}
        for field, text in node.values.items():
            here = (*path, "values", field)
            if not self.known(f"field of {node.submit}", field, fields, here):
                continue
            compiled = self.expression(text, here, Context(self._said_in(name)))
            if compiled is not None:
                self._visible(compiled, here)
                self._options(fields[field], compiled, name, here)
        for field, spec in fields.items():
            if spec.required and field not in node.values:
                self.add(path, f"the form {node.submit!r} requires {field!r}; give it in `values`")

    def _options(self, field: Field, compiled: Compiled, name: str, path: KeyPath) -> None:
        """Note values that a select does not offer, where they are known."""
        if field.kind != "select":
            return
        values: set[str] = set()
        if not compiled.reads and not compiled.times:
            values = {text_of(compiled({}))}
        elif match := re.fullmatch(r"said\.(\w+)", compiled.text.strip()):
            for issue in self.issues[name]:
                spec = self.domain.issues[issue].facts.get(match[1])
                values.update((drawn_values(spec) if spec is not None else None) or ())
        for value in sorted(values.difference(field.options)):
            self.add(path, f"{field.id!r} does not offer {value!r}; its options are {', '.join(field.options)}")

    def _decide(self, name: str, node: Node, path: KeyPath) -> None:
        branches = node.decide or []
        if not branches:
            self.add((*path, "decide"), "a decision needs at least one way on")
        for i, branch in enumerate(branches):
            here = (*path, "decide", i)
            if branch.when is None:
                if i < len(branches) - 1:
                    self.add(
                        here, "without `when` this way is always taken and those after it never; move it to the end"
                    )
                continue
            compiled = self.expression(branch.when, (*here, "when"), Context(self._said_in(name)))
            if compiled is not None:
                self._visible(compiled, (*here, "when"))
        if branches and branches[-1].when is not None:
            self.add(
                (*path, "decide"),
                "a dead end if no `when` holds: end with a way without `when`, such as `{to: NODE}`",
            )

    def _visible(self, compiled: Compiled, path: KeyPath) -> None:
        """Note fields of records that operators go by and no screen shows."""
        for name in sorted(compiled.reads):
            root, dot, field = name.partition(".")
            if (
                dot
                and root in self.domain.records
                and field in self.domain.records[root].fields
                and name not in self.shown
            ):
                self.add(
                    path,
                    f"expression `{compiled.text}`: no screen shows {name}, so nobody could go by it; "
                    f"add {{id: {name}, label: …, value: {name}}} to the `shows` of a screen",
                )

    def _run(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.run is not None
        if not self.known("procedure", node.run, self.domain.procedures, (*path, "run")):
            return
        other = self.domain.procedures[node.run]
        if not other.shared:
            self.add((*path, "run"), f"{node.run!r} is not shared; add `shared: true` to it, or open it by an issue")
        exits = list(dict.fromkeys(inner.exit for inner in other.nodes.values() if inner.exit is not None))
        for exit_ in node.then:
            self.known(f"exit of {node.run}", exit_, exits, (*path, "then", exit_))
        for exit_ in exits:
            if exit_ not in node.then:
                self.add(
                    (*path, "then"), f"a dead end at the exit {exit_!r} of {node.run!r}: say which node follows it"
                )

    def _close(self, name: str, node: Node, path: KeyPath) -> None:
        assert node.close is not None
        self.known("outcome", node.close, self.domain.desk.outcomes, (*path, "close"))
        if self.domain.procedures[name].shared:
            self.add(
                (*path, "close"), "a shared procedure ends with `exit`; the procedure that runs it closes the case"
            )

    def _exit(self, name: str, node: Node, path: KeyPath) -> None:
        if not self.domain.procedures[name].shared:
            self.add((*path, "exit"), "only a shared procedure has exits; end with `close`")

    def _graph(self, name: str, procedure: Procedure, path: KeyPath) -> None:
        """Note nodes that no way leads to, that lead nowhere, or that go round without anything being done."""
        nodes = procedure.nodes
        reached = {procedure.start}
        waiting = [procedure.start]
        while waiting:
            for _, to in ways_on(nodes[waiting.pop()]):
                if to not in reached:
                    reached.add(to)
                    waiting.append(to)
        for key in nodes:
            if key not in reached:
                self.add(
                    (*path, "nodes", key), f"node {key!r} is unreachable: no way from {procedure.start!r} leads to it"
                )
        ending = {key for key, node in nodes.items() if node.close is not None or node.exit is not None}
        if not ending:
            self.add((*path, "nodes"), "no node ends it with " + ("`exit`" if procedure.shared else "`close`"))
            return
        grown = True
        while grown:
            more = {
                key for key, node in nodes.items() if key not in ending and any(to in ending for _, to in ways_on(node))
            }
            ending |= more
            grown = bool(more)
        for key in reached:
            if key not in ending:
                self.add((*path, "nodes", key), f"node {key!r} is a dead end: no way from it leads to an end")
        self._idle_loops(nodes, path)
        for key, node in nodes.items():
            if node.swaps and (node.next is None or action_of(nodes[node.next]) not in _ONLY["swaps"]):
                after = action_of(nodes[node.next]) if node.next else "nothing"
                self.add(
                    (*path, "nodes", key, "swaps"),
                    f"node {key!r} cannot trade places with {after!r}; only {', '.join(_ONLY['swaps'])} can",
                )

    def _idle_loops(self, nodes: Mapping[str, Node], path: KeyPath) -> None:
        """Note circles of decisions: nothing changes in them, so they never end."""
        idle = {key: [to for _, to in ways_on(node)] for key, node in nodes.items() if node.decide is not None}
        for key in idle:
            seen: set[str] = set()
            waiting = list(idle[key])
            while waiting:
                to = waiting.pop()
                if to == key:
                    self.add(
                        (*path, "nodes", key), f"node {key!r} leads back to itself through decisions only, for ever"
                    )
                    break
                if to in idle and to not in seen:
                    seen.add(to)
                    waiting += idle[to]

    def _recursion(self) -> None:
        procedures = self.domain.procedures
        runs = {n: {x.run for x in p.nodes.values() if x.run in procedures} for n, p in procedures.items()}
        for name in procedures:
            seen: set[str | None] = set()
            waiting = list(runs[name])
            while waiting:
                other = waiting.pop()
                if other == name:
                    self.add(("procedures", name), f"{name!r} runs itself")
                    break
                if other is not None and other not in seen:
                    seen.add(other)
                    waiting += runs[other]

    # --- what is known and in focus where ---------------------------------------------------------------------------

    def flow(self) -> None:
        """Note what a node uses that no way to it can have brought: facts nobody asked for, records not in focus."""
        for name, procedure in self.domain.procedures.items():
            if not procedure.shared:
                issues = [issue for issue in self.issues[name] if self.domain.issues[issue].procedure == name]
                volunteered = {
                    f"said.{fact}" for i in issues for fact, s in self.domain.issues[i].facts.items() if s.volunteer > 0
                }
                self._arrive(name, frozenset(volunteered), note=True)
        for issue, spec in self.domain.issues.items():
            asked = {
                fact
                for name, procedure in self.domain.procedures.items()
                if issue in self.issues[name]
                for node in procedure.nodes.values()
                for fact in node.facts
            }
            for fact, given in spec.facts.items():
                if fact not in asked and not given.volunteer:
                    self.add(
                        ("issues", issue, "facts", fact),
                        f"nobody ever learns {fact!r}: no `ask` in its procedure asks for it and it is not volunteered",
                    )

    def _arrive(self, name: str, start: frozenset[str], note: bool) -> frozenset[str]:
        """Follow a procedure and return what may be known at its exits.

        Args:
            name: the procedure.
            start: what may be known when it begins.
            note: whether to note what its nodes use in vain; only once `start` is complete.
        """
        procedure = self.domain.procedures[name]
        arriving: dict[str, frozenset[str]] = {procedure.start: start}
        waiting = [procedure.start]
        leaving = frozenset[str]()
        while waiting:
            key = waiting.pop()
            node = procedure.nodes[key]
            known = arriving[key] | self._brings(node)
            if node.run is not None:
                known |= self._arrive(node.run, known, note=False)
            if node.exit is not None:
                leaving |= known
            for _, to in ways_on(node):
                if to not in arriving or not known <= arriving[to]:
                    arriving[to] = arriving.get(to, frozenset()) | known
                    waiting.append(to)
        if note:
            for key, known in arriving.items():
                self._uses(name, key, known)
                node = procedure.nodes[key]
                if node.run is not None:
                    self._arrive(node.run, known, note=True)
        return leaving

    def _brings(self, node: Node) -> frozenset[str]:
        """Return what a node may make known: `said.F` and record types in focus."""
        if node.ask is not None:
            return frozenset(f"said.{fact}" for fact in node.facts)
        kinds: list[str] = []
        if node.select is not None:
            kinds = [self.tables[node.select].rows]
        elif node.submit is not None:
            kinds = [effect.find for effect in self.forms[node.submit].does if effect.find is not None]
        return frozenset(k for kind in kinds for k in (kind, *self.owners(kind)))

    def _uses(self, name: str, key: str, known: frozenset[str]) -> None:
        node = self.domain.procedures[name].nodes[key]
        path: KeyPath = ("procedures", name, "nodes", key)
        names = (*self.domain.records, *COMMON)
        for template in templates_of(node):
            for slot in compile_text(self.domain.templates[template].text, names).slots:
                for read in sorted(slot.reads):
                    self._missing(
                        read, known, path, f"template {template!r}: its slot {{{slot.text}}} is unbound here; it"
                    )
        guards = [(("decide", i, "when"), b.when) for i, b in enumerate(node.decide or []) if b.when is not None]
        texts: list[tuple[KeyPath, str]] = [*guards, *((("values", f), text) for f, text in node.values.items())]
        if node.where is not None:
            texts.append((("where",), node.where))
        for at, text in texts:
            for read in sorted(compile_expression(text, (*names, "row")).reads):
                self._missing(read, known, (*path, *at), f"expression `{text}`")
        if node.select is not None:
            owner = self.domain.records[self.tables[node.select].rows].of
            if owner is not None and owner not in known:
                self.add(
                    (*path, "select"),
                    f"the table {node.select!r} is empty here: no {owner} was brought into focus before",
                )
        needs = self.domain.screens[node.look].needs if node.look is not None else []
        needs = self.forms[node.submit].needs if node.submit is not None else needs
        for kind in needs:
            if kind not in known:
                what = f"screen {node.look!r}" if node.look is not None else f"form {node.submit!r}"
                self.add(path, f"{what} needs a {kind} in focus, and nothing before it finds or selects one")

    def _missing(self, read: str, known: frozenset[str], path: KeyPath, what: str) -> None:
        root, dot, field = read.partition(".")
        if root == "said" and read not in known:
            self.add(path, f"{what} reads {read}, and nothing before it asks for {field!r}")
        elif root in self.domain.records and dot and root not in known:
            self.add(path, f"{what} reads {read}, and nothing before it finds or selects a {root}")
