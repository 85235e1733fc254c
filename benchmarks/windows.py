"""How far states in windows are from those of the whole recording, and the memory that long recordings take.

Deviation: relative error over all frames of a minute of speech, in windows of 10 s. Memory: the highest resident
memory of a process of its own that writes the features of noise of some length; `RssAnon` leaves out mapped files,
which the system may drop at any time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.tables import write_tables
from fithubert.data.audio import read_recording
from fithubert.data.listing import list_recordings
from fithubert.export.find import find_model
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import Windows, stream
from fithubert.store.recordings import FeatureSettings, write_features
from fithubert.workspace import Workspace

_WINDOWS = Windows(whole_seconds=30.0, window_seconds=10.0, context_seconds=2.0)


def measure_deviation(model: SpeechModel, waveform: Tensor, contexts: list[float]) -> list[dict[str, Any]]:
    """One row for each layer, one column for each context: |windows - whole| / |whole|."""
    whole = [state[0] for state in model(waveform[None], torch.tensor([len(waveform)])).hidden_states]
    rows: list[dict[str, Any]] = [{"layer": layer} for layer in range(len(whole))]
    for context in contexts:
        pieces = stream(model, [waveform], _WINDOWS.window_seconds, context)
        joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        for row, states, expected in zip(rows, joined, whole, strict=True):
            row[f"{context:g} s"] = float((states - expected).norm() / expected.norm())
    return rows


def measure_memory(model: SpeechModel, minutes: float) -> dict[str, Any]:
    """The highest memory of this process while it writes the last layer of noise of `minutes`."""
    highest = {"RssAnon": 0.0, "VmRSS": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            for name in highest:
                highest[name] = max(highest[name], int(status.split(f"{name}:")[1].split()[0]) / 1024)

    with tempfile.TemporaryDirectory(dir=".") as name:
        path, out = Path(name) / "noise.wav", Path(name) / "f.parquet"
        draw = np.random.default_rng(0)
        with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1) as file:
            for _ in range(round(minutes)):
                file.write(0.1 * draw.standard_normal(60 * SAMPLE_RATE_HZ))
        settings = FeatureSettings((len(model.widths) - 1,), windows=_WINDOWS)
        watcher = threading.Thread(target=watch)
        watcher.start()
        done = write_features(model, list_recordings([path]), out, settings)
        ended.set()
        watcher.join()
    sizes = {f"{name} MB": value for name, value in highest.items()}
    return {"minutes": minutes, "features MB": done.num_bytes / 1e6, **sizes}


def main() -> None:
    """Measure and write reports/benchmarks/windows.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("audio", type=Path, nargs="+", help="recordings of speech, joined to one minute")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--contexts", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 5.0, 10.0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--memory", type=float, help="one measurement of memory, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = find_model(Workspace(Path()), options.model, "cpu")
    if options.memory:
        print(json.dumps(measure_memory(model, options.memory)))
        return
    listed = [read_recording(Path(u.audio)) for u in list_recordings(options.audio).recordings]
    waveform = torch.cat(listed)[: 60 * SAMPLE_RATE_HZ]
    rows = measure_deviation(model, waveform, options.contexts)
    memory = []
    for minutes in options.minutes:
        command = [sys.executable, "-m", "benchmarks.windows", str(options.audio[0]), "--model", options.model]
        said = subprocess.run([*command, "--memory", str(minutes)], check=True, capture_output=True, text=True).stdout
        memory.append(json.loads(said))
    deviation = (
        f"Relative error of each layer of `{options.model}` against the context, "
        f"{len(waveform) / SAMPLE_RATE_HZ:.0f} s of speech in windows of {_WINDOWS.window_seconds:g} s. What no "
        "context removes: attention sees one window, and the group norm of the front end takes its statistics from it."
    )
    words = (
        f"Memory of `write_features` in windows of {_WINDOWS.window_seconds:g} s with "
        f"{_WINDOWS.context_seconds:g} s of context: last layer, float32, noise."
    )
    write_tables("windows", "Recordings in windows", {deviation: rows, words: memory})


if __name__ == "__main__":
    main()
