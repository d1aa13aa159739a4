"""Learners on the feature view, found by file name: module `<name>` is `algorithm=[<name>]`.

A learner has a dataclass `Config`, whose defaults are the options `algorithm.<name>.*`, and
`learn(config, task, out) -> list[float]`, which keeps a module (`handrail.algorithms.rl.module`) in the folder `out`
and returns the mean return of each round, of none if it learns from the log. A `Config` with the field `start` begins
with the weights of the learner of that name, which learns first.
"""
