"""How fast HuBERT Base is extracted, against transformers on the same utterances, and how exact each way is."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import write_tables
from fithubert.frames import SAMPLE_RATE_HZ, pad_waveforms
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import prepare_teacher
from fithubert.models.speech_model import SpeechOutput

_UTTERANCES, _SHORTEST_SECONDS, _LONGEST_SECONDS = 32, 0.5, 20.0

#: Last hidden states (time, feature) of every utterance.
Extraction = Callable[[], list[Tensor]]


def main() -> None:
    """Measure and write reports/benchmarks/teachers.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    waveforms = draw_utterances()
    with tempfile.TemporaryDirectory() as folder:
        ways = build_ways(Path(folder), waveforms)
    rows = measure(ways, sum(map(len, waveforms)) / SAMPLE_RATE_HZ, options.rounds)
    words = (
        f"{_UTTERANCES} utterances of {_SHORTEST_SECONDS:g} to {_LONGEST_SECONDS:g} s in a drawn order, float32, "
        f"random weights, all hidden states; medians of {options.rounds} rounds in turn. Speed: relative to "
        "transformers in batches of 8. Error: the last layer against the same utterance alone, of the worst utterance."
    )
    write_tables("teachers", "Extraction from HuBERT Base", {words: rows})


def draw_utterances() -> list[Tensor]:
    """Noise of evenly spread lengths in a drawn order; what is said does not matter to the time."""
    generator = torch.Generator().manual_seed(0)
    seconds = torch.linspace(_SHORTEST_SECONDS, _LONGEST_SECONDS, _UTTERANCES)
    seconds = seconds[torch.randperm(_UTTERANCES, generator=generator)]
    return [0.1 * torch.randn(int(s * SAMPLE_RATE_HZ), generator=generator) for s in seconds]


def build_ways(folder: Path, waveforms: Sequence[Tensor]) -> dict[str, Extraction]:
    """The same random HuBERT Base, run by transformers and by this project in several ways; alone comes first."""
    import transformers

    torch.manual_seed(0)
    theirs = transformers.HubertModel(transformers.HubertConfig()).eval()
    theirs.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    ours = load_teacher(f"hf:{folder}")
    assert isinstance(ours, HubertTeacher)
    onnx = prepare_teacher(ours, runtime="onnx")
    return {
        "transformers, one by one": lambda: run_transformers(theirs, waveforms, 1),
        "transformers, batches of 8": lambda: run_transformers(theirs, waveforms, 8),
        "fithubert, one by one (what it does on a CPU)": lambda: run_by_length(ours, waveforms, 0.0),
        "fithubert, batches of 40 s by length (on a GPU)": lambda: run_by_length(ours.model, waveforms, 40.0),
        "fithubert, runtime onnx": lambda: run_by_length(onnx, waveforms, 0.0),
    }


@torch.inference_mode()
def run_transformers(model: Any, waveforms: Sequence[Tensor], size: int) -> list[Tensor]:
    """Padded batches of `size` in the order given, with an attention mask where anything is padded."""
    last: list[Tensor] = []
    for start in range(0, len(waveforms), size):
        padded, lengths = pad_waveforms(waveforms[start : start + size])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long() if size > 1 else None
        out = model(padded, attention_mask=mask, output_hidden_states=True)
        frames = model._get_feat_extract_output_lengths(lengths).tolist()
        last += [row[:count] for row, count in zip(out.last_hidden_state, frames, strict=True)]
    return last


@torch.inference_mode()
def run_by_length(run: Callable[..., SpeechOutput], waveforms: Sequence[Tensor], batch_seconds: float) -> list[Tensor]:
    """Batches of neighbours in length, at most `batch_seconds` padded; one utterance at least."""
    order = sorted(range(len(waveforms)), key=lambda index: -len(waveforms[index]))
    batches: list[list[int]] = []
    for index in order:
        full = not batches or len(waveforms[batches[-1][0]]) * (len(batches[-1]) + 1) > batch_seconds * SAMPLE_RATE_HZ
        if full:
            batches.append([])
        batches[-1].append(index)
    last: dict[int, Tensor] = {}
    for batch in batches:
        out = run(*pad_waveforms([waveforms[index] for index in batch]))
        for row, index in enumerate(batch):
            last[index] = out.hidden_states[-1][row, : out.lengths[row]]
    return [last[index] for index in range(len(waveforms))]


def measure(ways: dict[str, Extraction], audio_seconds: float, rounds: int) -> list[dict[str, Any]]:
    """One row a way, each timed once a round, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, list[Tensor]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            said[name] = way()
            seconds[name].append(time.perf_counter() - begun)
    reference = seconds["transformers, batches of 8"]
    rows = []
    for name, taken in seconds.items():
        alone = next(
            states for other, states in said.items() if other.startswith(f"{name.partition(',')[0]}, one by one")
        )
        errors = [float((x - y).norm() / y.norm()) for x, y in zip(said[name], alone, strict=True)]
        gains = [theirs / ours for theirs, ours in zip(reference, taken, strict=True)]
        rows.append(
            {
                "way": name,
                "times real time": audio_seconds / statistics.median(taken),
                "speed": statistics.median(gains),
                "from": min(gains),
                "to": max(gains),
                "error": max(errors),
            }
        )
    return rows


if __name__ == "__main__":
    main()
