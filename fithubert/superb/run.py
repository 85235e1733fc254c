"""Score one model on one task: train heads on its frozen features, keep the best step on dev, report the test split."""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import OfficialQuirks, TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.devices import choose_device, devices_in_use
from fithubert.errors import UserError
from fithubert.records import Candidate, Pooling, SuperbMetrics
from fithubert.store.read import FeatureStore
from fithubert.superb.heads import LayerSum
from fithubert.superb.learners import (
    DEFAULT_OPTIONS,
    BoundLearner,
    Head,
    Learner,
    MissingLabels,
    OnProgress,
    RunOptions,
    TrainedHead,
)
from fithubert.superb.learners.ctc import ASR, PR, SF
from fithubert.superb.learners.diarisation import SD
from fithubert.superb.learners.pooled import ER, IC, KS, SID
from fithubert.superb.learners.search import QBE, QueryLearner
from fithubert.superb.learners.verification import ASV
from fithubert.superb.metrics import Measure, Score, score_fields, summarise
from fithubert.superb.official import check_supported, list_departures, official_learner
from fithubert.tasks import Metric

#: The registry: task -> its learner. A task of one's own is a file in `learners/` and an entry here.
LEARNERS: dict[str, Learner[Any] | QueryLearner] = {
    learner.name: learner for learner in (PR, ASR, KS, QBE, SID, ASV, SD, ER, IC, SF)
}


def find_learner(task: str) -> Learner[Any] | QueryLearner:
    """The learner of `task`. Raises UserError with the names of all tasks if there is none."""
    if task not in LEARNERS:
        raise UserError(f"superb task {task!r}: not one of {', '.join(LEARNERS)}")
    return LEARNERS[task]


def task_kind(task: str) -> str | None:
    """The kind of utterances that a task reads; None for one that reads several. Raises UserError for no task."""
    return getattr(find_learner(task), "kind", None)


def keeps_head(task: str) -> bool:
    """Whether `run_task` gives a trained head of `task` to `on_head`. Raises UserError for no task."""
    return find_learner(task).pooling is not None


def run_task(
    name: str,
    features: FeatureStore,
    manifest: Manifest,
    budget: TaskBudget,
    seeds: Sequence[int] = (1,),
    quirks: OfficialQuirks | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
) -> SuperbMetrics:
    """`features` of one frozen model scored on one task: official head, `budget`'s steps.

    By the mini protocol, or, with `quirks`, by the official one, whose result lists its departures. The learning rate
    is the one that is best on dev with the first seed; the other seeds train with that one. Test is evaluated once, by
    the selected parameters of every seed; a value that the official protocol selects on test is reported under another
    name. With missing labels, or quirks that stored features do not allow, the result has a reason instead of scores.
    The caller adds the names of the model and the corpus. Raises UserError for an unknown task or a store that lacks
    utterances of the manifest.
    """
    start = time.perf_counter()
    learner, outputs, manifest = find_learner(name), None, manifest.for_task(name)
    try:
        if quirks is not None:
            learner = official_learner(learner, quirks)
            check_supported(name, manifest, quirks)
        if isinstance(learner, QueryLearner):
            result = learner.search(features, manifest)
        else:
            bound = learner.bind(features, manifest, budget, replace(options, device=choose_device(options.device)))
            outputs = bound.num_outputs
            result = _train(learner, bound, budget, seeds, options)
    except MissingLabels as missing:
        return SuperbMetrics(name, "", {}, reason=str(missing))
    result = replace(result, seconds=time.perf_counter() - start)
    if quirks is None:
        return result
    return replace(result, protocol="official", departures=list_departures(name, budget, quirks, outputs))


def _train(
    learner: Learner[Head],
    bound: BoundLearner[Head],
    budget: TaskBudget,
    seeds: Sequence[int],
    options: RunOptions,
) -> SuperbMetrics:
    if not budget.steps or not budget.learning_rates:
        raise UserError(f"superb.tasks.{learner.name}: needs steps above 0 and at least one of learning_rates")
    # The head of every learning rate with the first seed, of the selected one with the others.
    fitted: list[list[HeadRun[Head]]] = []
    runs: list[HeadRun[Head]] = []
    for number, seed in enumerate(seeds):

        def show(step: int, steps: int, done: int = number) -> None:
            if options.on_progress is not None:
                options.on_progress(done * steps + step, len(seeds) * steps)

        rates = (runs[0].learning_rate,) if runs else budget.learning_rates
        fitted.append(fit(bound, learner, budget, rates, seed, show))
        runs.append(_find_best(fitted[-1], learner.selection))
    with torch.no_grad():
        measures = [bound.evaluate([run.head], "test")[0] for run in runs]
        shares = np.mean([_layer_shares(run.head) for run in runs], axis=0)
    on_test = _summarise(measures)
    if options.on_head is not None and learner.pooling is not None:
        options.on_head(_best_head(learner, learner.pooling, bound.output_labels, seeds, runs, measures))
    if learner.training.test_selection:
        # Of the learning rate that dev chose: only the step is selected on test.
        selected = [run.on_test for run in runs if run.on_test is not None]
        on_test[f"{learner.selection.name}_test_selected"] = summarise(selected)
    return SuperbMetrics(
        task=learner.name,
        model="",
        **score_fields(on_test, _summarise([run.on_dev for run in runs])),
        dev={learner.selection.name: float(np.mean([run.dev for run in runs]))},
        chance=bound.chance,
        learning_rate=runs[0].learning_rate,
        candidates=tuple(Candidate(run.learning_rate, run.dev) for run in fitted[0]),
        layer_weights=tuple(float(share) for share in shares),
        steps=budget.steps,
        selected_steps=tuple(run.step for run in runs),
        seeds=tuple(seeds),
        num_train=bound.num_train,
        num_dev=bound.num_dev,
        num_test=bound.num_test,
    )


def _best_head(
    learner: Learner[Head],
    pooling: Pooling,
    labels: tuple[tuple[str, ...], ...],
    seeds: Sequence[int],
    runs: Sequence["HeadRun[Head]"],
    measures: Sequence[dict[str, Measure]],
) -> TrainedHead:
    best = _find_best(runs, learner.selection)
    index = runs.index(best)
    return TrainedHead(
        head=best.head,
        pooling=pooling,
        labels=labels,
        seed=seeds[index],
        dev={learner.selection.name: best.dev},
        test={name: measure.value for name, measure in measures[index].items()},
    )


class HeadRun(Generic[Head]):
    """One head and its training; at the end, the head has the parameters of its best step on dev.

    `step`, `on_dev`, `dev`: the best step, its measures on dev and the selecting one's value. `on_test`: the best
    measure on test of all evaluations, if the task reports it. `skipped` (): the number of skipped steps, on the head's
    device.
    """

    def __init__(self, learning_rate: float, head: Head, learner: Learner[Head]) -> None:
        self.learning_rate, self.head = learning_rate, head
        self.dev, self.step = float("nan"), 0
        #: Mean training loss since the last evaluation.
        self.loss, self._losses = float("nan"), torch.zeros(2, device=next(head.parameters()).device)
        self.on_dev: dict[str, Measure] = {}
        self.on_test: Measure | None = None
        self._state: dict[str, Tensor] = {}
        self._clip = learner.training.gradient_clip
        parameters = list(head.parameters())
        self._on_gpu = parameters[0].is_cuda
        self._optimiser = learner.training.optimiser(parameters, lr=learning_rate, fused=self._on_gpu or None)
        self.skipped = torch.zeros((), device=parameters[0].device)

    def count_loss(self, loss: Tensor) -> None:
        """Count the training loss of a batch."""
        self._losses += torch.stack([loss.detach().float(), torch.ones_like(loss)])

    def update(self) -> None:
        """One clipped step, or none if the gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(self.head.parameters(), self._clip)
        skip = (~norm.isfinite()).float()
        self.skipped += skip
        if self._on_gpu:
            # Fused optimisers read this as they do for a gradient scaler: no copy from the GPU is needed.
            self._optimiser.found_inf = skip  # type: ignore[attr-defined]
        if self._on_gpu or not skip:
            self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def keep_if_better(self, measures: dict[str, Measure], step: int, selection: Metric) -> None:
        """Keep the parameters if the selecting one of `measures` on dev is the first or strictly better than before."""
        value = measures[selection.name].value
        self.loss = float(self._losses[0] / self._losses[1])
        self._losses.zero_()
        if selection.is_better(value, self.dev if self._state else None):
            self.dev, self.step, self.on_dev = value, step, measures
            self._state = {name: tensor.clone() for name, tensor in self.head.state_dict().items()}

    def finish(self) -> None:
        """Restore the parameters of the best step."""
        self.head.load_state_dict(self._state)
        self.head.eval()


def fit(
    bound: BoundLearner[Head],
    learner: Learner[Head],
    budget: TaskBudget,
    learning_rates: Sequence[float],
    seed: int,
    on_progress: OnProgress | None = None,
) -> list[HeadRun[Head]]:
    """One trained head per learning rate, all with the same initial parameters and batches.

    Each head is trained as if it were alone: own gradient clipping, own optimiser state, own best step. A step with a
    gradient that is not finite is skipped for that head alone, as s3prl does. After `budget.search_steps` only the head
    that is best on dev is trained further.
    """
    with torch.random.fork_rng(devices_in_use()):
        torch.manual_seed(seed)
        first = bound.new_head()
        runs = [HeadRun(rate, deepcopy(first), learner) for rate in learning_rates]
        for part in (part for run in runs for part in run.head.modules() if isinstance(part, nn.RNNBase)):
            # A copy's weights lie apart in the memory of a GPU, which is slow.
            part.flatten_parameters()
        active = list(runs)
        bound.start_epochs(seed, budget.batch)
        for step in range(1, budget.steps + 1):
            for _ in range(budget.accumulate):
                losses = bound.losses([run.head for run in active])
                (losses.sum() / budget.accumulate).backward()
                for run, loss in zip(active, losses, strict=True):
                    run.count_loss(loss)
            for run in active:
                run.update()
            if step % budget.eval_every == 0 or step in (budget.steps, budget.search_steps):
                _evaluate(bound, learner, active, step)
                if on_progress is not None:
                    on_progress(step, budget.steps)
            if step == budget.search_steps:
                active = [_find_best(active, learner.selection)]
    for run in runs:
        run.finish()
    return runs


@torch.no_grad()
def _evaluate(bound: BoundLearner[Head], learner: Learner[Head], runs: Sequence[HeadRun[Head]], step: int) -> None:
    """Evaluate every head on dev, and on test if the task reports the best value on test too."""
    selection, heads = learner.selection, [run.head for run in runs]
    for head in heads:
        head.eval()
    if learner.training.test_selection:
        for run, measures in zip(runs, bound.evaluate(heads, "test"), strict=True):
            found = measures[selection.name]
            if selection.is_better(found.value, run.on_test.value if run.on_test else None):
                run.on_test = found
    for run, measures in zip(runs, bound.evaluate(heads, "dev"), strict=True):
        run.keep_if_better(measures, step, selection)
        run.head.train()


def _find_best(runs: Sequence[HeadRun[Head]], selection: Metric) -> HeadRun[Head]:
    """The run that is best on dev; of several that are, the one with the lowest training loss.

    After a few steps many recurrent heads give the same constant answer, whatever they have learnt.
    """
    return min(runs, key=lambda run: (run.dev if selection.lower else -run.dev, run.loss))


def _summarise(measures: Sequence[dict[str, Measure]]) -> dict[str, Score]:
    """Every metric of a split from its measure under every seed."""
    return {name: summarise([of_seed[name] for of_seed in measures]) for name in measures[0]}


def _layer_shares(head: nn.Module) -> np.ndarray:
    """(layer,) the share of each layer in the weighted sum of a head."""
    (layer_sum,) = (part for part in head.modules() if isinstance(part, LayerSum))
    shares: np.ndarray = layer_sum.shares().cpu().numpy()
    return shares
