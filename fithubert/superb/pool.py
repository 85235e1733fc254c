"""The scores of one model from several runs, each with a training seed of its own, as one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fithubert.errors import UserError
from fithubert.files import digest_json
from fithubert.records import ModelScores, SuperbMetrics
from fithubert.superb.metrics import Score, combine, score_fields

#: What must be equal for the scores of two runs to be of the same thing.
_ALIKE = ("protocol", "corpus", "num_train", "num_dev", "num_test", "departures")


def pool_scores(runs: Sequence[ModelScores]) -> ModelScores:
    """The scores of one model on the tasks that all `runs` have, over the seeds of all runs.

    The result is that of one run whose heads have all the seeds, except that every run has chosen its own learning
    rate; the first run's is recorded. Raises UserError if two runs share a seed or differ in corpus or protocol.
    """
    tasks = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    return ModelScores(runs[0].model, {task: _pool([run.tasks[task] for run in runs]) for task in tasks})


def _pool(runs: Sequence[SuperbMetrics]) -> SuperbMetrics:
    first, title = runs[0], f"{runs[0].model} on {runs[0].task}"
    for run in runs[1:]:
        differing = [name for name in _ALIKE if getattr(run, name) != getattr(first, name)]
        if differing or (run.reason is None) != (first.reason is None):
            raise UserError(f"{title}: the runs differ in {differing[0] if differing else 'what could be scored'}")
    if first.reason is not None:
        return first
    seeds = tuple(seed for run in runs for seed in run.seeds)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{title}: two runs have the same seed ({', '.join(map(str, seeds))})")
    scores: dict[str, dict[str, Score]] = {"test": {}, "dev": {}}
    for key in first.resamples:
        split, _, name = key.partition("/")
        if all(key in run.resamples for run in runs):
            scores[split][name] = combine(_values(runs, key), np.array([run.resamples[key] for run in runs]))
    if set(scores["test"]) != set(first.metrics):
        raise UserError(f"{title}: a run has no resamples; run `fithubert superb {first.model}` there")
    return replace(
        first,
        **score_fields(scores["test"], scores["dev"]),
        dev={name: float(np.mean([run.dev[name] for run in runs])) for name in first.dev},
        layer_weights=tuple(np.mean([run.layer_weights for run in runs], axis=0).tolist()),
        selected_steps=tuple(step for run in runs for step in run.selected_steps),
        seeds=seeds,
        seconds=sum(run.seconds or 0.0 for run in runs),
        identity=digest_json([run.identity for run in runs]),
    )


def _values(runs: Sequence[SuperbMetrics], key: str) -> list[float]:
    """The metric `SPLIT/NAME` of every run; on dev, where only the selecting one is recorded, the resamples' mean."""
    split, _, name = key.partition("/")
    if split == "test":
        return [run.metrics[name] for run in runs]
    return [run.dev.get(name, float(np.mean(run.resamples[key]))) for run in runs]
