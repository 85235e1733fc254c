"""The depth of the teacher: phone recognition from each of its hidden states alone."""

import time

from fithubert.config.params import Params
from fithubert.records import DepthMetrics, LayerScore, SuperbMetrics
from fithubert.stages import tracked_stage
from fithubert.stages.superb import head_options, open_features
from fithubert.superb.jobs import TaskJob, run_jobs
from fithubert.workspace import Workspace


def depth(params: Params, workspace: Workspace) -> DepthMetrics:
    """Score phone recognition on every hidden state of the teacher and write the metrics.

    A corpus without phones gives a reason instead of scores.
    """
    begun = time.monotonic()
    store = open_features(params, workspace, "teacher", workspace.load_manifest())
    with tracked_stage(params, workspace, "depth"):
        jobs = [
            TaskJob(
                title=f"phones from state {layer}",
                task="pr",
                features=store.path,
                data=workspace.data,
                budget=params.depth.budget,
                seeds=params.depth.seeds,
                layers=(layer,),
                options=head_options(params),
            )
            for layer in store.layers
        ]
        layers: dict[int, LayerScore] = {}
        reasons = []

        def keep(job: TaskJob, result: SuperbMetrics) -> None:
            if result.reason is not None:
                reasons.append(result.reason)
                return
            assert job.layers is not None  # set above
            score = LayerScore(result.dev["per"], result.metrics["per"], result.intervals["per"])
            layers[job.layers[0]] = score
            print(f"{job.title}: PER {score.dev:.2f} on dev, {score.test:.2f} on test", flush=True)

        run_jobs(jobs, params.superb.workers, params.superb.threads, keep)
        metrics = DepthMetrics(
            layers=dict(sorted(layers.items())),
            seeds=params.depth.seeds,
            seconds=time.monotonic() - begun,
            best_layer=min(layers, key=lambda layer: layers[layer].dev) if layers else None,
            reason=reasons[0] if reasons else None,
        )
        metrics.write(workspace.metrics("depth"))
    return metrics
