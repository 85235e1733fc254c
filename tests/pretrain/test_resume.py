"""Stopped anywhere and made again, a pre-training gives the same teacher, bit for bit."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import read_json
from tests.kills import Stop, run_killed, stop, struck
from tests.pretrain.tiny_run import PLACES, last_weights, run, tiny_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tiny_corpus: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    work = tmp_path_factory.mktemp("whole")
    run(tiny_params(), tiny_corpus, work)
    return work


def _assert_same(work: Path, whole: Path) -> None:
    units = [f"iteration-{number}/units.int32" for number in (1, 2)]
    for name in (*units, "teacher/model.safetensors", "teacher/config.json"):
        assert (work / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = (last_weights(folder) for folder in (work, whole))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    records = [read_json(folder / "pretrain.json")["iterations"] for folder in (work, whole)]
    for record in records:
        for point in (point for iteration in record for point in iteration["curve"]):
            del point["seconds"]
    assert records[0] == records[1]


def _run_until(place: str, count: int, corpus: Manifest, work: Path) -> None:
    """A run that stops at the `count`-th call at `place`, if it comes that far."""
    with struck(PLACES[place], count, stop):
        run(tiny_params(), corpus, work)


@pytest.mark.parametrize("place", PLACES)
def test_stopped_at_any_place_and_resumed_is_never_stopped(
    tiny_corpus: Manifest, tmp_path: Path, whole: Path, place: str
) -> None:
    with pytest.raises(Stop):
        _run_until(place, 1 if place == "teacher" else 2, tiny_corpus, tmp_path)
    run(tiny_params(), tiny_corpus, tmp_path)
    _assert_same(tmp_path, whole)


@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, 18), min_size=1, max_size=3))
def test_stopped_at_any_updates_and_resumed_is_never_stopped(
    tiny_corpus: Manifest, tmp_path_factory: pytest.TempPathFactory, whole: Path, stops: list[int]
) -> None:
    work = tmp_path_factory.mktemp("stopped")
    for update in stops:
        with suppress(Stop):
            _run_until("update", update, tiny_corpus, work)
    run(tiny_params(), tiny_corpus, work)
    _assert_same(work, whole)


@pytest.mark.parametrize("place", ["units:1", "update:6"])
def test_killed_by_the_system_and_resumed_is_never_killed(
    tiny_corpus: Manifest, tmp_path: Path, whole: Path, place: str
) -> None:
    work = tmp_path / "work"
    run_killed("tests.pretrain.tiny_run", str(tiny_corpus.root), str(work), "--kill", place)
    assert not (work / "teacher").exists()
    run(tiny_params(), tiny_corpus, work)
    _assert_same(work, whole)
    assert not [path for path in work.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize(
    ("name", "said"),
    [("checkpoint.pt", "not readable as a checkpoint"), ("units.int32", "not of this corpus, or cut off; delete it")],
)
def test_a_damaged_file_is_named(tiny_corpus: Manifest, tmp_path: Path, whole: Path, name: str, said: str) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "pretrain.json").unlink()
    path = tmp_path / "iteration-2" / name
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"iteration-2/{name}: {said}"):
        run(tiny_params(), tiny_corpus, tmp_path)
    path.unlink()
    run(tiny_params(), tiny_corpus, tmp_path)
    _assert_same(tmp_path, whole)


def test_what_has_no_influence_may_change(tiny_corpus: Manifest, tmp_path: Path, whole: Path) -> None:
    """A corpus that moved and another interval of checkpoints go on with the same run."""
    with pytest.raises(Stop):
        _run_until("update", 7, tiny_corpus, tmp_path)
    moved = replace(tiny_corpus, root=tiny_corpus.root / ".." / tiny_corpus.root.name)
    run(tiny_params(checkpoint_every_updates=100), moved, tmp_path)
    ours, theirs = last_weights(tmp_path), last_weights(whole)
    assert all(torch.equal(tensor, ours[key]) for key, tensor in theirs.items())
