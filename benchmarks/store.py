"""What every codec costs, loses and takes, and how well an epoch is shuffled."""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import write_tables
from fithubert.data.batching import plan_batches
from fithubert.data.manifest import Manifest
from fithubert.files import digest
from fithubert.frames import SAMPLE_RATE_HZ, count_frames
from fithubert.importers import load_teacher
from fithubert.models.speech_model import SpeechModel, SpeechOutput
from fithubert.store.basis import SAMPLE_SECONDS, provide_basis
from fithubert.store.codec import encode_layer, layer_codecs
from fithubert.store.extract import ExtractSettings, describe_store, extract_features
from fithubert.store.read import FeatureStore
from fithubert.store.shards import (
    PlannedRow,
    UtteranceStates,
    compute_hidden_states,
    order_rows,
    plan_rows,
    plan_shards,
)
from fithubert.workspace import Workspace

#: Codec and share of the variance: shares that leave 1, 3, 5 and 10 % of relative error.
CODECS = (
    ("float16", 0.9999),
    ("int8", 0.9999),
    ("pca_int8", 0.9999),
    ("pca_int8", 0.9991),
    ("pca_int8", 0.9975),
    ("pca_int8", 0.99),
)
_COPIES = 4


class WideTeacher:
    """Layers as wide as HuBERT Base's, with the spectrum of the embedded teacher's stretched to 768 features.

    A frame is four frames of one utterance, a quarter of it apart, side by side and rotated by a random rotation.
    """

    name = "hubert_base_shaped"

    def __init__(self, teacher: SpeechModel) -> None:
        self._teacher = teacher
        self.widths = tuple(_COPIES * width for width in teacher.widths)
        self.convolutions, self.frame_multiple = teacher.convolutions, teacher.frame_multiple
        self.locality = teacher.locality
        self.fingerprint = digest("wide", teacher.fingerprint)
        generator = torch.Generator().manual_seed(0)
        self._rotations = [torch.linalg.qr(torch.randn(w, w, generator=generator))[0] for w in self.widths]

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states as of any speech model."""
        output = self._teacher(waveforms, lengths, last_layer)
        return SpeechOutput(
            tuple(
                torch.nn.utils.rnn.pad_sequence(
                    [
                        _widen(row[:count]) @ rotation
                        for row, count in zip(hidden, output.lengths.tolist(), strict=True)
                    ],
                    batch_first=True,
                )
                for hidden, rotation in zip(output.hidden_states, self._rotations, strict=False)
            ),
            output.lengths,
        )


def _widen(hidden: Tensor) -> Tensor:
    return torch.cat([hidden.roll(copy * len(hidden) // _COPIES, 0) for copy in range(_COPIES)], 1)


def measure_codec(model: SpeechModel, manifest: Manifest, codec: str, share: float, directory: Path) -> dict[str, Any]:
    """One row: bytes of an hour on disk without and with audio, error, and hours of audio a minute in and out."""
    settings = ExtractSettings(codec, share, layers=tuple(range(1, len(model.widths))))
    stored = extract_features(model, manifest, directory, settings).metrics
    layers = sum(layer.bytes_per_audio_hour for layer in stored.layers.values())
    row = {
        "teacher": model.name,
        "codec": codec if codec != "pca_int8" else f"{codec} {share}",
        "GB/h": layers / 1e9,
        "GB/h with audio": stored.bytes_per_audio_hour / 1e9,
        "bits a value": layers * 8 / (sum(model.widths[layer] for layer in stored.layers) * 50 * 3600),
        "error": stored.relative_error,
        "mean error": statistics.mean(layer.relative_error for layer in stored.layers.values()),
        "encode h/min": _time_encoding(model, manifest, settings, directory),
        "read h/min": _time_reading(directory),
    }
    shutil.rmtree(directory)
    return row


def _time_encoding(model: SpeechModel, manifest: Manifest, settings: ExtractSettings, directory: Path) -> float:
    """Hours of audio a minute that are coded, the check of what was lost included, without the teacher."""
    info = describe_store(model, manifest, settings)
    rows = order_rows(plan_rows(manifest, info))

    def compute(rows: Sequence[PlannedRow]) -> Iterator[UtteranceStates]:
        return compute_hidden_states(model, manifest, rows, info.layers, settings.batch_seconds, info.with_waveform)

    basis, _ = provide_basis(directory, info, rows, compute)
    codecs = layer_codecs(settings.codec, info.layers, basis)
    states = list(compute(rows[:8]))
    hours = sum(row.num_samples for row in rows[:8]) / SAMPLE_RATE_HZ / 3600
    pairs = [pair for row in states for pair in zip(row.hidden_states, codecs, strict=True)]
    return hours / _fewest_minutes(lambda: [encode_layer(layer, codec) for layer, codec in pairs])


def _time_reading(directory: Path) -> float:
    """Hours of audio a minute that are read, checked and decoded with all layers, from a warm disk."""
    hours = sum(FeatureStore.open(directory).num_samples) / SAMPLE_RATE_HZ / 3600

    def read() -> None:
        store = FeatureStore.open(directory)
        for index in sorted(range(len(store)), key=lambda index: store.shards[index]):
            store.read(index)

    return hours / _fewest_minutes(read)


def _fewest_minutes(run: Callable[[], object]) -> float:
    """The shortest of three runs: other work on the machine only ever adds."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds) / 60


def measure_shuffle(hours: float = 100.0) -> Iterator[dict[str, Any]]:
    """A row per way of shuffling: how far apart in the corpus what is trained on one after the other is.

    A perfect shuffle has 1. `same shard` is the share of neighbours that lie in one shard, which is what reading costs
    least.
    """
    generator = torch.Generator().manual_seed(0)
    seconds = (torch.randn(int(hours * 3600 / 12), generator=generator) * 4 + 12).clamp(1, 20)
    samples = (seconds * SAMPLE_RATE_HZ).int().tolist()
    info = describe_store(load_teacher("mini"), Manifest((), Path()), ExtractSettings())
    rows = order_rows([PlannedRow(i, f"{i:06d}", n, count_frames(n)) for i, n in enumerate(samples)])
    shards = plan_shards(rows, info, None, 5.0)
    group_of = [0] * len(samples)
    for shard in shards:
        for row in shard.rows:
            group_of[row.index] = shard.index
    frames = {row.index: row.num_frames for row in rows}
    for shuffle, groups in (("corpus", None), ("shards", group_of)):
        batches = plan_batches(
            [frames[i] for i in range(len(samples))],
            batch_frames=1600,
            crop_frames=400,
            seed=1,
            epoch=0,
            group_of=groups,
        )
        order = [crop.index for batch in batches for crop in batch]
        yield {
            "shuffle": shuffle,
            "distance of neighbours": _mean_distance(order) / (len(order) / 3),
            "distance of first crops of batches": _mean_distance([batch[0].index for batch in batches])
            / (len(order) / 3),
            "same shard": statistics.mean(group_of[a] == group_of[b] for a, b in pairwise(order)),
            "padding": 1
            - sum(crop.num_frames for batch in batches for crop in batch)
            / sum(max(crop.num_frames for crop in batch) * len(batch) for batch in batches),
        }


def _mean_distance(order: Sequence[int]) -> float:
    return statistics.mean(abs(a - b) for a, b in pairwise(order))


def _take_minutes(manifest: Manifest, minutes: float) -> Manifest:
    """The first sentences of train in the order of a digest, about `minutes` of them."""
    sentences = sorted(manifest.select("train", "sentence"), key=lambda u: digest(u.id))
    taken, left = [], minutes * 60
    while sentences and left > 0:
        taken.append(sentences.pop(0))
        left -= taken[-1].seconds
    return Manifest(tuple(taken), manifest.root)


def main() -> None:
    """Measure and write reports/benchmarks/store.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="holds data/ as `fithubert prepare` writes it")
    parser.add_argument("--minutes", type=float, default=10.0, help="speech that every codec stores")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    manifest = _take_minutes(Workspace(options.workspace).load_manifest(), options.minutes)
    mini = load_teacher("mini")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure_codec(model, manifest, codec, share, Path(folder) / "store")
            for model in (WideTeacher(mini), mini)
            for codec, share in CODECS
        ]
    codecs = (
        f"Codecs: {manifest.hours * 60:.0f} minutes of the embedded corpus, layers 1 to 12; the axes of pca_int8 are "
        f"fitted on {SAMPLE_SECONDS / 60:.0f} of them. Error: of the worst layer, and the mean over layers. Speed: "
        "hours of audio a minute, all layers, the best of three; reading includes checksums."
    )
    shuffles = "Shuffling 100 h in shards of 5 minutes; distances are relative to a perfect shuffle's."
    write_tables("store", "The feature store", {codecs: rows, shuffles: list(measure_shuffle())})


if __name__ == "__main__":
    main()
