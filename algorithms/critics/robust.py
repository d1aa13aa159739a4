"""A probe that knows that verdicts are noisy: soft labels from what operators did after they rejected.

Operators reject right suggestions to look at something first, because the page stuck, or to do it another way. What
they did next says more than the verdict. A rejected suggestion was

- *resumed* if they did the very thing after all, before anything critical had been done or anything been heard;
- *replaced* if they did another critical thing instead: some ways are as good;
- rejected *for good* otherwise.

The probe is fitted to **soft labels**: to each kind of rejection belongs a belief that the suggestion was right, which
stands in for the verdict (in the spirit of the bootstrapped labels of Reed et al. 2014, with evidence in place of the
model's own predictions). Only training reads what came later; a suggestion is scored from what precedes it.

**The beliefs are not the true shares, on purpose.** In the simulator 99 of 100 resumed suggestions were right. Labels
that say so rank worse than the plain verdicts: looking first is noise that strikes all right suggestions alike and
changes no order, while other ways strike some kinds of suggestion only; with the first cleaned away, what is left of
the second stands out as error. Beliefs half way keep both small. Rates of each operator were tried and left out:
expectation maximisation over operator-conditional verdicts (Dawid & Skene 1979; Raykar et al. 2010) has no hold beside
a classifier that can explain every rejection. It ended at rates near zero, which is the plain probe, and with the
evidence above at full trust.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handrail.agents.assess import assess
from handrail.agents.critic import Case
from handrail.agents.decoding import Decoder
from handrail.agents.policy import Policy
from handrail.algorithms.config import RobustConfig
from handrail.algorithms.critics.probe import ProbeCritic, draw_sessions, features, folds_of, save
from handrail.envs.normalize import same_action
from handrail.envs.schema import Message, Step

ACCEPTED, RESUMED, REPLACED, FOR_GOOD = range(4)
"""Evidence of whether a suggestion was right."""


def evidence(case: Case) -> int:
    """Return what a verdict and what came after it say: `ACCEPTED`, `RESUMED`, `REPLACED` or `FOR_GOOD`.

    A rejected suggestion is resumed if an operator executed the same action later in the session, nothing critical was
    done and no customer heard from before, and the fields it concerns are filled as they were.
    """
    if case.accepted:
        return ACCEPTED
    steps = case.session.steps
    if steps[case.step].critical:
        return REPLACED
    for after in steps[case.step + 1 :]:
        if any(isinstance(event, Message) and event.role == "customer" for event in after.events):
            return FOR_GOOD
        if same_action(after.action, case.suggestion):
            as_before = _filled(after, case.suggestion.target) == _filled(steps[case.step], case.suggestion.target)
            return RESUMED if as_before and after.actor == "operator" else FOR_GOOD
        if after.critical:
            return FOR_GOOD
    return FOR_GOOD


def beliefs(cases: Sequence[Case], config: RobustConfig) -> NDArray[np.float64]:
    """Return the soft labels: the belief that each suggestion was right, shape (n,)."""
    return np.array([1.0, config.resumed, config.replaced, 0.0])[[evidence(case) for case in cases]]


def learn(read: NDArray[Any], labels: NDArray[np.float64], penalty: float, seed: int) -> Any:
    """Fit a logistic regression to soft labels.

    Args:
        read: (n, d) features.
        labels: (n,) in [0, 1], neither all 0 nor all 1.
        penalty: C, as for n cases.
        seed: of the regression.

    Returns:
        A scikit-learn classifier of features into wrong and right.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaled = scaler.fit_transform(read)
    right, wrong = labels > 0, labels < 1
    regression = LogisticRegression(C=penalty, max_iter=500, random_state=seed)
    # A case with a label between 0 and 1 is two cases whose weights add up to one.
    regression.fit(
        np.concatenate([scaled[right], scaled[wrong]]),
        np.repeat([1, 0], [right.sum(), wrong.sum()]),
        sample_weight=np.concatenate([labels[right], 1 - labels[wrong]]),
    )
    return make_pipeline(scaler, regression)


def fit(policy: Policy, cases: Sequence[Case], config: RobustConfig, folder: Path, seed: int) -> ProbeCritic:
    """Fit the probe to soft labels; the penalty is that of least log loss on them, cross-validated over sessions."""
    chosen = draw_sessions(cases, config.max_cases, np.random.default_rng(seed))
    labels = beliefs(chosen, config)
    groups = np.unique([case.session.id for case in chosen], return_inverse=True)[1]
    folds = folds_of("robust", np.array([case.accepted for case in chosen]), groups, config.folds)
    read = features(assess(Decoder(policy), chosen), chosen)

    def loss(penalty: float) -> float:
        found = np.zeros(len(labels))
        for part, judged in folds:
            found[judged] = learn(read[part], labels[part], penalty, seed).predict_proba(read[judged])[:, 1]
        found = np.clip(found, 1e-9, 1 - 1e-9)
        return float(-np.mean(labels * np.log(found) + (1 - labels) * np.log(1 - found)))

    model = learn(read, labels, min(config.inverse_regularisation, key=loss), seed)
    save(model, folder, "robust.pkl")
    return ProbeCritic(policy, model)


def load(policy: Policy, folder: Path) -> ProbeCritic:
    """Read what `fit` left in `folder`."""
    return ProbeCritic(policy, pickle.loads((folder / "robust.pkl").read_bytes()))


def _filled(step: Step, target: str) -> dict[str, Any]:
    return {name: value for name, value in step.state.values.items() if name.split(".")[0] == target}
