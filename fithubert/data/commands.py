"""Spoken commands with their intent (action, object, location) and slots, built from one table."""

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product

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
#: Action, object and phrasings, which may hold one slot. Where that is `room`, its value is the location.
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
    """What is said and what it means. `slots`: name, value, first word, number of words."""

    text: str
    intent: tuple[str, str, str]
    slots: tuple[tuple[str, str, int, int], ...]


@cache
def list_commands(split: str) -> tuple[tuple[Command, ...], ...]:
    """The commands of `train`, `dev` or `test` to a house, by intent: every intent in every split, no text in two.

    Fluent Speech Commands has the same phrases in all splits; here what is heard in test was never said in training.
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
