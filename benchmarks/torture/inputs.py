"""Hostile checkpoints and broken recordings."""

import functools
import importlib
import io
import operator
import os
import pickle
import random
import subprocess
import wave
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.torture.damaged import list_damages
from benchmarks.torture.harness import Case, WrongError
from fithubert.data.listing import list_recordings
from fithubert.errors import UserError
from fithubert.importers import load_teacher
from fithubert.importers.published import import_published
from fithubert.training.checkpoint import read_checkpoint

#: What writes the marker if a reader executes it; the marker's path is put into the text.
_CALLS: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = (
    (os.system, ("touch {}",)),
    (eval, ("open({!r}, 'w')",)),
    (exec, ("open({!r}, 'w')",)),
    (subprocess.call, ("touch {}",)),
    (subprocess.getoutput, ("touch {}",)),
    (os.mkdir, ("{}",)),
    (open, ("{}", "w")),
    (Path.touch, ("{}",)),
    (importlib.import_module, ("antigravity",)),
    (np.savetxt, ("{}", "1")),
    (torch.load, ("{}",)),
    (functools.partial(os.mkdir), ("{}",)),
    (operator.methodcaller("touch"), ("{}",)),
)


class _Evil:
    """Pickles as a call."""

    def __init__(self, call: Callable[..., Any], arguments: tuple[str, ...]) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return self.call, self.arguments


def _containers(evil: _Evil) -> dict[str, object]:
    weights = {"model.a": torch.zeros(3)}
    return {
        "alone": evil,
        "in the weights": {"state_dict": {**weights, "model.b": evil}},
        "in the optimiser": {"state_dict": weights, "optimizer_states": [{"param_groups": [{"lr": evil}]}]},
        "as a key": {"state_dict": weights, (1, evil): 1},
    }


_FORMS = ("torch", "torch legacy", "pickle 0", "pickle 4", "zip without torch")


def _write(path: Path, content: object, form: str) -> None:
    if form == "torch":
        torch.save(content, path)
    elif form == "torch legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif form == "zip without torch":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(pickle.dumps(content, int(form[-1])))


_READERS: dict[str, Callable[[Path], object]] = {
    "import": lambda path: import_published(path, None),
    "teacher": lambda path: load_teacher(str(path)),
    "checkpoint": read_checkpoint,
}


def list_pickles(scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` of all combinations of calls, places, forms and readers."""
    combinations = [
        (call, place, form, reader)
        for call in range(len(_CALLS))
        for place in ("alone", "in the weights", "in the optimiser", "as a key")
        for form in _FORMS
        for reader in _READERS
    ]
    for call, place, form, reader in random.Random(seed).sample(combinations, min(count, len(combinations))):
        name = f"{getattr(_CALLS[call][0], '__name__', 'a partial')} {place}, as {form}, read by {reader}"
        yield Case("hostile checkpoints", name, _pickle_case(scratch, call, place, form, reader))


def _pickle_case(scratch: Path, call: int, place: str, form: str, reader: str) -> Callable[[], None]:
    def run() -> None:
        marker, path = scratch / f"executed-{os.getpid()}", scratch / f"{os.getpid()}.pt"
        function, arguments = _CALLS[call]
        evil = _Evil(function, tuple(text.format(str(marker)) for text in arguments))
        _write(path, _containers(evil)[place], form)
        try:
            _READERS[reader](path)
            if place == "alone":
                raise WrongError("a checkpoint without weights was read")
        finally:
            if marker.exists():
                raise WrongError("it was executed")

    return run


def list_recordings_cases(scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` damaged recordings of every format, each next to a sound one, and odd ones by hand."""
    rng = random.Random(seed)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(8_000)
    for number in range(count):
        suffix, options = _FORMATS[number % len(_FORMATS)]
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, 16_000, **options)
        data = encoded.getvalue()
        # Half of the damages are in the header, which is where they hurt.
        size = min(len(data), 64) if number % 2 else len(data)
        words, damage = list(list_damages(rng, size, 6))[number // 2 % 6]
        yield Case("broken recordings", f"{suffix}: {words}", _recording_case(scratch, suffix, damage(data)))
    for words, name, data in _odd_recordings():
        yield Case("broken recordings", words, _recording_case(scratch, name, data))


_FORMATS: tuple[tuple[str, dict[str, str]], ...] = (
    (".wav", {"format": "WAV"}),
    (".flac", {"format": "FLAC"}),
    (".ogg", {"format": "OGG", "subtype": "VORBIS"}),
    (".opus", {"format": "OGG", "subtype": "OPUS"}),
    (".mp3", {"format": "MP3"}),
)


def _odd_recordings() -> Iterator[tuple[str, str, bytes]]:
    for rate in (0, 1, 7, 2**31 - 1):
        encoded = io.BytesIO()
        with wave.open(encoded, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(max(rate, 1))
            file.writeframes(bytes(4000))
        yield f"{rate} Hz", ".wav", encoded.getvalue()
    for channels in (2, 65, 1024):
        encoded = io.BytesIO()
        with wave.open(encoded, "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(bytes(2 * channels * 1000))
        yield f"{channels} channels", ".wav", encoded.getvalue()
    for words, values in {"NaN": [np.nan] * 4000, "infinite": [np.inf] * 4000, "silent": [0.0] * 4000}.items():
        encoded = io.BytesIO()
        soundfile.write(encoded, np.array(values), 16_000, format="WAV", subtype="FLOAT")
        yield words, ".wav", encoded.getvalue()
    yield "text", ".wav", b"this is no audio\n" * 100
    yield "empty", ".flac", b""
    yield "RIFF and no more", ".wav", b"RIFF"


def _recording_case(scratch: Path, suffix: str, data: bytes) -> Callable[[], None]:
    def run() -> None:
        folder = scratch / f"{os.getpid()}"
        folder.mkdir()
        soundfile.write(folder / "sound.wav", np.sin(np.arange(8_000) / 9.0) * 0.1, 16_000)
        (folder / f"bad{suffix}").write_bytes(data)
        listing = list_recordings([folder], jobs=1)
        names = {Path(u.audio).name for u in listing.recordings}
        if "sound.wav" not in names:
            raise WrongError("the sound recording was left out")
        for utterance in listing.recordings:
            waveform = listing.recordings.read(utterance)
            if not torch.isfinite(waveform).all():
                raise WrongError("samples that are not numbers were read")
        if not all(entry.reason and "\n" not in entry.reason for entry in listing.skipped):
            raise WrongError("a recording was skipped without a reason of one line")
        if listing.skipped:
            raise UserError(listing.skipped[0].reason)

    return run
