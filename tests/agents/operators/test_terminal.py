"""A person at a terminal: what keys mean, what is answered in place, and what becomes a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from handrail.agents.operators.seat import Seat
from handrail.agents.operators.terminal import Console, LeaveError, TerminalSeat, told
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.schema import Action, Feedback, Message

OPEN = Action("open_procedure", "renew_loan")


class Script:
    """Answers prompts with given lines, and keeps what was shown."""

    def __init__(self, *lines: str, columns: int = 100) -> None:
        self.lines = list(lines)
        self.shown: list[str] = []
        self.console = Console(self.read, self.shown.append, columns)
        self.seat = TerminalSeat("ann", "tester", self.console)

    def read(self, prompt: str) -> str:
        self.shown.append(prompt)
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    @property
    def text(self) -> str:
        return "\n".join(self.shown)


@pytest.fixture
def desk() -> BPMEnv:
    """A member of the library asks to keep a book longer; nothing is done yet."""
    env = BPMEnv("mock")
    env.reset(seed=1, options={"issue": "renew_loan"})
    env.actor = "operator"
    return env


@pytest.fixture
def loans(desk: BPMEnv) -> BPMEnv:
    """The same, with the member found, identified, and one of their loans selected."""
    customer = next(r for r in desk.world.ground.records.values() if r.type == "customer")
    steps = [
        Action("open_procedure", "renew_loan"),
        Action("set_field", "find.number", {"value": customer.values["number"]}),
        Action("click", "find"),
        Action("click", "confirm_identity"),
        Action("navigate", "loans"),
    ]
    for action in steps:
        assert desk.step(action)[4]["error"] is None
    table = next(c for c in desk.world.state().controls if c.kind == "table")
    assert desk.step(Action("select_item", "loans", {"item": table.options[0]}))[4]["error"] is None
    return desk


@pytest.fixture(scope="module")
def numbers() -> tuple[BPMEnv, str]:
    """A screen of the bank with a field that takes a number, and the field."""
    env = BPMEnv("bank")
    env.reset(seed=0)
    world = env.world
    forms = world.program.forms.values()
    found = [(form.screen, name) for form in forms for name in form.fields if form.fields[name].field.kind == "number"]
    world.screen, target = found[0]
    world._changed()
    return env, target


def acted(env: BPMEnv, *lines: str) -> tuple[Action, str]:
    script = Script(*lines)
    before = env.world.state(), env.session()
    action = script.seat.act(env)
    assert script.lines == []
    assert (env.world.state(), env.session()) == before
    return action, script.text


def test_it_is_a_seat() -> None:
    seat: Seat = TerminalSeat("ann")
    assert seat.name == "ann"
    assert seat.truth() == {}


def test_accepting_a_right_suggestion(desk: BPMEnv) -> None:
    script = Script("a")
    review = script.seat.review(desk, OPEN)
    assert review.action == OPEN
    assert review.feedback == Feedback(OPEN, "accept", source="tester")
    assert (review.cause, review.right, review.critical) == ("", True, False)
    assert "suggestion: open_procedure renew_loan  “Renew a loan”" in script.shown


def test_accepting_a_wrong_critical_suggestion_is_a_rubber_stamp(desk: BPMEnv) -> None:
    wrong = Action("click", "close:refused")
    script = Script("A")
    review = script.seat.review(desk, wrong)
    assert review.feedback.verdict == "accept"
    assert (review.action, review.cause, review.right, review.critical) == (wrong, "rubber_stamp", False, True)
    assert "suggestion (critical): click close:refused  “refused”" in script.shown


@pytest.mark.parametrize(
    ("suggestion", "cause"), [(OPEN, "acceptable"), (Action("click", "close:refused"), "model_error")]
)
def test_a_correction_is_what_is_done_and_the_cause_is_what_the_simulator_knows(
    desk: BPMEnv, suggestion: Action, cause: str
) -> None:
    review = Script("c", "r", "ask_identity").seat.review(desk, suggestion)
    sent = Action("send_reply", "ask_identity")
    assert review.action == sent
    assert review.feedback == Feedback(suggestion, "reject", sent, source="tester")
    assert review.cause == cause


def test_typing_in_what_is_suggested_accepts_it(desk: BPMEnv) -> None:
    script = Script("renew_loan")
    assert script.seat.review(desk, OPEN).feedback.verdict == "accept"
    assert "That is what is suggested: accepted." in script.shown


def test_other_capitals_are_a_correction_since_the_desk_may_tell_them_apart(desk: BPMEnv) -> None:
    suggestion = Action("set_field", "find.number", {"value": "l-12345"})
    review = Script("find.number=L-12345").seat.review(desk, suggestion)
    assert review.action == Action("set_field", "find.number", {"value": "L-12345"})
    assert review.feedback == Feedback(suggestion, "reject", review.action, source="tester")


def test_a_number_suggested_as_text_is_the_number(numbers: tuple[BPMEnv, str]) -> None:
    env, target = numbers
    suggestion = Action("set_field", target, {"value": "1200"})
    review = Script(f"{target}=1,200").seat.review(env, suggestion)
    assert (review.action, review.feedback.verdict) == (suggestion, "accept")


@pytest.mark.parametrize(
    ("lines", "action"),
    [
        (["r", "1"], Action("send_reply", "ask_identity")),
        (["r", "ask_identity_again"], Action("send_reply", "ask_identity_again")),
        (["b", "Find"], Action("click", "find")),
        (["b", "2"], Action("click", "close:resolved")),
        (["p", "2"], OPEN),
        (["s", "search"], Action("navigate", "search")),
        (["f", "L-12345"], Action("set_field", "find.number", {"value": "L-12345"})),
        (["f", '""'], Action("set_field", "find.number", {"value": ""})),
        (["find.number=L-1"], Action("set_field", "find.number", {"value": "L-1"})),
        (["find.number", "L-1"], Action("set_field", "find.number", {"value": "L-1"})),
        (["find.number = q"], Action("set_field", "find.number", {"value": "q"})),
        (["find"], Action("click", "find")),
        (["m", "One moment = now"], Action("send_message", "message", {"text": "One moment = now"})),
        (["message=a = b"], Action("send_message", "message", {"text": "a = b"})),
        (["r", "", "p", "", "f", "", "m", "", "find"], Action("click", "find")),
    ],
)
def test_every_way_to_act(desk: BPMEnv, lines: Sequence[str], action: Action) -> None:
    assert acted(desk, *lines)[0] == action


def test_options_and_rows_of_a_record(loans: BPMEnv) -> None:
    table = next(c for c in loans.world.state().controls if c.kind == "table")
    row = table.options[-1]
    content = str(loans.world.state().values[f"loans.{row}"])
    chosen = Action("select_item", "loans", {"item": row})
    action, text = acted(loans, "t", str(len(table.options)))
    assert action == chosen
    assert f"{len(table.options)}  {row}  {content}" in text
    assert acted(loans, f"loans={row.lower()}")[0] == chosen
    # The weeks on offer are 1, 2 and 4: typing 2 means two weeks, and 3 (the third) nothing.
    action, text = acted(loans, "f", "3", "4")
    assert action == Action("set_field", "renew.weeks", {"value": "4"})
    assert "'3' is none of these; expected a name; known: 1, 2, 4" in text
    action, text = acted(loans, "renew.weeks=3", "renew.weeks=2")
    assert action == Action("set_field", "renew.weeks", {"value": "2"})
    assert "'3' is not offered; expected one of 1, 2, 4" in text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("a", "Nothing is suggested here"),
        ("", "expected a key of r f b t s p m, or an id"),
        ("find.numbr=3", "'find.numbr' is no key and no id on this screen; did you mean find.number"),
        ("loans", "loans cannot be used now"),
        ("find=3", "find takes no value"),
        ("t", "Nothing here lets you select a row; expected one of r, f, b, s, p, m, or an id."),
    ],
)
def test_what_the_screen_does_not_take_is_answered_in_place(desk: BPMEnv, wrong: str, says: str) -> None:
    action, text = acted(desk, wrong, "find")
    assert action == Action("click", "find")
    assert says in text


def test_a_number_that_is_not_in_the_list(desk: BPMEnv) -> None:
    action, text = acted(desk, "p", "3", "0", "renew_lon", "2")
    assert action == OPEN
    assert text.count("expected a number from 1 to 2, or a name") == 3
    assert "'renew_lon' is none of these; expected a number from 1 to 2, or a name; did you mean renew_loan?" in text


def test_a_field_says_what_it_takes(numbers: tuple[BPMEnv, str]) -> None:
    """Words are asked for again, digits are stored as a number."""
    env, target = numbers
    script = Script(target, "a lot", "1,200", columns=500)
    assert script.seat.act(env) == Action("set_field", target, {"value": 1200})
    assert "takes a number, not 'a lot'" in script.text
    script = Script(f"{target}=much", f"{target}=12.5", columns=500)
    assert script.seat.act(env) == Action("set_field", target, {"value": 12.5})
    assert "takes a number, not 'much'" in script.text


def test_an_id_of_two_controls_asks_which(loans: BPMEnv) -> None:
    """`loans` is a table and the screen it is on."""
    rows = next(c.options for c in loans.world.state().controls if c.kind == "table")
    assert acted(loans, "loans", "navigate")[0] == Action("navigate", "loans")
    assert acted(loans, "loans", "", "loans", "select_item", "1")[0] == Action(
        "select_item", "loans", {"item": rows[0]}
    )


@pytest.mark.parametrize(
    "lines", [["q"], ["Q"], ["r", "q"], ["f", "q"], ["m", "q"], [], ["r"]], ids=lambda lines: " ".join(lines) or "end"
)
def test_leaving_at_any_prompt(desk: BPMEnv, lines: Sequence[str]) -> None:
    with pytest.raises(LeaveError):
        Script(*lines).seat.act(desk)
    with pytest.raises(LeaveError):
        Script(*lines).seat.review(desk, OPEN)


def test_help_chat_and_screen_do_nothing(desk: BPMEnv) -> None:
    script = Script("?", "h", "l", "c", "a")
    assert script.seat.review(desk, OPEN).feedback.verdict == "accept"
    (opening,) = [event.text for event in desk.session().tail if isinstance(event, Message)]
    assert script.text.count(f"customer: {opening}") == 3
    assert sum(line.startswith("suggestion: ") for line in script.shown) == 2
    assert "accept the suggestion" in script.text


def test_all_of_the_screen_is_shown_within_the_width(loans: BPMEnv) -> None:
    for columns in (40, 80):
        script = Script("r", "", "?", "find", "", "q", columns=columns)
        with pytest.raises(LeaveError):
            script.seat.act(loans)
        lines = [line for line in script.shown if not line.endswith((": ", "> "))]
        assert max(map(len, lines)) <= columns
        words = " ".join(" ".join(lines).split())
        for name, value in loans.world.state().values.items():
            assert name in words or name.startswith("loans."), name
            assert str(value).lower() in words.lower().replace('"', ""), (name, value)


def test_text_that_is_no_text_can_be_stored(desk: BPMEnv) -> None:
    action, _ = acted(desk, "message=caf\udce9")
    assert action == Action("send_message", "message", {"text": "caf?"})


def test_told() -> None:
    assert told(Action("set_field", "find.number", {"value": 12})) == "set_field find.number = 12"
    assert told(Action("click", "find")) == "click find"
