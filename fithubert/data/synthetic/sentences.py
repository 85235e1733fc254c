"""The sentences and commands of the embedded corpus."""

import hashlib
import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

from fithubert.data.synthetic import lexicon as lex

#: Of every thousand texts of a world: up to this number train, then dev, then test.
_TRAIN_BELOW, _DEV_BELOW = 760, 850


def normalise(text: str) -> str:
    """`text` in lower case: letters, marks and digits of any script and apostrophes, words parted by one space."""
    plain = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join("".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in plain).split())


def world_of(text: str) -> str:
    """`default` or `pretraining`: the only world that may contain `text` (any case and punctuation)."""
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


#: Slot -> its values.
_VALUES = {
    "room": ("kitchen", "bedroom"),
    "number": ("two", "three", "five", "six", "nine", "ten"),
    "hour": ("four", "seven", "eight", "eleven", "twelve", "noon"),
    "day": ("monday", "tuesday", "thursday", "friday", "saturday", "sunday"),
    "city": ("london", "paris", "oslo", "boston", "cairo", "geneva"),
    "genre": ("jazz", "rock", "blues", "opera", "soul", "reggae"),
    "item": ("bread", "cheese", "butter", "sugar", "onions", "coffee"),
    "name": ("anna", "peter", "victor", "emma", "oscar", "julia"),
}
#: Action, object and phrasings, which may have one slot. If that is `room`, its value is the location.
#: Two intents a slot (`room` has four with the locations), so that no set of slot types is common.
_INTENTS = (
    ("activate", "lights", "lights on|lights on please|lamps on|turn on the lights|turn on the lamps|"
     "turn the lights on|switch on the lights|switch on every lamp|switch the lamps on"),
    ("deactivate", "lights", "lights off|lights off please|lamps off|turn off the lights|turn off the lamps|"
     "turn the lights off|switch off the lights|switch off every lamp|switch the lamps off"),
    ("activate", "lights", "<room> lights on|<room> lamp on|lights on in the <room>|lamps on in the <room>|"
     "turn on the <room> lights|turn the <room> lamp on|turn on a lamp in the <room>|switch on the <room> lamp|"
     "switch the <room> lights on"),
    ("deactivate", "lights", "<room> lights off|<room> lamp off|lights off in the <room>|lamps off in the <room>|"
     "turn off the <room> lights|turn the <room> lamp off|turn off a lamp in the <room>|switch off the <room> lamp|"
     "switch the <room> lights off"),
    ("increase", "volume", "volume up by <number>|louder by <number>|raise the sound by <number>"),
    ("decrease", "volume", "volume down by <number>|softer by <number>|lower the sound by <number>"),
    ("set", "alarm", "wake me at <hour>|alarm at <hour>|set an alarm for <hour>"),
    ("start", "heating", "warm up at <hour>|heating from <hour>|start the heating at <hour>"),
    ("plan", "meeting", "meet me on <day>|new meeting on <day>|plan a meeting for <day>"),
    ("clear", "calendar", "clear <day>|keep <day> free|nothing else on <day>"),
    ("ask", "weather", "weather in <city>|is it raining in <city>|how hot is it in <city>"),
    ("book", "train", "train to <city>|book a seat to <city>|travel to <city>"),
    ("play", "music", "play <genre>|play me some <genre>|put on <genre>"),
    ("skip", "music", "no more <genre>|skip the <genre>|stop this <genre>"),
    ("buy", "groceries", "buy <item>|order some <item>|put <item> on the list"),
    ("find", "recipe", "cook with <item>|recipe with <item>|what goes with <item>"),
    ("call", "person", "call <name>|phone <name> now|ring up <name>"),
    ("message", "person", "tell <name> i am late|write to <name>|send <name> a message"),
)  # fmt: skip
#: Of the texts of every intent; the rest is test's.
_TRAIN_SHARE, _DEV_SHARE = 0.6, 0.15


@dataclass(frozen=True)
class Command:
    """A spoken command and its meaning. `slots`: name, value, first word, number of words."""

    text: str
    intent: tuple[str, str, str]
    slots: tuple[tuple[str, str, int, int], ...]


@cache
def list_commands(split: str) -> tuple[tuple[Command, ...], ...]:
    """The commands of `train`, `dev` or `test` to a house, by intent: every intent in every split, no text in two.

    Fluent Speech Commands has the same phrases in all splits; here no phrase of test occurs in training.
    """
    by_intent: dict[tuple[str, str, str], list[Command]] = {}
    for action, thing, phrasings in _INTENTS:
        for phrasing in phrasings.split("|"):
            for command in _fill(action, thing, phrasing):
                by_intent.setdefault(command.intent, []).append(command)
    return tuple(_part(commands, split) for commands in by_intent.values())


def _fill(action: str, thing: str, phrasing: str) -> list[Command]:
    """One command for every value of the slot of `phrasing`."""
    words = phrasing.split()
    slots = [(i, word.strip("<>")) for i, word in enumerate(words) if word.startswith("<")]
    commands = []
    for values in product(*(_VALUES[name] for _, name in slots)):
        filled = {at: (name, value) for (at, name), value in zip(slots, values, strict=True)}
        text = " ".join(filled[i][1] if i in filled else word for i, word in enumerate(words))
        location = next((value for name, value in filled.values() if name == "room"), "none")
        named = tuple((name, value, at, 1) for at, (name, value) in filled.items())
        commands.append(Command(text, (action, thing, location), named))
    return commands


def _part(commands: list[Command], split: str) -> tuple[Command, ...]:
    """The split's share of one intent's commands, which are dealt in the order of their hashes."""
    ordered = sorted(commands, key=lambda c: hashlib.sha256(c.text.encode()).digest())
    dev = max(1, round(_TRAIN_SHARE * len(ordered)))
    test = dev + max(1, round(_DEV_SHARE * len(ordered)))
    return tuple({"train": ordered[:dev], "dev": ordered[dev:test], "test": ordered[test:]}[split])
