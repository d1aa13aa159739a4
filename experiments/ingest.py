"""`handrail ingest`: raw logs into a store, with a validation report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.envs.errors import HandrailError, nearest
from handrail.experiments.options import option, parse_options

if TYPE_CHECKING:
    from handrail.envs.logs.validate import Report

DESCRIPTION = (
    "Reads raw operator logs and writes sessions to a Parquet store, one row a step. Sessions that break a rule are "
    "kept out and told in the validation report beside the store. An interrupted ingest goes on where it stopped "
    "when the same command is given again."
)


@dataclass(frozen=True)
class Options:
    """Options of `handrail ingest`."""

    source: str = option(help="reader of the logs, e.g. star, ui_events")
    out: Path = option(help="Parquet file to write; the report goes beside it as .validation.json")
    path: Path | None = option(None, help="folder or file with the raw logs; by default $HANDRAIL_DATA")
    ray: str = option("off", help="off for this process, local for a Ray on this machine, or the address of a cluster")
    workers: int | None = option(None, help="processes on Ray; by default one a CPU")
    config: Path | None = option(None, help="YAML with the options of the source, instead of conf/source/<source>.yaml")


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: arguments after `ingest`.

    Returns:
        Exit status: 0 when the store is written, whatever the report says.

    Raises:
        HandrailError: an option, the source or a path is wrong.
    """
    options = parse_options(argv, Options, prog="handrail ingest", description=DESCRIPTION)
    path = options.path or (Path(os.environ["HANDRAIL_DATA"]) if os.environ.get("HANDRAIL_DATA") else None)
    if path is None:
        raise HandrailError(
            "handrail ingest: path=… is missing: name the folder with the raw logs, or set HANDRAIL_DATA to the folder "
            "that holds them (star/, ui_logs/, …)"
        )
    # Pyarrow takes a third of a second to import: `--help` and mistakes above answer without it.
    from tqdm import tqdm

    from handrail.envs.logs.ingest import READERS, report_path

    settings = _source_options(options.source, options.config, READERS)
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(unit=" files", file=sys.stderr, desc=f"ingest {options.source}", mininterval=interval) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = _ingest(options, path, settings, progress)
    print(report.summary())
    print(f"store: {options.out}")
    print(f"validation report: {report_path(options.out)}")
    return 0


def _ingest(options: Options, path: Path, settings: dict[str, Any], progress: Callable[[int, int], None]) -> Report:
    from handrail.envs.logs.ingest import ingest
    from handrail.experiments.cluster.config import RayConfig

    config = RayConfig(options.ray, workers=options.workers or os.cpu_count() or 1, worker_cpus=1.0)
    if not config.on:
        return ingest(options.source, path, options.out, settings, progress)
    from handrail.experiments.cluster.connection import connected
    from handrail.experiments.cluster.spread import Spread

    # A cluster's machines have the folders under these names; a relative one would depend on the process.
    with connected(config):
        return ingest(
            options.source, path.absolute(), options.out.absolute(), settings, progress, spread=Spread(config)
        )


def _source_options(source: str, config: Path | None, readers: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from handrail.envs import registry

    known = registry.names(readers)
    if source not in known:
        raise HandrailError(f"unknown source {source!r}{nearest(source, known)}")
    default = resources.files("handrail").joinpath("conf", "source", f"{source}.yaml")
    if config is None and not default.is_file():
        return {}
    try:
        text = config.read_text(encoding="utf-8") if config is not None else default.read_text(encoding="utf-8")
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise HandrailError(f"config={config or source}: {error}") from None
    settings = content.get("options", {}) if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise HandrailError(f"config={config or source}: expected a mapping `options:` as in conf/source/{source}.yaml")
    return {str(name): value for name, value in settings.items()}
