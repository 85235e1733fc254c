"""Mending a feature store as it is, whatever the parameters say by now."""

from collections.abc import Callable
from pathlib import Path

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.models.speech_model import SpeechModel
from fithubert.store.extract import ExtractProgress, ExtractSettings, describe_store, extract_features
from fithubert.store.format import describe_difference, parse_index, parse_info
from fithubert.store.read import read_index
from fithubert.store.report import ExtractReport


def repair_features(
    model: SpeechModel,
    manifest: Manifest,
    directory: Path,
    batch_seconds: float,
    on_progress: Callable[[ExtractProgress], None] | None = None,
) -> ExtractReport:
    """The report on the store in `directory` after every page was read and what was missing or damaged written again.

    Codec, layers and shards are those that its index names, so that nothing whole is touched; `extract_features` would
    replace a store of other settings instead. Raises UserError where there is no index, and where `model` or `manifest`
    are not those that the store was made from.
    """
    metadata = read_index(directory).schema.metadata
    info, index = parse_info(metadata), parse_index(metadata)
    settings = ExtractSettings(
        codec=info.codec,
        layers=info.layers,
        shard_minutes=index.shard_minutes,
        batch_seconds=batch_seconds,
        with_waveform=info.with_waveform,
        **({} if info.variance_share is None else {"variance_share": info.variance_share}),
    )
    difference = describe_difference(info, describe_store(model, manifest, settings))
    if difference is not None:
        raise UserError(f"{directory}: not to be repaired: {difference}; run `{index.rebuild}` to write it anew")
    return extract_features(
        model, manifest, directory, settings, on_progress, rebuild=index.rebuild, repair=index.repair
    )
