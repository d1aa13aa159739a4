"""The ids of Handrail's environments in Gymnasium's registry."""

from __future__ import annotations

ENVIRONMENTS = {
    "handrail/BPM-v0": "handrail.envs.bpm.env:BPMEnv",
    "handrail/Replay-v0": "handrail.envs.replay:ReplayEnv",
}
"""Id -> entry point; the module is imported when the first environment is made."""


def register_envs() -> None:
    """Make `gymnasium.make` know Handrail's environments; calling it again changes nothing."""
    import gymnasium

    for name, entry_point in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point)
