from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from handrail.envs.bpm import flow, load
from handrail.envs.bpm.case import Case, Known, draw_case
from handrail.envs.bpm.customer import Options
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.flow import Todo
from handrail.envs.bpm.world import World
from handrail.envs.schema import Action

CALM = Options(typos=0, omits=0, wavers=0, chatter=0, patience=1000)
TELL = {"critical": False}
SIZES = ["small", "big"]

# A garage: cars of one customer, looked up by plate. Small enough to know by heart what is to be done when.
GARAGE: dict[str, Any] = {
    "name": "garage",
    "desk": {"title": "Garage", "brief": "", "home": "home", "menu": ["home", "cars"], "outcomes": ["done", "refused"]},
    "records": {
        "customer": {"title": "Customer", "key": "id", "count": [1, 1], "fields": {"id": {"code": "C###"}}},
        "car": {
            "title": "Car",
            "key": "plate",
            "of": "customer",
            "count": [2, 2],
            "fields": {"plate": {"code": "@@##"}, "age": {"integer": [1, 5]}, "wash": {"pick": ["no"]}},
        },
        "visit": {
            "title": "Visit",
            "key": "number",
            "of": "car",
            "count": [0, 0],
            "fields": {"number": {"code": "V####"}, "kind": {"pick": ["old"]}},
        },
    },
    "screens": {
        "home": {
            "title": "Home",
            "forms": [
                {
                    "id": "find",
                    "label": "Find",
                    "fields": [{"id": "id", "kind": "text", "label": "Id"}],
                    "does": [{"find": "customer", "by": {"id": "form.id"}}],
                }
            ],
        },
        "cars": {
            "title": "Cars",
            "needs": ["customer"],
            "tables": [{"id": "cars", "label": "Cars", "rows": "car", "columns": ["plate"]}],
            "links": ["service"],
        },
        "service": {
            "title": "Service",
            "needs": ["car"],
            "shows": [{"id": "car.age", "label": "Age", "value": "car.age"}],
            "forms": [
                {
                    "id": "book",
                    "label": "Book",
                    "fields": [
                        {
                            "id": "kind",
                            "kind": "select",
                            "label": "Kind",
                            "options": ["small", "big"],
                            "required": True,
                        },
                        {"id": "note", "kind": "text", "label": "Note"},
                        {"id": "paid", "kind": "checkbox", "label": "Paid"},
                    ],
                    "critical": True,
                    "does": [{"add": "visit", "fields": {"kind": "form.kind"}}, {"set": {"car.wash": "'yes'"}}],
                }
            ],
        },
    },
    "templates": {
        "hello": {"text": "Hello!", **TELL},
        "ask_plate": {"text": "Which plate?", **TELL},
        "ask_kind": {"text": "Small or big?", **TELL},
        "tell": {"text": "Booked for {car.plate}."},
        "no": {"text": "No."},
    },
    "issues": {
        "service": {
            "title": "Service",
            "procedure": "service",
            "concerns": {"car": "true"},
            "opening": ["I need a service."],
            "facts": {
                "id": {"value": "customer.id", "say": ["{value}"], "volunteer": 1.0},
                "plate": {"value": "car.plate", "say": ["{value}"]},
                "kind": {"draw": {"pick": ["small"]}, "say": ["{value}"]},
            },
        }
    },
    "procedures": {
        "service": {
            "title": "Service",
            "start": "hello",
            "nodes": {
                "hello": {"tell": "hello", "optional": True, "next": "find"},
                "find": {"submit": "find", "values": {"id": "said.id"}, "next": "plate"},
                "plate": {"ask": "ask_plate", "facts": ["plate"], "swaps": True, "next": "kind"},
                "kind": {"ask": "ask_kind", "facts": ["kind"], "next": "car"},
                "car": {"select": "cars", "where": "row.plate == said.plate", "next": "which"},
                "which": {"decide": [{"to": "refuse", "when": "car.age > 3"}, {"to": "book"}]},
                "book": {"submit": "book", "values": {"kind": "said.kind"}, "next": "told"},
                "told": {"tell": "tell", "next": "close"},
                "close": {"close": "done"},
                "refuse": {"tell": "no", "next": "refused"},
                "refused": {"close": "refused"},
            },
        }
    },
    "small": {"confirm": ["OK."], "correct": ["{phrase}"]},
}


def garage(**changes: Any) -> Domain:
    return msgspec.convert({**GARAGE, **changes}, Domain)


def with_nodes(**nodes: dict[str, Any]) -> Domain:
    procedure = GARAGE["procedures"]["service"]
    return garage(procedures={"service": {**procedure, "nodes": {**procedure["nodes"], **nodes}}})


def world(domain: Domain | None = None, age: int = 2, **known: Known) -> World:
    """The first car is AB12 and the one concerned, the second is XY99."""
    domain = domain or garage()
    case = draw_case(domain, np.random.default_rng(0))
    first, second = case.rows[case.customer, "car"]
    records = dict(case.records)
    records[case.customer] = msgspec.structs.replace(records[case.customer], values={"id": "C007"})
    records[first] = msgspec.structs.replace(records[first], values={"plate": "AB12", "age": age, "wash": "no"})
    records[second] = msgspec.structs.replace(records[second], values={"plate": "XY99", "age": 1, "wash": "no"})
    facts = {name: Known(value, value, value) for name, value in (("id", "C007"), ("plate", "AB12"), ("kind", "small"))}
    matter = msgspec.structs.replace(
        case.matters[0], concerns={"customer": case.customer, "car": first}, facts={**facts, **known}
    )
    case = Case(**{**msgspec.structs.asdict(case), "records": records, "matters": (matter,)})
    return World(domain, case, CALM)


def do(w: World, *actions: tuple[str, str] | tuple[str, str, Any]) -> World:
    names = {"set_field": "value", "select_item": "item", "send_message": "text"}
    for tool, target, *value in actions:
        outcome = w.do(Action(tool, target, {names[tool]: value[0]} if value else {}))
        assert outcome.error is None
    return w


OPEN = ("open_procedure", "service")
FOUND = (("set_field", "find.id", "C007"), ("click", "find"))
ASKED = (("send_reply", "ask_plate"), ("send_reply", "ask_kind"))
CHOSEN = (("navigate", "cars"), ("select_item", "cars", "AB12"))
BOOKED = (("navigate", "service"), ("set_field", "book.kind", "small"), ("click", "book"))


def kinds(w: World) -> list[str]:
    return [f"{todo.kind} {todo.target or ','.join(todo.templates)}" for todo in flow.pending(w)]


def test_a_procedure_step_by_step() -> None:
    w = world()
    assert flow.pending(w) == [Todo("open", "service")]
    do(w, OPEN)
    assert flow.pending(w) == [
        Todo("tell", templates=("hello",), optional=True, node="service.hello"),
        Todo("submit", "find", values={"id": "C007"}, node="service.find"),
    ]
    do(w, *FOUND)
    # The greeting was passed over; the two questions may trade places.
    assert kinds(w) == ["ask ask_plate", "ask ask_kind"]
    do(w, ("send_reply", "ask_kind"))
    assert kinds(w) == ["ask ask_plate"]
    do(w, ("send_reply", "ask_plate"))
    assert flow.pending(w) == [Todo("select", "cars", item="AB12", node="service.car")]
    assert flow.actions(w, flow.pending(w)[0]) == [
        Action("navigate", "cars"),
        Action("select_item", "cars", {"item": "AB12"}),
    ]
    do(w, *CHOSEN)
    # The age is nowhere to be seen yet, and the decision hinges on it.
    assert flow.pending(w) == [Todo("look", "service")]
    do(w, ("navigate", "service"))
    assert flow.pending(w) == [Todo("submit", "book", values={"kind": "small", "paid": False}, node="service.book")]
    do(w, ("set_field", "book.kind", "small"), ("click", "book"))
    assert kinds(w) == ["tell tell"]
    do(w, ("send_reply", "tell"))
    assert flow.pending(w) == [Todo("close", "done", node="service.close")]
    do(w, ("click", "close:done"))
    assert flow.pending(w) == []
    assert w.success is True


def test_the_last_optional_node_may_be_left_out() -> None:
    w = do(
        world(
            with_nodes(told={"tell": "tell", "next": "bye"}, bye={"tell": "hello", "optional": True, "next": "close"})
        ),
        *(OPEN, *FOUND, *ASKED, *CHOSEN, *BOOKED, ("send_reply", "tell")),
    )
    assert kinds(w) == ["tell hello", "close done"]
    do(w, ("click", "close:done"))
    assert w.success is True


def test_wrong_contents_are_overwritten() -> None:
    w = do(world(), OPEN, *FOUND, *ASKED, *CHOSEN, ("navigate", "service"))
    do(w, ("set_field", "book.kind", "big"), ("set_field", "book.note", "x"), ("set_field", "book.paid", True))
    assert flow.actions(w, flow.pending(w)[0]) == [
        Action("set_field", "book.kind", {"value": "small"}),
        Action("set_field", "book.note", {"value": ""}),
        Action("set_field", "book.paid", {"value": False}),
        Action("click", "book"),
    ]
    for action in flow.actions(w, flow.pending(w)[0]):
        assert w.do(action).error is None
    assert w.log[-1].values == {"kind": "small", "paid": False}


def test_another_record_in_focus_is_put_right_first() -> None:
    w = do(world(), OPEN, *FOUND, *ASKED, *CHOSEN, ("navigate", "service"), ("navigate", "cars"))
    do(w, ("select_item", "cars", "XY99"))
    assert flow.pending(w) == [Todo("select", "cars", item="AB12", node="service.car")]
    # Even the customer can get lost.
    do(w, ("navigate", "home"), ("set_field", "find.id", "nobody"), ("click", "find"))
    assert kinds(w) == ["submit find"]
    do(w, *FOUND)
    assert kinds(w) == ["select cars"]
    do(w, *CHOSEN, *BOOKED)
    assert kinds(w) == ["tell tell"]


def test_what_was_done_to_the_wrong_record_does_not_count() -> None:
    w = do(world(), OPEN, *FOUND, *ASKED, ("navigate", "cars"), ("select_item", "cars", "XY99"), *BOOKED)
    do(w, ("send_reply", "tell"))
    assert kinds(w) == ["select cars"]
    do(
        w,
        ("navigate", "cars"),
        ("select_item", "cars", "AB12"),
        *BOOKED,
        ("send_reply", "tell"),
        ("click", "close:done"),
    )
    assert w.success is False


def test_decisions_do_not_turn_around_when_their_consequences_change_the_records() -> None:
    decide = {"decide": [{"to": "book", "when": "car.wash == 'no' and car.age < 9"}, {"to": "refuse"}]}
    w = do(world(with_nodes(which=decide)), OPEN, *FOUND, *ASKED, *CHOSEN, *BOOKED)
    assert w.ground.scope["car"]["wash"] == "yes"
    assert kinds(w) == ["tell tell"]
    assert flow.expected(w).outcome == "done"


def test_expected_does_not_depend_on_what_was_done() -> None:
    w = world()
    course = (
        "service.hello",
        "service.find",
        "service.plate",
        "service.kind",
        "service.car",
        "service.which",
        "service.book",
        "service.told",
        "service.close",
    )
    for actions in ((), (OPEN, *FOUND), ASKED, CHOSEN, BOOKED):
        do(w, *actions)
        wanted = flow.expected(w)
        assert (wanted.outcome, wanted.course) == ("done", course)
        car = w.case.matters[0].concerns["car"]
        assert wanted.ground.records[car].values["wash"] == "yes"
        ((added, fields),) = wanted.added.items()
        assert (fields, wanted.ground.records[added].values["kind"]) == (("kind",), "small")
        assert wanted.tells == ((("tell",), (("car", car),)),)


def test_an_old_car_is_refused() -> None:
    w = do(world(age=4), OPEN, *FOUND, *ASKED, *CHOSEN, ("navigate", "service"))
    assert kinds(w) == ["tell no"]
    wanted = flow.expected(w)
    assert (wanted.outcome, wanted.added) == ("refused", {})
    assert not wanted.ground.touched


def test_what_is_asked_in_vain_is_given_up_after_the_limit() -> None:
    silent = Known("small", None, None)
    w = do(world(kind=silent), OPEN, *FOUND, ("send_reply", "ask_plate"))
    assert kinds(w) == ["ask ask_kind"]
    do(w, ("send_reply", "ask_kind"))
    assert kinds(w) == ["ask ask_kind"]
    do(w, ("send_reply", "ask_kind"))
    assert kinds(w) == ["select cars"]
    # Without a kind the form cannot be submitted: the node is passed over, and the rest of the procedure still holds.
    do(w, *CHOSEN, ("navigate", "service"))
    assert kinds(w) == ["tell tell"]


def test_asking_again_takes_another_sending() -> None:
    again = {"ask": "ask_plate", "facts": ["plate"], "again": True, "next": "car"}
    missing = {"decide": [{"to": "again", "when": "car is none and times('ask_plate') < 2"}, {"to": "which"}]}
    domain = with_nodes(
        car={"select": "cars", "where": "row.plate == said.plate", "next": "missing"}, missing=missing, again=again
    )
    w = do(world(domain, plate=Known("AB12", "AB13", "AB12")), OPEN, *FOUND, *ASKED)
    assert kinds(w) == ["ask ask_plate"]
    assert flow.expected(w).outcome == "done"
    do(w, ("send_reply", "ask_plate"))
    assert w.ground.said["plate"] == "AB12"
    assert kinds(w) == ["select cars"]


def test_a_circle_without_end_is_left_by_the_nearest_close() -> None:
    domain = with_nodes(which={"decide": [{"to": "kind"}]})
    w = do(world(domain), OPEN, *FOUND, *ASKED, *CHOSEN)
    assert kinds(w) == ["close done"]
    nowhere = with_nodes(which={"decide": [{"to": "book", "when": "car.age > 100"}]})
    w = do(world(nowhere), OPEN, *FOUND, *ASKED, *CHOSEN, ("navigate", "service"))
    assert [todo.kind for todo in flow.pending(w)] == ["close"]


def test_routes_are_shortest_and_respect_needs() -> None:
    w = world()
    assert flow.route(w, "home") == []
    assert flow.route(w, "cars") is None
    do(w, *FOUND)
    assert flow.route(w, "service") is None
    do(w, *CHOSEN, ("navigate", "home"))
    assert flow.route(w, "service") == ["cars", "service"]


def test_added_records_that_a_procedure_selects_are_found() -> None:
    screens = {**GARAGE["screens"]}
    table = {"id": "visits", "label": "Visits", "rows": "visit", "columns": ["number", "kind"]}
    screens["service"] = {**screens["service"], "tables": [table]}
    procedure = GARAGE["procedures"]["service"]
    nodes = {
        **procedure["nodes"],
        "book": {"submit": "book", "values": {"kind": "said.kind"}, "next": "visit"},
        "visit": {"select": "visits", "where": "row.kind == 'small'", "next": "told"},
    }
    templates = {**GARAGE["templates"], "tell": {"text": "Visit {visit.number}."}}
    domain = garage(screens=screens, templates=templates, procedures={"service": {**procedure, "nodes": nodes}})
    w = do(world(domain), OPEN, *FOUND, *ASKED, *CHOSEN, *BOOKED)
    (todo,) = flow.pending(w)
    (added,) = w.added
    assert todo == Todo("select", "visits", item=w.ground.records[added].values["number"], node="service.visit")
    do(w, ("select_item", "visits", todo.item))
    assert kinds(w) == ["tell tell"]
    do(w, ("send_reply", "tell"), ("click", "close:done"))
    assert w.success is True


@pytest.fixture(scope="module", params=load.names())
def domain(request: pytest.FixtureRequest) -> Domain:
    return load.load_domain(request.param)


def first(todos: list[Todo], rng: np.random.Generator) -> Todo:
    return todos[0]


def last(todos: list[Todo], rng: np.random.Generator) -> Todo:
    return todos[-1]


def anyone(todos: list[Todo], rng: np.random.Generator) -> Todo:
    return todos[rng.integers(len(todos))]


@pytest.mark.parametrize("choice", [first, last, anyone])
def test_following_the_procedure_succeeds(
    domain: Domain, choice: Callable[[list[Todo], np.random.Generator], Todo]
) -> None:
    rng = np.random.default_rng(1)
    for seed in range(60):
        w = World(domain, draw_case(domain, np.random.default_rng(seed)))
        for _ in range(120):
            if w.outcome is not None:
                break
            todo = choice(flow.pending(w), rng)
            outcome = w.do(flow.actions(w, todo, todo.templates[-1] if todo.templates else "")[0])
            assert outcome.error is None
        assert (seed, w.success, w.violations) == (seed, True, [])


def test_there_is_a_way_on_from_any_state(domain: Domain) -> None:
    env = BPMEnv(domain, max_steps=300)
    env.action_space.seed(0)
    rng = np.random.default_rng(0)
    ended = 0
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        over = False
        for _ in range(int(rng.integers(5, 60))):
            action = env.action_space.sample(mask=observation)
            if rng.random() < 0.4:
                action = flow.actions(env.world, anyone(flow.pending(env.world), rng))[0]
            if not action.target.startswith("close:"):
                observation, *_ = env.step(action)
        while not over and len(observation.history) < 200:
            action = flow.actions(env.world, flow.pending(env.world)[0])[0]
            observation, _, terminated, truncated, info = env.step(action)
            assert info["error"] is None
            over = terminated or truncated
        ended += terminated
    assert ended == 30
