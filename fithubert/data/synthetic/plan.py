"""Voices and speakers of the embedded corpus: who speaks which sentence in which split."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from fithubert.config.data import SyntheticData
from fithubert.data import KEYWORDS, OTHER_WORD, normalise
from fithubert.data.synthetic.espeak import ACCENTS
from fithubert.data.synthetic.recording import STYLES
from fithubert.data.synthetic.text import Command, draw_sentence, list_commands, split_of


@dataclass(frozen=True)
class Speaker:
    """One synthetic voice. `definition` is its voice variant in the synthesiser's own language."""

    name: str
    accent: str
    words_per_minute: int
    definition: str


def draw_speakers(world: str, seed: int, count: int) -> list[Speaker]:
    """`count` speakers, spread evenly over accents, vocal tract lengths and pitches; another world has other voices.

    The first speakers do not depend on `count` except through the spread, which is stratified over it.
    """
    rng = random.Random(f"speakers/{world}/{seed}")
    # Strata keep any two voices apart: independent draws would cluster.
    tracts, pitches, tempos = (_stratified(rng, count) for _ in range(3))
    names = [f"{'p' if world == 'pretraining' else 's'}{index:03d}" for index in range(count)]
    offset = rng.randrange(len(ACCENTS))
    return [
        _draw_speaker(rng, name, ACCENTS[(index + offset) % len(ACCENTS)], tracts[index], pitches[index], tempos[index])
        for index, name in enumerate(names)
    ]


def _stratified(rng: random.Random, count: int) -> list[float]:
    values = [(index + rng.random()) / count for index in range(count)]
    rng.shuffle(values)
    return values


def _draw_speaker(rng: random.Random, name: str, accent: str, tract: float, pitch: float, tempo: float) -> Speaker:
    # A short vocal tract usually comes with a high pitch: 0.84..1.24 of the formants, 70..240 Hz.
    scale = 0.84 + 0.40 * tract
    base_hz = round(70 * (240 / 70) ** min(1.0, max(0.0, 0.6 * tract + 0.4 * pitch)))
    top_hz = round(base_hz * rng.uniform(1.25, 1.9))
    lines = ["language variant", f"name {name}", f"pitch {base_hz} {top_hz}"]
    for formant in range(9):
        spread = 0.04 if formant in (1, 2) else 0.08
        frequency = round(100 * scale * rng.uniform(1 - spread, 1 + spread)) if formant else 100
        height = round(rng.uniform(70, 130)) if formant > 2 else round(rng.uniform(88, 112))
        lines.append(f"formant {formant} {frequency} {height} {round(rng.uniform(80, 150))}")
    tilt = rng.uniform(0.55, 1.25)
    lines.append(f"tone 600 170 1200 {round(135 * tilt)} 2000 {round(110 * tilt)} 3000 {round(110 * tilt)}")
    lines.append(f"flutter {rng.randrange(0, 8)}")
    lines.append(f"roughness {rng.choice((0, 0, 1, 1, 2, 3, 4))}")
    lines.append(f"voicing {round(rng.uniform(75, 125))}")
    lines.append(f"consonants {round(rng.uniform(75, 130))} {round(rng.uniform(75, 130))}")
    if rng.random() < 0.5:
        breath = rng.uniform(2, 14)
        lines.append("breath 0 " + " ".join(str(round(breath * rng.uniform(0.5, 1.2))) for _ in range(7)))
    lines.append("stressAdd " + " ".join(str(rng.randrange(-20, 21, 5)) for _ in range(8)))
    return Speaker(name, accent, round(145 + 65 * tempo), "\n".join(lines) + "\n")


#: Of all hours, by kind; `verification` is sentences of the held-out speakers.
_SHARES = {"sentence": 0.45, "keyword": 0.12, "command": 0.22, "mixture": 0.13, "query": 0.025, "verification": 0.055}


#: The share of each split: of sentences, of commands and mixtures (which are few), and of keyword speakers. Dev is as
#: large as test, since every choice is made on it.
_SENTENCE_SPLITS = {"train": 0.6, "dev": 0.22, "test": 0.18}
_FEW_SPLITS = {"train": 0.6, "dev": 0.19, "test": 0.21}
_KEYWORD_SPLITS = {"train": 0.56, "dev": 0.22, "test": 0.22}
#: The pre-training world needs no labels of tasks: sentences only.
_PRETRAINING = {"sentence": 0.99, "verification": 0.01}
_PRETRAINING_SPLITS = {"train": 0.95, "dev": 0.03, "test": 0.02}
#: Mean length of an utterance: a constant and a part for each letter, measured over the accents and styles.
_BASE_SECONDS, _LETTER_SECONDS = 0.52, 0.049
_KEYWORD_SECONDS = 1.0
#: The ten words, any other word, and silence.
_KEYWORD_CLASSES = len(KEYWORDS) + 2
#: Spoken in the place of a keyword; they share one class.
_OTHER_WORDS = (
    "bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow", "zero", "one", "two", "three",
    "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
#: Of a search query: long enough that it hardly occurs by accident.
_QUERY_WORDS, _QUERY_LETTERS = 3, 12
_FEWEST_QUERIES = 2


@dataclass(frozen=True)
class Item:
    """One item to speak. `text` as the synthesiser reads it; a part of a mixture (`part_of`) gets no row of its own."""

    id: str
    speaker: str
    split: str
    kind: str
    text: str
    style: str
    keyword: str | None = None
    command: Command | None = None
    query: str | None = None
    part_of: str | None = None


@dataclass(frozen=True)
class Plan:
    """All speakers, and the items to speak in order; `silences` are (id, split) of clips of noise alone.

    `world`: names the noise of the recordings (`recording.RATIOS_DB`).
    """

    speakers: tuple[Speaker, ...]
    items: tuple[Item, ...]
    silences: tuple[tuple[str, str], ...]
    world: str


class _Draft:
    """An unfinished plan: the items so far, and the texts already used."""

    def __init__(self, config: SyntheticData) -> None:
        self.rng = random.Random(f"plan/{config.world}/{config.seed}")
        self.world = config.world
        self.items: list[Item] = []
        self.silences: list[tuple[str, str]] = []
        self._taken: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._styles: list[str] = []

    def name(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}-{self._counts[kind]:06d}"

    def sentence(self, split: str) -> str:
        """A sentence of that split that no other utterance has."""
        while True:
            text = draw_sentence(self.rng, self.world)
            spoken = normalise(text)
            if spoken not in self._taken and split_of(spoken) == split:
                self._taken.add(spoken)
                return text

    def add(self, kind: str, speaker: str, split: str, text: str, **labels: Any) -> float:
        """Add an item; its expected seconds. `labels` are its other fields, if not the next id and the next style."""
        if "style" not in labels:
            # One after another in rounds, so that all are equally common.
            self._styles = self._styles or self.rng.sample(list(STYLES), len(STYLES))
            labels["style"] = self._styles.pop()
        name = labels.pop("id", None) or self.name(kind)
        self.items.append(Item(name, speaker, split, kind, text, **labels))
        return _BASE_SECONDS + _LETTER_SECONDS * len(text)

    def turns(self, names: Sequence[str]) -> Iterator[str]:
        """The speakers in a drawn order, again and again."""
        return cycle(self.rng.sample(names, len(names)))


def plan_corpus(config: SyntheticData) -> Plan:
    """The plan of the corpus, from the parameters alone.

    It has about `config.hours`, or more if a few utterances of every kind, split and class need more.
    """
    speakers = draw_speakers(config.world, config.seed, config.speakers + config.heldout_speakers)
    draft = _Draft(config)
    order = draft.rng.sample(range(len(speakers)), len(speakers))
    heldout = [speakers[i].name for i in sorted(order[: config.heldout_speakers])]
    seen = [speakers[i].name for i in sorted(order[config.heldout_speakers :])]
    pretraining = config.world == "pretraining"
    seconds = {kind: share * config.hours * 3600 for kind, share in (_PRETRAINING if pretraining else _SHARES).items()}
    for split, share in (_PRETRAINING_SPLITS if pretraining else _SENTENCE_SPLITS).items():
        # Some speaker has two sentences in every split: verification needs a pair of one voice.
        fewest = 2 * len(seen) if split == "train" else len(seen) + 1
        _plan_sentences(draft, split, seen, seconds["sentence"] * share, fewest)
        if pretraining:
            continue
        speaking = _keyword_speakers(seen, split)
        _plan_keywords(draft, split, speaking, seconds["keyword"] * _KEYWORD_SPLITS[split])
        _plan_commands(draft, split, seen, seconds["command"] * _FEW_SPLITS[split])
        _plan_mixtures(draft, split, seen, seconds["mixture"] * _FEW_SPLITS[split])
        if split != "train":
            _plan_queries(draft, split, seen, seconds["query"] / 2)
    _plan_sentences(draft, "verification", heldout, seconds["verification"], 3 * len(heldout))
    return Plan(tuple(speakers), tuple(draft.items), tuple(draft.silences), config.world)


def _plan_sentences(draft: _Draft, split: str, names: Sequence[str], seconds: float, fewest: int) -> None:
    spent = 0.0
    for count, name in enumerate(draft.turns(names)):
        if spent >= seconds and count >= fewest:
            return
        spent += draft.add("sentence", name, split, draft.sentence("test" if split == "verification" else split))


def _keyword_speakers(names: Sequence[str], split: str) -> list[str]:
    """The speakers of one split of the keyword task, which shares none between splits."""
    dev = max(1, round(_KEYWORD_SPLITS["dev"] * len(names)))
    test = dev + max(1, round(_KEYWORD_SPLITS["test"] * len(names)))
    return list({"dev": names[:dev], "test": names[dev:test], "train": names[test:]}[split])


def _plan_keywords(draft: _Draft, split: str, names: Sequence[str], seconds: float) -> None:
    turns = draft.turns(names)
    for _ in range(max(1, round(seconds / _KEYWORD_SECONDS / _KEYWORD_CLASSES))):
        for keyword in (*KEYWORDS, OTHER_WORD):
            word = draft.rng.choice(_OTHER_WORDS) if keyword == OTHER_WORD else keyword
            draft.add("keyword", next(turns), split, word, keyword=keyword)
        draft.silences.append((draft.name("keyword"), split))


def _plan_commands(draft: _Draft, split: str, names: Sequence[str], seconds: float) -> None:
    """Rounds of one command of every intent, so that all are equally common."""
    rounds = [cycle(draft.rng.sample(commands, len(commands))) for commands in list_commands(split)]
    turns, spent = draft.turns(names), 0.0
    while spent < seconds:
        for commands in draft.rng.sample(rounds, len(rounds)):
            command = next(commands)
            spent += draft.add("command", next(turns), split, command.text, command=command)


def _plan_mixtures(draft: _Draft, split: str, names: Sequence[str], seconds: float) -> None:
    spent = 0.0
    while True:
        mixture = draft.name("mixture")
        pair = draft.rng.sample(names, 2)
        for turn in range(draft.rng.randint(2, 4)):
            text = draft.sentence(split)
            spent += draft.add("mixture", pair[turn % 2], split, text, id=f"{mixture}.{turn}", part_of=mixture)
        if spent >= seconds:
            return


def _plan_queries(draft: _Draft, split: str, names: Sequence[str], seconds: float) -> None:
    """Search phrases, each out of another sentence of the split and spoken alone by another speaker."""
    sentences = [i for i in draft.items if i.split == split and i.kind == "sentence"]
    turns, spent, count = draft.turns(names), 0.0, 0
    for sentence in draft.rng.sample(sentences, len(sentences)):
        if spent >= seconds and count >= _FEWEST_QUERIES:
            return
        if phrases := _phrases(sentence.text):
            phrase = draft.rng.choice(phrases)
            speaker = next(name for name in turns if name != sentence.speaker)
            spent += draft.add("query", speaker, split, phrase, style="neutral", query=phrase)
            count += 1


def _phrases(text: str) -> list[str]:
    """The phrases of `text` to search for: as many words as a query has, in one breath."""
    breaths = [normalise(part).split() for part in re.split(r"[,.?]", text)]
    windows = [" ".join(words[i : i + _QUERY_WORDS]) for words in breaths for i in range(len(words) - _QUERY_WORDS + 1)]
    return [phrase for phrase in windows if len(phrase.replace(" ", "")) >= _QUERY_LETTERS]
