"""Confidence that costs further reading: scores a policy is asked for, one file each, higher is surer.

A module `<name>.py` is the entry `<name>`. It has a dataclass `Config` and a function
`score(decoder, cases, config, rng, progress) -> (n,)`: the policy's confidence in each case's suggestion. It reads
neither `Case.accepted` nor the logged action. What a suggestion says of itself is in `handrail.agents.confidence`.
"""
