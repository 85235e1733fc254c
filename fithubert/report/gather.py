"""Every metrics file of a workspace as records; a file that does not exist is a stage that has not run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fithubert.config.params import Params
from fithubert.records import (
    AblationMetrics,
    CacheMetrics,
    DistillMetrics,
    ExtractMetrics,
    PrepareMetrics,
    ProfileMetrics,
    Record,
    SuperbMetrics,
    SweepMetrics,
    TeacherMetrics,
)

Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True)
class ReportPlan:
    """The results that the pipeline is to produce, so that the page can name what has not run.

    `students`: the models that are distilled in this workspace.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    students: tuple[str, ...]
    ablations: tuple[str, ...] = ()
    title: str = "fithubert"
    teacher: str = "teacher"
    baseline: str = "fbank"


@dataclass(frozen=True)
class Metrics:
    """The metrics of all stages. A stage that has not run is None, or has no key in its mapping.

    `superb`: (model, task) -> its score.
    """

    prepare: PrepareMetrics | None = None
    teacher: TeacherMetrics | None = None
    cache: CacheMetrics | None = None
    profile: ProfileMetrics | None = None
    sweep: SweepMetrics | None = None
    distill: Mapping[str, DistillMetrics] = field(default_factory=dict)
    extract: Mapping[str, ExtractMetrics] = field(default_factory=dict)
    ablation: Mapping[str, AblationMetrics] = field(default_factory=dict)
    superb: Mapping[tuple[str, str], SuperbMetrics] = field(default_factory=dict)

    def seconds(self, students: Sequence[str] = ()) -> dict[str, float]:
        """DVC stage -> its wall time in seconds; DVC has a stage of its own to extract the states of `students`."""
        single = {"prepare": self.prepare, "teacher": self.teacher, "cache": self.cache, "profile": self.profile}
        found = {stage: metrics.seconds for stage, metrics in single.items() if metrics is not None}
        found |= {f"distill@{name}": metrics.seconds for name, metrics in self.distill.items()}
        for name, extracted in self.extract.items():
            stage = "extract_student" if name in students else "extract"
            found[f"{stage}@{name}"] = extracted.seconds
        found |= {f"ablation@{name}": metrics.seconds for name, metrics in self.ablation.items()}
        for (model, task), score in self.superb.items():
            if score.seconds is not None:
                found[f"superb@{model}-{task}"] = score.seconds
        return found


def plan_report(params: Params) -> ReportPlan:
    """The results that these parameters ask for."""
    return ReportPlan(
        params.superb.models,
        tuple(params.superb.tasks),
        tuple(params.students),
        tuple(params.ablation),
        params.report.title,
    )


def gather(metrics_dir: Path) -> Metrics:
    """All metrics under `metrics_dir` (reports/metrics). Raises UserError that names a broken file."""
    scores = _read_folder(metrics_dir / "superb", SuperbMetrics)
    return Metrics(
        prepare=_read_file(metrics_dir / "prepare.json", PrepareMetrics),
        teacher=_read_file(metrics_dir / "teacher.json", TeacherMetrics),
        cache=_read_file(metrics_dir / "cache.json", CacheMetrics),
        profile=_read_file(metrics_dir / "profile.json", ProfileMetrics),
        sweep=_read_file(metrics_dir / "sweep.json", SweepMetrics),
        distill=_read_folder(metrics_dir / "distill", DistillMetrics),
        extract=_read_folder(metrics_dir / "extract", ExtractMetrics),
        ablation=_read_folder(metrics_dir / "ablation", AblationMetrics),
        superb={(score.model, score.task): score for score in scores.values()},
    )


def _read_file(path: Path, kind: type[Kind]) -> Kind | None:
    return kind.read(path) if path.exists() else None


def _read_folder(folder: Path, kind: type[Kind]) -> dict[str, Kind]:
    return {path.stem: kind.read(path) for path in sorted(folder.glob("*.json"))}
