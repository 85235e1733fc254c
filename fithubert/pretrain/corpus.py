"""Waveforms and units of a corpus in memory-mapped files."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fithubert.config.pretrain import UnitParams
from fithubert.data import frame_phones
from fithubert.data.batching import Crop, plan_eval_batches
from fithubert.data.manifest import Manifest, Phone, Utterance
from fithubert.errors import UserError
from fithubert.files import open_atomically
from fithubert.frames import (
    HUBERT_CONVOLUTIONS,
    HUBERT_STRIDE_SAMPLES,
    SAMPLE_RATE_HZ,
    count_frames,
    count_samples,
    pad_waveforms,
)
from fithubert.models.hubert import HubertModel
from fithubert.pretrain.units import UnitQuality, draw_utterances, measure_units, mfcc_frames
from fithubert.training import on_first_rank, sum_over_ranks
from fithubert.training.units import UnitModel, fit_units

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Utterances that are decoded together before they are written.
_DECODED = 256


def write_pieces(pieces: Iterable[NDArray[Any]], path: Path) -> None:
    """Write arrays of one type to `path`, one after the other; behind them is a CRC-32 of each, for `PieceFile`."""
    with open_atomically(path) as written:
        checksums = []
        for piece in pieces:
            content = piece.tobytes()
            checksums.append(crc32(content))
            written.write(content)
        written.write(np.array(checksums, "<u4").tobytes())


class PieceFile:
    """The arrays of `write_pieces`, of these lengths, in a memory-mapped file; each is checked when it is first read.

    Raises UserError if the file is missing or of another size, and later for a damaged piece.
    """

    def __init__(self, path: Path, kind: str, lengths: Sequence[int]) -> None:
        self.path = path
        self._offsets = list(accumulate(lengths, initial=0))
        if not is_whole(path, kind, lengths):
            raise UserError(f"{path}: not of this corpus, or cut off; delete it to write it again")
        size = np.dtype(kind).itemsize * self._offsets[-1]
        content = np.memmap(path, np.uint8, mode="r")
        self._values, self._checksums = content[:size].view(kind), content[size:].view("<u4")
        self._checked = np.zeros(len(lengths), dtype=bool)

    def piece(self, index: int) -> NDArray[Any]:
        """The array with this number; raises UserError if its bytes have changed since they were written."""
        found = self._values[self._offsets[index] : self._offsets[index + 1]]
        if not self._checked[index]:
            if crc32(found.tobytes()) != self._checksums[index]:
                raise UserError(f"{self.path}: damaged; delete it to write it again")
            self._checked[index] = True
        return found


def is_whole(path: Path, kind: str, lengths: Sequence[int]) -> bool:
    """Whether `path` exists with the size of pieces of these lengths."""
    return path.is_file() and path.stat().st_size == np.dtype(kind).itemsize * sum(lengths) + 4 * len(lengths)


def write_waveforms(manifest: Manifest, path: Path) -> None:
    """Write every waveform of `manifest`, one after the other, to `path` as 16 bits: 115 MB an hour.

    An existing complete file is kept. The samples of 16-bit files are kept exactly; others are rounded.
    """
    if is_whole(path, "<i2", [u.num_samples for u in manifest]):
        return
    if not any(u.num_samples for u in manifest):
        raise UserError("pretrain: there is no training audio; check the train split of the corpus")
    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        write_pieces(_read_samples(manifest, pool), path)


def _read_samples(manifest: Manifest, pool: ThreadPoolExecutor) -> Iterator[NDArray[Any]]:
    for start in range(0, len(manifest.utterances), _DECODED):
        for waveform in pool.map(manifest.read, manifest.utterances[start : start + _DECODED]):
            yield (waveform * 32768).round().clamp(-32768, 32767).numpy().astype("<i2")


class WaveformBank:
    """The utterances of `manifest` with their samples from `path`, the file of `write_waveforms`."""

    def __init__(self, manifest: Manifest, path: Path) -> None:
        self.utterances = manifest.utterances
        numbers = {name: number for number, name in enumerate(manifest.speakers)}
        self.num_speakers = len(numbers)
        self._speakers = [numbers.get(u.speaker or "", -1) for u in manifest]
        self.num_frames = [count_frames(u.num_samples) for u in self.utterances]
        self._samples = PieceFile(path, "<i2", [u.num_samples for u in self.utterances])

    @property
    def hours(self) -> float:
        """All audio together, in hours."""
        return sum(u.num_samples for u in self.utterances) / SAMPLE_RATE_HZ / 3600

    def speakers(self, crops: Sequence[Crop]) -> Tensor:
        """(batch,) int64 the numbers of the speakers of crops, -1 for unknown ones."""
        return torch.tensor([self._speakers[crop.index] for crop in crops])

    def whole(self, index: int) -> Tensor:
        """The waveform (samples,) float32 of one utterance."""
        return _as_waveform(self._samples.piece(index))

    def crops(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Waveforms (batch, samples) float32 and lengths (batch,) of crops that begin at frame boundaries."""
        starts = [crop.start_frame * HUBERT_STRIDE_SAMPLES for crop in crops]
        parts = [
            self._samples.piece(crop.index)[start : start + count_samples(crop.num_frames)]
            for crop, start in zip(crops, starts, strict=True)
        ]
        return pad_waveforms([_as_waveform(part) for part in parts])


class UnitBank:
    """The units of every utterance of a WaveformBank, from `path`, the file of `save_units`."""

    def __init__(self, path: Path, num_frames: Sequence[int]) -> None:
        self._units = PieceFile(path, "<i4", num_frames)

    def whole(self, index: int) -> NDArray[np.int64]:
        """The units (time,) of one utterance."""
        return self._units.piece(index).astype(np.int64)

    def crops(self, crops: Sequence[Crop]) -> Tensor:
        """Units (batch, time) int64 of the crops, -1 after each one's end."""
        wholes = (torch.from_numpy(self.whole(crop.index)) for crop in crops)
        units = [y.narrow(0, crop.start_frame, crop.num_frames) for y, crop in zip(wholes, crops, strict=True)]
        return pad_sequence(units, batch_first=True, padding_value=-1)


def save_units(units: Tensor, path: Path, num_frames: Sequence[int]) -> None:
    """Write the units (frames,) of a corpus, whose utterances have `num_frames`, to `path`."""
    write_pieces((piece.numpy() for piece in units.to("cpu", torch.int32).split(list(num_frames))), path)


def _as_waveform(samples: NDArray[np.int16]) -> Tensor:
    return torch.from_numpy(samples.astype(np.float32)) / 32768


#: Padded frames in one forward pass: 240 s.
BATCH_FRAMES = 12_000


def discover_units(
    params: UnitParams, seed: int, bank: WaveformBank, model: HubertModel | None, path: Path, fabric: "Fabric"
) -> UnitBank:
    """The units of every utterance of `bank`, from `path` or computed and written to it.

    The first rank fits them, every rank assigns its share. Raises UserError if there are too few frames.
    """
    if params.features == "phones":
        on_first_rank(fabric, lambda: save_units(align_units(params, bank), path, bank.num_frames))
    elif not on_first_rank(fabric, path.exists):
        units = on_first_rank(fabric, lambda: _fit(params, seed, bank, model, fabric.device))
        flat = sum_over_ranks(fabric, _assign_share(params, units, bank, model, fabric))
        on_first_rank(fabric, lambda: save_units(flat, path, bank.num_frames))
    return UnitBank(path, bank.num_frames)


def count_units(params: UnitParams, bank: WaveformBank) -> int:
    """The number of different units: `clusters`, or the states of all phones and one unit for silence."""
    if params.features != "phones":
        return params.clusters
    return len(_list_phones(bank.utterances)) * params.states_per_phone + 1


def align_units(params: UnitParams, bank: WaveformBank) -> Tensor:
    """(frames,) int64 the state of the phone at the centre of each frame of a corpus; the last unit is silence.

    Raises UserError if an utterance has no aligned phones.
    """
    states = params.states_per_phone
    inventory: dict[str, int] = {}
    for label in _list_phones(bank.utterances):
        inventory |= {f"{label}/{state}": len(inventory) + state for state in range(states)}
    units = []
    for utterance, num_frames in zip(bank.utterances, bank.num_frames, strict=True):
        if not utterance.phones:
            raise UserError(f"units of phones need aligned phones; utterance {utterance.id} has none")
        parts = [part for phone in utterance.phones for part in _split_phone(phone, states)]
        labels = frame_phones(parts, inventory, num_frames, HUBERT_CONVOLUTIONS)
        units.append(torch.from_numpy(np.where(labels < 0, len(inventory), labels)))
    return torch.cat(units)


def _list_phones(utterances: Sequence[Utterance]) -> list[str]:
    return sorted({phone.label for utterance in utterances for phone in utterance.phones or ()})


def _split_phone(phone: Phone, states: int) -> list[Phone]:
    """`states` equal parts of a phone, labelled `AA/0`, `AA/1` and so on."""
    edges = np.linspace(phone.start_seconds, phone.end_seconds, states + 1).tolist()
    return [Phone(f"{phone.label}/{state}", *span) for state, span in enumerate(pairwise(edges))]


def _fit(
    params: UnitParams, seed: int, bank: WaveformBank, model: HubertModel | None, device: torch.device
) -> UnitModel:
    """Units from whole utterances drawn until they hold `sample_frames`."""
    sample = [0] * len(bank.num_frames)
    for index in draw_utterances(bank.num_frames, params.sample_frames, seed):
        sample[index] = bank.num_frames[index]
    if not sum(sample):
        raise UserError("pretrain: no utterance of the train split is as long as a frame (25 ms)")
    frames = [f for batch in _plan(sample) for _, f in _features(params, bank, model, batch, device)]
    return fit_units(torch.cat(frames), params.clusters, seed)


def _assign_share(
    params: UnitParams, units: UnitModel, bank: WaveformBank, model: HubertModel | None, fabric: "Fabric"
) -> Tensor:
    """(frames,) int32 units of the utterances in this rank's batches, zero at all others.

    Batches and units are the same for any number of ranks.
    """
    flat = torch.zeros(sum(bank.num_frames), dtype=torch.int32, device=fabric.device)
    pieces = flat.split(bank.num_frames)
    for batch in _plan(bank.num_frames)[fabric.global_rank :: fabric.world_size]:
        for index, frames in _features(params, bank, model, batch, fabric.device):
            pieces[index].copy_(units.assign(frames))
    return flat


def _plan(num_frames: Sequence[int]) -> list[list[Crop]]:
    return plan_eval_batches(num_frames, batch_frames=BATCH_FRAMES)


@torch.no_grad()
def _features(
    params: UnitParams, bank: WaveformBank, model: HubertModel | None, batch: Sequence[Crop], device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """(index, frames (time, feature)) of the whole utterances in `batch`."""
    waveforms = [bank.whole(crop.index) for crop in batch]
    if params.features == "mfcc" or model is None:
        for crop, waveform in zip(batch, waveforms, strict=True):
            yield crop.index, mfcc_frames(waveform)[: crop.num_frames].to(device)
        return
    model.eval()
    padded, lengths = pad_waveforms(waveforms)
    states = model(padded.to(device), lengths.to(device), last_layer=params.features).hidden_states[-1].float()
    for row, crop in enumerate(batch):
        yield crop.index, states[row, : crop.num_frames]


def describe_units(units: UnitBank, utterances: Sequence[Utterance]) -> UnitQuality | None:
    """The quality of units on utterances with a phone alignment; None if there are no such utterances."""
    inventory = {label: number for number, label in enumerate(_list_phones(utterances))}
    pairs = []
    for index, utterance in enumerate(utterances):
        if utterance.phones:
            named = units.whole(index)
            phones = frame_phones(utterance.phones, inventory, len(named), HUBERT_CONVOLUTIONS)
            pairs.append((named[phones >= 0], phones[phones >= 0]))
    if not sum(len(named) for named, _ in pairs):
        return None
    unit, phone = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return measure_units(unit, phone)
