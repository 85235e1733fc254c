"""superb_s is given to ten official results on their own corpora, and to nothing less."""

from typing import Any

import pytest

from fithubert.errors import UserError
from fithubert.records import SuperbMetrics
from fithubert.superb.official import score_official, superb_s
from fithubert.tasks import TASKS
from tests.superb.test_score import COLUMNS, ROWS

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
