"""Changes that a desk lives through after its logs were taken: what a policy learned is no longer quite true.

A shift takes a domain and returns another that is as consistent as the first: screens, forms, procedures, rules and
texts are changed together, so the expert, who is computed from the domain, works the new one without help. At severity
0 nothing changes, at 1 all that the shift can reach does. Everything drawn comes from the generator that is passed in.

| shift | what changes | severity |
|---|---|---|
| `renamed` | ids and labels of screens, forms, fields, tables, values, templates, procedures | share renamed |
| `reordered` | the order of menu, links, values, tables, forms, fields, options, templates, procedures | how far |
| `mandatory_field` | forms ask for something more, and refuse to submit without it | share of forms |
| `changed_rule` | a threshold moves, or cases of a kind are escalated from now on | how many, how far |
| `unseen_issue` | cases of a kind come in that were never logged | share of such cases |
| `language` | customers write another language | share of phrases |

`unseen_issue` needs logs without the unseen issues: `split_issues` says which they are, for the same generator.

    later = shifted(domain, "renamed", np.random.default_rng(7), 0.5)
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np

from handrail.envs.bpm.check import check_domain
from handrail.envs.bpm.domain import Domain, Node
from handrail.envs.errors import HandrailError, nearest

Shift = Callable[[Domain, np.random.Generator, float], Domain]
"""Takes a domain, a source of chance and a severity in [0, 1]; returns the shifted domain."""

UNSEEN_SHARE: Final = 0.25
"""Share of a domain's issues that `split_issues` keeps out of the logs, at least one."""

_Data = dict[str, Any]
"""A domain, or a part of one, as plain dicts and lists."""


def shifted(domain: Domain, name: str, rng: np.random.Generator, severity: float) -> Domain:
    """Return `domain` after the shift `name`.

    Args:
        domain: never changed.
        name: a key of `SHIFTS`.
        severity: from 0 (as before) to 1.
        rng: what decides between possible changes; the same state gives the same domain.

    Raises:
        HandrailError: there is no such shift, the severity is out of range, or the domain cannot be shifted so.
    """
    if name not in SHIFTS:
        raise HandrailError(f"unknown shift {name!r}{nearest(str(name), SHIFTS)}")
    if not 0 <= severity <= 1:
        raise HandrailError(f"shift {name!r}: severity is {severity!r}, expected a number from 0 to 1")
    return SHIFTS[name](domain, rng, float(severity))


# --- names ---------------------------------------------------------------------------------------------------------


def renamed(domain: Domain, rng: np.random.Generator, severity: float) -> Domain:
    """Rename ids and labels, as a new release of the software does, in one style for the whole domain.

    Records, facts, issues and outcomes keep their names: they are no controls, or what studies group by.
    """
    if not severity:
        return domain
    data = _plain(domain)
    namer = _Namer(rng, severity)
    forms = [form for screen in data["screens"].values() for form in screen["forms"]]
    tables = [table for screen in data["screens"].values() for table in screen["tables"]]
    screens = namer.ids(data["screens"])
    controls = namer.ids([*(form["id"] for form in forms), *data["templates"]])
    lists = namer.ids(table["id"] for table in tables)
    fields = namer.ids(dict.fromkeys(field["id"] for form in forms for field in form["fields"]))
    procedures = namer.ids(data["procedures"])
    shown = namer.ids(dict.fromkeys(one["id"] for screen in data["screens"].values() for one in screen["shows"]))

    desk = data["desk"]
    desk["home"] = screens[desk["home"]]
    desk["menu"] = [screens[name] for name in desk["menu"]]
    for screen in data["screens"].values():
        screen["title"] = namer.label(screen["title"])
        screen["links"] = [screens[name] for name in screen["links"]]
        for one in screen["shows"]:
            one.update(id=shown[one["id"]], label=namer.label(one["label"]))
        for table in screen["tables"]:
            table.update(id=lists[table["id"]], label=namer.label(table["label"]))
        for form in screen["forms"]:
            form.update(id=controls[form["id"]], label=namer.label(form["label"]))
            for field in form["fields"]:
                field.update(id=fields[field["id"]], label=namer.label(field["label"]))
            for effect in form["does"]:
                if effect["open"] is not None:
                    effect["open"] = screens[effect["open"]]
    for template in data["templates"].values():
        template["procedures"] = [procedures[name] for name in template["procedures"]]
    for issue in data["issues"].values():
        issue["procedure"] = procedures[issue["procedure"]]
    for procedure in data["procedures"].values():
        procedure["title"] = namer.label(procedure["title"])
        for node in procedure["nodes"].values():
            for key, names in (("look", screens), ("select", lists), ("submit", controls), ("run", procedures)):
                if node[key] is not None:
                    node[key] = names[node[key]]
            for key in ("ask", "tell"):
                if isinstance(node[key], str):
                    node[key] = controls[node[key]]
                elif node[key] is not None:
                    node[key] = [controls[name] for name in node[key]]
            node["values"] = {fields[name]: value for name, value in node["values"].items()}
    for rule in data["rules"].values():
        rule["never"] = [controls.get(name, name) for name in rule["never"]]
    for key, names in (("screens", screens), ("templates", controls), ("procedures", procedures)):
        data[key] = {names[name]: value for name, value in data[key].items()}
    _rewrite(data, lambda text: _rename_in(text, controls, fields))
    return _domain(data)


class _Namer:
    """Makes new names.

    Args:
        rng: draws the style, and which names change.
        severity: share of names that change.
    """

    def __init__(self, rng: np.random.Generator, severity: float) -> None:
        self.rng = rng
        self.severity = severity
        self.style = _STYLES[int(rng.integers(len(_STYLES)))]
        self.labels: dict[str, str] = {}

    def ids(self, names: Iterable[str]) -> dict[str, str]:
        """Return old name -> new name, all different, for names of one namespace."""
        names = list(names)
        change = {name: self.rng.random() < self.severity for name in names}
        taken = {name for name in names if not change[name]}
        new: dict[str, str] = {}
        for name in names:
            new[name] = self._id(name, taken) if change[name] else name
            taken.add(new[name])
        return new

    def label(self, label: str) -> str:
        """Return what stands in place of `label`; one label is always changed to the same."""
        if label not in self.labels:
            self.labels[label] = self._label(label) if self.rng.random() < self.severity else label
        return self.labels[label]

    def _id(self, name: str, taken: set[str]) -> str:
        words = [word for word in re.split(r"[_\W]+|(?<=[a-z])(?=[A-Z])", name) if word]
        base = self.style([part for word in words for part in _SYNONYMS.get(word.lower(), word.lower()).split()])
        new, number = base, 2
        # A field's id is written in expressions (`form.F`), where some words have a meaning.
        while new == name or new in taken or keyword.iskeyword(new):
            new, number = f"{base}{number}", number + 1
        return new

    @staticmethod
    def _label(label: str) -> str:
        words = [_SYNONYMS.get(word.lower(), word) for word in label.split()]
        new = " ".join(words)
        new = new[:1].upper() + new[1:]
        return new if new != label else f"{label} (new)"


_STYLES: Final[tuple[Callable[[list[str]], str], ...]] = (
    lambda words: words[0] + "".join(word.capitalize() for word in words[1:]) + "Ctl",
    lambda words: "_".join(reversed(words)) + "_v2",
    lambda words: "x_" + "_".join(words),
    lambda words: "".join(word.capitalize() for word in words),
)
_SYNONYMS: Final[Mapping[str, str]] = {
    "account": "profile",
    "active": "live",
    "add": "create",
    "address": "residence",
    "amount": "sum",
    "apply": "grant",
    "ask": "request",
    "bill": "invoice",
    "bills": "invoices",
    "block": "lock",
    "book": "schedule",
    "cancel": "terminate",
    "card": "plastic",
    "cards": "plastics",
    "case": "matter",
    "change": "modify",
    "charge": "item",
    "charges": "items",
    "check": "inspect",
    "code": "token",
    "confirm": "approve",
    "contract": "agreement",
    "credit": "reimburse",
    "customer": "client",
    "customers": "clients",
    "date": "day",
    "device": "handset",
    "devices": "handsets",
    "dispute": "objection",
    "email": "mail",
    "fee": "surcharge",
    "find": "lookup",
    "home": "residential",
    "identify": "authenticate",
    "identity": "authentication",
    "issued": "dated",
    "kind": "type",
    "limit": "cap",
    "line": "connection",
    "lines": "connections",
    "list": "overview",
    "loan": "lending",
    "loans": "lendings",
    "mobile": "cellular",
    "name": "full name",
    "new": "fresh",
    "number": "reference",
    "open": "start",
    "order": "purchase",
    "orders": "purchases",
    "payment": "settlement",
    "phone": "telephone",
    "plan": "tariff",
    "price": "cost",
    "reason": "cause",
    "refund": "repay",
    "refuse": "decline",
    "search": "query",
    "send": "dispatch",
    "since": "from",
    "state": "stage",
    "status": "condition",
    "tell": "inform",
    "transfer": "payment",
    "until": "through",
    "verify": "authenticate",
}


def _rename_in(text: str, controls: Mapping[str, str], fields: Mapping[str, str]) -> str:
    """Return the expression `text` with the names in `times('…')` and `form.…` replaced."""
    if "times" not in text and "form" not in text:
        return text
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="times"), args=[ast.Constant(value=str(name))]):
                node.args = [ast.Constant(controls.get(name, name))]
            case ast.Attribute(value=ast.Name(id="form"), attr=field):
                node.attr = fields.get(field, field)
    return ast.unparse(tree)


# --- order ---------------------------------------------------------------------------------------------------------


def reordered(domain: Domain, rng: np.random.Generator, severity: float) -> Domain:
    """Move what is on the screens: with severity 1 to any place, with less to a place nearby.

    The outcomes keep their order, for the first one means success.
    """
    if not severity:
        return domain
    data = _plain(domain)

    def moved(items: list[Any]) -> list[Any]:
        places = np.arange(len(items)) + rng.random(len(items)) * severity * len(items)
        return [items[i] for i in np.argsort(places, kind="stable")]

    data["desk"]["menu"] = moved(data["desk"]["menu"])
    for screen in data["screens"].values():
        for key in ("shows", "tables", "forms", "links"):
            screen[key] = moved(screen[key])
        for form in screen["forms"]:
            form["fields"] = moved(form["fields"])
            for field in form["fields"]:
                field["options"] = moved(field["options"])
    for key in ("screens", "templates", "procedures"):
        data[key] = {name: data[key][name] for name in moved(list(data[key]))}
    return _domain(data)


# --- a new mandatory field -----------------------------------------------------------------------------------------


def mandatory_field(domain: Domain, rng: np.random.Generator, severity: float) -> Domain:
    """Let forms that procedures submit ask for one more thing: a choice, a tick, or a number the screens show."""
    data = _plain(domain)
    used = sorted({node["submit"] for _, node in _nodes(data) if node["submit"] is not None})
    chosen = {used[i] for i in rng.permutation(len(used))[: math.ceil(severity * len(used))]}
    if not chosen:
        return domain
    root = next(name for name, kind in data["records"].items() if kind["of"] is None)
    key = f"{root}.{data['records'][root]['key']}"
    for screen in data["screens"].values():
        key_shown = any(one["value"] == key for one in screen["shows"]) or any(
            one["value"] == key
            for name in data["desk"]["menu"]
            if set(data["screens"][name]["needs"]) <= {root, *screen["needs"]}
            for one in data["screens"][name]["shows"]
        )
        for form in screen["forms"]:
            if form["id"] not in chosen:
                continue
            extra = list(_EXTRA)
            if key_shown and root in {*form["needs"], *screen["needs"]}:
                extra.append(("reference", {"kind": "text", "label": "Reference"}, key))
            name, field, value = extra[int(rng.integers(len(extra)))]
            taken = {other["id"] for other in form["fields"]}
            while name in taken:
                name += "2"
            place = int(rng.integers(len(form["fields"]) + 1))
            form["fields"].insert(place, {"id": name, "required": field["kind"] != "checkbox", **field})
            for _, node in _nodes(data):
                if node["submit"] == form["id"]:
                    node["values"] = {**node["values"], name: value}
    return _domain(data)


_EXTRA: Final[tuple[tuple[str, _Data, str], ...]] = (
    ("channel", {"kind": "select", "label": "Channel", "options": ["telephone", "chat", "letter"]}, "'chat'"),
    (
        "told",
        {"kind": "checkbox", "label": "Customer was told", "valid": "value", "error": "Tell the customer."},
        "true",
    ),
    ("desk_code", {"kind": "text", "label": "Desk"}, "'D7'"),
)
"""Fields a form may get: id, the field, and what is to be entered."""


# --- rules ---------------------------------------------------------------------------------------------------------


def changed_rule(domain: Domain, rng: np.random.Generator, severity: float) -> Domain:
    """Change how cases are decided: thresholds move, and branches lead to escalation.

    With severity s, as many decisions change as s times the number of procedures that operators open (fewer if not so
    many can), and thresholds move by a factor of up to 1 + 2s, up or down. A threshold moves wherever a procedure uses
    it: in its guards, in the rules, fields and buttons about what it does, and in its replies.

    Raises:
        HandrailError: the domain has no decision that could be changed so that it still passes its checks.
    """
    if not severity:
        return domain
    data = _plain(domain)
    kinds: list[list[_Change]] = [[], []]
    for where, number in _thresholds(data):
        kinds[0].append(partial(_move_threshold, procedure=where, old=number, new=_moved(number, rng, severity)))
    for where, node, branch in _branches(data):
        kinds[1].append(partial(_escalate, name=where, node=node, branch=branch))
    drawn = [[kind[i] for i in rng.permutation(len(kind))] for kind in kinds]
    # In turn, for a procedure has many more branches than thresholds.
    turns = zip_longest(*(drawn if rng.random() < 0.5 else reversed(drawn)))
    order = [change for turn in turns for change in turn if change is not None]
    wanted = math.ceil(severity * sum(not procedure.shared for procedure in domain.procedures.values()))
    changed, done = domain, 0
    while done < wanted and order:
        some, order = order[: wanted - done], order[wanted - done :]
        changed, count = _applied(changed, some)
        done += count
    if not done:
        raise HandrailError(
            f"domain {domain.name!r}: no decision could be changed; shift 'changed_rule' needs a numeric threshold in "
            "a guard, or a branch that some but not all cases take and an outcome for escalation"
        )
    return changed


_Change = Callable[[_Data], bool]
"""Changes plain data in place, and tells whether it could."""


def _applied(domain: Domain, changes: list[_Change]) -> tuple[Domain, int]:
    """Return the domain after those of `changes` that leave it fit to pass its checks, and how many they are.

    Some leave a guard that no case meets, or a node that none reaches. All are tried at once, then each half.
    """
    trial = _tried(domain, changes)
    if trial is not None:
        return trial, len(changes)
    if len(changes) == 1:
        return domain, 0
    half = len(changes) // 2
    domain, first = _applied(domain, changes[:half])
    domain, second = _applied(domain, changes[half:])
    return domain, first + second


def _tried(domain: Domain, changes: Iterable[_Change]) -> Domain | None:
    """Return the domain after `changes`, `None` if one does not apply or the domain does not pass its checks."""
    trial = _plain(domain)
    if not all(change(trial) for change in changes):
        return None
    changed = _domain(trial)
    try:
        check_domain(changed)
    except HandrailError:
        return None
    return changed


def _thresholds(data: _Data) -> list[tuple[str, float]]:
    """Return the numbers above 1 that guards of a procedure compare with, as (procedure, number)."""
    found: dict[tuple[str, float], None] = {}
    for procedure, node in _nodes(data):
        for branch in node["decide"] or ():
            for number in _numbers(branch["when"]):
                found[procedure, number] = None
    return list(found)


def _numbers(text: str | None) -> list[float]:
    """Return the numbers above 1 that the expression compares something with."""
    if text is None:
        return []
    found = []
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        if isinstance(node, ast.Compare) and not any(
            "times(" in ast.unparse(one) for one in (node.left, *node.comparators)
        ):
            for one in node.comparators:
                number = _number(one)
                if number is not None and number > 1:
                    found.append(number)
    return found


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    return None


def _moved(number: float, rng: np.random.Generator, severity: float) -> float:
    factor = 1 + 2 * severity * rng.uniform(0.5, 1)
    new = number * factor if rng.random() < 0.5 else number / factor
    if number != int(number):
        return round(new, 2)
    whole = max(1, round(new))
    return whole if whole != number else number + 1


def _move_threshold(data: _Data, procedure: str, old: float, new: float) -> bool:
    """Replace `old` by `new` in all that the procedure decides by."""
    if (procedure, old) not in _thresholds(data):
        return False
    nodes = data["procedures"][procedure]["nodes"].values()
    acts = {node["submit"] for node in nodes if node["submit"]}
    tells = {name for node in nodes for name in _listed(node["tell"])}

    def replaced(text: str | None) -> str | None:
        if text is None or old not in _numbers(text):
            return text
        tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                for one in node.comparators:
                    if isinstance(one, ast.Constant) and _number(one) == old:
                        one.value = new
        return ast.unparse(tree)

    def reworded(text: str) -> str:
        shown = rf"(?<![\w.]){re.escape(f'{old:.2f}')}(?![\w])|(?<![\w.]){re.escape(str(old))}(?![\w]|\.\d)"
        pieces = re.split(r"(\{[^{}]*\})", text)
        return "".join(p if p.startswith("{") else re.sub(shown, f"{new:g}", p) for p in pieces)

    for node in nodes:
        for branch in node["decide"] or ():
            branch["when"] = replaced(branch["when"])
    for rule in data["rules"].values():
        if acts.union(tells) & set(rule["never"]):
            rule["when"] = replaced(rule["when"])
            rule["text"] = reworded(rule["text"])
    for screen in data["screens"].values():
        for form in screen["forms"]:
            if form["id"] in acts:
                form["when"] = replaced(form["when"])
                for field in form["fields"]:
                    field["valid"] = replaced(field["valid"])
                    field["error"] = reworded(field["error"])
    for name in tells:
        data["templates"][name]["text"] = reworded(data["templates"][name]["text"])
    return True


def _branches(data: _Data) -> list[tuple[str, str, int]]:
    """Return the guarded branches of decisions that may lead to escalation, as (procedure, node, branch)."""
    outcomes = data["desk"]["outcomes"]
    if len(outcomes) < 2:
        return []
    found = []
    for name, procedure in data["procedures"].items():
        if procedure["shared"]:
            continue
        everything = _reachable(procedure)
        for node, spec in procedure["nodes"].items():
            for i, branch in enumerate(spec["decide"] or ()):
                trial = {**procedure, "nodes": _redirected(procedure, node, i, outcomes[-1])}
                left = _reachable(trial)
                ends = {trial["nodes"][one]["close"] for one in left}
                # Most of the procedure stays as it was, good ends stay possible, and the branch was none to escalation.
                stays = outcomes[0] in ends and len(left) >= _STAYS * len(everything)
                if branch["when"] and stays and outcomes[-1] not in _ends(procedure, branch["to"]):
                    found.append((name, node, i))
    return found


def _redirected(procedure: _Data, node: str, branch: int, outcome: str) -> _Data:
    """Return the nodes of `procedure` with one branch leading to a node that closes the case with `outcome`."""
    nodes = dict(procedure["nodes"])
    decide = [dict(one) for one in nodes[node]["decide"]]
    decide[branch]["to"] = _SECOND_LINE
    nodes[node] = {**nodes[node], "decide": decide}
    nodes[_SECOND_LINE] = msgspec.to_builtins(Node(close=outcome))
    return nodes


def _escalate(data: _Data, name: str, node: str, branch: int) -> bool:
    """Let a branch close the case as escalated, and remove the nodes that nothing leads to any more."""
    if (name, node, branch) not in _branches(data):
        return False
    procedure = data["procedures"][name]
    nodes = _redirected(procedure, node, branch, data["desk"]["outcomes"][-1])
    procedure["nodes"] = nodes
    left = _reachable(procedure)
    procedure["nodes"] = {key: value for key, value in nodes.items() if key in left}
    return True


_SECOND_LINE: Final = "to_second_line"
_STAYS: Final = 0.6


def _ways(node: _Data) -> list[str]:
    to = [branch["to"] for branch in node.get("decide") or ()] + list((node.get("then") or {}).values())
    return to + ([node["next"]] if node.get("next") else [])


def _reachable(procedure: _Data, start: str | None = None) -> set[str]:
    seen: set[str] = set()
    left = [start or procedure["start"]]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += _ways(procedure["nodes"][name])
    return seen


def _ends(procedure: _Data, start: str) -> set[str]:
    return {end for name in _reachable(procedure, start) if (end := procedure["nodes"][name]["close"])}


# --- issues --------------------------------------------------------------------------------------------------------


def split_issues(domain: Domain, rng: np.random.Generator) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a domain's issues into those that are logged and those that are not.

    Args:
        domain: with at least two issues.
        rng: draws the unseen ones, a quarter of all but at least one.

    Returns:
        The known and the unseen issues, each in the order of the domain.

    Raises:
        HandrailError: the domain has only one issue.
    """
    names = list(domain.issues)
    if len(names) < 2:
        raise HandrailError(f"domain {domain.name!r} has one issue, {names[0]!r}; a split needs two or more")
    count = max(1, round(UNSEEN_SHARE * len(names)))
    unseen = {names[i] for i in rng.permutation(len(names))[:count]}
    return tuple(n for n in names if n not in unseen), tuple(n for n in names if n in unseen)


def unseen_issue(domain: Domain, rng: np.random.Generator, severity: float) -> Domain:
    """Let issues come in that were never logged: those that `split_issues` finds with the same generator.

    The severity is the share of first issues that are unseen ones. At 0 only known ones come in, as in the logs. The
    procedures of all issues stay on the screen in any case, so that nothing but the cases tells.
    """
    known, unseen = split_issues(domain, rng)
    shares = dict.fromkeys(known, 1 - severity) | dict.fromkeys(unseen, severity)
    totals = {name: sum(domain.issues[other].weight for other in group) for group in (known, unseen) for name in group}
    issues = {}
    for name, issue in domain.issues.items():
        weight = shares[name] * issue.weight / totals[name]
        # Weights are above 0 in every domain; this one stands for never. Nor is such an issue raised second.
        issues[name] = msgspec.structs.replace(
            issue, weight=max(weight, _NEVER), second=issue.second if shares[name] else []
        )
    return msgspec.structs.replace(domain, issues=issues)


_NEVER: Final = 1e-12


# --- language ------------------------------------------------------------------------------------------------------


def language(domain: Domain, rng: np.random.Generator, severity: float) -> Domain:
    """Let customers write another language: with severity s, a share s of their phrases is in it.

    Raises:
        HandrailError: the domain has no other language.
    """
    if not domain.languages:
        raise HandrailError(
            f"domain {domain.name!r} has no `languages`; shift 'language' needs the customers' phrases in another one"
        )
    if not severity:
        return domain
    name = list(domain.languages)[int(rng.integers(len(domain.languages)))]
    other = domain.languages[name]
    data = _plain(domain)

    def mixed(own: Any, foreign: Any) -> Any:
        if isinstance(foreign, dict) and "say" in foreign:
            foreign = foreign["say"]
        if not foreign:
            return own
        if isinstance(own, dict):
            return {key: mixed(phrases, foreign.get(key)) for key, phrases in own.items()}
        return _blend(own, foreign, severity)

    for key, phrases in (other.get("small") or {}).items():
        data["small"][key] = mixed(data["small"][key], phrases)
    for issue, words in (other.get("issues") or {}).items():
        for key in ("opening", "second"):
            data["issues"][issue][key] = mixed(data["issues"][issue][key], words.get(key))
        for fact, says in (words.get("facts") or {}).items():
            data["issues"][issue]["facts"][fact]["say"] = mixed(data["issues"][issue]["facts"][fact]["say"], says)
    return _domain(data)


_PHRASES: Final = 20


def _blend(own: list[str], foreign: list[str], share: float) -> list[str]:
    """Return phrases of which `share` is foreign, to the nearest twentieth; each list in turn."""
    count = round(share * _PHRASES) if own else _PHRASES
    if count in (0, _PHRASES):
        return foreign if count else own
    return [foreign[i % len(foreign)] for i in range(count)] + [own[i % len(own)] for i in range(_PHRASES - count)]


# --- domains as plain data -----------------------------------------------------------------------------------------


def _plain(domain: Domain) -> _Data:
    data: _Data = msgspec.to_builtins(domain)
    return data


def _domain(data: _Data) -> Domain:
    return msgspec.convert(data, Domain)


def _nodes(data: _Data) -> Iterator[tuple[str, _Data]]:
    """Yield every node, with the name of its procedure."""
    for name, procedure in data["procedures"].items():
        for node in procedure["nodes"].values():
            yield name, node


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _rewrite(data: _Data, change: Callable[[str], str]) -> None:
    """Apply `change` to every expression that may speak of forms, templates and their fields."""

    def texts(mapping: _Data) -> _Data:
        return {key: change(text) for key, text in mapping.items()}

    def slots(text: str) -> str:
        return re.sub(r"\{([^{}]*)\}", lambda match: "{" + change(match[1]) + "}", text)

    def guarded(part: _Data, *keys: str) -> None:
        for key in keys:
            if part[key] is not None:
                part[key] = change(part[key])

    for screen in data["screens"].values():
        for one in screen["shows"]:
            guarded(one, "value")
        for table in screen["tables"]:
            guarded(table, "where")
        for form in screen["forms"]:
            guarded(form, "when")
            form["says"] = slots(form["says"])
            for field in form["fields"]:
                guarded(field, "valid")
            for effect in form["does"]:
                guarded(effect, "when")
                effect.update({key: texts(effect[key]) for key in ("by", "set", "fields")})
    for template in data["templates"].values():
        template["text"] = slots(template["text"])
    for _, node in _nodes(data):
        guarded(node, "where")
        node["values"] = texts(node["values"])
        for branch in node["decide"] or ():
            guarded(branch, "when")
    for rule in data["rules"].values():
        guarded(rule, "when")


SHIFTS: Final[Mapping[str, Shift]] = MappingProxyType(
    {shift.__name__: shift for shift in (renamed, reordered, mandatory_field, changed_rule, unseen_issue, language)}
)
"""The shifts by name."""
