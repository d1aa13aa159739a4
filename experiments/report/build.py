"""The report of a run: `report.html`, one file that opens offline and can be printed.

The report is a function of the files in the run directory, so it can be built again at any time. Every file is
optional, and so is every key or column in it: a part of the report is left out where its input is missing.

metrics.json, decisions*.parquet, certificates.json    results; see `experiments.rundir` and the design's contract
summary.json, examples.json                            what was asked, the data, decisions to read
config.yaml, provenance.json                           how to get the same again

Numbers are taken from `metrics.json` where it has them; curves, reliability and what happens per issue are computed
from the decision tables, with resampling seeded by a constant. The same files give the same report, byte by byte.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from handrail.algorithms.bootstrap import Interval, ratio_interval
from handrail.algorithms.selective import (
    accepted,
    are_probabilities,
    calibrated,
    coverage_curve,
    percent,
    precision_band,
    reliability_bins,
)
from handrail.envs.errors import HandrailError
from handrail.envs.files import write_text
from handrail.experiments.report import (
    certificates,
    feedback,
    learners,
    methods,
    online,
    ood,
    plots,
    rejections,
    supervision,
)

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

REPORT = "report.html"


class About(NamedTuple):
    """A source of verdicts in words: its table's file, heading, what it is, what is judged, and what coverage means."""

    table: str
    title: str
    words: str
    unit: str
    claim: str


SOURCES = {
    "critic": About(
        "decisions.parquet",
        "The assistant's own suggestions",
        "The assistant says what it would do at each step of the logged sessions. Its suggestion counts as accepted if "
        "it is exactly what the operator did.",
        "critical steps",
        "of the critical steps could have run without the operator",
    ),
    "critic_recorded": About(
        "decisions_recorded.parquet",
        "Suggestions that operators really saw",
        "The log keeps suggestions that were on the operator's screen, and whether the operator took them. The "
        "confidence is computed without knowing what the operator had typed.",
        "suggestions",
        "of these suggestions could have run without the operator",
    ),
    "critic_recorded_draft": About(
        "decisions_recorded_draft.parquet",
        "The same, once the operator's draft is known",
        "As before, but the confidence also reads what the operator had typed to ask for suggestions. This saves the "
        "operator the choice, not the typing.",
        "suggestions",
        "of these suggestions could have run as soon as the draft was typed",
    ),
}
"""Prefix of the metrics of a source of verdicts -> what it is."""

METHODS = {
    "full": "full critic",
    "lora": "LoRA critic",
    "boosted": "boosted-trees critic",
    "stacked": "probe and boosted trees",
    "probe": "probe critic",
    "robust": "noise-aware probe critic",
    "tfidf": "TF-IDF critic",
    "log_probability": "log-probability",
    "min_probability": "least sure token",
    "margin": "margin",
    "entropy": "entropy",
    "length_normalised": "log-probability per token",
    "second_reader": "second reader",
    "self_consistency": "self-consistency",
    "p_true": "P(True)",
    "ensemble": "ensemble",
    "disagreement": "ensemble disagreement",
}
"""Confidence methods by the names people know; others keep theirs."""

BASELINES = {
    "majority": "most frequent action",
    "backoff": "back-off counts",
    "tfidf": "TF-IDF + logistic regression",
    "trees": "boosted trees",
    "without_rerank": "the assistant without a second reader",
}

ACTORS = {"random": "chance", "policy": "the assistant", "expert": "an expert", **BASELINES}
"""Actors of a closed loop by the names people know."""

SLICES = {"kind": "kind of session", "tool": "tool", "issue": "issue", "operator": "operator"}

RANKING = (
    ("auroc", "AUROC", True, "chance that a right suggestion gets a higher score than a wrong one"),
    ("auprc", "AUPRC", True, "precision averaged over all thresholds"),
    ("aurc", "AURC", False, "share of errors averaged over all coverages"),
    ("augrc", "AUGRC", False, "chance of an error that nobody sees, averaged over all coverages"),
    ("brier", "Brier", False, "squared distance of the probability from the outcome"),
    ("ece", "ECE", False, "how far stated probabilities are from what happens"),
    ("f1", "F1", True, "balance of finding right suggestions and running only right ones, at the 95 % threshold"),
)
"""Metric key, heading, whether more is better, and what it means."""

_MAX_METHODS = 8
_MAX_BARS = 30
_BAND_RESAMPLES = 200
_BAND_GRID = np.linspace(0.02, 1.0, 60)
_ISSUE_RESAMPLES = 1000
_NOTHING = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Answer:
    """What one target came to: the certificate from calibration, and what its threshold did on test.

    Attributes:
        target: precision asked for.
        certificate: fields of `certify.Certificate`; `threshold` is None where nothing could be certified.
        coverage: share of judged test steps (critical ones, or recorded suggestions) that would have run alone.
        precision: share of those that the operator would have accepted.
        steps: judged test steps, 0 if unknown.
        ran: how many of them would have run alone.
        wrong: how many of these the operator would not have accepted.
    """

    target: float
    certificate: Mapping[str, Any]
    coverage: Interval
    precision: Interval
    steps: int
    ran: int
    wrong: int

    @property
    def certified(self) -> bool:
        """Whether there is a threshold."""
        return self.certificate.get("threshold") is not None

    @property
    def outcome(self) -> tuple[str, str]:
        """How the test precision compares with the target: a class for the page, and words."""
        if not self.certified:
            return "none", "cannot be certified"
        if math.isnan(self.precision.estimate):
            return "none", "nothing ran on test"
        if self.precision.estimate >= self.target:
            return "good", "target reached"
        if self.precision.high >= self.target:
            return "fair", "below target, within the interval"
        return "bad", "below target by more than the interval"


@dataclass(frozen=True)
class Source:
    """One source of verdicts: its rows, scores and certificates.

    Attributes:
        key: prefix of its metrics.
        about: what it is, for a reader.
        rows: its decision table, empty if there is none.
        metrics: all metrics of the run.
        certificates: method -> target -> fields of `certify.Certificate`.
        deployed: the method whose thresholds are deployed, or None.
        feasible: what could be certified at best, whatever the scores, a sentence for each target.
    """

    key: str
    about: About
    rows: pd.DataFrame
    metrics: Mapping[str, float]
    certificates: Mapping[str, Mapping[float, Mapping[str, Any]]]
    deployed: str | None
    feasible: Sequence[str] = ()

    @cached_property
    def methods(self) -> list[str]:
        """Confidence methods: the deployed one, then the others by AUROC."""
        prefix = f"{self.key}."
        inside = {key.removeprefix(prefix).split(".")[0] for key in self.metrics if key.startswith(prefix)}
        scored = {c.removeprefix("score_") for c in self.rows.columns if c.startswith("score_")}
        rank = {name: -self.metrics.get(f"{self.key}.{name}.auroc", 0.0) for name in inside | scored}
        return sorted(rank, key=lambda name: (name != self.deployed, rank[name], name))

    @cached_property
    def targets(self) -> list[float]:
        """Precisions that certificates were sought for, ascending."""
        return sorted({target for by_target in self.certificates.values() for target in by_target})

    @cached_property
    def answers(self) -> list[Answer]:
        """What each target came to with the deployed method."""
        certificates = self.certificates.get(self.deployed or "", {})
        return [self._answer(target, certificates[target]) for target in sorted(certificates)]

    @cached_property
    def answer(self) -> Answer | None:
        """The answer for 95 % precision, or for the lowest target if that was not asked for."""
        return next((a for a in self.answers if a.target == 0.95), self.answers[0] if self.answers else None)

    def judged(self, method: str, split: str = "test") -> pd.DataFrame:
        """Return `session_id`, `issue`, `score`, `correct` of the rows of a split that have a score."""
        column = f"score_{method}"
        if not {column, "split", "session_id", "correct"} <= set(self.rows.columns):
            return pd.DataFrame({"session_id": [], "issue": [], "score": [], "correct": []})
        rows = self.rows[(self.rows["split"] == split) & self.rows[column].notna()]
        issue = rows["issue"].astype(str) if "issue" in rows else ""
        return pd.DataFrame(
            {
                "session_id": rows["session_id"].astype(str),
                "issue": issue,
                "score": rows[column].astype(float),
                "correct": rows["correct"].astype(bool),
            }
        )

    def metric(self, method: str, key: str) -> Interval:
        """Return a metric of a method with its interval."""
        return _metric(self.metrics, f"{self.key}.{method}.{key}")

    def _answer(self, target: float, certificate: Mapping[str, Any]) -> Answer:
        method = self.deployed or ""
        test = self.judged(method)
        ran = accepted(test["score"], certificate.get("threshold"))
        key = f"certified.{percent(target)}"
        return Answer(
            target,
            certificate,
            self.metric(method, f"{key}.coverage"),
            self.metric(method, f"{key}.precision"),
            len(test),
            int(ran.sum()),
            int((ran & ~test["correct"].to_numpy(dtype=bool)).sum()),
        )


@dataclass(frozen=True)
class Accuracy:
    """A row of an accuracy table: the policy, a baseline, or the policy on a slice of the steps.

    Attributes:
        name: whose row it is.
        tool: tool accuracy.
        action: action accuracy.
        steps: number of steps, where it differs between rows.
        ahead: action accuracy of the policy less that of this baseline, on the same steps.
        own: whether it is the policy among baselines.
    """

    name: str
    tool: Interval
    action: Interval
    steps: int = 0
    ahead: Interval = _NOTHING
    own: bool = False


@dataclass(frozen=True)
class Issue:
    """What a threshold does on the judged test steps of one issue; `wrong` counts among those that `ran`."""

    name: str
    steps: int
    ran: int
    wrong: int
    coverage: Interval
    precision: Interval


@dataclass(frozen=True)
class Worker:
    """What came of the cases one actor worked alone."""

    name: str
    sessions: int
    success: Interval
    violations: Interval
    given_up: Interval
    steps: float
    own: bool


@dataclass(frozen=True)
class Desk:
    """A closed loop: its actors, what the policy failed at, and a session to read.

    Attributes:
        name: of the domain, empty if there is one.
        workers: from the weakest to the strongest.
        agreement: how often two experts agree.
        told: what `closed_loop.json` holds: `issues`, `story`, `screen`.
    """

    name: str
    workers: list[Worker]
    agreement: Interval
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with the table behind it if there is one to show."""

    drawing: Markup
    caption: str
    heading: str
    table: Sequence[Issue] = ()


def build_report(run_path: Path) -> Path:
    """Write `report.html` from the files in the run directory `run_path`, and return its path.

    Raises:
        HandrailError: there is no such folder, or a file in it is damaged.
    """
    from jinja2 import Environment
    from matplotlib import rc_context

    folder = Path(run_path)
    if not folder.is_dir():
        raise HandrailError(
            f"{folder} is no folder; expected a run directory, such as outputs/star/2026-01-31_12-00-00"
        )
    metrics = _read_json(folder / "metrics.json", {})
    sources = _sources(folder, metrics)
    # A name with two dollar signs is no formula.
    with rc_context({"text.parse_math": False}):
        figures = {
            "curves": [p for p in map(_curves, sources) if p],
            "reliability": [p for p in map(_reliability, sources) if p],
            "issues": [p for p in map(_issues, sources) if p],
        }
    configuration = folder / "config.yaml"
    learnt = learners.section(folder, _picture, lambda name: ACTORS.get(name, _words(name)))
    content: dict[str, Any] = {
        "headline": [s for s in sources if s.answer],
        "work": _work(sources[0].rows),
        "summary": _read_json(folder / "summary.json", {}),
        # The part on learners has a table of its own for who works alone.
        "desks": _desks(_read_json(folder / "closed_loop.json", {}), metrics) if learnt is None else [],
        "policy": _policy(metrics),
        "slices": _slices(metrics),
        **figures,
        "critics": [s for s in sources if any(f"{s.key}.{m}.auroc" in metrics for m in s.methods)],
        "online": online.section(folder, _picture, _method_name),
        "supervision": _supervision(metrics),
        "feedback": feedback.section(folder),
        "rejections": rejections.section(folder, _method_name),
        "certificates": certificates.section(folder, _picture),
        "methods": methods.section(folder, _picture, _method_name),
        "ood": ood.section(folder, _picture),
        "learners": learnt,
        "examples": _grouped(_read_json(folder / "examples.json", [])),
        "provenance": _read_json(folder / "provenance.json", {}),
        "config": configuration.read_text(encoding="utf-8") if configuration.is_file() else "",
    }
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=_percent, bounds=_bounds, points=_points, number=_number, words=_words, duration=_duration
    )
    environment.globals.update(
        RANKING=RANKING, percent_name=percent, method_name=_method_name, best=_best, is_number=_is_number
    )
    template = files("handrail.experiments.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    path = folder / REPORT
    write_text(path, environment.from_string(template).render(sections=_sections(content), **content))
    return path


def coverage_figure(run_path: Path) -> Figure | None:
    """Return precision against coverage for the methods of a run, as in its report; None if none was measured.

    Raises:
        HandrailError: a file in the run directory is damaged.
    """
    from matplotlib import rc_context

    folder = Path(run_path)
    with rc_context({"text.parse_math": False}):
        for source in _sources(folder, _read_json(folder / "metrics.json", {})):
            if lines := _lines(source):
                return plots.coverage_precision(lines, targets=source.targets)
    return None


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return anchor and title of the parts there is something to say in, in their order."""
    summary = content["summary"]
    parts = [
        (online.ANCHOR, online.TITLE, content["online"]),
        ("supervision", "One operator, many sessions", content["supervision"]),
        ("feedback", feedback.TITLE, content["feedback"]),
        ("rejections", rejections.TITLE, content["rejections"]),
        (certificates.ANCHOR, certificates.TITLE, content["certificates"]),
        (methods.ANCHOR, methods.TITLE, content["methods"]),
        (ood.ANCHOR, ood.TITLE, content["ood"]),
        (learners.ANCHOR, learners.TITLE, content["learners"]),
        ("answer", "The answer", content["headline"]),
        ("asked", "What was asked", summary.get("question")),
        ("alone", "Working alone", content["desks"]),
        ("story", "One session", any("story" in desk.told for desk in content["desks"])),
        ("data", "The data", summary.get("data") or summary.get("splits")),
        ("policy", "The assistant", content["policy"] or content["slices"]),
        ("curves", "Coverage and precision", content["curves"]),
        ("critics", "Confidence methods", content["critics"]),
        ("reliability", "Are the confidences honest?", content["reliability"]),
        ("issues", "Automation by issue", content["issues"]),
        ("examples", "Examples", content["examples"]),
        ("measured", "How it was measured", True),
        ("provenance", "Provenance", content["provenance"] or content["config"]),
    ]
    return [(anchor, title) for anchor, title, present in parts if present]


def _read_json(path: Path, missing: Any) -> Any:
    if not path.is_file():
        return missing
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HandrailError(
            f"{path} is damaged ({error}); restore it, or remove it to build a report without"
        ) from error
    if not isinstance(value, type(missing)):
        raise HandrailError(f"{path} holds a {type(value).__name__}; expected a {type(missing).__name__}")
    return value


def _sources(folder: Path, metrics: Mapping[str, float]) -> list[Source]:
    certificates = _read_json(folder / "certificates.json", {})
    found = []
    for key, about in SOURCES.items():
        path = folder / about.table
        try:
            rows = pd.read_parquet(path) if path.is_file() else pd.DataFrame()
        except (OSError, ValueError) as error:
            raise HandrailError(f"{path} is no readable Parquet file ({error})") from error
        by_method = {
            str(method): {float(target): fields for target, fields in by_target.items()}
            for method, by_target in certificates.get(key, {}).items()
        }
        deployed, feasible = (certificates.get(name, {}).get(key) for name in ("deployed", "feasible"))
        found.append(Source(key, about, rows, metrics, by_method, deployed, feasible or ()))
    return found


def _metric(metrics: Mapping[str, float], key: str) -> Interval:
    return Interval(*(float(metrics.get(key + end, math.nan)) for end in ("", ".ci_low", ".ci_high")))


def _work(rows: pd.DataFrame) -> dict[str, Any]:
    """Count the operators' test steps and the critical ones among them; empty if the table does not say."""
    if not {"split", "critical", "tool", "session_id"} <= set(rows.columns):
        return {}
    test = rows[rows["split"] == "test"]
    critical = test[test["critical"].astype(bool)]
    return {
        "sessions": int(test["session_id"].nunique()),
        "steps": len(test),
        "critical": len(critical),
        "tools": [_words(tool) for tool in critical["tool"].value_counts().index],
    }


def _policy(metrics: Mapping[str, float]) -> list[Accuracy]:
    """Return the rows of the policy's table: the policy, then the baselines, the best first."""
    if "policy.tool_accuracy" not in metrics and "policy.action_accuracy" not in metrics:
        return []
    names = {m.group(1) for m in map(re.compile(r"baseline\.(.+)\.(?:tool|action)_accuracy").fullmatch, metrics) if m}
    baselines = [
        Accuracy(
            BASELINES.get(name, _words(name)),
            _metric(metrics, f"baseline.{name}.tool_accuracy"),
            _metric(metrics, f"baseline.{name}.action_accuracy"),
            ahead=_metric(metrics, f"policy.action_accuracy_over.{name}"),
        )
        for name in names
    ]
    tool, action = (_metric(metrics, f"policy.{kind}_accuracy") for kind in ("tool", "action"))
    own = Accuracy("the assistant", tool, action, own=True)
    return [own, *sorted(baselines, key=lambda row: (-np.nan_to_num(row.action.estimate), row.name))]


def _desks(told: Mapping[str, Any], metrics: Mapping[str, float]) -> list[Desk]:
    """Return the closed loops of a run: of its domain, or of each of several."""
    if not told:
        return []
    found = []
    for name, one in told["domains"].items() if "domains" in told else [("", told)]:
        start = f"{name}." if name else ""
        pattern = re.compile(rf"{re.escape(start)}closed_loop\.(\w+)\.success_rate")
        workers = []
        for actor in (m.group(1) for m in map(pattern.fullmatch, metrics) if m):
            key = f"{start}closed_loop.{actor}"
            workers.append(
                Worker(
                    ACTORS.get(actor, _words(actor)),
                    int(metrics[f"{key}.sessions"]),
                    _metric(metrics, f"{key}.success_rate"),
                    _metric(metrics, f"{key}.violation_rate"),
                    _metric(metrics, f"{key}.truncated_rate"),
                    metrics[f"{key}.steps"],
                    actor == "policy",
                )
            )
        workers.sort(key=lambda worker: worker.success.estimate)
        found.append(Desk(name, workers, _metric(metrics, f"{start}experts.agreement"), one))
    return found


def _slices(metrics: Mapping[str, float]) -> list[tuple[str, list[Accuracy]]]:
    """Return, per way to slice the test steps, its name and its rows, the largest first."""
    pattern = re.compile(rf"policy\.by_({'|'.join(SLICES)})\.(.+)\.(?:steps|tool_accuracy|action_accuracy)")
    names = {m.groups() for m in map(pattern.fullmatch, metrics) if m}
    tables = []
    for by, title in SLICES.items():
        rows = [
            Accuracy(
                _words(name),
                _metric(metrics, f"policy.by_{by}.{name}.tool_accuracy"),
                _metric(metrics, f"policy.by_{by}.{name}.action_accuracy"),
                int(metrics.get(f"policy.by_{by}.{name}.steps", 0)),
            )
            for kind, name in names
            if kind == by
        ]
        if rows:
            tables.append((title, sorted(rows, key=lambda row: (-row.steps, row.name))))
    return tables


def _lines(source: Source) -> list[plots.MethodCurve]:
    """Return precision against coverage for the methods of a source."""
    lines = []
    for method in source.methods[:_MAX_METHODS]:
        test = source.judged(method)
        if test.empty:
            continue
        low, high = precision_band(
            test["score"], test["correct"], test["session_id"], _BAND_GRID, _rng(), resamples=_BAND_RESAMPLES
        )
        points = []
        for target in source.targets:
            key = f"certified.{percent(target)}"
            coverage, precision = (
                source.metric(method, f"{key}.{what}").estimate for what in ("coverage", "precision")
            )
            if math.isfinite(precision) and coverage > 0:
                points.append(plots.CertifiedPoint(target, coverage, precision))
        curve = coverage_curve(test["score"], test["correct"])
        lines.append(plots.MethodCurve(_method_name(method), curve, _BAND_GRID, low, high, points))
    return lines


def _curves(source: Source) -> Picture | None:
    """Draw precision against coverage for the methods of a source."""
    lines = _lines(source)
    if not lines:
        return None
    halfway = "; ".join(
        f"{line.name} {_percent(float(np.interp(0.5, line.curve.coverage, line.curve.precision)))}" for line in lines
    )
    everything = _percent(float(lines[0].curve.precision[-1]))
    return _picture(
        plots.coverage_precision(lines, targets=source.targets),
        f"curves-{source.key}",
        f"Precision against coverage, a line per confidence method. Precision at half coverage: {halfway}.",
        caption=f"Test sessions. If everything ran, {everything} would be right. Further right: more work done alone; "
        "further up: fewer errors. Shaded: 95 % session-bootstrap bands.",
        heading=source.about.title,
    )


def _reliability(source: Source) -> Picture | None:
    """Draw what confidences of the deployed method come to on test."""
    if source.deployed is None:
        return None
    test, known = source.judged(source.deployed), source.judged(source.deployed, "calibration")
    if test.empty:
        return None
    how = ""
    scores = test["score"].to_numpy()
    if not (are_probabilities(scores) and are_probabilities(known["score"])):
        if not np.isfinite(known["score"]).any():
            return None
        scores = calibrated(known["score"], known["correct"], scores)
        how = " Scores were turned into probabilities on calibration sessions."
    bins = reliability_bins(scores, test["correct"])
    gap = source.metric(source.deployed, "ece").estimate
    mean = f" On average the two are {_percent(gap)} apart." if math.isfinite(gap) else ""
    return _picture(
        plots.reliability(bins, name="confidence"),
        f"reliability-{source.key}",
        f"Share of right suggestions against the confidence of the {_method_name(source.deployed)}, in bins.{mean}",
        caption=f"{_method_name(source.deployed).capitalize()}, test sessions: share of suggestions that were right, "
        f"where the critic said so many would be.{mean}{how}",
        heading=source.about.title,
    )


def _issues(source: Source) -> Picture | None:
    """Draw which share of each issue's steps would run alone under the certified threshold."""
    certified = [a for a in source.answers if a.certified]
    if not certified or source.answer is None or source.deployed is None:
        return None
    answer = source.answer if source.answer.certified else certified[-1]
    test = source.judged(source.deployed)
    names = sorted({name for name in test["issue"] if name})
    if not names:
        return None
    ran = accepted(test["score"], answer.certificate["threshold"])
    inside = np.column_stack([(test["issue"] == name).to_numpy(dtype=float) for name in names])
    alone = inside * ran[:, None]
    right = alone * test["correct"].to_numpy(dtype=float)[:, None]
    intervals = ratio_interval(
        np.hstack([alone, right]),
        np.hstack([inside, alone]),
        test["session_id"].to_numpy(),
        _rng(),
        resamples=_ISSUE_RESAMPLES,
    )
    table = [
        Issue(
            _words(name),
            int(inside[:, j].sum()),
            int(alone[:, j].sum()),
            int(alone[:, j].sum() - right[:, j].sum()),
            intervals[j],
            intervals[len(names) + j],
        )
        for j, name in enumerate(names)
    ]
    table.sort(key=lambda row: (-row.coverage.estimate, row.name))
    largest = sorted(table, key=lambda row: (-row.steps, row.name))[:_MAX_BARS]
    shown = [row for row in table if row in largest]
    bars = [
        plots.Bar(
            row.name, *row.coverage, note=f"alone, {row.precision.estimate:.1%} of it right" if row.ran else "alone"
        )
        for row in shown
    ]
    rest = f" The {len(shown)} largest of {len(table)} issues; the table has all." if len(shown) < len(table) else ""
    other = "" if answer is source.answer else f" ({_percent(source.answer.target, None)} cannot be certified)"
    return _picture(
        plots.bars(bars, label=f"share of the issue's {source.about.unit} that would run alone"),
        f"issues-{source.key}",
        f"Share of {source.about.unit} that would run alone, by issue, from "
        f"{bars[0].name} ({_percent(bars[0].value)}) to {bars[-1].name} ({_percent(bars[-1].value)}).",
        caption=f"Test sessions, at the threshold certified for {_percent(answer.target, None)} precision over all "
        f"issues{other}. Lines: 95 % intervals over sessions.{rest}",
        heading=source.about.title,
        table=table,
    )


def _picture(
    figure: Figure,
    anchor: str,
    description: str,
    *,
    caption: str,
    heading: str,
    table: Sequence[Issue] = (),
) -> Picture:
    """Make a figure part of the page: ids that no other figure has, nothing that names another place."""
    from markupsafe import Markup

    text = plots.svg(figure, description=description)
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", text, count=2)
    text = re.sub(r'(\sid="|url\(#)', rf"\g<1>{anchor}-", text)
    text = text.replace('xlink:href="#', f'href="#{anchor}-')
    return Picture(Markup(text), caption, heading, table)


def _supervision(metrics: Mapping[str, float]) -> list[Picture]:
    drawn = supervision.draw(metrics)
    if drawn is None:
        return []
    return [_picture(drawn.figure, "supervision", drawn.description, caption=drawn.caption, heading=drawn.heading)]


def _grouped(examples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return examples by group, groups in the order they appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for example in examples:
        groups.setdefault(str(example.get("group", "")), []).append(example)
    return [{"title": title, "examples": members} for title, members in groups.items()]


def _best(source: Source, key: str, more: bool) -> float:
    """Return the best value any method has, as it is printed."""
    values = [source.metric(method, key).estimate for method in source.methods]
    finite = [round(value, 3) for value in values if math.isfinite(value)]
    return (max(finite) if more else min(finite)) if finite else math.nan


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _method_name(name: str) -> str:
    return METHODS.get(name, _words(name))


def _words(name: Any) -> str:
    """Turn an identifier into words."""
    return str(name).replace("_", " ")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> str:
    """Write a number, whole ones with separators; a dash for what is missing."""
    if not _is_number(value) or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _percent(share: Any, digits: int | None = 1) -> str:
    """Write a share in percent, with so many digits after the point or, for None, as many as it has."""
    if not _is_number(share) or not math.isfinite(share):
        return "–"
    text = f"{100 * share:.6g}" if digits is None else f"{100 * share:.{digits}f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def _bounds(interval: Interval, scale: float = 100, digits: int = 1) -> str:
    """Write the ends of an interval, nothing if they are unknown."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f"{scale * interval.low:.{digits}f}–{scale * interval.high:.{digits}f}"


def _points(interval: Interval) -> str:
    """Write a difference of two shares in percentage points."""
    if not math.isfinite(interval.estimate):
        return "–"
    ends = ""
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        ends = f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
    return f"{100 * interval.estimate:+.1f}{ends}".replace("-", "−")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
