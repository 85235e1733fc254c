"""Weight files: equal after reading, and any damage is named."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fithubert.errors import UserError
from fithubert.tensors import digest_tensors, read_tensors, write_tensors

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, -2]), "c": torch.tensor(2.5).half()}


def test_tensors_come_back_and_other_readers_read_them(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS)
    for found in (read_tensors(tmp_path / "x"), load_file(tmp_path / "x")):
        assert digest_tensors(found) == digest_tensors(TENSORS)
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_files_of_other_writers_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x")
    assert read_tensors(tmp_path / "x").keys() == TENSORS.keys()


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "x"
    write_tensors(path, TENSORS)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = read_tensors(path)
    except UserError:
        return
    # A bit of the metadata itself: the digest's own name.
    assert digest_tensors(found) == digest_tensors(TENSORS)
