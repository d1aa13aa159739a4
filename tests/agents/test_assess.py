"""Reading suggestions: confidence and states against the decoder and against one plain pass for each suggestion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import DESK, random_sessions, sharpen, tiny_policy

from handrail.agents.assess import FLOOR, Reading, assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.grammar import Cursor, Grammar
from handrail.agents.policy import Policy
from handrail.agents.transcript import ACTION, END, write_action
from handrail.envs.schema import Action

FIELDS = ("Name", "Day", "Urgent", "Guests")
NAMES = ("log_probability", "min_probability", "margin", "entropy")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return sharpen(tiny_policy(random_sessions(100, 30), 1))


def written(policy: Policy, action: Action) -> list[int]:
    return policy.encoder.tokens(f"{ACTION}{write_action(action, FIELDS)}{END}")


def confidence(reading: Reading) -> list[float]:
    return [getattr(reading.suggestion, name) for name in NAMES]


def test_the_policys_own_suggestions_get_the_decoders_confidence(policy: Policy) -> None:
    sessions = random_sessions(1, 6)
    decoder = Decoder(policy)
    known = {session.id: session for session in sessions}
    # An action read back from text may be written with other tokens; the same tokens are compared.
    own = [s for s in decoder.suggest(sessions) if written(policy, s.action)[1:] == list(s.tokens)]
    assert len({s.action.tool for s in own}) > 1, "the policy decides too little: choose another seed"
    readings = assess(decoder, [Case(known[s.session_id], s.step, s.action, False) for s in own])
    assert len(readings) == len(own)
    for reading, suggestion in zip(readings, own, strict=True):
        given = reading.suggestion
        assert (given.session_id, given.step, given.action) == (
            suggestion.session_id,
            suggestion.step,
            suggestion.action,
        )
        assert given.tokens == suggestion.tokens
        np.testing.assert_allclose(confidence(reading), [getattr(suggestion, name) for name in NAMES], atol=1e-4)


def reference(policy: Policy, case: Case, constrained: bool = True) -> tuple[list[float], Any, Any]:
    """One plain pass over prefix and suggestion: confidence, and the states before and after."""
    decoder, tokens = Decoder(policy), written(policy, case.suggestion)
    prefix = policy.encoder.encode("x", policy.transcript.prefix(case.session, case.step)).ids.tolist()
    model: Any = policy.model
    with torch.no_grad():
        output = model(input_ids=torch.tensor([prefix + tokens]), output_hidden_states=True)
    scores, states = output.logits[0].float(), output.hidden_states[-1][0]
    cursor = Cursor(Grammar(case.session.steps[case.step].state.controls, policy.encoder)) if constrained else None
    logs, margins, entropies = [0.0], [1.0], [0.0]
    for place, token in enumerate(tokens[1:], start=len(prefix)):
        admitted = decoder.admissible(cursor).tolist()
        if token not in admitted:
            rest = len(prefix) + len(tokens) - 1 - place
            logs.extend([float(np.log(FLOOR))] * rest)
            margins.append(-1.0)
            break
        chances = torch.softmax(scores[place][admitted].double(), 0)
        mine = float(chances[admitted.index(token)])
        others = [float(c) for a, c in zip(admitted, chances, strict=True) if a != token]
        if others:
            logs.append(max(float(np.log(max(mine, 1e-300))), float(np.log(FLOOR))))
            margins.append(mine - max(others))
            entropies.append(float(torch.special.entr(chances).sum()))
        if cursor is not None:
            cursor.push(token)
    found = [sum(logs), float(np.exp(min(logs))), min(margins), max(entropies)]
    return found, np.asarray(states[len(prefix)]), np.asarray(states[-1])


OFFERED = [
    Action("send_reply", "bye"),
    Action("open_procedure", "returns"),
    Action("submit_form", "book", {"Day": "Tuesday night", "Guests": 3}),
    Action("send_message", "chat", {"text": "green room"}),
]
REFUSED = [
    Action("send_reply", "hidden"),
    Action("click", "hello"),
    Action("submit_form", "book", {"Day": "Sunday"}),
]


@pytest.mark.parametrize("constrained", [True, False])
def test_other_suggestions_against_one_plain_pass_each(constrained: bool) -> None:
    policy = sharpen(tiny_policy(random_sessions(100, 30), 2), inner=4.0, outer=4.0)
    cases = [Case(s, n, a, True) for s in random_sessions(2, 2, steps=3) for n in (0, 2) for a in OFFERED + REFUSED]
    readings = assess(Decoder(policy, constrained), cases)
    for reading, case in zip(readings, cases, strict=True):
        expected, before, after = reference(policy, case, constrained)
        np.testing.assert_allclose(confidence(reading), expected, rtol=1e-4, atol=1e-6, err_msg=str(case.suggestion))
        np.testing.assert_allclose(reading.before, before, atol=1e-4)
        np.testing.assert_allclose(reading.after, after, atol=1e-4)


@pytest.mark.parametrize("action", REFUSED)
def test_what_the_screen_does_not_admit_gets_the_floor(policy: Policy, action: Action) -> None:
    (session,) = random_sessions(3, 1)
    assert session.steps[2].state.controls is DESK
    (reading,) = assess(Decoder(policy), [Case(session, 2, action, True)])
    assert (reading.suggestion.min_probability, reading.suggestion.margin) == (FLOOR, -1.0)
    assert -np.inf < reading.suggestion.log_probability <= np.log(FLOOR)


def test_verdict_and_draft_are_never_read(policy: Policy) -> None:
    (session,) = random_sessions(4, 1)
    plain = [Case(session, n, action, True) for n in range(5) for action in OFFERED]
    told = [Case(c.session, c.step, c.suggestion, False, "hello again please") for c in plain]
    for mine, theirs in zip(*(assess(Decoder(policy), cases) for cases in (plain, told)), strict=True):
        assert mine.suggestion == theirs.suggestion
        assert np.array_equal(mine.before, theirs.before)
        assert np.array_equal(mine.after, theirs.after)


def test_nothing_to_read(policy: Policy) -> None:
    assert assess(Decoder(policy), []) == []
