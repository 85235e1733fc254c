"""Corpora of speakers: VoxCeleb1 (SID, ASV) and Libri2Mix (SD)."""

import random
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fithubert.config.data import Libri2MixData, VoxCelebData
from fithubert.data import Turn, Utterance, draw
from fithubert.data.audio import read_recording, trim_silence
from fithubert.data.corpora import Layout, draft, find_layout
from fithubert.data.listing import Corpus, Progress, Skipped, list_visible
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.frames import HUBERT_MIN_SAMPLES

_HOME = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html"
#: The identification list under the names that s3prl and its makers give it; the trials of the original test.
IDENTIFICATION, TRIALS = ("veri_test_class.txt", "iden_split.txt"), "voxceleb1_test_v2.txt"
_IDENTIFICATION_HOME = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/iden_split.txt"
_TRIALS_HOME = "https://www.openslr.org/49"
_SPLITS = {"1": "train", "2": "dev", "3": "test"}
#: 8 s: SUPERB's SID and ASV read this much of a longer recording in training.
CROP_SAMPLES = 128_000
#: ASV trains on recordings that are longer than 2 s.
ASV_MIN_SAMPLES = 32_001
#: As many dev speakers as the test has, and the videos of each that training lacks.
_DEV_SPEAKERS, _DEV_VIDEOS = 40, 2


def read_voxceleb1(config: VoxCelebData, on_progress: Progress | None = None) -> Corpus:
    """The utterances of one task with their speakers, of `{dev,test}/wav/idXXXXX/VIDEO/*.wav` or one merged `wav/`.

    `sid`: train, dev and test by the flags 1, 2 and 3 of the identification list, 1,251 classes. `asv`: all speakers
    that the trial list does not name are train, its trials are the verification split. Differs: two videos of each of
    40 training speakers are dev, with one same-speaker and one other-speaker trial an utterance, since the official
    recipe selects on test. With `trim_silence`, silences are cut out, which reads every recording, and recordings of
    at most 2 s are then left out of train and dev. With `crops`, longer recordings of train are windows of 8 s. Own
    reader: torchaudio's classes want one merged folder and fetch their lists, and none gives ASV's training set. Raises
    UserError if a list or a file that it names is missing or broken.
    """
    layout = find_layout(config.path, "VoxCeleb1", "VoxCeleb1", _HOME)
    speakers = _find_speakers(layout)
    read = _read_identification if config.task == "sid" else _read_verification
    drafts = list(read(layout, speakers))
    skipped: tuple[Skipped, ...] = ()
    if config.trim_silence:
        trimmed = [replace(u, trimmed=True) for u in drafts]
        manifest = layout.finish(trimmed, on_progress, count_samples=lambda path: _count_sound(path, config.gain_db))
        manifest, skipped = _drop_short(layout, manifest)
    else:
        manifest = layout.finish(drafts, on_progress)
    return Corpus(replace(manifest, utterances=tuple(draw_crops(manifest, config.crops))), skipped)


def _count_sound(path: Path, gain_db: float) -> int:
    return len(trim_silence(read_recording(path), gain_db))


def _drop_short(layout: Layout, manifest: Manifest) -> tuple[Manifest, tuple[Skipped, ...]]:
    """Without recordings of train and dev that have at most 2 s; a trial of the test needs its own."""
    silent = [u for u in manifest.select("verification") if u.num_samples < HUBERT_MIN_SAMPLES]
    if silent:
        raise layout.broken(silent[0].audio, "is silent")
    short = {u.id: u for u in manifest.select(("train", "dev")) if u.num_samples < ASV_MIN_SAMPLES}
    kept = (u for u in manifest if u.id not in short)
    rows = tuple(u if u.trials is None else replace(u, trials=_without(u.trials, short)) for u in kept)
    reason = f"at most 2 s without its silences ({len(short)} such recordings, this is the first)"
    skipped = (Skipped(next(iter(short.values())).audio, reason),) if short else ()
    return replace(manifest, utterances=rows), skipped


def _without(trials: Sequence[str], dropped: Container[str]) -> tuple[str, ...] | None:
    return tuple(trial for trial in trials if trial not in dropped) or None


def draw_crops(manifest: Manifest, crops: int) -> Iterator[Utterance]:
    """The utterances, each of train that is longer than CROP_SAMPLES as `crops` windows of it (0: as it is).

    Windows are drawn by the utterance's name, so that a corpus always has the same ones.
    """
    for utterance in manifest:
        room = utterance.num_samples - CROP_SAMPLES
        if not crops or utterance.split != "train" or room <= 0:
            yield utterance
            continue
        generator = random.Random(utterance.id)
        for number in range(crops):
            first = generator.randint(0, room)
            crop_id = f"{utterance.id}/crop{number}"
            yield replace(utterance, id=crop_id, first_sample=first, num_samples=CROP_SAMPLES)


def _find_speakers(layout: Layout) -> dict[str, Path]:
    """Speaker -> the folder of their videos."""
    merged = layout.root / "wav"
    folders = [merged] if merged.is_dir() else [layout.folder("dev", "wav"), layout.folder("test", "wav")]
    return {path.name: path for folder in folders for path in list_visible(folder) if path.is_dir()}


def _read_identification(layout: Layout, speakers: dict[str, Path]) -> Iterator[Utterance]:
    found = [name for name in IDENTIFICATION if (layout.root / name).is_file()]
    name = found[0] if found else IDENTIFICATION[1]
    listed = replace(layout, name="the identification list", obtained=_IDENTIFICATION_HOME)
    for line in listed.lines(name):
        flag, _, path = line.partition(" ")
        if flag not in _SPLITS or path.count("/") != 2:
            raise listed.broken(name, f"the line {line!r} is not `1|2|3 SPEAKER/VIDEO/FILE.wav`")
        yield _utterance(layout, speakers, path, _SPLITS[flag])


def _read_verification(layout: Layout, speakers: dict[str, Path]) -> Iterator[Utterance]:
    trials: dict[str, list[str]] = {}
    listed = replace(layout, name="the trial list", obtained=_TRIALS_HOME)
    for line in listed.lines(TRIALS):
        label, *pair = line.split()
        if label not in ("0", "1") or [p.count("/") for p in pair] != [2, 2]:
            raise listed.broken(TRIALS, f"the line {line!r} is not `0|1 SPEAKER/VIDEO/FILE.wav SPEAKER/VIDEO/FILE.wav`")
        if (label == "1") != (_speaker(pair[0]) == _speaker(pair[1])):
            raise listed.broken(TRIALS, f"the line {line!r} contradicts its speakers")
        trials.setdefault(pair[0], []).append(pair[1].removesuffix(".wav"))
        trials.setdefault(pair[1], [])
    for path, others in trials.items():
        yield _utterance(layout, speakers, path, "verification", tuple(others))
    tried = {_speaker(path) for path in trials}
    training = {s: _find_videos(folder) for s, folder in speakers.items() if s not in tried}
    if not training:
        raise UserError(f"{layout.root}: VoxCeleb1 holds only the speakers of the trials; get it from {_HOME}")
    dev = _choose_dev(training)
    for speaker, videos in training.items():
        for video, files in videos.items():
            if video not in dev.get(speaker, ()):
                yield from (_utterance(layout, speakers, f"{speaker}/{video}/{f}", "train") for f in files)
    yield from _read_dev(layout, speakers, [[(f"{s}/{v}", training[s][v]) for v in dev[s]] for s in dev])


def _find_videos(folder: Path) -> dict[str, list[str]]:
    videos: dict[str, list[str]] = defaultdict(list)
    for path in list_visible(folder, "*/*.wav"):
        videos[path.parent.name].append(path.name)
    return videos


def _choose_dev(training: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    """Speaker -> the videos held out, drawn by digests of their names; at least one is left for training."""
    able = [speaker for speaker, videos in training.items() if len(videos) > _DEV_VIDEOS]
    chosen = sorted(able, key=partial(draw, "dev"))[:_DEV_SPEAKERS]
    return {speaker: sorted(training[speaker], key=partial(draw, "dev"))[:_DEV_VIDEOS] for speaker in chosen}


def _read_dev(
    layout: Layout, speakers: dict[str, Path], held_out: Sequence[Sequence[tuple[str, list[str]]]]
) -> Iterator[Utterance]:
    """Every utterance of a first video against one of the same speaker's and one of the next speaker's second video."""
    for place, ((first, files), (second, others)) in enumerate(held_out):
        foreign, strangers = held_out[(place + 1) % len(held_out)][1]
        for number, file in enumerate(files):
            pair = (f"{second}/{others[number % len(others)]}", f"{foreign}/{strangers[number % len(strangers)]}")
            trials = tuple(dict.fromkeys(path.removesuffix(".wav") for path in pair))
            yield _utterance(layout, speakers, f"{first}/{file}", "dev", trials)
        yield from (_utterance(layout, speakers, f"{second}/{file}", "dev") for file in others)


def _utterance(
    layout: Layout, speakers: dict[str, Path], path: str, split: str, trials: tuple[str, ...] = ()
) -> Utterance:
    speaker = _speaker(path)
    if speaker not in speakers:
        raise UserError(f"{layout.root}: a list names {path}, and there is no folder {speaker}; get it from {_HOME}")
    audio = layout.relative(speakers[speaker].parent / path)
    return draft(path.removesuffix(".wav"), audio, split, "sentence", speaker=speaker, trials=trials or None)


def _speaker(path: str) -> str:
    return path.partition("/")[0]


_MIXTURES_HOME = "https://github.com/s3prl/LibriMix (generate_librimix_sd.sh: 16 kHz, max, mix_both)"
_TURNS_HOME = "https://github.com/s3prl/LibriMix (scripts/prepare_diarization.py)"
_SUBSETS = {"train": "train-100", "dev": "dev", "test": "test"}


def read_libri2mix(config: Libri2MixData, on_progress: Progress | None = None) -> Corpus:
    """Noisy mixtures of two speakers of `wav16k/max/{train-100,dev,test}/mix_both` with their turns.

    Turns are those of `rttm`, or of `segments` and `utt2spk`, which hold the same. Audio is looked up in
    the corpus first, and otherwise at the path in `wav.scp`. Own reader: `torchaudio.datasets.LibriMix` has no turns.
    Raises UserError if a file is missing or broken.
    """
    layout = find_layout(config.path, "Libri2Mix", "Libri2Mix", _MIXTURES_HOME)
    labels = Layout(config.labels or layout.root / "data", "the Kaldi folder of Libri2Mix", _TURNS_HOME)
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
