"""Recordings in windows: how far their states are from those of the whole, the memory they take, and their latency.

Deviation: relative error over all frames of a minute of speech, in windows of 10 s. Memory: the highest resident memory
of `fithubert features` and `fithubert units` on hours of speech. Latency: the time that `stream` computes on a chunk.
`limited` is the packaged student with `context_frames` and random weights, which change no cost. Parts and commands
that are not measured keep the rows of the committed tables.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
import torch
from torch import Tensor

from benchmarks.tables import read_tables, write_tables
from fithubert.data.audio import read_recording
from fithubert.data.listing import list_recordings
from fithubert.export.find import find_model
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.models.student import build_student
from fithubert.models.weights import load_student, save_student
from fithubert.models.windows import DEFAULT_WINDOWS, needed_context, stream, window_errors
from fithubert.workspace import Workspace

#: How `limited` differs from the packaged student.
_LIMITED = {"conv_norm": "layer", "context_frames": 2}
#: Each part, and what its table says.
_PARTS = {
    "deviation": "Relative error of each layer of `mini` against the context, 60 s of speech in windows of 10 s. What "
    "no context removes: attention sees one window, and the group norm of the front end takes its statistics from it.",
    "memory": "Highest resident memory of `fithubert features` (last layer, float32) and `fithubert units` in windows "
    f"of {DEFAULT_WINDOWS.window_seconds:g} s, with all libraries.",
    "latency": "`stream` with windows as long as a chunk: a frame waits for the rest of its window, the context, up to "
    "0.24 s more, and the computing (processor time of one thread, median).",
}


def measure_deviation(model: SpeechModel, waveform: Tensor, contexts: list[float]) -> list[dict[str, Any]]:
    """One row for each layer, one column for each context: |windows - whole| / |whole|."""
    layers = range(len(model.widths))
    errors = {f"{context:g} s": window_errors(model, waveform, 10.0, context, layers) for context in contexts}
    return [{"layer": layer, **{name: found[layer] for name, found in errors.items()}} for layer in layers]


def measure_command(words: list[str]) -> tuple[float, float]:
    """The seconds that a command of `fithubert` takes, and its highest resident memory in MB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "fithubert", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"fithubert {' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def measure_memory(audio: Path, hours: float, sources: dict[str, str], commands: list[str]) -> list[dict[str, Any]]:
    """One row for each of `commands` (MODEL:COMMAND), on the recording `audio` of `hours`."""
    rows = []
    for each in commands:
        name, command = each.split(":")
        out = str(audio.with_name(f"{name}.{command}"))
        words = [command, str(audio), "--model", sources[name], "--out", out, "--device", "cpu"]
        seconds, peak = measure_command(words)
        rate = hours * 3600 / seconds
        rows.append({"model": name, "command": command, "hours": hours, "peak MB": peak, "audio / time": rate})
        print(rows[-1], flush=True)
    return rows


def measure_latency(name: str, model: SpeechModel, waveform: Tensor) -> list[dict[str, Any]]:
    """One row for each length of a chunk."""
    rows = []
    context = 1.0 if model.locality.reach_frames is None else needed_context(model)
    for chunk in (0.5, 1.0, 2.0):
        times, last = [], time.process_time()
        for _ in stream(model, waveform.split(round(chunk * SAMPLE_RATE_HZ)), chunk, context):
            now = time.process_time()
            times.append(now - last)
            last = now
        computing = median(times[len(times) // 4 :])
        row = {"model": name, "chunk s": chunk, "context s": context, "computing ms": 1000 * computing}
        rows.append(row | {"computing / chunk": computing / chunk})
    return rows


def join_speech(folders: list[Path]) -> Iterator[Tensor]:
    """The recordings of `folders`, every fifth, so that speakers change often, over and over."""
    recordings = list_recordings(folders).recordings
    paths = [Path(utterance.audio) for first in range(5) for utterance in recordings.utterances[first::5]]
    for path in cycle(paths):
        yield read_recording(path)


def write_speech(path: Path, folders: list[Path], seconds: float) -> Tensor:
    """Write joined speech of `seconds` to `path`; its samples."""
    wanted, held = round(seconds * SAMPLE_RATE_HZ), []
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1) as file:
        for waveform in join_speech(folders):
            held.append(waveform[: wanted - file.frames])
            file.write(held[-1].numpy())
            if file.frames >= wanted:
                break
    return torch.cat(held)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Part -> its rows, for `options.parts`; files are written to `folder`."""
    torch.manual_seed(0)
    shape = load_student("fithubert").config.model_copy(update=_LIMITED)
    save_student(build_student(shape), folder / "limited")
    sources = {"mini": "mini", "fithubert": "fithubert", "limited": str(folder / "limited")}
    rows: dict[str, list[dict[str, Any]]] = {}
    if "memory" in options.parts:
        write_speech(folder / "long.flac", options.audio, options.hours * 3600)
        rows["memory"] = measure_memory(folder / "long.flac", options.hours, sources, options.commands)
    speech = write_speech(folder / "short.flac", options.audio, 60)
    models = {name: find_model(Workspace(Path()), source, "cpu") for name, source in sources.items()}
    if "deviation" in options.parts:
        rows["deviation"] = measure_deviation(models["mini"], speech, options.contexts)
    if "latency" in options.parts:
        part = speech[: 20 * SAMPLE_RATE_HZ]
        rows["latency"] = [row for name, model in models.items() for row in measure_latency(name, model, part)]
    return rows


def keep_earlier(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What a table says -> its rows, measured now or, if a part or a command was left out, before."""
    earlier = read_tables("windows")
    kept = {words: rows.get(part, earlier.get(words, [])) for part, words in _PARTS.items()}
    if "memory" in rows:
        now = [(row["model"], row["command"]) for row in rows["memory"]]
        kept[_PARTS["memory"]] += [
            row for row in earlier.get(_PARTS["memory"], []) if (row["model"], row["command"]) not in now
        ]
    return {words: rows for words, rows in kept.items() if rows}


def main() -> None:
    """Measure and write reports/benchmarks/windows.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("audio", type=Path, nargs="+", help="recordings of speech, joined to the needed lengths")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--contexts", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 5.0, 10.0])
    parser.add_argument("--hours", type=float, default=2.0, help="the recording of the commands")
    parser.add_argument("--commands", nargs="+", default=["mini:features", "fithubert:features", "fithubert:units"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options, Path(name))
    write_tables("windows", "Recordings in windows", keep_earlier(rows))


if __name__ == "__main__":
    main()
