from __future__ import annotations

import pickle

import pytest

from handrail.envs.bpm.ground import Ground, Lineage, Record

LINEAGE = Lineage({"customer": None, "account": "customer", "card": "account", "device": "customer"})


def ground() -> Ground:
    """Customer 0 with account 1 (cards 2, 3) and device 4; customer 5 with account 6."""
    owners = [
        ("customer", -1),
        ("account", 0),
        ("card", 1),
        ("card", 1),
        ("device", 0),
        ("customer", -1),
        ("account", 5),
    ]
    records = {i: Record(i, kind, owner, {"key": f"{kind}{i}"}) for i, (kind, owner) in enumerate(owners)}
    rows: dict[tuple[int, str], tuple[int, ...]] = {}
    for record in records.values():
        rows[record.owner, record.type] = (*rows.get((record.owner, record.type), ()), record.id)
    return Ground(LINEAGE, records, rows, "2025-03-03", {"checked": False})


def test_lineage() -> None:
    assert LINEAGE.root == "customer"
    assert list(LINEAGE.above("card")) == ["account", "customer"]
    assert LINEAGE.below == {
        "customer": ("account", "card", "device"),
        "account": ("card",),
        "card": (),
        "device": (),
    }


def test_a_record_comes_into_focus_with_its_owners() -> None:
    g = ground()
    g.bring("card", 3)
    assert g.focus == {"customer": 0, "account": 1, "card": 3}
    assert g.scope["card"] == {"key": "card3"}
    assert g.scope["customer"] == {"key": "customer0"}
    assert g.scope["device"] is None


def test_what_belongs_to_a_record_leaves_with_it() -> None:
    g = ground()
    g.bring("card", 3)
    g.bring("device", 4)
    assert g.focus == {"customer": 0, "account": 1, "card": 3, "device": 4}
    g.bring("account", 1)
    assert "card" in g.focus
    g.bring("account", 6)
    assert g.focus == {"customer": 5, "account": 6}
    assert g.scope["card"] is g.scope["device"] is None
    g.bring("customer", None)
    assert g.focus == {}
    assert g.scope["account"] is None


def test_listed_are_those_of_the_owner_in_focus() -> None:
    g = ground()
    assert list(g.listed("customer")) == [0, 5]
    assert list(g.listed("card")) == []
    g.bring("account", 1)
    assert list(g.listed("card")) == [2, 3]
    assert list(g.listed("account")) == [1]
    assert sorted(g.every("account")) == [1, 6]


def test_a_copy_is_independent() -> None:
    g = ground()
    g.bring("card", 2)
    copied = g.copy()
    g.put("card", "key", "new")
    g.case["checked"] = True
    g.said["x"] = 1
    g.counts["t"] = 1
    assert g.insert("card", 1, {"key": "added"}) == 7
    g.bring("card", 7)
    assert copied.scope["card"] == {"key": "card2"}
    assert copied.records[2].values == {"key": "card2"}
    assert (copied.case, copied.said, copied.scope["times"]("t"), 7 in copied.records) == (
        {"checked": False},
        {},
        0,
        False,
    )
    assert list(copied.listed("card")) == [2, 3]
    assert (g.scope["times"]("t"), list(g.listed("card")), g.touched) == (1, [2, 3, 7], {2, 7})
    assert copied.touched == set()


def test_pickling_keeps_all() -> None:
    g = ground()
    g.bring("card", 2)
    g.put("card", "key", "new")
    g.counts["t"] = 3
    back = pickle.loads(pickle.dumps(g))
    assert (back.focus, back.records, back.rows, back.touched) == (g.focus, g.records, g.rows, g.touched)
    assert back.scope["card"] == {"key": "new"}
    assert back.scope["times"]("t") == 3


def test_added_records_can_have_a_given_id() -> None:
    g = ground()
    assert g.insert("device", 0, {}, 40) == 40
    assert g.insert("device", 0, {}) == 41


def test_the_root_is_the_type_without_an_owner() -> None:
    with pytest.raises(StopIteration):
        Lineage({"card": "customer"})
