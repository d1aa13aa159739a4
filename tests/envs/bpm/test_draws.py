from __future__ import annotations

import datetime
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handrail.envs.bpm.domain import Generator
from handrail.envs.bpm.draws import Chance, between, choose, compile_draw, compile_record, uniform_of, weighted
from handrail.envs.errors import HandrailError

DAY = datetime.date(2025, 3, 3).toordinal()


def draws(generator: Generator, count: int = 2000, names: tuple[str, ...] = (), scope: dict | None = None) -> list:
    draw, uniform = compile_draw(generator, names), uniform_of(np.random.default_rng(0))
    return [draw(uniform, scope or {}, DAY) for _ in range(count)]


def ends(generator: Generator) -> list:
    """What the lowest and the highest number from [0, 1) give."""
    draw = compile_draw(generator, ())
    return [draw(lambda number=number: number, {}, DAY) for number in (0.0, 1 - 2**-53)]


@pytest.mark.parametrize(
    ("generator", "lowest", "highest"),
    [
        (Generator(integer=[3, 7]), 3, 7),
        (Generator(integer=[-10, 10, 5]), -10, 10),
        (Generator(integer=[0, 9, 4]), 0, 8),
        (Generator(money=[15, 140]), 15.0, 140.0),
        (Generator(money=[-2, 0]), -2.0, 0.0),
        (Generator(date=[-2, 1]), "2025-03-01", "2025-03-04"),
        (Generator(code="K-####"), "K-0000", "K-9999"),
        (Generator(code="@#x@"), "A0xA", "Z9xZ"),
        (Generator(code="plain"), "plain", "plain"),
        (Generator(pick=["a", 2, None]), "a", None),
        (Generator(pick={"often": 0.7, "rare": 0.1}), "often", "rare"),
        (Generator(flag=0.5), True, False),
        (Generator(phone=True), "0000 0000000", "0999 9999999"),
    ],
)
def test_the_ends_of_what_generators_draw(generator: Generator, lowest: object, highest: object) -> None:
    assert ends(generator) == [lowest, highest]


def test_digits_beyond_what_one_number_holds_are_all_drawn() -> None:
    found = draws(Generator(code="#" * 40), 200)
    assert all(re.fullmatch(r"\d{40}", code) for code in found)
    # Each place takes all ten digits; the chance that 200 draws miss one anywhere is below 40 * 10 * 0.9**200 < 1e-6.
    assert all(len({code[place] for code in found}) == 10 for place in range(40))


def test_shares_follow_weights_and_chances() -> None:
    # Three standard errors at 2,000 draws are below 0.034; the seed is fixed.
    found = Counter(draws(Generator(pick={"a": 3, "b": 1})))
    assert found["a"] / 2000 == pytest.approx(0.75, abs=0.034)
    assert sum(draws(Generator(flag=0.2))) / 2000 == pytest.approx(0.2, abs=0.034)
    assert draws(Generator(integer=[1, 9], or_none=0.4)).count(None) / 2000 == pytest.approx(0.4, abs=0.034)


def test_people_and_addresses_look_like_some() -> None:
    assert all(re.fullmatch(r"\S+ \S+", name) for name in draws(Generator(person=True), 50))
    assert all(re.fullmatch(r"\D+ \d{1,3}, \d{5} \w+", place) for place in draws(Generator(address=True), 50))
    mail = draws(Generator(email=True), 50, scope={"name": "Zoë Ångström"})
    assert all(re.fullmatch(r"[a-z.0-9]+@[a-z.]+", address) for address in mail)
    assert all("zoe" in address or "z." in address or "angstrom" in address for address in mail)


def test_a_record_may_read_its_fields_and_its_owners() -> None:
    fields = {
        "limit": Generator(integer=[5, 5]),
        "double": Generator(expr="limit * 2"),
        "same": Generator(expr="card.double + customer.extra"),
        "late": Generator(expr="later(today, double)"),
    }
    draw = compile_record("card", fields, ("customer", "today"))
    scope = {"customer": {"extra": 1}, "today": "2025-03-03"}
    assert draw(lambda: 0.5, scope, DAY) == {"limit": 5, "double": 10, "same": 11, "late": "2025-03-13"}
    assert scope == {"customer": {"extra": 1}, "today": "2025-03-03"}


def test_a_generator_that_says_nothing_is_an_error() -> None:
    with pytest.raises(HandrailError, match="says nothing of how"):
        compile_draw(Generator(), ())


def test_choices() -> None:
    assert [choose(lambda u=u: u, "abc") for u in (0.0, 0.34, 0.99)] == ["a", "b", "c"]
    assert [weighted(lambda u=u: u, ("a", "b"), (1.0, 3.0)) for u in (0.0, 0.24, 0.26, 0.999)] == ["a", "a", "b", "b"]
    assert [between(lambda u=u: u, [2, 4]) for u in (0.0, 0.5, 0.999)] == [2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**52), st.integers(0, 300), st.integers(0, 300))
def test_chance_goes_back_and_on(seed: int, first: int, second: int) -> None:
    chance = Chance(seed)
    for _ in range(first):
        chance()
    state = chance.state
    assert state == first
    after = [chance() for _ in range(second)]
    chance.state = state
    assert [chance() for _ in range(second)] == after
    other = Chance(seed)
    other.state = state
    assert [other() for _ in range(second)] == after
    assert all(0 <= number < 1 for number in after)
