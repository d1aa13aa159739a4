"""Whether the simulator tells good work from bad: `studies.bpm` for several domains, and their closed loops together.

Each domain is a run of its own in a folder of its name, with its own report; this one puts their closed loops side by
side, with metric keys `<domain>.closed_loop.<actor>.…`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from handrail.envs.files import write_json
from handrail.experiments.report.build import build_report
from handrail.experiments.rundir import RunDirectory
from handrail.experiments.studies import bpm

if TYPE_CHECKING:
    from omegaconf import DictConfig

PARTS = ("closed_loop.", "experts.", "policy.tool_accuracy", "policy.action_accuracy", "baseline.")


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run every domain, then the report of their closed loops."""
    closed: dict[str, Any] = {}
    for domain in map(str, cfg.domains):
        name = domain.rstrip("/").rsplit("/", 1)[-1]
        folder = run.file(name)
        question = f"How well does a small model that has read the log of {name} work alone?"
        child_of = {"domain": domain, "experiment": {"name": "bpm", "study": "bpm", "question": question}}
        merged: Any = OmegaConf.merge(cfg, child_of)
        child = RunDirectory.open(folder) if (folder / "config.yaml").is_file() else None
        if child is None:
            child = RunDirectory.create(folder, merged, run.provenance["argv"])
        run.log.info("domain %s", name)
        if not run.done(name):
            bpm.run(merged, child)
            run.mark(name)
        run.write_metrics({f"{name}.{k}": v for k, v in child.metrics.items() if k.startswith(PARTS)})
        closed[name] = json.loads(child.file(bpm.CLOSED_LOOP).read_text(encoding="utf-8"))
    write_json(run.file("summary.json"), {"question": cfg.experiment.question})
    write_json(run.file(bpm.CLOSED_LOOP), {"domains": closed})
    run.log.info("report: %s", build_report(run.path))
