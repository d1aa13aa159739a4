"""Scores of strangeness: by hand where the definition allows, and what all of them must do."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from toys import random_sessions, sharpen, tiny_policy

from handrail.agents import ood
from handrail.agents.ood import Views, energy, knn, perplexity_ratio, relative_mahalanobis
from handrail.agents.ood._read import read_steps
from handrail.agents.policy import Policy
from handrail.agents.transcript import ACTION
from handrail.envs import registry
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Action


def views(states: Any, kinds: Any = None, tokens: Any = None, surprise: Any = None) -> Views:
    n = len(states)
    return Views(
        session_ids=np.array([f"s{k}" for k in range(n)]),
        steps=np.zeros(n, dtype=np.int64),
        kinds=np.array(["a"] * n if kinds is None else kinds),
        states=np.asarray(states, dtype=np.float32),
        energy=np.arange(n, dtype=float),
        surprise=np.zeros(n) if surprise is None else np.asarray(surprise, dtype=float),
        tokens=tuple(np.asarray(t, dtype=np.int64) for t in (tokens or [[0]] * n)),
        vocabulary=4,
    )


@pytest.fixture(scope="module")
def policy() -> Policy:
    return sharpen(tiny_policy(random_sessions(100, 30), 1))


def test_what_is_read_is_what_one_plain_pass_gives(policy: Policy) -> None:
    sessions = random_sessions(1, 3)
    read = read_steps(policy, sessions, budget=300)
    acted = [(s.id, step.index) for s in sessions for step in s.steps if step.actor == "operator"]
    assert list(zip(read.session_ids, read.steps, strict=True)) == acted
    model: Any = policy.model
    known = {session.id: session for session in sessions}
    marker = policy.encoder.tokens(ACTION)
    for row, (name, step) in enumerate(acted):
        prefix = policy.encoder.encode("x", policy.transcript.prefix(known[name], step)).ids
        whole = torch.tensor([[*prefix.tolist(), *marker]])
        with torch.no_grad():
            output = model(input_ids=whole, output_hidden_states=True)
        np.testing.assert_allclose(read.states[row], output.hidden_states[-1][0, -1], atol=1e-4)
        assert read.energy[row] == pytest.approx(float(output.logits[0, -1].logsumexp(-1)), abs=1e-4)
        seen = read.tokens[row]
        assert seen.tolist() == whole[0, -len(seen) :].tolist()
        logs = output.logits[0].log_softmax(-1)
        places = range(whole.shape[1] - len(seen), whole.shape[1])
        surprise = -np.mean([float(logs[place - 1, whole[0, place]]) for place in places])
        assert read.surprise[row] == pytest.approx(surprise, abs=1e-4)


def test_the_logged_action_is_not_read(policy: Policy) -> None:
    session = random_sessions(1, 1)[0]
    last = msgspec.structs.replace(session.steps[-1], action=Action("send_reply", "bye"))
    other = msgspec.structs.replace(session, steps=(*session.steps[:-1], last))
    training = read_steps(policy, random_sessions(5, 6))
    one, two = read_steps(policy, [session]), read_steps(policy, [other])
    for name in registry.names(ood.__name__):
        score = registry.load(ood.__name__, name, "score").fit(training)
        np.testing.assert_allclose(score(one), score(two), atol=1e-4)


def test_far_from_every_kind_is_strange() -> None:
    """Two kinds around (0, 0) and (10, 0): what lies between or beside them is stranger than what lies at them."""
    rng = np.random.default_rng(0)
    states = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + np.array([10, 0])])
    score = relative_mahalanobis.fit(views(states, ["a"] * 200 + ["b"] * 200))
    at, between, beside = score(views([[0, 0], [5, 0], [0, 6]]))
    assert at < between
    assert at < beside


def test_relative_mahalanobis_of_one_kind_is_nothing() -> None:
    """With a single kind both distances are the same up to their estimates."""
    states = np.random.default_rng(0).normal(size=(4000, 3))
    score = relative_mahalanobis.fit(views(states))
    np.testing.assert_allclose(score(views(states[:50] * 2)), 0, atol=0.2)


def test_neighbours_are_counted_on_the_unit_sphere() -> None:
    """Ten training states in direction (1, 0): (0, 3) is √2 away, (5, 0) not at all."""
    score = knn.fit(views([[n + 1.0, 0.0] for n in range(10)]))
    np.testing.assert_allclose(score(views([[0, 3], [5, 0]])), [np.sqrt(2), 0], atol=1e-6)


def test_energy_is_minus_the_log_of_summed_exponentials() -> None:
    np.testing.assert_array_equal(energy.fit(views([[0.0]]))(views([[0.0], [0.0], [0.0]])), [0, -1, -2])


def test_perplexity_is_measured_against_counts() -> None:
    """Tokens 0 0 1 in training, one added to each of four: shares 3/7, 2/7, 1/7, 1/7."""
    score = perplexity_ratio.fit(views([[0.0]], tokens=[[0, 0, 1]]))
    given = score(views([[0.0]] * 3, tokens=[[0], [2, 3], []], surprise=[1.0, 2.0, 0.0]))
    np.testing.assert_allclose(given, [1 - np.log(7 / 3), 2 - np.log(7), 0], atol=1e-9)


@pytest.mark.parametrize("name", registry.names(ood.__name__))
def test_scores_are_finite_and_do_not_depend_on_company(name: str, policy: Policy) -> None:
    training, given = read_steps(policy, random_sessions(5, 8)), read_steps(policy, random_sessions(9, 4))
    module = registry.load(ood.__name__, name, "score")
    score = module.fit(training)
    found = score(given)
    assert found.shape == (len(given),)
    assert np.isfinite(found).all()
    parts = ("session_ids", "steps", "kinds", "states", "energy", "surprise", "tokens")
    some: dict[str, Any] = {part: getattr(given, part)[:5] for part in parts}
    np.testing.assert_allclose(score(dataclasses.replace(given, **some)), found[:5], rtol=1e-6, atol=1e-9)
    assert module.__doc__


def test_nothing_to_read_is_told(policy: Policy) -> None:
    with pytest.raises(HandrailError, match="no operator acted in any of 0 sessions"):
        read_steps(policy, [])
