"""Policies of single issues: the pooled policy goes on learning from one issue's sessions alone.

The paper keeps policy–critic pairs per issue, so that drift stays local and a pair can be trained and deployed anew
without the others. Here issues with few sessions stay with the pooled policy, and every policy begins as that one.

On disk, in the folder that is given:

    000/training/   checkpoints of the first issue's training, by name
    000/policy/     the policy that came of it; a killed run goes on with the next issue
"""

from __future__ import annotations

import copy
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from handrail.agents.policy import Policy
from handrail.algorithms.config import SFTConfig
from handrail.algorithms.sft import fine_tune
from handrail.envs.schema import Session

Tune = Callable[[Policy, Sequence[Session], SFTConfig, Path, int], dict[str, float]]


def specialise(
    policy: Policy,
    sessions: Sequence[Session],
    least: int,
    config: SFTConfig,
    folder: Path,
    seed: int,
    tune: Tune = fine_tune,
) -> Policy:
    """Return a policy whose issues with many sessions have policies of their own; `policy` is left as it was.

    Args:
        policy: what all begin as; works the other issues.
        sessions: with operators' actions, of any issue.
        least: sessions from which an issue gets a policy of its own.
        config: how each is trained.
        folder: where they are kept; a run that was killed goes on there.
        seed: of batches.
        tune: trains a policy in place.
    """
    by_issue: defaultdict[str, list[Session]] = defaultdict(list)
    for session in sessions:
        by_issue[session.issue].append(session)
    own: dict[str, Policy] = {}
    for number, (issue, some) in enumerate(sorted(by_issue.items())):
        if len(some) < least:
            continue
        place = folder / f"{number:03d}"
        if not (place / "policy").is_dir():
            made = policy.reading_alike(copy.deepcopy(policy.model))
            tune(made, some, config, place / "training", seed)
            partial = place / "policy.partial"
            shutil.rmtree(partial, ignore_errors=True)
            made.save(partial)
            os.replace(partial, place / "policy")
        own[issue] = policy.reading_alike(Policy.load(place / "policy").model)
    return policy.specialised(own)
