"""`handrail evaluate run=DIR data.path=DIR`: a finished run on other sessions of the same source.

Nothing is learned and no threshold is chosen again: policy, critics and baselines are loaded from the run, thresholds
and certificates come from the run's calibration rows. The result is a run directory with the same files and metrics.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handrail.experiments.options import option, parse_options


@dataclass(frozen=True)
class Options:
    """What to evaluate on what."""

    run: Path = option(help="a finished run of experiment=star or star_fast")
    path: str = option(name="data.path", help="folder (or store) with sessions of the run's source")
    catalog: str | None = option(
        None, help="folder with tasks/ and apis/ if they are not beside the sessions; by default the run's own data"
    )
    out: Path | None = option(None, help="run directory to write; by default outputs/evaluate/<date>_<time>")


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status.

    Raises:
        HandrailError: the run is no finished run of a study that can be evaluated, or the sessions cannot be read.
    """
    options = parse_options(argv, Options, prog="handrail evaluate", description=__doc__ or "")
    import pandas as pd
    from omegaconf import OmegaConf

    from handrail.envs.errors import HandrailError
    from handrail.experiments import offline
    from handrail.experiments.rundir import RunDirectory, new_run_path
    from handrail.experiments.studies.star import SOURCES, TABLES, Study, bar

    trained = RunDirectory.open(options.run)
    missing = [name for name in TABLES.values() if not trained.file(name).is_file()]
    if "certify" not in trained.config or missing or not trained.done("suggestions"):
        raise HandrailError(
            f"{trained.path} is no finished run of experiment=star or star_fast; name one, or finish this one with "
            f"handrail run experiment={trained.config.experiment.name} resume={trained.path}"
        )
    cfg = trained.config
    cfg.experiment.question = f"{cfg.experiment.question} Evaluated on sessions the run has not seen."
    given = OmegaConf.to_container(cfg.data.options)
    reader_options = dict(given) if isinstance(given, dict) else {}
    home = options.catalog or _catalog(options.path, str(cfg.data.path))
    if home is not None:
        reader_options["catalog"] = home
    name = f"evaluate_{cfg.experiment.name}"
    target = RunDirectory.create(options.out or new_run_path("evaluate"), cfg, list(argv), unique=options.out is None)
    target.start_log()
    try:
        target.log.info("%s: %s on %s", name, trained.path, options.path)
        study = Study(cfg, trained)
        started = time.monotonic()
        sessions, study.data = offline.read_data(
            cfg.data.source, options.path, reader_options, cfg.data.where, bar("reading sessions")
        )
        learned = set(trained.stage_info("suggestions")["learned_from"])
        fresh = [session for session in sessions if session.id not in learned]
        notes = [f"{len(sessions) - len(fresh)} sessions the run had learned from or calibrated on were left out."]
        if not fresh:
            raise HandrailError(f"every session under {options.path} is one the run has learned from or calibrated on")
        study.splits = {"test": fresh}
        target.add_provenance(data_fingerprint=offline.fingerprint(fresh), evaluated_run=str(trained.path))
        alone = study.suggestions_alone(fresh)
        suggestions = study.reranked(fresh, alone)
        baselines = study.compared(alone, study.baseline_suggestions(fresh))
        tables = {source: study.table(source, study.splits, suggestions, baselines) for source in SOURCES}
        study.timings = {"evaluation": round(time.monotonic() - started, 1)}
        before = {source: pd.read_parquet(trained.file(TABLES[source])) for source in SOURCES}
        calibration = {source: frame[frame["split"] == "calibration"] for source, frame in before.items()}
        study.report(target, tables, calibration, fresh, notes)
    finally:
        target.stop_log()
    target.note_finish()
    print(f"run directory: {target.path}", flush=True, file=sys.stdout)
    return 0


def _catalog(path: str, trained_on: str) -> str | None:
    """Return where the run's own data describes templates and forms, if `path` has no descriptions itself."""
    places = [Path(path), Path(path) / "star", Path(path).parent]
    if any((place / "tasks").is_dir() and (place / "apis").is_dir() for place in places):
        return None
    homes = [Path(trained_on), Path(trained_on) / "star"]
    return next((str(home) for home in homes if (home / "tasks").is_dir() and (home / "apis").is_dir()), None)
