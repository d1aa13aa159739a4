"""The published protocol of next-action prediction on STAR, for comparison with earlier work.

Mehri & Eskenazi 2021, "Schema-Guided Paradigm for Zero-Shot Dialog" (SAM). One label a step instead of whole actions:

- Targets are the operator's reply templates (label: the template) and queries (label: `query_check` or `query_book`
  by the requested type, else `query`). Free text stays in the history and is no target.
- History: what customer and operator wrote, what was queried, what came back. Never the typed draft.
- Dialogues: strictly happy ones, that is single-task, without stage directions.
- `standard`: ordered by id, the first 80 % train, the last 20 % test. `lodo.<domain>` (zero-shot): train on all other
  domains, test on one.
- Metrics: accuracy and F1 weighted by the labels' support.

Departures from the published code: picks whose only option is `custom` are free text, hence no targets (the original
has them as a label of its own); only labels of the open task's schema can be predicted, by policy and baselines
alike; a second reader chooses among candidates with the policy (`handrail.agents.rerank`, off with `rerank=null`);
and the split runs over the dialogues that are at hand, so a copy of STAR that lacks some is another test set.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from handrail.agents.decoding import Suggestion
from handrail.agents.policy import PolicyConfig
from handrail.agents.transcript import Transcript, TranscriptConfig
from handrail.algorithms.config import SFTConfig
from handrail.envs import registry
from handrail.envs.errors import HandrailError, nearest
from handrail.envs.files import atomic_path
from handrail.envs.schema import Action, Arg, Constraint, Control, Event, Message, Session, Step, UIState
from handrail.experiments import offline
from handrail.experiments.configs import build
from handrail.experiments.rundir import RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from handrail.agents.policy import Policy

BASELINES = "handrail.agents.baselines"
CONFIDENCE = "handrail.agents.confidence"
QUERIES = ("query", "query_check", "query_book")
_QUERY_CONTROLS = tuple(Control(name, "form", label=name.replace("_", " ")) for name in QUERIES)
_SHARE = 0.8


def query_label(args: dict[str, Arg]) -> str:
    """Return the label of a query by its `RequestType`; one that asks for both counts as a check."""
    requested = _operands(args.get("RequestType"))
    if "Check" in requested:
        return "query_check"
    return "query_book" if "Book" in requested else "query"


def _operands(value: Any) -> list[Any]:
    if isinstance(value, Constraint):
        return _operands(value.value)
    if isinstance(value, list | tuple):
        return [operand for item in value for operand in _operands(item)]
    return [value]


def protocol_sessions(sessions: Sequence[Session]) -> list[Session]:
    """Return the strictly happy sessions with one step for each target of the protocol, in order of id.

    A query keeps its label as action; its fields become part of the history after it. Sessions without a target are
    left out.
    """
    screens: dict[int, tuple[tuple[Control, ...], tuple[Control, ...]]] = {}
    found = []
    for session in sessions:
        if session.tags.get("kind") == "happy":
            steps = _targets(session, screens)
            if steps:
                found.append(msgspec.structs.replace(session, steps=tuple(steps), tail=()))
    return sorted(found, key=lambda s: (len(s.id), s.id))


def _targets(session: Session, screens: dict[int, tuple[tuple[Control, ...], tuple[Control, ...]]]) -> list[Step]:
    steps: list[Step] = []
    events: list[Event] = []
    for step in session.steps:
        events.extend(step.events)
        if step.actor != "operator" or step.action.tool not in ("send_reply", "submit_form"):
            continue
        is_query = step.action.tool == "submit_form"
        target = query_label(step.action.args) if is_query else step.action.target
        offered = step.state.controls
        if id(offered) not in screens:
            templates = tuple(control for control in offered if control.kind == "template")
            screens[id(offered)] = (offered, templates + _QUERY_CONTROLS)
        state = UIState(step.state.screen, step.state.procedure, screens[id(offered)][1])
        action = Action(step.action.tool, target)
        steps.append(Step(len(steps), state, tuple(events), action, time=step.time, critical=True))
        events = []
        if is_query and step.action.args:
            fields = (f"{name} = {', '.join(map(str, _operands(value)))}" for name, value in step.action.args.items())
            events.append(Message("system", " ; ".join(fields)))
    return steps


def standard_split(sessions: Sequence[Session]) -> tuple[list[Session], list[Session]]:
    """Return the first 80 % of the protocol's sessions and the last 20 %, by id.

    Raises:
        HandrailError: there are fewer than five sessions.
    """
    test = int(len(sessions) * (1 - _SHARE) + 1e-9)
    if test == 0:
        raise HandrailError(
            f"{len(sessions)} strictly happy sessions are too few to hold out a fifth; point data.path at the STAR logs"
        )
    return list(sessions[: int(len(sessions) * _SHARE)]), list(sessions[-test:])


def leave_out(sessions: Sequence[Session], domain: str) -> tuple[list[Session], list[Session]]:
    """Return the sessions of all other domains, and those of `domain`.

    Raises:
        HandrailError: there are no sessions of that domain, or no others.
    """
    test = [s for s in sessions if s.tags["domain"] == domain]
    train = [s for s in sessions if s.tags["domain"] != domain]
    if not test or not train:
        known = {s.tags["domain"] for s in sessions}
        raise HandrailError(f"lodo.domains: {domain!r} cannot be left out{nearest(domain, known)}")
    return train, test


def weighted_f1(labels: npt.ArrayLike, predicted: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return F1 of each label, averaged by how often the label is true.

    Args:
        labels: (n,) true labels, of any sortable type.
        predicted: (n,) predicted labels.
        weights: (n,) weights of the rows, 1 by default.
    """
    known, codes = np.unique(np.concatenate([np.asarray(labels), np.asarray(predicted)]), return_inverse=True)
    true, guess = np.split(codes.reshape(-1), 2)
    rows = np.ones(len(true)) if weights is None else np.asarray(weights, dtype=np.float64)
    hits = np.bincount(true, rows * (true == guess), minlength=len(known))
    support = np.bincount(true, rows, minlength=len(known))
    claimed = np.bincount(guess, rows, minlength=len(known))
    scores = np.divide(2 * hits, support + claimed, out=np.zeros(len(known)), where=support + claimed > 0)
    return float((scores * support).sum() / support.sum())


def decisions(
    split: str,
    sessions: Sequence[Session],
    made: Sequence[Suggestion],
    baselines: dict[str, list[Suggestion]],
    proxies: dict[str, Callable[[Suggestion], float]],
) -> pd.DataFrame:
    """Return the decision table of a split: `label`, the policy's `predicted`, and `predicted_<baseline>`."""
    import pandas as pd

    steps = [(session, step) for session in sessions for step in session.steps]
    frame = pd.DataFrame(
        {
            "session_id": [session.id for session, _ in steps],
            "step": [step.index for _, step in steps],
            "issue": [session.issue for session, _ in steps],
            "split": split,
            "tool": [step.action.tool for _, step in steps],
            "critical": True,
            "label": [step.action.target for _, step in steps],
            "predicted": [suggestion.action.target for suggestion in made],
        }
    )
    frame["correct"] = frame["label"] == frame["predicted"]
    frame["verdict"] = np.where(frame["correct"], "accept", "reject")
    for name, others in baselines.items():
        frame[f"predicted_{name}"] = [suggestion.action.target for suggestion in others]
    for name, score in proxies.items():
        frame[f"score_{name}"] = [float(score(suggestion)) for suggestion in made]
    return frame


def split_metrics(frame: pd.DataFrame, where: str, rng: np.random.Generator) -> dict[str, float]:
    """Return the metrics of one split, with intervals that resample sessions.

    Args:
        frame: its decision table.
        where: what stands in the keys between who and what: `policy.<where>accuracy`; empty or ending in a dot.
        rng: source of the resamples.
    """
    from handrail.algorithms.bootstrap import cluster_interval, mean_interval, paired_difference
    from handrail.algorithms.selective import put_interval, with_prefix

    metrics: dict[str, float] = {f"policy.{where}steps": float(len(frame))}
    labels, sessions = frame["label"].to_numpy(dtype=str), frame["session_id"].to_numpy()
    correct = frame["correct"].to_numpy()
    for column in (c for c in frame.columns if c.startswith("predicted")):
        guess = frame[column].to_numpy(dtype=str)
        name = column.removeprefix("predicted").removeprefix("_")
        prefix = f"baseline.{name}.{where}" if name else f"policy.{where}"
        put_interval(metrics, f"{prefix}accuracy", mean_interval(labels == guess, sessions, rng))

        def f1(rows: npt.NDArray[np.float64], guess: npt.NDArray[np.str_] = guess) -> float:
            return weighted_f1(labels, guess, rows)

        put_interval(metrics, f"{prefix}weighted_f1", cluster_interval(f1, sessions, rng))
        if name:
            gap = paired_difference(correct, labels == guess, sessions, rng)
            put_interval(metrics, f"policy.{where}accuracy_over.{name}", gap)
    return with_prefix("", metrics)


def all_metrics(frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Return the metrics of every split of a decision table.

    The standard split has the plain keys (`policy.accuracy`, `baseline.tfidf.weighted_f1`), a domain left out the
    keys `policy.lodo.<domain>.accuracy` and so on, and their means are under `lodo.mean`.
    """
    metrics: dict[str, float] = {}
    domains = []
    for split, rows in frame.groupby("split", sort=False):
        where = "" if split == "standard" else f"{split}."
        metrics |= split_metrics(rows, where, rng)
        if where:
            domains.append(where)
    whos = ["policy", *(f"baseline.{c.removeprefix('predicted_')}" for c in frame if c.startswith("predicted_"))]
    if domains:
        for who in whos:
            for what in ("accuracy", "weighted_f1"):
                values = [metrics[f"{who}.{where}{what}"] for where in domains]
                metrics[f"{who}.lodo.mean.{what}"] = float(np.mean(values))
    return metrics


class Study:
    """One run: the protocol's sessions, and a policy and baselines for each split.

    Args:
        cfg: the run's configuration.
        run: where its files are.
    """

    def __init__(self, cfg: DictConfig, run: RunDirectory) -> None:
        self.cfg, self.run, self.seed = cfg, run, int(cfg.seed)
        data = cfg.data
        read, _ = offline.read_data(data.source, data.path, data.options, {}, _bar("reading sessions"))
        self.sessions = protocol_sessions(read)
        mark = offline.fingerprint(self.sessions)
        before = run.provenance.get("data_fingerprint", mark)
        if before != mark:
            raise HandrailError(
                f"the run in {run.path} was started on other sessions (fingerprint {before}, now {mark}); "
                "point data.path at the same logs, or leave resume= out"
            )
        run.add_provenance(data_fingerprint=mark)
        run.log.info("%d of %d sessions are strictly happy and have targets", len(self.sessions), len(read))
        known = sorted({s.tags["domain"] for s in self.sessions})
        if cfg.rerank is not None and cfg.rerank not in cfg.baselines:
            raise HandrailError(f"rerank={cfg.rerank!r} is none of this run's baselines ({', '.join(cfg.baselines)})")
        self.domains: list[str] = known if cfg.lodo.domains == "all" else list(cfg.lodo.domains or [])

    def splits(self) -> dict[str, tuple[list[Session], list[Session]]]:
        """Return name -> (training, test) sessions of the splits to run."""
        found = {"standard": standard_split(self.sessions)} if self.cfg.standard else {}
        return found | {f"lodo.{domain}": leave_out(self.sessions, domain) for domain in self.domains}

    def evaluate(self, split: str, train: Sequence[Session], test: Sequence[Session]) -> pd.DataFrame:
        """Fit policy and baselines on `train` and return their decisions on `test`."""
        from handrail.agents.decoding import Decoder
        from handrail.agents.rerank import Reranker

        fitted = {str(n): registry.load(BASELINES, n, "baseline").Baseline() for n in self.cfg.baselines}
        for baseline in fitted.values():
            baseline.fit(train, self.seed)
        compared = {name: baseline.suggest(test) for name, baseline in fitted.items()}
        decoder = Decoder(self._policy(split, train))
        made = decoder.suggest(test, _bar("suggesting"))
        if self.cfg.rerank is not None:
            compared["without_rerank"] = made
            # The protocol leaves no split to fit weights on.
            reranker = Reranker(decoder, fitted[self.cfg.rerank], [1.0, 1.0, 1.0])
            made = reranker.rerank(test, made, _bar("weighing candidates"))
        proxies = {n: registry.load(CONFIDENCE, n, "confidence score").score for n in self.cfg.confidence}
        return decisions(split, test, made, compared, proxies)

    def table(self, split: str) -> pd.DataFrame:
        """Read the decisions of a finished split."""
        import pandas as pd

        return pd.read_parquet(self._file(split))

    def finish(self, split: str, train: Sequence[Session], test: Sequence[Session]) -> None:
        """Evaluate a split and write its decisions."""
        frame = self.evaluate(split, train, test)
        with atomic_path(self._file(split)) as path:
            frame.to_parquet(path)
        scores = {c: float((frame["label"] == frame[c]).mean()) for c in frame if c.startswith("predicted")}
        text = ", ".join(f"{c.removeprefix('predicted').strip('_') or 'policy'} {v:.3f}" for c, v in scores.items())
        self.run.log.info("%s: %d training and %d test sessions; accuracy: %s", split, len(train), len(test), text)
        self.run.mark(split, train=len(train), test=len(test))

    def _policy(self, split: str, train: Sequence[Session]) -> Policy:
        import torch
        from omegaconf import OmegaConf

        from handrail.agents.policy import build_policy
        from handrail.algorithms.sft import fine_tune

        cfg = self.cfg
        written, learned = cfg.transcript, cfg.sft
        if split != "standard":
            written, learned = (OmegaConf.merge(cfg[key], cfg.lodo[key]) for key in ("transcript", "sft"))
        transcript = Transcript(build(TranscriptConfig, written, "transcript"))
        texts = ["".join(span.text for span in transcript.spans(session)) for session in train]
        policy = build_policy(build(PolicyConfig, cfg.policy, "policy"), transcript, texts, self.seed)
        folder = self.run.checkpoints / split
        fine_tune(policy, train, build(SFTConfig, learned, "sft"), folder / "sft", self.seed)
        policy.save(folder / "policy")
        shutil.rmtree(folder / "sft", ignore_errors=True)
        if torch.cuda.is_available():
            policy.model.to("cuda")  # type: ignore[arg-type]
        return policy

    def _file(self, split: str) -> Path:
        return self.run.checkpoints / f"decisions_{split}.parquet"


def _bar(text: str) -> Callable[[Any], Any]:
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=text, leave=False)


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Run every split of the protocol, the standard one first."""
    import pandas as pd

    study = Study(cfg, run)
    splits = study.splits()
    if not splits:
        raise HandrailError("nothing to run: standard=false and lodo.domains is empty; give a domain or standard=true")
    for name, (train, test) in splits.items():
        if not run.done(name):
            study.finish(name, train, test)
    frame = pd.concat([study.table(name) for name in splits], ignore_index=True)
    run.write_decisions(frame)
    run.write_metrics(all_metrics(frame, np.random.default_rng(study.seed)))
