from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from handrail.envs.bpm import check, graphs, load, probe
from handrail.envs.bpm.domain import Domain
from handrail.envs.errors import HandrailError

DATA: dict[str, Any] = msgspec.to_builtins(load.load_domain("mock"))
REMOVE = object()


def changed(*changes: tuple[str, Any]) -> Domain:
    """The smallest domain with values replaced, given their paths; list positions are numbers."""
    data = copy.deepcopy(DATA)
    for path, value in changes:
        *above, last = path.split("/")
        inner: Any = data
        for key in above:
            inner = inner[int(key) if isinstance(inner, list) else key]
        key = int(last) if isinstance(inner, list) else last
        if value is REMOVE:
            del inner[key]
        elif isinstance(inner, list) and key == len(inner):
            inner.append(value)
        else:
            inner[key] = value
    return msgspec.convert(data, Domain)


def told(*changes: tuple[str, Any]) -> str:
    with pytest.raises(HandrailError) as error:
        check.check_domain(changed(*changes))
    return str(error.value)


@pytest.mark.parametrize("name", load.names())
def test_shipped_domains_have_no_mistakes(name: str) -> None:
    domain, source = load.read_domain(load.FOLDER / name)
    check.check_domain(domain, source)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        # records
        ("records/loan/of", "custmer", "records.loan.of: unknown record type 'custmer'; did you mean customer?"),
        ("records/loan/of", None, "exactly one record type has no `of`, that of customers; customer, loan have none"),
        ("records/loan/key", "code", "records.loan.key: unknown field 'code'"),
        ("records/loan/count", [3, 1], "expected [lowest, highest] with 0 <= lowest <= highest, got [3, 1]"),
        ("records/loan/fields/from", {"flag": 0.5}, "'from' cannot name a field"),
        ("records/loan/fields/customer", {"flag": 0.5}, "a field cannot have the name of the record type 'customer'"),
        ("records/loan/fields/due", {}, "exactly one of pick, integer,"),
        ("records/loan/fields/due", {"flag": 0.5, "date": [1, 2]}, "date and flag are given"),
        ("records/loan/fields/due", {"date": [5, 1]}, "expected [lowest, highest] with lowest <= highest, got [5, 1]"),
        ("records/loan/fields/due", {"integer": [1, 5, 0]}, "[lowest, highest, step]"),
        ("records/loan/fields/due", {"code": "abc"}, "'abc' has neither `#`"),
        ("records/loan/fields/due", {"flag": 2}, "expected a probability from 0 to 1, got 2.0"),
        ("records/loan/fields/due", {"pick": {"1": 0.5, "2": 0.5}}, "values with weights are text"),
        ("records/loan/fields/due", {"pick": []}, "nothing to pick from"),
        ("records/loan/fields/due", {"pick": {"a": 0.0}}, "all weights are 0"),
        ("records/loan/fields/due", {"expr": "renewed + 1"}, "`renewed` is drawn after this field: move it up"),
        ("records/loan/fields/due", {"expr": "loan.renewed"}, "`renewed` is drawn after this field: move it up"),
        ("records/loan/fields/due", {"expr": "customer.nam"}, "unknown field of customer 'nam'; did you mean name"),
        ("records/loan/fields/copy/code", "C#", "the key takes 10 values, too few to be unique among up to"),
        ("records/loan/fields/copy/or_none", 0.1, "the key names the record and always has a value"),
        # desk
        ("desk/home", "loans", "the first screen cannot need customer in focus"),
        ("desk/menu/0", "serch", "desk.menu[0]: unknown screen 'serch'; did you mean search"),
        ("desk/outcomes", [], "a case needs at least one way to be closed"),
        ("desk/two_issues", 1.5, "expected a probability from 0 to 1, got 1.5"),
        ("desk/seconds", {"tipping": 1.0}, "unknown time 'tipping'; did you mean typing"),
        ("desk/seconds", {"typing": -1.0}, "expected seconds of at least 0, got -1.0"),
        ("desk/case/class", 1, "'class' cannot name a field of the case file"),
        # screens
        ("screens/loans/needs", ["lone"], "screens.loans.needs[0]: unknown record type 'lone'; did you mean loan"),
        ("screens/loans/links", ["memberr"], "unknown screen 'memberr'; did you mean member"),
        ("screens/loans/tables/0/rows", "loans", "unknown record type 'loans'; did you mean loan"),
        ("screens/loans/tables/0/columns/0", "title", "unknown field of loan 'title'"),
        ("screens/loans/tables/0/id", "find", "'find' is the id of another table or form"),
        ("screens/loans/shows/0/value", "loan.boko", "unknown field of loan 'boko'; did you mean book"),
        ("screens/loans/shows/0/value", "said.book", "screens show records, not what was said"),
        ("screens/loans/shows/0/id", "loan.due", "'loan.due' is the id of another value"),
        ("screens/loans/shows/0/id", "loans.x", "rows of the table 'loans'"),
        ("screens/loans/shows/0/id", "case.x", "'case.x' is shown on every screen"),
        ("screens/loans/forms/0/id", "re new", "'re new' cannot be an id"),
        ("screens/loans/forms/0/id", "message", "`message` is the id of the box for free messages"),
        ("screens/loans/forms/0/fields/0/options", [], "a select needs options"),
        ("screens/loans/forms/0/fields/0/options/1", "1", "option '1' is given twice"),
        ("screens/loans/forms/0/fields/0/kind", "text", "only a select has options, this field is of kind 'text'"),
        ("screens/member/forms/1/fields/0/kind", "checkbox", "a check box always has a value"),
        ("screens/member/forms/1/fields/0/valid", "valeu", "unknown name `valeu`; did you mean value"),
        ("screens/member/forms/1/does/0", {}, "exactly one of find, set, add, open says what happens; none is given"),
        ("screens/member/forms/1/does/0/set", {"email": "form.email"}, "'email' is no field; write `type.field`"),
        ("screens/member/forms/1/does/0/set", {"customer.mail": "form.email"}, "unknown field of customer 'mail'"),
        ("screens/member/forms/1/does/0/set", {"customer.email": "form.mail"}, "unknown field of form 'mail'"),
        ("screens/member/forms/1/does/0/set", {"customer.number": "'1'"}, "is the key that names the record"),
        ("screens/member/forms/1/does/0/set", {"case.identifed": "true"}, "did you mean identified"),
        ("screens/search/forms/0/does/0/by", {}, "`find` needs `by`"),
        ("screens/search/forms/0/does/0/by", {"nr": "form.number"}, "unknown field of customer 'nr'"),
        ("screens/search/forms/0/does/1/open", "membr", "unknown screen 'membr'; did you mean member"),
        ("screens/search/forms/0/does", [], "it needs customer in focus, which no table lists and no form finds"),
        ("screens/attic", {"title": "Attic"}, "screen 'attic' is out of reach: no menu, link or `open` leads to it"),
        # templates
        ("templates/tell_renewed/text", "{lone.book}", "unknown name `lone`; did you mean loan"),
        ("templates/tell_renewed/text", "{said.bok}", "unknown field of said 'bok'; did you mean book"),
        ("templates/tell_renewed/text", "{1 + 1}", "slot {1 + 1} reads nothing"),
        ("templates/tell_renewed/text", "[a|b", "`[` is not closed"),
        ("templates/tell_renewed/procedures/0", "renew", "unknown procedure 'renew'; did you mean renew_loan"),
        ("templates/tell_renewed/procedures/0", "identify", "'identify' is shared and never open"),
        ("templates/tell_renewed/procedures/0", "change_email", "is not offered while 'renew_loan' is open"),
        # issues
        ("issues/renew_loan/procedure", "renew", "unknown procedure 'renew'; did you mean renew_loan"),
        ("issues/renew_loan/procedure", "identify", "'identify' is shared: it is only run by other procedures"),
        ("issues/renew_loan/weight", 0, "expected a weight above 0"),
        ("issues/renew_loan/concerns", {"laon": "true"}, "unknown record type 'laon'; did you mean loan"),
        ("issues/renew_loan/concerns", {"loan": "row.renewd < 3"}, "unknown field of loan 'renewd'"),
        ("issues/renew_loan/concerns", {}, "the issue concerns no particular loan; add `loan: true` to its `concerns`"),
        ("issues/renew_loan/concerns", {"loan": "row.renewed > 9"}, "no case of it can be drawn"),
        ("issues/renew_loan/variants/0/set", {"loan.stat": "1"}, "unknown field of loan 'stat'; did you mean state"),
        ("issues/renew_loan/variants/0/facts", {"boook": "'x'"}, "unknown fact 'boook'; did you mean book"),
        ("issues/renew_loan/opening", [], "no phrases are given"),
        ("issues/renew_loan/opening/0", "{loan.bok}", "unknown field of loan 'bok'; did you mean book"),
        ("issues/change_email/opening/0", "{loan.book}", "unknown name `loan`"),
        ("issues/renew_loan/facts/book/value", None, "exactly one of `value` (true of the records) and `draw`"),
        ("issues/renew_loan/facts/book/say/0", "That one.", "phrase 'That one.' has no {value}"),
        ("issues/renew_loan/facts/book/say/0", "{book}", "slots may only read value"),
        ("issues/renew_loan/facts/book/wrong", 2, "expected a probability from 0 to 1, got 2"),
        ("issues/renew_loan/facts/weeks/say/4", REMOVE, "no phrases for the value '4'"),
        ("issues/renew_loan/facts/weeks/say/8", ["Eight."], "the fact never is '8'"),
        ("issues/renew_loan/facts/weeks/say/4/0", "Just a week.", "phrase 'Just a week.' also says '1'"),
        ("issues/renew_loan/facts/extra", {"value": "loan.book", "say": ["{value}"]}, "nobody ever learns 'extra'"),
        # rules, small talk, languages
        ("rules/identify_first/never/0", "save_mail", "unknown form, template or outcome 'save_mail'"),
        ("rules/identify_first/never", [], "name at least one form, template or outcome"),
        ("rules/identify_first/when", "form.weeks == '1'", "unknown field of form 'weeks'"),
        ("rules/identify_first/when", "case.identified == 'x'", "the rule can never be broken"),
        ("small/thanks", [], "small.thanks: no phrases are given"),
        ("small/correct/0", "No.", "phrase 'No.' has no {phrase}"),
        ("small/thanks/0", "{customer.name}", "these phrases have no slots"),
        ("languages", {"de": {"smal": {}}}, "languages.de.smal: unknown key 'smal'; did you mean small"),
        ("languages", {"de": {"small": {"thanks": "Danke"}}}, "expected a list of phrases, got 'Danke'"),
        ("languages", {"de": {"issues": {"renew": {}}}}, "unknown key 'renew'; did you mean renew_loan"),
        (
            "languages",
            {"de": {"issues": {"renew_loan": {"facts": {"weeks": {"1": ["Eine."]}}}}}},
            "no phrases for the value '2'",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_the_parts_are_told(path: str, value: Any, expected: str) -> None:
    assert expected in told((path, value))


NODES = "procedures/renew_loan/nodes"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("procedures/renew_loan/start", "idntify", "unknown node 'idntify'; did you mean identify"),
        ("procedures/renew_loan/shared", True, "'renew_loan' is shared"),
        ("procedures/x", {"title": "", "start": "a", "nodes": {"a": {"exit": "x"}}}, "no issue is worked by it"),
        (f"{NODES}/ask", {"next": "loan"}, "exactly one of ask, tell, look"),
        (f"{NODES}/ask", {"ask": "ask_book", "tell": "tell_reserved", "next": "loan"}, "ask and tell are given"),
        (f"{NODES}/ask/next", None, "a dead end: `ask` needs `next`"),
        (f"{NODES}/ask/next", "lone", "unknown node 'lone'; did you mean loan"),
        (f"{NODES}/ask/ask", "ask_boook", "unknown template 'ask_boook'; did you mean ask_book"),
        (f"{NODES}/ask/facts", [], "`ask` needs `facts`"),
        (f"{NODES}/ask/facts/0", "boook", "unknown fact 'boook'; did you mean book"),
        (f"{NODES}/ask/facts/0", "email", "customers of the issue 'renew_loan' have no fact 'email'"),
        (f"{NODES}/ask/limit", 0, "expected at least 1, got 0"),
        (f"{NODES}/ask/optional", True, "`optional` goes with tell and look only; this node is `ask`"),
        (f"{NODES}/ask/where", "true", "`where` goes with select only"),
        (f"{NODES}/loan/swaps", True, "node 'loan' cannot trade places with 'decide'"),
        (f"{NODES}/loan/select", "loan", "unknown table 'loan'; did you mean loans"),
        (f"{NODES}/loan/where", None, "`select` needs `where`"),
        (f"{NODES}/loan/where", "row.state == 'free'", "the table 'loans' does not show 'state'"),
        (f"{NODES}/loan/where", "row.copy == said.boook", "unknown field of said 'boook'; did you mean book"),
        (f"{NODES}/reserved/decide/0/to", "tel_reserved", "did you mean tell_reserved"),
        (f"{NODES}/reserved/decide/0/when", None, "without `when` this way is always taken"),
        (f"{NODES}/reserved/decide/1/when", "loan.renewed < 1", "a dead end if no `when` holds"),
        (f"{NODES}/reserved/decide/0/when", "loan.copy == 'C0000'", "no screen shows loan.copy"),
        (f"{NODES}/reserved/decide/0/when", "loan.state = 'reserved'", "`==` compares"),
        (f"{NODES}/renew/submit", "renw", "unknown form 'renw'; did you mean renew"),
        (f"{NODES}/renew/values", {}, "the form 'renew' requires 'weeks'"),
        (f"{NODES}/renew/values", {"week": "'1'", "weeks": "'1'"}, "unknown field of renew 'week'; did you mean weeks"),
        (f"{NODES}/renew/values/weeks", "'3'", "'weeks' does not offer '3'; its options are 1, 2, 4"),
        (f"{NODES}/done/close", "resloved", "unknown outcome 'resloved'; did you mean resolved"),
        (f"{NODES}/done", {"exit": "done"}, "only a shared procedure has exits"),
        (f"{NODES}/identify/run", "identfy", "unknown procedure 'identfy'; did you mean identify"),
        (f"{NODES}/identify/run", "change_email", "'change_email' is not shared"),
        (f"{NODES}/identify/then", {"passed": "ask"}, "a dead end at the exit 'failed' of 'identify'"),
        (f"{NODES}/identify/then/lost", "ask", "unknown exit of identify 'lost'"),
        (f"{NODES}/tell/next", "renew", "node 'done' is unreachable"),
        (f"{NODES}/spare", {"close": "resolved"}, "node 'spare' is unreachable: no way from 'identify' leads to it"),
        ("procedures/identify/nodes/passed", {"close": "resolved"}, "a shared procedure ends with `exit`"),
    ],
)  # fmt: skip
def test_mistakes_in_procedures_are_told(path: str, value: Any, expected: str) -> None:
    assert expected in told((path, value))


def test_a_circle_without_a_way_out_is_a_dead_end() -> None:
    message = told((f"{NODES}/tell/next", "renew"), (f"{NODES}/done", REMOVE))
    assert "procedures.renew_loan.nodes.renew: node 'renew' is a dead end: no way from it leads to an end" in message


def test_decisions_that_lead_to_each_other_are_told() -> None:
    again = {"decide": [{"to": "reserved", "when": "loan.renewed > 0"}, {"to": "renew"}]}
    message = told((f"{NODES}/reserved/decide/1/to", "again"), (f"{NODES}/again", again))
    assert "node 'reserved' leads back to itself through decisions only" in message


def test_a_procedure_that_runs_itself_is_told() -> None:
    inner = {"run": "identify", "then": {"passed": "passed", "failed": "failed"}}
    assert "'identify' runs itself" in told(("procedures/identify/nodes/confirm", inner))


def test_a_slot_that_nothing_before_binds_is_told() -> None:
    message = told(("templates/tell_unidentified/text", "Sorry, {loan.book} stays."))
    assert (
        "procedures.renew_loan.nodes.refuse: template 'tell_unidentified': its slot {loan.book} is unbound" in message
    )
    assert "nothing before it finds or selects a loan" in message


def test_a_fact_that_is_used_before_it_is_asked_for_is_told() -> None:
    message = told((f"{NODES}/identify/then/passed", "loan"), ("procedures/renew_loan/nodes/ask/next", "reserved"),
                   (f"{NODES}/loan/next", "ask"), ("issues/renew_loan/facts/book/volunteer", 0.0))  # fmt: skip
    assert "procedures.renew_loan.nodes.loan.where" in message
    assert "reads said.book, and nothing before it asks for 'book'" in message


def test_what_one_of_two_ways_brings_may_be_used_after_both() -> None:
    domain = changed(
        ("procedures/identify/start", "which"),
        ("procedures/identify/nodes/which", {"decide": [{"to": "ask", "when": "today > ''"}, {"to": "hello"}]}),
        ("procedures/identify/nodes/ask/next", "hello"),
        ("procedures/identify/nodes/hello", {"run": "hello", "then": {"said": "search"}}),
        ("procedures/hello", {"title": "H", "shared": True, "start": "hello", "nodes": {}}),
        ("procedures/hello/nodes/hello", {"tell": "hello", "next": "said"}),
        ("procedures/hello/nodes/said", {"exit": "said"}),
        ("templates/hello", {"text": "Hello {said.born}"}),
    )
    checks = graphs.Graphs(domain, None)
    checks.flow()
    assert checks.problems.found == []


def test_a_form_whose_record_is_not_in_focus_is_told() -> None:
    message = told((f"{NODES}/ask/next", "renew"), (f"{NODES}/loan", REMOVE), (f"{NODES}/reserved", REMOVE),
                   (f"{NODES}/tell_reserved", REMOVE))  # fmt: skip
    assert "form 'renew' needs a loan in focus, and nothing before it finds or selects one" in message


@pytest.mark.parametrize(
    ("path", "guard", "expected"),
    [
        (f"{NODES}/reserved/decide/0/when", "loan.state == 'resrved'", "(loan.state is 'free', 'reserved')"),
        (
            f"{NODES}/reserved/decide/0/when",
            "loan.renewed > 9",
            "never holds: the way to 'tell_reserved' is never taken",
        ),
        (f"{NODES}/reserved/decide/0/when", "days(today, loan.due) > 400", "never holds"),
        (f"{NODES}/reserved/decide/0/when", "loan.due == 'soon'", "never holds"),
        (f"{NODES}/reserved/decide/0/when", "said.weeks == '3'", "(said.weeks is none, '1', '2', '4')"),
        (f"{NODES}/reserved/decide/0/when", "case.identified == 'maybe'", "never holds"),
        (f"{NODES}/loan/where", "row.due < today", "never holds: no row is ever found by it"),
        ("screens/loans/forms/0/when", "loan.renewed > 9", "the button 'renew' can never be pressed"),
        ("screens/loans/tables/0/where", "row.state == 'lost'", "nothing is listed"),
        ("screens/search/forms/0/does/1/when", "customer.name == 3", "it never has this effect"),
        ("screens/member/forms/1/fields/0/valid", "value == 'x'", "the field takes none of"),
    ],
)
def test_guards_that_never_hold_are_told(path: str, guard: str, expected: str) -> None:
    message = told((path, guard))
    assert f"guard `{guard}` never holds" in message
    assert expected in message


@pytest.mark.parametrize(
    "guard",
    [
        "loan.state == 'reserved' and loan.renewed == 1 and said.weeks == '4'",
        "days(today, loan.due) == 14",
        "days(today, loan.due) < 2 and loan.book == 'Emma' and loan.renewed == 1",
        "times('ask_book') > 1",
        "loan.due > '2025-03-20' and loan.renewed + 1 == 2",
        "said.book == none",
        "loan is none",
    ],
)
def test_guards_that_seldom_hold_are_none_of_those(guard: str) -> None:
    domain = changed((f"{NODES}/reserved/decide/0/when", f"loan.state == 'reserved' or {guard}"))
    check.check_domain(domain)
    problems = load.Problems("domain")
    probed = probe._Probe(domain, problems, graphs.worked_in(domain))
    assert probed.draw()
    probed.collect()
    assert probed.holds(probed.program._compile(guard), ["renew_loan"])


def test_a_way_that_others_always_go_before_is_told() -> None:
    ways = [
        {"to": "tell_reserved", "when": "loan.renewed >= 0"},
        {"to": "tell_reserved", "when": "loan.state == 'reserved'"},
        {"to": "renew"},
    ]
    message = told((f"{NODES}/reserved/decide", ways))
    assert "decide[1]: the way to 'tell_reserved' is never taken: whenever it could be, `loan.renewed >= 0`" in message


def test_a_procedure_that_breaks_a_rule_is_told() -> None:
    ways = [{"to": "tell_reserved", "when": "loan.renewed > 0"}, {"to": "renew"}]
    message = told((f"{NODES}/reserved/decide", ways))
    assert "breaks the rule 'reserved_goes_back' (A reserved book is not renewed.)" in message


def test_a_circle_that_never_ends_is_told() -> None:
    message = told(
        (
            "procedures/identify/nodes/matches/decide/1/when",
            "times('ask_identity_again') < 1 or said.number is not none",
        ),
        ("issues/renew_loan/facts/number/never", 1.0),
        ("issues/renew_loan/facts/number/wrong", 0.0),
    )
    assert "never ends; it goes round" in message
    assert "times('TEMPLATE')" in message


def test_a_form_that_cannot_be_submitted_is_told() -> None:
    message = told(("screens/loans/forms/0/when", "loan.state == 'reserved'"))
    assert (
        "procedures.renew_loan.nodes.renew: a case of 'renew_loan' comes here and the form 'renew' cannot be" in message
    )


def test_a_message_that_cannot_be_sent_is_told() -> None:
    message = told(
        ("templates/tell_renewed/text", "Thank you, {case.member}."),
        ("desk/case/member", None),
        (
            "screens/member/forms/0/does/1",
            {"set": {"case.member": "customer.name"}, "when": "customer.born < '1900-01-01'"},
        ),
        ("screens/member/forms/0/does/1/when", "customer.born < '1965-01-01'"),
    )
    assert "tell_renewed cannot be sent: one of case.member has no value then" in message


def test_coverage_counts_what_cases_come_past() -> None:
    found = probe.coverage(load.load_domain("mock"), 40, seed=3)
    assert set(found) == {"change_email", "renew_loan"}
    renewals = found["renew_loan"]
    assert renewals.cases == renewals.successes == 40
    assert sum(renewals.outcomes.values()) == 40
    assert renewals.visits["identify.ask"] == 40
    assert renewals.visits["renew_loan.renew"] + renewals.visits["renew_loan.tell_reserved"] <= 40
    assert found["change_email"].visits["renew_loan.renew"] <= found["change_email"].visits["change_email.tell"]


def test_the_command_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["mock", "5"]) == 0
    out = capsys.readouterr().out
    assert "domain mock: no mistakes found" in out
    assert "renew_loan: 5 cases, 100.0% succeed" in out
    assert check.main(["mokc"]) == 1
    assert "did you mean mock?" in capsys.readouterr().err
    assert check.main([]) == 2
