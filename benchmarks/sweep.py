"""What a sweep's workers, sampler and limits are worth: `python -m benchmarks.sweep throughput | sampler | limits`.

`throughput`: trials per hour of two workers against one, on real trials of `sweep.budget` (workspace as for `fithubert
sweep`, which it leaves alone). `sampler`: hypervolume of Optuna's choices against random ones at equal trials, three
seeds; error comes from a random forest fitted to experiments/width_depth/front.csv, cost is exact. A surrogate says
nothing of the noise of real trials. `limits`: what a proposal costs that is never trained.
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
from fithubert.config.students import StudentParams
from fithubert.config.sweep import SpaceParams
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.profile.counts import PARTS
from fithubert.search.front import hypervolume
from fithubert.search.space import Limits, Speed
from fithubert.search.stopping import StoppingRule
from fithubert.search.study import create_study, join_study, open_storage, read_rows
from fithubert.search.worker import Plan, RunTrial, work
from fithubert.stages.sweep import sweep
from fithubert.workspace import Workspace

TABLE = Path("experiments/width_depth/front.csv")
RESULTS = Path("reports/benchmarks/sweep.json")


def throughput(trials: int = 4) -> dict[str, Any]:
    """Wall time of trials of like cost: by one worker of one thread, two of them, and one with both cores; set-up
    included."""
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
            sweep(params, workspace, "benchmark", workers, space=space, threads=threads)
            seconds[name] = time.monotonic() - begun
    ratios = {name: taken / seconds["two"] for name, taken in seconds.items() if name != "two"}
    return {"trials": trials, "seconds": seconds, "trials_per_hour_of_two": ratios}


def _borrow(folder: Path) -> Workspace:
    """A workspace that reads corpus, cache and teacher from this one, and keeps what it writes to itself."""
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
                shares[name].append(_search(Path(folder), trials, seed, at_random))
    features, error = _table()
    predicted = cross_val_predict(_forest(), features, error, cv=len(error))
    rank = pd.Series(predicted).corr(pd.Series(error), method="kendall")
    return {"trials": trials, "hypervolume": shares, "surrogate_rows": len(error), "surrogate_kendall": float(rank)}


def limits() -> dict[str, Any]:
    """Processor seconds of a hundred proposals that no limit admits, until the worker gives up."""
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(Path(folder), trials=1, seed=1, at_random=False, limits=Limits(params=1))
        begun = time.process_time()
        with suppress(UserError):
            work(plan, 0)
        seconds = time.process_time() - begun
        proposals = len(join_study(plan.study, open_storage(plan.storage)).trials)
    return {"proposals": proposals, "seconds_per_hundred": 100 * seconds / proposals}


def _search(folder: Path, trials: int, seed: int, at_random: bool) -> float:
    plan = _plan(folder, trials, seed, at_random, Limits())
    work(plan, 0)
    rows = read_rows(join_study(plan.study, open_storage(plan.storage)))
    points = [(row.values["pr"], row.values["macs_per_second"]) for row in rows]
    _, error = _table()
    reference = (float(max(error)), 4e8)
    best = float(min(error))
    return hypervolume(points, reference) / ((reference[0] - best) * reference[1])


def _plan(folder: Path, trials: int, seed: int, at_random: bool, limits: Limits) -> Plan:
    """A new study of the default student in `folder`, without real trials."""
    params = load_params()
    settings = params.sweep.model_copy(update={"trials": trials, "seed": seed, "stop_after": 99})
    plan = Plan(
        study="s",
        storage=str(folder / "s.log"),
        folder=folder,
        sweep=settings,
        student=params.students[settings.of],
        teacher_depth=12,
        limits=limits,
        speed=Speed(dict.fromkeys(PARTS, 1e9), 0.0, 1.0),
        objective="benchmarks.sweep:open_surrogate",
        random=at_random,
    )
    create_study(plan.study, open_storage(plan.storage), settings.objectives, {}, None)
    return plan


def open_surrogate(plan: Plan) -> RunTrial:
    """Trials whose error the forest gives."""
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
