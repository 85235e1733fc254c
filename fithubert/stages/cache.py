"""The teacher's hidden states, computed once for all students."""

import time
from typing import Any

from fithubert.config.params import Params
from fithubert.records import CacheMetrics
from fithubert.stages.teacher import load_prepared
from fithubert.store.extract import ExtractProgress, ExtractSettings, extract_features, repair_features
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace

#: The splits that students are trained and selected on.
SPLITS = ("train", "dev")


def cache(params: Params, workspace: Workspace, repair: bool = False) -> dict[str, Any]:
    """Write the teacher's hidden states of train and dev, with waveforms, to data/cache; the metrics.

    `repair` keeps the settings of the existing caches and writes only their missing or damaged parts.
    """
    begun = time.monotonic()
    model = load_prepared(params, workspace)
    manifest = workspace.load_manifest()
    settings = ExtractSettings(**params.cache.model_dump())
    splits = {}
    for split in SPLITS:
        show = progress_line(f"cache {split}")

        def on_progress(p: ExtractProgress, show: Any = show) -> None:
            show(p.audio_seconds, p.total_audio_seconds, f"{p.shards}/{p.total_shards} shards")

        part, cache = manifest.select(split=split), workspace.cache(split)
        if repair:
            report = repair_features(model, part, cache, settings.batch_seconds, on_progress)
            print(report.describe(cache))
        else:
            report = extract_features(model, part, cache, settings, on_progress)
        splits[split] = report.metrics()
    seconds = time.monotonic() - begun
    metrics = CacheMetrics(**vars(splits["train"]), splits={"dev": splits["dev"]}, seconds=seconds)
    metrics.write(workspace.metrics("cache"))
    return metrics.to_json()
