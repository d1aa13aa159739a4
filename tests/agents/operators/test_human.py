from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from handrail.agents.operators.expert import Expert, Style
from handrail.agents.operators.human import NONE, Operator, Person, Slips, crew
from handrail.envs.bpm.case import draw_case
from handrail.envs.bpm.clock import Seconds
from handrail.envs.bpm.load import load_domain
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action

STYLE = Style()


def world(seed: int, domain: str = "mock") -> World:
    loaded = load_domain(domain)
    return World(loaded, draw_case(loaded, np.random.default_rng(seed)))


def run(slips: Slips, seed: int, domain: str = "mock") -> tuple[World, Operator, list[tuple[Action, Action]]]:
    """Work a case and return what was done beside what the expert would have done."""
    desk = world(seed, domain)
    operator = Operator(Person("ann", STYLE, slips=slips), np.random.default_rng(seed))
    operator.begin(desk)
    done = []
    for _ in range(80):
        if desk.outcome is not None:
            break
        meant = Expert(STYLE).act(desk)
        action = operator.act(desk)
        done.append((meant, action))
        desk.do(action)
    return desk, operator, done


def only(kind: str, **more: float) -> Slips:
    return dataclasses.replace(NONE, **{kind: 1.0, **more})


def test_without_slips_a_person_is_an_expert() -> None:
    for seed in range(30):
        desk, operator, done = run(NONE, seed)
        assert all(same_action(meant, action) for meant, action in done)
        assert desk.success
        assert operator.slipped == []


def test_a_person_works_at_their_speed() -> None:
    fast, slow = world(1), world(1)
    for desk, speed in ((fast, 1.0), (slow, 2.0)):
        operator = Operator(Person("ann", STYLE, speed=speed, slips=NONE), np.random.default_rng(0))
        operator.begin(desk)
        while desk.outcome is None:
            desk.do(operator.act(desk))
    assert slow.clock.spent.total == pytest.approx(2 * fast.clock.spent.total)


def one_slip(slips: Slips, domain: str = "mock") -> tuple[World, str, Action, Action, list[Action]]:
    """Work cases until something slips, then put slips off; return the world, the slip and all that was done."""
    for seed in range(200):
        desk = world(seed, domain)
        operator = Operator(Person("ann", STYLE, slips=slips), np.random.default_rng(seed))
        operator.begin(desk)
        done: list[Action] = []
        slipped = None
        while desk.outcome is None and len(done) < 100:
            meant = Expert(STYLE).act(desk)
            action = operator.act(desk)
            if operator.slipped and slipped is None:
                assert operator.slipped[0][0] == len(done)
                slipped = operator.slipped[0][1], meant, action
                operator.person = dataclasses.replace(operator.person, slips=NONE)
            done.append(action)
            desk.do(action)
        if slipped is not None:
            return desk, *slipped, done
    raise AssertionError("nothing slipped in 200 cases")


def test_a_noticed_typo_is_entered_again() -> None:
    desk, kind, meant, slip, done = one_slip(only("mistype"))
    assert kind == "mistype"
    assert (slip.tool, slip.target) == (meant.tool, meant.target)
    wrong, right = slip.args["value"], meant.args["value"]
    assert wrong != right
    assert type(wrong) is type(right)
    assert len(str(wrong)) == len(str(right))
    after = done[done.index(slip) + 1]
    assert same_action(after, meant)
    assert desk.success


def test_an_unnoticed_typo_is_submitted() -> None:
    _, kind, meant, slip, done = one_slip(only("mistype", unnoticed=1.0))
    assert kind == "mistype"
    following = done[done.index(slip) + 1 :]
    submitted = next(i for i, action in enumerate(following) if action.tool == "click")
    assert not any(action.target == meant.target for action in following[:submitted])


def test_a_wrong_row_is_another_row_and_the_right_one_follows() -> None:
    desk, kind, meant, slip, done = one_slip(only("misselect"), "bank")
    assert kind == "misselect"
    assert (slip.tool, slip.target) == ("select_item", meant.target)
    assert slip.args != meant.args
    assert any(same_action(action, meant) for action in done[done.index(slip) + 1 :])
    assert desk.success


def test_a_wrong_link_leads_astray_and_back() -> None:
    desk, kind, meant, slip, _ = one_slip(only("misnavigate"), "bank")
    assert kind == "misnavigate"
    assert slip.tool == meant.tool == "navigate"
    assert slip.target != meant.target
    assert desk.success


def test_a_wrong_reply_is_sent_and_the_right_one_after_it() -> None:
    _, kind, meant, slip, done = one_slip(only("misreply"))
    assert kind == "misreply"
    assert slip.tool == "send_reply"
    assert slip.target != meant.target
    assert len(done) > done.index(slip) + 1


def test_a_forgotten_message_fails_the_case() -> None:
    desk, kind, meant, slip, done = one_slip(only("forget"))
    assert kind == "forget"
    assert meant.tool == "send_reply"
    assert slip is done[-1]
    assert slip.target.startswith("close:")
    assert desk.success is False


def test_a_repeated_action_is_the_one_before() -> None:
    _, kind, _, slip, done = one_slip(only("repeat"))
    assert kind == "repeat"
    assert done[1] is slip is done[0]


def test_slips_come_at_their_rates() -> None:
    count, chances = 0, 0
    slips = dataclasses.replace(NONE, misreply=0.2)
    for seed in range(150):
        _, operator, done = run(slips, seed)
        count += len(operator.slipped)
        chances += sum(meant.tool == "send_reply" for meant, _ in done)
    # Binomial: 4.5 standard deviations either way, a false alarm in 100,000 runs.
    assert abs(count - 0.2 * chances) < 4.5 * (chances * 0.2 * 0.8) ** 0.5
    assert chances > 300


@pytest.mark.parametrize("domain", ["mock", "bank", "telecom"])
def test_people_with_the_default_slips_succeed_mostly_and_slip_sometimes(domain: str) -> None:
    wins, slips = 0, 0
    for seed in range(80):
        desk, operator, _ = run(Slips(), seed, domain)
        wins += bool(desk.success)
        slips += len(operator.slipped)
    assert wins >= 72
    assert slips >= 3


def test_a_crew_is_drawn_by_seed() -> None:
    assert crew(5, 1) == crew(5, 1)
    assert crew(5, 1) != crew(5, 2)
    people = crew(400, 0)
    assert len({person.name for person in people}) == 400
    assert [person.trait for person in people[:2]] == ["thorough", "brisk"]
    speeds = np.log([person.speed for person in people])
    # Four standard errors of mean and deviation: a false alarm in 10,000 seeds.
    assert abs(speeds.mean()) < 4 * Seconds().people / 20
    assert abs(speeds.std() - Seconds().people) < 4 * Seconds().people / 28


def test_small_crews_are_as_fast_as_large_ones() -> None:
    for size in (1, 2, 6):
        # The mean of a log-normal factor with median 1 and the deviation 0.26.
        mean = np.mean([person.speed for person in crew(size, 3)])
        assert mean == pytest.approx(np.exp(0.26**2 / 2))


def test_crews_and_slips_are_checked() -> None:
    with pytest.raises(HandrailError, match=r"a crew of 0; expected at least 1 operator"):
        crew(0, 1)
    with pytest.raises(HandrailError, match=r"slips: mistype is -0.1, expected a probability"):
        Slips(mistype=-0.1)
    with pytest.raises(HandrailError, match=r"operator 'ann': speed is 0, expected a factor > 0"):
        Person("ann", speed=0)
