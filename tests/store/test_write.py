"""A store after a killed worker, a full disk or a damaged byte."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from fithubert.errors import UserError
from fithubert.store import Commands, write
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from tests.store.fakes import FakeModel, contents, fake_manifest, flip_byte, run_together

SMALL = {codec: ExtractSettings(codec, shard_minutes=0.05, batch_seconds=2.0) for codec in ("int8", "pca_int8")}
REPOSITORY = Path(__file__).parents[2]

#: Writes the store and stops for good before it computes row `stop`; prints a line, so that the test kills it there.
WORKER = """
import sys
from pathlib import Path
from tests.store.fakes import FakeModel, fake_manifest
from fithubert.store.extract import ExtractSettings, extract_features

class Stopping(FakeModel):
    def __call__(self, *arguments):
        if len(self.batches) >= int(sys.argv[2]):
            print("ready", flush=True)
            sys.stdin.read()
        return super().__call__(*arguments)

small = ExtractSettings(sys.argv[3], shard_minutes=0.05, batch_seconds=0.01)
extract_features(Stopping(), fake_manifest(), Path(sys.argv[1]), small)
"""


def start_worker(path: Path, stop: int, codec: str) -> "subprocess.Popen[bytes]":
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(stop), codec],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    return worker


@pytest.fixture(scope="module", params=sorted(SMALL))
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, codec: str) -> Path:
    path = tmp_path_factory.mktemp("whole")
    extract_features(FakeModel(), fake_manifest(), path, SMALL[codec])
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    for name, data in contents(whole).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_killed_and_run_again_is_never_killed(codec: str, whole: Path, tmp_path: Path) -> None:
    # The sample for the axes takes all twelve utterances first.
    worker = start_worker(tmp_path, 5 if codec == "int8" else 17, codec)
    unfinished = list(tmp_path.glob(".*.part"))
    assert len(unfinished) == 1
    finished = {name for name in contents(tmp_path) if name.startswith("shard-")}
    # Another job on the same cache leaves the unfinished shard of a living one alone.
    extract_features(FakeModel(), fake_manifest(), tmp_path, SMALL[codec], worker=(99, 100))
    assert unfinished[0].exists()
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    with pytest.raises(UserError, match="missing"):
        FeatureStore.open(tmp_path)
    report = extract_features(FakeModel(), fake_manifest(), tmp_path, SMALL[codec])
    assert finished
    assert set(report.kept) == finished
    assert report.problems == {}
    assert contents(tmp_path) == contents(whole)
    assert report.metrics == extract_features(FakeModel(), fake_manifest(), whole, SMALL[codec]).metrics


def test_two_jobs_at_once_do_no_harm(codec: str, whole: Path, tmp_path: Path) -> None:
    run_together(*3 * [partial(extract_features, FakeModel(), fake_manifest(), tmp_path, SMALL[codec])])
    assert contents(tmp_path) == contents(whole)


def test_any_flipped_byte_is_found_or_harmless(copy: Path, whole: Path) -> None:
    shard = copy / "shard-00001.parquet"
    data = shard.read_bytes()
    good = FeatureStore.open(whole)
    members = [index for index, group in enumerate(good.shards) if group == 1]
    messages = []
    places = sorted({*range(0, len(data), len(data) // 60), *range(len(data) - 400, len(data), 40)})
    for place in places:
        shard.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        store = FeatureStore.open(copy)
        try:
            rows = [store.read(index) for index in members]
        except UserError as error:
            messages.append(str(error))
            continue
        for row, expected in zip(rows, [good.read(index) for index in members], strict=True):
            assert torch.equal(row.waveform, expected.waveform)  # type: ignore[arg-type]
            assert all(torch.equal(row.hidden_states[layer], expected.hidden_states[layer]) for layer in good.layers)
    assert len(messages) > 0.8 * len(places)
    for message in messages:
        assert message.startswith(f"{shard}: damaged (")
        assert message.endswith("run `fithubert cache --repair`, which writes only such shards again")
        assert "\n" not in message


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "empty", "text"])
def test_running_again_writes_just_the_damaged_shard(codec: str, copy: Path, whole: Path, harm: str) -> None:
    shard = copy / "shard-00001.parquet"
    data = shard.read_bytes()
    match harm:
        case "flip":
            flip_byte(shard)
        case "cut":
            shard.write_bytes(data[: len(data) // 2])
        case "delete":
            shard.unlink()
        case "empty":
            shard.write_bytes(b"")
        case "text":
            shard.write_text("not Parquet")
    # The command of whoever wrote the store last.
    commands = Commands("dvc repro cache", "dvc repro features")
    settings = replace(SMALL[codec], commands=commands)
    extract_features(FakeModel(), fake_manifest(), copy, settings, worker=(99, 100))
    with pytest.raises(UserError, match=r"shard-00001.parquet: (missing|damaged).*run `dvc repro features`"):
        FeatureStore.open(copy).read(FeatureStore.open(whole).shards.index(1))
    model = FakeModel()
    report = extract_features(model, fake_manifest(), copy, SMALL[codec])
    assert report.written == (shard.name,)
    assert sum(rows for rows, _ in model.batches) == FeatureStore.open(whole).shards.count(1)
    assert contents(copy) == contents(whole)


def test_shard_of_another_store_is_refused(codec: str, copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    extract_features(FakeModel(1), fake_manifest(), other, SMALL[codec])
    (copy / "shard-00000.parquet").write_bytes((other / "shard-00000.parquet").read_bytes())
    store = FeatureStore.open(copy)
    with pytest.raises(UserError, match=r"shard-00000.parquet: damaged \(it belongs to another store\)"):
        store.read(store.shards.index(0))


@pytest.mark.parametrize("harm", ["delete", "flip", "foreign"])
def test_broken_index_is_named(copy: Path, harm: str) -> None:
    index = copy / "_index.parquet"
    data = bytearray(index.read_bytes())
    if harm == "delete":
        index.unlink()
    elif harm == "flip":
        data[40] ^= 1
        index.write_bytes(data)
    else:
        pq.write_table(pq.read_table(index).replace_schema_metadata(None), index)
    with pytest.raises(UserError, match=r"no feature store|not readable as a feature store"):
        FeatureStore.open(copy)


def test_space_is_checked_before_anything_is_written(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    model = FakeModel()
    with pytest.raises(UserError, match=r"4 shards need 0.004 GB and 0.001 GB are free; the 0 existing shards"):
        extract_features(model, fake_manifest(), tmp_path, SMALL[codec])
    # Only the sample for the axes is computed before the size of the shards is known.
    assert bool(model.batches) == (codec == "pca_int8")
    assert not list(tmp_path.glob("*shard*"))
    assert not (tmp_path / "_index.parquet").exists()


class FullDisk:
    """A file that takes `room` bytes and no more."""

    closed = False

    def __init__(self, file: object, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)  # type: ignore[attr-defined,no-any-return]

    def tell(self) -> int:
        return self.file.tell()  # type: ignore[attr-defined,no-any-return]

    def flush(self) -> None:
        self.file.flush()  # type: ignore[attr-defined]


def test_full_disk_says_what_is_needed_and_keeps_the_rest(
    codec: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, original = [], pq.ParquetWriter

    def open_writer(file: object, *rest: object, **options: object) -> object:
        opened.append(file)
        return original(FullDisk(file, 10**9 if len(opened) < 3 else 50_000), *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr("fithubert.store.write.pq.ParquetWriter", open_writer)
        with pytest.raises(
            UserError, match=r"2 shards need .* the 2 existing shards are kept: .* run the same command again"
        ):
            extract_features(FakeModel(), fake_manifest(), tmp_path, SMALL[codec])
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("_basis")) == [
        "_index.parquet",
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]
    report = extract_features(FakeModel(), fake_manifest(), tmp_path, SMALL[codec])
    assert len(report.kept) == 2
    assert contents(tmp_path) == contents(whole)


def test_audio_of_another_length_is_named(tmp_path: Path) -> None:
    manifest = fake_manifest(3)
    object.__setattr__(manifest, "read", lambda _: torch.zeros(500))
    with pytest.raises(UserError, match=r"utterance utt-0\d: \d+ samples in the manifest, 500 in the file"):
        extract_features(FakeModel(), manifest, tmp_path)
