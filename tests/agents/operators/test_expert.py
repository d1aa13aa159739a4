from __future__ import annotations

import numpy as np
import pytest

from handrail.agents.operators.expert import STYLES, Expert, Style, choices, finish, style
from handrail.envs.bpm import flow
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.env import BPMEnv
from handrail.envs.bpm.flow import Todo
from handrail.envs.bpm.load import load_domain, names
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action


def world(domain: str, seed: int) -> World:
    loaded = load_domain(domain)
    return World(loaded, draw_case(loaded, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", sorted(STYLES))
@pytest.mark.parametrize("domain", names())
def test_every_style_works_every_case_to_its_expected_end(domain: str, name: str) -> None:
    results = []
    for seed in range(60):
        desk = world(domain, seed)
        finish(desk, Expert(name, seed))
        results.append((desk.success, desk.violations))
    failed = [result for result in results if result != (True, [])]
    # The issue asks for 97 %; one failure in 60 is 98.3 %.
    assert len(failed) <= 1, failed


@pytest.mark.parametrize("domain", names())
def test_nothing_the_expert_does_is_impossible_whatever_was_done_before(domain: str) -> None:
    """Half of a session is random actions, then the expert takes over: it closes the case without a single error."""
    env = BPMEnv(domain, max_steps=1000)
    for seed in range(25):
        observation, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        expert = Expert("brisk", seed)
        rng = np.random.default_rng(seed)
        for _ in range(40):
            action = env.action_space.sample(mask=observation) if rng.random() < 0.7 else expert.act(env.world)
            if not action.target.startswith("close:"):
                observation, *_ = env.step(action)
        for _ in range(100):
            _, _, terminated, _, info = env.step(expert.act(env.world))
            assert info["error"] is None
            if terminated:
                break
        assert env.world.outcome is not None


@pytest.mark.parametrize("domain", ["bank", "telecom"])
def test_a_critical_form_submitted_wrongly_is_no_dead_end(domain: str) -> None:
    """A form with a select is submitted with another option than it should be; the expert goes on and closes."""
    spoilt = 0
    for seed in range(40):
        desk, expert = world(domain, seed), Expert("thorough", seed)
        while desk.outcome is None and not spoil(desk, expert.act(desk)):
            desk.do(expert.act(desk))
        spoilt += desk.outcome is None
        for _ in range(100):
            if desk.outcome is not None:
                break
            assert desk.do(expert.act(desk)).error is None
        assert desk.outcome is not None
    assert spoilt >= 5


def spoil(desk: World, action: Action) -> bool:
    """Submit the critical form that `action` would submit, with another option in its select; false if it has none."""
    form = desk.program.forms.get(action.target) if action.tool == "click" else None
    if form is None or not form.form.critical:
        return False
    for target, field in form.fields.items():
        for option in field.field.options:
            if option != desk.fields.get(target):
                desk.do(Action("set_field", target, {"value": option}))
                desk.do(action)
                return True
    return False


def test_asked_again_the_expert_answers_the_same() -> None:
    desk, expert = world("mock", 3), Expert("brisk", 5)
    while desk.outcome is None:
        action = expert.act(desk)
        assert same_action(action, Expert("brisk", 5).act(desk))
        desk.do(action)


def test_a_closed_case_leaves_nothing_to_do() -> None:
    desk = world("mock", 1)
    finish(desk, Expert())
    with pytest.raises(HandrailError, match=r"is closed \(.*\); there is nothing left to do"):
        Expert().act(desk)
    assert finish(desk, Expert()) == 0


def test_finish_gives_up() -> None:
    assert finish(world("mock", 1), Expert(), limit=2) is None


TELL = Todo("tell", templates=("greet",), optional=True, node="p.greet")
ASK = Todo("ask", templates=("ask_name",), node="p.ask")
LOOK = Todo("look", "cards", node="p.look")


def test_courtesy_decides_what_is_optional() -> None:
    desk = world("mock", 0)
    assert Expert(Style(courtesy=1)).choose(desk, [TELL, ASK]) is TELL
    assert Expert(Style(courtesy=0)).choose(desk, [TELL, ASK]) is ASK


def test_reorder_decides_what_comes_first() -> None:
    desk = world("mock", 0)
    assert Expert(Style(reorder=0)).choose(desk, [ASK, LOOK]) is ASK
    assert Expert(Style(reorder=1)).choose(desk, [ASK, LOOK]) is LOOK


def test_what_is_not_optional_is_not_put_off_for_ever() -> None:
    desk = world("mock", 0)
    assert Expert(Style(courtesy=0, reorder=1)).choose(desk, [ASK, TELL]) is ASK
    assert Expert(Style(courtesy=0)).choose(desk, [TELL]) is TELL


def test_brevity_decides_between_replies() -> None:
    desk = world("mock", 0)
    texts = desk.domain.templates
    short, long = sorted(texts, key=lambda name: len(texts[name].text))[:: len(texts) - 1]
    todo = Todo("tell", templates=(long, short), node="p.n")
    assert Expert(Style(brevity=1)).template(desk, todo) == short
    assert Expert(Style(brevity=0)).template(desk, todo) == long


def test_habits_hold_in_all_cases_and_moods_in_one() -> None:
    cases = [world("mock", seed) for seed in range(30)]
    nodes = [f"p.n{number}" for number in range(50)]
    habits, moods = Expert(Style(steady=1), 1), Expert(Style(steady=0), 1)
    for node in nodes:
        assert len({habits.draw(desk, "order", node) for desk in cases}) == 1
        assert len({moods.draw(desk, "order", node) for desk in cases}) == 30
    draws = [moods.draw(desk, "order", node) for desk in cases for node in nodes]
    # 1,500 draws: a mean off by 0.04 or a tail off by 0.04 happens less than once in 10,000 runs by chance.
    assert abs(np.mean(draws) - 0.5) < 0.04
    assert abs(np.mean(np.array(draws) < 0.1) - 0.1) < 0.04
    assert Expert(Style(steady=1), 2).draw(cases[0], "order", "p.n0") != habits.draw(cases[0], "order", "p.n0")


@pytest.mark.parametrize("domain", names())
def test_every_choice_leads_on(domain: str) -> None:
    """Whatever `choices` offers is possible, and the expert still comes to the expected end after it."""
    expert = Expert("thorough", 1)
    rng = np.random.default_rng(0)
    for seed in range(8):
        desk = world(domain, seed)
        while desk.outcome is None:
            offered = choices(desk)
            assert any(same_action(expert.act(desk), action) for action in offered)
            assert desk.do(offered[int(rng.integers(len(offered)))]).error is None
        assert desk.success


def test_choices_name_every_reply_and_field_that_will_do() -> None:
    """Compared with what the flow says is pending, at every step of a few cases."""
    seen = set()
    for seed in range(20):
        desk, expert = world("mock", seed), Expert()
        while desk.outcome is None:
            offered = choices(desk)
            for todo in flow.pending(desk):
                sent = {action.target for action in offered if action.tool == "send_reply"}
                assert set(todo.templates) <= sent
                ways = flow.actions(desk, todo)
                if ways[0].tool == "set_field":
                    fields = {action.target for action in ways if action.tool == "set_field"}
                    assert fields <= {action.target for action in offered}
                    assert not any(same_action(ways[-1], action) for action in offered)
                seen.add(ways[0].tool)
            desk.do(expert.act(desk))
    assert {"set_field", "send_reply", "click", "open_procedure"} <= seen


def test_styles_are_checked() -> None:
    with pytest.raises(HandrailError, match=r"style: courtesy is 1.5, expected a number from 0 to 1"):
        Style(courtesy=1.5)
    with pytest.raises(HandrailError, match=r"unknown style 'brisc'; did you mean brisk"):
        style("brisc")
