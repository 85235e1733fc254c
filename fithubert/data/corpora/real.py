"""Real human speech: parts of four free corpora in one manifest, with labels and splits for the ten SUPERB tasks.

| folder | tasks | split |
| --- | --- | --- |
| `librispeech/LibriSpeech/test-clean` | PR, ASR | by speaker, sexes balanced; `train-clean-100` joins train |
| the same | SID | another chapter of a speaker is dev and test, or the end of the only one |
| the same, `librispeech_untranscribed` | ASV | the test speakers, those of test-other, and single sentences |
| `arabic_speech_commands` | KS, QbE | as published, by speaker |
| `emodb` | ER | five folds of two speakers |
| `speech_to_intent` | IC, SF | by file, so that a speaker may be in two splits |
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fithubert.config.data import RealData
from fithubert.data import PHONES, Intent, Slot, Utterance, draw
from fithubert.data.corpora import Layout, draft
from fithubert.data.corpora.content import SPEAKERS, find_audio, read_transcripts, speaker_of
from fithubert.data.corpora.real_audio import QUERIES_EACH, write_real_audio
from fithubert.data.listing import Corpus, Progress, Skipped, list_visible
from fithubert.data.synthetic import espeak
from fithubert.data.synthetic.corpus import run_job
from fithubert.errors import UserError
from fithubert.files import read_json

#: The 39 phones of the CMU Pronouncing Dictionary, in which a reduced vowel is AH.
CMU_PHONES = tuple(phone for phone in PHONES if phone != "AX")
_HOME = "the folder of real speech (docs/superb.md lists its parts)"
_BOOKS = "librispeech/LibriSpeech"
#: Of each sex, the shares of speakers in dev and test: 2 and 5 of 20.
_DEV_SHARE, _TEST_SHARE = 0.1, 0.25
#: SID: the part of an only chapter that is held out; the first part of what is held out, which is dev.
_SID_SHARE, _SID_DEV_SHARE = 0.25, 0.25
#: Sentences of each speaker in ASV's trials.
_TRIAL_SENTENCES = 10
_KEYWORD_SPLITS = {"train": "train", "val": "dev", "test": "test"}
FOLDS = (("03", "08"), ("09", "10"), ("11", "13"), ("12", "14"), ("15", "16"))
EMOTIONS = {
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "joy", "T": "sadness", "N": "neutral",
}  # fmt: skip
#: In the first order of the orders' grammar; the list does not say in which they were spoken.
SLOTS = ("size", "roast", "numberOfShots", "coffeeDrink", "milkAmount", "sugarAmount")
#: Of 619 orders.
_DEV_ORDERS, _TEST_ORDERS, _ORDERS = 60, 130, 619


def read_real(config: RealData, on_progress: Progress | None = None) -> Corpus:
    """All parts that `config.path` has; a part that it lacks is listed, with the tasks that are not run then.

    PR's 39 phones are those of the CMU dictionary without stress; a sentence with a word that neither the dictionary
    nor espeak-ng has is not a part of PR, which is listed. Of a drink order IC's three labels are size, drink and
    roast, and SF's words are the slots' values alone. Raises UserError if the folder or LibriSpeech is missing, or a
    list is broken.
    """
    if not config.path.is_dir():
        raise UserError(f"{config.path}: real speech is not here, so nothing is run; data.path names its folder")
    layout = Layout(config.path.absolute(), "real speech", _HOME)
    utterances, skipped = _read_books(layout, config.seed)
    for part, (read, tasks) in _PARTS.items():
        if (layout.root / part).is_dir():
            utterances += read(layout, config)
        else:
            skipped.append(Skipped(part, f"no such folder, so {tasks} not run"))
    manifest = layout.finish(utterances, on_progress, {"phones": CMU_PHONES})
    return Corpus(manifest, tuple(skipped), partial(write_real_audio, manifest, config.seed))


def _read_books(layout: Layout, seed: int) -> tuple[list[Utterance], list[Skipped]]:
    """LibriSpeech: sentences with text and phones, and ASV's sentences without."""
    # An archive that was unpacked here lacks the upper folder.
    books = _BOOKS if (layout.root / _BOOKS).is_dir() else Path(_BOOKS).name
    rows = [line.split("|") for line in layout.lines(books, SPEAKERS) if not line.startswith(";")]
    sexes = {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
    spoken = dict(read_transcripts(layout, books, "test-clean"))
    splits = _split_speakers(sorted({speaker_of(path) for path in spoken}), sexes, seed)
    identified = _split_for_sid(list(spoken))
    more = dict(read_transcripts(layout, books, "train-clean-100")) if _has(layout, books, "train-clean-100") else {}
    sentences = [
        _sentence(layout, path, splits[speaker_of(path)], text=text, words=tuple(text.split()),
                  task_splits=(f"sid:{identified[path]}", "qbe:none"))
        for path, text in spoken.items()
    ]  # fmt: skip
    sentences += [
        _sentence(layout, path, "train", text=text, words=tuple(text.split()), task_splits=("sid:none", "qbe:none"))
        for path, text in more.items()
    ]
    strangers, singles = (
        [_sentence(layout, path, "verification") for path in find_audio(layout, *parts)] if _has(layout, *parts) else []
        for parts in (("librispeech_untranscribed", name) for name in ("test-other", "train-clean-100"))
    )
    pronounced, skipped = _pronounce(layout, sentences)
    return _add_trials(pronounced, strangers, singles, sexes, seed), skipped


def _has(layout: Layout, *parts: str) -> bool:
    return layout.root.joinpath(*parts).is_dir()


def _sentence(layout: Layout, path: Path, split: str, **labels: object) -> Utterance:
    return draft(path.stem, layout.relative(path), split, "sentence", speaker=speaker_of(path), **labels)


def _split_speakers(speakers: Sequence[str], sexes: dict[str, str], seed: int) -> dict[str, str]:
    """Speaker -> split, with the same shares of both sexes."""
    splits = {}
    for sex in "FM":
        drawn = sorted((s for s in speakers if sexes.get(s) == sex), key=lambda s: draw(seed, s))
        # At least two, so that there are pairs of different speakers of a sex.
        dev, test = (max(2, round(share * len(drawn))) for share in (_DEV_SHARE, _TEST_SHARE))
        for place, speaker in enumerate(drawn):
            splits[speaker] = "dev" if place < dev else "test" if place < dev + test else "train"
    unknown = set(speakers) - set(splits)
    if unknown:
        raise UserError(f"{SPEAKERS}: gives no sex of the speaker {min(unknown)}")
    return splits


def _split_for_sid(paths: Sequence[Path]) -> dict[Path, str]:
    """Recording -> split: a speaker's shortest chapter, or the end of the only one, is held out for dev and test."""
    chapters: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths, key=lambda path: path.stem):
        chapters[speaker_of(path)][path.parent.name].append(path)
    splits = dict.fromkeys(paths, "train")
    for of_speaker in chapters.values():
        held_out = min(of_speaker.values(), key=len)
        if len(of_speaker) == 1:
            held_out = held_out[-max(1, round(_SID_SHARE * len(held_out))) :]
        # Not from the chapters of train, in which the recording alone gives a speaker away.
        edge = round(_SID_DEV_SHARE * len(held_out))
        splits |= dict.fromkeys(held_out[:edge], "dev") | dict.fromkeys(held_out[edge:], "test")
    return splits


def _pronounce(layout: Layout, sentences: Sequence[Utterance]) -> tuple[list[Utterance], list[Skipped]]:
    dictionary = ("lexicon", "cmudict.dict")
    if not layout.root.joinpath(*dictionary).is_file():
        return list(sentences), [Skipped("/".join(dictionary), "no such file, so pr is not run")]
    known = pronounce({u.id: u.text or "" for u in sentences}, read_dictionary(layout, *dictionary))
    silent = [u for u in sentences if u.id not in known]
    reason = f"a word without phones ({len(silent)} such sentences, not in pr; espeak-ng says most unknown words)"
    skipped = [Skipped(silent[0].id, reason)] if silent else []
    return [replace(u, pronunciation=known.get(u.id)) for u in sentences], skipped


def read_dictionary(layout: Layout, *path: str) -> dict[str, tuple[str, ...]]:
    """Lower-case word -> the phones of its first pronunciation, from lines `word PH0 ON1 ES # comment`.

    Raises UserError if the file is missing or has an unknown phone.
    """
    words: dict[str, tuple[str, ...]] = {}
    for line in layout.lines(*path):
        word, *stressed = line.partition("#")[0].split()
        phones = tuple(phone.rstrip("012") for phone in stressed)
        foreign = set(phones) - set(CMU_PHONES)
        if foreign:
            raise layout.broken(Path(*path), f"{word}: {min(foreign)!r} is not one of the 39 phones")
        # Further pronunciations are `word(2)`; the first comes first.
        words.setdefault(word, phones)
    return words


def pronounce(texts: Mapping[str, str], dictionary: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Id -> the phones of its text, word after word; texts with a word that cannot be pronounced are left out.

    A word that the dictionary lacks is pronounced by espeak-ng, if that is installed.
    """
    unknown = sorted({word for text in texts.values() for word in text.split()} - set(dictionary))
    known = {**dictionary, **_guess(unknown)}
    spoken = {name: text.split() for name, text in texts.items()}
    return {
        name: tuple(phone for word in words for phone in known[word])
        for name, words in spoken.items()
        if known.keys() >= set(words)
    }


def _guess(words: list[str]) -> dict[str, tuple[str, ...]]:
    """The phones of those words that espeak-ng can say with the phones of the dictionary; none if it is missing."""
    try:
        espeak.find_espeak()
    except UserError:
        return {}
    spoken = run_job({"words": words}, espeak.__name__) if words else ()
    guessed = {word: espeak.to_cmu_phones(sounds) for word, sounds in zip(words, spoken, strict=True)}
    return {word: phones for word, phones in guessed.items() if phones}


def _add_trials(
    sentences: Sequence[Utterance],
    strangers: Sequence[Utterance],
    singles: Sequence[Utterance],
    sexes: dict[str, str],
    seed: int,
) -> list[Utterance]:
    """All utterances, with ASV's split and trials, which are within a sex.

    Of dev and test: all pairs of some sentences of each speaker. Singles: one sentence of each test speaker.
    """
    tried: dict[str, list[Utterance]] = {
        "dev": _choose([u for u in sentences if u.split == "dev"], seed),
        "verification": _choose([*(u for u in sentences if u.split == "test"), *strangers], seed),
    }
    moved: dict[str, Utterance] = {}
    for split, rows in tried.items():
        for place, row in enumerate(rows):
            others = (u.id for u in rows[place + 1 :] if sexes[u.speaker or ""] == sexes[row.speaker or ""])
            splits = (*(row.task_splits or ()), f"asv:{split}") if row.split != split else row.task_splits
            moved[row.id] = replace(row, trials=tuple(others) or None, task_splits=splits)
    unused = (u for u in sentences if u.split == "dev" and u.id not in moved)
    moved |= {u.id: replace(u, task_splits=(*(u.task_splits or ()), "asv:none")) for u in unused}
    first = {u.speaker: u for u in reversed(tried["verification"])}
    for row in singles:
        others = (u.id for u in first.values() if sexes[u.speaker or ""] == sexes[row.speaker or ""])
        moved[row.id] = replace(row, trials=tuple(others) or None)
    return [moved.get(u.id, u) for u in (*sentences, *strangers, *singles)]


def _choose(sentences: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Of each speaker the same number of sentences, drawn by their names."""
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for sentence in sentences:
        by_speaker[sentence.speaker or ""].append(sentence)
    return [
        u for name in sorted(by_speaker)
        for u in sorted(by_speaker[name], key=lambda u: draw(seed, u.id))[:_TRIAL_SENTENCES]
    ]  # fmt: skip


def _read_keywords(layout: Layout, config: RealData) -> Iterator[Utterance]:
    """Keyword clips; the first ones of each word and split are QbE's queries too."""
    part = "arabic_speech_commands"
    for listed, split in _KEYWORD_SPLITS.items():
        asked: dict[str, int] = defaultdict(int)
        lines = layout.lines(part, f"{listed}.csv")[1:]
        for line in sorted(lines, key=lambda line: draw(config.seed, line)):
            if line.count(",") != 2:
                raise layout.broken(Path(part, f"{listed}.csv"), f"the line {line!r} is not `FILE,WORD,SPEAKER`")
            file, word, speaker = line.split(",")
            audio, named = f"{part}/{file}", f"asc-{speaker}"
            name = Path(audio).with_suffix("").as_posix()
            query = split != "train" and asked[word] < QUERIES_EACH
            asked[word] += query
            if query:
                yield draft(f"query/{name}", audio, split, "query", speaker=named, query=word)
            yield draft(name, audio, split, "keyword", speaker=named, keyword=word)


def _read_emotions(layout: Layout, config: RealData) -> Iterator[Utterance]:
    """`SSTTTEv`: speaker, text, emotion, version. Dev is the next fold."""
    tested, held_out = FOLDS[config.fold - 1], FOLDS[config.fold % len(FOLDS)]
    for path in list_visible(layout.folder("emodb", "audio")):
        speaker, label = path.stem[:2], path.stem[5:6]
        if label not in EMOTIONS:
            raise layout.broken(path, "is not named SPEAKER TEXT EMOTION VERSION, as 03a01Fa")
        split = "test" if speaker in tested else "dev" if speaker in held_out else "train"
        yield draft(
            f"emodb-{path.stem}", layout.relative(path), split, "sentence",
            speaker=f"emodb-{speaker}", style=EMOTIONS[label], task_splits=("sid:none", "asv:none"),
        )  # fmt: skip


def _read_orders(layout: Layout, config: RealData) -> Iterator[Utterance]:
    part = "speech_to_intent"
    listed = read_json(layout.file(part, "label.json"))
    drawn = sorted(listed, key=lambda name: draw(config.seed, name))
    dev, test = (max(1, len(drawn) * count // _ORDERS) for count in (_DEV_ORDERS, _TEST_ORDERS))
    for place, name in enumerate(drawn):
        try:
            values = {key: " ".join(value.lower().split()) for key, value in listed[name]["slots"].items()}
        except (KeyError, TypeError, AttributeError):
            raise layout.broken(Path(part, "label.json"), f"{name} has no slots") from None
        slots: list[Slot] = []
        words: list[str] = []
        for slot in (slot for slot in SLOTS if slot in values):
            said = values[slot].split()
            slots.append(Slot(slot, values[slot], len(words), len(said)))
            words += said
        yield draft(
            f"{part}/{Path(name).stem}", f"{part}/audio/{name}",
            "dev" if place < dev else "test" if place < dev + test else "train", "command",
            text=" ".join(words), words=tuple(words), slots=tuple(slots),
            intent=Intent(*(values.get(slot, "none") for slot in ("size", "coffeeDrink", "roast"))),
        )  # fmt: skip


_PARTS: dict[str, tuple[Callable[[Layout, RealData], Iterator[Utterance]], str]] = {
    "arabic_speech_commands": (_read_keywords, "ks and qbe are"),
    "emodb": (_read_emotions, "er is"),
    "speech_to_intent": (_read_orders, "ic and sf are"),
}
