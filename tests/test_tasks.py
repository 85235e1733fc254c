"""The table of tasks against the presets, the registry of heads and the published switches."""

from pathlib import Path

import pytest
import yaml

from fithubert.config.base import validate
from fithubert.config.superb import OfficialQuirks, SuperbParams, TaskBudget, mini_budgets, official_budgets
from fithubert.errors import UserError
from fithubert.superb.run import LEARNERS
from fithubert.tasks import TASKS, Metric, find_metric, metric_key, task_info

PRESETS = Path(__file__).parents[1] / "experiments/presets"


def read_preset(name: str) -> SuperbParams:
    path = PRESETS / f"{name}.yaml"
    return validate(SuperbParams, {"models": ["fbank"], **yaml.safe_load(path.read_text())["superb"]}, str(path))


def test_the_presets_are_the_table() -> None:
    assert read_preset("budget/default").tasks == mini_budgets()
    official = read_preset("superb/official")
    assert official.tasks == official_budgets()
    assert (official.protocol, official.quirks, official.seeds) == ("official", OfficialQuirks(), (1337,))
    assert set(read_preset("budget/demo").tasks) <= set(TASKS)
    assert read_preset("superb/mini").tasks == mini_budgets()


def test_every_task_has_its_head_its_switches_and_its_reference_points() -> None:
    assert list(LEARNERS) == list(TASKS)
    assert {quirk for task in TASKS.values() for quirk in task.quirks} == set(OfficialQuirks.model_fields)
    assert {name for name, task in TASKS.items() if task.outputs is None} == {"qbe"}
    for name, task in TASKS.items():
        assert task.name == name
        assert task.corpus is not None
        assert LEARNERS[name].selection.name == task.selection.name
        assert all(metric.is_better(metric.best, metric.fbank) for metric in task.metrics)


def test_better_is_strict_and_anything_is_better_than_nothing() -> None:
    error, share = Metric("e", "E", lower=True), Metric("s", "S", lower=False)
    assert error.is_better(1, 2)
    assert share.is_better(2, 1)
    assert not any(metric.is_better(1, 1) for metric in (error, share))
    assert share.is_better(-1, None)


def test_a_task_of_ones_own_uses_the_metrics_that_are_described() -> None:
    assert task_info("pr") is TASKS["pr"]
    own = task_info("rate", ("acc", "cer"))
    assert (own.title, own.corpus, own.mini) == ("RATE", None, {})
    assert [(metric.label, metric.lower) for metric in own.metrics] == [("Acc", False), ("CER", True)]
    assert find_metric("sd", "frame_acc").lower is False
    for task, metric in (("rate", "bleu"), ("pr", "wer")):
        with pytest.raises(UserError, match=f"task '{task}': unknown metric '{metric}'"):
            find_metric(task, metric)


def test_scores_have_names_of_their_own() -> None:
    keys = [metric_key(task.name, metric.name) for task in TASKS.values() for metric in task.metrics]
    own = ["per", "wer", "ks_acc", "mtwv", "sid_acc", "eer", "der", "er_acc", "ic_acc", "sf_f1", "sf_cer"]
    assert keys == own
    assert metric_key("rate", "acc") == "rate_acc"


def test_budgets_name_their_fields() -> None:
    with pytest.raises(ValueError, match="batches"):
        TaskBudget.model_validate({"steps": 1, "batches": 2})
