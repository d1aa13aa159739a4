"""Training one model in several processes with Ray Train, on one GPU each or on CPUs.

The processes call the same learner with the same arguments. `handrail.algorithms.training.train` gives each its share
of every batch and averages the gradients, so the loss curve is that of one process with the same batches, up to
rounding. If a process dies, Ray Train starts all of them again, and they go on from the last checkpoint in the folder,
which all machines share.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handrail.algorithms.config import PreferenceConfig, SFTConfig
from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.cluster.connection import connected, usable

if TYPE_CHECKING:
    from handrail.agents.critic import Case
    from handrail.agents.policy import Policy
    from handrail.envs.schema import Session

T = TypeVar("T")

_RESULT = "result.pkl"


def together(work: Callable[[], T], config: RayConfig, folder: Path) -> T:
    """Do the same work in `config.trainers` processes that form a group of `torch.distributed`.

    Ray has to be connected.

    Args:
        work: copied to the processes; what it needs for going on after a fault it keeps in `folder`.
        config: how many processes, and on what.
        folder: of the work.

    Returns:
        What it returned in the first process.

    Raises:
        HandrailError: processes died, or raised, more than `max_restarts` times.
    """
    import ray
    from ray import cloudpickle
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = folder.absolute()
    result = folder / _RESULT
    result.unlink(missing_ok=True)
    gpu = config.trainer_gpus > 0
    trainer = TorchTrainer(
        _loop,
        # The work may hold a model: as an object it is copied once a machine.
        train_loop_config={"work": ray.put(work), "result": str(result)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.trainers,
            use_gpu=gpu,
            resources_per_worker={"CPU": config.trainer_cpus, **({"GPU": config.trainer_gpus} if gpu else {})},
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=config.max_restarts),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        # Ray tells the whole trace of the worker; it stays with the cause.
        last = str(error).strip().splitlines()[-1:] or [repr(error)]
        raise HandrailError(
            f"training in {config.trainers} processes failed more than ray.max_restarts={config.max_restarts} times, "
            f"at last with: {last[0]}; its checkpoints are in {folder}, and ray.trainers=1 trains in this process"
        ) from error
    found: T = cloudpickle.loads(result.read_bytes())
    result.unlink()
    return found


def _loop(given: dict[str, Any]) -> None:
    import ray
    from ray import cloudpickle, train

    made = ray.get(given["work"])()
    if train.get_context().get_world_rank() == 0:
        with atomic_path(Path(given["result"])) as temporary:
            temporary.write_bytes(cloudpickle.dumps(made))


def fine_tune(
    policy: Policy,
    sessions: Sequence[Session],
    config: SFTConfig,
    folder: Path,
    seed: int,
    validation: Sequence[Session],
    ray: RayConfig,
) -> dict[str, float]:
    """Train `policy` in place, as `handrail.algorithms.sft.fine_tune` does, in as many processes as `ray` says."""
    from handrail.algorithms import sft

    return _in_place(sft.fine_tune, policy, (sessions, config, folder.absolute(), seed, validation), folder, ray)


def prefer(
    policy: Policy, sessions: Sequence[Session], config: PreferenceConfig, folder: Path, seed: int, ray: RayConfig
) -> dict[str, float]:
    """Train `policy` in place, as `handrail.algorithms.preference.prefer` does, in as many processes as `ray` says."""
    from handrail.algorithms import preference

    return _in_place(preference.prefer, policy, (sessions, config, folder.absolute(), seed), folder, ray)


def _in_place(
    learn: Callable[..., dict[str, float]], policy: Policy, arguments: tuple[Any, ...], folder: Path, ray: RayConfig
) -> dict[str, float]:
    import torch

    if not _several(ray):
        return learn(policy, *arguments)
    with connected(ray):
        summary, weights = together(partial(_learned, learn, policy, arguments), ray, folder)
    policy.model.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True), strict=False)
    policy.model.eval()
    return summary


def _learned(
    learn: Callable[..., dict[str, float]], policy: Policy, arguments: tuple[Any, ...]
) -> tuple[dict[str, float], bytes]:
    import torch

    summary = learn(policy, *arguments)
    stream = io.BytesIO()
    learned = {name for name, one in policy.model.named_parameters() if one.requires_grad}
    torch.save({name: one.cpu() for name, one in policy.model.state_dict().items() if name in learned}, stream)
    return summary, stream.getvalue()


def fit_critic(
    critic: Any, policy: Policy, cases: Sequence[Case], config: Any, folder: Path, seed: int, ray: RayConfig
) -> None:
    """Train a critic into `folder` as its `fit` does; in as many processes as `ray` says if it is trained as `full` is.

    Args:
        critic: a module of `handrail.algorithms.critics`.
        policy: of its `fit`, as the next four.
        cases: verdicts.
        config: how it is trained.
        folder: of the finished critic.
        seed: of batches.
        ray: how many processes. Critics without `share_rows` train in this one.
    """
    if not hasattr(critic, "share_rows") or not _several(ray):
        critic.fit(policy, cases, config, folder, seed)
        return
    with connected(ray):
        together(partial(_fit_critic, critic.__name__, policy, cases, config, folder.absolute(), seed), ray, folder)


def _fit_critic(critic: str, *arguments: Any) -> None:
    importlib.import_module(critic).fit(*arguments)


def _several(ray: RayConfig) -> bool:
    return ray.trainers > 1 and usable(ray)
