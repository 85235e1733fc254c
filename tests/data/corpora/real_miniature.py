"""A miniature of the folder of real speech, with tones for voices."""

import json
from itertools import product
from pathlib import Path

from fithubert.data.corpora.real import FOLDS
from tests.data.corpora.miniatures import write_audio, write_text

WOMEN, MEN = ("11", "13", "15", "17", "19"), ("12", "14", "16", "18", "20")
#: `utrecht` has a sound that English lacks, so that nobody gives it phones.
TEXTS = ("ONE TWO", "TWO TWO ONE", "ONE UTRECHT", "TWO ONE")
KEYWORDS = ("yes", "zoom in")
ORDERS = (
    {"coffeeDrink": "latte", "milkAmount": " soy milk", "size": "eight ounce"},
    {"coffeeDrink": "mocha", "roast": "dark roast"},
)


def write_real(root: Path, suffix: str = ".wav") -> Path:
    """Ten speakers of two chapters (the last two of one), four who are not transcribed, and the other three parts."""
    books, others = root / "librispeech" / "LibriSpeech", root / "librispeech_untranscribed"
    for speaker in (*WOMEN, *MEN):
        for chapter in ("1",) if speaker in ("19", "20") else ("1", "2"):
            folder, stem = books / "test-clean" / speaker / chapter, f"{speaker}-{chapter}"
            texts = [f"{stem}-{number:04d} {text}" for number, text in enumerate(TEXTS[: 5 - int(chapter)])]
            write_text(folder / f"{stem}.trans.txt", *texts)
            for line in texts:
                write_audio(folder / f"{line.split()[0]}{suffix}", 1.6, 100 + 25 * int(speaker), seed=len(line))
    write_text(books / "train-clean-100" / "21" / "1" / "21-1.trans.txt", "21-1-0000 TWO")
    write_audio(books / "train-clean-100" / "21" / "1" / f"21-1-0000{suffix}")
    for part, speakers in (("test-other", ("31", "32")), ("train-clean-100", ("41", "42"))):
        for speaker, number in product(speakers, range(2 if part == "test-other" else 1)):
            write_audio(others / part / speaker / "1" / f"{speaker}-1-{number:04d}{suffix}", 0.6, 20 * int(speaker))
    sexes = [f"{speaker} | {'FM'[1 - int(speaker) % 2]} | test-clean | 8.0 | Name" for speaker in range(11, 43)]
    write_text(books / "SPEAKERS.TXT", "; ID |SEX| SUBSET |MINUTES| NAME", *sexes)
    write_text(root / "lexicon" / "cmudict.dict", "one W AH1 N", "one(2) HH W AH1 N # old", "two T UW1")
    _write_commands(root, suffix)
    return root


def _write_commands(root: Path, suffix: str) -> None:
    keywords = root / "arabic_speech_commands"
    for split, speaker in (("train", "0001"), ("val", "0002"), ("test", "0003")):
        clips = [(f"dataset/{word}/{speaker}_NO_{n:02d}{suffix}", word) for word in KEYWORDS for n in range(6)]
        write_text(keywords / f"{split}.csv", "file,class,speaker", *(f"{f},{word},{speaker}" for f, word in clips))
        for number, (file, _) in enumerate(clips):
            write_audio(keywords / file, 1.0, 200 + 10 * number, seed=int(speaker))
    for number, (speaker, emotion) in enumerate(product((s for fold in FOLDS for s in fold), "WN")):
        write_audio(root / "emodb" / "audio" / f"{speaker}a01{emotion}a{suffix}", 0.5, 150 + 10 * number)
    listed = {f"{number:02d}{suffix}": {"intent": "orderDrink", "slots": ORDERS[number % 2]} for number in range(10)}
    for number, name in enumerate(listed):
        write_audio(root / "speech_to_intent" / "audio" / name, 0.6, 150 + 30 * number)
    (root / "speech_to_intent" / "label.json").write_text(json.dumps(listed))
