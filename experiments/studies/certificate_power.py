"""How much can be certified, and how often wrongly: certificates and their alternatives on the same simulated steps.

Steps are right with a chance `accuracy`; the score is the chance of being right given a normal variable whose mean is
`separation` higher for right steps, so scores are perfect probabilities and what each threshold truly reaches is known
in closed form. Within a session of s steps, each step takes the session's outcome with chance √c and its own otherwise:
any two have correlation c. Every method sees the same draws. Coverage is the share of them that is certified.

- **independent**: `certify` against MAPIE's `BinaryClassificationController(risk="precision")`, as it comes
  (Bonferroni–Holm over 100 probabilities) and with its fixed sequence over 100 quantiles of the scores, from a tenth of
  the steps on or as many as suffice without an error (`mapie_sequence`), and against SGR (Geifman & El-Yaniv 2017): a
  binary search over the sorted scores, each step an exact binomial test at delta divided by the number of steps.
- **sessions**: what it costs that steps of one session may hang together.
- **boundary**: an accuracy just below the target, and scores that say nothing but are alike within a session, so
  every certificate is wrong; how many are given, by `certify` with sessions and without, and by reading the threshold
  off the curve (`naive`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from handrail.algorithms.bootstrap import mean_interval
from handrail.algorithms.certify import binomial_tail, certify, required_steps
from handrail.algorithms.selective import accepted, percent, put_interval, select_threshold
from handrail.envs.errors import HandrailError
from handrail.envs.files import write_json
from handrail.experiments.rundir import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Method = Callable[["Draw", float, float], float | None]

RESULT = "certificate_power.json"
OURS, WITH_SESSIONS, NAIVE = "handrail", "handrail_sessions", "naive"
_SHORTFALL = 0.001
"""How far accuracy lies below the target at the boundary."""
_SPREAD = 0.1
"""Standard deviation of scores within a session, in units of that between sessions, where they say nothing."""


@dataclass(frozen=True)
class World:
    """Where steps come from.

    Attributes:
        steps: number of calibration steps; whole sessions of `size`.
        accuracy: share that is right, in (0, 1).
        separation: how far apart right and wrong steps score; 0 for scores that say nothing and are much alike within
            a session.
        correlation: of the outcomes of two steps of one session, in [0, 1).
        size: steps of a session.
    """

    steps: int
    accuracy: float
    separation: float
    correlation: float = 0.0
    size: int = 1

    def draw(self, rng: np.random.Generator) -> Draw:
        """Draw calibration steps."""
        count = self.steps // self.size
        common = rng.random((count, 1)) < self.accuracy
        own = rng.random((count, self.size)) < self.accuracy
        correct = np.where(rng.random(own.shape) < math.sqrt(self.correlation), common, own).reshape(-1)
        sessions = np.repeat(np.arange(count), self.size)
        noise = rng.normal(size=len(correct))
        if self.separation == 0:
            return Draw(rng.normal(size=count)[sessions] + _SPREAD * noise, correct, sessions)
        return Draw(self._probability(noise + self.separation * correct), correct, sessions)

    def reached(self, threshold: float | None) -> tuple[float, float]:
        """Return the true coverage and precision of a threshold; NaN precision where nothing runs."""
        from scipy.special import ndtr

        if threshold is None:
            return 0.0, math.nan
        if self.separation == 0:
            return float(ndtr(-threshold / math.hypot(1, _SPREAD))), self.accuracy
        place = self._place(threshold)
        right = self.accuracy * float(ndtr(self.separation - place))
        coverage = right + (1 - self.accuracy) * float(ndtr(-place))
        return coverage, right / coverage if coverage > 0 else math.nan

    @property
    def _log_odds(self) -> float:
        return math.log(self.accuracy / (1 - self.accuracy))

    def _probability(self, place: FloatArray) -> FloatArray:
        from scipy.special import expit

        found: FloatArray = expit(self.separation * (place - self.separation / 2) + self._log_odds)
        return found

    def _place(self, threshold: float) -> float:
        if not 0 < threshold < 1:
            return math.inf if threshold >= 1 else -math.inf
        odds = math.log(threshold / (1 - threshold))
        return (odds - self._log_odds) / self.separation + self.separation / 2


@dataclass(frozen=True)
class Draw:
    """Calibration steps: scores (n,), whether each is right (n,), and session numbers (n,)."""

    scores: FloatArray
    correct: BoolArray
    sessions: IntArray


def sgr(draw: Draw, target: float, delta: float) -> float | None:
    """Selection with guaranteed risk (Geifman & El-Yaniv 2017, algorithm 2), with the exact binomial bound.

    A binary search over the n scores takes ⌈log2 n⌉ tests, each at delta divided by their number. Returned is the
    threshold of largest coverage among those that passed.
    """
    order = np.argsort(-draw.scores, kind="stable")
    errors, n = np.cumsum(~draw.correct[order]), len(order)
    rounds = max(1, math.ceil(math.log2(n)))
    low, high, passed = 0, n, None
    for _ in range(rounds):
        middle = math.ceil((low + high) / 2)
        if float(binomial_tail(errors[middle - 1], middle, target)) <= delta / rounds:
            low, passed = middle, middle if passed is None else max(passed, middle)
        else:
            high = middle
    return None if passed is None else float(draw.scores[order[passed - 1]])


def mapie(draw: Draw, target: float, delta: float, *, sequence: bool = False) -> float | None:
    """MAPIE's controller of precision, as it comes or with a fixed sequence over quantiles of the scores."""
    import warnings

    from mapie.risk_control import BinaryClassificationController

    options: dict[str, Any] = {}
    if sequence:
        first = min(1.0, max(0.1, required_steps(target, delta) / len(draw.scores)))
        quantiles = np.unique(np.quantile(draw.scores, 1 - np.linspace(first, 1, 100), method="lower"))[::-1]
        options = {"fwer_method": "fixed_sequence", "list_predict_params": quantiles}
    controller = BinaryClassificationController(
        lambda x: np.column_stack([1 - np.asarray(x)[:, 0], np.asarray(x)[:, 0]]),
        "precision",
        target,
        confidence_level=1 - delta,
        **options,
    )
    with warnings.catch_warnings():
        # It warns where nothing can be controlled, which is one of the answers here.
        warnings.simplefilter("ignore")
        controller.calibrate(draw.scores[:, None], draw.correct.astype(int))
    found = controller.best_predict_param
    return None if found is None else float(np.ravel(found)[0])


def with_sessions(draw: Draw, target: float, delta: float) -> float | None:
    """The certificate for steps of sessions."""
    return certify(draw.scores, draw.correct, target, delta, sessions=draw.sessions).threshold


def without_sessions(draw: Draw, target: float, delta: float) -> float | None:
    """The certificate for independent steps."""
    return certify(draw.scores, draw.correct, target, delta).threshold


def naive(draw: Draw, target: float, delta: float) -> float | None:
    """The threshold that reaches the target on the calibration steps themselves."""
    return select_threshold(draw.scores, draw.correct, target)


def methods(data: str) -> dict[str, Method]:
    """Return the methods that are compared on a kind of data, ours first; MAPIE's only where it is installed."""
    if data == "independent":
        found: dict[str, Method] = {OURS: without_sessions, "sgr": sgr}
        if find_spec("mapie") is not None:
            found["mapie"] = mapie
            found["mapie_sequence"] = lambda draw, target, delta: mapie(draw, target, delta, sequence=True)
        return found
    found = {WITH_SESSIONS: with_sessions, OURS: without_sessions}
    return found | {NAIVE: naive} if data == "boundary" else found


def worlds(cfg: DictConfig, target: float) -> Iterator[tuple[str, World]]:
    """Yield the kinds of data and their worlds for a target."""
    for steps, accuracy, separation in itertools.product(cfg.steps, cfg.accuracy, cfg.separation):
        yield "independent", World(steps, accuracy, separation)
    largest = max(cfg.steps)
    for correlation, accuracy, separation in itertools.product(cfg.correlation, cfg.accuracy, cfg.separation):
        yield "sessions", World(largest, accuracy, separation, correlation, cfg.session_size)
    for correlation in cfg.correlation:
        yield "boundary", World(largest, target - _SHORTFALL, 0.0, correlation, cfg.session_size)


def compare(world: World, data: str, target: float, delta: float, draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """Run every method on the same draws.

    Args:
        world: where steps come from.
        data: kind of data, which decides the methods.
        target: precision to hold.
        delta: accepted chance of a wrong certificate.
        draws: number of calibrations.
        seed: of the draws.

    Returns:
        Method -> `coverage` (draws,), 0 where nothing was certified, and `wrong` (draws,): certified, but not true.
    """
    chosen = methods(data)
    coverage, wrong = ({name: np.zeros(draws) for name in chosen} for _ in range(2))
    rng = np.random.default_rng(seed)
    for number in range(draws):
        drawn = world.draw(rng)
        for name, method in chosen.items():
            threshold = method(drawn, target, delta)
            coverage[name][number] = accepted(drawn.scores, threshold).mean()
            wrong[name][number] = world.reached(threshold)[1] < target
    return {name: {"coverage": coverage[name], "wrong": wrong[name]} for name in chosen}


def run(cfg: DictConfig, run: RunDirectory) -> None:
    """Compare the methods in every world and write the report."""
    from handrail.experiments.report.build import build_report

    if not 0 < cfg.delta < 1 or cfg.draws < 2 or not all(_SHORTFALL < target < 1 for target in cfg.targets):
        raise HandrailError(
            f"delta={cfg.delta}, draws={cfg.draws}, targets={list(cfg.targets)}: expected delta and targets in (0, 1) "
            "and at least two draws"
        )
    if find_spec("mapie") is None:
        run.log.warning("MAPIE is not installed and left out: pip install mapie")
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, float, float, str], list[FloatArray]] = {}
    wrong: dict[tuple[str, float, str], list[FloatArray]] = {}
    for target in map(float, cfg.targets):
        for number, (data, world) in enumerate(worlds(cfg, target)):
            results = compare(world, data, target, cfg.delta, cfg.draws, cfg.seed + number)
            for name, result in results.items():
                found.setdefault((data, target, world.correlation, name), []).append(result["coverage"])
                wrong.setdefault((data, world.correlation, name), []).append(result["wrong"])
            if data != "boundary":
                rows.append(
                    {
                        "data": data,
                        "target": target,
                        **{key: getattr(world, key) for key in ("steps", "accuracy", "separation", "correlation")},
                        "coverage": {name: float(result["coverage"].mean()) for name, result in results.items()},
                        "wrong": {name: float(result["wrong"].mean()) for name, result in results.items()},
                    }
                )
        run.log.info("target %g: %d worlds", target, number + 1)
    metrics = power_metrics(found, wrong, np.random.default_rng(cfg.seed))
    run.write_metrics(metrics)
    write_json(
        run.file(RESULT),
        {
            "delta": float(cfg.delta),
            "draws": int(cfg.draws),
            "session_size": int(cfg.session_size),
            "steps": int(max(cfg.steps)),
            "targets": list(map(float, cfg.targets)),
            "correlations": list(map(float, cfg.correlation)),
            "rows": rows,
            "metrics": metrics,
        },
    )
    write_json(run.file("summary.json"), {"question": cfg.experiment.question})
    run.log.info("report: %s", build_report(run.path))


def power_metrics(
    found: Mapping[tuple[str, float, float, str], list[FloatArray]],
    wrong: Mapping[tuple[str, float, str], list[FloatArray]],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return the metrics of the comparison.

    | key | what |
    |---|---|
    | `independent.TARGET.METHOD.coverage` | mean over worlds and draws |
    | `independent.TARGET.over.METHOD` | our coverage less the method's, on the same draws |
    | `independent.TARGET.over.METHOD.least` | the smallest such mean of a world |
    | `sessions.RHO.TARGET.METHOD.coverage` | the same with correlation RHO (in percent) within sessions |
    | `DATA.RHO.METHOD.wrong` | share of calibrations with a wrong certificate |

    Args:
        found: data, target, correlation, method -> for each world, coverage (draws,).
        wrong: data, correlation, method -> for each world and target, whether a certificate was wrong (draws,).
        rng: of the bootstrap over draws.
    """
    metrics: dict[str, float] = {}
    for (data, target, correlation, name), values in found.items():
        if data == "boundary":
            continue
        prefix = (
            f"{data}.{percent(target)}" if data == "independent" else f"{data}.{percent(correlation)}.{percent(target)}"
        )
        put_interval(metrics, f"{prefix}.{name}.coverage", _mean(values, rng))
        if data == "independent" and name != OURS:
            ours = found[data, target, correlation, OURS]
            ahead = [a - b for a, b in zip(ours, values, strict=True)]
            put_interval(metrics, f"{prefix}.over.{name}", _mean(ahead, rng))
            metrics[f"{prefix}.over.{name}.least"] = min(float(one.mean()) for one in ahead)
    for (data, correlation, name), values in wrong.items():
        put_interval(metrics, f"{data}.{percent(correlation)}.{name}.wrong", _mean(values, rng))
    return metrics


def _mean(values: list[FloatArray], rng: np.random.Generator) -> Any:
    return mean_interval(np.concatenate(values), None, rng)
