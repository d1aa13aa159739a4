"""`handrail run experiment=NAME [overrides]`: one study, configured by Hydra, into a run directory.

A study is a module of `handrail.experiments.studies` with `run(cfg: DictConfig, run: RunDirectory) -> None`; it is
chosen by a file in `conf/experiment/`. This module composes the configuration, opens the run directory, calls the
study, and says how to go on if that fails. Every stage a study marks as done is skipped when the run is resumed.

With `--multirun` it is a sweep (`sweep.py`): one run for each combination of values, launched by `launchers.py`.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.envs import registry
from handrail.envs.errors import HandrailError, nearest
from handrail.experiments.rundir import PLACE, RunDirectory, is_below
from handrail.experiments.sweep import DIRECTORY, Sweep, essential, is_sweep, latest

if TYPE_CHECKING:
    from omegaconf import DictConfig


_CONF = "handrail.conf"
_MULTIRUN = ("-m", "--multirun")
_NO_OPTION = "Config group override must be"
_UNKNOWN_KEY = re.compile(r"Could not override '([^']*)'")


def experiments() -> list[str]:
    """Return the names that `experiment=` knows, sorted."""
    conf = importlib.import_module(_CONF)
    return sorted(path.stem for folder in conf.__path__ for path in Path(folder, "experiment").glob("*.yaml"))


def main(argv: Sequence[str]) -> int:
    """Run the command with Hydra's own arguments and `resume=`; return the exit status.

    `resume=DIR` goes on with one run or one sweep, `--multirun … resume=true` with the sweep that was started last
    with the same overrides, or the one that `hydra.sweep.dir=` names.

    Raises:
        HandrailError: the configuration cannot be composed, or `resume=` names no run or comes with overrides that
            contradict it.
        KeyboardInterrupt: the user stopped the run; how to go on has been told.
    """
    given = [a.removeprefix("resume=").strip("'\"") for a in argv if a.startswith("resume=")]
    target = next((text for text in reversed(given) if text not in ("null", "false")), "null")
    arguments = [a for a in argv if not a.startswith("resume=")]
    if target == "null":
        return _start(arguments)
    if target == "true" or is_sweep(Path(target)):
        return _go_on(_sweep_of(arguments) if target == "true" else Sweep.read(Path(target)), arguments)
    return _resume(target, arguments)


class Task:
    """The function that Hydra calls with the configuration of one run, once for each job of a sweep.

    Args:
        argv: the arguments of the command.
        resume: whether jobs of a sweep go on with the runs that are in their folders.

    Attributes:
        statuses: exit status of each job that this process has run or has seen end.
        sweep: folder of the sweep, None for a single run.
    """

    def __init__(self, argv: Sequence[str], resume: bool) -> None:
        self.argv, self.resume = list(argv), resume
        self.statuses: list[int] = []
        self.sweep: Path | None = None

    def __call__(self, cfg: DictConfig) -> int:
        """Start one study, or go on with it; return its exit status."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:
            return self._job(cfg, hydra)
        status = self._single(cfg, hydra)
        self.statuses.append(status)
        return status

    def _single(self, cfg: DictConfig, hydra: Any) -> int:
        folder = Path(hydra.runtime.output_dir)
        from handrail.experiments.configs import check

        try:
            settled = _settled(cfg, hydra)
            check(settled, _choices(hydra), _defaults(hydra))
            chosen = any(override.startswith("hydra.run.dir=") for override in hydra.overrides.hydra)
            run = RunDirectory.create(folder, settled, self.argv, unique=not chosen, choices=_choices(hydra))
        except HandrailError as error:
            print(f"handrail: {error}", file=sys.stderr)
            with suppress(OSError):  # Hydra made the folder; it stays if it is not empty.
                folder.rmdir()
            return 2
        return _study(run, run.config)

    def _job(self, cfg: DictConfig, hydra: Any) -> int:
        folder = Path(hydra.runtime.output_dir)
        if self.resume and (folder / "config.yaml").is_file():
            run = RunDirectory.open(folder)
            run.note_continuation(self.argv)
        else:
            run = RunDirectory.create(
                folder, _settled(cfg, hydra), self.argv, stillborn=self.resume, choices=_choices(hydra)
            )
        placed = run.config
        placed.ray = cfg.ray  # How a sweep is launched may change when it is resumed.
        return _study(run, placed)

    def check(self, config: DictConfig, folder: Path) -> None:
        """Raise HandrailError if a job of a sweep cannot run.

        Args:
            config: composed, Hydra's own part included.
            folder: of the job.
        """
        from omegaconf import OmegaConf

        from handrail.experiments.configs import check

        hydra = config.hydra
        if (folder / "config.yaml").is_file():
            if not self.resume:
                raise HandrailError(f"{folder} already holds a run; name another hydra.sweep.dir=")
            _check_overrides(RunDirectory.open(folder), list(hydra.overrides.task))
            return
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        check(_settled(cfg, hydra), _choices(hydra), _defaults(hydra))


def study_config(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Return the configuration with which `handrail run` would start a study, and config group -> option.

    Args:
        overrides: as of the command; none is a sweep.

    Raises:
        HandrailError: it cannot be composed, or is wrong.
    """
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from handrail.experiments import configs

    configs.register()
    overrides = configs.register_paths(overrides)
    with _explained(overrides), initialize_config_module(_CONF, version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
        cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        settled, choices = _settled(cfg, config.hydra), _choices(config.hydra)
        configs.check(settled, choices, _defaults(config.hydra))
    return settled, choices


def _settled(cfg: DictConfig, hydra: Any) -> DictConfig:
    from omegaconf import OmegaConf

    from handrail.experiments.configs import settle

    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise HandrailError(f"no value for {', '.join(missing)}; give {' '.join(f'{key}=…' for key in missing)}")
    return settle(cfg, _values(hydra.overrides.task))


def _start(argv: Sequence[str], resume: bool = False) -> int:
    """Let Hydra compose and run; return the exit status, the highest of a sweep's jobs."""
    from handrail.experiments import configs

    configs.register()
    argv = configs.register_paths(argv)
    task = Task(argv, resume)
    # Makes Hydra raise instead of printing a traceback of its own and exiting.
    with _patched(os.environ, "HYDRA_FULL_ERROR", "1"), _command_line(["handrail run", *_ordered(argv)]):
        import hydra

        from handrail.experiments import launchers

        launchers.register()
        try:
            with _explained(argv):
                hydra.main(version_base="1.3", config_path=f"pkg://{_CONF}", config_name="config")(task)()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            if task.sweep is not None and not is_sweep(task.sweep):
                # No job has started; Hydra's sweeper has written there before it looked at them.
                (task.sweep / "multirun.yaml").unlink(missing_ok=True)
                with suppress(OSError):  # Somebody's folder, with other things in it.
                    task.sweep.rmdir()
    return max(task.statuses, default=0)


def _sweep_of(argv: Sequence[str]) -> Sweep:
    """Return the sweep that `resume=true` means beside the arguments `argv`."""
    if not any(argument in _MULTIRUN for argument in argv):
        raise HandrailError("resume=true goes on with a sweep: add --multirun, or name a run by resume=DIR")
    named = [a.removeprefix(f"{DIRECTORY}=").strip("'\"") for a in argv if a.startswith(f"{DIRECTORY}=")]
    return Sweep.read(Path(named[-1])) if named else latest(argv)


def _go_on(sweep: Sweep, argv: Sequence[str]) -> int:
    """Do what is missing of a sweep, launched as `argv` says, or as before if it is no whole command.

    Raises:
        HandrailError: `argv` has overrides that the sweep was not started with.
    """
    new = [argument for argument in essential(argv) if argument not in sweep.argv]
    if new:
        raise HandrailError(
            f"{sweep.path} was started with {' '.join(essential(sweep.argv))}; leave {' '.join(new)} out to go on, or "
            "leave resume= out to start a new sweep"
        )
    launching = [argument for argument in argv if argument not in essential(argv)]
    # What is computed in the order of the first start, which numbers the jobs.
    before = essential(sweep.argv) if any(a in _MULTIRUN for a in argv) else list(sweep.argv)
    keys = {argument.split("=")[0] for argument in launching} | {DIRECTORY}
    if "hydra/launcher" in keys:  # The options of another launcher would be unknown to it.
        before = [argument for argument in before if not argument.startswith("hydra.launcher.")]
    before = [argument for argument in before if argument.split("=")[0] not in keys]
    folder = str(sweep.path).replace("'", "\\'")
    others = [argument for argument in launching if not argument.startswith(f"{DIRECTORY}=")]
    return _start([*before, *others, f"{DIRECTORY}='{folder}'"], resume=True)


def _resume(path: str, overrides: list[str]) -> int:
    """Go on with the run in the folder `path`, whose configuration `overrides` may repeat but not change."""
    run = RunDirectory.open(Path(path.strip("'\"")))
    flags = [argument for argument in overrides if argument.startswith("-")]
    if flags:
        raise HandrailError(f"resume= goes on with one run as it was configured; leave {' '.join(flags)} out")
    _check_overrides(run, overrides)
    cfg = _placed(run, overrides)
    run.note_continuation(["run", f"resume={path}", *overrides])
    return _study(run, cfg)


def _study(run: RunDirectory, cfg: DictConfig) -> int:
    """Run the study that the run directory is configured for; return the exit status.

    Args:
        run: where its files are.
        cfg: its configuration, which may differ in where it is run.
    """
    from handrail.experiments.configs import STUDIES
    from handrail.experiments.tracking import tracked

    run.start_log()
    run.log.info("%s in %s", cfg.experiment.name, run.path)
    try:
        limit_threads(cfg.threads)
        study = registry.load(STUDIES, cfg.experiment.study, "study")
        with tracked(cfg, run):
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
    """Raise HandrailError unless every override repeats what the run was configured with, or says where it goes on."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    cfg = run.config
    choices = run.provenance["choices"]
    try:
        values = _values(overrides)
    except HydraException as error:
        raise HandrailError(_explain(error, overrides)) from error
    for key, given in values.items():
        if key in choices:
            before = choices[key]
        elif key in _keys(cfg):
            before = OmegaConf.to_container(node) if OmegaConf.is_config(node := OmegaConf.select(cfg, key)) else node
        else:
            raise HandrailError(f"unknown option {key!r}{nearest(key, [*choices, *_keys(cfg)])}")
        if given != before and not is_below(key, PLACE):
            raise HandrailError(
                f"{run.path} was started with {key}={_yaml(before)}, now {key}={_yaml(given)} is asked for; "
                "leave it out to go on, or leave resume= out to start a new run"
            )


def _placed(run: RunDirectory, overrides: list[str]) -> DictConfig:
    """Return the configuration of a run that goes on, with what `overrides` say of where (`rundir.PLACE`).

    Raises:
        HandrailError: a value is unknown or out of its range.
    """
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from handrail.experiments import configs

    cfg = run.config
    given = _values(overrides)
    if "ray" in given:
        configs.register()
        chosen = configs.register_paths([o for o in overrides if o.startswith("ray=")])
        with _explained(chosen), initialize_config_module(_CONF, version_base="1.3"):
            cfg.ray = compose("config", overrides=chosen).ray
    for key, value in given.items():
        if key != "ray" and is_below(key, PLACE):
            OmegaConf.update(cfg, key, value)
    if cfg != run.config:
        configs.check(cfg, run.provenance["choices"], run.config)
    return cfg


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return key or group -> value of overrides that are no sweeps."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(list(overrides))}


def _choices(hydra: Any) -> dict[str, Any]:
    """Return config group -> option, or the list of options where a list was chosen."""
    chosen = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    # Hydra does not tell lists.
    lists = {key: value for key, value in _values(hydra.overrides.task).items() if isinstance(value, list)}
    return {group: lists.get(group, choice) for group, choice in chosen.items()}


def _defaults(hydra: Any) -> DictConfig:
    """Return the configuration with the same choices and no other override."""
    from hydra.core.global_hydra import GlobalHydra

    given = [o for o in hydra.overrides.task if o.lstrip("+~").split("=")[0].split("@")[0] in hydra.runtime.choices]
    return _composed(GlobalHydra.instance().hydra, tuple(given))


@lru_cache(maxsize=8)
def _composed(session: Any, overrides: tuple[str, ...]) -> DictConfig:
    """Return what `session`, Hydra's open one, composes. It takes a quarter of a second, and jobs share choices."""
    from hydra import compose

    return compose("config", overrides=list(overrides))


def _ordered(argv: Sequence[str]) -> list[str]:
    """Return `argv` with the overrides first: Hydra's parser refuses them on both sides of a flag."""
    overrides = [argument for argument in argv if "=" in argument and not argument.startswith("-")]
    return overrides + [argument for argument in argv if argument not in overrides]


@contextmanager
def _explained(argv: Sequence[str]) -> Iterator[None]:
    """Raise HandrailError for the mistakes in `argv` that Hydra raises other errors for."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise HandrailError(_explain(error, argv)) from error
    except ValueError as error:
        if _NO_OPTION not in str(error):
            raise
        raise HandrailError(_no_option(argv)) from error


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


def _no_option(argv: Sequence[str]) -> str:
    """Return which of the arguments chooses from a group by something that is no name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    groups = [name for name in _known_options("", argv) if "." not in name]
    parsed = OverridesParser.create().parse_overrides([a for a in argv if "=" in a and not a.startswith("-")])
    wrong = [o for o in parsed if o.key_or_group in groups and not isinstance(o.value(), str | list)]
    return "; ".join(f"{o.input_line}: expected the name of an option of {o.key_or_group}" for o in wrong)


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


def limit_threads(threads: int | None) -> None:
    """Let numeric libraries use `threads` CPU threads, all cores if None."""
    if threads is None:
        return
    # Read when a library is loaded; torch that is loaded already takes a call instead.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


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
