"""Confidence that is asked for: against what plain readings and plain passes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import random_sessions, sharpen, tiny_policy

from handrail.agents import elicited
from handrail.agents.assess import assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.elicited import disagreement, ensemble, p_true, self_consistency
from handrail.agents.policy import Policy
from handrail.envs import registry
from handrail.envs.errors import HandrailError

SESSIONS = random_sessions(1, 2)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return sharpen(tiny_policy(random_sessions(100, 30), 1))


@pytest.fixture(scope="module")
def cases(policy: Policy) -> list[Case]:
    """What the policy itself suggests."""
    known = {session.id: session for session in SESSIONS}
    return [Case(known[s.session_id], s.step, s.action, False) for s in Decoder(policy).suggest(SESSIONS)]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    made = sharpen(tiny_policy(random_sessions(100, 30), 2))
    folder = tmp_path_factory.mktemp("other")
    made.save(folder)
    return made, folder


def configs(folder: Path) -> dict[str, Any]:
    return {
        "self_consistency": self_consistency.Config(samples=2),
        "p_true": p_true.Config(),
        "ensemble": ensemble.Config((str(folder),)),
        "disagreement": disagreement.Config((str(folder),)),
    }


@pytest.mark.parametrize("name", registry.names(elicited.__name__))
def test_scores_are_finite_reproducible_and_blind_to_verdicts(
    name: str, policy: Policy, cases: list[Case], other: tuple[Policy, Path]
) -> None:
    module = registry.load(elicited.__name__, name, "elicited confidence")
    config = configs(other[1])[name]
    given = [module.score(Decoder(policy), cases, config, np.random.default_rng(0)) for _ in range(2)]
    flipped = [Case(c.session, c.step, c.suggestion, not c.accepted) for c in cases]
    given.append(module.score(Decoder(policy), flipped, config, np.random.default_rng(0)))
    assert given[0].shape == (len(cases),)
    assert np.isfinite(given[0]).all()
    for again in given[1:]:
        np.testing.assert_array_equal(given[0], again)


def test_samples_agree_as_often_as_the_policy_is_sure(policy: Policy, cases: list[Case]) -> None:
    """60 draws of a session: within five standard errors of exp(log p), for actions that have one spelling.

    The chance of a false alarm is below 1e-5 over these steps.
    """
    some = [case for case in cases if case.session.id == cases[0].session.id and not case.suggestion.args]
    shares = self_consistency.score(Decoder(policy), some, self_consistency.Config(60), np.random.default_rng(3))
    chances = np.exp([reading.suggestion.log_probability for reading in assess(Decoder(policy), some)])
    errors = np.sqrt(np.maximum(chances * (1 - chances), 1e-3) / 60)
    assert (np.abs(shares - chances) < 5 * errors).all()
    assert chances.min() < 0.95, "nothing is uncertain: choose another seed"


def test_without_warmth_it_says_the_same_again(policy: Policy, cases: list[Case]) -> None:
    config = self_consistency.Config(samples=2, temperature=1e-4)
    assert (self_consistency.score(Decoder(policy), cases, config, np.random.default_rng(0)) == 1).all()


def test_p_true_is_the_share_of_yes_in_one_plain_pass(policy: Policy, cases: list[Case]) -> None:
    config = p_true.Config(question=" right?", yes=" red", no=" blue", budget=600)
    yes, no = (policy.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (" red", " blue"))
    given = p_true.score(Decoder(policy), cases, config, np.random.default_rng(0))
    model: Any = policy.model
    for case, share in zip(cases[:5], given, strict=False):
        tokens = p_true._question(policy, case, config.question)
        assert policy.tokenizer.decode(tokens).endswith("right?")
        with torch.no_grad():
            scores = model(input_ids=torch.from_numpy(tokens)[None]).logits[0, -1, [yes, no]].float()
        assert share == pytest.approx(float(scores.softmax(-1)[0]), abs=1e-5)


def test_an_ensemble_is_the_mean_of_its_members(policy: Policy, cases: list[Case], other: tuple[Policy, Path]) -> None:
    logs = np.array([[r.suggestion.log_probability for r in assess(Decoder(one), cases)] for one in (policy, other[0])])
    rng = np.random.default_rng(0)
    together = ensemble.score(Decoder(policy), cases, ensemble.Config((str(other[1]),)), rng)
    apart = disagreement.score(Decoder(policy), cases, disagreement.Config((str(other[1]),)), rng)
    mixture = np.logaddexp(*logs) - np.log(2)
    np.testing.assert_allclose(together, mixture, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(apart, logs.mean(axis=0) - mixture, rtol=1e-4, atol=1e-6)
    assert (apart <= 1e-9).all()


def test_mistakes_are_named(policy: Policy, cases: list[Case]) -> None:
    with pytest.raises(HandrailError, match="policies is empty"):
        ensemble.Config()
    with pytest.raises(HandrailError, match="samples=0"):
        self_consistency.Config(samples=0)
    same = p_true.Config(yes=" red", no=" red")
    with pytest.raises(HandrailError, match="begin with the same token"):
        p_true.score(Decoder(policy), cases, same, np.random.default_rng(0))
