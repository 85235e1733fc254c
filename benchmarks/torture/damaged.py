"""Files of every kind, damaged in every way, read by what reads them."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.torture.harness import Case, WrongError
from benchmarks.torture.world import World, digest_tensors, load_teacher_state
from fithubert.data.manifest import Manifest
from fithubert.export.onnx import OnnxStudent
from fithubert.files import digest
from fithubert.importers.published import import_published
from fithubert.models.weights import load_student
from fithubert.pretrain.units import load_codebook
from fithubert.records import ModelScores, PrepareMetrics, load_summary
from fithubert.search.front import read_result
from fithubert.search.study import StudyPlace
from fithubert.store import INDEX_NAME
from fithubert.store.read import FeatureStore
from fithubert.store.table import load_features
from fithubert.training.checkpoint import read_checkpoint
from fithubert.workspace import load_checked

#: The result of reading, as a digest; None where a changed byte may mean another valid content.
Reader = Callable[[World], str | None]


def _read_manifest(world: World) -> str:
    return world.workspace.load_manifest().fingerprint


def _read_audio(world: World) -> str:
    manifest: Manifest = world.workspace.load_manifest()
    first = min(manifest.utterances, key=lambda u: u.num_samples)
    return digest(manifest.read(first).numpy().tobytes())


def _read_store(world: World) -> str:
    store = FeatureStore.open(world.workspace.cache("dev"))
    rows = [store.read(index) for index in range(len(store))]
    return digest(*(state.numpy().tobytes() for row in rows for _, state in sorted(row.hidden_states.items())))


def _read_onnx(world: World) -> str:
    states = OnnxStudent(world.root / "onnx")(torch.linspace(-1, 1, 4000)[None], torch.tensor([4000])).hidden_states
    return digest(*(state.numpy().tobytes() for state in states))


def _read_checkpoint(world: World) -> str:
    contents = read_checkpoint(world.root / "update-00000001.pt")
    return digest_tensors(contents["weights"]) + str(contents["update"])


def _read_features(world: World) -> str:
    features = load_features(world.root / "features")
    rows = [features.read(index) for index in range(len(features.ids))]
    return digest(*(state.numpy().tobytes() for row in rows for _, state in sorted(row.hidden_states.items())))


def _import(world: World) -> dict[str, torch.Tensor]:
    folder = world.root / "published"
    return import_published(folder / "last.ckpt", folder / "config.yaml").state_dict()


def _read_study(world: World) -> None:
    place = StudyPlace("s", f"sqlite:///{world.root / 'study' / 'study.db'}")
    with place.names_outage():
        read_result(place.join())


def _read_report(world: World) -> None:
    load_summary(world.workspace.reports / "summary.json")


def _first(folder: Path, pattern: str) -> str:
    return str(min(folder.rglob(pattern), key=lambda path: path.stat().st_size).relative_to(folder.parents[0]))


def list_readers(world: World) -> dict[str, Reader]:
    """File, relative to the workspace -> what reads it."""
    manifest = world.workspace.load_manifest()
    audio = min(manifest.utterances, key=lambda u: u.num_samples).audio
    shard = min(world.workspace.cache("dev").glob("shard-*.parquet")).relative_to(world.root)
    index = (world.workspace.cache("dev") / INDEX_NAME).relative_to(world.root)

    def student(w: World) -> str:
        return digest_tensors(load_student(w.workspace.student("thin")).state_dict())

    def teacher(w: World) -> str:
        return digest_tensors(load_teacher_state(w.workspace.teacher))

    def codebook(w: World) -> str:
        return load_codebook(w.root / "codebook").fingerprint

    return {
        "params.yaml": lambda w: load_checked(w.root / "params.yaml") and None,
        "data/manifests/corpus.parquet": _read_manifest,
        f"data/{audio}": _read_audio,
        "artifacts/teacher/model.safetensors": teacher,
        "artifacts/teacher/config.json": lambda w: load_teacher_state(w.workspace.teacher) and None,
        "artifacts/students/thin/model.safetensors": student,
        "artifacts/students/thin/config.json": lambda w: load_student(w.workspace.student("thin")) and None,
        str(shard): _read_store,
        str(index): _read_store,
        "onnx/model.onnx": _read_onnx,
        "onnx/config.json": lambda w: OnnxStudent(w.root / "onnx") and None,
        "codebook/codebook.safetensors": codebook,
        "codebook/config.json": lambda w: load_codebook(w.root / "codebook") and None,
        "update-00000001.pt": _read_checkpoint,
        "features/part-00000.parquet": _read_features,
        # Without a digest: these are other people's files, and the database keeps none.
        "published/last.ckpt": lambda w: _import(w) and None,
        "published/config.yaml": lambda w: _import(w) and None,
        "study/study.db": _read_study,
        "reports/metrics/prepare.json": lambda w: PrepareMetrics.read(w.workspace.metrics("prepare")) and None,
        "reports/metrics/superb/fbank.json": lambda w: ModelScores.read(w.workspace.metrics("superb@fbank")) and None,
        "reports/resamples/fbank.npz": _read_report,
        "reports/summary.json": _read_report,
    }


def list_damages(rng: random.Random, size: int, count: int) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """`count` damages of a file of `size` bytes: half of them flipped bits, then truncations, blocks, insertions."""
    for number in range(count):
        at, kind = rng.randrange(max(1, size)), number % 6
        if kind in (0, 1, 2):
            bit = 1 << rng.randrange(8)
            yield (
                f"bit {bit} of byte {at} flipped",
                lambda b, at=at, bit=bit: b[:at] + bytes([b[at] ^ bit]) + b[at + 1 :],
            )
        elif kind == 3:
            yield f"cut after {at} bytes", lambda b, at=at: b[:at]
        elif kind == 4:
            length = rng.randrange(1, 600)
            yield f"{length} zeros at {at}", lambda b, at=at, n=length: (b[:at] + bytes(n) + b[at + n :])[: len(b)]
        else:
            junk = rng.randbytes(rng.randrange(1, 40))
            yield f"{len(junk)} bytes inserted at {at}", lambda b, at=at, junk=junk: b[:at] + junk + b[at:]


def list_cases(world: World, scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` damages of each file, and each file as a folder, a named pipe, an endless device, and absent."""
    rng = random.Random(seed)
    for file, reader in list_readers(world).items():
        original = (world.root / file).read_bytes()
        wanted = reader(world)
        for words, damage in list_damages(rng, len(original), count):
            yield _case(
                world, scratch, file, words, reader, wanted, lambda p, d=damage, o=original: p.write_bytes(d(o))
            )
        others: dict[str, Callable[[Path], object]] = {
            "a folder": lambda path: path.mkdir(),
            "a named pipe": os.mkfifo,
            "an endless device": lambda path: path.symlink_to("/dev/zero"),
            "absent": lambda path: None,
            "empty": lambda path: path.touch(),
        }
        for words, make in others.items():
            yield _case(world, scratch, file, words, reader, wanted, make)


def _case(
    world: World,
    scratch: Path,
    file: str,
    words: str,
    reader: Reader,
    wanted: str | None,
    make: Callable[[Path], object],
) -> Case:
    def run() -> None:
        copy = world.clone(scratch / f"{os.getpid()}")
        path = copy.root / file
        # Unlinked first, since the copy shares its files with the others.
        path.unlink()
        make(path)
        found = reader(copy)
        if found != wanted:
            raise WrongError("the damage was read as a result")

    return Case("damaged files", f"{file}: {words}", run)
