"""What stored features save in SUPERB's PR: official heads and batches on them, and in a loop that runs the upstream.

The loop is `benchmarks.plain_superb` on a live upstream, as s3prl works: padded batches in every step, utterances one
at a time in every evaluation. Its steps are timed before, between and after our extraction and our training, so that
whatever else the machine does meets both. `mini` is trained to the end both ways; of the same at HuBERT Base's size the
loop's steps are a sample unless `--whole`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_superb import Hear, PlainTraining, plain_phones
from benchmarks.tables import write_tables
from benchmarks.widen import widen_to_base
from fithubert.config.superb import OfficialQuirks, TaskBudget, official_budgets
from fithubert.data.manifest import Manifest
from fithubert.frames import pad_waveforms
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import prepare_teacher
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.superb.learners.ctc import PR
from fithubert.superb.official import official_learner
from fithubert.superb.run import fit
from fithubert.workspace import Workspace

_SEED = 1337
_OFFICIAL = official_budgets()["pr"]
#: Of the extraction, as `features.batch_seconds` of params.
_BATCH_SECONDS = 20.0
#: Of SUPERB's grid of powers of ten the best on dev after these few steps. At the published 1e-2 a disturbance of
#: features by a millionth moves the PER of step 200 by 0.7: no two programs would agree.
_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Costs:
    """Seconds: once, of a step, of an evaluation on dev and on test; and the PER where the training was whole."""

    once: float
    step: float
    dev: float
    test: float
    per: float | None
    #: The measured wall time of everything, where it was whole.
    total: float | None

    def wall(self, steps: int, evaluations: int) -> float:
        """Seconds of a training of so many steps and evaluations on dev, and one on test."""
        return self.once + steps * self.step + evaluations * self.dev + self.test


def timed(run: Callable[[], object]) -> float:
    """Seconds of wall time."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def hear_live(teacher: HubertTeacher, manifest: Manifest) -> Hear:
    """The upstream on padded waveforms that are read anew."""
    utterances = {utterance.id: utterance for utterance in manifest}

    def hear(ids: Sequence[str]) -> tuple[Sequence[Tensor], Sequence[int]]:
        waveforms, lengths = pad_waveforms([manifest.read(utterances[row_id]) for row_id in ids])
        with torch.no_grad():
            output = teacher.model(waveforms, lengths)
        return output.hidden_states, output.lengths.tolist()

    return hear


class LiveLoop:
    """The plain loop, run in pieces; every piece's seconds are kept."""

    def __init__(self, teacher: HubertTeacher, manifest: Manifest, budget: TaskBudget) -> None:
        self.budget = budget
        self.hear = hear_live(teacher, manifest)
        self.training = PlainTraining(
            plain_phones(manifest), self.hear, budget.batch, budget.accumulate, budget.learning_rates[0], _SEED
        )
        self.steps: list[float] = []
        self.dev: list[float] = []

    def advance(self, steps: int) -> None:
        """So many more steps, with the evaluations that fall due."""
        for _ in range(min(steps, self.budget.steps - len(self.steps))):
            self.steps.append(timed(self.training.step))
            if len(self.steps) % self.budget.eval_every == 0 or len(self.steps) == self.budget.steps:
                self.dev.append(timed(self.training.keep_best))

    def finish(self) -> Costs:
        """The costs; the error rate where all steps were made."""
        whole = len(self.steps) == self.budget.steps
        if not self.dev:
            self.dev.append(timed(self.training.keep_best))
        found: list[float] = []
        test = timed(lambda: found.append(self.training.score(self.training.best, "test")))
        return Costs(
            0.0,
            statistics.mean(self.steps),
            statistics.mean(self.dev),
            test,
            found[0] if whole else None,
            sum(self.steps) + sum(self.dev) + test if whole else None,
        )


def train_on_stored(store: FeatureStore, manifest: Manifest, budget: TaskBudget, extraction: float) -> Costs:
    """Our way after the extraction: bind, train and score test; one more evaluation of each split is for the costs."""
    task = official_learner(PR, OfficialQuirks())
    begun = time.perf_counter()
    learner = task.bind(store, manifest, budget)
    bound = time.perf_counter() - begun
    [fitted] = fit(learner, task, budget, budget.learning_rates, _SEED)
    trained = time.perf_counter() - begun
    with torch.no_grad():
        per = learner.evaluate([fitted.head], "test")[0]["per"].value
        total = time.perf_counter() - begun
        dev = timed(lambda: learner.evaluate([fitted.head], "dev"))
    step = (trained - bound - dev * -(-budget.steps // budget.eval_every)) / budget.steps
    return Costs(extraction + bound, step, dev, total - trained, per, extraction + total)


def compare(
    name: str, teacher: HubertTeacher, manifest: Manifest, options: argparse.Namespace, sample: int | None
) -> tuple[Costs, Costs, float]:
    """Our costs, the loop's, and how far the stored features are from live ones: relative error of the worst batch."""
    changes = {"steps": options.steps, "eval_every": options.eval_every, "learning_rates": (options.learning_rate,)}
    budget = _OFFICIAL.model_copy(update=changes)
    loop = LiveLoop(teacher, manifest, budget)
    share = -(-(sample or budget.steps) // 3)
    loop.advance(share)
    with tempfile.TemporaryDirectory() as folder:
        extraction = timed(lambda: _extract(teacher, manifest, Path(folder), options))
        print(f"{name}: extracted in {extraction:.0f} s", flush=True)
        loop.advance(share)
        store = FeatureStore.open(Path(folder))
        ours = train_on_stored(store, manifest, budget, extraction)
        loop.advance(share)
        error = max(_feature_error(loop, store, start) for start in (0, len(store) // 4))
    print(f"{name}: {len(loop.steps)} steps of the loop, {ours}", flush=True)
    return ours, loop.finish(), error


def _extract(teacher: HubertTeacher, manifest: Manifest, folder: Path, options: argparse.Namespace) -> None:
    """Fill the store in `folder`; making ONNX Runtime's graph is part of the cost."""
    ready = prepare_teacher(teacher, "cpu", runtime=options.runtime)
    settings = ExtractSettings(options.codec, batch_seconds=_BATCH_SECONDS, with_waveform=False)
    extract_features(ready, manifest, folder, settings)


def _feature_error(loop: LiveLoop, store: FeatureStore, start: int) -> float:
    """Of a padded batch of the loop against what is stored."""
    ids = [example.id for example in loop.training.task.examples["train"][start : start + 4]]
    hidden, lengths = loop.hear(ids)
    rows = [store.read(row_id).hidden_states for row_id in ids]
    errors = []
    for place, (row, frames) in enumerate(zip(rows, lengths, strict=True)):
        live, stored = torch.stack([h[place, :frames] for h in hidden]), torch.stack([row[k] for k in sorted(row)])
        errors.append(float((live - stored).norm() / live.norm()))
    return max(errors)


def list_wall_times(name: str, ours: Costs, loop: Costs, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per number of steps: wall time of both ways, the ratio and what of it was measured."""
    rows = []
    counts = dict.fromkeys([(options.steps, options.eval_every), (800, 100), (_OFFICIAL.steps, _OFFICIAL.eval_every)])
    for steps, eval_every in counts:
        evaluations = -(-steps // eval_every)
        walls = ours.wall(steps, evaluations), loop.wall(steps, evaluations)
        measured = "nothing"
        if steps == options.steps:
            measured = "both" if loop.total else "ours"
            walls = ours.total or walls[0], loop.total or walls[1]
        rows.append(
            {
                "upstream": name,
                "steps": steps,
                "evaluations": evaluations,
                "ours s": walls[0],
                "loop s": walls[1],
                "ratio": walls[1] / walls[0],
                "measured whole": measured,
            }
        )
    return rows


def main() -> None:
    """Measure and write reports/benchmarks/superb.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="holds data/ as `fithubert prepare` writes it")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 2 x 16 sentences, as the official")
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=_LEARNING_RATE)
    parser.add_argument("--sample", type=int, default=12, help="steps of the loop that are timed at HuBERT Base's size")
    parser.add_argument("--whole", action="store_true", help="the loop makes all steps at HuBERT Base's size too")
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--runtime", default="onnx", choices=("torch", "onnx"), help="of our extraction")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    corpus = Workspace(options.workspace).load_manifest().select(kind="sentence")
    manifest = Manifest(tuple(u for u in corpus if u.split in ("train", "dev", "test")), corpus.root)
    mini = load_teacher("mini")
    assert isinstance(mini, HubertTeacher)
    load = os.getloadavg()[1]
    walls, costs, errors = [], [], []
    for name, teacher in (("mini", mini), ("mini at HuBERT Base's size", widen_to_base(mini))):
        sample = None if options.whole or teacher is mini else options.sample
        ours, loop, error = compare(name, teacher, manifest, options, sample)
        walls += list_wall_times(name, ours, loop, options)
        for way, cost in (("ours", ours), ("loop", loop)):
            row = {"upstream": name, "way": way, "once s": cost.once, "step s": cost.step}
            costs.append({**row, "dev s": cost.dev, "test s": cost.test})
        pers = {"ours PER": ours.per, "loop PER": "-" if loop.per is None else loop.per}
        errors.append({"upstream": name, "steps": options.steps, **pers, "feature error": error})
    seconds = manifest.hours * 3600
    words = (
        f"PR by the official protocol (2 x 16 sentences a step, rate {options.learning_rate:g}) on the embedded "
        f"corpus: {len(manifest.utterances)} sentences, {seconds:.0f} s. Wall time of everything, extraction into the "
        f"store ({options.codec}, run by {options.runtime}) included. What was not measured whole is costs times steps "
        f"and evaluations. Other work on the machine: a load of {load:.1f} before, {os.getloadavg()[1]:.1f} after "
        f"(this one's is up to {options.threads})."
    )
    what = (
        f"Costs: once (extraction, reading), of a step, of one evaluation. At HuBERT Base's size the loop's step is "
        f"the mean of {options.steps if options.whole else options.sample} in three pieces around ours."
    )
    equal = (
        "Test PER both ways from the same seed, and how far stored features are from those of the loop's padded batch."
    )
    write_tables("superb", "SUPERB on stored features", {words: walls, what: costs, equal: errors})


if __name__ == "__main__":
    main()
