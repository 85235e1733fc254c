"""One model on one task, from its frozen features."""

from dataclasses import asdict
from typing import Any

from fithubert.config.params import Params
from fithubert.features.reader import FeatureStore
from fithubert.features.schema import Expected
from fithubert.files import write_json
from fithubert.stages.workspace import Workspace, check_name
from fithubert.superb.protocol import NotScorable
from fithubert.superb.run import run_task


def superb(params: Params, workspace: Workspace, model: str, task: str) -> dict[str, Any]:
    """Score `model` on `task` and write the metrics; a corpus without the labels gives a reason instead of scores."""
    check_name(task, list(params.superb.tasks), "task")
    manifest = workspace.load_manifest()
    store = FeatureStore.open(workspace.features(model), Expected(corpus=manifest.fingerprint))
    result = run_task(task, store, manifest, params.superb.tasks[task], params.superb.seeds)
    if isinstance(result, NotScorable):
        metrics: dict[str, Any] = {"task": task, "model": model, "metrics": {}, "reason": result.reason}
    else:
        values = asdict(result)
        scores = values.pop("metrics")
        metrics = {
            **values,
            "model": model,
            "metrics": {name: score["value"] for name, score in scores.items()},
            "intervals": {name: [score["low"], score["high"]] for name, score in scores.items()},
            "seed_deviation": {name: score["seed_deviation"] for name, score in scores.items()},
        }
    write_json(workspace.metrics(f"superb@{model}-{task}"), metrics)
    return metrics
