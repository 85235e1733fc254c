"""Tasks of one feature store, side by side in processes: the results do not depend on how many run at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fithubert.code_version import code_version
from fithubert.config.superb import OfficialQuirks, TaskBudget
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.errors import UserError
from fithubert.files import digest_json
from fithubert.records import SuperbMetrics
from fithubert.store.read import FeatureStore
from fithubert.superb.kept import describe_head, write_head
from fithubert.superb.learners import DEFAULT_OPTIONS, RunOptions, TrainedHead
from fithubert.superb.run import run_task
from fithubert.training.progress import progress_line
from fithubert.workers import run_side_by_side

#: Called with every result as it comes, in the process of the caller.
OnResult = Callable[["TaskJob", SuperbMetrics], None]


@dataclass(frozen=True)
class TaskJob:
    """One task on some layers of the feature store in `features`, with the labels of the corpus in `data`.

    `title`: of its progress line. `layers`: None means all. `quirks`: of the official protocol; None means `mini`.
    `probe`: the folder in which the trained head is kept, under `identity`; None: it is not.
    """

    title: str
    task: str
    features: Path
    data: Path
    budget: TaskBudget
    seeds: tuple[int, ...]
    layers: tuple[int, ...] | None = None
    quirks: OfficialQuirks | None = None
    options: RunOptions = DEFAULT_OPTIONS
    probe: Path | None = None
    identity: str = ""

    def open_store(self) -> FeatureStore:
        """The store with the layers of the job. Raises UserError if there is no such store or layer."""
        return FeatureStore.open(self.features, layers=self.layers)

    def identify(self, store: FeatureStore, manifest: Manifest) -> str:
        """A digest of all that decides the result."""
        return digest_json(
            {
                "task": self.task,
                "features": store.info.fingerprint,
                "layers": store.layers,
                "corpus": manifest.fingerprint,
                "budget": self.budget.model_dump(mode="json"),
                "seeds": self.seeds,
                "quirks": None if self.quirks is None else self.quirks.model_dump(mode="json"),
                "code": [code_version("fithubert.superb.run"), store.info.code_version],
            }
        )

    def run(self) -> SuperbMetrics:
        """The scores, computed in this process."""
        store, manifest = self.open_store(), load_manifest(manifest_path(self.data), self.data)

        def keep(trained: TrainedHead) -> None:
            if self.probe is not None:
                write_head(self.probe, trained, describe_head(self.task, trained, store, manifest, self.identity))

        options = replace(self.options, on_progress=progress_line(self.title), on_head=keep)
        return run_task(self.task, store, manifest, self.budget, self.seeds, self.quirks, options)


def run_jobs(jobs: Sequence[TaskJob], workers: int, threads: int, on_result: OnResult) -> None:
    """Run `jobs` in up to `workers` processes of `threads` threads each, and give every result to `on_result`.

    A failed job does not stop the others. Raises UserError with the reason of the first one that failed, at the end.
    """
    share = max(1, min(workers, len(jobs)))
    jobs = [replace(job, options=replace(job.options, memory_bytes=job.options.memory_bytes / share)) for job in jobs]
    failed = []
    for job, result in run_side_by_side("superb", TaskJob.run, jobs, workers, threads):
        if isinstance(result, UserError):
            failed.append(f"{job.title}: {result}")
        else:
            on_result(job, result)
    if failed:
        raise UserError(failed[0] + (f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""))
