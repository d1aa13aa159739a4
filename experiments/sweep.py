"""What a sweep leaves beside its runs: `sweep.json`, by which it is found again and goes on.

A sweep's folder holds a run directory for each job, named by the job's number, and `sweep.json`:

argv       the command line that started it
started    when
jobs       number -> overrides of that job
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from handrail.envs.errors import HandrailError
from handrail.envs.files import write_json

FILE = "sweep.json"
"""The file that makes a folder a sweep's."""

DIRECTORY = "hydra.sweep.dir"
"""Key of the folder of a sweep."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that was started.

    Attributes:
        path: its folder.
        argv: the arguments that started it, without `resume=`.
        started: when, ISO 8601 in UTC.
        jobs: number -> overrides.
    """

    path: Path
    argv: tuple[str, ...]
    started: str
    jobs: Mapping[int, tuple[str, ...]]

    @classmethod
    def start(cls, path: Path, argv: Sequence[str]) -> Sweep:
        """Return a sweep of no jobs yet that starts now in the folder `path`."""
        return cls(path, tuple(argv), datetime.now(UTC).isoformat(timespec="microseconds"), {})

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Return the sweep in the folder `path`.

        Raises:
            HandrailError: there is none, or its `sweep.json` is damaged.
        """
        file = path / FILE
        if not file.is_file():
            raise HandrailError(
                f"{path} holds no sweep (it has no {FILE}); expected a folder such as "
                "outputs/star/2026-01-31_12-00-00_sweep"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            jobs = {int(number): tuple(map(str, overrides)) for number, overrides in content["jobs"].items()}
            return cls(path, tuple(map(str, content["argv"])), str(content["started"]), jobs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HandrailError(f"{file} is damaged ({error!r}); restore it, or start a new sweep") from error

    def write(self) -> None:
        """Write `sweep.json`."""
        jobs = {str(number): list(overrides) for number, overrides in sorted(self.jobs.items())}
        write_json(self.path / FILE, {"argv": list(self.argv), "started": self.started, "jobs": jobs})

    def with_jobs(self, jobs: Mapping[int, Sequence[str]]) -> Sweep:
        """Return the sweep with more jobs.

        Raises:
            HandrailError: a number stands for other overrides already.
        """
        for number, overrides in jobs.items():
            before = self.jobs.get(number)
            if before is not None and before != tuple(overrides):
                raise HandrailError(
                    f"job {number} of {self.path} was {' '.join(before)}, now it is {' '.join(overrides)}; go on with "
                    "the overrides of the first start, or leave resume= out to start a new sweep"
                )
        return Sweep(
            self.path, self.argv, self.started, {**self.jobs, **{n: tuple(given) for n, given in jobs.items()}}
        )


def is_sweep(path: Path) -> bool:
    """Return whether the folder `path` is a sweep's."""
    return (path / FILE).is_file()


def essential(argv: Iterable[str]) -> list[str]:
    """Return the arguments that say what a sweep computes, in their order: no flags, and nothing of how it is run."""
    return [a for a in argv if "=" in a and not a.startswith(("-", "hydra.", "hydra/", "ray=", "ray.", "resume="))]


def latest(argv: Sequence[str], outputs: Path = Path("outputs")) -> Sweep:
    """Return the sweep that was started last with the same overrides, in any order.

    Args:
        argv: arguments of `handrail run`; how the jobs are launched may differ.
        outputs: where runs lie, as `<experiment>/<date>_<time>_sweep/`.

    Raises:
        HandrailError: there is none, or one that is looked at is damaged.
    """
    wanted = sorted(essential(argv))
    found = [Sweep.read(file.parent) for file in outputs.glob(f"*/*/{FILE}")]
    same = [sweep for sweep in found if sorted(essential(sweep.argv)) == wanted]
    if not same:
        raise HandrailError(
            f"resume=true: none of the {len(found)} sweeps under {outputs}/ was started with {' '.join(wanted)}; give "
            f"the overrides of its start, name its folder by {DIRECTORY}=DIR, or leave resume=true out to start anew"
        )
    return max(same, key=lambda sweep: sweep.started)
