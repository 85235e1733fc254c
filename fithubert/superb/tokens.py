"""Symbols as numbers, and words as characters."""

from collections.abc import Sequence

import numpy as np

from fithubert.data.labels import CHARACTERS, WORD_EDGE
from fithubert.superb.metrics import IntArray


def number_tokens(*groups: Sequence[Sequence[str]]) -> list[list[IntArray]]:
    """The same lists of sequences with every different symbol as one number, shared by all groups."""
    numbers: dict[str, int] = {}
    return [
        [np.array([numbers.setdefault(symbol, len(numbers)) for symbol in row], dtype=np.int64) for row in group]
        for group in groups
    ]


def spell(words: Sequence[str]) -> tuple[str, ...]:
    """The upper-case characters of the words, each word ended by WORD_EDGE; other characters are dropped."""
    return tuple(c for word in words for c in (*word.upper(), WORD_EDGE) if c in CHARACTERS)


def split_words(characters: Sequence[str]) -> list[str]:
    """The words of a character sequence, split at WORD_EDGE; empty words vanish."""
    return [word for word in "".join(characters).split(WORD_EDGE) if word]
