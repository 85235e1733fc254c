"""The scores of a model: the same for any number of workers, kept as long as nothing that decides them has changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fithubert.config.params import Params
from fithubert.errors import UserError
from fithubert.records import DepthMetrics, ModelScores, SuperbMetrics, add_resamples
from fithubert.stages.depth import depth
from fithubert.stages.extract import extract
from fithubert.stages.profile import profile
from fithubert.stages.superb import superb
from fithubert.superb import jobs
from fithubert.superb.kept import read_head
from fithubert.workspace import Workspace
from tests.tiny_params import BUDGET, TINY_PARAMS


def make_params(**changes: Any) -> Params:
    settings = {**TINY_PARAMS["superb"], "tasks": {"pr": BUDGET, "sid": BUDGET}, **changes}
    return Params.model_validate({**TINY_PARAMS, "superb": settings})


@pytest.fixture(autouse=True)
def _extracted(workspace: Workspace) -> None:
    """The teacher's hidden states."""
    extract(make_params(), workspace, "teacher")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that are run in this process, in order."""
    tasks: list[str] = []
    run: Callable[[jobs.TaskJob], SuperbMetrics] = jobs.TaskJob.run

    def record(job: jobs.TaskJob) -> SuperbMetrics:
        tasks.append(job.task)
        return run(job)

    monkeypatch.setattr(jobs.TaskJob, "run", record)
    return tasks


def without_times(scores: ModelScores) -> dict[str, SuperbMetrics]:
    return {task: replace(score, seconds=None) for task, score in scores.tasks.items()}


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(workspace: Workspace) -> None:
    found = []
    for workers in (1, 2):
        done = superb(make_params(workers=workers), workspace, "teacher")
        found.append((without_times(done), {task: score.resamples for task, score in done.tasks.items()}))
        workspace.metrics("superb@teacher").unlink()
        workspace.resamples("teacher").unlink()
    assert found[0] == found[1]
    assert set(found[0][1]["pr"]) == {"test/per", "dev/per"}


def test_a_score_is_kept_until_something_that_decides_it_changes(workspace: Workspace, runs: list[str]) -> None:
    params = make_params(workers=1)
    first = superb(params, workspace, "teacher")
    assert runs == ["pr", "sid"]
    assert superb(params, workspace, "teacher") == first
    assert runs == ["pr", "sid"]
    other = make_params(workers=1, tasks={"pr": BUDGET, "sid": {**BUDGET, "steps": 6}})
    changed = superb(other, workspace, "teacher")
    assert runs == ["pr", "sid", "sid"]
    assert changed.tasks["pr"] == first.tasks["pr"]
    # Without its resamples a score cannot be paired, so it is made again.
    workspace.resamples("teacher").unlink()
    superb(params, workspace, "teacher", "pr")
    assert runs[3:] == ["pr"]
    stored = add_resamples(ModelScores.read(workspace.metrics("superb@teacher")), workspace.resamples("teacher"))
    assert set(stored.tasks) == {"pr", "sid"}
    np.testing.assert_allclose(stored.tasks["pr"].resamples["test/per"], first.tasks["pr"].resamples["test/per"])


def test_a_trained_head_is_kept_and_made_again_if_it_is_missing_or_damaged(
    workspace: Workspace, runs: list[str]
) -> None:
    params = make_params(workers=1, seeds=[1, 2], tasks={"sid": BUDGET})
    score = superb(params, workspace, "teacher").tasks["sid"]
    record, head = read_head(workspace.probe("teacher", "sid"))
    assert record.identity == score.identity
    assert record.labels == (tuple(sorted(record.labels[0])),)
    assert set(record.dev) == set(record.test) == {"acc"}
    assert record.seed in (1, 2)
    assert record.dev["acc"] >= score.dev["acc"]  # the best of both seeds, and their mean
    weights = workspace.probe("teacher", "sid") / "model.safetensors"
    for damage in (lambda: weights.unlink(), lambda: weights.write_bytes(b"")):
        damage()
        assert superb(params, workspace, "teacher").tasks["sid"].metrics == score.metrics
        again, same = read_head(workspace.probe("teacher", "sid"))
        assert again == record
        assert all(torch.equal(one, two) for one, two in zip(head.parameters(), same.parameters(), strict=True))
    superb(params, workspace, "teacher")
    assert runs == ["sid"] * 3


def test_a_failed_task_leaves_the_others_and_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = jobs.TaskJob.run

    def fail(job: jobs.TaskJob) -> SuperbMetrics:
        if job.task == "pr":
            raise UserError("no memory")
        return run(job)

    monkeypatch.setattr(jobs.TaskJob, "run", fail)
    with pytest.raises(UserError, match="teacher on pr: no memory"):
        superb(make_params(workers=1), workspace, "teacher")
    assert set(ModelScores.read(workspace.metrics("superb@teacher")).tasks) == {"sid"}


def test_a_control_reads_some_states_of_the_teacher(workspace: Workspace) -> None:
    controls = {"all": {"layers": [0, 1, 2]}, "last": {"layers": [-1]}, "none": {"layers": [7]}}
    params = make_params(workers=1, controls=controls, tasks={"pr": BUDGET})
    whole = superb(params, workspace, "teacher")
    same = superb(params, workspace, "all")
    assert same.tasks["pr"].metrics == whole.tasks["pr"].metrics
    assert len(superb(params, workspace, "last").tasks["pr"].layer_weights) == 1
    with pytest.raises(UserError, match=r"superb\.controls\.none\.layers: \[7\], but the teacher has 3 states"):
        superb(params, workspace, "none")
    with pytest.raises(UserError, match=r"superb\.controls\.none\.layers: \[7\], but the teacher has 3 states"):
        profile(params, workspace)


def test_depth_scores_every_state_alone(workspace: Workspace) -> None:
    params = make_params(workers=1, controls={"last": {"layers": [-1]}}, tasks={"pr": BUDGET})
    metrics = depth(params, workspace)
    assert list(metrics.layers) == [0, 1, 2]
    assert metrics.best_layer == min(metrics.layers, key=lambda layer: metrics.layers[layer].dev)
    last = superb(params, workspace, "last").tasks["pr"]
    assert metrics.layers[2].test == last.metrics["per"]
    assert DepthMetrics.read(workspace.metrics("depth")) == metrics


def test_a_damaged_archive_of_resamples_is_named(workspace: Workspace) -> None:
    superb(make_params(workers=1, tasks={"pr": BUDGET}), workspace, "teacher")
    path = workspace.resamples("teacher")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"teacher\.npz: damaged"):
        superb(make_params(workers=1), workspace, "teacher")
