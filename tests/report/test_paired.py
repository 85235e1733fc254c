"""Paired differences and kept shares: the intervals cover what they promise, and nothing unlike is paired."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fithubert.records import Lead, SuperbMetrics
from fithubert.report.paired import compare_kept, compare_pairs, find_kept, find_lead, share_of_lead
from fithubert.superb.metrics import Ratio, score_fields, summarise
from fithubert.tasks import Metric


def score(model: str, rights: np.ndarray, task: str = "ks", **changes: object) -> SuperbMetrics:
    """A score from (seed, item) booleans, the same on dev and test."""
    found = {"acc": summarise([Ratio(row.astype(float), np.ones(len(row))) for row in rights])}
    return SuperbMetrics(
        task,
        model,
        **score_fields(found, found),
        num_dev=rights.shape[1],
        num_test=rights.shape[1],
        seeds=tuple(range(len(rights))),
        **changes,  # type: ignore[arg-type]
    )


def draw(rng: np.random.Generator, rate: float, items: int, seeds: int = 1) -> np.ndarray:
    return rng.random((seeds, items)) < rate


def test_the_interval_of_a_difference_covers_the_truth() -> None:
    """Two models of rates 0.7 and 0.75 that share the difficulty of the items: 95 of 100 intervals hold 5 points."""
    rng, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(100):
        difficulty = rng.random(200)
        first, second = (difficulty[None] + rng.normal(0, 0.05, 200) < rate for rate in (0.70, 0.75))
        scores = {(name, "ks"): score(name, rights) for name, rights in (("a", first), ("b", second))}
        (pair,) = compare_pairs(scores, ["a"])
        covered += pair.low <= 5 <= pair.high
        widths.append(pair.high - pair.low)
    assert covered >= 88
    # Unpaired intervals would be more than twice as wide.
    assert np.mean(widths) < 9


def test_a_difference_of_seeds_is_in_the_interval() -> None:
    """Every item is right or wrong by the seed alone: items say nothing, seeds everything."""
    seeds = np.array([[1.0] * 50, [0.0] * 50, [1.0] * 50])
    level = np.full((3, 50), 0.5)
    scores = {("a", "ks"): score("a", seeds), ("b", "ks"): score("b", level)}
    (pair,) = compare_pairs(scores, ["b"])
    assert pair.high - pair.low > 80
    assert pair.p_holm > 0.05


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order() -> None:
    rng = np.random.default_rng(1)
    scores = {("b", "ks"): score("b", draw(rng, 0.5, 300))}
    for name, rate in (("near", 0.52), ("far", 0.9), ("middle", 0.62)):
        scores[name, "ks"] = score(name, draw(rng, rate, 300))
    found = {pair.model: pair.p_holm for pair in compare_pairs(scores, ["b"])}
    alone = {
        name: compare_pairs({key: value for key, value in scores.items() if key[0] in (name, "b")}, ["b"])[0].p_holm
        for name in found
    }
    assert found["far"] == pytest.approx(min(1.0, 3 * alone["far"]))
    assert found["middle"] == pytest.approx(min(1.0, max(2 * alone["middle"], found["far"])))
    assert found["near"] == pytest.approx(max(alone["near"], found["middle"]))
    assert found["far"] < 0.001 < 0.05 < found["near"]


@pytest.mark.parametrize("change", [{"num_test": 7}, {"corpus": "other"}, {"protocol": "official"}, {"seeds": (9,)}])
def test_scores_that_are_not_alike_are_not_paired(change: dict[str, object]) -> None:
    rights = draw(np.random.default_rng(0), 0.5, 30)
    scores = {("a", "ks"): replace(score("a", rights), **change), ("b", "ks"): score("b", rights)}  # type: ignore[arg-type]
    assert compare_pairs(scores, ["b"]) == ()
    assert find_lead(scores, "a", "b") == Lead((), ("ks",))


def test_the_lead_is_chosen_on_dev_alone() -> None:
    rng = np.random.default_rng(0)
    good, bad = score("teacher", draw(rng, 0.9, 300)), score("fbank", draw(rng, 0.4, 300))
    scores = {("teacher", "ks"): good, ("fbank", "ks"): bad}
    assert find_lead(scores, "teacher", "fbank").tasks == ("ks",)
    worse_on_test = replace(good, resamples={**good.resamples, "test/acc": bad.resamples["test/acc"]})
    assert find_lead({**scores, ("teacher", "ks"): worse_on_test}, "teacher", "fbank").tasks == ("ks",)
    worse_on_dev = replace(good, resamples={**good.resamples, "dev/acc": bad.resamples["dev/acc"]})
    assert find_lead({**scores, ("teacher", "ks"): worse_on_dev}, "teacher", "fbank").tasks == ()


def test_the_kept_share_has_an_interval_and_is_clamped() -> None:
    rng = np.random.default_rng(0)
    rates = {"fbank": 0.3, "teacher": 0.9, "student": 0.6, "better": 0.99, "worse": 0.1}
    scores = {(name, "ks"): score(name, draw(rng, rate, 400, seeds=3)) for name, rate in rates.items()}
    kept = {name: find_kept(scores, Lead(("ks",)), name, "teacher", "fbank") for name in rates}
    assert kept["student"].value == pytest.approx(0.5, abs=0.08)
    interval = kept["student"].interval
    assert interval is not None
    assert interval.low < kept["student"].value < interval.high  # type: ignore[operator]
    assert 0.02 < interval.high - interval.low < 0.4
    assert (kept["better"].value, kept["worse"].value) == (1.0, 0.0)
    assert find_kept(scores, Lead(("ks", "sid")), "student", "teacher", "fbank").value is None


def test_kept_shares_are_compared_in_pairs() -> None:
    """Two students that are right on nearly the same items differ by less than their own intervals are wide."""
    rng = np.random.default_rng(0)
    difficulty = rng.random((3, 400))
    rates = {"fbank": 0.3, "teacher": 0.9, "first": 0.60, "second": 0.66}
    scores = {(name, "ks"): score(name, difficulty < rate) for name, rate in rates.items()}
    kept = {name: find_kept(scores, Lead(("ks",)), name, "teacher", "fbank") for name in rates}
    (pair,) = [of for of in compare_kept(kept, ["first"]) if of.model == "second"]
    interval = kept["first"].interval
    assert interval is not None
    assert (pair.task, pair.metric, pair.against, pair.seeds) == ("all", "kept", "first", (0, 1, 2))
    assert pair.difference == pytest.approx(100 * (kept["second"].value - kept["first"].value))  # type: ignore[operator]
    assert 0 < pair.low < pair.difference < pair.high
    assert pair.high - pair.low < 100 * (interval.high - interval.low)
    assert pair.p_holm < 0.05
    other_seeds = {**kept, "second": replace(kept["second"], seeds=(9,))}
    assert "second" not in {of.model for of in compare_kept(other_seeds, ["first"])}


@given(st.floats(-50, 150), st.floats(0, 49), st.floats(50, 100))
def test_the_lead_runs_from_filter_banks_to_teacher(own: float, low: float, high: float) -> None:
    def place(lower: bool, *values: float) -> float:
        return float(share_of_lead(Metric("m", "M", lower=lower), *(np.array(value) for value in values)))

    share = place(False, own, low, high)
    assert share == pytest.approx(min(max((own - low) / (high - low), 0), 1))
    assert (place(False, low, low, high), place(False, high, low, high)) == (0, 1)
    assert place(True, 100 - own, 100 - low, 100 - high) == pytest.approx(share, abs=1e-9)


def test_a_task_with_another_metric_on_dev_can_be_a_lead() -> None:
    """SD has frame accuracy on dev and the diarisation error on test."""
    rng = np.random.default_rng(0)
    scores = {}
    for model, rate in (("teacher", 0.9), ("fbank", 0.6)):
        dev = {"frame_acc": summarise([Ratio((rng.random(300) < rate).astype(float), np.ones(300))])}
        test = {"der": summarise([Ratio((rng.random(300) > rate).astype(float), np.ones(300))])}
        found = SuperbMetrics("sd", model, **score_fields(test, dev), num_dev=300, num_test=300, seeds=(1,))
        scores[model, "sd"] = found
    assert find_lead(scores, "teacher", "fbank").tasks == ("sd",)
    assert find_lead({key: replace(of, resamples={}) for key, of in scores.items()}, "teacher", "fbank").tasks == ()


def test_an_interval_that_holds_zero_has_no_small_p_value() -> None:
    """Resamples of clamped shares are not centred on the difference."""
    rng = np.random.default_rng(0)
    rates = {"fbank": 0.3, "teacher": 0.32, "first": 0.31, "second": 0.40}
    scores = {(name, "ks"): score(name, draw(rng, rate, 400)) for name, rate in rates.items()}
    kept = {name: find_kept(scores, Lead(("ks",)), name, "teacher", "fbank") for name in rates}
    for pair in compare_kept(kept, ["first", "fbank"]):
        assert pair.p_holm >= 0.05 or not pair.low < 0 < pair.high
    two = {(name, "ks"): score(name, np.array([[right, right]])) for name, right in (("a", True), ("b", False))}
    (pair,) = compare_pairs(two, ["b"])
    assert pair.p_holm >= 0.3


def test_a_share_of_other_items_or_seeds_is_none() -> None:
    rng = np.random.default_rng(0)
    rates = {"fbank": 0.3, "teacher": 0.9, "student": 0.6}
    scores = {(name, "ks"): score(name, draw(rng, rate, 400)) for name, rate in rates.items()}
    for change in ({"num_test": 399}, {"seeds": (7,)}):
        other = {**scores, ("student", "ks"): replace(scores["student", "ks"], **change)}  # type: ignore[arg-type]
        assert find_kept(other, Lead(("ks",)), "student", "teacher", "fbank").value is None
