"""The corpus: synthesised, read from a folder of recordings, or a published one that stays where it is."""

import time
from typing import Any

from fithubert.config.params import FolderData, Params, SyntheticData
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.stages.progress import progress_line
from fithubert.stages.workspace import Workspace


def prepare(params: Params, workspace: Workspace, download: bool = False) -> dict[str, Any]:
    """Write the corpus of `params.data` to the workspace's data folder; the metrics, which are also written.

    With `download`, what a published corpus lacks is fetched first. Raises UserError for another source then.
    """
    if download and isinstance(params.data, SyntheticData | FolderData):
        raise UserError(f"--download: data.source is {params.data.source}; name a corpus, as --source librispeech")
    begun = time.monotonic()
    show = progress_line("prepare")
    skipped: list[dict[str, str]] = []
    if isinstance(params.data, FolderData):
        from fithubert.data.folder import import_folder

        imported = import_folder(params.data, workspace.data, on_progress=show)
        manifest = imported.manifest
        skipped = [{"path": str(s.path), "reason": s.reason} for s in imported.skipped]
    elif isinstance(params.data, SyntheticData):
        from fithubert.data.synthesis import synthesise_corpus

        manifest = synthesise_corpus(params.data, workspace.data, on_progress=show)
    else:
        from fithubert.data.corpora.registry import download_corpus, import_corpus

        if download:
            download_corpus(params.data)
        corpus = import_corpus(params.data, workspace.data, show)
        manifest = corpus.manifest
        skipped = [{"path": s.path, "reason": s.reason} for s in corpus.skipped]
    metrics = {**describe_corpus(manifest), "source": params.data.source, "skipped": skipped}
    metrics["seconds"] = time.monotonic() - begun
    write_json(workspace.metrics("prepare"), metrics)
    return metrics


def describe_corpus(manifest: Manifest) -> dict[str, Any]:
    """What a corpus holds, in all and by split."""
    splits = {}
    for split in dict.fromkeys(u.split for u in manifest):
        part = manifest.select(split=split)
        kinds = part.count_by("kind")
        splits[split] = {"utterances": len(part), "hours": part.hours, "speakers": len(part.speakers), **kinds}
    return {
        "fingerprint": manifest.fingerprint,
        "utterances": len(manifest),
        "hours": manifest.hours,
        "speakers": len(manifest.speakers),
        "splits": splits,
    }
