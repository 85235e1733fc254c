"""An ablation: variants of one student, trained alike with several seeds, compared with the noise of the seeds."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy import stats

from fithubert.config.params import Params
from fithubert.config.search import AblationParams
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.models.hubert import HubertTeacher
from fithubert.models.recipes import resolve
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import load_student
from fithubert.profile.costs import Subject, profile_models
from fithubert.records import AblationMetrics, AblationTrial, Comparison, ModelCosts, TimingSettings, VariantCost
from fithubert.search.trial import Trial, TrialData, run_trial
from fithubert.training.progress import progress_line
from fithubert.workers import run_side_by_side

OpenData = Callable[[], TrialData]


def compare_variants(values: Mapping[str, Sequence[float]]) -> Comparison:
    """The means of the variants and their noise. `values`: variant -> its value for every seed.

    Raises ValueError if a variant has no value.
    """
    if not values or not all(values.values()):
        raise ValueError("every variant needs a value")
    means = {name: fmean(row) for name, row in values.items()}
    freedom = sum(len(row) - 1 for row in values.values())
    if freedom == 0:
        return Comparison(means, None, None, None, None)
    within = sum(float(np.square(np.array(row) - means[name]).sum()) for name, row in values.items())
    deviation = (within / freedom) ** 0.5
    # All variants normally have the same seeds; otherwise the one with the fewest decides.
    seeds = min(len(row) for row in values.values())
    half_width = float(stats.t.ppf(0.975, freedom)) * deviation / seeds**0.5
    if len(values) == 1 or deviation == 0.0:
        return Comparison(means, half_width, deviation, None, None)
    # Rounding can make F negative for equal means; its probability would be undefined.
    f = max(float(stats.f_oneway(*values.values()).statistic), 0.0)
    return Comparison(means, half_width, deviation, f, float(stats.f.sf(f, len(values) - 1, freedom)))


def run_ablation(
    name: str, params: Params, teacher: HubertTeacher, open_data: OpenData, folder: Path
) -> AblationMetrics:
    """Run the missing trials of the ablation `name` and compare its variants.

    Existing trials of the same student, budget, data and code are kept; those of other variants are deleted.
    `folder`: the trials, one folder per variant and seed. `open_data` is called in every worker process, so it must be
    picklable. Raises UserError for a failed trial, after all others have run.
    """
    started = time.monotonic()
    entry = params.ablation[name]
    students = {variant: params.students[entry.of].changed(changes) for variant, changes in entry.variants.items()}
    _remove_others(folder, entry)
    trials = [
        Trial(variant, student, entry.budget, seed) for seed in entry.seeds for variant, student in students.items()
    ]
    results = _run(name, trials, (params, open_data, folder))
    # Of the first seed: a variant that is pruned learns its shape.
    costs = _profile(params, teacher, {name: folder / name / f"seed-{entry.seeds[0]}" / "student" for name in students})
    return AblationMetrics(
        of=entry.of,
        updates=entry.budget.updates,
        seeds=entry.seeds,
        variants={variant: _describe(variant, students[variant], results, costs) for variant in students},
        comparisons=_compare(results, list(students)),
        profile=TimingSettings(costs.rounds, costs.threads, costs.reference_seconds),
        trials=tuple(results),
        seconds=time.monotonic() - started,
    )


def comparison_rows(metrics: AblationMetrics) -> list[dict[str, str]]:
    """One row of text per variant: its costs, and every figure with its 95 % interval over seeds."""
    rows = []
    for variant in metrics.order:
        cost = metrics.variants[variant]
        row = {"variant": variant, "latency": f"{cost.latency_ratio:.0%}", "MACs": f"{cost.macs_ratio or 0:.0%}"}
        for figure, compared in metrics.comparisons.items():
            noise = compared.half_width
            row[figure] = f"{compared.means[variant]:.3g}" + ("" if noise is None else f" ± {noise:.2g}")
        rows.append(row)
    return rows


def _run(name: str, trials: list[Trial], setting: tuple[Params, OpenData, Path]) -> list[AblationTrial]:
    """The results of `trials` in their order. A failed trial does not stop the others."""
    heading = f"ablation {name}"
    show = progress_line(heading)
    failed: list[str] = []
    results: dict[str, AblationTrial] = {}
    workers = setting[0].ablation[name].workers
    # The result of a trial must not depend on how many run at once, so each has one thread.
    done = run_side_by_side(heading, _run_one, trials, workers, 1, (_open, setting))
    for count, (trial, result) in enumerate(done, start=1):
        title = f"{trial.name}, seed {trial.seed}"
        if isinstance(result, UserError):
            failed.append(f"{trial.name} (seed {trial.seed}): {result}")
        else:
            results[title] = result
        show(count, len(trials), title)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(f"{heading}: {failed[0]}{more}")
    return [results[f"{trial.name}, seed {trial.seed}"] for trial in trials]


#: The settings, the data and the folder that a worker process has opened.
_opened: tuple[Params, TrialData, Path] | None = None


def _open(params: Params, open_data: OpenData, folder: Path) -> None:
    global _opened
    _opened = params, open_data(), folder


def _run_one(trial: Trial) -> AblationTrial:
    assert _opened is not None  # the pool calls _open first
    params, data, folder = _opened
    return run_trial(trial, params, data, folder / trial.name / f"seed-{trial.seed}")


def _remove_others(folder: Path, entry: AblationParams) -> None:
    """Delete the trials of variants and seeds that are no longer in the ablation."""
    wanted = {f"{variant}/seed-{seed}" for variant in entry.variants for seed in entry.seeds}
    for path in folder.glob("*/*"):
        if path.relative_to(folder).as_posix() not in wanted:
            shutil.rmtree(path)


def _profile(params: Params, teacher: HubertTeacher, students: Mapping[str, Path]) -> ModelCosts:
    """The costs of the teacher and of the students in the folders of all variants, timed in turn."""
    subjects = {"teacher": Subject(teacher)}
    for variant, student in students.items():
        subjects[variant] = Subject(ReadOut(load_student(student), variant))
    settings = params.profile.model_copy(update={"seconds": (max(params.profile.seconds),)})
    return profile_models(subjects, settings, on_pass=progress_line("ablation: cost of the variants"))


def _describe(variant: str, student: StudentParams, results: Sequence[AblationTrial], costs: ModelCosts) -> VariantCost:
    """The cost of one variant, and the mean training time over seeds."""
    own = [result for result in results if result.variant == variant]
    cost = costs.models[variant]
    return VariantCost(
        time_reduction=resolve(student.recipe, student.shape).time_reduction,
        params=own[0].parameters,
        size_ratio=cost.size_ratio,
        macs_per_second=own[0].macs_per_second,
        macs_ratio=cost.macs_ratio,
        latency_ratio=cost.latency_ratio,
        latency_ratio_ci=cost.latency_ratio_ci,
        train_seconds=fmean(result.train_seconds for result in own),
        audio_hours=own[0].audio_hours,
    )


def _compare(results: Sequence[AblationTrial], variants: Sequence[str]) -> dict[str, Comparison]:
    """The comparison of the variants by `dev_loss` and by every probed metric on test, as `pr_per`."""
    rows: dict[str, dict[str, list[float]]] = {}
    for result in results:
        figures = {"dev_loss": result.dev_loss}
        figures |= {f"{task}_{metric}": v for task, score in result.tasks.items() for metric, v in score.test.items()}
        for figure, value in figures.items():
            rows.setdefault(figure, {variant: [] for variant in variants})[result.variant].append(value)
    return {figure: compare_variants(values) for figure, values in rows.items()}
