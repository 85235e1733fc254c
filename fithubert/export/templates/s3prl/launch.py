"""s3prl's run_downstream.py with the student in this folder registered as `-u student_upstream`.

All options are s3prl's. Call it in the folder `s3prl/s3prl` of a clone, which s3prl's configurations are relative to.
Stands in for what s3prl 0.4.18 asks of torchaudio and huggingface_hub at start-up and newer ones no longer have.
"""

import argparse
import importlib.util
import sys
import types
from pathlib import Path

import huggingface_hub
import torch
import torchaudio

sys.path.insert(0, str(Path(__file__).resolve().parent))

if not hasattr(torchaudio, "set_audio_backend"):
    torchaudio.set_audio_backend = lambda backend: None
if importlib.util.find_spec("torchaudio.sox_effects") is None:  # what uses it fails when it does
    sys.modules["torchaudio.sox_effects"] = types.ModuleType("torchaudio.sox_effects")
    sys.modules["torchaudio.sox_effects"].apply_effects_tensor = None
for name in ("HfFolder", "Repository"):  # only used with `--hub huggingface`
    if not hasattr(huggingface_hub, name):
        setattr(huggingface_hub, name, None)
if hasattr(torch.serialization, "add_safe_globals"):
    # s3prl keeps its options in its checkpoints, which a newer torch refuses to read otherwise
    torch.serialization.add_safe_globals([argparse.Namespace])


def load(path, frame_offset=0, num_frames=-1, **options):
    """(waveform (channels, samples) float32, rate), as torchaudio.load gives them, read with soundfile."""
    import soundfile

    samples, rate = soundfile.read(str(path), num_frames, frame_offset, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


if hasattr(torchaudio, "load_with_torchcodec") and importlib.util.find_spec("torchcodec") is None:
    # From 2.9 on torchaudio reads files with torchcodec alone.
    torchaudio.load = load


def main():
    """Register the student and hand over to s3prl."""
    from expert import UpstreamExpert
    from s3prl import hub
    from s3prl.run_downstream import main as run_downstream

    hub.student_upstream = UpstreamExpert
    run_downstream()


if __name__ == "__main__":
    main()
