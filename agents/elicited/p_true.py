"""P(True): the policy is asked in words whether the suggestion is right (Kadavath et al. 2022, arXiv 2207.05221).

The probability of the first token of "yes" against that of "no". This means something for models that have learned to
answer, such as instruction-tuned ones of a hub; a policy trained from scratch on transcripts has never seen a question,
and what it says here is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.envs.errors import HandrailError
from handrail.envs.schema import Step

if TYPE_CHECKING:
    from handrail.agents.policy import Policy


@dataclass(frozen=True)
class Config:
    """How the question is put.

    Attributes:
        question: after the suggestion.
        yes, no: the answers; their first tokens differ.
        budget: padded tokens of one pass.
    """

    question: str = "\nIs this the right next action? Answer yes or no:"
    yes: str = " yes"
    no: str = " no"
    budget: int = 16384


def score(
    decoder: Decoder,
    cases: Sequence[Case],
    config: Config,
    rng: np.random.Generator,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> NDArray[np.float64]:
    """Return p(yes) / (p(yes) + p(no)) of each suggestion, shape (n,), in [0, 1].

    Raises:
        HandrailError: the answers begin with the same token.
    """
    import torch

    from handrail.agents.decoding import pad
    from handrail.agents.encoding import batches

    policy = decoder.policy
    yes, no = (policy.tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in (config.yes, config.no))
    if yes == no:
        raise HandrailError(
            f"p_true: {config.yes!r} and {config.no!r} begin with the same token; expected answers that differ from "
            "their first token on"
        )
    texts = [_question(policy, case, config.question) for case in cases]
    found = np.zeros(len(cases))
    model: Any = policy.model
    model.eval()
    with torch.inference_mode():
        for batch in progress(batches([len(text) for text in texts], config.budget)):
            chosen = [texts[n] for n in batch]
            hidden = policy.body(input_ids=pad(chosen, policy), use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(batch)), torch.tensor([len(text) - 1 for text in chosen])]
            answers = model.get_output_embeddings()(last)[:, [yes, no]].float().softmax(-1)
            found[batch] = answers[:, 0].cpu().numpy()
    return found


def _question(policy: Policy, case: Case, question: str) -> NDArray[np.int64]:
    """Return the tokens of what precedes the step, the suggestion and the question, the end of what fits."""
    session, names = policy.transcript.view(case.session)
    known = session.steps[case.step]
    action = case.suggestion if names is None else names[case.step].named(case.suggestion)
    written = policy.transcript.action(Step(case.step, known.state, (), action, "policy")).text
    before = policy.encoder.encode(session.id, policy.transcript.prefix(case.session, case.step))
    after = policy.tokenizer(written + question, add_special_tokens=False)["input_ids"]
    kept = max(policy.max_length - len(after), 0)
    return np.concatenate([before.ids[max(len(before.ids) - kept, 0) :], np.asarray(after, dtype=np.int64)])
