"""Of every published corpus, what is missing or broken is named in one line, with the way to get it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from fithubert.config.data import IemocapData, Libri2MixData, LibriSpeechData, PlainCorpus, VoxCelebData
from fithubert.data.corpora.content import LEXICON_FILES
from fithubert.data.prepare import read_corpus
from fithubert.errors import UserError
from tests.data.corpora import miniatures

FLUENT, SNIPS, QUESST = "fluent_speech_commands_dataset", "SNIPS", "quesst14Database"
LISTS, SESSIONS, BOOKS, VOX = "meta_data/Session1/train_meta_data.json", "IEMOCAP/Session", "LibriSpeech", "VoxCeleb1"
TURNS, TRIALS = "Libri2Mix/data/dev/rttm", f"{VOX}/voxceleb1_test_v2.txt"
PAIR = "id10270/aaaaaaaaaaa/00001.wav"
NO_FILE = "no such file; .* comes from"
#: Paths below the corpus, the lines that are written there (None: they are deleted), what the reader then says (None:
#: nothing is read), and options. The harms of one corpus add up.
HARMS: dict[str, list[tuple[Any, ...]]] = {
    "fluent_speech_commands": [
        (f"{FLUENT}/wavs/speakers/spk1/valid-4.wav", None, "valid-4.wav: no such audio file; Fluent .* from https"),
        (f"{FLUENT}/data/test_data.csv", [",path,speakerId", "0,wavs/x.wav,spk2"], "not the list that was published"),
        (f"{FLUENT}/data/valid_data.csv", None, f"data/valid_data.csv: {NO_FILE}"),
        (FLUENT, None, f"{FLUENT}: no such folder"),
    ],
    "snips": [
        (f"{SNIPS}/slots.txt", ["O", "genre", "owner", "playlist", "number"],
         "slots.txt: lacks the slot 'time' of Ivy-snips-train-2; get it again from https://github.com/aws-samples"),
        (f"{SNIPS}/slots.txt", ["O", *miniatures.SLOT_TYPES], None),
        (f"{SNIPS}/all.iob.snips.txt", ["Ivy-snips-train-0 BOS go EOS\tO O"], "the line of Ivy-snips-train-0 is not"),
        (f"{SNIPS}/all.iob.snips.txt", ["Ivy-snips-train-0 BOS go EOS\tO O X"], "has no line for Ivy-snips-train-1"),
        (f"{SNIPS}/train/*.wav", None, "SNIPS/train: holds no wav files of Ivy, Joanna"),
        (f"{SNIPS}/all.iob.snips.txt", None, f"all.iob.snips.txt: {NO_FILE}"),
        (f"{SNIPS}/slots.txt", None, f"slots.txt: {NO_FILE}"),
    ],
    "iemocap": [
        (LISTS, ['{"meta_data": [{"path": "Session2/other.wav"}]}'], "names Session2/other", {"lists": "meta_data"}),
        (LISTS, ['{"meta_data": [{}]}'], "train_meta_data.json: has no `meta_data`", {"lists": "meta_data"}),
        (LISTS, None, "json: no such file; the order of the official split comes from", {"lists": "meta_data"}),
        (f"{SESSIONS}3/sentences/wav/Ses03F_impro01/*_F000.wav", None, "no such audio file; IEMOCAP comes from"),
        (f"{SESSIONS}4/dialog/EmoEvaluation/*", None, "Session4/dialog/EmoEvaluation: holds no txt files"),
        (f"{SESSIONS}4", None, "Session4/dialog/EmoEvaluation: no such folder"),
    ],
    "libri2mix": [
        ("Libri2Mix/wav16k/max/dev/mix_both/*.wav", None, "no such audio file; Libri2Mix comes from"),
        (TURNS, ["SPEAKER 29-1-0000_94-2-0001 1 0.1"], "dev/rttm: the line 'SPEAKER .*' does not give a speaker"),
        (TURNS, ["SPEAKER 29-1-0000_94-2-0001 1 0.1 0.5 <NA> <NA> 29 <NA>"], "30-1-0000_95-2-0001, which has no turns"),
        ("Libri2Mix/data/train/wav.scp", None, "wav.scp: no such file; the Kaldi folder of .*prepare_diarization"),
        ("Libri2Mix/data", None, "data/train/segments: no such file"),
    ],
    "librispeech": [
        ("nothing", None, "500: no such folder; LibriSpeech comes from", {"train": ("train-other-500",)}),
        ("nothing", None, f"nowhere/{LEXICON_FILES[0]}: no such lexicon file", {"lexicon": "nowhere"}),
        (f"lexicon/{LEXICON_FILES[1]}", ["THREE TH R IY1"], "neither lexicon has 'FOUR' of 10-7-0001"),
        (f"lexicon/{LEXICON_FILES[1]}", ["THREE TH R II"], "line 1: 'II' is not one of the 71 phones"),
        ("lexicon", None, None),
        (f"{BOOKS}/test-clean/14/7/14-7-0002.flac", ["fLaC but no more"], "14-7-0002.flac: not readable as audio"),
        (f"{BOOKS}/dev-clean/12/7/12-7.trans.txt", ["12-7-0000 ONE"], "12-7.trans.txt: has no line for 12-7-0001"),
        ("nothing", None, "gone: data.path is not a folder; it should hold LibriSpeech", {"path": "gone"}),
    ],
    "quesst14": [
        (f"{QUESST}/Audio/quesst14_00002.wav", None, "no such audio file; QUESST 2014 comes from https"),
        (f"{QUESST}/scoring/groundtruth_quesst14_eval/quesst14_eval.rttm", None, f"quesst14_eval.rttm: {NO_FILE}"),
        (f"{QUESST}/scoring/language_key_dev.lst", ["one.wav"], "language_key_dev.lst: not lines of `FILE LANGUAGE`"),
        (f"{QUESST}/scoring/language_key_dev.lst", None, f"scoring/language_key_dev.lst: {NO_FILE}"),
        (QUESST, None, f"{QUESST}: no such folder"),
    ],
    "speech_commands": [
        (folder, None, f"{folder}.*: no such folder; Speech Commands v0.01 comes from .*download")
        for folder in (
            "speech_commands_test_set_v0.01/_silence_", "speech_commands_test_set_v0.01",
            "speech_commands_v0.01/_background_noise_", "speech_commands_v0.01/left", "speech_commands_v0.01",
        )
    ],
    "voxceleb1": [
        (TRIALS, [f"1 {PAIR} id10271/ccccccccccc/00001.wav"], "contradicts its speakers", {"task": "asv"}),
        (TRIALS, [f"1 {PAIR}"], r"is not `0\|1", {"task": "asv"}),
        (TRIALS, None, "no such file; the trial list comes from https", {"task": "asv"}),
        (f"{VOX}/dev/wav/id10002/bbbbbbbbbbb/00002.wav", None, "no such audio file; VoxCeleb1 comes from"),
        (f"{VOX}/dev/wav/id10002", None, "names id10002/aaaaaaaaaaa/00001.wav, and there is no folder id10002"),
        (f"{VOX}/veri_test_class.txt", ["1 id10001/../secret.wav"], "id10001/../secret.wav: leads out of its folder"),
        (f"{VOX}/veri_test_class.txt", ["4 id10001/aaaaaaaaaaa/00001.wav"], r"is not `1\|2\|3"),
        (f"{VOX}/veri_test_class.txt", None, "no such file; the identification list comes from .*/meta/iden"),
        (f"{VOX}/test", None, "test/wav: no such folder"),
    ],
}  # fmt: skip
CONFIGS = {
    "iemocap": IemocapData, "libri2mix": Libri2MixData, "librispeech": LibriSpeechData, "voxceleb1": VoxCelebData,
}  # fmt: skip


@pytest.mark.parametrize("source", HARMS)
def test_what_is_missing_or_broken_is_one_line(source: str, tmp_path: Path) -> None:
    root = getattr(miniatures, f"write_{source}")(tmp_path / "corpora")
    for pattern, lines, said, *options in HARMS[source]:
        if lines is not None:
            miniatures.write_text(root / pattern, *lines)
        for path in root.glob(pattern) if lines is None else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        given = {"source": source, "path": root, **(options[0] if options else {})}
        given |= {name: root / given[name] for name in ("path", "lists", "lexicon") if name in given}
        if said is None:
            continue
        with pytest.raises(UserError, match=said) as error:
            read_corpus(CONFIGS.get(source, PlainCorpus).model_validate(given))
        assert "\n" not in str(error.value)
