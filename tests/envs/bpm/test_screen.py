from __future__ import annotations

import numpy as np
import pytest

from handrail.envs.bpm import flow, load
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.domain import Domain, Field
from handrail.envs.bpm.screen import content
from handrail.envs.bpm.world import World
from handrail.envs.schema import Action, Control, UIState

ORDER = ("link", "tab", "table", "field", "template", "message_box", "button")
FIELDS = ("text", "number", "select", "checkbox")


@pytest.fixture(scope="module", params=load.names())
def domain(request: pytest.FixtureRequest) -> Domain:
    return load.load_domain(request.param)


def worked(domain: Domain, seed: int) -> list[UIState]:
    """The screen before each action of the procedure, and after the last."""
    world = World(domain, draw_case(domain, np.random.default_rng(seed)))
    states = []
    while world.outcome is None:
        states.append(world.state())
        world.do(flow.actions(world, flow.pending(world)[0])[0])
    return [*states, world.state()]


def mock_world() -> World:
    mock = load.load_domain("mock")
    return World(mock, draw_case(mock, np.random.default_rng(0)))


def test_the_home_screen_of_the_smallest_domain() -> None:
    controls = mock_world().state().controls
    assert controls[:7] == (
        Control("search", "link", "Find member"),
        Control("member", "link", "Member", enabled=False),
        Control("loans", "link", "Loans", enabled=False),
        Control("change_email", "tab", "Change e-mail"),
        Control("renew_loan", "tab", "Renew a loan"),
        Control("find.number", "text", "Member number", required=True),
        Control("find", "button", "Search"),
    )
    assert [control.id for control in controls[7:]] == [
        "ask_identity",
        "ask_identity_again",
        "tell_unidentified",
        "message",
        "close:resolved",
        "close:refused",
    ]
    assert controls[7].label == "Hello! Could you give me your member number and your date of birth."


def test_templates_follow_the_procedure_and_what_can_be_filled_in() -> None:
    world = mock_world()
    world.do(Action("open_procedure", "renew_loan"))
    offered = {c.id: c for c in world.state().controls if c.kind == "template"}
    assert list(offered) == [
        "ask_identity",
        "ask_identity_again",
        "tell_unidentified",
        "ask_book",
        "tell_reserved",
        "tell_renewed",
    ]
    assert offered["tell_renewed"] == Control(
        "tell_renewed", "template", "{loan.book} is renewed until {loan.due}.", group="renew_loan", enabled=False
    )
    assert offered["ask_book"].enabled
    assert offered["ask_identity"].group == ""
    loan = world.case.rows[world.case.customer, "loan"][0]
    world.ground.bring("loan", loan)
    world._changed()
    assert {c.id: c.enabled for c in world.state().controls if c.kind == "template"}["tell_renewed"]


def test_controls_come_in_one_order_and_ids_name_one_control(domain: Domain) -> None:
    for state in worked(domain, 0) + worked(domain, 1):
        kinds = ["field" if c.kind in FIELDS or _submits(c) else c.kind for c in state.controls]
        assert kinds == sorted(kinds, key=ORDER.index)
        assert len({(c.kind, c.id) for c in state.controls}) == len(state.controls)
        rows = {f"{c.id}.{key}" for c in state.controls if c.kind == "table" for key in c.options}
        fields = {c.id for c in state.controls if c.kind in FIELDS}
        shown = {shown.id for shown in domain.screens[state.screen].shows}
        case = {f"case.{field}" for field in domain.desk.case}
        assert set(state.values) <= rows | fields | shown | case | {"notice", "error"}
        assert rows <= set(state.values)
        assert None not in state.values.values()


def _submits(control: Control) -> bool:
    return control.kind == "button" and not control.id.startswith("close:")


def test_equal_controls_are_one_object(domain: Domain) -> None:
    known: dict[tuple[Control, ...], int] = {}
    for state in [*worked(domain, 0), *worked(domain, 0), *worked(domain, 1)]:
        assert known.setdefault(state.controls, id(state.controls)) == id(state.controls)


def test_values_come_in_the_order_of_the_page() -> None:
    world = mock_world()
    customer = world.case.customer
    world.ground.bring("loan", world.case.rows[customer, "loan"][0])
    world._open("loans")
    world.do(Action("set_field", "renew.weeks", {"value": "2"}))
    names = list(world.state().values)
    assert names[:4] == ["loan.book", "loan.due", "loan.state", "loan.renewed"]
    assert [name.partition(".")[0] for name in names[4:]] == ["loans"] * (len(names) - 6) + ["renew", "case"]
    world.do(Action("navigate", "nowhere"))
    assert list(world.state().values)[-2:] == ["case.identified", "error"]


@pytest.mark.parametrize(
    ("kind", "given", "held"),
    [
        ("text", " a b ", "a b"),
        ("text", 7, "7"),
        ("text", 2.5, "2.50"),
        ("text", True, "yes"),
        ("text", None, ""),
        ("number", "12.50", 12.5),
        ("number", "1,200", 1200),
        ("number", 3, 3),
        ("number", " ", ""),
        ("select", "two", "two"),
        ("select", "TWO ", "two"),
        ("select", "", ""),
        ("checkbox", True, True),
        ("checkbox", "false", False),
        ("checkbox", "Yes", True),
    ],
)
def test_what_inputs_hold(kind: str, given: object, held: object) -> None:
    got = content(Field(id="f", kind=kind, label="F", options=["one", "two"]), given)
    assert got == held
    assert type(got) is type(held)


@pytest.mark.parametrize(
    ("kind", "given", "takes"),
    [
        ("text", ["a"], "takes text"),
        ("number", "twelve", "takes a number"),
        ("number", True, "takes a number"),
        ("number", "1e5", "takes a number"),
        ("select", "three", "offers one, two"),
        ("checkbox", 1, "takes true or false"),
        ("checkbox", "perhaps", "takes true or false"),
    ],
)
def test_what_inputs_do_not_hold(kind: str, given: object, takes: str) -> None:
    with pytest.raises(ValueError, match=takes):
        content(Field(id="f", kind=kind, label="F", options=["one", "two"]), given)
