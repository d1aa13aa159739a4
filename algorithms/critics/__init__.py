"""Critics, one file each: how each learns verdicts and scores suggestions.

A module `<name>.py` with `fit(policy, cases, config, folder, seed) -> Critic` and `load(policy, folder) ->
Critic` is the entry `<name>`; its options are a dataclass, which `handrail.algorithms.config.CRITIC_CONFIGS` names.
"""
