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
from fithubert.superb.protocol import Candidate, Learner, MissingLabels, NotScorable, Selection, Task, TaskResult
from fithubert.superb.tasks.er import ER
from fithubert.superb.tasks.ic import IC
from fithubert.superb.tasks.ks import KS
from fithubert.superb.tasks.pr import PR
from fithubert.superb.tasks.sid import SID
from fithubert.superb.train import Fitted, OnProgress, fit

#: Every task, by name.
TASKS: dict[str, Task] = {task.name: task for task in (PR, KS, SID, ER, IC)}


def find_task(name: str) -> Task:
    """The declaration of a task; raises UserError with the list of names where there is none such."""
    if name not in TASKS:
        raise UserError(f"superb task {name!r}: not one of {', '.join(TASKS)}")
    return TASKS[name]


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
    task = find_task(name)
    start = time.perf_counter()
    try:
        learner = task.bind(features, manifest, budget)
    except MissingLabels as missing:
        return NotScorable(name, str(missing))
    searched = fit(learner, task.selection, budget, budget.learning_rates, seeds[0], on_progress)
    chosen = _best(searched, task.selection)
    runs = [chosen]
    for seed in seeds[1:]:
        runs += fit(learner, task.selection, budget, (chosen.learning_rate,), seed, on_progress)
    return _result(task, learner, searched, runs, budget, seeds, start)


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
