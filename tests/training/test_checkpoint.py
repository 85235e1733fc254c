"""Checkpoints: a damaged byte is found, others may read them, and one process at a time trains with them."""

import os
from pathlib import Path

import pytest
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
    assert folder.load_latest() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_checkpoint_has_the_mode_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = CheckpointFolder(tmp_path, {}, keep=1).save(1, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_second_training_with_a_folder_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {}, keep=1)
    with (
        folder.only_writer(),
        pytest.raises(UserError, match=f"process {os.getpid()} is at work on the same training"),
        folder.only_writer(),
    ):
        pass
    with folder.only_writer():
        pass


def test_flatten_names_every_leaf() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": (1, 2)}) == {"a.b": 1, "a.c": {}, "d": [1, 2]}
