from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from handrail.envs.bpm import flow, load
from handrail.envs.bpm.case import Case, Known, draw_case
from handrail.envs.bpm.customer import PERSONAS, Customer, Options
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.draws import Chance
from handrail.envs.bpm.expressions import text_of
from handrail.envs.bpm.world import World
from handrail.envs.errors import HandrailError

CALM = Options(typos=0, omits=0, wavers=0, chatter=0, patience=1000)


@pytest.fixture(scope="module")
def mock() -> Domain:
    return load.load_domain("mock")


def a_case(domain: Domain, issue: str = "change_email", seed: int = 0, **facts: Known) -> Case:
    """A case with one issue, in which `facts` are known as given."""
    alone = msgspec.structs.replace(domain, desk=msgspec.structs.replace(domain.desk, two_issues=0))
    case = draw_case(alone, np.random.default_rng(seed), issue)
    matter = case.matters[0]
    return msgspec.structs.replace(case, matters=(msgspec.structs.replace(matter, facts={**matter.facts, **facts}),))


def a_pair(domain: Domain) -> Case:
    for seed in range(100):
        case = draw_case(domain, np.random.default_rng(seed))
        if len(case.matters) == 2:
            return case
    raise AssertionError("no case with two issues")


def opened(domain: Domain, case: Case, options: Options = CALM, seed: int = 0) -> tuple[Customer, Chance]:
    customer, chance = Customer(domain, case, options), Chance(seed)
    customer.opening(chance)
    return customer, chance


def test_the_opening_raises_the_issue_and_what_it_tells_is_in_it(mock: Domain) -> None:
    told = 0
    for seed in range(60):
        case = a_case(mock, seed=seed)
        texts, acts = Customer(mock, case, CALM).opening(Chance(seed))
        assert acts.raised == ("change_email",)
        assert set(acts.said) <= {"number", "email"}
        for fact, value in acts.said.items():
            assert value == case.matters[0].facts[fact].first
            assert text_of(value) in " ".join(texts)
            told += 1
    # Two facts are volunteered with probabilities 0.2 and 0.4: 36 expected, five standard deviations are 31.
    assert 5 < told < 67


def test_answers_what_is_asked_wrong_first_and_right_when_asked_again(mock: Domain) -> None:
    born = Known("1980-01-02", "1980-01-03", "1980-01-02")
    customer, chance = opened(mock, a_case(mock, born=born))
    for value in ("1980-01-03", "1980-01-02", "1980-01-02"):
        texts, acts = customer.reply(chance, "ask_identity", ["born"], "change_email")
        assert acts.said == {"born": value}
        assert value in texts[0]


def test_knows_nothing_of_an_issue_that_was_not_raised(mock: Domain) -> None:
    customer = Customer(mock, a_case(mock), CALM)
    assert customer.reply(Chance(0), "ask_identity", ["number", "born"], "change_email")[1].said == {}


def test_somebody_who_never_knew_stays_wrong(mock: Domain) -> None:
    customer, chance = opened(mock, a_case(mock, number=Known("L-11111", "L-99999", "L-99999")))
    for _ in range(3):
        assert customer.reply(chance, "ask_identity", ["number"], "change_email")[1].said == {"number": "L-99999"}


def test_a_fact_without_value_is_unknown(mock: Domain) -> None:
    customer, chance = opened(mock, a_case(mock, email=Known(None, None, None)))
    texts, acts = customer.reply(chance, "ask_email", ["email"], "change_email")
    assert acts.said == {}
    assert texts[0].startswith(("I do not know", "Sorry", "Oh", "i do not", "sorry", "oh"))


def test_leaves_out_each_fact_at_most_once_and_only_where_it_is_asked_again(mock: Domain) -> None:
    evasive = Options(typos=0, omits=1000, wavers=0, chatter=0, patience=1000)
    for seed in range(20):
        case = a_case(mock, seed=seed)
        customer, chance = Customer(mock, case, evasive), Chance(seed)
        _, told = customer.opening(chance)
        _, acts = customer.reply(chance, "ask_identity", ["number", "born"], "change_email")
        assert set(acts.said) == set(told.said) & {"number", "born"}, "all that was not told before is left out"
        _, acts = customer.reply(chance, "ask_identity", ["number", "born"], "change_email")
        assert set(acts.said) == {"number", "born"}
        _, acts = customer.reply(chance, "ask_identity_again", ["number", "born"], "change_email")
        assert set(acts.said) == {"number", "born"}
    customer, chance = opened(mock, a_case(mock), evasive)
    _, acts = customer.reply(chance, "ask_identity_again", ["number", "born"], "change_email")
    assert set(acts.said) == {"number", "born"}, "`again` is asked once, so it is answered"


def test_corrects_in_the_same_breath_and_the_last_value_counts(mock: Domain) -> None:
    wavering = Options(typos=0, omits=0, wavers=1000, chatter=0, patience=1000)
    for seed in range(20):
        case = a_case(
            mock, "renew_loan", seed, weeks=Known("2", "2", "2"), born=Known("1980-01-02", "1980-01-02", "1980-01-02")
        )
        customer, chance = Customer(mock, case, wavering), Chance(seed)
        customer.opening(chance)
        texts, acts = customer.reply(chance, "ask_identity", ["born"], "renew_loan")
        text = " ".join(texts)
        assert acts.said == {"born": "1980-01-02"}
        dates = re.findall(r"\d{4}-\d{2}-\d{2}", text)
        assert len(dates) == 2
        assert dates[0] != dates[1] == "1980-01-02"


def test_typing_errors_spare_the_values(mock: Domain) -> None:
    clumsy = msgspec.structs.replace(CALM, typos=100)
    address = "somebody.lettered@example.org"
    mistyped = 0
    for seed in range(40):
        case = a_case(mock, seed=seed, email=Known(address, address, address))
        texts, acts = Customer(mock, case, clumsy).opening(Chance(seed))
        if "email" in acts.said:
            assert address in texts[-1]
        customer, chance = opened(mock, case, clumsy, seed)
        text = customer.reply(chance, "ask_email", ["email"], "change_email")[0][0]
        assert address in text
        mistyped += not any(word in " ".join(texts) for word in ("address", "change"))
    assert mistyped > 5


def test_grows_impatient(mock: Domain) -> None:
    customer, chance = opened(mock, a_case(mock), msgspec.structs.replace(CALM, patience=0))
    texts = [text for _ in range(60) for text in customer.reply(chance, "ask_email", ["email"], "change_email")[0]]
    # From the fourth reply on, two in five are impatient: none in 56 has a chance of 4e-13.
    assert any("still there" in text.lower() or "hello?" in text.lower() for text in texts)
    patient, chance = opened(mock, a_case(mock))
    texts = [text for _ in range(60) for text in patient.reply(chance, "ask_email", ["email"], "change_email")[0]]
    assert not any("still there" in text.lower() for text in texts)


def test_reacts_to_good_and_bad_news(mock: Domain) -> None:
    def answers(template: str) -> set[str]:
        found: set[str] = set()
        for seed in range(30):
            customer, chance = opened(mock, a_case(mock, seed=seed), seed=seed)
            found.update(t.lower().strip(".!") for t in customer.reply(chance, template, (), "change_email")[0])
        return found

    thanks = {"thank you", "great, thanks", "lovely, thanks"}
    sorrow = {"that is a pity", "oh dear", "i see"}
    assert answers("tell_email_changed") <= thanks
    assert answers("tell_unidentified") <= sorrow


def test_raises_the_second_issue_when_told_to(mock: Domain) -> None:
    case = a_pair(mock)
    customer, chance = opened(mock, case)
    assert customer.waiting
    foreign = [fact for fact in case.matters[1].facts if fact not in case.matters[0].facts]
    assert customer.reply(chance, "ask_email", foreign, case.matters[0].issue)[1].said == {}
    _, acts = customer.raise_next(chance)
    assert acts.raised == (case.matters[1].issue,)
    assert not customer.waiting
    _, acts = customer.reply(chance, "ask_book", foreign, case.matters[1].issue)
    assert acts.said == {fact: case.matters[1].facts[fact].value for fact in foreign}


@pytest.mark.parametrize("name", load.names())
def test_a_snapshot_goes_on_as_the_original(name: str) -> None:
    domain = load.load_domain(name)
    rng = np.random.default_rng(5)
    for seed in range(15):
        case = draw_case(domain, rng)
        facts = list(case.matters[0].facts)
        customer, chance = opened(domain, case, Options(), seed)
        customer.reply(chance, next(iter(domain.templates)), facts[:2], None)
        state, drawn = customer.snapshot(), chance.state

        def go_on(customer: Customer = customer, chance: Chance = chance, facts: list[str] = facts) -> list[object]:
            return [customer.reply(chance, next(iter(domain.templates)), facts, None) for _ in range(4)]

        first = go_on()
        customer.restore(state)
        chance.state = drawn
        assert go_on() == first
        other, again = Customer(domain, case, Options()), Chance(seed)
        other.restore(state)
        again.state = drawn
        assert [other.reply(again, next(iter(domain.templates)), facts, None) for _ in range(4)] == first


@pytest.mark.parametrize("name", load.names())
def test_what_is_said_can_be_read(name: str) -> None:
    """Every value said stands in the message, unless the domain has words of its own for it."""
    domain = load.load_domain(name)
    rng = np.random.default_rng(2)
    for seed in range(60):
        case = draw_case(domain, rng)
        customer, chance = Customer(domain, case), Chance(seed)
        issue = domain.issues[case.matters[0].issue]
        heard = [customer.opening(chance)]
        heard += [customer.reply(chance, "x", [fact], issue.procedure) for fact in issue.facts]
        for texts, acts in heard:
            for fact, value in acts.said.items():
                if isinstance(issue.facts[fact].say, list):
                    assert text_of(value) in " ".join(texts)
                assert all(text.strip() for text in texts)


def test_other_languages_replace_the_phrases(mock: Domain) -> None:
    words = {
        "small": {"thanks": ["Danke!"]},
        "issues": {
            "change_email": {"opening": ["Ich habe eine neue Adresse"], "facts": {"email": ["Sie lautet {value}"]}}
        },
    }
    german = msgspec.structs.replace(mock, languages={"de": words})
    options = msgspec.structs.replace(CALM, language="de")
    customer, chance = Customer(german, a_case(german), options), Chance(0)
    assert "neue adresse" in customer.opening(chance)[0][0].lower()
    texts, acts = customer.reply(chance, "ask_email", ["email"], "change_email")
    assert texts[0].lower() == f"sie lautet {acts.said['email']}".lower()
    assert customer.reply(chance, "tell_email_changed", (), "change_email")[0][0].lower().rstrip("!.") == "danke"
    with pytest.raises(HandrailError, match=r"'fr'.*de"):
        Customer(german, a_case(german), msgspec.structs.replace(CALM, language="fr"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"typo": 1}, "'typo' is unknown; did you mean typos"),
        ({"omits": -1}, "omits is -1; expected a factor of 0 or more"),
        ({"chatter": "much"}, "chatter is 'much'"),
        ({"language": 3}, "language is 3; expected a language"),
    ],
)
def test_wrong_options_are_explained(mock: Domain, given: dict[str, object], message: str) -> None:
    with pytest.raises(HandrailError, match=message):
        Customer(mock, a_case(mock), given)


def test_personas_come_in_their_shares(mock: Domain) -> None:
    case = a_case(mock)
    seeds = np.random.default_rng(1).integers(2**52, size=3000)
    names = [Customer(mock, msgspec.structs.replace(case, seed=int(seed))).persona.name for seed in seeds]
    total = sum(persona.weight for persona in PERSONAS)
    for persona in PERSONAS:
        share = persona.weight / total
        # Four standard deviations of a binomial share; seven personas: false alarm below 5e-4.
        assert abs(names.count(persona.name) / len(names) - share) < 4 * (share * (1 - share) / len(names)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bank", "telecom"])
def test_messages_rarely_repeat(name: str) -> None:
    domain = load.load_domain(name)
    rng = np.random.default_rng(0)
    messages: list[str] = []
    for _ in range(2000):
        world = World(domain, draw_case(domain, rng))
        events = list(world.opening)
        while world.outcome is None:
            events += world.do(flow.actions(world, flow.pending(world)[0])[0]).events
        messages += [event.text for event in events if event.role == "customer"]  # type: ignore[union-attr]
    assert len(set(messages)) / len(messages) >= 0.6
