"""Score one model on one task: read its frozen features, train the head, report the test split."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fithubert.config.superb import OfficialQuirks, TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.superb.bank import FeatureSource
from fithubert.superb.fit import Fitted, OnProgress, fit
from fithubert.superb.heads import LayerSum
from fithubert.superb.learners.diarisation import SD
from fithubert.superb.learners.pooled import ER, IC, KS, SID
from fithubert.superb.learners.recognition import ASR, PR, SF
from fithubert.superb.learners.search import QBE
from fithubert.superb.learners.verification import ASV
from fithubert.superb.metrics import Measure, summarise
from fithubert.superb.official import check_supported, list_departures, official_tasks
from fithubert.superb.protocol import (
    DEFAULT_RESOURCES,
    Candidate,
    Learner,
    MissingLabels,
    NotScorable,
    Resources,
    SearchTask,
    Task,
    TaskResult,
)
from fithubert.tasks import Metric

#: Tasks whose heads are trained: the entry that a new one needs.
TRAINED: tuple[Task, ...] = (PR, ASR, KS, SID, ASV, SD, ER, IC, SF)
_SEARCHED: tuple[SearchTask, ...] = (QBE,)
#: The names of all tasks.
TASKS = (*(task.name for task in TRAINED), *(task.name for task in _SEARCHED))


def task_kind(name: str) -> str | None:
    """The kind of utterances that a task reads; None for one that reads several. Raises UserError for no task."""
    if name not in TASKS:
        raise UserError(f"superb task {name!r}: not one of {', '.join(TASKS)}")
    return next((getattr(task, "kind", None) for task in TRAINED if task.name == name), None)


def run_task(
    name: str,
    features: FeatureSource,
    manifest: Manifest,
    budget: TaskBudget,
    seeds: Sequence[int] = (1,),
    on_progress: OnProgress | None = None,
    quirks: OfficialQuirks | None = None,
    resources: Resources = DEFAULT_RESOURCES,
) -> TaskResult | NotScorable:
    """`features` of one frozen model scored on one task: official head, `budget`'s steps.

    By the mini protocol, or, with `quirks`, by the official one, whose result lists what it departs in. The learning
    rate is the one that is best on dev with the first seed; the other seeds train with that one. Test is seen once, by
    the selected parameters of every seed; what the official protocol selects on test is reported under another name.
    `resources` say where heads are trained and what may be held in memory. Raises UserError for an unknown task or a
    store that does not hold the manifest's utterances; labels that are missing, and what cannot be followed on stored
    features, make a NotScorable.
    """
    start = time.perf_counter()
    try:
        if quirks is not None:
            check_supported(name, manifest, quirks)
        for trained in TRAINED if quirks is None else official_tasks(quirks):
            if trained.name == name:
                learner = trained.bind(features, manifest, budget, resources)
                result = _train(trained, learner, budget, seeds, on_progress, start)
                return _name_protocol(result, budget, quirks, learner.num_outputs)
        for searched in _SEARCHED:
            if searched.name == name:
                return _name_protocol(_search(searched, features, manifest, start), budget, quirks, None)
    except MissingLabels as missing:
        return NotScorable(name, str(missing))
    raise UserError(f"superb task {name!r}: not one of {', '.join(TASKS)}")


def _name_protocol(
    result: TaskResult, budget: TaskBudget, quirks: OfficialQuirks | None, outputs: int | None
) -> TaskResult:
    if quirks is None:
        return result
    departures = list_departures(result.task, budget, quirks, outputs)
    return replace(result, protocol="official", departures=departures)


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


def _best(fitted: Sequence[Fitted], selection: Metric) -> Fitted:
    best = fitted[0]
    for other in fitted[1:]:
        if selection.is_better(other.dev, best.dev):
            best = other
    return best


def _best_on_test(selection: Metric, searched: Sequence[Fitted], runs: Sequence[Fitted]) -> list[Measure]:
    """The best measure on test of every seed: of all learning rates with the first, of the chosen one with others."""
    best: list[Measure] = []
    for candidates in (searched, *([run] for run in runs[1:])):
        found = [fitted.on_test for fitted in candidates if fitted.on_test is not None]
        best.append((min if selection.lower else max)(found, key=lambda measure: measure.value))
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
    metrics = {name: summarise([m[name] for m in measures]) for name in measures[0]}
    if task.training.test_selection:
        metrics[f"{task.selection.name}_test_selected"] = summarise(_best_on_test(task.selection, searched, runs))
    shares = [s.shares().cpu().numpy() for run in runs for s in run.head.modules() if isinstance(s, LayerSum)]
    return TaskResult(
        task=task.name,
        protocol="mini",
        metrics=metrics,
        dev={task.selection.name: float(np.mean([run.dev for run in runs]))},
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
