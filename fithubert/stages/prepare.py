"""The corpus: synthesised, read from a folder of recordings, or a published one."""

import time
from dataclasses import replace

from fithubert.config.data import FolderData, SyntheticData
from fithubert.config.params import Params
from fithubert.errors import UserError
from fithubert.records import PrepareMetrics
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace


def prepare(params: Params, workspace: Workspace, download: bool = False) -> PrepareMetrics:
    """Write the corpus of `params.data` to the workspace's data folder; the metrics, which are also written.

    With `download`, missing parts of a published corpus are downloaded first; raises UserError for another source.
    """
    # torch and torchaudio take a while to import.
    from fithubert.data.prepare import download_corpus, prepare_corpus

    begun = time.monotonic()
    if download:
        if isinstance(params.data, SyntheticData | FolderData):
            raise UserError(f"--download: data.source is {params.data.source}; name a corpus, as --source librispeech")
        download_corpus(params.data)
    metrics = prepare_corpus(params.data, workspace.data, on_progress=progress_line("prepare"))
    metrics = replace(metrics, seconds=time.monotonic() - begun)
    metrics.write(workspace.metrics("prepare"))
    return metrics
