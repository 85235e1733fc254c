"""Hidden states of recordings of any length: whole ones in batches, long ones window by window."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fithubert.data.listing import ListedRecordings
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import Windows, stream
from fithubert.store.shards import PlannedRow, check_finite, compute_hidden_states, sort_by_length
from fithubert.store.table import to_numbers

#: A recording, and the states (time, feature) of some or all of its frames, one for each layer.
Piece = tuple[PlannedRow, tuple[Tensor, ...]]


def compute_pieces(
    model: SpeechModel,
    recordings: ListedRecordings,
    rows: Sequence[PlannedRow],
    layers: Sequence[int],
    batch_seconds: float,
    windows: Windows,
) -> Iterator[Piece]:
    """The hidden states of `layers` (ascending) of `rows`: first all that run whole, then the others.

    The pieces of one recording follow one another and are together its states. Memory holds one batch, or one window
    with its context. Raises UserError if audio is unreadable or a hidden state is not finite.
    """
    whole = sort_by_length(row for row in rows if not windows.cut(row.num_samples))
    for utterance in compute_hidden_states(model, recordings, whole, layers, batch_seconds):
        yield utterance.row, utterance.hidden_states
    for row in sort_by_length(row for row in rows if windows.cut(row.num_samples)):
        blocks = recordings.read_blocks(recordings.utterances[row.index])
        for states in stream(model, blocks, windows.window_seconds, windows.context_seconds, layers):
            check_finite(states, model, row, layers)
            yield row, states


def collect_numbers(
    pieces: Iterable[Piece], dtype: str, folder: Path
) -> Iterator[tuple[PlannedRow, list[NDArray[np.floating[Any]]]]]:
    """Each recording with the numbers of every layer (`to_numbers`).

    Those of a recording in windows are mapped from files without a name in `folder`, so that memory holds one window.
    """
    for row, group in groupby(pieces, key=itemgetter(0)):
        parts = (states for _, states in group)
        states = next(parts)
        numbers = [to_numbers(layer, dtype) for layer in states]
        if len(states[0]) == row.num_frames:
            yield row, numbers
            continue
        with ExitStack() as stack:
            files = [stack.enter_context(TemporaryFile(dir=folder)) for _ in numbers]
            for piece in chain([numbers], ([to_numbers(layer, dtype) for layer in states] for states in parts)):
                for file, flat in zip(files, piece, strict=True):
                    file.write(flat.data)
            for file in files:
                file.flush()
            yield row, [np.memmap(file, flat.dtype, mode="c") for file, flat in zip(files, numbers, strict=True)]


def used_windows(recordings: ListedRecordings, windows: Windows) -> Windows | None:
    """`windows` if one of `recordings` is cut into them, as it is written to metadata."""
    return windows if any(windows.cut(utterance.num_samples) for utterance in recordings) else None
