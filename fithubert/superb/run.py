"""Score one model on one task: read its frozen features, train the head, report the test split."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from fithubert.config.superb import OfficialQuirks, TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.records import Candidate
from fithubert.store.read import FeatureStore
from fithubert.superb.fit import (
    DEFAULT_OPTIONS,
    BoundLearner,
    Fitted,
    Head,
    Learner,
    MissingLabels,
    OnProgress,
    RunOptions,
    find_best,
    fit,
)
from fithubert.superb.heads import LayerSum
from fithubert.superb.learners import find_learner
from fithubert.superb.learners.search import QueryLearner
from fithubert.superb.metrics import Measure, Score, summarise
from fithubert.superb.official import check_supported, list_departures, official_learner
from fithubert.tasks import Metric


@dataclass(frozen=True)
class NotScorable:
    """A task that this corpus cannot score, and the reason; the pipeline continues and the report shows it."""

    task: str
    reason: str


@dataclass(frozen=True)
class TaskResult:
    """One task scored for one model.

    `metrics`: on test, by name (per, wer, acc, eer, der, mtwv, f1, cer; percent). `dev`: the metric that selects, mean
    over seeds. `learning_rate` was chosen on dev with the first seed among `candidates`; None for a task that trains
    nothing. `layer_weights`: softmax of the learnt weights, layer 0 first, mean over seeds. `steps`: optimiser steps of
    every run; `selected_steps`: the step whose parameters were kept, per seed. `seconds`: wall time with reading.
    `departures`: how an official result differs from the official protocol; always empty under the mini protocol.
    """

    task: str
    protocol: str
    metrics: dict[str, Score]
    dev: dict[str, float]
    learning_rate: float | None
    candidates: tuple[Candidate, ...]
    layer_weights: tuple[float, ...]
    steps: int
    selected_steps: tuple[int, ...]
    seconds: float
    num_train: int
    num_dev: int
    num_test: int
    seeds: tuple[int, ...]
    departures: tuple[str, ...] = ()


def run_task(
    name: str,
    features: FeatureStore,
    manifest: Manifest,
    budget: TaskBudget,
    seeds: Sequence[int] = (1,),
    quirks: OfficialQuirks | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
) -> TaskResult | NotScorable:
    """`features` of one frozen model scored on one task: official head, `budget`'s steps.

    By the mini protocol, or, with `quirks`, by the official one, whose result lists its departures. The learning rate
    is the one that is best on dev with the first seed; the other seeds train with that one. Test is evaluated once, by
    the selected parameters of every seed; a value that the official protocol selects on test is reported under another
    name. Missing labels, and quirks that stored features do not allow, give a NotScorable. Raises UserError for an
    unknown task or a store that lacks utterances of the manifest.
    """
    start = time.perf_counter()
    learner, outputs = find_learner(name), None
    try:
        if quirks is not None:
            check_supported(name, manifest, quirks)
            learner = official_learner(name, quirks)
        if isinstance(learner, QueryLearner):
            result = _search(learner, features, manifest)
        else:
            bound = learner.bind(features, manifest, budget, options)
            outputs = bound.num_outputs
            result = _train(learner, bound, budget, seeds, options.on_progress)
    except MissingLabels as missing:
        return NotScorable(name, str(missing))
    result = replace(result, seconds=time.perf_counter() - start)
    if quirks is None:
        return result
    return replace(result, protocol="official", departures=list_departures(name, budget, quirks, outputs))


def _search(learner: QueryLearner, features: FeatureStore, manifest: Manifest) -> TaskResult:
    found = learner.search(features, manifest)
    layers = len(found.dev)
    return TaskResult(
        task=learner.name,
        protocol="mini",
        metrics={learner.selection.name: summarise([found.test])},
        dev={learner.selection.name: found.dev[found.layer]},
        learning_rate=None,
        candidates=tuple(Candidate(float(layer), value) for layer, value in enumerate(found.dev)),
        layer_weights=tuple(float(layer == found.layer) for layer in range(layers)),
        steps=0,
        selected_steps=(),
        seconds=0.0,
        num_train=0,
        num_dev=found.num_dev,
        num_test=found.num_test,
        seeds=(),
    )


def _train(
    learner: Learner[Head],
    bound: BoundLearner[Head],
    budget: TaskBudget,
    seeds: Sequence[int],
    on_progress: OnProgress | None,
) -> TaskResult:
    if not budget.steps or not budget.learning_rates:
        raise UserError(f"superb.tasks.{learner.name}: needs steps above 0 and at least one of learning_rates")

    def show(seed: int) -> Callable[[int, int], None] | None:
        if on_progress is None:
            return None
        return lambda step, steps: on_progress(seed * steps + step, len(seeds) * steps)

    searched = fit(bound, learner, budget, budget.learning_rates, seeds[0], show(0))
    runs = [find_best(searched, learner.selection)]
    for number, seed in enumerate(seeds[1:], start=1):
        runs += fit(bound, learner, budget, (runs[0].learning_rate,), seed, show(number))
    return TaskResult(
        task=learner.name,
        protocol="mini",
        metrics=_score(learner, bound, searched, runs),
        dev={learner.selection.name: float(np.mean([run.dev for run in runs]))},
        learning_rate=runs[0].learning_rate,
        candidates=tuple(Candidate(f.learning_rate, f.dev) for f in searched),
        layer_weights=_mean_weights([run.head for run in runs]),
        steps=budget.steps,
        selected_steps=tuple(run.step for run in runs),
        seconds=0.0,
        num_train=bound.num_train,
        num_dev=bound.num_dev,
        num_test=bound.num_test,
        seeds=tuple(seeds),
    )


@torch.no_grad()
def _score(
    learner: Learner[Head],
    bound: BoundLearner[Head],
    searched: Sequence[Fitted[Head]],
    runs: Sequence[Fitted[Head]],
) -> dict[str, Score]:
    measures = [bound.evaluate([run.head], "test")[0] for run in runs]
    metrics = {name: summarise([m[name] for m in measures]) for name in measures[0]}
    if learner.training.test_selection:
        on_test = [_best_on_test(learner.selection, fitted) for fitted in (searched, *([run] for run in runs[1:]))]
        metrics[f"{learner.selection.name}_test_selected"] = summarise(on_test)
    return metrics


def _best_on_test(selection: Metric, fitted: Sequence[Fitted[Head]]) -> Measure:
    """The best measure on test of one seed: of all learning rates with the first seed, of one with the others."""
    found = [run.on_test for run in fitted if run.on_test is not None]
    return (min if selection.lower else max)(found, key=lambda measure: measure.value)


@torch.no_grad()
def _mean_weights(heads: Sequence[nn.Module]) -> tuple[float, ...]:
    """(layer,) the mean over heads of the share of each layer."""
    shares = [part.shares().cpu().numpy() for head in heads for part in head.modules() if isinstance(part, LayerSum)]
    return tuple(float(share) for share in np.mean(shares, axis=0))
