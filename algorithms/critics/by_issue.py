"""A critic for each issue that has verdicts enough, and one for the others: what drifts in one issue stays there.

The paper deploys policy–critic pairs per issue. An issue gets a critic of its own from `least` verdicts on, if enough
of them are rejections; the pooled critic learns from all verdicts and judges every other issue, unseen ones too.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import Reading, assess
from handrail.agents.critic import Case, StateCritic
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms.config import CRITIC_CONFIGS, ByIssueConfig
from handrail.envs import registry
from handrail.envs.files import write_json

_FOUND = "issues.json"
_POOLED = "pooled"


class IssueCritic:
    """Lets the critic of each case's issue score it.

    Attributes:
        policy: whose readings it judges.
        own: issue -> its critic.
        pooled: judges all other issues.
    """

    def __init__(self, policy: Policy, own: Mapping[str, StateCritic], pooled: StateCritic) -> None:
        self.policy, self.own, self.pooled = policy, dict(own), pooled

    def score(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of each case, shape (n,)."""
        return self.judge(assess(Decoder(self.policy), cases), cases)

    def judge(self, readings: Sequence[Reading], cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return p(accept) of cases that the policy has read, shape (n,)."""
        scores = np.zeros(len(cases))
        for issue, places in _places(cases).items():
            critic = self.own.get(issue, self.pooled)
            scores[places] = critic.judge([readings[n] for n in places], [cases[n] for n in places])
        return scores


def fit(policy: Policy, cases: Sequence[Case], config: ByIssueConfig, folder: Path, seed: int) -> IssueCritic:
    """Fit the pooled critic, and one for each issue that has enough.

    Raises:
        HandrailError: all verdicts together are too few or too much alike.
    """
    module, options = _module(config.kind), CRITIC_CONFIGS[config.kind]()
    pooled = module.fit(policy, cases, options, folder / _POOLED, seed)
    own: dict[str, StateCritic] = {}
    folders: dict[str, str] = {}
    for number, (issue, places) in enumerate(sorted(_places(cases).items())):
        some = [cases[n] for n in places]
        rejected = sum(not case.accepted for case in some)
        if len(some) >= config.least and config.least_rejected <= rejected <= len(some) - config.least_rejected:
            # An issue may be called anything; a folder may not.
            folders[issue] = f"{number:03d}"
            own[issue] = module.fit(policy, some, options, folder / folders[issue], seed)
    write_json(folder / _FOUND, {**dataclasses.asdict(config), "folders": folders})
    return IssueCritic(policy, own, pooled)


def load(policy: Policy, folder: Path) -> IssueCritic:
    """Read what `fit` left in `folder`."""
    found = msgspec.json.decode((folder / _FOUND).read_bytes())
    module = _module(found["kind"])
    own = {issue: module.load(policy, folder / name) for issue, name in found["folders"].items()}
    return IssueCritic(policy, own, module.load(policy, folder / _POOLED))


def _module(kind: str) -> ModuleType:
    return registry.load("handrail.algorithms.critics", kind, "critic")


def _places(cases: Sequence[Case]) -> dict[str, list[int]]:
    """Return issue -> places of its cases."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, case in enumerate(cases):
        places[case.session.issue].append(place)
    return dict(places)
