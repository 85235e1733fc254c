"""superb_s: the published scores, given to ten official results on their own corpora and to nothing less."""

from typing import Any

import pytest

from fithubert.errors import UserError
from fithubert.records import SuperbMetrics
from fithubert.superb.official import overall_score, score_official, superb_s
from fithubert.tasks import TASKS

#: PR, ASR, KS, QbE x100, SID, ASV, SD, IC, SF F1, SF CER, ER of leaderboard rows; their published superb_s and overall
#: score (None where no paper prints one).
ROWS = {
    "wav2vec2 base": ((5.74, 6.43, 96.23, 2.33, 75.18, 6.02, 6.08, 92.35, 88.30, 24.77, 63.43), 818, None),
    "hubert base": ((5.41, 6.42, 96.30, 7.36, 81.42, 5.11, 5.88, 98.34, 88.53, 25.20, 64.92), 941, 80.8),
    "wavlm base": ((4.84, 6.21, 96.79, 8.70, 84.51, 4.69, 4.55, 98.63, 89.38, 22.86, 65.94), 1019, 81.9),
    "wavlm base+": ((3.92, 5.59, 97.37, 9.88, 89.42, 4.07, 3.50, 99.00, 90.58, 21.20, 68.65), 1106, None),
    "lighthubert stage1": ((4.15, 5.71, 96.82, 7.37, 80.01, 5.14, 5.51, 98.50, 88.44, 25.92, 66.25), 959, None),
    "lighthubert small": ((6.60, 8.33, 96.07, 7.64, 69.70, 5.42, 5.85, 98.23, 87.58, 26.90, 64.12), 901, 79.1),
    "distilhubert": ((16.27, 13.37, 95.98, 5.11, 73.54, 8.55, 6.19, 94.99, 82.57, 35.59, 63.02), 717, 75.9),
    "dphubert": ((9.67, 10.47, 96.36, 6.93, 76.83, 5.84, 5.92, 97.92, 86.86, 28.26, 63.16), 866, 78.9),
    "dpwavlm": ((8.22, 10.19, 96.27, 8.74, 82.11, 5.98, 5.53, 98.58, 87.68, 26.11, 65.24), 926, None),
}
COLUMNS = (
    ("pr", "per"), ("asr", "wer"), ("ks", "acc"), ("qbe", "mtwv"), ("sid", "acc"), ("asv", "eer"),
    ("sd", "der"), ("ic", "acc"), ("sf", "f1"), ("sf", "cer"), ("er", "acc"),
)  # fmt: skip


def collect(values: tuple[float, ...]) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = {}
    for (task, name), value in zip(COLUMNS, values, strict=True):
        metrics.setdefault(task, {})[name] = value
    return metrics


@pytest.mark.parametrize("model", ROWS)
def test_leaderboard_scores_are_reproduced(model: str) -> None:
    values, score, _ = ROWS[model]
    assert round(superb_s(collect(values))) == score


@pytest.mark.parametrize("model", [m for m, row in ROWS.items() if row[2] is not None])
def test_published_overall_scores_are_reproduced(model: str) -> None:
    values, _, overall = ROWS[model]
    assert overall_score(collect(values)) == pytest.approx(overall, abs=0.051)


def test_a_missing_metric_leaves_the_leaderboard_score_undefined() -> None:
    metrics = collect(ROWS["hubert base"][0])
    del metrics["sf"]["cer"]
    with pytest.raises(ValueError, match="sf cer"):
        superb_s(metrics)


HUBERT = ROWS["hubert base"]


def make_results(**changes: dict[str, Any]) -> list[SuperbMetrics]:
    """HuBERT Base's row as fourteen results; `changes` by task."""
    metrics: dict[str, dict[str, float]] = {}
    for (task, name), value in zip(COLUMNS, HUBERT[0], strict=True):
        # On dev another checkpoint and other post-processing are chosen.
        on_dev = value + 1 if task in ("asv", "sd") else value
        metrics.setdefault(task, {})[name] = on_dev
        if on_dev != value:
            metrics[task][f"{name}_test_selected"] = value
    results = []
    for task, source in ((name, str(task.corpus)) for name, task in TASKS.items()):
        corpora = [f"{source}/{fold}" for fold in range(1, 6)] if task == "er" else [source]
        for place, corpus in enumerate(corpora):
            values = {"acc": metrics[task]["acc"] + place - 2} if task == "er" else metrics[task]
            row = {"task": task, "model": "m", "protocol": "official", "departures": [], "corpus": corpus}
            results.append(SuperbMetrics.from_json({**row, "metrics": values, **changes.get(task, {})}))
    return results


def test_ten_official_results_have_the_published_score() -> None:
    scored = score_official(make_results())
    assert round(scored.superb_s) == HUBERT[1]
    assert scored.overall == pytest.approx(HUBERT[2], abs=0.051)
    assert scored.superb_s == pytest.approx(superb_s(scored.metrics))
    assert scored.metrics["er"]["acc"] == pytest.approx(HUBERT[0][-1])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pr": {"protocol": "mini"}}, "pr is scored by the mini protocol"),
        ({"ks": {"departures": ["steps 4 instead of 200000"]}}, "ks departs from the protocol (steps 4 instead of"),
        ({"ic": {"corpus": "synthetic"}}, "ic is scored on synthetic and not once on fluent_speech_commands"),
        ({"er": {"corpus": "iemocap/1"}}, "er is scored on iemocap/1, iemocap/1"),
        ({"sf": {"metrics": {}}}, "sf is not scored"),
        ({"sd": {"model": "other"}}, "one model, and these results are of m, other"),
    ],
)
def test_whatever_is_in_the_way_is_named(changes: dict[str, dict[str, Any]], named: str) -> None:
    with pytest.raises(UserError) as error:
        score_official(make_results(**changes))
    assert named in str(error.value)


def test_a_missing_fold_or_task_is_named() -> None:
    results = make_results()
    with pytest.raises(UserError, match="er is scored on iemocap/2, iemocap/3"):
        score_official([r for r in results if r.corpus != "iemocap/1"])
    with pytest.raises(UserError, match=r"m has no superb_s: qbe is not scored$"):
        score_official([r for r in results if r.task != "qbe"])
    with pytest.raises(UserError, match="folders hold no results of it"):
        score_official([])
