from __future__ import annotations

import pickle
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.envs.bpm import flow, load
from handrail.envs.bpm.case import Case, Known, draw_case
from handrail.envs.bpm.customer import Options
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.world import Outcome, World
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action, Message
from handrail.envs.spaces import ActionSpace

CALM = Options(typos=0, omits=0, wavers=0, chatter=0, patience=1000)


def loan_case(state: str = "free", **known: str) -> Case:
    """A member who would like to keep book C0001 for two weeks more, and says so only when asked."""
    mock = load.load_domain("mock")
    alone = msgspec.structs.replace(mock, desk=msgspec.structs.replace(mock.desk, two_issues=0))
    drawn = (draw_case(alone, np.random.default_rng(seed), "renew_loan") for seed in range(100))
    case = next(case for case in drawn if len(case.rows[case.customer, "loan"]) > 1)
    matter = case.matters[0]
    customer, loan = case.customer, matter.concerns["loan"]
    number, born = "L-12345", "1980-05-17"
    records = dict(case.records)
    values = {"number": number, "name": "Ada Moss", "born": born, "email": "ada@example.org"}
    records[customer] = msgspec.structs.replace(records[customer], values=values)
    copy = {"copy": "C0001", "book": "Emma", "due": "2025-06-10", "state": state, "renewed": 0}
    records[loan] = msgspec.structs.replace(records[loan], values=copy)
    for other in case.rows[customer, "loan"]:
        if other != loan:
            kept = {**records[other].values, "copy": f"C9{other % 1000:03d}"}
            records[other] = msgspec.structs.replace(records[other], values=kept)
    facts = {"number": number, "born": born, "book": "C0001", "weeks": "2"}
    answers = {
        fact: Known(value, known.get(f"first_{fact}", value), known.get(f"later_{fact}", value))
        for fact, value in facts.items()
    }
    matter = msgspec.structs.replace(matter, facts=answers)
    return msgspec.structs.replace(case, records=records, matters=(matter,), today="2025-06-02")


def loan_world(state: str = "free", **known: str) -> World:
    world = World(load.load_domain("mock"), loan_case(state, **known), CALM)
    # What was volunteered in the opening depends on the seed; these tests begin with nothing said.
    world.ground.said.clear()
    world.customer.restore(world.customer.snapshot()._replace(told={}))
    world._changed()
    return world


def act(world: World, tool: str, target: str = "", **args: object) -> Outcome:
    return world.do(Action(tool, target, args))


def identified(world: World) -> World:
    act(world, "open_procedure", "renew_loan")
    act(world, "send_reply", "ask_identity")
    act(world, "set_field", "find.number", value="L-12345")
    act(world, "click", "find")
    act(world, "click", "confirm_identity")
    return world


def renewed(world: World) -> World:
    identified(world)
    act(world, "send_reply", "ask_book")
    act(world, "navigate", "loans")
    act(world, "select_item", "loans", item="C0001")
    act(world, "set_field", "renew.weeks", value="2")
    act(world, "click", "renew")
    act(world, "send_reply", "tell_renewed")
    return world


def test_a_case_by_hand() -> None:
    world = loan_world()
    assert [event.role for event in world.opening] == ["customer"] * len(world.opening)
    state = world.state()
    assert (state.screen, state.procedure, state.selected) == ("search", None, None)
    assert state.values == {"case.identified": False}
    act(world, "open_procedure", "renew_loan")
    assert world.state().procedure == "renew_loan"

    sent = act(world, "send_reply", "ask_identity")
    assert (sent.error, sent.critical, sent.closed) == (None, False, False)
    assert isinstance(sent.events[0], Message)
    assert sent.events[0].role == "operator"
    assert sent.events[0].text.endswith("your member number and your date of birth.")
    assert "L-12345" in sent.events[1].text
    assert world.ground.said == {"number": "L-12345", "born": "1980-05-17"}
    assert sent.time <= sent.events[0].time < sent.events[1].time <= world.clock.now

    act(world, "set_field", "find.number", value="L-12345")
    assert world.state().values == {"find.number": "L-12345", "case.identified": False}
    found = act(world, "click", "find")
    assert (found.error, found.critical) == (None, False)
    state = world.state()
    assert state.screen == "member"
    assert list(state.values.items()) == [
        ("customer.name", "Ada Moss"),
        ("customer.born", "1980-05-17"),
        ("customer.email", "ada@example.org"),
        ("case.identified", False),
        ("notice", "Search finished."),
    ]
    assert act(world, "click", "confirm_identity").critical
    assert "confirm_identity" not in {c.id for c in world.state().controls if c.enabled}

    act(world, "send_reply", "ask_book")
    act(world, "navigate", "loans")
    act(world, "select_item", "loans", item="C0001")
    state = world.state()
    assert state.selected == {"table": "loans", "item": "C0001"}
    assert state.values["loans.C0001"] == "Emma · 2025-06-10"
    assert (state.values["loan.due"], state.values["loan.renewed"]) == ("2025-06-10", 0)
    act(world, "set_field", "renew.weeks", value="2")
    done = act(world, "click", "renew")
    assert (done.critical, done.violations) == (True, ())
    state = world.state()
    assert (state.values["loan.due"], state.values["loan.renewed"]) == ("2025-06-24", 1)
    assert state.values["notice"] == "Renewed until 2025-06-24."
    assert "renew.weeks" not in state.values

    told = act(world, "send_reply", "tell_renewed")
    assert told.critical
    assert told.events[0].text == "Emma is renewed until 2025-06-24."
    closed = act(world, "click", "close:resolved")
    assert (closed.closed, closed.critical, world.outcome, world.success) == (True, True, "resolved", True)
    with pytest.raises(HandrailError, match="is closed"):
        act(world, "navigate", "search")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: act(w, "click", "close:refused"), "the outcome is wrong"),
        (lambda w: (act(w, "navigate", "member"), act(w, "send_reply", "tell_renewed")), ""),
        (lambda w: act(w, "send_message", "message", text="One more thing."), ""),
        (lambda w: (act(w, "set_field", "renew.weeks", value="1"), act(w, "click", "renew")), "renewed twice"),
    ],
)
def test_success_is_the_right_end(change: Callable[[World], object], why: str) -> None:
    world = renewed(loan_world())
    change(world)
    if world.outcome is None:
        act(world, "click", "close:resolved")
    assert world.success is (not why)


def test_what_was_not_told_or_not_done_is_no_success() -> None:
    world = identified(loan_world())
    act(world, "click", "close:resolved")
    assert world.success is False
    world = identified(loan_world())
    act(world, "send_reply", "ask_book")
    act(world, "navigate", "loans")
    act(world, "select_item", "loans", item="C0001")
    act(world, "set_field", "renew.weeks", value="2")
    act(world, "click", "renew")
    act(world, "click", "close:resolved")
    assert world.success is False


def test_the_wrong_record_is_no_success() -> None:
    world = identified(loan_world())
    act(world, "navigate", "loans")
    other = next(key for key in _options(world, "loans") if key != "C0001")
    act(world, "select_item", "loans", item=other)
    act(world, "set_field", "renew.weeks", value="2")
    act(world, "click", "renew")
    act(world, "send_reply", "tell_renewed")
    act(world, "click", "close:resolved")
    assert world.success is False


def _options(world: World, control: str) -> tuple[str, ...]:
    return next(c.options for c in world.state().controls if (c.kind, c.id) == ("table", control))


def test_a_reserved_book_is_refused() -> None:
    world = identified(loan_world("reserved"))
    act(world, "send_reply", "ask_book")
    act(world, "navigate", "loans")
    act(world, "select_item", "loans", item="C0001")
    branch = world.snapshot()
    told = act(world, "send_reply", "tell_reserved")
    assert told.events[0].text == "I am sorry: Emma is reserved by another member and cannot be renewed."
    act(world, "click", "close:refused")
    assert world.success is True

    world.restore(branch)
    act(world, "set_field", "renew.weeks", value="2")
    assert act(world, "click", "renew").violations == ("reserved_goes_back",)
    act(world, "send_reply", "tell_reserved")
    act(world, "click", "close:refused")
    assert (world.success, world.violations) == (False, ["reserved_goes_back"])


def test_rules_are_looked_at_before_the_button_changes_anything() -> None:
    world = loan_world()
    act(world, "set_field", "find.number", value="l-12345 ")
    act(world, "click", "find")
    act(world, "set_field", "save_email.email", value="new@example.org")
    assert act(world, "click", "save_email").violations == ("identify_first",)
    assert world.state().values["customer.email"] == "new@example.org"
    assert act(world, "click", "confirm_identity").violations == ()


def test_an_impostor_is_refused() -> None:
    world = loan_world(first_born="1990-01-01", later_born="1990-01-01")
    act(world, "open_procedure", "renew_loan")
    for template in ("ask_identity", "ask_identity_again"):
        act(world, "send_reply", template)
        act(world, "navigate", "search")
        act(world, "set_field", "find.number", value="L-12345")
        act(world, "click", "find")
    act(world, "send_reply", "tell_unidentified")
    act(world, "click", "close:refused")
    assert world.success is True


@pytest.mark.parametrize(
    ("tool", "target", "args", "error"),
    [
        ("navigate", "nowhere", {}, "There is no link 'nowhere' on this screen."),
        ("navigate", "loans", {}, "Loans needs a member."),
        ("open_procedure", "identify", {}, "There is no procedure 'identify'."),
        ("select_item", "loans", {"item": "C0001"}, "There is no table 'loans' on this screen."),
        ("set_field", "find.name", {"value": "x"}, "There is no field 'find.name' on this screen."),
        ("set_field", "renew.weeks", {"value": "2"}, "There is no field 'renew.weeks' on this screen."),
        ("set_field", "find.number", {"value": ["x"]}, "Member number takes text, not ['x']."),
        ("click", "find", {}, "Member number is required."),
        ("click", "renew", {}, "There is no button 'renew' on this screen."),
        ("click", "close:happy", {}, "There is no button 'close:happy' on this screen."),
        ("send_reply", "ask_book", {}, "There is no reply 'ask_book' here."),
        ("send_reply", "hello", {}, "There is no reply 'hello' here."),
        ("send_message", "message", {"text": " "}, "The message is empty."),
        ("send_message", "note", {"text": "x"}, "There is no message box 'note' here."),
        ("fly", "", {}, "There is no tool 'fly'."),
    ],
)
def test_impossible_actions_change_nothing_and_say_why(tool: str, target: str, args: dict, error: str) -> None:
    world = loan_world()
    before = world.snapshot()
    values = world.state().values
    outcome = world.do(Action(tool, target, args))
    assert (outcome.error, outcome.events, outcome.violations, outcome.closed) == (error, (), (), False)
    assert world.state().values == {**values, "error": error}
    after = world.snapshot()
    changed = {name for name in before._fields if getattr(before, name) != getattr(after, name)}
    assert changed - {"ground"} == {"error", "clock"}
    act(world, "open_procedure", "change_email")
    assert "error" not in world.state().values


def test_validation_and_guards_refuse() -> None:
    world = identified(loan_world())
    act(world, "set_field", "save_email.email", value="nowhere")
    assert act(world, "click", "save_email").error == "An e-mail address contains an @."
    assert act(world, "click", "confirm_identity").error == "Identity confirmed is not available now."
    assert act(world, "set_field", "save_email.email", value="").error is None
    assert act(world, "click", "save_email").error == "New e-mail is required."
    act(world, "navigate", "loans")
    assert act(world, "select_item", "loans", item="C7").error == "There is no row 'C7' in Loans."
    act(world, "open_procedure", "renew_loan")
    assert act(world, "send_reply", "tell_renewed").error == "The reply 'tell_renewed' cannot be filled in yet."


def test_leaving_a_screen_empties_its_fields() -> None:
    world = loan_world()
    act(world, "set_field", "find.number", value="L-1")
    act(world, "navigate", "search")
    assert "find.number" not in world.state().values


def test_a_second_issue_comes_up_when_the_first_is_done() -> None:
    mock = load.load_domain("mock")
    often = msgspec.structs.replace(mock, desk=msgspec.structs.replace(mock.desk, two_issues=1.0))
    for seed in range(40):
        world = World(often, draw_case(often, np.random.default_rng(seed)))
        if len(world.case.matters) < 2:
            continue
        first, second = (often.issues[matter.issue].procedure for matter in world.case.matters)
        opened = []
        while world.outcome is None:
            todo = flow.pending(world)[0]
            raised = len(world.bases)
            outcome = world.do(flow.actions(world, todo)[0])
            if todo.kind == "open":
                opened.append(todo.target)
            if len(world.bases) > raised:
                assert outcome.events[-1].role == "customer"
                branch = world.snapshot()
                world.do(Action("click", "close:resolved"))
                assert world.success is False
                world.restore(branch)
        assert opened == [first, second]
        assert world.success is True


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(load.names()), st.integers(0, 50), st.integers(0, 25), st.integers(1, 20), st.integers(0, 2**32))
def test_going_on_from_a_snapshot_is_going_on(name: str, seed: int, before: int, after: int, chance: int) -> None:
    domain = load.load_domain(name)
    world = World(domain, draw_case(domain, np.random.default_rng(seed)))
    space = BPMEnv(domain).action_space
    rng = np.random.default_rng(chance)
    _walk(world, space, rng, before)
    if world.outcome is not None:
        return
    snapshot = world.snapshot()
    shown = world.state()
    told = _walk(world, space, np.random.default_rng(chance), after)

    other = World(domain, world.case)
    thawed = pickle.loads(pickle.dumps(world))
    for copied in (world, other, thawed):
        copied.restore(snapshot)
        assert copied.state() == shown
        assert _walk(copied, space, np.random.default_rng(chance), after) == told
    world.restore(snapshot)
    back = pickle.loads(pickle.dumps(world))
    assert _walk(back, space, np.random.default_rng(chance), after) == told


def _walk(world: World, space: ActionSpace, rng: np.random.Generator, steps: int) -> list[object]:
    """Act, half by the procedure and half at random; return all that was seen and known."""
    space.seed(int(rng.integers(2**31)))
    seen: list[object] = []
    for _ in range(steps):
        if world.outcome is not None:
            break
        action = space.sample(mask=world.state())
        if rng.random() < 0.5:
            todos = flow.pending(world)
            action = flow.actions(world, todos[rng.integers(len(todos))])[0]
        outcome = world.do(action)
        seen += [action, outcome, world.state(), flow.pending(world), sorted(world._known), world.clock.spent]
    ground = world.ground
    return [*seen, ground.records, ground.focus, ground.case, ground.said, ground.counts, world.success]
