"""Runs with one seed each, pooled, are one run with all their seeds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fithubert.errors import UserError
from fithubert.records import ModelScores, SuperbMetrics
from fithubert.superb.metrics import Ratio, score_fields, summarise
from fithubert.superb.pool import pool_scores


def measure(seed: int) -> Ratio:
    rng = np.random.default_rng(seed)
    return Ratio(rng.integers(0, 5, 60).astype(float), rng.integers(5, 20, 60).astype(float))


def scored(seeds: Sequence[int], **changes: object) -> ModelScores:
    """The scores of one model on PR, as the stage writes them for `seeds`."""
    test, dev = summarise([measure(seed) for seed in seeds]), summarise([measure(100 + seed) for seed in seeds])
    score = SuperbMetrics(
        "pr",
        "student",
        **score_fields({"per": test}, {"per": dev}),
        dev={"per": dev.value},
        layer_weights=tuple(float(x) for x in np.mean([[s, 1 - s] for s in seeds], axis=0)),
        selected_steps=tuple(10 * seed for seed in seeds),
        seeds=tuple(seeds),
        num_test=60,
    )
    return ModelScores("student", {"pr": replace(score, **changes)})  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [[(1,)], [(1,), (2,)], [(3,), (1,), (2,)]])
def test_pooled_runs_are_one_run_with_all_seeds(parts: list[tuple[int, ...]]) -> None:
    pooled = pool_scores([scored(seeds) for seeds in parts]).tasks["pr"]
    whole = scored([seed for seeds in parts for seed in seeds]).tasks["pr"]
    assert pooled.seeds == whole.seeds
    assert pooled.selected_steps == whole.selected_steps
    for name in ("metrics", "dev", "seed_deviation"):
        assert getattr(pooled, name) == pytest.approx(getattr(whole, name))
    assert pooled.intervals["per"] == pytest.approx(whole.intervals["per"])
    assert pooled.layer_weights == pytest.approx(whole.layer_weights)
    for key, values in whole.resamples.items():
        np.testing.assert_allclose(pooled.resamples[key], values)


def test_a_task_without_labels_keeps_its_reason() -> None:
    runs = [ModelScores("student", {"sd": SuperbMetrics("sd", "student", {}, reason="no mixtures")})] * 2
    assert pool_scores(runs) == runs[0]


def test_a_task_that_one_run_lacks_is_left_out() -> None:
    more = scored([2])
    more = replace(more, tasks={**more.tasks, "ks": more.tasks["pr"]})
    assert list(pool_scores([scored([1]), more]).tasks) == ["pr"]
    assert list(pool_scores([more, scored([1])]).tasks) == ["pr"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (scored([1]), r"student on pr: two runs have the same seed \(1, 1\)"),
        (scored([2], num_test=61), "student on pr: the runs differ in num_test"),
        (scored([2], protocol="official"), "student on pr: the runs differ in protocol"),
        (scored([2], reason="no phones"), "student on pr: the runs differ in what could be scored"),
        (scored([2], resamples={}), "student on pr: a run has no resamples; run `fithubert superb student` there"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(second: ModelScores, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pool_scores([scored([1]), second])
