"""Spoken commands with their intent (action, object, location) and slots, built from one table."""

import random
from dataclasses import dataclass

from fithubert.data.grammar import normalise

_POLITE = ["", "", "please ", "could you ", "can you please ", "hey house ", "now ", "would you kindly "]
_AFTER = ["", "", "", " please", " now", " right away", " for me", " if you can"]

_DEVICES = {
    "lights": ["lights", "lamps", "lamp"], "heating": ["heating", "heat", "radiator"],
    "music": ["music", "radio", "songs"],
    "volume": ["volume", "sound"], "fan": ["fan", "air conditioning"], "blinds": ["blinds", "shutters", "curtains"],
}  # fmt: skip
_ROOMS = ["kitchen", "bedroom", "bathroom", "garage"]
#: Action -> phrasings ({thing} is the device) and the devices it applies to.
_ACTIONS = {
    "activate": (["turn on the {thing}", "switch on the {thing}", "start the {thing}", "put the {thing} on"],
                 ["lights", "heating", "music", "fan"]),
    "deactivate": (["turn off the {thing}", "switch off the {thing}", "stop the {thing}", "shut down the {thing}"],
                   ["lights", "heating", "music", "fan"]),
    "increase": (["turn up the {thing}", "raise the {thing}", "increase the {thing}", "make the {thing} stronger"],
                 ["heating", "volume", "lights"]),
    "decrease": (["turn down the {thing}", "lower the {thing}", "reduce the {thing}", "make the {thing} weaker"],
                 ["heating", "volume", "lights"]),
    "open": (["open the {thing}", "pull up the {thing}", "raise the {thing}"], ["blinds"]),
    "close": (["close the {thing}", "pull down the {thing}", "shut the {thing}"], ["blinds"]),
}  # fmt: skip
_VALUES = {
    "hour": "six|seven|eight|nine|ten|eleven|twelve|one|two|three|four|five",
    "minute": "fifteen|thirty|forty five|o'clock|twenty",
    "day": "monday|tuesday|wednesday|thursday|friday|saturday|sunday",
    "city": "london|paris|oslo|chicago|boston|vienna|cairo|lisbon|geneva|toronto|dublin|madrid",
    "item": "bread|cheese|apples|butter|sugar|onions|coffee|soap|candles|oranges|fish|beans",
    "genre": "jazz|rock|blues|opera|soul|reggae|folk|swing",
    "number": "two|three|four|five|six|seven|eight|ten",
}
#: Action, object, phrasings with named slots.
_REQUESTS = [
    ("set", "alarm", ["set an alarm for <hour> <minute> on <day>", "wake me on <day> at <hour> <minute>"]),
    ("ask", "weather", ["what is the weather in <city> on <day>", "will it rain in <city> on <day>"]),
    ("bring", "groceries", ["bring me <number> <item>", "order <number> <item> for <day>", "buy <number> <item>"]),
    ("play", "music", ["play some <genre>", "play <number> hours of <genre>", "find <genre> from <city>"]),
    ("book", "travel", ["book <number> seats to <city> on <day>", "find a train from <city> at <hour> <minute>"]),
]  # fmt: skip


@dataclass(frozen=True)
class Command:
    """What is said and what it means. `slots`: name, value, first word, number of words."""

    text: str
    intent: tuple[str, str, str]
    slots: tuple[tuple[str, str, int, int], ...]


def draw_command(rng: random.Random) -> Command:
    """A command to a house: half of them to devices in rooms, half requests with values."""
    template, intent, values = _device(rng) if rng.random() < 0.5 else _request(rng)
    template = f"{rng.choice(_POLITE)}{template}{rng.choice(_AFTER)}"
    words: list[str] = []
    slots = []
    for part in template.split():
        name = part.strip("<>") if part.startswith("<") else None
        spoken = normalise(values[name] if name else part).split()
        if name:
            slots.append((name, " ".join(spoken), len(words), len(spoken)))
        words += spoken
    return Command(" ".join(words), intent, tuple(slots))


def _device(rng: random.Random) -> tuple[str, tuple[str, str, str], dict[str, str]]:
    action = rng.choice(list(_ACTIONS))
    phrasings, devices = _ACTIONS[action]
    device = rng.choice(devices)
    room = rng.choice(["none", "none", *_ROOMS])
    text = rng.choice(phrasings).format(thing="<device>") + ("" if room == "none" else " in the <room>")
    return text, (action, device, room), {"device": rng.choice(_DEVICES[device]), "room": room}


def _request(rng: random.Random) -> tuple[str, tuple[str, str, str], dict[str, str]]:
    action, thing, phrasings = rng.choice(_REQUESTS)
    return rng.choice(phrasings), (action, thing, "none"), {n: rng.choice(v.split("|")) for n, v in _VALUES.items()}
