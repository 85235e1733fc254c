"""PR, KS, SID and IC by the official protocol on the teacher's stored features: this package and a plain restatement.

`python -m benchmarks.restated`: same features, seeds and steps (`benchmarks.plain_superb`); the workspace holds
data/extract/teacher. Noise is the deviation of the metric over seeds.
"""

import argparse
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_superb import PlainTraining, hear_stored, plain_classes, plain_phones
from benchmarks.tables import write_tables
from fithubert.config.superb import OfficialQuirks, TaskBudget, official_budgets
from fithubert.data.manifest import Manifest
from fithubert.store.read import FeatureStore
from fithubert.superb.official import official_learner
from fithubert.superb.run import LEARNERS, fit
from fithubert.workspace import Workspace

_NAMES = ("pr", "ks", "sid", "ic")


def train_ours(name: str, store: FeatureStore, manifest: Manifest, budget: TaskBudget, seed: int) -> float:
    """The metric on test by this package."""
    task = official_learner(LEARNERS[name], OfficialQuirks())
    learner = task.bind(store, manifest, budget)
    [fitted] = fit(learner, task, budget, budget.learning_rates[:1], seed)
    with torch.no_grad():
        return learner.evaluate([fitted.head], "test")[0][task.selection.name].value


def train_plainly(name: str, store: FeatureStore, manifest: Manifest, budget: TaskBudget, seed: int) -> float:
    """The metric on test by the restatement."""
    task = plain_phones(manifest) if name == "pr" else plain_classes(name, manifest)

    @cache
    def read(row_id: str) -> list[Tensor]:
        hidden = store.read(row_id).hidden_states
        return [hidden[layer] for layer in sorted(hidden)]

    training = PlainTraining(
        task, hear_stored(read), budget.batch, budget.accumulate, budget.learning_rates[0], seed=seed
    )
    return training.run(budget.steps, budget.eval_every)


def main() -> None:
    """Measure and write reports/benchmarks/restated.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    manifest, store = workspace.load_manifest(), FeatureStore.open(workspace.extracted("teacher"))
    rows: list[dict[str, Any]] = []
    for name in _NAMES:
        changes = {"steps": options.steps, "eval_every": options.steps // 3}
        budget = official_budgets()[name].model_copy(update=changes)
        seeds = range(1, options.seeds + 1)
        ours = [train_ours(name, store, manifest, budget, seed) for seed in seeds]
        plain = [train_plainly(name, store, manifest, budget, seed) for seed in seeds]
        rows.append(
            {
                "task": name,
                "ours": statistics.mean(ours),
                "restated": statistics.mean(plain),
                "largest difference": max(abs(a - b) for a, b in zip(ours, plain, strict=True)),
                "noise": statistics.stdev(ours),
            }
        )
        print(rows[-1], flush=True)
    words = (
        f"The embedded teacher on the embedded corpus, test, percent (PR: error rate, else accuracy), {options.steps} "
        f"steps, means over {options.seeds} seeds. Difference: of one seed. Noise: standard deviation over seeds."
    )
    write_tables("restated", "Heads trained here and by a plain restatement of the protocol", {words: rows})


if __name__ == "__main__":
    main()
