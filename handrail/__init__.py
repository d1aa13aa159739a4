"""Selective autonomy for language models on business-process platforms: learn from operators, act where it is safe."""

from handrail.envs.registration import register_envs

__version__ = "0.1.0"

register_envs()
