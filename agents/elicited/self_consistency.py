"""How often the policy would say the same again: the share of sampled actions that equal the suggestion.

Self-consistency (Wang et al. 2023, arXiv 2203.11171) as a confidence: agreement of samples, here with the suggestion
itself, after normalisation. It sees what token probabilities do not: that different words come to the same action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder, Writing
from handrail.envs.errors import HandrailError
from handrail.envs.normalize import same_action


@dataclass(frozen=True)
class Config:
    """How actions are sampled.

    Attributes:
        samples: at each step, >= 1.
        temperature: of each token's distribution, > 0.
    """

    samples: int = 8
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.samples < 1 or not self.temperature > 0:
            raise HandrailError(
                f"self_consistency: samples={self.samples}, temperature={self.temperature}; expected at least 1 and "
                "more than 0"
            )


class Sampler(Decoder):
    """Draws each action from the policy's distribution, constrained as the decoder it stands in for.

    Args:
        decoder: whose policy and constraints.
        temperature: divides the scores.
        rng: of the draws.
    """

    def __init__(self, decoder: Decoder, temperature: float, rng: np.random.Generator) -> None:
        super().__init__(decoder.policy, decoder.constrained, decoder.copied, decoder.token_budget)
        self.temperature, self.rng = temperature, rng

    def choose(self, writing: Writing, scores: NDArray[np.float32]) -> int:
        """Draw an admissible token; the confidences of what is written are those of disturbed scores, of no use."""
        # The largest of scores with Gumbel noise is a draw from their softmax.
        noise = self.rng.gumbel(size=len(scores))
        return super().choose(writing, (scores / self.temperature + noise).astype(np.float32))


def score(
    decoder: Decoder,
    cases: Sequence[Case],
    config: Config,
    rng: np.random.Generator,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> NDArray[np.float64]:
    """Return the share of samples that equal each suggestion, shape (n,), in [0, 1]."""
    sessions = {case.session.id: case.session for case in cases}
    sampler = Sampler(decoder, config.temperature, rng)
    agreed = np.zeros(len(cases))
    for _ in progress(range(config.samples)):
        drawn = {(s.session_id, s.step): s.action for s in sampler.suggest(list(sessions.values()))}
        agreed += [same_action(drawn[case.session.id, case.step], case.suggestion) for case in cases]
    shares: NDArray[np.float64] = agreed / config.samples
    return shares
