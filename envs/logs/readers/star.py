"""STAR dialogues (Mosig, Mehri & Kober 2020) as sessions of a support desk.

The operator ("Wizard") types a phrase, gets ranked reply templates, picks one or writes freely; fills API forms;
switches tasks. In BPM terms:

| STAR event | action | critical |
|---|---|---|
| `pick_suggestion` | `send_reply`, target = template id | yes |
| `pick_suggestion` whose only option is `custom`, `utter` | `send_message`, args = text | yes |
| `query` | `submit_form`, target = API name, args = constraints | yes |
| `select_task` | `open_procedure`, target = task | no |
| `select_primary`, `select_secondary` | `select_item`, args = ordinal of the result | no |
| `complete` | `close_case`, done by the customer | no |

`ActionLabelOptions[0]` was the system's suggestion, so a pick carries a verdict. Stage directions (`UserGuide`) and the
customer's goal were never on the operator's screen: they go to `Session.hidden`. Oddities are counted in `counts`.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from handrail.envs.errors import HandrailError
from handrail.envs.schema import (
    Action,
    Arg,
    Constraint,
    Control,
    Event,
    Feedback,
    Message,
    Problem,
    Result,
    Session,
    Step,
    UIState,
)

T = TypeVar("T")

SUGGESTER = "star_nlu"
"""`Feedback.source` of the suggestions that STAR recorded."""

_CUSTOM = ["custom"]
_SELECTIONS = ("select_primary", "select_secondary")
_DESK_TEMPLATES = {
    "goodbye_1": "Thank you and goodbye.",
    "goodbye_2": "Thank you and goodbye.",
    "ask_departure_location": "Where are you departing from?",
}
_FIELD_KIND = {"Categorical": "select", "RequestType": "select", "Boolean": "checkbox", "Integer": "number"}


class _Event(msgspec.Struct, rename="pascal"):
    agent: str
    action: str
    unix_time: float | None = None
    text: str | None = None
    action_label: str | None = None
    action_label_options: list[str] | None = None
    api_name: str | None = msgspec.field(name="APIName", default=None)
    constraints: list[dict[str, str | None]] | None = None
    item: dict[str, Any] | None = None
    primary_item: msgspec.Raw = msgspec.Raw(b"null")
    secondary_item: msgspec.Raw = msgspec.Raw(b"null")
    task: str | None = None
    total_items: int | None = None


class _Capability(msgspec.Struct, rename="pascal"):
    task: str
    domain: str | None = None


class _Scenario(msgspec.Struct, rename="pascal"):
    wizard_capabilities: list[_Capability]
    happy: bool
    multi_task: bool
    wizard_task: str = ""
    user_task: str = ""
    domains: list[str | None] = []


class _Dialogue(msgspec.Struct, rename="pascal"):
    dialogue_id: int | str = msgspec.field(name="DialogueID")
    events: list[_Event]
    scenario: _Scenario
    completion_level: str
    operator: str = msgspec.field(name="AnonymizedWizardWorkerID")
    customer: str = msgspec.field(name="AnonymizedUserWorkerID", default="")
    batch: str = msgspec.field(name="BatchID", default="")
    user_questionnaire: list[dict[str, Any]] = []
    wizard_questionnaire: list[dict[str, Any]] = []


_DECODER = msgspec.json.Decoder(_Dialogue)


class Reader:
    """Reads the original layout: `dialogues/*.json`, `tasks/<task>/*.json`, `apis/apis/*.json`.

    Args:
        path: the STAR folder, the folder that holds it as `star/`, or a folder of dialogue files.
        catalog: where `tasks/` and `apis/` lie, if not beside the dialogues.

    Attributes:
        counts: how often each rule for an oddity applied, by rule name.

    Raises:
        HandrailError: no dialogue files, or no task and form descriptions, are there.
    """

    name: ClassVar[str] = "star"

    def __init__(self, path: Path, catalog: Path | None = None) -> None:
        path = Path(path)
        root = next((p for p in (path, path / "star") if (p / "dialogues").is_dir()), path)
        self.root = root / "dialogues" if (root / "dialogues").is_dir() else root
        if not self.root.is_dir() or next(self.root.glob("*.json"), None) is None:
            raise HandrailError(
                f"no STAR dialogues under {path}: expected dialogues/*.json there or in its folder star/; "
                "point path= (or HANDRAIL_DATA) at a copy of the STAR repository"
            )
        places = [Path(catalog)] if catalog is not None else [root, root.parent, root.parent / "star"]
        home = next((p for p in places if (p / "tasks").is_dir() and (p / "apis").is_dir()), None)
        if home is None:
            raise HandrailError(
                f"no tasks/ and apis/ folders in {', '.join(map(str, places))}: they describe the reply templates and "
                "forms of the STAR desk; copy them there or name their folder with catalog="
            )
        self._desk = _Desk(home)
        self._screens: dict[tuple[str, ...], tuple[Control, ...]] = {}
        self.counts: Counter[str] = Counter()

    def units(self) -> list[Path]:
        """Return the dialogue files, in numeric order of their names."""
        return sorted(self.root.glob("*.json"), key=lambda p: (len(p.stem), p.stem))

    def read(self, unit: Path) -> Iterator[Session | Problem]:
        """Yield the session of one dialogue file, or the problem that keeps it out."""
        file = unit.name
        try:
            raw = unit.read_bytes()
            dialogue = _DECODER.decode(raw)
        except OSError as error:
            yield Problem(file, "", -1, "unreadable_file", str(error)[:200], True)
        except msgspec.ValidationError as error:
            rule = "missing_key" if "missing required" in str(error) else "wrong_type"
            yield Problem(file, "", -1, rule, str(error)[:200], True)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield Problem(file, "", -1, "corrupt_json", str(error)[:200], True)
        else:
            yield self._session(dialogue, file)

    def controls(self, tasks: tuple[str, ...]) -> tuple[Control, ...]:
        """Return everything an operator of these tasks can act on: templates, forms, procedures; cached."""
        if tasks not in self._screens:
            self._screens[tasks] = self._desk.controls(tasks)
        return self._screens[tasks]

    def _session(self, dialogue: _Dialogue, file: str) -> Session | Problem:
        scenario, session_id = dialogue.scenario, str(dialogue.dialogue_id)
        tasks = tuple(c.task for c in scenario.wizard_capabilities)
        unknown = [t for t in tasks if t not in self._desk.forms]
        if unknown or not tasks:
            return Problem(file, session_id, -1, "unknown_task", str(unknown or "no task"), True)
        walk = _Walk(self.controls(tasks), tasks, self.counts)
        _show_selections(dialogue.events)
        for number, event in enumerate(dialogue.events):
            try:
                walk.take(event)
            except _BadEvent as error:
                return Problem(file, session_id, number, error.rule, error.value[:200], True)
        if not any(step.actor == "operator" for step in walk.steps):
            rule = "no_events" if not dialogue.events else "no_operator_action"
            return Problem(file, session_id, -1, rule, f"{len(dialogue.events)} events", True)
        self.counts.update(walk.leftovers())
        guided = bool(walk.guide)
        kind = "multi_task" if scenario.multi_task else "happy" if scenario.happy and not guided else "unhappy"
        return Session(
            id=session_id,
            source=self.name,
            issue="multi_task" if len(tasks) > 1 else tasks[0],
            operator=dialogue.operator,
            brief=scenario.wizard_task.strip(),
            steps=tuple(walk.steps),
            tail=tuple(walk.events),
            tags={
                "kind": kind,
                "completion": dialogue.completion_level,
                "domain": tasks[0].split("_")[0] if len(tasks) == 1 else "multi_task",
                "tasks": ",".join(tasks),
                "batch": dialogue.batch,
            },
            outcome={
                "customer_answers": dialogue.user_questionnaire,
                "operator_answers": dialogue.wizard_questionnaire,
            },
            hidden={
                "customer_task": scenario.user_task,
                "customer": dialogue.customer,
                "stage_directions": [{"time": t, "text": text} for t, text in walk.guide],
            },
            file=file,
        )


def _show_selections(events: list[_Event]) -> None:
    """Give `select_…` events the items they selected.

    STAR logs with each operator's event what was selected before it, so a selection shows in the operator's next one.
    """
    chain = [event for event in events if event.agent == "Wizard"]
    for event, following in itertools.pairwise(chain):
        if event.action in _SELECTIONS:
            event.primary_item, event.secondary_item = following.primary_item, following.secondary_item
    if chain and chain[-1].action in _SELECTIONS:
        chain[-1].primary_item = chain[-1].secondary_item = msgspec.Raw(b"null")


class _BadEvent(Exception):
    def __init__(self, rule: str, value: str) -> None:
        super().__init__(rule)
        self.rule, self.value = rule, value


class _Desk:
    """Templates and forms of every task."""

    def __init__(self, home: Path) -> None:
        self.templates: dict[str, dict[str, str]] = {}
        self.forms: dict[str, Control] = {}
        for folder in sorted((home / "tasks").iterdir()):
            if not folder.is_dir():
                continue
            graph = _load(folder / f"{folder.name}.json").get("replies", {})
            self.templates[folder.name] = {**graph, **_load(folder / "responses.json")}
            self.templates[folder.name].pop("query", None)
            self.forms[folder.name] = _form(folder.name, _load(home / "apis" / "apis" / f"{folder.name}.json"))

    def controls(self, tasks: tuple[str, ...]) -> tuple[Control, ...]:
        found: dict[str, Control] = {}
        for task in tasks:
            for template, text in self.templates[task].items():
                group = "" if template in found else task
                found[template] = Control(template, "template", label=text, group=group)
        for template, text in _DESK_TEMPLATES.items():
            found.setdefault(template, Control(template, "template", label=text))
        forms = [self.forms[task] for task in tasks]
        tabs = [Control(task, "tab", label=task.replace("_", " ")) for task in tasks] if len(tasks) > 1 else []
        return (
            *found.values(),
            Control("chat", "message_box", label="Message to the customer"),
            *forms,
            *tabs,
            Control("results", "table", label="Results"),
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise HandrailError(f"{path} is missing: every task of STAR needs its file there") from None
    except msgspec.DecodeError as error:
        raise HandrailError(f"{path} is no JSON object: {error}") from None


def _form(task: str, api: dict[str, Any]) -> Control:
    fields = []
    for item in api["input"]:
        kind = _FIELD_KIND.get(item["Type"], "text")
        options = tuple(item.get("Categories", ())) if kind == "select" else ()
        fields.append(
            Control(
                item["Name"],
                kind,  # type: ignore[arg-type]
                label=item.get("ReadableName", ""),
                options=options,
                required=item["Name"] in api.get("required", ()),
                group=task,
            )
        )
    return Control(task, "form", label=task.replace("_", " "), fields=tuple(fields), group=task)


class _Walk:
    """Turns the events of one dialogue into steps, in order."""

    def __init__(self, controls: tuple[Control, ...], tasks: tuple[str, ...], counts: Counter[str]) -> None:
        self.controls, self.counts = controls, counts
        self.procedure = tasks[0]
        self.steps: list[Step] = []
        self.events: list[Event] = []
        self.drafts: list[Message] = []
        self.results: list[dict[str, Any] | None] = []
        self.selected: dict[str, Any] | None = None
        self.guide: list[tuple[float | None, str]] = []

    def take(self, event: _Event) -> None:
        handler = _HANDLERS.get((event.agent, event.action))
        if handler is None:
            raise _BadEvent("unknown_event", f"{event.agent}/{event.action}")
        handler(self, event)

    def leftovers(self) -> dict[str, int]:
        return {"draft_never_sent": len(self.drafts)} if self.drafts else {}

    def step(
        self,
        event: _Event,
        action: Action,
        critical: bool = False,
        feedback: Feedback | None = None,
        actor: Any = "operator",
    ) -> None:
        state = UIState("desk", self.procedure, self.controls, {}, self.selected)
        drafts = tuple(self.drafts)
        if len(drafts) > 1 or (drafts and action.tool not in ("send_reply", "send_message")):
            self.counts["draft_abandoned"] += len(drafts) - (action.tool in ("send_reply", "send_message"))
        self.steps.append(
            Step(
                index=len(self.steps),
                state=state,
                events=tuple(self.events),
                action=action,
                actor=actor,
                time=event.unix_time,
                critical=critical,
                feedback=feedback,
                drafts=drafts,
            )
        )
        self.events, self.drafts = [], []

    def customer_message(self, event: _Event) -> None:
        self.events.append(Message("customer", _need(event, event.text, "Text"), event.unix_time))

    def stage_direction(self, event: _Event) -> None:
        self.guide.append((event.unix_time, _need(event, event.text, "Text")))

    def draft(self, event: _Event) -> None:
        self.drafts.append(Message("operator", _need(event, event.text, "Text"), event.unix_time))

    def pick(self, event: _Event) -> None:
        label = _need(event, event.action_label, "ActionLabel")
        text = _need(event, event.text, "Text")
        options = _need(event, event.action_label_options, "ActionLabelOptions")
        if options == _CUSTOM:
            self.counts["custom_pick_is_free_text"] += 1
            self.message(event)
            return
        if not options:
            raise _BadEvent("no_options", f"pick_suggestion {label} with an empty ActionLabelOptions")
        action = _reply(label)
        unique = options
        if len(set(options)) < len(options):
            unique = list(dict.fromkeys(options))
            self.counts["duplicate_options"] += 1
        accepted = label == unique[0]
        feedback = Feedback(
            suggestion=action if accepted else _reply(unique[0]),
            verdict="accept" if accepted else "reject",
            correction=None if accepted else action,
            alternatives=tuple(map(_reply, unique[1:])),
            source=SUGGESTER,
        )
        self.step(event, action, critical=True, feedback=feedback)
        self.events.append(Message("operator", text, event.unix_time))

    def message(self, event: _Event) -> None:
        text = _need(event, event.text, "Text")
        action = Action("send_message", "chat", {"text": text})
        overridden = bool(self.drafts) or event.action_label_options is not None
        if event.action == "utter" and event.action_label is not None:
            self.counts["free_text_with_label"] += 1
        feedback = Feedback(None, "reject", action, source=SUGGESTER) if overridden else None
        self.step(event, action, critical=True, feedback=feedback)
        self.events.append(Message("operator", text, event.unix_time))

    def query(self, event: _Event) -> None:
        api = _need(event, event.api_name, "APIName")
        fields: dict[str, Arg] = {}
        for entry in _need(event, event.constraints, "Constraints"):
            for name, source in entry.items():
                value = self._value(source)
                if name not in fields:
                    fields[name] = value
                elif fields[name] == value:
                    self.counts["repeated_constraint"] += 1
                else:
                    self.counts["conflicting_constraints_joined"] += 1
                    first = fields[name]
                    known = list(first.value) if isinstance(first, Constraint) and first.op == "all_of" else [first]
                    fields[name] = Constraint("all_of", [*known, value])
        self.step(event, Action("submit_form", api, fields), critical=True)

    def result(self, event: _Event) -> None:
        source = _need(event, event.api_name, "APIName")
        item = event.item
        if item is not None:
            item = {k: v for k, v in item.items() if k != "APIName"}
            self.selected = item
        total = event.total_items if event.total_items is not None and event.total_items >= 0 else None
        self.results.append(item)
        self.events.append(Result(source, item, total))

    def open_procedure(self, event: _Event) -> None:
        task = _need(event, event.task, "Task")
        self.step(event, Action("open_procedure", task))
        self.procedure = task

    def select_item(self, event: _Event) -> None:
        raw = event.primary_item if event.action == "select_primary" else event.secondary_item
        item = msgspec.json.decode(raw)
        args: dict[str, Arg] = {} if event.action == "select_primary" else {"slot": "secondary"}
        if isinstance(item, dict):
            item.pop("APIName", None)
            ordinals = [n for n, known in enumerate(self.results, start=1) if known == item]
            if ordinals:
                args["result"] = ordinals[-1]
            else:
                self.counts["selected_item_was_no_result"] += 1
                args["item"] = msgspec.json.encode(item).decode()
        else:
            item = None
            self.counts["selection_cleared"] += 1
        self.step(event, Action("select_item", "results", args))
        if event.action == "select_primary":
            self.selected = item

    def close(self, event: _Event) -> None:
        self.step(event, Action("close_case"), actor="customer")

    def _value(self, source: str | None) -> Arg:
        """Parse a Python-like constraint; what does not parse is kept as the text the operator typed."""
        if source is None:
            return None
        parsed, value = _constraint(source.strip())
        if not parsed:
            self.counts["constraint_kept_as_text"] += 1
        return value


@functools.lru_cache(maxsize=65536)
def _constraint(source: str) -> tuple[bool, Arg]:
    """Return whether a constraint parses, and its value or the text itself. Values recur, and parsing is slow."""
    try:
        return True, _parse(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError):
        return False, source


@functools.lru_cache(maxsize=4096)
def _reply(template: str) -> Action:
    return Action("send_reply", template)


def _parse(node: ast.expr) -> Any:
    """Return the value of a constraint expression: a literal, `null`, or `api.<operator>(…)`."""
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Attribute) or not isinstance(node.func.value, ast.Name) or node.keywords:
            raise ValueError("no operator of a form")
        operands = [_parse(arg) for arg in node.args]
        if len(operands) > 1:
            raise ValueError("more than one operand")
        return Constraint(node.func.attr, operands[0] if operands else None)
    if isinstance(node, ast.Name):
        names = {"null": None, "true": True, "false": False}
        if node.id not in names:
            raise ValueError(f"unknown name {node.id}")
        return names[node.id]
    value = node.value if isinstance(node, ast.Constant) else ast.literal_eval(node)
    if not isinstance(value, str | int | float | list | None):
        raise ValueError(f"no form holds a {type(value).__name__}")
    return value


def _need(event: _Event, value: T | None, key: str) -> T:
    if value is None:
        raise _BadEvent("missing_key", f"{event.agent}/{event.action} without {key}")
    return value


_HANDLERS = {
    ("User", "utter"): _Walk.customer_message,
    ("User", "complete"): _Walk.close,
    ("UserGuide", "instruct"): _Walk.stage_direction,
    ("Wizard", "request_suggestions"): _Walk.draft,
    ("Wizard", "pick_suggestion"): _Walk.pick,
    ("Wizard", "utter"): _Walk.message,
    ("Wizard", "query"): _Walk.query,
    ("Wizard", "select_task"): _Walk.open_procedure,
    ("Wizard", "select_primary"): _Walk.select_item,
    ("Wizard", "select_secondary"): _Walk.select_item,
    ("KnowledgeBase", "return_item"): _Walk.result,
}
