"""Do cheap trials rank shapes as full distillations do? Trials from two kinds of first weights are compared with them.

`python -m experiments.width_depth.warm_start [--arms ARM ...] [--work DIR]`, in a workspace with the corpus, the
teacher and its cache (`make repro` makes them). A cell that is already in warm_start.csv is not run again.
"""

import argparse
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.results import add_row, read_rows
from fithubert.config.params import DistillParams, Params, load_params
from fithubert.config.students import StudentParams
from fithubert.config.superb import TaskBudget
from fithubert.distill import measure_scales
from fithubert.distill.hints import HintLoss
from fithubert.distill.loop import TrainingLoop
from fithubert.distill.step import Stepper
from fithubert.distill.warmstart import set_first_weights
from fithubert.errors import exit_on_user_error
from fithubert.models.macs import REFERENCE_SECONDS
from fithubert.models.recipes import resolve
from fithubert.models.runtime import ReadOut
from fithubert.models.student import Student, build_student
from fithubert.models.weights import load_student, save_student
from fithubert.search.space import count_reference_macs, find_choices, make_student
from fithubert.search.trial import TrialData
from fithubert.stages.ablation import open_trial_data
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.superb.run import run_task, task_kind
from fithubert.training import deterministic_torch, open_fabric
from fithubert.training.checkpoint import CheckpointFolder
from fithubert.training.events import Evaluated, Listeners, TrainingListener
from fithubert.workspace import Workspace

HERE = Path(__file__).parent
RESULTS = HERE / "warm_start.csv"
#: The seed of the draw of shapes, of the full distillations, and (another, so that noise is not shared) of the trials.
DRAW_SEED, FULL_SEED, TRIAL_SEED = 1, 1, 2
#: How many, and what they may cost at most: this times the multiply-accumulates of the student's own shape.
SHAPES, MOST_COST = 8, 1.25


@dataclass(frozen=True)
class Arm:
    """Where the first weights come from, and the number of updates after them; None: as many as the pipeline."""

    start: Literal["random", "cut_teacher"]
    updates: int | None


ARMS = {
    "full": Arm("cut_teacher", None),
    "random_100": Arm("random", 100),
    "cut_100": Arm("cut_teacher", 100),
    "cut_25": Arm("cut_teacher", 25),
    "cut_0": Arm("cut_teacher", 0),
}


@dataclass(frozen=True)
class Cell:
    """One training: the arm, the shape, and the result.

    `dev_loss`: the lowest of the head on the teacher's last layer; `dev_per` in percent; `cpu_seconds`: processor time
    for first weights, training and probe.
    """

    arm: str
    shape: int
    depth: int
    width: int
    ffn_width: int
    attention_heads: int
    front_end: float
    time_reduction: str
    factor: int
    position: float
    mmacs_per_second: int
    dev_loss: float
    dev_per: float
    cpu_seconds: float


class LastLoss(TrainingListener):
    """Keeps the lowest dev loss of the last head."""

    def __init__(self) -> None:
        self.value = float("inf")

    def on_evaluation(self, event: Evaluated) -> None:
        """Keep the lowest loss."""
        self.value = min(self.value, list(event.layer_losses.values())[-1])


def draw_shapes(params: Params, teacher_depth: int) -> list[dict[str, Any]]:
    """The student's own shape and others drawn from the sweep's space, all with the student's read-out."""
    student, space = params.students[params.sweep.of], params.sweep.space
    own = find_choices(student, space)
    assert own is not None
    generator, shapes = random.Random(DRAW_SEED), [own]
    while len(shapes) < SHAPES:
        drawn = {name: generator.choice(values) for name, values in space.choices.items()} | {"readout": own["readout"]}
        if macs_per_second(make_student(student, drawn, teacher_depth)) <= MOST_COST * macs_per_second(student):
            shapes.append(drawn)
    return shapes


def run_cell(name: str, number: int, choices: dict[str, Any], params: Params, data: TrialData, work: Path) -> Cell:
    """Train and probe one shape from scratch."""
    arm = ARMS[name]
    student = make_student(params.students[params.sweep.of], choices, depth_of(data))
    full, budget = arm.updates is None, params.sweep.budget
    schedule, task = params.distill, params.superb.tasks["pr"] if full else budget.tasks["pr"]
    if arm.updates is not None:
        changes = {"seed": TRIAL_SEED, "updates": max(1, arm.updates), "dev_every_updates": budget.dev_every_updates}
        schedule = schedule.model_copy(update=changes)
        student = student.model_copy(update={"init_seconds": budget.init_seconds})
    # Weights cut from the teacher need a lower rate than random ones.
    rate = None if arm.start == "random" else student.learning_rate
    schedule = schedule.model_copy(update={"learning_rate": rate or schedule.learning_rate})
    folder = work / f"{name}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.process_time()
    torch.manual_seed(schedule.seed)
    built = build_student(resolve(student.recipe, student.shape))
    start = student.model_copy(update={"init": arm.start})
    set_first_weights(built, start, data.training, schedule.seed, torch.device("cpu"))
    loss = train_on(built, student, schedule, data, folder, trained=arm.updates != 0)
    save_student(built, folder / "student")
    per = probe(folder, data, params, task, schedule.seed)
    seconds = time.process_time() - begun
    shutil.rmtree(folder)
    return Cell(
        arm=name,
        shape=number,
        **{key: value for key, value in choices.items() if key != "readout"},
        mmacs_per_second=round(macs_per_second(student) / 1e6),
        dev_loss=round(loss, 5),
        dev_per=round(per, 3),
        cpu_seconds=round(seconds, 1),
    )


def train_on(
    built: Student, student: StudentParams, schedule: DistillParams, data: TrialData, folder: Path, trained: bool
) -> float:
    """Train `built` (or only evaluate it) and leave its best weights in it; the lowest dev loss of the last head."""
    hint_loss = HintLoss(student.hints, built.config.heads.layer_map, built.config.repeats)
    targets, fabric = data.training, open_fabric("cpu", schedule.precision, False)
    with deterministic_torch():
        measure_scales(hint_loss, targets, schedule.seed, fabric)
        stepper = Stepper(fabric, built, hint_loss, schedule)
        if not trained:
            return evaluate(stepper, data)
        lowest = LastLoss()
        checkpoints = CheckpointFolder(folder / "checkpoints", {}, 1)
        loop = TrainingLoop(stepper, targets, checkpoints, Listeners([lowest]))
        loop.run()
    built.load_state_dict(loop.best)
    return lowest.value


def evaluate(stepper: Stepper, data: TrialData) -> float:
    """The last head's dev loss of a student as it is."""
    batch_frames = max(1, round(stepper.params.batch_seconds / data.training.seconds_per_frame))
    _, heads = stepper.evaluate(data.training.dev, batch_frames)
    return heads[stepper.hint_loss.layer_map[-1]]


def depth_of(data: TrialData) -> int:
    """The number of layers of the teacher."""
    assert data.training.teacher is not None  # open_trial_data reads one
    return data.training.teacher.model.config.depth


def macs_per_second(student: StudentParams) -> float:
    """Multiply-accumulates per second of audio."""
    return sum(count_reference_macs(resolve(student.recipe, student.shape)).values()) / REFERENCE_SECONDS


def probe(folder: Path, data: TrialData, params: Params, task: TaskBudget, seed: int) -> float:
    """The phone error rate on dev of the student below `folder`."""
    model = ReadOut(load_student(folder / "student"), "student")
    manifest = data.manifest.select(kind={str(task_kind("pr"))})
    settings = ExtractSettings(layers="all", with_waveform=False, **params.extract.model_dump())
    extract_features(model, manifest, folder / "features", settings)
    result = run_task("pr", FeatureStore.open(folder / "features"), manifest, task, (seed,))
    assert result.reason is None
    return result.dev["per"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("experiments/width_depth/cells"), help="where cells are trained"
    )
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="what to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params, workspace = load_params(), Workspace(Path.cwd())
    data = open_trial_data(params, workspace)
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = {(row["arm"], int(row["shape"])) for row in read_rows(RESULTS)}
    for arm in arguments.arms:
        for number, choices in enumerate(draw_shapes(params, depth_of(data))):
            if (arm, number) not in done:
                begun = time.monotonic()
                cell = run_cell(arm, number, choices, params, data, arguments.work)
                add_row(RESULTS, cell)
                print(cell, f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
