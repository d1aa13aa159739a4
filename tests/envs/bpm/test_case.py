from __future__ import annotations

import datetime
import pickle
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handrail.envs.bpm import load
from handrail.envs.bpm.case import Case, draw_case, slip
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.program import program
from handrail.envs.errors import HandrailError

CASES = 60


@pytest.fixture(scope="module", params=load.names())
def domain(request: pytest.FixtureRequest) -> Domain:
    return load.load_domain(request.param)


def cases(domain: Domain) -> list[Case]:
    return [draw_case(domain, np.random.default_rng(seed)) for seed in range(CASES)]


def scope_of(domain: Domain, case: Case, concerns: dict[str, int]) -> dict[str, object]:
    scope: dict[str, object] = dict.fromkeys(domain.records)
    scope.update({kind: case.records[number].values for kind, number in concerns.items()})
    return {**scope, "today": case.today, "case": domain.desk.case, "said": {}, "times": lambda name: 0}


def test_a_seed_gives_one_case(domain: Domain) -> None:
    again = cases(domain)
    assert cases(domain) == again
    assert len({case.id for case in again}) == CASES
    assert pickle.loads(pickle.dumps(again[0])) == again[0]


def test_records_belong_where_they_say_and_have_keys_of_their_own(domain: Domain) -> None:
    for case in cases(domain):
        keys = Counter(
            (record.type, record.values[domain.records[record.type].key]) for record in case.records.values()
        )
        assert max(keys.values()) == 1
        for number, record in case.records.items():
            assert record.id == number
            owner = domain.records[record.type].of
            assert owner == (case.records[record.owner].type if record.owner >= 0 else None)
            assert number in case.rows[record.owner, record.type]
            assert list(record.values) == list(domain.records[record.type].fields)
        assert sum(map(len, case.rows.values())) == len(case.records)


def test_counts_are_kept(domain: Domain) -> None:
    for case in cases(domain):
        for kind, spec in domain.records.items():
            low, high = spec.count
            if spec.of is None:
                assert low <= len(case.rows[-1, kind]) - 1 <= high
            else:
                for owner in (record for record in case.records.values() if record.type == spec.of):
                    assert low <= len(case.rows.get((owner.id, kind), ())) <= high


def test_issues_concern_records_that_fit_and_variants_come_true(domain: Domain) -> None:
    compiled = program(domain)
    for case in cases(domain):
        for matter in case.matters:
            issue = compiled.issues[matter.issue]
            sets, facts = issue.variants[matter.variant]
            scope = scope_of(domain, case, matter.concerns)
            changed = {f"{kind}.{field}" for kind, field, _ in sets}
            for kind, condition in issue.concerns:
                record = case.records[matter.concerns[kind]]
                rows = {f"row.{name.partition('.')[2]}" for name in changed if name.startswith(f"{kind}.")}
                if not condition.reads & (changed | rows):
                    assert condition({**scope, "row": record.values})
            for kind, field, value in (s for s in sets if not s[2].reads & changed):
                assert case.records[matter.concerns[kind]].values[field] == value(scope)
            for fact, known in matter.facts.items():
                expression = facts.get(fact, issue.facts[fact][0])
                if expression is not None:
                    assert known.value == expression(scope)
            for number in matter.concerns.values():
                while number != case.customer:
                    number = case.records[number].owner
                    assert number >= 0


def test_mistakes_are_as_frequent_as_facts_say(domain: Domain) -> None:
    seen: Counter[str] = Counter()
    for case in cases(domain):
        for matter in case.matters:
            for fact, known in matter.facts.items():
                spec = domain.issues[matter.issue].facts[fact]
                if known.first != known.value:
                    assert spec.wrong + spec.never > 0
                    seen["never" if known.later != known.value else "wrong"] += 1
                assert known.later in (known.first, known.value)
                if known.value is None:
                    assert known.first is known.later is None
                seen["facts"] += 1
    assert seen["facts"] > CASES


def test_two_issues_share_what_the_customer_knows_and_little_else(domain: Domain) -> None:
    often = msgspec.structs.replace(domain, desk=msgspec.structs.replace(domain.desk, two_issues=1.0))
    pairs = [case for case in cases(often) if len(case.matters) == 2]
    assert len(pairs) > CASES / 3
    for case in pairs:
        first, second = case.matters
        assert domain.issues[first.issue].procedure != domain.issues[second.issue].procedure
        assert domain.issues[second.issue].second
        shared = set(first.concerns.values()) & set(second.concerns.values())
        owners = {case.records[number].owner for number in (*first.concerns.values(), *second.concerns.values())}
        assert shared <= owners | {case.customer}
        for fact in first.facts.keys() & second.facts.keys():
            if first.facts[fact].value == second.facts[fact].value:
                assert first.facts[fact] == second.facts[fact]


def test_issues_can_be_chosen_and_are_drawn_by_weight(domain: Domain) -> None:
    name = list(domain.issues)[-1]
    rng = np.random.default_rng(0)
    assert {draw_case(domain, rng, name).matters[0].issue for _ in range(5)} == {name}
    some = tuple(domain.issues)[:2]
    drawn = [draw_case(domain, rng, issues=some) for _ in range(CASES)]
    assert {matter.issue for case in drawn for matter in case.matters} == set(some)
    with pytest.raises(HandrailError, match=rf"no issue '{name}x'; did you mean .*{name}"):
        draw_case(domain, rng, f"{name}x")
    with pytest.raises(HandrailError, match="no issue is left"):
        draw_case(domain, rng, issues=())


def test_the_day_and_the_time_are_office_hours(domain: Domain) -> None:
    for case in cases(domain):
        start = datetime.datetime.fromtimestamp(case.start, datetime.UTC)
        assert start.date().isoformat() == case.today
        assert 8 <= start.hour < 17


def test_what_fits_no_customer_is_an_error() -> None:
    mock = load.load_domain("mock")
    issue = msgspec.structs.replace(mock.issues["renew_loan"], concerns={"loan": "row.renewed > 90"})
    broken = msgspec.structs.replace(mock, issues={**mock.issues, "renew_loan": issue})
    with pytest.raises(HandrailError, match=r"issues.renew_loan.concerns fits no record"):
        draw_case(broken, np.random.default_rng(0), "renew_loan")


def test_keys_that_run_out_are_an_error() -> None:
    mock = load.load_domain("mock")
    loan = mock.records["loan"]
    few = msgspec.structs.replace(
        loan, fields={**loan.fields, "copy": msgspec.structs.replace(loan.fields["copy"], code="C#")}
    )
    broken = msgspec.structs.replace(mock, name="few", records={**mock.records, "loan": few})
    with pytest.raises(HandrailError, match=r"records.loan.fields.copy is the key, but 100 draws"):
        program(broken)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(min_size=1),
        st.integers(-(10**9), 10**9),
        st.floats(0, 1e6).map(lambda number: round(number, 2)),
        st.dates(datetime.date(1930, 1, 1), datetime.date(2030, 1, 1)).map(str),
        st.booleans(),
    ),
    st.integers(0, 2**32),
)
@example("¼", 0)
def test_a_slip_keeps_the_kind_of_a_value(value: object, seed: int) -> None:
    wrong = slip(value, np.random.default_rng(seed).random)
    assert type(wrong) is type(value)
    if isinstance(value, bool):
        assert wrong is not value
    elif isinstance(value, str) and len(value) == 10 and value[4] == value[7] == "-":
        assert wrong != value
        datetime.date.fromisoformat(wrong)
    elif isinstance(value, str):
        assert len(wrong) == len(value)
        assert sum(a != b for a, b in zip(wrong, value, strict=True)) == (1 if wrong != value else 0)
        assert wrong != value or not any(letter.isdigit() or letter.isalpha() for letter in value)
