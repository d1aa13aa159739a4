"""Reranking: which candidates are considered, what the weights mean, and that they are learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import DESK, FORM, colour_sessions, random_sessions, sharpen, tiny_policy

from handrail.agents.baselines import tfidf
from handrail.agents.decoding import Decoder, Suggestion
from handrail.agents.rerank import Reranker
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action
from handrail.envs.schema import Action, Message, Session, Step, UIState


def booking(name: str, day: str, number: int) -> Session:
    event = Message("customer", "a room please")
    action = Action("submit_form", "book", {"Name": name, "Day": day})
    return Session(
        f"b{number}", "toy", "booking", "ann", steps=(Step(0, UIState("desk", None, DESK), (event,), action),)
    )


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    """A baseline that has seen only one form, always filled in the same way."""
    sessions = [booking("John", "Monday", n) for n in range(20)]
    baseline = tfidf.Baseline()
    baseline.fit(sessions, 0)
    return Reranker(Decoder(sharpen(tiny_policy(random_sessions(0, 20)), 1)), baseline)


def suggestion(action: Action) -> Suggestion:
    return Suggestion("new", 0, action, (1,), -0.5, 0.6, 0.2, 0.3)


def candidates(reranker: Reranker, action: Action) -> list[Action]:
    session = replace_id(booking("Chase", "Tuesday", 0))
    return list(reranker.candidates([session], [suggestion(action)])[0].actions)


def replace_id(session: Session) -> Session:
    return Session("new", session.source, session.issue, session.operator, steps=session.steps)


def test_disputed_fields_are_tried_in_all_combinations(reranker: Reranker) -> None:
    """The filler would write John and Monday; own are Chase and Tuesday: four forms in all, the own one first."""
    own = Action("submit_form", "book", {"Name": "Chase", "Day": "Tuesday"})
    found = candidates(reranker, own)
    assert found[0] is own
    assert [(a.args["Name"], a.args["Day"]) for a in found] == [
        ("Chase", "Tuesday"),
        ("Chase", "Monday"),
        ("John", "Tuesday"),
        ("John", "Monday"),
    ]


def test_names_of_fields_are_matched_whatever_their_case(reranker: Reranker) -> None:
    found = candidates(reranker, Action("submit_form", "book", {"name": "john", "day": "monday"}))
    assert len(found) == 1, "what the filler would write, spelled in lower case, is no second candidate"


def test_many_disputed_fields_are_swapped_one_at_a_time_and_all_together(reranker: Reranker) -> None:
    own = Action("submit_form", "book", {"Name": "Chase", "Day": "Tuesday", "Urgent": True})
    found = candidates(reranker, own)
    assert [dict(a.args) for a in found[1:]] == [
        {"Day": "Tuesday", "Urgent": True, "Name": "John"},
        {"Name": "Chase", "Urgent": True, "Day": "Monday"},
        {"Name": "Chase", "Day": "Tuesday"},
        {"Name": "John", "Day": "Monday"},
    ]


def test_likely_heads_of_the_baseline_are_candidates(reranker: Reranker) -> None:
    own = Action("send_reply", "hello")
    found = candidates(reranker, own)
    assert found == [own, Action("submit_form", "book", {"Name": "John", "Day": "Monday"})]
    assert FORM.id == found[1].target


def test_weights_decide_who_is_heard(reranker: Reranker) -> None:
    session, own = replace_id(booking("Chase", "Tuesday", 0)), suggestion(Action("send_reply", "hello"))
    baselines_choice = Action("submit_form", "book", {"Name": "John", "Day": "Monday"})
    alone = Reranker(reranker.decoder, reranker.baseline, [1.0, 1.0, 0.0, 0.0]).rerank([session], [own])
    head = Reranker(reranker.decoder, reranker.baseline, [0.0, 0.0, 1.0, 0.0]).rerank([session], [own])
    assert [replace(one, second=0.0) for one in alone] == [own]
    assert alone[0].second == pytest.approx(np.log(1e-6)), "nobody ever said hello, and a greeting has no fields"
    assert np.log(0.5) < head[0].second <= 0, "always done, and always with these values"
    assert head[0].action == baselines_choice
    assert (head[0].session_id, head[0].step) == ("new", 0)
    assert head[0].log_probability != own.log_probability, "it is the policy's confidence in the chosen action"


def test_what_the_policy_rules_out_is_weighed_by_itself(reranker: Reranker) -> None:
    """Of log-probabilities -1, -5 and -20 the parts above -3 are -1, -3, -3; those from there down to -8 0, -2, -5."""
    features = np.array([[-1.0, -4.0, 0.0], [-5.0, -0.1, 0.0], [-20.0, 0.0, 0.0]])

    def best(policy: float, ruled_out: float, head: float) -> int:
        return Reranker(reranker.decoder, reranker.baseline, [policy, ruled_out, head, 0.0]).best(features)

    assert best(1.0, 0.0, 0.0) == 0
    assert best(0.1, 0.0, 1.0) == 2, "-4.1, -0.4 and -0.3"
    assert best(0.1, 0.1, 1.0) == 1, "-4.1, -0.6 and -0.8"
    assert best(0.1, 10.0, 1.0) == 0


def test_fitting_finds_out_who_is_right() -> None:
    """An untrained policy beside a baseline that has learned the rule: reranking does as well as the baseline."""
    sessions = colour_sessions(0, 60)
    baseline = tfidf.Baseline()
    baseline.fit(sessions[:40], 0)
    decoder = Decoder(tiny_policy(sessions[:40]))
    new = sessions[40:]
    reranker = Reranker(decoder, baseline)
    reranker.fit(new[:10], decoder.suggest(new[:10]))
    alone = decoder.suggest(new[10:])
    chosen = reranker.rerank(new[10:], alone)
    logged = [step.action for session in new[10:] for step in session.steps]

    def right(made: list[Suggestion]) -> float:
        return float(np.mean([same_action(s.action, a) for s, a in zip(made, logged, strict=True)]))

    assert right(baseline.suggest(new[10:])) == 1.0
    assert right(chosen) == 1.0
    assert right(alone) < 0.7


def test_errors_say_what_is_missing(reranker: Reranker) -> None:
    session = replace_id(booking("Chase", "Tuesday", 0))
    with pytest.raises(HandrailError, match="call fit first"):
        reranker.rerank([session], [suggestion(Action("send_reply", "hello"))])
    with pytest.raises(HandrailError, match="no operator step"):
        reranker.candidates([session], [Suggestion("other", 3, Action("send_reply", "x"), (), 0, 1, 1, 0)])
    with pytest.raises(HandrailError, match="never one of several candidates"):
        Reranker(reranker.decoder, reranker.baseline).fit(
            [session], [suggestion(Action("submit_form", "book", {"Name": "John", "Day": "Monday"}))]
        )
