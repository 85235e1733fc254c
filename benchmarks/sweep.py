"""The effect of a sweep's workers, sampler and limits: `python -m benchmarks.sweep throughput | sampler | limits`.

`throughput`: trials per hour of two workers and of one, on real trials of `sweep.budget`, in the workspace of
`fithubert sweep`, which is not changed. `sampler`: hypervolume of Optuna's choices and of random ones at equal trials,
with three seeds; the error comes from a random forest fitted to experiments/width_depth/front.csv, the cost is exact.
A forest does not show the noise of real trials. `limits`: the processor time of a proposal that is never trained.
"""

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import cross_val_predict

from fithubert.config.params import load_params
from fithubert.config.search import SpaceParams
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.models.macs import PARTS
from fithubert.search.front import hypervolume, read_result
from fithubert.search.space import Limits, Speed
from fithubert.search.study import Search, StudyPlace, create_study
from fithubert.search.sweep import Worker
from fithubert.search.trial import RunTrial, StoppingRule
from fithubert.stages.sweep import SweepOptions, sweep
from fithubert.workspace import Workspace

TABLE = Path("experiments/width_depth/front.csv")
RESULTS = Path("reports/benchmarks/sweep.json")


def throughput(trials: int = 4) -> dict[str, Any]:
    """Wall time of trials of similar cost, set-up included: one worker, two workers, one worker with two threads."""
    params = load_params()
    settings = params.sweep.model_copy(update={"trials": trials, "stop_after": 99})
    params, shape = params.model_copy(update={"sweep": settings}), params.students[settings.of].shape
    space = SpaceParams(
        depth=(shape.get("depth", 12),),
        width=(shape["width"],),
        ffn_width=(shape["ffn_width"], shape["ffn_width"] + 4, shape["ffn_width"] + 8),
        attention_heads=(6, 12),
        front_end=(1.0,),
        time_reduction=("conv1d",),
        factor=(2,),
        position=(0.0,),
        readout=("last",),
    )
    seconds = {}
    for name, workers, threads in (("one", 1, 1), ("two", 2, 1), ("one, both cores", 1, 2)):
        with tempfile.TemporaryDirectory() as folder:
            workspace = _borrow(Path(folder))
            os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
            begun = time.monotonic()
            sweep(params, workspace, SweepOptions("benchmark", workers=workers, threads=threads, space=space))
            seconds[name] = time.monotonic() - begun
    ratios = {name: taken / seconds["two"] for name, taken in seconds.items() if name != "two"}
    return {"trials": trials, "seconds": seconds, "trials_per_hour_of_two": ratios}


def _borrow(folder: Path) -> Workspace:
    """A workspace that reads corpus, cache and teacher from this one and writes to its own folder."""
    (folder / "artifacts").mkdir()
    for part in ("data", "artifacts/teacher"):
        (folder / part).symlink_to(Path(part).absolute())
    return Workspace(folder)


def sampler(trials: int = 20, seeds: tuple[int, ...] = (1, 2, 3)) -> dict[str, Any]:
    """The share of the reference box that each sampler's trials dominate, by seed."""
    shares: dict[str, list[float]] = {"tpe": [], "random": []}
    for seed in seeds:
        for name, at_random in (("tpe", False), ("random", True)):
            with tempfile.TemporaryDirectory() as folder:
                shares[name].append(_measure_share(Path(folder), trials, seed, at_random))
    features, error = _table()
    predicted = cross_val_predict(_forest(), features, error, cv=len(error))
    rank = pd.Series(predicted).corr(pd.Series(error), method="kendall")
    return {"trials": trials, "hypervolume": shares, "surrogate_rows": len(error), "surrogate_kendall": float(rank)}


def limits(shapes: int = 500) -> dict[str, Any]:
    """Processor seconds of a hundred shapes above a limit, until the worker gives up."""
    with tempfile.TemporaryDirectory() as folder:
        search = _search(Path(folder), trials=1, seed=1, limits=Limits(params=1))
        begun = time.process_time()
        with suppress(UserError):
            Worker(search, Surrogate().open, attempts=shapes).run()
        seconds = time.process_time() - begun
    return {"shapes": shapes, "seconds_per_hundred": 100 * seconds / shapes}


def _measure_share(folder: Path, trials: int, seed: int, at_random: bool) -> float:
    search = _search(folder, trials, seed, Limits())
    Worker(search, Surrogate().open, random=at_random).run()
    finished = read_result(search.place.join()).finished
    points = [(point.values["pr"], point.values["macs_per_second"]) for point in finished]
    _, error = _table()
    reference = (float(max(error)), 4e8)
    best = float(min(error))
    return hypervolume(points, reference) / ((reference[0] - best) * reference[1])


def _search(folder: Path, trials: int, seed: int, limits: Limits) -> Search:
    """A new study of the default student in `folder`, without real trials."""
    params = load_params()
    search = Search(
        place=StudyPlace("s", f"sqlite:///{folder}/study.db"),
        folder=folder,
        settings=params.sweep.model_copy(update={"trials": trials, "seed": seed, "stop_after": 99}),
        student=params.students[params.sweep.of],
        teacher_depth=12,
        limits=limits,
        speed=Speed(dict.fromkeys(PARTS, 1e9), 0.0, 1.0),
    )
    create_study(search.place, search.settings.objectives, {})
    return search


class Surrogate:
    """Trials whose error comes from the forest."""

    def open(self) -> RunTrial:
        """The function that stands for a training."""
        features, error = _table()
        forest = _forest().fit(features, error)

        def run(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
            return {"pr": float(forest.predict([_describe(student)])[0])}

        return run


def _forest() -> RandomForestRegressor:
    return RandomForestRegressor(200, min_samples_leaf=2, random_state=0)


def _table() -> tuple[list[list[float]], np.ndarray]:
    rows = pd.read_csv(TABLE)
    rows = rows[rows.state == "finished"]
    features = []
    for row in rows.itertuples():
        at = row.position if row.time_reduction != "none" else 0.0
        factor = row.factor if row.time_reduction != "none" else 1
        channels = row.front_end
        last = (row.time_reduction == "mean", row.readout == "projections")
        features.append([row.depth, row.width, row.ffn_width, row.attention_heads, channels, factor, at, *last])
    return features, rows.pr.to_numpy()


def _describe(student: StudentParams) -> list[float]:
    shape = student.shape
    reduction = shape["time_reduction"]
    none = reduction["kind"] == "none"
    base = load_params().students["fithubert"].shape["conv_layers"][-1][0]
    at = 0.0 if none else reduction["before_layer"] / shape["depth"]
    return [
        *(shape[name] for name in ("depth", "width", "ffn_width", "attention_heads")),
        shape["conv_layers"][-1][0] / base,
        1 if none else reduction["factor"],
        at,
        reduction["kind"] == "mean",
        shape["readout"] == "projections",
    ]


if __name__ == "__main__":
    found = {"throughput": throughput, "sampler": sampler, "limits": limits}[sys.argv[1]]()
    write_json(RESULTS.with_name(f"sweep_{sys.argv[1]}.json"), found)
    print(found)
