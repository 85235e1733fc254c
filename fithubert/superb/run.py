"""Score one model on one task: read its frozen features, train the head, report the test split."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from fithubert.config.params import TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.superb.bank import FeatureSource
from fithubert.superb.heads import LayerSum
from fithubert.superb.metrics import summarise
from fithubert.superb.protocol import (
    Candidate,
    Learner,
    MissingLabels,
    NotScorable,
    SearchTask,
    Selection,
    Task,
    TaskResult,
)
from fithubert.superb.tasks.asr import ASR
from fithubert.superb.tasks.asv import ASV
from fithubert.superb.tasks.er import ER
from fithubert.superb.tasks.ic import IC
from fithubert.superb.tasks.ks import KS
from fithubert.superb.tasks.pr import PR
from fithubert.superb.tasks.qbe import QBE
from fithubert.superb.tasks.sd import SD
from fithubert.superb.tasks.sf import SF
from fithubert.superb.tasks.sid import SID
from fithubert.superb.train import Fitted, OnProgress, fit

_TRAINED: tuple[Task, ...] = (PR, ASR, KS, SID, ASV, SD, ER, IC, SF)
_SEARCHED: tuple[SearchTask, ...] = (QBE,)
#: The names of all tasks.
TASKS = (*(task.name for task in _TRAINED), *(task.name for task in _SEARCHED))


def run_task(
    name: str,
    features: FeatureSource,
    manifest: Manifest,
    budget: TaskBudget,
    seeds: Sequence[int] = (1,),
    on_progress: OnProgress | None = None,
) -> TaskResult | NotScorable:
    """`features` of one frozen model scored on one task by the mini protocol: official head, `budget`'s steps.

    The learning rate is the one that is best on dev with the first seed; the other seeds train with that one. Test is
    seen once, by the selected parameters of every seed. Raises UserError for an unknown task or a store that does not
    hold the manifest's utterances; labels that are missing make a NotScorable.
    """
    start = time.perf_counter()
    try:
        for trained in _TRAINED:
            if trained.name == name:
                return _train(trained, trained.bind(features, manifest, budget), budget, seeds, on_progress, start)
        for searched in _SEARCHED:
            if searched.name == name:
                return _search(searched, features, manifest, start)
    except MissingLabels as missing:
        return NotScorable(name, str(missing))
    raise UserError(f"superb task {name!r}: not one of {', '.join(TASKS)}")


def _train(
    task: Task,
    learner: Learner,
    budget: TaskBudget,
    seeds: Sequence[int],
    on_progress: OnProgress | None,
    start: float,
) -> TaskResult:
    if not budget.steps or not budget.learning_rates:
        raise UserError(f"superb.tasks.{task.name}: needs steps above 0 and at least one of learning_rates")
    searched = fit(learner, task, budget, budget.learning_rates, seeds[0], on_progress)
    chosen = _best(searched, task.selection)
    runs = [chosen]
    for seed in seeds[1:]:
        runs += fit(learner, task, budget, (chosen.learning_rate,), seed, on_progress)
    return _result(task, learner, searched, runs, budget, seeds, start)


def _search(task: SearchTask, features: FeatureSource, manifest: Manifest, start: float) -> TaskResult:
    found = task.search(features, manifest)
    layers = len(found.dev)
    return TaskResult(
        task=task.name,
        protocol="mini",
        metrics={found.metric: summarise([found.test])},
        dev={found.metric: found.dev[found.layer]},
        learning_rate=None,
        candidates=tuple(Candidate(float(layer), value) for layer, value in enumerate(found.dev)),
        layer_weights=tuple(float(layer == found.layer) for layer in range(layers)),
        steps=0,
        selected_steps=(),
        seconds=time.perf_counter() - start,
        num_train=0,
        num_dev=found.num_dev,
        num_test=found.num_test,
        seeds=(),
    )


def _best(fitted: Sequence[Fitted], selection: Selection) -> Fitted:
    best = fitted[0]
    for other in fitted[1:]:
        if selection.is_better(other.dev, best.dev):
            best = other
    return best


@torch.no_grad()
def _result(
    task: Task,
    learner: Learner,
    searched: Sequence[Fitted],
    runs: Sequence[Fitted],
    budget: TaskBudget,
    seeds: Sequence[int],
    start: float,
) -> TaskResult:
    measures = [learner.evaluate([run.head], "test")[0] for run in runs]
    shares = [s.shares().numpy() for run in runs for s in run.head.modules() if isinstance(s, LayerSum)]
    return TaskResult(
        task=task.name,
        protocol="mini",
        metrics={name: summarise([m[name] for m in measures]) for name in measures[0]},
        dev={task.selection.metric: float(np.mean([run.dev for run in runs]))},
        learning_rate=runs[0].learning_rate,
        candidates=tuple(Candidate(f.learning_rate, f.dev) for f in searched),
        layer_weights=tuple(float(x) for x in np.mean(shares, axis=0)),
        steps=budget.steps,
        selected_steps=tuple(run.step for run in runs),
        seconds=time.perf_counter() - start,
        num_train=learner.num_train,
        num_dev=learner.num_dev,
        num_test=learner.num_test,
        seeds=tuple(seeds),
    )
