"""One trial: short, kept, and repeated if what decides it changes; variants compared with the noise of seeds."""

import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from fithubert.config.base import validate
from fithubert.config.params import DistillParams, Params
from fithubert.config.search import SweepParams, TrialBudget
from fithubert.config.students import StudentParams
from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.distill.targets import LiveTargets, TrainingData
from fithubert.errors import UserError
from fithubert.records import AblationTrial, Head
from fithubert.search.ablation import compare_variants
from fithubert.search.space import count_costs
from fithubert.search.trial import FinishedTrial, StoppingRule, Trial, TrialData, run_trial
from fithubert.superb.run import run_task
from fithubert.training.events import Evaluated, Listeners, StopTraining
from tests.distill.fakes import student_params, tiny_teacher
from tests.search.fakes import SPEED

STUDENT = student_params()
SID = TaskBudget(steps=4, batch=4, eval_every=2, learning_rates=(0.01,))
BUDGET = TrialBudget(updates=4, dev_every_updates=2, tasks={"sid": SID})


@pytest.fixture(scope="module")
def data(tiny_corpus: Manifest) -> TrialData:
    teacher = tiny_teacher()
    train, dev = (LiveTargets(tiny_corpus.select(split=s, kind="sentence"), teacher) for s in ("train", "dev"))
    return TrialData(tiny_corpus, TrainingData(train, dev, teacher))


def params() -> Params:
    return Params.model_validate(
        {
            "data": {"source": "synthetic"},
            "distill": DistillParams(batch_seconds=4.0, crop_seconds=1.0).model_dump(),
            "students": {"thin": STUDENT.model_dump()},
            "superb": {"models": ("thin",)},
        }
    )


def trial(data: TrialData, folder: Path, budget: TrialBudget = BUDGET, seed: int = 1) -> AblationTrial:
    return run_trial(Trial("thin", STUDENT, budget, seed), params(), data, folder)


def test_the_result_of_a_trial(data: TrialData, tmp_path: Path) -> None:
    result = trial(data, tmp_path / "thin")
    assert [update for update, _ in result.curve] == [0, 2, 4]
    assert result.dev_loss == min(loss for _, loss in result.curve)
    assert set(result.tasks) == {"sid"}
    low, high = result.tasks["sid"].intervals["acc"]
    assert low <= result.tasks["sid"].test["acc"] <= high
    assert result.macs_per_second == count_costs(STUDENT, SPEED).macs_per_second
    assert not (tmp_path / "thin" / "features").exists()


def test_a_finished_trial_is_read_and_not_run(data: TrialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trial(data, tmp_path / "thin")
    monkeypatch.setattr("fithubert.search.trial.train_student", lambda *_: pytest.fail("trained again"))
    assert trial(data, tmp_path / "thin") == first


@pytest.mark.parametrize("change", [{"updates": 6}, {"tasks": {}}])
def test_another_budget_is_another_trial(change: dict[str, int], data: TrialData, tmp_path: Path) -> None:
    trial(data, tmp_path / "thin")
    again = trial(data, tmp_path / "thin", BUDGET.model_copy(update=change))
    assert again.updates == change.get("updates", 4)
    assert set(again.tasks) == set(change.get("tasks", {"sid": SID}))  # type: ignore[call-overload]


def test_the_same_trial_in_another_folder_is_the_same(data: TrialData, tmp_path: Path) -> None:
    first, second = trial(data, tmp_path / "a"), trial(data, tmp_path / "b")
    assert (first.curve, first.tasks) == (second.curve, second.tasks)
    other = trial(data, tmp_path / "c", seed=2)
    assert other.curve != first.curve


def test_a_score_is_the_mean_of_heads_that_no_two_trials_share(
    data: TrialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, single = [], []

    def record(task: str, store: object, manifest: object, budget: TaskBudget, seeds: range) -> object:
        used.append(tuple(seeds))
        alone = [run_task(task, store, manifest, budget, (seed,)) for seed in seeds]  # type: ignore[arg-type]
        single.append(fmean(result.metrics["acc"] for result in alone))
        return run_task(task, store, manifest, budget, seeds)  # type: ignore[arg-type]

    monkeypatch.setattr("fithubert.search.trial.run_task", record)
    results = [trial(data, tmp_path / str(s), BUDGET.model_copy(update={"probe_seeds": 3}), seed=s) for s in (1, 2)]
    assert [result.tasks["sid"].test["acc"] for result in results] == pytest.approx(single)
    assert len(set(used[0] + used[1])) == 6


def _evaluated(update: int, loss: float) -> Evaluated:
    return Evaluated(update, 0.0, 0.0, 1.0, 9.0, {Head(1, 6): 5.0, Head(2, 12): loss}, True)


def test_rule_stops_what_cheaper_trials_beat_by_the_margin() -> None:
    better = [FinishedTrial((50.0,), {50: 0.5, 75: 0.4}), FinishedTrial((90.0,), {50: 0.5, 75: 0.4})]
    settings = SweepParams(stop_margin=0.1, stop_after=2)  # of 100 updates
    saved: list[dict[int, float]] = []
    rule = StoppingRule(settings, (100.0,), lambda: better, lambda curve: saved.append(dict(curve)), {})
    rule.on_evaluation(_evaluated(25, 9.0))  # too early
    rule.on_evaluation(_evaluated(50, 0.55))  # within the margin: 0.55 * 0.9 < 0.5
    with pytest.raises(StopTraining, match="update 75"):
        Listeners([rule]).notify(_evaluated(75, 0.5))
    assert saved[-1] == rule.curve == {25: 9.0, 50: 0.55, 75: 0.5}
    # One of the two costs more, so one is not enough; a trial at its end is not stopped.
    StoppingRule(settings, (60.0,), lambda: better, saved.append, {}).on_evaluation(_evaluated(75, 9.0))
    rule.on_evaluation(_evaluated(100, 9.0))


def test_a_variant_changes_only_what_it_names() -> None:
    student = StudentParams(recipe="fithubert", shape={"width": 8, "heads": {"teacher_width": 8}})
    changed = student.changed({"shape": {"time_reduction": {"factor": 3}, "heads": {"upsampling": "repeat"}}})
    assert changed.shape["time_reduction"] == {"factor": 3}
    assert changed.shape["heads"] == {"teacher_width": 8, "upsampling": "repeat"}
    assert changed.shape["width"] == 8


def test_a_variant_with_an_unknown_key_is_named() -> None:
    values = params().model_dump(mode="json")
    values["ablation"] = {"rate": {"of": "thin", "variants": {"a": {}, "b": {"shap": {}}}}}
    with pytest.raises(UserError, match=r"ablation\.rate\.variants\.b"):
        validate(Params, values, "params.yaml")


ROWS = st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=2, max_size=5)


@example([[0.0, 0.0, -1.0], [1.0, 0.0, -2.0]])
@given(ROWS)
def test_the_interval_and_the_test_are_the_textbook_ones(rows: list[list[float]]) -> None:
    values = {f"v{i}": row for i, row in enumerate(rows)}
    compared = compare_variants(values)
    table = np.array(rows)
    within, freedom = ((table - table.mean(1, keepdims=True)) ** 2).sum(), 2 * len(rows)
    between = 3 * ((table.mean(1) - table.mean()) ** 2).sum()
    assert compared.seed_deviation == pytest.approx(math.sqrt(within / freedom), abs=1e-9)
    wide = stats.t(freedom).ppf(0.975) * math.sqrt(within / freedom / 3)
    assert compared.half_width == pytest.approx(wide, abs=1e-9)
    if within > 1e-6:
        f = between / (len(rows) - 1) / (within / freedom)
        assert compared.f == pytest.approx(f, rel=1e-5, abs=1e-9)
        assert compared.p == pytest.approx(stats.f(len(rows) - 1, freedom).sf(f), rel=1e-4, abs=1e-9)


def test_one_seed_gives_no_noise() -> None:
    compared = compare_variants({"a": [1.0], "b": [2.0]})
    assert compared.means == {"a": 1.0, "b": 2.0}
    assert compared.half_width is compared.seed_deviation is compared.f is compared.p is None


def test_seeds_without_any_noise_have_no_test() -> None:
    compared = compare_variants({"a": [1.0, 1.0], "b": [2.0, 2.0]})
    assert compared.half_width == 0.0
    assert compared.p is None


def test_a_variant_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="every variant"):
        compare_variants({"a": [1.0], "b": []})


def test_the_budget_decides_whatever_the_student_has_of_its_own(data: TrialData, tmp_path: Path) -> None:
    own = STUDENT.model_copy(update={"updates": 0, "distill": {"dev_every_updates": 99, "batch_seconds": 2.0}})
    result = run_trial(Trial("own", own, BUDGET, 1), params(), data, tmp_path / "own")
    assert result.updates == BUDGET.updates
    assert [update for update, _ in result.curve] == [0, 2, 4]
