"""One function per DVC stage: reads the stage's inputs, calls the package that does the work, writes its outputs.

`dvc repro` (pipeline/) and the command line (cli/) call the same functions, so both are tracked alike. This module
holds what the stages share: their names, and what the MLflow run of a stage records.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fithubert.config.params import REFERENCES, Params
from fithubert.tracking.runs import TrackedRun, track_stage
from fithubert.workspace import Workspace, metrics_file

#: Stage -> the sections of the parameters that its MLflow run records as they are.
_SECTIONS = {
    "distill": ("distill", "cache", "teacher", "data"),
    "ablation": ("distill", "extract", "teacher", "data"),
    "profile": ("profile", "students", "teacher"),
    "superb": (),
    "depth": ("depth", "teacher", "data"),
}
#: Stage -> the tags of its run, one for each item in the name of the stage.
_TAGS = {"distill": ("model",), "ablation": ("ablation",), "superb": ("model",)}
#: Importing MLflow would make each of these short stages a second longer, so the report sends their runs.
_SENT_LATER = ("superb",)


def list_stages(params: Params) -> list[str]:
    """Every stage of `dvc repro` with these parameters, as DVC names it (`superb@teacher`), in DVC's order.

    A stage has one name in every place: its section of params.yaml (that of `prepare` is `data`), its file in
    pipeline/, cli/ and stages/, and its files below reports/metrics.
    """
    return [
        "prepare",
        "teacher",
        "cache",
        *(f"distill@{name}" for name in params.students),
        *(f"ablation@{name}" for name in params.ablation),
        *(f"extract@{name}" for name in REFERENCES),
        *(f"extract_student@{name}" for name in params.students),
        "profile",
        *(f"superb@{model}" for model in params.superb.models),
        *(f"superb_control@{name}" for name in params.superb.controls),
        "depth",
        "report",
    ]


@contextmanager
def tracked_stage(params: Params, workspace: Workspace, stage: str, *items: str) -> Iterator[TrackedRun]:
    """One MLflow run and one local record around the body, for `stage` of `items` (`superb`, `teacher`)."""
    # As DVC names it: its stages of students and controls have names of their own.
    control = stage == "superb" and items[0] in params.superb.controls
    suffix = f"@{'-'.join(items)}" if items else ""
    name = f"{stage}_control{suffix}" if control else stage + suffix
    tags = dict(zip(_TAGS.get(stage, ()), items, strict=True))
    values = _recorded(params, stage, items)
    live = stage not in _SENT_LATER
    with track_stage(name, values, workspace.root, metrics_file(stage + suffix), tags=tags, live=live) as run:
        yield run


def _recorded(params: Params, stage: str, items: tuple[str, ...]) -> dict[str, Any]:
    """The parameters that the run records: whole sections, and of the others only the item that the stage is about."""
    values = params.model_dump(mode="json")
    recorded = {section: values[section] for section in _SECTIONS[stage]}
    if stage == "distill":
        recorded["student"] = values["students"][items[0]]
    if stage == "ablation":
        recorded["ablation"] = values["ablation"][items[0]]
    if stage == "superb":
        recorded["model"] = items[0]
        recorded |= {key: values["superb"][key] for key in ("tasks", "seeds", "protocol", "quirks")}
    return recorded
