"""What the speakers of the embedded corpus say: sentences without end, and which split each belongs to.

A text belongs to one world and one split by its own hash. So a sentence of the test split can never be drawn for
training, nor one of the default world for the pre-training world, whatever the seeds.
"""

import hashlib
import random
import unicodedata
from collections.abc import Callable

from fithubert.data import lexicon as lex

#: Of every thousand texts of a world: up to this number train, then dev, then test.
_TRAIN_BELOW, _DEV_BELOW = 760, 850


def normalise(text: str) -> str:
    """`text` in lower case: letters, marks and digits of any script and apostrophes, words parted by one space."""
    plain = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join("".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in plain).split())


def world_of(text: str) -> str:
    """`default` or `pretraining`: the only world whose speakers may say `text` (any case and punctuation)."""
    return "pretraining" if _hash(text)[0] % 2 else "default"


def split_of(text: str) -> str:
    """`train`, `dev` or `test`: the only split that may hold `text` (any case and punctuation)."""
    place = int.from_bytes(_hash(text)[1:5], "big") % 1000
    return "train" if place < _TRAIN_BELOW else "dev" if place < _DEV_BELOW else "test"


def draw_text(rng: random.Random, make: Callable[[random.Random], str], split: str, taken: set[str]) -> str:
    """A text from `make` that belongs to `split` and is not in `taken` (normalised), to which it is added."""
    while True:
        text = make(rng)
        spoken = normalise(text)
        if spoken not in taken and split_of(spoken) == split:
            taken.add(spoken)
            return text


def draw_sentence(rng: random.Random, world: str) -> str:
    """A sentence of that world: 3 to about 16 words."""
    while True:
        sentence = _sentence(rng)
        if world_of(sentence) == world:
            return sentence


def _hash(text: str) -> bytes:
    return hashlib.sha256(normalise(text).encode()).digest()


def _sentence(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.12:
        return f"{rng.choice(lex.SAYINGS)} {_clause(rng)}."
    if draw < 0.24:
        return f"{_clause(rng)}, {rng.choice(lex.CONNECTIVES)} {_clause(rng)}."
    if draw < 0.32:
        return _question(rng)
    if draw < 0.40:
        return f"{rng.choice(lex.TIMES)}, {_clause(rng)}."
    if draw < 0.48:
        return f"{_thing(rng)}, {_thing(rng)} and {_thing(rng)} were {rng.choice(lex.PREPOSITIONS)} {_place(rng)}."
    return f"{_clause(rng)}."


def _question(rng: random.Random) -> str:
    draw = rng.randrange(5)
    if draw == 0:
        return f"did {_who(rng)} {rng.choice(lex.HANDLE)} {_thing(rng)}?"
    if draw == 1:
        return (
            f"why {rng.choice(('would', 'should', 'did', 'could'))} {_who(rng)} {rng.choice(lex.HANDLE)} {_thing(rng)}?"
        )
    if draw == 2:
        return f"where is {_thing(rng)} that {_who(rng)} {rng.choice(lex.HANDLED)}?"
    if draw == 3:
        return f"who {rng.choice(lex.HANDLED)} {_thing(rng)} {rng.choice(lex.PREPOSITIONS)} {_place(rng)}?"
    return f"how many {_plural(rng)} are there {rng.choice(lex.PREPOSITIONS)} {_place(rng)}?"


def _clause(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.30:
        clause = f"{_who(rng)} {_maybe(rng, lex.ADVERBS, 0.2)}{rng.choice(lex.HANDLED)} {_thing(rng)}"
    elif draw < 0.45:
        clause = f"{_who(rng)} {rng.choice(lex.MET)} {_who(rng)}"
    elif draw < 0.60:
        clause = f"{_who(rng)} {rng.choice(lex.DID)}{_maybe_after(rng, lex.ADVERBS, 0.4)}"
    elif draw < 0.75:
        clause = f"{_who(rng)} {rng.choice(lex.MODALS)} {rng.choice(lex.HANDLE)} {_thing(rng)}"
    elif draw < 0.87:
        clause = f"{_thing(rng)} was {rng.choice(lex.ADJECTIVES)} and {rng.choice(lex.ADJECTIVES)}"
    else:
        clause = f"there were {rng.choice(lex.NUMBERS)} {_plural(rng)}"
    if rng.random() < 0.35:
        clause += f" {rng.choice(lex.PREPOSITIONS)} {_place(rng)}"
    if rng.random() < 0.2:
        clause += f" {rng.choice(lex.TIMES)}"
    return clause


def _who(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        return rng.choice(lex.PEOPLE)
    return _noun_phrase(rng, lex.ROLES if draw < 0.8 else lex.ANIMALS, 0.35)


def _thing(rng: random.Random) -> str:
    return _noun_phrase(rng, lex.THINGS, 0.5)


def _place(rng: random.Random) -> str:
    return _noun_phrase(rng, lex.PLACES, 0.3, ("the", "the", "the", "our", "that"))


def _noun_phrase(
    rng: random.Random,
    nouns: list[str],
    adjective: float,
    articles: tuple[str, ...] = ("the", "the", "a", "my", "her", "this"),
) -> str:
    article = rng.choice(articles)
    words = f"{_maybe(rng, lex.ADJECTIVES, adjective)}{rng.choice(nouns)}"
    if article == "a" and words[0] in "aeiou" and not words.startswith(("un", "use")):
        article = "an"
    return f"{article} {words}"


def _plural(rng: random.Random) -> str:
    noun = rng.choice(lex.ROLES + lex.ANIMALS)
    return f"{_maybe(rng, lex.ADJECTIVES, 0.5)}{_PLURALS.get(noun, noun + 's')}"


def _maybe(rng: random.Random, words: list[str], share: float) -> str:
    return f"{rng.choice(words)} " if rng.random() < share else ""


def _maybe_after(rng: random.Random, words: list[str], share: float) -> str:
    return f" {rng.choice(words)}" if rng.random() < share else ""


_PLURALS = {
    "child": "children", "thief": "thieves", "fisherman": "fishermen", "mouse": "mice", "sheep": "sheep",
    "goose": "geese", "fox": "foxes", "witness": "witnesses", "dress": "dresses",
}  # fmt: skip
