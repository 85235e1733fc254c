"""How fast an exported student of full size is, against HuBERT Base in torch, and what int8 costs in exactness."""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.tables import write_tables
from fithubert.data.manifest import load_manifest
from fithubert.export.int8 import relative_errors
from fithubert.export.onnx import OnnxStudent, export_onnx
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.profile.costs import PAPER_REFERENCE, paper_size_subjects
from fithubert.profile.timing import paired_ratio, time_in_turn
from fithubert.workers import torch_threads

_STUDENTS = ("fithubert", "fithubert_lite", "fithubert_mel", "fithubert_late")
_UTTERANCES = 12


def main() -> None:
    """Measure and write reports/benchmarks/export.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with torch_threads(options.threads), tempfile.TemporaryDirectory() as folder:
        speech = read_speech()
        models, records = export_students(Path(folder), speech)
        words = (
            f"{options.seconds:g} s of audio, random weights, medians of {options.rounds} rounds in turn. "
            "Latency: of HuBERT Base's in torch, with the 95 % interval."
        )
        tables = {words: measure(models, records, options.seconds, options.rounds)}
        words = (
            "Error of every state that an export gives, relative to torch: the norm of the difference over that of the "
            f"state, {len(speech)} utterances of synthetic speech."
        )
        tables[words] = list_errors(models, speech)
        write_tables("export", "Exported students of full size", tables)


def read_speech() -> list[Tensor]:
    """Sentences of dev that errors are measured on."""
    manifest = load_manifest("data/manifests/corpus.parquet").select("dev", "sentence")
    return [manifest.read(utterance) for utterance in manifest.utterances[:_UTTERANCES]]


def export_students(folder: Path, speech: Sequence[Tensor]) -> tuple[dict[str, SpeechModel], dict[str, Any]]:
    """HuBERT Base, and every student in torch, in ONNX and in int8; and what the exports recorded."""
    subjects = paper_size_subjects()
    models: dict[str, SpeechModel] = {PAPER_REFERENCE: subjects[PAPER_REFERENCE].model}
    records = {}
    for name in _STUDENTS:
        readout = subjects[name].model
        assert isinstance(readout, ReadOut)
        # timed below, together with the others
        records[name] = export_onnx(readout, folder / name, speech, lambda models: dict.fromkeys(models, 1.0))
        models[name] = readout
        models[f"{name}, onnx"] = OnnxStudent(folder / name)
        models[f"{name}, onnx int8"] = OnnxStudent(folder / name, int8=True)
    return models, records


def measure(
    models: Mapping[str, SpeechModel], records: Mapping[str, Any], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """One row a model."""
    taken = {name: times[seconds] for name, times in time_in_turn(models, [seconds], rounds).items()}
    rows = []
    for name, times in taken.items():
        ratio = paired_ratio(times, taken[PAPER_REFERENCE])
        student, _, form = name.partition(", onnx")
        record = records[student]["int8" if form else "float32"] if name != student else {}
        rows.append(
            {
                "model": name,
                "ms": 1000 * statistics.median(times),
                "latency %": 100 * ratio.median,
                "from": 100 * ratio.low,
                "to": 100 * ratio.high,
                "MB": record["bytes"] / 1e6 if record else "",
            }
        )
    return rows


def list_errors(models: Mapping[str, SpeechModel], speech: Sequence[Tensor]) -> list[dict[str, Any]]:
    """One row a state, one column an exported student."""
    columns = {}
    for name, model in models.items():
        readout = models[name.partition(", onnx")[0]]
        if isinstance(readout, ReadOut) and model is not readout:
            columns[name] = relative_errors(readout, model, speech)
    states = max(map(len, columns.values()))
    return [{"state": i, **{name: errors[i] for name, errors in columns.items()}} for i in range(states)]


if __name__ == "__main__":
    main()
