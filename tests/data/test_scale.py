"""What millions of files need: bounded memory and open files, names that stay two, and nothing lost early."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fithubert.data.listing import as_text, map_in_threads
from fithubert.data.manifest import Manifest, Utterance, load_manifest, manifest_path, new_audio
from fithubert.errors import UserError
from fithubert.store.table import load_features
from tests.fakes import write_noise
from tests.store.test_recordings import write


class Counted(list[int]):
    """A list that counts the items that were taken."""

    taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_few_items_are_begun_before_their_turn_and_each_on_one_thread() -> None:
    items, seen = Counted(range(1000)), []
    threads = map_in_threads(lambda _: torch.get_num_threads(), items, 2, lambda *_: seen.append(items.taken))
    assert threads == [1] * 1000
    assert seen[0] <= 8
    assert max(taken - done for done, taken in enumerate(seen)) <= 9


def test_an_interrupted_corpus_leaves_the_old_one(tmp_path: Path) -> None:
    with new_audio(tmp_path) as folder:
        write_noise(folder / "a.flac", 0.5)
    old = Manifest((Utterance("a", "audio/a.flac", "", "train", "sentence", 8000),), tmp_path)
    old.save(manifest_path(tmp_path))

    def stop() -> None:
        with new_audio(tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    found = load_manifest(manifest_path(tmp_path), tmp_path)
    assert len(found.read(found.utterances[0])) == 8000


def test_names_that_are_not_utf8_stay_two() -> None:
    assert as_text(Path(os.fsdecode(b"caf\xe8.wav"))) != as_text(Path(os.fsdecode(b"caf\xe9.wav")))


def test_an_output_may_have_more_parts_than_a_process_may_have_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        write_noise(tmp_path / "in" / f"{number:02d}.wav", 0.1)
    out = tmp_path / "f.parquet"
    write(tmp_path / "in", out, part_minutes=(0.001, 0.001))
    assert len(list(out.iterdir())) == 60
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 30, limits[1]))
    try:
        features = load_features(out)
        assert len(features.read(59).hidden_states) == len(features.layers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    with pytest.raises(UserError, match="not readable"):
        load_features(out)
