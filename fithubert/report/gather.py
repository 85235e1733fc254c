"""Every metrics file of a workspace, read into one place; a file that does not exist is a stage that has not run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.files import read_json

#: The stages with one metrics file each.
SINGLE_STAGES = ("prepare", "teacher", "cache", "profile", "sweep")
#: The stages with one metrics file for each student, model, or model and task.
MANY_STAGES = ("distill", "extract", "superb", "ablation")


@dataclass(frozen=True)
class Score:
    """The result of one model on one task, or the reason why it could not be scored."""

    metrics: dict[str, float]
    #: 95 % interval of a metric, where one was computed.
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    #: The learnt weight of each hidden state, summing to 1.
    layer_weights: tuple[float, ...] = ()
    reason: str | None = None
    protocol: str = "mini"
    #: In what a result of the official protocol departs from it.
    departures: tuple[str, ...] = ()
    #: What a model that hears nothing scores, by metric.
    chance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """What the stages wrote, as they wrote it; an absent stage is an absent key."""

    single: dict[str, dict[str, Any]]
    distill: dict[str, dict[str, Any]]
    features: dict[str, dict[str, Any]]
    #: (model, task) -> the raw file.
    superb: dict[tuple[str, str], dict[str, Any]]
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)

    def score(self, model: str, task: str) -> Score | None:
        """The score of `model` on `task`; None where that stage has not run."""
        values = self.superb.get((model, task))
        return None if values is None else _read_score(values)

    def seconds(self, students: Sequence[str] = ()) -> dict[str, float]:
        """Seconds that each stage took, by its name in DVC; the features of `students` have a stage of their own."""
        named: dict[str, dict[str, Any]] = dict(self.single)
        named |= {f"distill@{name}": values for name, values in self.distill.items()}
        for name, values in self.features.items():
            named[f"extract_student@{name}" if name in students else f"extract@{name}"] = values
        named |= {f"ablation@{name}": values for name, values in self.ablations.items()}
        named |= {f"superb@{model}-{task}": values for (model, task), values in self.superb.items()}
        return {stage: float(values["seconds"]) for stage, values in named.items() if _is_number(values.get("seconds"))}


def gather(metrics_dir: Path) -> Metrics:
    """Everything under `metrics_dir` (reports/metrics); raises UserError where a file is broken."""
    single = {
        stage: _read_object(metrics_dir / f"{stage}.json")
        for stage in SINGLE_STAGES
        if (metrics_dir / f"{stage}.json").exists()
    }
    many = {stage: _read_folder(metrics_dir / stage) for stage in MANY_STAGES}
    # A model's name may hold a hyphen, a task's may not.
    superb = {(name.rpartition("-")[0], name.rpartition("-")[2]): values for name, values in many["superb"].items()}
    return Metrics(single, many["distill"], many["extract"], superb, many["ablation"])


def _read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: _read_object(path) for path in sorted(folder.glob("*.json"))}


def _read_object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold one JSON object; run the stage that writes it again")
    return values


def _read_score(values: dict[str, Any]) -> Score:
    metrics = {name: float(value) for name, value in (values.get("metrics") or {}).items()}
    intervals = {name: (float(ci[0]), float(ci[1])) for name, ci in (values.get("intervals") or {}).items()}
    reason = values.get("reason")
    if not metrics and reason is None:
        reason = "no score in the metrics file"
    seeds = tuple(int(seed) for seed in values.get("seeds") or ())
    weights = tuple(float(w) for w in values.get("layer_weights") or ())
    departures = tuple(str(d) for d in values.get("departures") or ())
    chance = {name: float(value) for name, value in (values.get("chance") or {}).items()}
    return Score(metrics, intervals, seeds, weights, reason, str(values.get("protocol", "mini")), departures, chance)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
