from __future__ import annotations

import pickle

import msgspec
import pytest

from handrail.envs.bpm import load
from handrail.envs.bpm.domain import Domain
from handrail.envs.bpm.program import Program, program


@pytest.fixture(scope="module")
def mock() -> Domain:
    return load.load_domain("mock")


def test_equal_domains_share_one_program(mock: Domain) -> None:
    compiled = program(mock)
    assert program(mock) is compiled
    assert program(pickle.loads(pickle.dumps(mock))) is compiled
    other = msgspec.structs.replace(mock, name="other")
    assert program(other) is not compiled
    assert program(other) is program(other)


def test_other_customers_are_the_same_in_every_process_and_have_ids_in_order(mock: Domain) -> None:
    first, second = Program(mock), Program(mock)
    assert first.others == second.others
    numbers = [number for family in first.others for number in family.records]
    assert numbers == list(range(len(numbers)))
    assert len(first.others) == 40
    keys = {
        record.values["number"] for family in first.others for record in family.records.values() if record.owner < 0
    }
    assert {("customer", key) for key in keys} <= first.taken


def test_what_templates_ask_for_in_a_procedure_includes_what_it_runs(mock: Domain) -> None:
    compiled = program(mock)
    assert compiled.asks["change_email", "ask_identity"] == ("number", "born")
    assert compiled.asks["change_email", "ask_email"] == ("email",)
    assert compiled.asks[None, "ask_book"] == ("book", "weeks")
    assert ("change_email", "ask_book") not in compiled.asks
    assert compiled.questions == {"ask_identity", "ask_identity_again", "ask_email", "ask_book"}


def test_fields_are_shown_where_screens_read_them_or_list_them(mock: Domain) -> None:
    shown = program(mock).shown
    assert shown["customer.email"] == ("member",)
    assert shown["loan.due"] == shown["loan.copy"] == ("loans",)
    assert "customer.number" not in shown


def test_forms_know_what_they_are_about(mock: Domain) -> None:
    forms = program(mock).forms
    assert {name: (form.needs, form.touches, form.finds, form.changes) for name, form in forms.items()} == {
        "find": ((), (), {"customer"}, False),
        "confirm_identity": (("customer",), ("customer",), frozenset(), False),
        "save_email": (("customer",), ("customer",), frozenset(), True),
        "renew": (("loan",), ("loan",), frozenset(), True),
    }
