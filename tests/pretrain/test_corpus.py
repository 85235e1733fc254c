"""The memory-mapped corpus gives back what was read, sample for sample."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fithubert.config.pretrain import UnitParams
from fithubert.data.batching import Crop
from fithubert.data.manifest import Manifest, Utterance
from fithubert.errors import UserError
from fithubert.frames import HUBERT_CONVOLUTIONS, count_frames, count_samples
from fithubert.pretrain.corpus import UnitBank, WaveformBank, align_units, count_units, save_units, write_waveforms


@dataclass(frozen=True)
class _Noise(Manifest):
    """Utterances of 16-bit noise of the given lengths, read from nowhere."""

    @classmethod
    def of(cls, lengths: list[int]) -> "_Noise":
        rows = (Utterance(str(i), f"{i}.flac", "", "train", "sentence", n) for i, n in enumerate(lengths))
        return cls(tuple(rows), Path())

    def read(self, utterance: Utterance) -> Tensor:
        samples = np.random.default_rng(int(utterance.id)).integers(-32768, 32768, utterance.num_samples)
        return torch.from_numpy(samples.astype(np.float32)) / 32768


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=6), data=st.data())
def test_waveforms_and_units_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    folder, manifest = tmp_path_factory.mktemp("bank"), _Noise.of(lengths)
    write_waveforms(manifest, folder / "waveforms")
    bank = WaveformBank(manifest, folder / "waveforms")
    frames = [count_frames(n) for n in lengths]
    assert bank.num_frames == frames
    units = [torch.randint(0, 70_000, (n,)) for n in frames]
    save_units(torch.cat(units), folder / "units", frames)
    unit_bank = UnitBank(folder / "units", frames)
    for index, utterance in enumerate(manifest):
        assert torch.equal(bank.whole(index), manifest.read(utterance))
        assert unit_bank.whole(index).tolist() == units[index].tolist()
    usable = [index for index, n in enumerate(frames) if n]
    if not usable:
        return
    crops = []
    for index in data.draw(st.lists(st.sampled_from(usable), min_size=1, max_size=5)):
        start = data.draw(st.integers(0, frames[index] - 1))
        crops.append(Crop(index, start, data.draw(st.integers(1, frames[index] - start))))
    waveforms, sizes = bank.crops(crops)
    named = unit_bank.crops(crops)
    for row, crop in enumerate(crops):
        size = count_samples(crop.num_frames, HUBERT_CONVOLUTIONS)
        whole = manifest.read(manifest.utterances[crop.index])
        assert sizes[row] == size
        assert torch.equal(waveforms[row, :size], whole[crop.start_frame * 320 :][:size])
        assert not waveforms[row, size:].any()
        wanted = units[crop.index][crop.start_frame : crop.start_frame + crop.num_frames]
        assert named[row].tolist() == wanted.tolist() + [-1] * (named.shape[1] - crop.num_frames)


def test_a_file_that_is_there_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = _Noise.of([700, 900])
    write_waveforms(manifest, tmp_path / "bank")
    monkeypatch.setattr(_Noise, "read", lambda *_: pytest.fail("read again"))
    write_waveforms(manifest, tmp_path / "bank")


def test_louder_than_full_scale_is_clipped_not_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = _Noise.of([2])
    monkeypatch.setattr(_Noise, "read", lambda *_: torch.tensor([1.5, -1.5]))
    write_waveforms(manifest, tmp_path / "bank")
    assert WaveformBank(manifest, tmp_path / "bank").whole(0).tolist() == [32767 / 32768, -1.0]


def test_units_for_another_corpus_are_refused(tmp_path: Path) -> None:
    save_units(torch.zeros(4, dtype=torch.int64), tmp_path / "units", [4])
    for frames in ([5], [2, 2]):
        with pytest.raises(UserError, match="units: not of this corpus, or cut off; delete it to write it again"):
            UnitBank(tmp_path / "units", frames)


def test_every_changed_byte_is_found_before_it_is_used(tmp_path: Path) -> None:
    manifest, units, frames = _Noise.of([700, 900]), torch.arange(3), [1, 2]
    write_waveforms(manifest, tmp_path / "waveforms")
    save_units(units, tmp_path / "units", frames)
    banks = {"waveforms": lambda path: WaveformBank(manifest, path), "units": lambda path: UnitBank(path, frames)}
    for name, open_bank in banks.items():
        whole = (tmp_path / name).read_bytes()
        for place in range(0, len(whole), 1 + len(whole) // 40):
            changed = bytearray(whole)
            changed[place] ^= 1
            (tmp_path / name).write_bytes(changed)
            bank = open_bank(tmp_path / name)
            with pytest.raises(UserError, match=f"{name}: damaged; delete it to write it again"):
                [bank.whole(index) for index in range(2)]


@pytest.mark.parametrize("states", [1, 3])
def test_units_of_phones_are_the_aligned_phones_and_silence(tiny_corpus: Manifest, tmp_path: Path, states: int) -> None:
    sentences = tiny_corpus.select(split="train", kind="sentence")
    write_waveforms(sentences, tmp_path / "waveforms")
    bank = WaveformBank(sentences, tmp_path / "waveforms")
    params = UnitParams(features="phones", states_per_phone=states)
    labels = sorted({phone.label for utterance in sentences for phone in utterance.phones or ()})
    silence = states * len(labels)
    assert count_units(params, bank) == silence + 1
    units = align_units(params, bank).split(bank.num_frames)
    for utterance, found in zip(sentences, units, strict=True):
        for phone in utterance.phones or ():
            # Frame t is centred on sample 320 t + 200.
            frames = [
                t for t in range(len(found)) if phone.start_seconds <= (320 * t + 200) / 16_000 < phone.end_seconds
            ]
            named = found[frames].tolist()
            assert {unit // states for unit in named} <= {labels.index(phone.label)}
            assert named == sorted(named)
        at = (320 * torch.arange(len(found)) + 200) / 16_000
        spoken = torch.zeros(len(found), dtype=torch.bool)
        for phone in utterance.phones or ():
            spoken |= (at >= phone.start_seconds) & (at < phone.end_seconds)
        assert bool((found[~spoken] == silence).all())


def test_units_of_phones_need_aligned_phones(tiny_corpus: Manifest, tmp_path: Path) -> None:
    mixtures = tiny_corpus.select(split="train", kind="mixture")
    write_waveforms(mixtures, tmp_path / "waveforms")
    bank = WaveformBank(mixtures, tmp_path / "waveforms")
    with pytest.raises(UserError, match="aligned phones; utterance mixture-"):
        align_units(UnitParams(features="phones"), bank)
