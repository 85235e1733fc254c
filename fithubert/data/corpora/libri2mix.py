"""Libri2Mix: `wav16k/max/{train-100,dev,test}/mix_both` with Kaldi folders of speaker turns, for SD.

Own reader: `torchaudio.datasets.LibriMix` gives mixtures and sources, but no turns.
"""

from collections import defaultdict
from pathlib import Path

from fithubert.config.data import Libri2MixData
from fithubert.data.corpora.layout import Corpus, Layout, Progress, draft, find_layout
from fithubert.data.manifest import Turn

_HOME = "https://github.com/s3prl/LibriMix (generate_librimix_sd.sh: 16 kHz, max, mix_both)"
_LABELS_HOME = "https://github.com/s3prl/LibriMix (scripts/prepare_diarization.py)"
_SUBSETS = {"train": "train-100", "dev": "dev", "test": "test"}


def read_libri2mix(config: Libri2MixData, on_progress: Progress | None = None) -> Corpus:
    """Noisy mixtures of two speakers with their turns.

    Turns are those of `rttm`, or of `segments` and `utt2spk`, which hold the same. Audio is looked up in
    the corpus first, and otherwise at the path in `wav.scp`. Raises UserError if a file is missing or broken.
    """
    layout = find_layout(config.path, "Libri2Mix", "Libri2Mix", _HOME)
    labels = Layout(config.labels or layout.root / "data", "the Kaldi folder of Libri2Mix", _LABELS_HOME)
    utterances = []
    for split, subset in _SUBSETS.items():
        turns = _read_turns(labels, split)
        for line in labels.lines(split, "wav.scp"):
            name, _, given = line.partition(" ")
            if name not in turns:
                raise labels.broken(f"{split}/wav.scp", f"names {name}, which has no turns")
            audio = _find_audio(layout, Path("wav16k", "max", subset, "mix_both"), Path(given.strip()))
            utterances.append(draft(name, audio, split, "mixture", turns=tuple(turns[name])))
    return Corpus(layout.finish(utterances, on_progress))


def _find_audio(layout: Layout, folder: Path, given: Path) -> str:
    inside = folder / given.name
    return str(given) if given.is_file() and not (layout.root / inside).is_file() else inside.as_posix()


def _read_turns(labels: Layout, split: str) -> dict[str, list[Turn]]:
    """Recording -> turns in order of time."""
    has_rttm = (labels.root / split / "rttm").is_file()
    name = f"{split}/{'rttm' if has_rttm else 'segments'}"
    lines = labels.lines(name)
    segments = [] if has_rttm else [line.split() for line in labels.lines(split, "utt2spk")]
    speakers = {fields[0]: fields[-1] for fields in segments}
    turns: dict[str, list[Turn]] = defaultdict(list)
    for line in lines:
        fields = line.split()
        try:
            if has_rttm:
                recording, start = fields[1], float(fields[3])
                turns[recording].append(Turn(fields[7], start, start + float(fields[4])))
            else:
                turns[fields[1]].append(Turn(speakers[fields[0]], float(fields[2]), float(fields[3])))
        except (IndexError, KeyError, ValueError):
            raise labels.broken(name, f"the line {line!r} does not give a speaker, a start and an end") from None
    return {recording: sorted(found, key=lambda t: (t.start_seconds, t.speaker)) for recording, found in turns.items()}
