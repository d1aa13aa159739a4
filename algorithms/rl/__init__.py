"""Reinforcement learning and imitation by RLlib's new API stack, on the feature view of the environments.

Kept by RLlib 2.60 for discrete actions on that stack: BC, MARWIL, PPO (and DQN, APPO, IMPALA, which need many more
steps than a desk gives). CQL and IQL need continuous actions there: their losses draw from a Gaussian policy.
"""
