"""The teacher's hidden states, computed once for all students."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed import is_torchelastic_launched

from fithubert.config.params import Params
from fithubert.records import CacheMetrics, StoreMetrics
from fithubert.stages.teacher import load_prepared
from fithubert.store.extract import ExtractSettings, extract_features, measure_store
from fithubert.training import ends_with_its_ranks, on_first_rank, open_fabric
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: The splits that students are trained and selected on.
SPLITS = ("train", "dev")


def cache(params: Params, workspace: Workspace, repair: bool = False) -> CacheMetrics:
    """Write the teacher's hidden states of train and dev, with waveforms, to data/cache; the metrics.

    Under torchrun every rank writes its part of the shards, on its own GPU if there are any, and the first one the
    metrics. `repair` keeps the settings of the existing caches and writes only their missing or damaged parts.
    """
    begun = time.monotonic()
    fabric = open_fabric(params.teacher.device, "32-true", False) if is_torchelastic_launched() else None
    if fabric is None:
        return _cache(params, workspace, repair, begun, None)
    with ends_with_its_ranks(fabric):
        return _cache(params, workspace, repair, begun, fabric)


def _cache(params: Params, workspace: Workspace, repair: bool, begun: float, fabric: "Fabric | None") -> CacheMetrics:
    worker, of_rank = (0, 1), ""
    if fabric is not None:
        worker, of_rank = (fabric.global_rank, fabric.world_size), f" (rank {fabric.global_rank})"
    model = load_prepared(params, workspace)
    manifest = workspace.load_manifest()
    settings = ExtractSettings(**params.cache.model_dump())
    splits = {}
    for split in SPLITS:
        part, folder = manifest.select(split=split), workspace.cache(split)
        show = progress_line(f"cache {split}{of_rank}")
        report = extract_features(model, part, folder, settings, show, worker=worker, repair=repair)
        if repair:
            print(report.describe(folder))
        splits[split] = report.metrics if fabric is None else _measure(fabric, folder)
    seconds = time.monotonic() - begun
    metrics = CacheMetrics(**vars(splits["train"]), splits={"dev": splits["dev"]}, seconds=seconds)
    if worker[0] == 0:
        metrics.write(workspace.metrics("cache"))
    return metrics


def _measure(fabric: "Fabric", folder: Path) -> StoreMetrics:
    """The contents of the whole store, when every rank has written its part."""
    fabric.barrier()
    return on_first_rank(fabric, lambda: measure_store(folder))
