"""The STAR reader: what becomes of each kind of event, on a hand-written desk of three tasks, and on the real logs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from handrail.envs.errors import HandrailError
from handrail.envs.logs.readers.star import SUGGESTER, Reader
from handrail.envs.logs.validate import Validator
from handrail.envs.offers import offers
from handrail.envs.schema import Action, Constraint, Control, Feedback, Message, Problem, Result, Session

Event = dict[str, Any]

TASKS = {
    "bank_balance": {
        "replies": {"hello": "Hello!", "bank_ask_pin": "Your PIN, please.", "query": "Query"},
        "responses": {"hello": "Hello, how can I help?", "out_of_scope": "Sorry?"},
        "api": {
            "input": [
                {"Name": "BankName", "Type": "Categorical", "Categories": ["Chase", "PNC"], "ReadableName": "Bank"},
                {"Name": "PIN", "Type": "ShortString"},
                {"Name": "MaxFee", "Type": "Integer"},
                {"Name": "Joint", "Type": "Boolean"},
                {"Name": "RequestType", "Type": "RequestType", "Categories": ["Check", "Book"]},
            ],
            "required": ["PIN"],
        },
    },
    "hotel_search": {
        "replies": {"hello": "Hello!", "hotel_ask_price": "What price?", "goodbye_1": "Bye."},
        "responses": {},
        "api": {"input": [{"Name": "Name", "Type": "ShortString"}, {"Name": "Rating", "Type": "Integer"}]},
    },
    "ride_status": {"replies": {"ride_ok": "On its way."}, "responses": {}, "api": {"input": []}},
}
CHASE = {"APIName": "bank_balance", "BankName": "Chase", "id": 1}
PNC = {"APIName": "bank_balance", "BankName": "PNC", "id": 2}


def shown(item: Event) -> Event:
    """A record as the operator sees it."""
    return {name: value for name, value in item.items() if name != "APIName"}


@pytest.fixture
def star(tmp_path: Path) -> Path:
    for task, content in TASKS.items():
        folder = tmp_path / "tasks" / task
        folder.mkdir(parents=True)
        (folder / f"{task}.json").write_text(json.dumps({"task": task, "replies": content["replies"], "graph": {}}))
        (folder / "responses.json").write_text(json.dumps(content["responses"]))
        api = tmp_path / "apis" / "apis" / f"{task}.json"
        api.parent.mkdir(parents=True, exist_ok=True)
        api.write_text(json.dumps(content["api"]))
    (tmp_path / "dialogues").mkdir()
    return tmp_path


def user(text: str, time: float | None = None) -> Event:
    return {"Agent": "User", "Action": "utter", "Text": text, "UnixTime": time}


def wizard(action: str, **more: Any) -> Event:
    return {"Agent": "Wizard", "Action": action, **more}


def draft(text: str, **more: Any) -> Event:
    return wizard("request_suggestions", Text=text, **more)


def pick(label: str, options: list[str], text: str = "T", **more: Any) -> Event:
    return wizard("pick_suggestion", ActionLabel=label, ActionLabelOptions=options, Text=text, **more)


def query(*constraints: dict[str, str | None], api: str = "bank_balance", **more: Any) -> Event:
    return wizard("query", APIName=api, Constraints=list(constraints), **more)


def answer(item: Event | None, total: int = 3, api: str = "bank_balance") -> Event:
    event: Event = {"Agent": "KnowledgeBase", "Action": "return_item", "APIName": api, "TotalItems": total}
    return event if item is None else {**event, "Item": item}


def dialogue(events: list[Event], tasks: tuple[str, ...] = ("bank_balance",), **scenario: Any) -> Event:
    return {
        "DialogueID": 7,
        "BatchID": "b1",
        "CompletionLevel": "Complete",
        "AnonymizedWizardWorkerID": "w1",
        "AnonymizedUserWorkerID": "u1",
        "Events": events,
        "Scenario": {
            "WizardCapabilities": [{"Task": task, "Domain": task.split("_")[0]} for task in tasks],
            "Happy": True,
            "MultiTask": len(tasks) > 1,
            "WizardTask": " Help the customer. ",
            "UserTask": "You want money.",
            "Domains": [None],
            **scenario,
        },
        "UserQuestionnaire": [{"Question": "Done?", "Answer": "Yes"}],
        "WizardQuestionnaire": [],
    }


def read(star: Path, content: Any) -> tuple[Session | Problem, dict[str, int]]:
    """Read one dialogue; return what it gave and the counts of oddities."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (star / "dialogues" / "7.json").write_bytes(text)
    reader = Reader(star)
    (unit,) = reader.units()
    (item,) = reader.read(unit)
    return item, dict(reader.counts)


def session(
    star: Path, events: list[Event], tasks: tuple[str, ...] = ("bank_balance",), **more: Any
) -> tuple[Session, dict[str, int]]:
    item, counts = read(star, dialogue(events, tasks, **more))
    assert isinstance(item, Session), item
    return item, counts


def problem(star: Path, content: Any) -> Problem:
    item, _ = read(star, content)
    assert isinstance(item, Problem), item
    assert (item.file, item.quarantined) == ("7.json", True)
    return item


def test_a_dialogue_as_a_session(star: Path) -> None:
    found, counts = session(
        star,
        [
            user("Hi", 10.0),
            draft("hello", UnixTime=12.0),
            pick("hello", ["hello", "bank_ask_pin"], "Hello, how can I help?", UnixTime=13.0),
            user("My balance", 20.0),
            user("please", 21.0),
            query({"BankName": '"Chase"'}, UnixTime=30.0),
            answer(CHASE),
            wizard("utter", Text="You have 5 dollars.", UnixTime=40.0),
            user("Thanks", 50.0),
            {"Agent": "User", "Action": "complete", "UnixTime": 55.0},
        ],
    )
    assert counts == {}
    assert (found.id, found.source, found.issue, found.operator, found.file) == (
        "7",
        "star",
        "bank_balance",
        "w1",
        "7.json",
    )
    assert found.brief == "Help the customer."
    assert found.tags == {
        "kind": "happy",
        "completion": "Complete",
        "domain": "bank",
        "tasks": "bank_balance",
        "batch": "b1",
    }
    assert found.outcome == {"customer_answers": [{"Question": "Done?", "Answer": "Yes"}], "operator_answers": []}
    assert found.hidden == {"customer_task": "You want money.", "customer": "u1", "stage_directions": []}
    greet, ask, tell, close = found.steps
    assert greet.action == Action("send_reply", "hello")
    assert greet.events == (Message("customer", "Hi", 10.0),)
    assert greet.drafts == (Message("operator", "hello", 12.0),)
    assert (greet.time, greet.critical, greet.actor) == (13.0, True, "operator")
    assert ask.action == Action("submit_form", "bank_balance", {"BankName": "Chase"})
    assert ask.events == (
        Message("operator", "Hello, how can I help?", 13.0),
        Message("customer", "My balance", 20.0),
        Message("customer", "please", 21.0),
    )
    assert (ask.critical, ask.feedback, ask.drafts, ask.state.selected) == (True, None, (), None)
    assert tell.action == Action("send_message", "chat", {"text": "You have 5 dollars."})
    assert tell.events == (Result("bank_balance", shown(CHASE), 3),)
    assert tell.critical
    assert tell.state.selected == shown(CHASE)
    assert close.action == Action("close_case")
    assert (close.actor, close.critical, close.time) == ("customer", False, 55.0)
    assert [event.text for event in close.events if isinstance(event, Message)] == ["You have 5 dollars.", "Thanks"]
    assert [step.index for step in found.steps] == [0, 1, 2, 3]
    assert {step.state.procedure for step in found.steps} == {"bank_balance"}


def test_the_screen(star: Path) -> None:
    controls = session(star, [pick("hello", ["hello"])])[0].steps[0].state.controls
    by_id = {control.id: control for control in controls}
    templates = {"hello", "bank_ask_pin", "out_of_scope", "goodbye_1", "goodbye_2", "ask_departure_location"}
    assert {c.id for c in controls if c.kind == "template"} == templates
    assert by_id["hello"].label == "Hello, how can I help?"
    assert by_id["bank_balance"].fields == (
        Control("BankName", "select", label="Bank", options=("Chase", "PNC"), group="bank_balance"),
        Control("PIN", "text", required=True, group="bank_balance"),
        Control("MaxFee", "number", group="bank_balance"),
        Control("Joint", "checkbox", group="bank_balance"),
        Control("RequestType", "select", options=("Check", "Book"), group="bank_balance"),
    )
    assert [c.id for c in controls if c.kind != "template"] == ["chat", "bank_balance", "results"]


def test_the_screen_of_several_tasks_has_tabs_and_shared_templates(star: Path) -> None:
    tasks = ("hotel_search", "bank_balance")
    found, _ = session(star, [pick("hello", ["hello"])], tasks)
    controls = found.steps[0].state.controls
    assert [c.id for c in controls if c.kind == "tab"] == list(tasks)
    assert [c.id for c in controls if c.kind == "form"] == list(tasks)
    groups = {c.id: c.group for c in controls if c.kind == "template"}
    assert (groups["hello"], groups["hotel_ask_price"], groups["bank_ask_pin"]) == ("", "hotel_search", "bank_balance")
    assert found.issue == found.tags["domain"] == found.tags["kind"] == "multi_task"
    assert found.tags["tasks"] == "hotel_search,bank_balance"
    assert found.steps[0].state.procedure == "hotel_search"


@pytest.mark.parametrize(
    ("label", "options", "feedback", "counts"),
    [
        (
            "hello",
            ["hello", "bank_ask_pin"],
            Feedback(
                Action("send_reply", "hello"),
                "accept",
                None,
                (Action("send_reply", "bank_ask_pin"),),
                SUGGESTER,
            ),
            {},
        ),
        (
            "bank_ask_pin",
            ["hello", "bank_ask_pin", "out_of_scope"],
            Feedback(
                Action("send_reply", "hello"),
                "reject",
                Action("send_reply", "bank_ask_pin"),
                (Action("send_reply", "bank_ask_pin"), Action("send_reply", "out_of_scope")),
                SUGGESTER,
            ),
            {},
        ),
        (
            "hello",
            ["hello", "hello", "bank_ask_pin", "hello"],
            Feedback(Action("send_reply", "hello"), "accept", None, (Action("send_reply", "bank_ask_pin"),), SUGGESTER),
            {"duplicate_options": 1},
        ),
    ],
)
def test_a_pick_carries_the_verdict_on_the_first_option(
    star: Path, label: str, options: list[str], feedback: Feedback, counts: dict[str, int]
) -> None:
    found, counted = session(star, [draft("d"), pick(label, options)])
    assert found.steps[0].action == Action("send_reply", label)
    assert found.steps[0].feedback == feedback
    assert counted == counts


def test_a_custom_pick_is_an_override_by_free_text(star: Path) -> None:
    found, counts = session(star, [draft("five"), pick("custom", ["custom"], "Five dollars.")])
    sent = Action("send_message", "chat", {"text": "Five dollars."})
    assert found.steps[0].action == sent
    assert found.steps[0].critical
    assert found.steps[0].feedback == Feedback(None, "reject", sent, source=SUGGESTER)
    assert found.tail == (Message("operator", "Five dollars."),)
    assert counts == {"custom_pick_is_free_text": 1}


def test_free_text_after_a_draft_is_an_override_and_without_one_has_no_feedback(star: Path) -> None:
    found, counts = session(star, [wizard("utter", Text="A"), draft("b"), wizard("utter", Text="B")])
    first, second = found.steps
    assert first.feedback is None
    assert second.feedback == Feedback(None, "reject", Action("send_message", "chat", {"text": "B"}), source=SUGGESTER)
    assert second.drafts == (Message("operator", "b"),)
    assert counts == {}


def test_free_text_that_carries_a_label_is_counted(star: Path) -> None:
    found, counts = session(star, [wizard("utter", Text="A", ActionLabel="hello")])
    assert found.steps[0].action.tool == "send_message"
    assert counts == {"free_text_with_label": 1}


def test_drafts_that_came_to_nothing_are_counted(star: Path) -> None:
    found, counts = session(star, [draft("a"), draft("b"), pick("hello", ["hello"]), draft("c"), query(), draft("d")])
    assert [[m.text for m in step.drafts] for step in found.steps] == [["a", "b"], ["c"]]
    assert counts == {"draft_abandoned": 2, "draft_never_sent": 1}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('"John"', "John"),
        ("'John'", "John"),
        (' "John" ', "John"),
        ('"0314"', "0314"),
        ("12", 12),
        ("-3.5", -3.5),
        ("null", None),
        (None, None),
        ("true", True),
        ("False", False),
        ('api.is_equal_to("x")', Constraint("is_equal_to", "x")),
        ("api.is_at_most(20)", Constraint("is_at_most", 20)),
        ("api.is_at_least(-1)", Constraint("is_at_least", -1)),
        ('api.is_one_of(["a", "b"])', Constraint("is_one_of", ["a", "b"])),
        ("api.is_anything()", Constraint("is_anything", None)),
        ("api.is_not(null)", Constraint("is_not", None)),
    ],
)
def test_constraints_are_parsed(star: Path, source: str | None, value: Any) -> None:
    found, counts = session(star, [query({"PIN": source})])
    parsed = found.steps[0].action.args["PIN"]
    assert parsed == value
    assert type(parsed) is type(value)
    assert counts == {}


@pytest.mark.parametrize(
    "source",
    [
        "0314",
        " 0314 ",
        "John Smith",
        '"unclosed',
        "12 34",
        "api.is_between(1, 2)",
        "api.is_equal_to(x=1)",
        "__import__('os').getcwd()",
        "unknown",
        "api",
        "len('x')",
        "...",
        "1, 2",
        "b'x'",
        "",
    ],
)
def test_constraints_that_do_not_parse_stay_text(star: Path, source: str) -> None:
    found, counts = session(star, [query({"PIN": source})])
    assert found.steps[0].action.args == {"PIN": source.strip()}
    assert counts == {"constraint_kept_as_text": 1}


def test_a_field_given_twice(star: Path) -> None:
    repeated, counts = session(star, [query({"PIN": '"1"'}, {"PIN": '"1"'})])
    assert repeated.steps[0].action.args == {"PIN": "1"}
    assert counts == {"repeated_constraint": 1}
    low, high = Constraint("is_at_least", 1), Constraint("is_at_most", 9)
    constraints: list[dict[str, str | None]] = [
        {"MaxFee": "api.is_at_least(1)", "PIN": "null"},
        {"MaxFee": "api.is_at_most(9)"},
        {"MaxFee": "api.is_not(5)"},
    ]
    joined, counts = session(star, [query(*constraints)])
    expected = Constraint("all_of", [low, high, Constraint("is_not", 5)])
    assert joined.steps[0].action.args == {"MaxFee": expected, "PIN": None}
    assert counts == {"conflicting_constraints_joined": 2}


def test_a_result_without_a_record_and_an_unknown_total(star: Path) -> None:
    found, _ = session(star, [query(), answer(CHASE), query(), answer(None, total=-1), query()])
    assert found.steps[1].events == (Result("bank_balance", shown(CHASE), 3),)
    assert found.steps[2].events == (Result("bank_balance", None, None),)
    assert [step.state.selected for step in found.steps] == [None, shown(CHASE), shown(CHASE)]


def test_switching_tasks_opens_a_procedure(star: Path) -> None:
    found, counts = session(
        star,
        [query(), wizard("select_task", Task="hotel_search"), query(api="hotel_search")],
        ("bank_balance", "hotel_search"),
    )
    assert found.steps[1].action == Action("open_procedure", "hotel_search")
    assert not found.steps[1].critical
    assert [step.state.procedure for step in found.steps] == ["bank_balance", "bank_balance", "hotel_search"]
    assert counts == {}


def test_a_selection_shows_in_the_operators_next_event(star: Path) -> None:
    """STAR logs with each event what was selected before it, so `select_primary` itself still carries the old item."""
    found, counts = session(
        star,
        [
            query(),
            answer(CHASE),
            query(PrimaryItem=CHASE),
            answer(PNC),
            wizard("select_primary", PrimaryItem=PNC),
            wizard("select_secondary", PrimaryItem=CHASE),
            wizard("select_primary", PrimaryItem=CHASE, SecondaryItem=PNC),
            user("And?"),
            pick("hello", ["hello"], SecondaryItem=PNC),
            wizard("select_primary", SecondaryItem=PNC),
            draft("x", PrimaryItem={"APIName": "bank_balance", "id": 9}),
        ],
    )
    actions = [step.action for step in found.steps if step.action.tool == "select_item"]
    assert actions == [
        Action("select_item", "results", {"result": 1}),
        Action("select_item", "results", {"slot": "secondary", "result": 2}),
        Action("select_item", "results", {}),
        Action("select_item", "results", {"item": '{"id":9}'}),
    ]
    assert not any(step.critical for step in found.steps if step.action.tool == "select_item")
    selected = [step.state.selected for step in found.steps]
    assert selected == [None, shown(CHASE), shown(PNC), shown(CHASE), shown(CHASE), None, None]
    assert counts == {"selection_cleared": 1, "selected_item_was_no_result": 1, "draft_never_sent": 1}


def test_a_selection_at_the_very_end_shows_nowhere(star: Path) -> None:
    found, counts = session(star, [query(), answer(CHASE), wizard("select_primary", PrimaryItem=CHASE)])
    assert found.steps[1].action == Action("select_item", "results", {})
    assert counts == {"selection_cleared": 1}


def test_stage_directions_are_hidden_and_make_a_dialogue_unhappy(star: Path) -> None:
    guide = {"Agent": "UserGuide", "Action": "instruct", "Text": "Ask for the fee.", "UnixTime": 5.0}
    found, counts = session(star, [guide, pick("hello", ["hello"])])
    assert found.hidden["stage_directions"] == [{"time": 5.0, "text": "Ask for the fee."}]
    assert found.steps[0].events == ()
    assert found.tags["kind"] == "unhappy"
    assert session(star, [pick("hello", ["hello"])], Happy=False)[0].tags["kind"] == "unhappy"
    assert counts == {}


@pytest.mark.parametrize(
    ("change", "rule", "value"),
    [
        (lambda d: d["Events"].clear(), "no_events", "0 events"),
        (lambda d: d.update(Events=[user("Hi"), draft("x")]), "no_operator_action", "2 events"),
        (
            lambda d: d.update(Events=[{"Agent": "User", "Action": "complete"}]),
            "no_operator_action",
            "1 events",
        ),
        (lambda d: d.pop("Events"), "missing_key", "Events"),
        (lambda d: d["Scenario"].pop("WizardCapabilities"), "missing_key", "WizardCapabilities"),
        (lambda d: d["Events"][1].pop("Action"), "missing_key", "Action"),
        (lambda d: d["Events"][1].pop("Text"), "missing_key", "Wizard/pick_suggestion without Text"),
        (lambda d: d["Events"][1].pop("ActionLabel"), "missing_key", "without ActionLabel"),
        (lambda d: d["Events"][1].pop("ActionLabelOptions"), "missing_key", "without ActionLabelOptions"),
        (lambda d: d["Events"].append(wizard("query", Constraints=[])), "missing_key", "without APIName"),
        (lambda d: d["Events"].append(wizard("query", APIName="x")), "missing_key", "without Constraints"),
        (lambda d: d["Events"].append(wizard("select_task")), "missing_key", "without Task"),
        (lambda d: d["Events"][1].update(ActionLabelOptions=[]), "no_options", "hello"),
        (lambda d: d["Events"][1].update(Text=3), "wrong_type", "Events"),
        (lambda d: d.update(Events={}), "wrong_type", "Events"),
        (lambda d: d["Events"][0].update(UnixTime="noon"), "wrong_type", "UnixTime"),
        (lambda d: d["Events"].append(wizard("query", APIName="x", Constraints=[{"a": 1}])), "wrong_type", "Constr"),
        (lambda d: d["Events"].append(wizard("dance")), "unknown_event", "Wizard/dance"),
        (lambda d: d["Scenario"]["WizardCapabilities"][0].update(Task="fly"), "unknown_task", "fly"),
        (lambda d: d["Scenario"].update(WizardCapabilities=[]), "unknown_task", "no task"),
    ],
)
def test_what_keeps_a_dialogue_out(star: Path, change: Any, rule: str, value: str) -> None:
    content = dialogue([user("Hi", 1.0), pick("hello", ["hello"])])
    change(content)
    found = problem(star, content)
    assert found.rule == rule
    assert value in found.value


def test_a_problem_names_the_event(star: Path) -> None:
    found = problem(star, dialogue([user("Hi"), wizard("dance")]))
    assert (found.session, found.step) == ("7", 1)


@pytest.mark.parametrize("content", [b'{"DialogueID": 7, ', b"", b"\xff\xfe{}", b'{"DialogueID": "\xff"}'])
def test_corrupt_json(star: Path, content: bytes) -> None:
    assert problem(star, content).rule == "corrupt_json"


def test_an_unreadable_file(star: Path) -> None:
    (star / "dialogues" / "7.json").mkdir()
    reader = Reader(star)
    (found,) = reader.read(reader.units()[0])
    assert isinstance(found, Problem)
    assert found.rule == "unreadable_file"


def test_units_are_in_numeric_order_and_the_folder_is_found_from_its_parents(star: Path, tmp_path: Path) -> None:
    for name in ("10", "9", "100"):
        (star / "dialogues" / f"{name}.json").write_text("{}")
    assert [unit.name for unit in Reader(star).units()] == ["9.json", "10.json", "100.json"]
    assert [unit.name for unit in Reader(star / "dialogues").units()] == ["9.json", "10.json", "100.json"]
    moved = tmp_path / "data"
    moved.mkdir()
    for name in ("dialogues", "tasks", "apis"):
        (moved / "star").mkdir(exist_ok=True)
        (star / name).rename(moved / "star" / name)
    assert len(Reader(moved).units()) == 3
    alone = tmp_path / "alone"
    (moved / "star" / "dialogues").rename(alone)
    assert len(Reader(alone, catalog=moved / "star").units()) == 3
    with pytest.raises(HandrailError, match="catalog="):
        Reader(alone)


def test_what_is_no_star_folder_is_told(star: Path, tmp_path: Path) -> None:
    with pytest.raises(HandrailError, match=r"expected dialogues/\*\.json"):
        Reader(star)
    (star / "dialogues" / "7.json").write_text("{}")
    (star / "tasks" / "ride_status" / "responses.json").unlink()
    with pytest.raises(HandrailError, match=r"responses\.json is missing"):
        Reader(star)
    (star / "tasks" / "ride_status" / "responses.json").write_text("[]")
    with pytest.raises(HandrailError, match="no JSON object"):
        Reader(star)


def test_every_file_and_event_of_the_real_logs_is_accounted_for(star_root: Path) -> None:
    reader = Reader(star_root)
    units = reader.units()
    validator = Validator()
    rules: Counter[str] = Counter()
    events: Counter[str] = Counter()
    for unit in units:
        (item,) = reader.read(unit)
        if isinstance(item, Problem):
            assert item.quarantined
            rules[item.rule] += 1
            continue
        rules["session"] += 1
        rules.update(p.rule for p in validator.check(item) if p.quarantined)
        logged = Counter(e["Action"] for e in json.loads(unit.read_bytes())["Events"] if e["Agent"] == "Wizard")
        events.update(logged)
        drafts = logged.pop("request_suggestions", 0)
        steps = [step for step in item.steps if step.actor == "operator"]
        assert len(steps) == logged.total()
        events["kept_drafts"] += sum(len(step.drafts) for step in item.steps)
        events["drafts"] += drafts
        offered = {(offer.tool, offer.target) for offer in offers(item.steps[0].state.controls)}
        assert all((step.action.tool, step.action.target) in offered for step in steps), item.id
    assert set(rules) <= {"session", "no_events", "no_operator_action"}
    assert rules.total() == len(units)
    assert events["drafts"] == events["kept_drafts"] + reader.counts["draft_never_sent"]
    assert reader.counts["selection_cleared"] <= 0.1 * (events["select_primary"] + events["select_secondary"])
