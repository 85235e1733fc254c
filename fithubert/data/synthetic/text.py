"""The texts of the embedded corpus: its words, its sentences and its commands."""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from fithubert.data import normalise


def _words(text: str) -> list[str]:
    """The words of `text`, or the groups of words that `|` separates."""
    return [group.strip() for group in text.split("|")] if "|" in text else text.split()


#: The words for each part of a sentence.
WORDS = {
    "person": _words("""
        Anna Oscar Julia Hugo Martha Felix Nora Vincent Clara Jasper Edith Simon Ruth Gordon Alice Leo Hannah Philip
        Grace Roger Iris Victor Zoe Walter Joyce Samuel Thea Duncan Olive Howard Beth Charlie Naomi Jerome Ellen Boyd
        Faith Theodore Sheila Gilbert
    """),
    "role": _words("""
        teacher doctor farmer baker sailor judge singer painter child boy girl nurse captain soldier thief poet lawyer
        neighbour student tailor cook driver hunter gardener engineer shepherd widow stranger visitor cousin uncle aunt
        mother father brother sister king queen mayor guard butcher carpenter clerk dancer editor fisherman musician
        officer pilot plumber priest runner scholar servant traveller waiter witness author chemist champion
    """),
    "animal": _words("""
        dog cat horse goat fox owl rabbit mouse eagle sheep donkey pigeon frog turtle badger lion monkey zebra spider
        goose beaver hedgehog otter whale shark tiger camel chicken raven parrot
    """),
    "object": _words("""
        letter box basket bottle hammer ladder coin ring knife map candle mirror chair table blanket cup plate bag clock
        book picture feather rope wheel stone shell jacket glove shoe boot hat scarf button needle thread bucket broom
        shovel violin piano drum trumpet flute guitar engine bicycle wagon boat canoe raft kite ball toy doll pencil
        brush paper envelope parcel package suitcase wallet key lock lamp lantern torch radio telephone camera telescope
        watch chain necklace bracelet jewel treasure statue vase jar jug kettle pan spoon fork bowl loaf cheese apple
        orange pear cherry plum peach melon lemon onion potato carrot cabbage bean pumpkin biscuit cake pie sandwich
        sausage fish egg butter jam cushion pillow curtain carpet towel sponge soap razor comb badge ticket passport
        journal diary calendar magazine puzzle chess poison medicine sugar pepper ginger honey leather velvet ivory
        copper silver marble timber charcoal gravel
    """),
    "site": _words("""
        river garden market bridge forest village harbour kitchen cellar tower church castle station school office
        library museum theatre valley mountain meadow beach island desert cave tunnel road path corner square fountain
        palace prison hospital factory mill barn stable field orchard vineyard lake pond waterfall cliff shore
        lighthouse airport garage workshop studio hotel tavern bakery bank court chapel cottage mansion attic balcony
        hallway courtyard playground stadium pasture swamp canyon volcano jungle
    """),
    "adjective": _words("""
        old young small large heavy light bright dark quiet loud strange common rough smooth sharp dull clean dirty warm
        cold fresh dry wet empty full broken hidden golden wooden yellow purple green blue black white red orange grey
        silent gentle clever foolish brave shy proud humble honest angry cheerful gloomy curious lazy busy tired hungry
        thirsty rich poor famous unusual ordinary precious cheap rusty dusty shiny narrow wide thick thin tall short
        round square crooked straight hollow solid fragile enormous tiny ancient modern foreign local secret public
        private careful reckless peculiar familiar beautiful ugly charming boring thoughtful vicious poisonous delicious
        bitter
    """),
    # Past tense; the object is a thing.
    "handled": _words("""
        found lost bought sold carried dropped moved pushed pulled lifted painted mended broke stole borrowed wrapped
        opened closed covered counted measured weighed cleaned washed polished examined noticed ignored collected
        destroyed delivered returned exchanged gathered chose threw caught buried burned hid showed described remembered
        forgot demanded refused enjoyed treasured imagined placed shook touched watched guarded rescued repaired admired
    """),
    # Past tense; the object is a person or an animal.
    "met": _words("""
        saw met heard called followed chased helped thanked greeted visited warned praised blamed taught trusted pitied
        feared missed joined watched found surprised amused annoyed frightened comforted invited avoided recognised
        questioned encouraged persuaded punished rewarded obeyed accused defended adored
    """),
    # Past tense, without an object.
    "did": _words("""
        waited slept laughed cried shouted whispered sang danced walked ran jumped fell climbed swam worked rested
        smiled coughed yawned sneezed stumbled wandered vanished arrived departed returned listened prayed argued
        hesitated trembled shivered rejoiced complained stayed played fished hunted travelled paused stared lied joked
        gossiped
    """),
    # Bare form, after a modal verb; the object is a thing.
    "handle": _words("""
        find lose buy sell carry move push pull lift paint mend steal borrow wrap open close cover count measure weigh
        clean wash polish examine ignore collect destroy deliver return exchange gather choose throw catch bury burn
        hide show describe remember forget demand refuse enjoy imagine shake touch guard rescue repair admire use join
        judge
    """),
    "adverb": _words("""
        slowly quickly quietly carefully suddenly gladly rarely often always never finally nearly easily secretly
        usually calmly proudly bravely foolishly angrily eagerly patiently silently honestly
    """),
    "number": _words("two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty"),
    "preposition": _words("""
        near behind beside under above inside outside beyond across towards around past by from against
    """),
    "auxiliary": _words("would should did could"),
    "time": _words("""
        today|yesterday|tonight|tomorrow|at noon|at midnight|this morning|last night|every evening|
        in the spring|in July|on Thursday|on Tuesday|after lunch|before dawn|during the storm|as usual|
        in the winter|all day long|for an hour|twice a year|at the weekend|after the funeral|once a month|
        before the wedding|since August|without warning
    """),
    "modal": _words("will|can|should|must|might|could|would|may|shall|cannot|never could|used to"),
    "connective": _words("because|while|before|after|although|until|so|and|but|when|unless|if"),
    "saying": _words("""
        they say that|I think that|we know that|she said that|you told me that|he believes that|
        everyone heard that|nobody knew that|I am sure that|perhaps|it seems that|I wish that
    """),
}  # fmt: skip
#: Each with the draw from 0 to 1 that it goes up to; a `<part>` is drawn.
_SENTENCES = (
    (0.12, "<saying> <clause>."),
    (0.24, "<clause>, <connective> <clause>."),
    (0.32, "<question>"),
    (0.40, "<time>, <clause>."),
    (0.48, "<thing>, <thing> and <thing> were <preposition> <place>."),
    (1.00, "<clause>."),
)
_CLAUSES = (
    (0.30, "<who> <how><handled> <thing>"),
    (0.45, "<who> <met> <who>"),
    (0.60, "<who> <did><so>"),
    (0.75, "<who> <modal> <handle> <thing>"),
    (0.87, "<thing> was <adjective> and <adjective>"),
    (1.00, "there were <number> <plural>"),
)
_QUESTIONS = (
    "did <who> <handle> <thing>?",
    "why <auxiliary> <who> <handle> <thing>?",
    "where is <thing> that <who> <handled>?",
    "who <handled> <thing> <preposition> <place>?",
    "how many <plural> are there <preposition> <place>?",
)
_ARTICLES = ("the", "the", "a", "my", "her", "this")
_PLURALS = {
    "child": "children", "thief": "thieves", "fisherman": "fishermen", "mouse": "mice", "sheep": "sheep",
    "goose": "geese", "fox": "foxes", "witness": "witnesses",
}  # fmt: skip


def world_of(text: str) -> str:
    """`default` or `pretraining`: the only world that may contain `text` (any case and punctuation)."""
    return "pretraining" if _hash(text)[0] % 2 else "default"


def split_of(text: str) -> str:
    """`train` (76 % of a world), `dev` (9 %) or `test`: the only split that may hold `text` (as for `world_of`)."""
    place = int.from_bytes(_hash(text)[1:5], "big") % 1000
    return "train" if place < 760 else "dev" if place < 850 else "test"


def _hash(text: str) -> bytes:
    return hashlib.sha256(normalise(text).encode()).digest()


def draw_sentence(rng: random.Random, world: str) -> str:
    """A sentence of that world: 3 to about 16 words."""
    while True:
        sentence = _draw_from(rng, _SENTENCES)
        if world_of(sentence) == world:
            return sentence


def _draw_from(rng: random.Random, templates: Sequence[tuple[float, str]]) -> str:
    draw = rng.random()
    return _fill(rng, next(template for below, template in templates if draw < below))


def _fill(rng: random.Random, template: str) -> str:
    """`template` with its parts drawn from left to right."""

    def draw(part: re.Match[str]) -> str:
        return rng.choice(WORDS[part[1]]) if part[1] in WORDS else _PHRASES[part[1]](rng)

    return re.sub("<([a-z]+)>", draw, template)


def _maybe(rng: random.Random, template: str, share: float) -> str:
    return _fill(rng, template) if rng.random() < share else ""


def _draw_clause(rng: random.Random) -> str:
    clause = _draw_from(rng, _CLAUSES)
    return clause + _maybe(rng, " <preposition> <place>", 0.35) + _maybe(rng, " <time>", 0.2)


def _draw_who(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        return rng.choice(WORDS["person"])
    return _draw_noun_phrase(rng, WORDS["role"] if draw < 0.8 else WORDS["animal"], 0.35)


def _draw_noun_phrase(rng: random.Random, nouns: list[str], share: float, articles: Sequence[str] = _ARTICLES) -> str:
    article = rng.choice(articles)
    words = _maybe(rng, "<adjective> ", share) + rng.choice(nouns)
    if article == "a" and words[0] in "aeiou" and not words.startswith(("un", "use")):
        article = "an"
    return f"{article} {words}"


def _draw_plural(rng: random.Random) -> str:
    noun = rng.choice(WORDS["role"] + WORDS["animal"])
    return _maybe(rng, "<adjective> ", 0.5) + _PLURALS.get(noun, f"{noun}s")


_PHRASES: dict[str, Callable[[random.Random], str]] = {
    "clause": _draw_clause,
    "question": lambda rng: _fill(rng, rng.choice(_QUESTIONS)),
    "who": _draw_who,
    "thing": lambda rng: _draw_noun_phrase(rng, WORDS["object"], 0.5),
    "place": lambda rng: _draw_noun_phrase(rng, WORDS["site"], 0.3, ("the", "the", "the", "our", "that")),
    "plural": _draw_plural,
    "how": lambda rng: _maybe(rng, "<adverb> ", 0.2),
    "so": lambda rng: _maybe(rng, " <adverb>", 0.4),
}


#: Slot -> its values.
_VALUES = {
    "room": "kitchen bedroom",
    "number": "two three five six nine ten",
    "hour": "four seven eight eleven twelve noon",
    "day": "monday tuesday thursday friday saturday sunday",
    "city": "london paris oslo boston cairo geneva",
    "genre": "jazz rock blues opera soul reggae",
    "item": "bread cheese butter sugar onions coffee",
    "name": "anna peter victor emma oscar julia",
}
_SWITCHES = (("activate", "on"), ("deactivate", "off"))
_LIGHTS = (
    "lights {0}|lights {0} please|lamps {0}|turn {0} the lights|turn {0} the lamps|turn the lights {0}|"
    "switch {0} the lights|switch {0} every lamp|switch the lamps {0}",
    "<room> lights {0}|<room> lamp {0}|lights {0} in the <room>|lamps {0} in the <room>|turn {0} the <room> lights|"
    "turn the <room> lamp {0}|turn {0} a lamp in the <room>|switch {0} the <room> lamp|switch the <room> lights {0}",
)
#: Action, object and phrasings, which may have one slot. If that is `room`, its value is the location.
#: Two intents a slot (`room` has four with the locations), so that no set of slot types is common.
_INTENTS = (
    *((action, "lights", phrasings.format(state)) for phrasings in _LIGHTS for action, state in _SWITCHES),
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
            for command in _list_values(action, thing, phrasing):
                by_intent.setdefault(command.intent, []).append(command)
    return tuple(_part(commands, split) for commands in by_intent.values())


def _list_values(action: str, thing: str, phrasing: str) -> list[Command]:
    """A command for every value of the slot of `phrasing`, or one if it has no slot."""
    slot = re.search("<([a-z]+)>", phrasing)
    if slot is None:
        return [Command(phrasing, (action, thing, "none"), ())]
    name, first_word = slot[1], len(phrasing[: slot.start()].split())
    commands = []
    for value in _VALUES[name].split():
        intent = (action, thing, value if name == "room" else "none")
        commands.append(Command(phrasing.replace(slot[0], value), intent, ((name, value, first_word, 1),)))
    return commands


def _part(commands: list[Command], split: str) -> tuple[Command, ...]:
    """60 % of one intent's commands for train, 15 % for dev, the rest for test, in the order of their hashes."""
    ordered = sorted(commands, key=lambda c: hashlib.sha256(c.text.encode()).digest())
    dev = max(1, round(0.6 * len(ordered)))
    test = dev + max(1, round(0.15 * len(ordered)))
    return tuple({"train": ordered[:dev], "dev": ordered[dev:test], "test": ordered[test:]}[split])
