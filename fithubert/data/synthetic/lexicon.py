"""The words of the embedded corpus, by their place in a sentence."""


def _words(text: str) -> list[str]:
    return text.split()


PEOPLE = _words("""
    Anna Oscar Julia Hugo Martha Felix Nora Vincent Clara Jasper Edith Simon Ruth Gordon Alice Leo Hannah Philip
    Grace Roger Iris Victor Zoe Walter Joyce Samuel Thea Duncan Olive Howard Beth Charlie Naomi Jerome Ellen Boyd
    Faith Theodore Sheila Gilbert
""")
ROLES = _words("""
    teacher doctor farmer baker sailor judge singer painter child boy girl nurse captain soldier thief poet lawyer
    neighbour student tailor cook driver hunter gardener engineer shepherd widow stranger visitor cousin uncle aunt
    mother father brother sister king queen mayor guard butcher carpenter clerk dancer editor fisherman musician
    officer pilot plumber priest runner scholar servant traveller waiter witness author chemist champion
""")
ANIMALS = _words("""
    dog cat horse goat fox owl rabbit mouse eagle sheep donkey pigeon frog turtle badger lion monkey zebra spider
    goose beaver hedgehog otter whale shark tiger camel chicken raven parrot
""")
THINGS = _words("""
    letter box basket bottle hammer ladder coin ring knife map candle mirror chair table blanket cup plate bag clock
    book picture feather rope wheel stone shell jacket glove shoe boot hat scarf button needle thread bucket broom
    shovel violin piano drum trumpet flute guitar engine bicycle wagon boat canoe raft kite ball toy doll pencil
    brush paper envelope parcel package suitcase wallet key lock lamp lantern torch radio telephone camera telescope
    watch chain necklace bracelet jewel treasure statue vase jar jug kettle pan spoon fork bowl loaf cheese apple
    orange pear cherry plum peach melon lemon onion potato carrot cabbage bean pumpkin biscuit cake pie sandwich
    sausage fish egg butter jam cushion pillow curtain carpet towel sponge soap razor comb badge ticket passport
    journal diary calendar magazine puzzle chess poison medicine sugar pepper ginger honey leather velvet ivory
    copper silver marble timber charcoal gravel
""")
PLACES = _words("""
    river garden market bridge forest village harbour kitchen cellar tower church castle station school office
    library museum theatre valley mountain meadow beach island desert cave tunnel road path corner square fountain
    palace prison hospital factory mill barn stable field orchard vineyard lake pond waterfall cliff shore
    lighthouse airport garage workshop studio hotel tavern bakery bank court chapel cottage mansion attic balcony
    hallway courtyard playground stadium pasture swamp canyon volcano jungle
""")
ADJECTIVES = _words("""
    old young small large heavy light bright dark quiet loud strange common rough smooth sharp dull clean dirty warm
    cold fresh dry wet empty full broken hidden golden wooden yellow purple green blue black white red orange grey
    silent gentle clever foolish brave shy proud humble honest angry cheerful gloomy curious lazy busy tired hungry
    thirsty rich poor famous unusual ordinary precious cheap rusty dusty shiny narrow wide thick thin tall short
    round square crooked straight hollow solid fragile enormous tiny ancient modern foreign local secret public
    private careful reckless peculiar familiar beautiful ugly charming boring thoughtful vicious poisonous delicious
    bitter
""")
#: Past tense; the object is a thing.
HANDLED = _words("""
    found lost bought sold carried dropped moved pushed pulled lifted painted mended broke stole borrowed wrapped
    opened closed covered counted measured weighed cleaned washed polished examined noticed ignored collected
    destroyed delivered returned exchanged gathered chose threw caught buried burned hid showed described remembered
    forgot demanded refused enjoyed treasured imagined placed shook touched watched guarded rescued repaired admired
""")
#: Past tense; the object is a person or an animal.
MET = _words("""
    saw met heard called followed chased helped thanked greeted visited warned praised blamed taught trusted pitied
    feared missed joined watched found surprised amused annoyed frightened comforted invited avoided recognised
    questioned encouraged persuaded punished rewarded obeyed accused defended adored
""")
#: Past tense, without an object.
DID = _words("""
    waited slept laughed cried shouted whispered sang danced walked ran jumped fell climbed swam worked rested
    smiled coughed yawned sneezed stumbled wandered vanished arrived departed returned listened prayed argued
    hesitated trembled shivered rejoiced complained stayed played fished hunted travelled paused stared lied joked
    gossiped
""")
#: Bare form, after a modal verb; the object is a thing.
HANDLE = _words("""
    find lose buy sell carry move push pull lift paint mend steal borrow wrap open close cover count measure weigh
    clean wash polish examine ignore collect destroy deliver return exchange gather choose throw catch bury burn
    hide show describe remember forget demand refuse enjoy imagine shake touch guard rescue repair admire use join
    judge
""")
ADVERBS = _words("""
    slowly quickly quietly carefully suddenly gladly rarely often always never finally nearly easily secretly
    usually calmly proudly bravely foolishly angrily eagerly patiently silently honestly
""")
NUMBERS = _words("two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty")
PREPOSITIONS = _words("near behind beside under above inside outside beyond across towards around past by from against")
#: Classes of the keyword task besides its ten words.
UNKNOWN, SILENCE = "_unknown_", "_silence_"
KEYWORDS = _words("yes no up down left right on off stop go")
#: Spoken in the place of a keyword; they share the label `_unknown_`.
UNKNOWN_WORDS = _words(
    "bed bird cat dog happy house marvin sheila tree wow zero one two three four five six seven eight nine"
)
TIMES = [
    "today", "yesterday", "tonight", "tomorrow", "at noon", "at midnight", "this morning", "last night",
    "every evening", "in the spring", "in July", "on Thursday", "on Tuesday", "after lunch", "before dawn",
    "during the storm", "as usual", "in the winter", "all day long", "for an hour", "twice a year", "at the weekend",
    "after the funeral", "once a month", "before the wedding", "since August", "without warning",
]  # fmt: skip
MODALS = [
    "will", "can", "should", "must", "might", "could", "would", "may", "shall", "cannot", "never could", "used to",
]  # fmt: skip
CONNECTIVES = [
    "because", "while", "before", "after", "although", "until", "so", "and", "but", "when", "unless", "if",
]  # fmt: skip
SAYINGS = [
    "they say that", "I think that", "we know that", "she said that", "you told me that", "he believes that",
    "everyone heard that", "nobody knew that", "I am sure that", "perhaps", "it seems that", "I wish that",
]  # fmt: skip
