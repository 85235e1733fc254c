"""Two ranks of gloo DDP give the teacher of one, share its folder, and die without damage."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.pretrain import pretrain
from tests.kills import assert_close, run_ranks
from tests.pretrain.tiny_run import last_weights, run, tiny_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_rank(tiny_corpus: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    work = tmp_path_factory.mktemp("one")
    run(tiny_params(), tiny_corpus, work)
    return work


def _run_ranks(ranks: int, corpus: Manifest, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_ranks(ranks, "tests.pretrain.tiny_run", str(corpus.root), str(out), *arguments)


def _assert_close(work: Path, other: Path) -> None:
    for iteration in (1, 2):
        name = f"iteration-{iteration}/units.int32"
        assert (work / name).read_bytes() == (other / name).read_bytes(), name
        assert_close(last_weights(work, iteration), last_weights(other, iteration))


@pytest.mark.parametrize(
    ("place", "left", "ranks"),
    # Iteration 1 has 12 updates and a checkpoint at every fourth.
    [("update:7", "iteration-1/checkpoint.pt", 3), ("assigning:3", "waveforms.int16", 2)],
)
def test_ranks_give_the_teacher_of_one_and_any_number_of_them_goes_on_after_a_death(
    tiny_corpus: Manifest, tmp_path: Path, one_rank: Path, place: str, left: str, ranks: int
) -> None:
    died = _run_ranks(2, tiny_corpus, tmp_path / "two", "--kill", place)
    assert died.returncode != 0
    assert "SIGKILL" in died.stderr
    assert not (tmp_path / "two" / "teacher").exists()
    assert (tmp_path / "two" / left).exists()
    assert (tmp_path / "two" / "iteration-1" / "units.int32").exists() == (place == "update:7")
    shutil.copytree(tmp_path / "two", tmp_path / "mixed")

    lines: list[str] = []
    run(tiny_params(), tiny_corpus, tmp_path / "mixed", lines)
    assert ("iteration 1: resumed at update 4" in lines) == (place == "update:7")
    _assert_close(tmp_path / "mixed", one_rank)

    finished = _run_ranks(ranks, tiny_corpus, tmp_path / "two")
    assert finished.returncode == 0, finished.stderr
    _assert_close(tmp_path / "two", one_rank)


def test_more_ranks_than_passes_are_refused_where_anything_is_dropped(tiny_corpus: Manifest, tmp_path: Path) -> None:
    fabric: Any = SimpleNamespace(world_size=2)
    with pytest.raises(UserError, match=r"passes: 1 forward passes an update are too few for 2 ranks with dropout"):
        pretrain(tiny_params(passes=1), tiny_corpus, tmp_path, fabric, print)


def test_passes_change_nothing_where_nothing_is_dropped(tiny_corpus: Manifest, tmp_path: Path) -> None:
    """More of them than crops too: then some have nothing of their own to do."""
    nothing = {"dropout": 0.0, "input_dropout": 0.0, "layer_dropout": 0.0}
    for passes in (1, 3, 40):
        run(tiny_params(**nothing, passes=passes), tiny_corpus, tmp_path / str(passes))
        _assert_close(tmp_path / str(passes), tmp_path / "1")


def test_a_mistake_of_the_first_rank_ends_all_in_one_line(tiny_corpus: Manifest, tmp_path: Path) -> None:
    run(tiny_params(seed=5), tiny_corpus, tmp_path)
    refused = _run_ranks(2, tiny_corpus, tmp_path)
    assert refused.returncode != 0
    assert "holds a pre-training with other parameters" in refused.stderr
