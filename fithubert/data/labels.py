"""Symbols of the label spaces that SUPERB fixes, whatever a corpus happens to hold."""

from fithubert.data.phones import CONSONANTS, VOWELS

#: Ends each word in character sequences.
WORD_EDGE = "|"
#: SUPERB's 28 characters.
CHARACTERS = (WORD_EDGE, "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
#: Ends a target sequence where the label space has it.
END = "<eos>"
#: Outputs that no target ever has; counted so that heads are as large as the official ones.
UNKNOWN, PAD = "<unk>", "<pad>"
SPECIALS = frozenset([END, UNKNOWN, PAD])

#: The 71 phones of SUPERB's phone recognition: silence, spoken noise, consonants, and vowels with their stress.
STRESSED_PHONES = (
    "SIL", "SPN", *sorted([*CONSONANTS, *(f"{v}{stress}" for v in VOWELS if v != "AX" for stress in "012")]),
)  # fmt: skip
