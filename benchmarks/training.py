"""What caching saves: an update of the paper-size student on cached targets, on live ones, and in a plain loop.

The student is FitHuBERT at full size with all its heads, the teacher has HuBERT Base's shape and random weights. Every
way takes one update in turn, in one process, so that whatever else the machine does meets all of them alike; ratios are
taken round by round, of CPU seconds (all threads, reading ahead included) and of wall time.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

# Threads that wait for each other must not count as work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F

from benchmarks.store import WideTeacher
from benchmarks.tables import write_tables
from fithubert.config.hints import HintParams
from fithubert.config.params import DistillParams
from fithubert.config.teacher import hubert_base
from fithubert.data.batching import Crop, plan_batches
from fithubert.data.manifest import Manifest
from fithubert.distill.hints import HintLoss
from fithubert.distill.step import Job, Stepper
from fithubert.distill.targets import CachedTargets, LiveTargets, Request, Targets
from fithubert.files import digest
from fithubert.frames import pad_waveforms
from fithubert.importers import load_teacher
from fithubert.models import recipes
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.student import build_student
from fithubert.profile.timing import paired_ratio
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.training import open_fabric
from fithubert.training.updates import PlannedUpdate, prefetch, split_update
from fithubert.workspace import Workspace

CODECS = ("float16", "int8", "pca_int8")
_LAYERS = tuple(range(1, 13))
_FRAMES_A_SECOND = 50


@dataclass(frozen=True)
class Step:
    """One update. Seconds per second of unpadded audio; `wait_share`: of its wall time, spent waiting for data, where
    data are read ahead."""

    wall: float
    cpu: float
    wait_share: float | None


class OurSteps:
    """Updates as the trainer makes them, one at a call, with one batch read ahead meanwhile."""

    def __init__(self, stepper: Stepper, targets: Targets, batches: Sequence[Sequence[Crop]]) -> None:
        self._stepper, self._targets = stepper, targets
        self._plans = iter(pairwise(batches))

    def __call__(self) -> Step:
        """The next update. Its own batch was read before; what is waited for is the batch after it."""
        plan = next(self._plans)
        stream = prefetch((self._targets.read(Request(tuple(crops), _LAYERS)) for crops in plan), 1)
        batch, crops = next(stream), tuple(plan[0])
        update, request = PlannedUpdate(0, 0, 0, crops), Request(crops, _LAYERS)
        job = Job(update, tuple(range(len(_LAYERS))), tuple(split_update(update, 1)), (request,))
        begun, cpu = time.perf_counter(), time.process_time()
        self._stepper.backward(job, [self._targets.finish(batch, request)])
        self._stepper.apply(1e-4)
        done = time.perf_counter()
        next(stream)
        wall, spent = time.perf_counter() - begun, time.process_time() - cpu
        seconds = sum(crop.num_frames for crop in crops) / _FRAMES_A_SECOND
        return Step(wall / seconds, spent / seconds, (wall - (done - begun)) / wall)


class PlainSteps:
    """The loop that one writes first, and that public distillation code has.

    Whole utterances in the order they come in, padded to the longest; the teacher hears the padded batch in every step;
    the loss is the mean over all frames, padding included; AdamW as torch gives it.
    """

    def __init__(self, teacher: HubertTeacher, manifest: Manifest, utterances: int) -> None:
        self._teacher, self._manifest, self._count = teacher, manifest, utterances
        self._student = build_student(recipes.fithubert())
        self._optimizer = torch.optim.AdamW(self._student.parameters(), lr=1e-4)
        self._next = 0

    def __call__(self) -> Step:
        """The next update."""
        begun, cpu = time.perf_counter(), time.process_time()
        chosen = self._manifest.utterances[self._next : self._next + self._count]
        self._next += self._count
        waveforms, lengths = pad_waveforms([self._manifest.read(utterance) for utterance in chosen])
        with torch.no_grad():
            teacher = self._teacher(waveforms, lengths).hidden_states
        output = self._student(waveforms, lengths)
        losses = [F.mse_loss(y, t.clone()) for y, t in zip(output.projections, teacher[1:], strict=True)]
        loss = losses[-1] + 0.1 * sum(losses[:-1])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        loss.item()
        seconds = sum(utterance.seconds for utterance in chosen)
        return Step((time.perf_counter() - begun) / seconds, (time.process_time() - cpu) / seconds, None)


def build_ways(
    manifest: Manifest, batches: Sequence[Sequence[Crop]], targets: Mapping[str, Targets]
) -> dict[str, Callable[[], Step]]:
    """Every way of making an update, by its name; our own share one student."""
    torch.manual_seed(0)
    params = DistillParams()
    config = recipes.fithubert()
    stepper = Stepper(
        open_fabric("cpu", params.precision, False),
        build_student(config),
        HintLoss(HintParams(), config.heads.layer_map),
        params,
    )
    teacher = HubertTeacher(prepare_for_inference(HubertModel(hubert_base())), "hubert_base")
    live = LiveTargets(manifest, teacher)
    utterances = round(len(manifest.utterances) / len(batches))
    return {
        **{f"cached {name}": OurSteps(stepper, cached, batches) for name, cached in targets.items()},
        "live": OurSteps(stepper, live, batches),
        "plain loop": PlainSteps(teacher, manifest, utterances),
    }


def write_stores(manifest: Manifest, folder: Path) -> Iterator[tuple[str, CachedTargets]]:
    """The same utterances in every codec, as wide as HuBERT Base's; nothing that is read stays in memory."""
    teacher = WideTeacher(load_teacher("mini"))
    for codec in CODECS:
        extract_features(teacher, manifest, folder / codec, ExtractSettings(codec, layers=_LAYERS))
        yield codec, CachedTargets(FeatureStore.open(folder / codec, cache_bytes=0))


def measure(ways: Mapping[str, Callable[[], Step]], rounds: int) -> list[dict[str, Any]]:
    """A row per way: medians over `rounds`, and how many times as fast as live targets and as the plain loop it is."""
    steps: dict[str, list[Step]] = {name: [] for name in ways}
    names = list(ways)
    for index in range(rounds + 1):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            step = ways[name]()
            # The first round warms up.
            if index:
                steps[name].append(step)
                print(f"{index}/{rounds} {name}: {step}", flush=True)
    return [_describe(name, steps) for name in names]


def _describe(name: str, steps: Mapping[str, Sequence[Step]]) -> dict[str, Any]:
    own = steps[name]
    row: dict[str, Any] = {"targets": name}
    for clock in ("cpu", "wall"):
        row[f"{clock} s per audio s"] = statistics.median(getattr(step, clock) for step in own)
    for reference in ("live", "plain loop"):
        for clock in ("cpu", "wall"):
            times = [[getattr(step, clock) for step in way] for way in (steps[reference], own)]
            ratio = paired_ratio(*times)
            row[f"over {reference}, {clock}"] = ratio.median
            row[f"interval, {reference} {clock}"] = f"{ratio.low:.2f} to {ratio.high:.2f}"
    waits = [step.wait_share for step in own if step.wait_share is not None]
    row["waiting for data"] = statistics.median(waits) if waits else "-"
    return row


def main() -> None:
    """Measure and write reports/benchmarks/training.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="holds data/ as `fithubert prepare` writes it")
    parser.add_argument("--batch-seconds", type=float, default=12.0, help="padded audio of an update")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    corpus = Workspace(options.workspace).load_manifest()
    utterances = sorted(corpus.select("train", "sentence"), key=lambda u: digest(u.id))
    frames_a_batch = round(options.batch_seconds * _FRAMES_A_SECOND)
    needed, taken = (options.rounds + 3) * options.batch_seconds, 0.0
    count = next((i for i, u in enumerate(utterances) if (taken := taken + u.seconds) > needed), len(utterances))
    manifest = Manifest(tuple(utterances[:count]), corpus.root)
    with tempfile.TemporaryDirectory() as folder:
        targets = dict(write_stores(manifest, Path(folder)))
        batches = plan_batches(
            targets["int8"].num_frames, batch_frames=frames_a_batch, crop_frames=400, seed=1, epoch=0
        )
        full = [batch for batch in batches if sum(crop.num_frames for crop in batch) > frames_a_batch / 2]
        rows = measure(build_ways(manifest, full, targets), options.rounds)
    audio = sum(crop.num_frames for batch in full for crop in batch) / sum(
        max(crop.num_frames for crop in batch) * len(batch) for batch in full
    )
    words = (
        f"Updates of at most {options.batch_seconds:g} s of padded audio ({1 - audio:.1%} padding), {options.rounds} "
        "rounds with one update of each in turn; medians. `over live`: how many times as fast as live targets, round "
        "by round, with the 95 % bootstrap interval of the median. The machine did other work meanwhile: seconds are "
        "only good for ratios, of which those of CPU seconds (all threads, reading ahead included) hold better."
    )
    write_tables("training", "An update of the paper-size student", {words: rows})


if __name__ == "__main__":
    main()
