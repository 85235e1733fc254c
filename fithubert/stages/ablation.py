"""One ablation: variants of a student, trained alike with several seeds, side by side with what they cost."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import torch

from fithubert.config.ablation import AblationParams
from fithubert.config.params import Params
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.models.readout import ReadOut
from fithubert.models.recipes import resolve
from fithubert.models.student import build_student
from fithubert.models.weights import read_teacher
from fithubert.profile.run import Subject, profile_models
from fithubert.records import ModelCosts
from fithubert.search.compare import compare_variants
from fithubert.search.trial import TrialData, TrialResult, run_trial
from fithubert.stages import tracked_stage
from fithubert.stages.trials import open_trial_data
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace, check_name


def ablation(params: Params, workspace: Workspace, name: str) -> dict[str, Any]:
    """Run the trials of the ablation `name` that have not been run, and compare its variants; the metrics.

    Trials that are there, of the same student, budget, data and code, are not run again; those of other variants are
    deleted. Raises UserError for an unknown ablation and, once the others are done, for a trial that failed.
    """
    check_name(name, list(params.ablation), "ablation")
    with tracked_stage(params, workspace, "ablation", name):
        return _compare_variants(params, workspace, name)


def _compare_variants(params: Params, workspace: Workspace, name: str) -> dict[str, Any]:
    begun = time.monotonic()
    entry = params.ablation[name]
    students = {variant: params.students[entry.of].changed(changes) for variant, changes in entry.variants.items()}
    _remove_others(workspace, name, entry)
    cells = [_Cell(name, variant, seed, student) for seed in entry.seeds for variant, student in students.items()]
    results = _run(params, workspace, cells, entry.workers)
    costs = _profile(params, workspace, students)
    metrics = {
        "of": entry.of,
        "updates": entry.budget.updates,
        "seeds": list(entry.seeds),
        "variants": {variant: _describe(variant, students[variant], results, costs) for variant in students},
        "comparisons": _compare(results, list(students)),
        "profile": {"rounds": costs.rounds, "threads": costs.threads, "seconds": costs.reference_seconds},
        "trials": [_without_name(result) for result in results],
        "seconds": time.monotonic() - begun,
    }
    write_json(workspace.metrics(f"ablation@{name}"), metrics)
    return metrics


def comparison_rows(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The variants of `ablation`'s metrics as rows of text: costs, and every figure with its interval over seeds."""
    rows = []
    for variant, cost in metrics["variants"].items():
        row = {"variant": variant, "latency": f"{cost['latency_ratio']:.0%}", "MACs": f"{cost['macs_ratio']:.0%}"}
        for figure, compared in metrics["comparisons"].items():
            noise = compared["half_width"]
            row[figure] = f"{compared['means'][variant]:.3g}" + ("" if noise is None else f" ± {noise:.2g}")
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Cell:
    ablation: str
    variant: str
    seed: int
    student: StudentParams


def _run(params: Params, workspace: Workspace, cells: list[_Cell], workers: int) -> list[TrialResult]:
    """The results of `cells` in their order; a trial that fails keeps none of the others from being done."""
    show = progress_line(f"ablation {cells[0].ablation}")
    context = get_context("spawn")
    failed: list[str] = []
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, context, initializer=_open, initargs=(params, workspace)) as pool,
    ):
        futures: dict[Future[TrialResult], _Cell] = {pool.submit(_run_cell, cell): cell for cell in cells}
        for done, future in enumerate(as_completed(futures), start=1):
            cell = futures[future]
            try:
                future.result()
            except UserError as error:
                failed.append(f"{cell.variant} (seed {cell.seed}): {error}")
            except BrokenProcessPool:
                raise UserError(
                    f"ablation {cell.ablation}: a trial's process was killed; the finished ones are kept, run it again"
                ) from None
            show(done, len(cells), f"{cell.variant}, seed {cell.seed}")
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(f"ablation {cells[0].ablation}: {failed[0]}{more}")
    return [future.result() for future in futures]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute on one thread each, reading threads too, which torch's own setting misses."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


#: What a worker process has opened: parameters, workspace and the data of all its trials.
_opened: tuple[Params, Workspace, TrialData] | None = None


def _open(params: Params, workspace: Workspace) -> None:
    global _opened
    # What a trial comes to must not depend on how many run at once.
    torch.set_num_threads(1)
    _opened = params, workspace, open_trial_data(params, workspace)


def _run_cell(cell: _Cell) -> TrialResult:
    assert _opened is not None  # _open ran first
    params, workspace, data = _opened
    directory = workspace.ablation(cell.ablation) / cell.variant / f"seed-{cell.seed}"
    budget = params.ablation[cell.ablation].budget
    return run_trial(cell.variant, cell.student, budget, params, data, cell.seed, directory)


def _remove_others(workspace: Workspace, name: str, entry: AblationParams) -> None:
    """Delete the trials of variants and seeds that the ablation no longer has."""
    wanted = {f"{variant}/seed-{seed}" for variant in entry.variants for seed in entry.seeds}
    root = workspace.ablation(name)
    for path in root.glob("*/*"):
        if path.relative_to(root).as_posix() not in wanted:
            shutil.rmtree(path)


def _profile(params: Params, workspace: Workspace, students: dict[str, StudentParams]) -> ModelCosts:
    """Teacher and variants, timed in turn in this process; what a student costs does not depend on its weights."""
    subjects = {"teacher": Subject(read_teacher(workspace.teacher))}
    for variant, student in students.items():
        built = build_student(resolve(student.recipe, student.shape))
        subjects[variant] = Subject(ReadOut(built, variant))
    settings = params.profile.model_copy(update={"seconds": (max(params.profile.seconds),)})
    return profile_models(subjects, settings, on_round=progress_line("ablation: cost of the variants"))


def _describe(variant: str, student: StudentParams, results: list[TrialResult], costs: ModelCosts) -> dict[str, Any]:
    """One variant: its shape's cost and the mean over seeds of what training it took."""
    own = [result for result in results if result.name == variant]
    cost = costs.models[variant]
    reduction = resolve(student.recipe, student.shape).time_reduction
    return {
        "time_reduction": reduction.model_dump(mode="json"),
        "params": own[0].parameters,
        "size_ratio": cost.size_ratio,
        "macs_per_second": own[0].macs_per_second,
        "macs_ratio": cost.macs_ratio,
        "latency_ratio": cost.latency_ratio,
        "latency_ratio_ci": list(cost.latency_ratio_ci),
        "train_seconds": sum(result.train_seconds for result in own) / len(own),
        "audio_hours": own[0].audio_hours,
    }


def _compare(results: list[TrialResult], variants: list[str]) -> dict[str, dict[str, Any]]:
    """`dev_loss` and every probed metric on test (`pr_per`) over the variants."""
    rows: dict[str, dict[str, list[float]]] = {}
    for result in results:
        figures = {"dev_loss": result.dev_loss}
        figures |= {f"{task}_{metric}": v for task, score in result.tasks.items() for metric, v in score.test.items()}
        for figure, value in figures.items():
            rows.setdefault(figure, {variant: [] for variant in variants})[result.name].append(value)
    return {figure: asdict(compare_variants(values)) for figure, values in rows.items()}


def _without_name(result: TrialResult) -> dict[str, Any]:
    values = asdict(result)
    return {"variant": values.pop("name"), **values}
