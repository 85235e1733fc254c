"""Checkpoints: a damaged byte is found, and a half-written one is deleted."""

from pathlib import Path

import torch

from fithubert.errors import UserError
from fithubert.training.checkpoint import CheckpointFolder, flatten, read_checkpoint, write_checkpoint


def test_any_flipped_byte_of_a_checkpoint_is_found_or_harmless(tmp_path: Path) -> None:
    path, weights = tmp_path / "checkpoint.pt", torch.randn(300, generator=torch.Generator().manual_seed(0))
    write_checkpoint(path, {"weights": weights, "update": 7})
    data = path.read_bytes()
    found = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            contents = read_checkpoint(path)
        except UserError as error:
            found += str(error).startswith(f"{path}: not readable as a checkpoint (")
            continue
        assert contents["update"] == 7
        assert torch.equal(contents["weights"], weights)
    assert found > len(weights) * 4 // 7


def test_a_half_written_checkpoint_is_deleted(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {"name": "x"}, keep=2)
    (tmp_path / ".update-00000004.pt.123-0123abcd.part").write_bytes(b"half")
    assert folder.find_latest() is None
    assert list(tmp_path.iterdir()) == []


def test_flatten_names_every_leaf() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": (1, 2)}) == {"a.b": 1, "a.c": {}, "d": [1, 2]}
