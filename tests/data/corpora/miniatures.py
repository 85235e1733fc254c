"""Miniature copies of published corpora: their folders, lists and file names, a few seconds of synthetic audio."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from fithubert.data import KEYWORDS, OTHER_WORD, SILENCE
from fithubert.data.corpora.content import LEXICON_FILES

WORDS = ("ONE", "TWO", "THREE", "FOUR")
PHONES = {"ONE": "W AH1 N", "TWO": "T UW1", "THREE": "TH R IY1", "FOUR": "F AO1 R"}


def write_audio(path: Path, seconds: float = 0.6, hz: float = 300.0, rate_hz: int = 16_000, seed: int = 0) -> Path:
    """A tone in noise, as wav, flac, ogg or opus by the name of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng([seed, int(hz)]).normal(size=len(time))
    samples = 0.4 * np.sin(2 * np.pi * hz * time) + 0.02 * noise
    if path.suffix == ".opus":
        soundfile.write(path, samples, rate_hz, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, samples, rate_hz, subtype="VORBIS" if path.suffix == ".ogg" else "PCM_16")
    return path


def write_text(path: Path, *lines: str) -> Path:
    """A text file with these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_librispeech(
    root: Path,
    subsets: tuple[str, ...] = ("train-clean-100", "dev-clean", "test-clean"),
    utterances: int = 4,
    suffix: str = ".flac",
) -> Path:
    """`LibriSpeech/` with two speakers a subset, and the lexicon files beside it."""
    for number, subset in enumerate(subsets):
        for speaker in (str(10 + 2 * number), str(11 + 2 * number)):
            folder = root / "LibriSpeech" / subset / speaker / "7"
            stems = [f"{speaker}-7-{index:04d}" for index in range(utterances)]
            texts = [" ".join(WORDS[(i + k) % 4] for k in range(2 + i % 2)) for i in range(utterances)]
            write_text(folder / f"{speaker}-7.trans.txt", *(f"{s} {t}" for s, t in zip(stems, texts, strict=True)))
            for index, stem in enumerate(stems):
                write_audio(folder / f"{stem}{suffix}", 0.6 + 0.1 * index, 200 + 40 * int(speaker), seed=index)
    write_lexicon(root / "lexicon")
    return root


def write_lexicon(folder: Path) -> Path:
    """Both lexicon files: the first pronunciation of a word counts, and the first file's."""
    write_text(folder / LEXICON_FILES[0], "ONE\tW AH1 N", "ONE\tHH W AH1 N", f"TWO\t{PHONES['TWO']}")
    write_text(folder / LEXICON_FILES[1], "TWO\tSPN", *(f"{w} {PHONES[w]}" for w in ("THREE", "FOUR")))
    return folder


#: File names whose hash puts their speaker into train, dev, and neither.
SPEAKERS = {"train": ("00001eef", "00003dde"), "dev": ("0003fccf",), None: ("00005ccd", "0002c779")}


def write_speech_commands(root: Path) -> Path:
    """Both archives' folders: the ten words and two others, noises of 3 s, and the twelve classes of the test set."""
    training, test = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    for number, word in enumerate((*KEYWORDS, "bed", "wow")):
        for speaker in (s for of_split in SPEAKERS.values() for s in of_split):
            write_audio(training / word / f"{speaker}_nohash_0.wav", 0.5, 150 + 40 * number, seed=int(speaker, 16))
    for noise in ("doing_the_dishes", "pink_noise"):
        write_audio(training / "_background_noise_" / f"{noise}.wav", 3.0, 60 + len(noise))
    for number, keyword in enumerate((*KEYWORDS, OTHER_WORD, SILENCE)):
        # A few names in the archive end twice.
        for name in ("1b4c9b89_nohash_0.wav", "1b4c9b89_nohash_1.wav.wav"):
            write_audio(test / keyword / name, 1.0, 150 + 40 * number, seed=len(name))
    write_text(training / "README.md", "not audio")
    return root


def write_voxceleb1(root: Path, seconds: float = 0.6) -> Path:
    """Four dev and two test speakers with three videos of two files, the identification list, and the trial list."""
    listed = []
    for number, speaker in enumerate(("id10001", "id10002", "id10003", "id10004", "id10270", "id10271")):
        split = "test" if number > 3 else "dev"
        for flag, video in enumerate(("aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc"), 1):
            for file in ("00001", "00002"):
                path = f"{speaker}/{video}/{file}.wav"
                write_audio(root / "VoxCeleb1" / split / "wav" / path, seconds, 150 + 70 * number, seed=flag)
                listed.append(f"{flag} {path}")
    write_text(root / "VoxCeleb1" / "veri_test_class.txt", *listed)
    first, second = "id10270/aaaaaaaaaaa/00001.wav", "id10271/aaaaaaaaaaa/00001.wav"
    trials = [f"1 {first} id10270/bbbbbbbbbbb/00002.wav", f"0 {first} {second}"]
    trials += [f"1 {second} id10271/ccccccccccc/00001.wav", f"0 {second} {first}"]
    write_text(root / "VoxCeleb1" / "voxceleb1_test_v2.txt", *trials)
    return root


INTENTS = (
    ("Turn on the lights", "activate", "lights", "none"),
    ("Turn off the lights in the kitchen", "deactivate", "lights", "kitchen"),
    ("Louder", "increase", "volume", "none"),
    ("Switch the music on, please", "activate", "music", "none"),
)


#: One for each of the 14 objects, with all 6 actions and 4 locations: the label space of the corpus.
ALL_INTENTS = tuple(
    (f"Command {i}", f"action {i % 6}", f"object {i}", f"location {i % 4}") for i in range(14)
)  # fmt: skip


def write_fluent_speech_commands(root: Path, intents: Sequence[tuple[str, str, str, str]] = INTENTS) -> Path:
    """`fluent_speech_commands_dataset/` with three csv lists and a speaker for each, two commands an intent."""
    inner = root / "fluent_speech_commands_dataset"
    for number, split in enumerate(("train", "valid", "test")):
        speaker, rows = f"spk{number}", []
        for index in range(2 * len(intents)):
            path = f"wavs/speakers/{speaker}/{split}-{index}.wav"
            write_audio(inner / path, 0.6, 150 + 60 * (index % 4), seed=index)
            text, *intent = intents[index % len(intents)]
            quoted = f'"{text}"' if "," in text else text
            rows.append(",".join((str(index), path, speaker, quoted, *intent)))
        write_text(inner / "data" / f"{split}_data.csv", ",path,speakerId,transcription,action,object,location", *rows)
    return root


def write_quesst14(root: Path) -> Path:
    """`quesst14Database/` at 8 kHz: English documents and one Czech, dev and eval queries, their lists and matches."""
    inner = root / "quesst14Database"
    documents = [f"quesst14_{number:05d}" for number in range(1, 7)]
    for number, name in enumerate(documents):
        write_audio(inner / "Audio" / f"{name}.wav", 0.8, 200 + 60 * number, rate_hz=8_000)
    languages = ["nnenglish"] * 5 + ["czech"]
    lines = [f"quesst14Database/Audio/{n}.wav {lang}" for n, lang in zip(documents, languages, strict=True)]
    write_text(inner / "scoring" / "language_key_utterances.lst", *lines)
    for split in ("dev", "eval"):
        queries = [f"quesst14_{split}_{number:04d}" for number in range(1, 4)]
        for number, name in enumerate(queries):
            write_audio(inner / f"{split}_queries" / f"{name}.wav", 0.3, 200 + 60 * number, rate_hz=8_000)
        lines = [f"quesst14Database/{split}_queries/{n}.wav nnenglish" for n in queries[:2]]
        lines.append(f"quesst14Database/{split}_queries/{queries[2]}.wav czech")
        write_text(inner / "scoring" / f"language_key_{split}.lst", *lines)
        hits = [(documents[0], queries[0]), (documents[3], queries[0]), (documents[1], queries[1])]
        hits += [(documents[5], queries[2])]
        write_text(
            inner / "scoring" / f"groundtruth_quesst14_{split}" / f"quesst14_{split}.rttm",
            *(f"SPEAKER {name} 1 0.00 0.80 <NA> <NA> spk1 <NA>" for name in documents),
            *(f"LEXEME {name} 1 0.00 0.80 {query} lex spk1 0.5" for name, query in hits),
        )
    return root


def write_libri2mix(root: Path, mixtures: int = 4) -> Path:
    """`Libri2Mix/` (16 kHz, max, mix_both) with the Kaldi folders of its diarisation labels in `data`."""
    inner = root / "Libri2Mix"
    for offset, (split, subset) in enumerate((("train", "train-100"), ("dev", "dev"), ("test", "test"))):
        wav_scp, rttm, segments, utt2spk, reco2dur = [], [], [], [], []
        for number in range(mixtures):
            pair = (f"{10 * offset + 19 + number}", f"{10 * offset + 84 + number}")
            name = f"{pair[0]}-1-0000_{pair[1]}-2-0001"
            path = write_audio(inner / "wav16k" / "max" / subset / "mix_both" / f"{name}.wav", 1.2, 200 + 50 * number)
            wav_scp.append(f"{name} {path}")
            reco2dur.append(f"{name} 1.2")
            for speaker, start, end in ((pair[0], 0.05, 0.7), (pair[1], 0.4, 1.1)):
                rttm.append(f"SPEAKER {name} 1 {start} {end - start:.2f} <NA> <NA> {speaker} <NA>")
                segments.append(f"{name}_{speaker} {name} {start} {end}")
                utt2spk.append(f"{name}_{speaker} {speaker}")
        files = {"wav.scp": wav_scp, "rttm": rttm, "segments": segments, "utt2spk": utt2spk, "reco2dur": reco2dur}
        for file, lines in files.items():
            write_text(inner / "data" / split / file, *lines)
    return root


#: Of each session's two dialogues: who speaks, and the category that the raters agreed on.
EMOTIONS = (("F000", "neu"), ("M000", "exc"), ("F001", "ang"), ("M001", "sad"), ("F002", "hap"), ("M002", "fru"))


def write_iemocap(root: Path) -> Path:
    """`IEMOCAP/` with five sessions of two dialogues, beside s3prl's lists in another order than that of the paths."""
    inner, order = root / "IEMOCAP", {}
    for session in range(1, 6):
        order[session] = []
        for dialogue in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1"):
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for number, (turn, category) in enumerate(EMOTIONS):
                path = f"Session{session}/sentences/wav/{dialogue}/{dialogue}_{turn}.wav"
                write_audio(inner / path, 0.6, 150 + 80 * number, seed=session)
                lines.append(f"[{number}.0 - {number}.6]\t{dialogue}_{turn}\t{category}\t[2.5, 2.5, 2.5]")
                lines.append("C-E2:\tNeutral;\t()")
                if category != "fru":
                    order[session].append({"path": path, "label": "hap" if category == "exc" else category})
            folder = inner / f"Session{session}" / "dialog" / "EmoEvaluation"
            write_text(folder / f"{dialogue}.txt", *lines)
            (folder / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    for fold in order:
        others = [row for session in reversed(order) if session != fold for row in order[session]]
        for split, rows in (("train", others), ("test", order[fold])):
            text = json.dumps({"labels": {"neu": 0, "hap": 1, "ang": 2, "sad": 3}, "meta_data": rows})
            write_text(root / "meta_data" / f"Session{fold}" / f"{split}_meta_data.json", text)
    return root


#: Command -> its slots, as all.iob.snips.txt has them.
SNIPS = (
    ("play jazz , please", "O genre O O", "PlayMusic"),
    ("add rock & roll to my list", "O genre genre genre O owner playlist", "AddToPlaylist"),
    ("book for two at noon", "O O number O time", "BookRestaurant"),
)
SLOT_TYPES = ("genre", "owner", "playlist", "number", "time", "city")


def write_snips(root: Path) -> Path:
    """`SNIPS/` with every command by two voices of each split, and one voice in a folder that is not its own."""
    lines = []
    for folder, voices in (
        ("train", ("Ivy", "Salli", "Brian")),
        ("valid", ("Amy", "Nicole")),
        ("test", ("Emma", "Brian")),
    ):
        for place, voice in enumerate(voices):
            for number, (text, labels, intent) in enumerate(SNIPS):
                name = f"{voice}-snips-{folder}-{number}"
                write_audio(root / "SNIPS" / folder / f"{name}.wav", 0.8, 150 + 70 * number, seed=place)
                lines.append(f"{name} BOS {text} EOS\tO {labels} {intent}")
    write_text(root / "SNIPS" / "all.iob.snips.txt", *lines)
    write_text(root / "SNIPS" / "slots.txt", "O", *SLOT_TYPES)
    return root
