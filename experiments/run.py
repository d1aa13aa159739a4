"""`handrail run experiment=NAME [overrides]`: one study, configured by Hydra, into a run directory.

A study is a module of `handrail.experiments.studies` with `run(cfg: DictConfig, run: RunDirectory) -> None`; it is
chosen by a file in `conf/experiment/`. This module composes the configuration, opens the run directory, calls the
study, and says how to go on if that fails. Every stage a study marks as done is skipped when the run is resumed.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from handrail.envs import registry
from handrail.envs.errors import HandrailError, nearest
from handrail.experiments.rundir import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

STUDIES = "handrail.experiments.studies"
_CONF = "handrail.conf"
_UNKNOWN_KEY = re.compile(r"Could not override '([^']*)'")


class _JobFailed(Exception):
    """A job of a sweep failed; it has been logged."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def experiments() -> list[str]:
    """Return the names that `experiment=` knows, sorted."""
    conf = importlib.import_module(_CONF)
    return sorted(path.stem for folder in conf.__path__ for path in Path(folder, "experiment").glob("*.yaml"))


def main(argv: Sequence[str]) -> int:
    """Run the command with Hydra's own arguments and `resume=DIR`; return the exit status.

    Raises:
        HandrailError: the configuration cannot be composed, or `resume=` names no run or comes with overrides that
            contradict it.
        KeyboardInterrupt: the user stopped the run; how to go on has been told.
    """
    resumed = [argument for argument in argv if argument.startswith("resume=") and argument != "resume=null"]
    if resumed:
        return _resume(resumed[-1].removeprefix("resume="), [a for a in argv if not a.startswith("resume=")])
    # Makes Hydra raise instead of printing a traceback of its own and exiting.
    with _patched(os.environ, "HYDRA_FULL_ERROR", "1"), _command_line(["handrail run", *_ordered(argv)]):
        import hydra
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from handrail.experiments.configs import register

        register()
        try:
            hydra.main(version_base="1.3", config_path=f"pkg://{_CONF}", config_name="config")(_job)()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except _JobFailed as failure:
            return failure.status
        except (HydraException, OmegaConfBaseException) as error:
            raise HandrailError(_explain(error, argv)) from error
    return 0


def _job(cfg: DictConfig) -> None:
    """Start one study; Hydra calls this, once for each job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise HandrailError(f"no value for {', '.join(missing)}; give {' '.join(f'{key}=…' for key in missing)}")
        chosen_dir = any(override.startswith("hydra.run.dir=") for override in hydra.overrides.hydra)
        run = RunDirectory.create(hydra.runtime.output_dir, cfg, sys.argv[1:], unique=not chosen_dir)
    except HandrailError as error:
        print(f"handrail: {error}", file=sys.stderr)
        with suppress(OSError):  # Hydra made the folder; it stays if it is not empty.
            os.rmdir(hydra.runtime.output_dir)
        status = 2
    else:
        choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
        run.add_provenance(choices=choices)
        status = _study(run)
    if status:
        # In a sweep Hydra shall run the other jobs; alone, it shall not add its report to ours.
        raise SystemExit(status) if hydra.mode == RunMode.RUN else _JobFailed(status)


def _resume(path: str, overrides: list[str]) -> int:
    """Go on with the run in the folder `path`, whose configuration `overrides` may repeat but not change."""
    run = RunDirectory.open(Path(path.strip("'\"")))
    flags = [argument for argument in overrides if argument.startswith("-")]
    if flags:
        raise HandrailError(f"resume= goes on with one run as it was configured; leave {' '.join(flags)} out")
    _check_overrides(run, overrides)
    run.note_continuation(["run", f"resume={path}", *overrides])
    return _study(run)


def _study(run: RunDirectory) -> int:
    """Run the study that the run directory is configured for; return the exit status."""
    cfg = run.config
    run.start_log()
    run.log.info("%s in %s", cfg.experiment.name, run.path)
    try:
        _limit_threads(cfg.threads)
        study = registry.load(STUDIES, cfg.experiment.study, "study")
        with _tracking(cfg, run):
            study.run(cfg, run)
    except KeyboardInterrupt:
        run.log.warning("interrupted; go on with: %s", _resume_command(run))
        raise
    except Exception as error:
        mistake = isinstance(error, HandrailError)
        run.log.error("%s", error, exc_info=not mistake or bool(os.environ.get("HANDRAIL_DEBUG")))
        run.log.error("the run stopped, what it finished is kept; go on with: %s", _resume_command(run))
        return 2 if mistake else 1
    finally:
        run.stop_log()
    run.note_finish()
    print(f"run directory: {run.path}", flush=True)
    return 0


def _resume_command(run: RunDirectory) -> str:
    return f"handrail run experiment={run.config.experiment.name} resume={shlex.quote(str(run.path))}"


def _check_overrides(run: RunDirectory, overrides: list[str]) -> None:
    """Raise HandrailError unless every override repeats what the run was configured with."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    cfg = run.config
    choices = run.provenance["choices"]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise HandrailError(_explain(error, overrides)) from error
    for override in parsed:
        key, given = override.key_or_group, override.value()
        if key in choices:
            before = choices[key]
        elif key in _keys(cfg):
            before = OmegaConf.to_container(node) if OmegaConf.is_config(node := OmegaConf.select(cfg, key)) else node
        else:
            raise HandrailError(f"unknown option {key!r}{nearest(key, [*choices, *_keys(cfg)])}")
        if given != before:
            raise HandrailError(
                f"{run.path} was started with {key}={_yaml(before)}, now {key}={_yaml(given)} is asked for; "
                "leave it out to go on, or leave resume= out to start a new run"
            )


def _ordered(argv: Sequence[str]) -> list[str]:
    """Return `argv` with the overrides first: Hydra's parser refuses them on both sides of a flag."""
    overrides = [argument for argument in argv if "=" in argument and not argument.startswith("-")]
    return overrides + [argument for argument in argv if argument not in overrides]


def _explain(error: Exception, argv: Sequence[str]) -> str:
    """Return what a user did wrong that made Hydra raise `error`, and the nearest names."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationToMissingValueError

    if isinstance(error, OverrideParseException):
        known = [f"experiment={name}" for name in experiments()]
        hint = nearest(error.override, known) if "=" not in error.override else f": {error.message}"
        return f"expected key=value, got {error.override!r}{hint.splitlines()[0] if hint else ''}"
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"unknown {group} {option!r}{nearest(option, error.options)}"
    if isinstance(error, InterpolationToMissingValueError) and "experiment.name" in str(error):
        return f"no experiment is named; give experiment=NAME{nearest('', experiments())}"
    unknown = _UNKNOWN_KEY.search(str(error))
    if unknown:
        key = unknown.group(1)
        return f"unknown option {key!r}{nearest(key, _known_options(key, argv))}"
    cause = f": {error.__cause__}" if error.__cause__ is not None else ""
    return f"{error}{cause}"


def _known_options(unknown: str, argv: Sequence[str]) -> list[str]:
    """Return the keys and groups that overrides may name beside the other arguments of `argv`."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    choosing = [a for a in argv if a.startswith("experiment=") and "," not in a and unknown != "experiment"]
    with initialize_config_module(_CONF, version_base="1.3"):
        try:
            cfg = compose("config", overrides=choosing, return_hydra_config=True)
        except HydraException:
            cfg = compose("config", return_hydra_config=True)
    groups = [group for group in cfg.hydra.runtime.choices if not group.startswith("hydra/")]
    return sorted({*groups, *(key for key in _keys(cfg) if key.split(".")[0] != "hydra")})


def _keys(cfg: DictConfig) -> list[str]:
    """Return the dotted keys of a configuration, inner nodes included."""
    from omegaconf import DictConfig

    found = []
    for name in map(str, cfg):
        found.append(name)
        node = cfg._get_node(name)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            found += [f"{name}.{inner}" for inner in _keys(node)]
    return found


def _yaml(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _limit_threads(threads: int | None) -> None:
    """Let numeric libraries use `threads` CPU threads, all cores if None."""
    if threads is None:
        return
    # Read when a library is loaded; torch that is loaded already takes a call instead.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def _tracking(cfg: DictConfig, run: RunDirectory) -> Iterator[None]:
    """Record the run with Weights & Biases if `tracking` says so; trainers inside find the open run."""
    if cfg.tracking.mode == "none":
        yield
        return
    import wandb
    from omegaconf import OmegaConf

    config = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    session = wandb.init(
        project=cfg.tracking.project,
        entity=cfg.tracking.entity,
        group=cfg.tracking.group,
        name=run.path.name,
        mode=cfg.tracking.mode,
        dir=run.path,
        config=config,
    )
    try:
        yield
        session.summary.update(run.metrics)
    except BaseException:
        session.finish(exit_code=1)
        raise
    session.finish()


@contextmanager
def _patched(mapping: Any, key: str, value: str) -> Iterator[None]:
    before = mapping.get(key)
    mapping[key] = value
    try:
        yield
    finally:
        if before is None:
            del mapping[key]
        else:
            mapping[key] = before


@contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """Let `sys.argv` be `argv`, which is where Hydra reads it."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before
