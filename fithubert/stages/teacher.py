"""The teacher in its canonical form."""

import time
from typing import Any

from fithubert.config.params import Params
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.stages.workspace import Workspace
from fithubert.teachers.checkpoint import save_teacher
from fithubert.teachers.hubert import HubertTeacher
from fithubert.teachers.registry import load_teacher


def teacher(params: Params, workspace: Workspace) -> dict[str, Any]:
    """Write the teacher that `params.teacher.source` names to artifacts/teacher; the metrics."""
    begun = time.monotonic()
    loaded = load_teacher(params.teacher.source)
    if not isinstance(loaded, HubertTeacher):
        raise UserError(f"teacher.source {params.teacher.source!r}: has no layers to distil")
    save_teacher(loaded, workspace.teacher)
    metrics: dict[str, Any] = {
        "source": params.teacher.source,
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "layers": len(loaded.widths) - 1,
        "width": loaded.widths[-1],
        "params": sum(p.numel() for p in loaded.model.parameters()),
    }
    metrics["seconds"] = time.monotonic() - begun
    write_json(workspace.metrics("teacher"), metrics)
    return metrics
