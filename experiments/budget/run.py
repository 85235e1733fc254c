"""Quality against hours of training: students with several budgets and seeds, each scored on phoneme recognition.

`python -m experiments.budget.run [--work DIR] [--jobs N] [--only STUDENT ...]` in a workspace where `make repro` has
left the corpus, the teacher and its cache. A cell that is in results.csv is not run again.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.results import add_row, read_rows
from fithubert.config.base import read_yaml, validate
from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.distill import distill
from fithubert.stages.extract import extract
from fithubert.stages.superb import superb
from fithubert.workspace import Workspace

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"


@dataclass(frozen=True)
class Cell:
    """One training: a student of the grid, its updates and its seed."""

    student: str
    updates: int
    seed: int


@dataclass(frozen=True)
class Result(Cell):
    """What one training came to; phone error rates in percent, with the interval of the test split."""

    audio_hours: float
    dev_loss: float
    dev_per: float
    test_per: float
    test_per_low: float
    test_per_high: float
    seconds: float


def read_cells(grid: dict[str, Any]) -> Iterator[Cell]:
    """The cells of the grid, in its order."""
    for row in grid["cells"]:
        for student in row["students"]:
            for updates in row["updates"]:
                yield from (Cell(student, updates, seed) for seed in row["seeds"])


def run_cell(params: Params, entry: dict[str, Any], cell: Cell, home: Path, work: Path) -> Result:
    """Train, extract and score one cell in a workspace of its own below `work`, which is deleted at the end."""
    torch.set_num_threads(1)
    root = work / f"{cell.student}-{cell.updates}-{cell.seed}"
    for shared in ("data/manifests", "data/audio", "data/cache", "artifacts/teacher"):
        (root / shared).parent.mkdir(parents=True, exist_ok=True)
        if not (root / shared).exists():
            (root / shared).symlink_to((home / shared).resolve())
    values = params.model_dump(mode="json")
    student = params.students[entry["of"]].changed({key: value for key, value in entry.items() if key != "of"})
    values["students"] = {cell.student: student.model_dump(mode="json")}
    # An ablation names students that a cell does not have.
    values["ablation"] = {}
    values["distill"] |= {"updates": cell.updates, "seed": cell.seed, "dev_every_updates": max(1, cell.updates // 10)}
    values["distill"]["patience"] = 10
    values["superb"]["models"], values["superb"]["seeds"] = [cell.student], [cell.seed]
    mine, workspace = validate(Params, values, "grid"), Workspace(root)
    trained = distill(mine, workspace, cell.student)
    extract(mine, workspace, cell.student)
    scored = superb(mine, workspace, cell.student, "pr")
    shutil.rmtree(root)
    low, high = scored.intervals["per"]
    return Result(
        **asdict(cell),
        audio_hours=round(trained.audio_hours, 3),
        dev_loss=round(trained.best_dev_loss, 4),
        dev_per=round(scored.dev["per"], 2),
        test_per=round(scored.metrics["per"], 2),
        test_per_low=round(low, 2),
        test_per_high=round(high, 2),
        seconds=round(trained.seconds),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("experiments/budget/cells"), help="where cells are trained")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once, one thread each")
    parser.add_argument("--only", nargs="*", help="students of the grid to run; all otherwise")
    arguments = parser.parse_args()
    grid, params, home = read_yaml(HERE / "grid.yaml"), load_params(), Path.cwd()
    done = {(row["student"], int(row["updates"]), int(row["seed"])) for row in read_rows(RESULTS)}
    left = [cell for cell in read_cells(grid) if (cell.student, cell.updates, cell.seed) not in done]
    left = [cell for cell in left if not arguments.only or cell.student in arguments.only]
    work = arguments.work.resolve()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_cell, params, grid["students"][cell.student], cell, home, work) for cell in left]
        for future in as_completed(running):
            result = future.result()
            add_row(RESULTS, result)
            print(
                f"{result.student} {result.updates} updates, seed {result.seed}: PER {result.test_per}", file=sys.stderr
            )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
