"""`handrail score`: a finished run's policy and critics on a store of any size, a row group at a time.

The store is cut into pieces of whole row groups. Each piece is read, decided and scored where there is room, leaves a
Parquet file in `<out>.parts/`, and is skipped by a run that goes on. In the end the pieces are joined in order. Memory
holds one piece a process, whatever the size of the store. The pieces are the same with and without Ray, and so is the
output.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handrail.envs.errors import HandrailError
from handrail.envs.files import atomic_path, write_json
from handrail.experiments.cluster.config import RayConfig
from handrail.experiments.options import option, parse_options

if TYPE_CHECKING:
    from handrail.experiments.studies.star import Study

DESCRIPTION = (
    "Lets the policy of a finished run decide every operator step of a store, and its critics and confidence scores "
    "judge what it would do. Writes Parquet, one row a step. Streams stores larger than memory; the same command goes "
    "on where it stopped."
)


@dataclass(frozen=True)
class Options:
    """Options of `handrail score`."""

    run: Path = option(help="a finished run of experiment=star, star_fast or bpm")
    store: Path = option(help="Parquet store, as handrail ingest writes it")
    out: Path = option(help="Parquet file to write")
    piece: int = option(4096, help="steps that are read at once, at least")
    ray: str = option("off", help="off for this process, local for a Ray on this machine, or the address of a cluster")
    workers: int | None = option(None, help="processes on Ray; by default one a CPU")


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status.

    Raises:
        HandrailError: an option is wrong, the run is not finished, or the store cannot be read.
    """
    options = parse_options(argv, Options, prog="handrail score", description=DESCRIPTION)
    config = RayConfig(options.ray, workers=options.workers or os.cpu_count() or 1, worker_cpus=1.0)
    steps = score(options.run, options.store, options.out, options.piece, config)
    print(f"{steps} steps scored")
    print(f"scores: {options.out}")
    return 0


def score(run: Path, store: Path, out: Path, piece: int, config: RayConfig) -> int:
    """Score every operator step of a store.

    Args:
        run: directory of a finished run.
        store: to be scored.
        out: Parquet file to write or replace, with the columns of the run's `decisions.parquet`: what the policy
            would do, whether the log agrees, and a column `score_<method>` for each critic and confidence score.
        piece: steps that are read at once, at least, >= 1; sessions are not cut.
        config: where.

    Returns:
        How many steps were scored.

    Raises:
        HandrailError: `piece` is too small, the run is not finished, or the store cannot be read.
    """
    if piece < 1:
        raise HandrailError(f"handrail score: piece={piece}, expected at least 1")
    work = Scoring(run.absolute(), store.absolute(), out.absolute(), pieces(store, piece))
    work.begin()
    missing = [number for number in range(len(work.pieces)) if not work.part(number).is_file()]
    for _ in _done(work, missing, config):
        pass
    return work.publish()


def _done(work: Callable[[int], None], numbers: Sequence[int], config: RayConfig) -> Iterable[int]:
    if config.on:
        from handrail.experiments.cluster.connection import connected
        from handrail.experiments.cluster.spread import Spread

        with connected(config):
            yield from Spread(config)(work, numbers)
        return
    for number in numbers:
        work(number)
        yield number


def pieces(store: Path, piece: int) -> list[tuple[int, int]]:
    """Return the first row group of each piece and the one after its last; each has at least `piece` steps but one.

    A store's row groups hold whole sessions, so pieces do.
    """
    from handrail.envs.logs.store import open_store

    found, first, held = list[tuple[int, int]](), 0, 0
    with open_store(store) as file:
        for group in range(file.num_row_groups):
            held += file.metadata.row_group(group).num_rows
            if held >= piece or group == file.num_row_groups - 1:
                found.append((first, group + 1))
                first, held = group + 1, 0
    return found


class Scoring:
    """Scores pieces of a store, in whatever process it is copied to; the run's models are loaded once in each.

    Args:
        run, store, out: as of `score`, absolute.
        pieces: of the store.
    """

    def __init__(self, run: Path, store: Path, out: Path, pieces: Sequence[tuple[int, int]]) -> None:
        self.run, self.store, self.out, self.pieces = run, store, out, list(pieces)
        self.folder = out.with_name(out.name + ".parts")
        self._study: Study | None = None

    def part(self, number: int) -> Path:
        """Return where a piece's scores are."""
        return self.folder / f"{number:06d}.parquet"

    def begin(self) -> None:
        """Make the folder of parts, empty unless its parts are of the same run, store and pieces."""
        from handrail.experiments.rundir import RunDirectory

        trained = RunDirectory.open(self.run)
        if "certify" not in trained.config or not trained.done("suggestions"):
            raise HandrailError(
                f"{trained.path} is no finished run with a policy and critics; name one of experiment=star, star_fast "
                f"or bpm, or finish this one with handrail run resume={trained.path}"
            )
        stat = self.store.stat()
        manifest = {
            "run": str(self.run),
            "store": [str(self.store), stat.st_size, stat.st_mtime_ns],
            "pieces": [list(piece) for piece in self.pieces],
        }
        file = self.folder / "manifest.json"
        if self.folder.exists() and not file.is_file() and any(self.folder.iterdir()):
            raise HandrailError(f"{self.folder} is there and not from a scoring; move it away or choose another out=")
        if file.is_file() and json.loads(file.read_text()) != manifest:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, manifest)

    def __call__(self, number: int) -> None:
        """Score a piece and leave its file."""
        from handrail.envs.logs.store import read_sessions
        from handrail.experiments.rundir import RunDirectory
        from handrail.experiments.studies.star import Study

        if self._study is None:
            trained = RunDirectory.open(self.run)
            self._study = Study(trained.config, trained)
        study = self._study
        sessions = list(read_sessions(self.store, *self.pieces[number]))
        suggestions = study.reranked(sessions, study.suggestions_alone(sessions))
        with atomic_path(self.part(number)) as temporary:
            study.table("critic", {"logged": sessions}, suggestions, {}).to_parquet(temporary, index=False)

    def publish(self) -> int:
        """Join the parts in order and remove them; return how many steps there are."""
        import pyarrow.parquet as pq

        steps = 0
        with atomic_path(self.out) as temporary:
            writer = None
            for number in range(len(self.pieces)):
                table = pq.read_table(self.part(number))
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                steps += table.num_rows
            if writer is not None:
                writer.close()
        shutil.rmtree(self.folder)
        return steps
