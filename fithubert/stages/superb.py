"""One model on SUPERB's tasks, from its frozen features."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from fithubert.config.params import Params
from fithubert.config.superb import official_budgets
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import only_writer, read_json
from fithubert.records import ModelScores, SuperbMetrics, add_resamples, write_resamples
from fithubert.stages import tracked_stage
from fithubert.store import Expected
from fithubert.store.read import FeatureStore
from fithubert.superb.jobs import TaskJob, run_jobs
from fithubert.superb.kept import holds_head
from fithubert.superb.learners import RunOptions
from fithubert.superb.official import corpus_settings, describe_corpus, list_corpus_departures
from fithubert.superb.run import keeps_head
from fithubert.tasks import TASKS, find_metric
from fithubert.workspace import Workspace, check_name


def superb(params: Params, workspace: Workspace, model: str, task: str | None = None) -> ModelScores:
    """Score `model` on `task`, or on all tasks of `params`; write the metrics, resamples and trained heads.

    Prints each score as it comes; one that the same features, labels, budget and code gave before is kept. A corpus
    without the labels of a task gives a reason instead of scores. Raises UserError for an unknown task and, at the end,
    for a task that failed.
    """
    if task is not None:
        check_name(task, list(params.superb.tasks), "task")
    tasks = list(params.superb.tasks) if task is None else [task]
    # A missing input is found before the run begins.
    manifest = workspace.load_manifest()
    store = open_features(params, workspace, model, manifest)
    if params.superb.protocol == "official":
        _check_prepared(params, workspace)
    folder = workspace.root / "artifacts" / "superb" / model
    with only_writer(folder, f"the tasks of {model}"), tracked_stage(params, workspace, "superb", model):
        return _score(params, workspace, model, tasks, (manifest, store))


def _score(
    params: Params, workspace: Workspace, model: str, tasks: list[str], inputs: tuple[Manifest, FeatureStore]
) -> ModelScores:
    manifest, store = inputs
    scores = _read_scores(workspace, model)
    jobs, identities = [], {}
    for task in tasks:
        job = plan_task(params, workspace, f"{model} on {task}", task, store)
        identities[task] = job.identify(store, manifest)
        known, probe = scores.tasks.get(task), workspace.probe(model, task)
        if known is not None and known.identity == identities[task] and _is_complete(known, probe):
            print(describe_scores(known), flush=True)
        else:
            jobs.append(replace(job, probe=probe, identity=identities[task]))

    def keep(job: TaskJob, result: SuperbMetrics) -> None:
        nonlocal scores
        departures = list_corpus_departures(job.task, params.data, params.superb.quirks) if job.quirks else ()
        found = replace(
            result,
            model=model,
            departures=(*result.departures, *departures),
            corpus=describe_corpus(params.data),
            identity=identities[job.task],
        )
        scores = replace(scores, tasks={**scores.tasks, job.task: found})
        if found.reason is not None and workspace.probe(model, job.task).exists():
            shutil.rmtree(workspace.probe(model, job.task))
        # The metrics name what is complete, so they are written last.
        write_resamples(scores, workspace.resamples(model))
        scores.write(workspace.metrics(f"superb@{model}"))
        print(describe_scores(found), flush=True)

    # DVC's output, even if no task has labels.
    workspace.probe(model, "").mkdir(parents=True, exist_ok=True)
    run_jobs(jobs, params.superb.workers, params.superb.threads, keep)
    return replace(scores, tasks={name: scores.tasks[name] for name in tasks})


def _is_complete(known: SuperbMetrics, probe: Path) -> bool:
    """Whether all that belongs to a score exists: its resamples, and the head that it is of if that is kept."""
    kept = not keeps_head(known.task) or holds_head(probe, known.identity)
    return known.reason is not None or (bool(known.resamples) and kept)


def _read_scores(workspace: Workspace, model: str) -> ModelScores:
    path = workspace.metrics(f"superb@{model}")
    if not path.exists():
        return ModelScores(model, {})
    return add_resamples(ModelScores.read(path), workspace.resamples(model))


def open_features(params: Params, workspace: Workspace, model: str, manifest: Manifest) -> FeatureStore:
    """The hidden states of `model`; for a control, the layers of the teacher's that it reads."""
    expected, control = Expected(corpus=manifest.fingerprint), params.superb.controls.get(model)
    if control is None:
        return FeatureStore.open(workspace.extracted(model), expected)
    store = FeatureStore.open(workspace.extracted("teacher"), expected)
    return FeatureStore.open(store.path, layers=control.choose(model, store.layers))


def plan_task(params: Params, workspace: Workspace, title: str, task: str, store: FeatureStore) -> TaskJob:
    """The job of one task on the layers of `store`, by the protocol of `params`."""
    settings = params.superb
    return TaskJob(
        title=title,
        task=task,
        features=store.path,
        data=workspace.data,
        budget=settings.tasks[task],
        seeds=settings.seeds,
        layers=store.layers,
        quirks=settings.quirks if settings.protocol == "official" else None,
        options=head_options(params),
    )


def head_options(params: Params) -> RunOptions:
    """How heads are trained, without effect on a result."""
    return RunOptions(params.superb.device, params.superb.memory_gb * 1e9)


def describe_scores(metrics: SuperbMetrics) -> str:
    """One line: `teacher pr: PER 46.60 [44.90, 48.40]`, or the reason why there are no scores."""
    scores = ", ".join(describe_score(metrics, name) for name in metrics.metrics)
    return f"{metrics.model} {metrics.task}: {scores or metrics.reason}"


def describe_score(metrics: SuperbMetrics, name: str) -> str:
    """A metric with its 95 % interval and, for several seeds, their standard deviation."""
    low, high = metrics.intervals[name]
    seeds = f", {metrics.seed_deviation[name]:.2f} over seeds" if len(metrics.seeds) > 1 else ""
    plain = name.removesuffix("_test_selected")
    label = find_metric(metrics.task, plain).label + (" selected on test" if plain != name else "")
    return f"{label} {metrics.metrics[name]:.2f} [{low:.2f}, {high:.2f}{seeds}]"


def describe_task(task: str | None, data: Path | None, official: bool, seeds: int | None = None) -> list[str]:
    """Changes of the parameters: the task's own corpus in `data`, SUPERB's settings if the run is `official`, and the
    seeds 1 to `seeds`."""
    changes = []
    if task in TASKS and data is not None:
        changes.append(f"data={json.dumps(corpus_settings(task, str(data), official))}")
    if task in TASKS and official:
        budget = official_budgets()[task].model_dump(mode="json")
        changes += ["superb.protocol=official", "superb.seeds=[1337]", f"superb.tasks.{task}={json.dumps(budget)}"]
    if seeds is not None:
        changes.append(f"superb.seeds={list(range(1, seeds + 1))}")
    return changes


def _check_prepared(params: Params, workspace: Workspace) -> None:
    """Raise UserError if the workspace holds another corpus than `params` names: a result must name its own."""
    path = workspace.metrics("prepare")
    prepared = read_json(path).get("source") if path.is_file() else None
    if prepared not in (None, params.data.source):
        raise UserError(
            f"{workspace.data}: was prepared from {prepared} but data.source is {params.data.source}; an official "
            "result names its corpus, so give the same `data` to superb (--data DIR prepares it)"
        )
