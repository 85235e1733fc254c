"""What the report knows of each SUPERB task: its title, its metrics and which way is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One figure of merit, in percent. `lower` says that smaller is better."""

    name: str
    label: str
    lower: bool


@dataclass(frozen=True)
class TaskInfo:
    """A task: its short and long title, and its metrics, the main one first."""

    name: str
    title: str
    metrics: tuple[Metric, ...]


_PER = Metric("per", "PER", lower=True)
_ACC = Metric("acc", "Acc", lower=False)

TASKS: dict[str, TaskInfo] = {
    task.name: task
    for task in (
        TaskInfo("pr", "Phoneme recognition", (_PER,)),
        TaskInfo("asr", "Speech recognition", (Metric("wer", "WER", lower=True),)),
        TaskInfo("ks", "Keyword spotting", (_ACC,)),
        TaskInfo("qbe", "Query by example", (Metric("mtwv", "MTWV", lower=False),)),
        TaskInfo("sid", "Speaker identification", (_ACC,)),
        TaskInfo("asv", "Speaker verification", (Metric("eer", "EER", lower=True),)),
        TaskInfo("sd", "Speaker diarisation", (Metric("der", "DER", lower=True),)),
        TaskInfo("er", "Emotion (prosody style)", (_ACC,)),
        TaskInfo("ic", "Intent classification", (_ACC,)),
        TaskInfo("sf", "Slot filling", (Metric("f1", "F1", lower=False), Metric("cer", "CER", lower=True))),
    )
}


def task_columns(summary: Mapping[str, Any]) -> list[tuple[str, Metric]]:
    """Every task of a summary with each of its metrics; of a task that is not listed, those that a model was given."""
    measured: dict[str, tuple[str, ...]] = {}
    for model in summary["models"].values():
        for task, scores in (model.get("superb") or {}).items():
            measured.setdefault(task, tuple(scores))
    return [(task, metric) for task in summary["tasks"] for metric in task_info(task, measured.get(task, ())).metrics]


def task_info(name: str, metrics: tuple[str, ...] = ()) -> TaskInfo:
    """The task's entry; for a task that is not listed, one made of the names of its measured `metrics`."""
    if name in TASKS:
        return TASKS[name]
    made = tuple(Metric(m, m.upper(), lower=m.endswith("er")) for m in metrics)
    return TaskInfo(name, name.upper(), made)


def share_of_lead(
    metrics: Sequence[Metric], score: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float]
) -> float | None:
    """Where `score` lies between `low` (0, filter banks) and `high` (1, the teacher), the mean over `metrics`.

    The same straight line as SUPERB's own score draws between filter banks and the best system. None where a metric is
    missing or the teacher is not better than the filter banks.
    """
    shares = []
    for metric in metrics:
        if any(metric.name not in values for values in (score, low, high)):
            return None
        span = high[metric.name] - low[metric.name]
        if span == 0 or (span < 0) != metric.lower:
            return None
        shares.append((score[metric.name] - low[metric.name]) / span)
    return sum(shares) / len(shares) if shares else None
