"""From a model and a manifest to a feature store: batched, restartable shard by shard, by any number of workers."""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.store.codec import Codec, find_codec, layer_codecs
from fithubert.store.format import BASIS_PATTERN, SHARD_PATTERN, IndexInfo, StoreInfo, basis_name
from fithubert.store.pca import provide_basis
from fithubert.store.report import ExtractReport, report_shards
from fithubert.store.shards import PlannedShard, order_rows, plan_shards, remove_leftovers
from fithubert.store.states import UtteranceStates, compute_states
from fithubert.store.write import (
    EncodedRow,
    describe_foreign,
    encode_layer,
    find_problem,
    write_index,
    write_shard,
)

#: Room beyond the coded values: footers, page headers and the index.
_OVERHEAD, _SPARE_BYTES = 1.02, 4 * 2**20


@dataclass(frozen=True)
class ExtractSettings:
    """How features are extracted and stored.

    `variance_share`: what a codec with a basis keeps of the variance; others leave it alone. `batch_seconds`: padded
    audio in one forward pass of the model.
    """

    codec: str = "int8"
    variance_share: float = 0.9999
    layers: Literal["all"] | tuple[int, ...] = "all"
    shard_minutes: float = 5.0
    batch_seconds: float = 120.0
    with_waveform: bool = True


@dataclass(frozen=True)
class ExtractProgress:
    """How far this worker is, counting only its own shards."""

    shards: int
    total_shards: int
    audio_seconds: float
    total_audio_seconds: float


def extract_features(
    model: SpeechModel,
    manifest: Manifest,
    out_dir: Path,
    settings: ExtractSettings | None = None,
    on_progress: Callable[[ExtractProgress], None] | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    rebuild: str = "fithubert cache",
    repair: str = "fithubert cache --repair",
) -> ExtractReport:
    """Hidden states of every utterance of `manifest`, as a feature store in `out_dir`.

    A shard that is there, whole and of the same model, layers, corpus and codec is kept; any other is written anew.
    Of `world_size` workers, on any machines that share `out_dir`, worker `rank` writes shard i where i % world_size is
    `rank`; they need not know of each other. A reader names the command `rebuild` where the store is not the one that
    it expects, and `repair` where a part of it is missing or damaged. Raises UserError where a layer or codec does not
    exist, audio is unreadable, the model says NaN, or space is short.
    """
    settings = settings or ExtractSettings()
    if not 0 <= rank < world_size:
        raise UserError(f"rank: must be at least 0 and below world_size ({world_size}); given {rank}")
    info = describe_store(model, manifest, settings)
    rows = order_rows([u.id for u in manifest.utterances], [u.num_samples for u in manifest.utterances], info)
    out_dir.mkdir(parents=True, exist_ok=True)
    basis, problems = provide_basis(model, manifest, rows, out_dir, info, settings.batch_seconds)
    shards = plan_shards(rows, info, basis, settings.shard_minutes)
    own = shards[rank::world_size]
    problems |= _remove_foreign(out_dir, shards, own, info)
    _check_space(out_dir, [s for s in shards if not (out_dir / s.name).exists()])
    keys = tuple(shard.key for shard in shards)
    index = IndexInfo(keys, rebuild, repair, None if basis is None else basis.digest, settings.shard_minutes)
    write_index(out_dir, shards, info, index)
    codecs = layer_codecs(info.codec, info.layers, basis)
    written, kept = [], []
    total_seconds = sum(_count_seconds(shard) for shard in own)
    seconds = 0.0
    for place, shard in enumerate(own):
        problem = find_problem(out_dir / shard.name, shard, info)
        if problem is None:
            kept.append(shard.name)
        else:
            if (out_dir / shard.name).exists():
                problems[shard.name] = problem
            states = compute_states(
                model, manifest, shard.rows, info.layers, settings.batch_seconds, info.with_waveform
            )
            _write(out_dir, shard, own[place:], info, _encode_rows(states, codecs, info))
            written.append(shard.name)
        seconds += _count_seconds(shard)
        if on_progress is not None:
            on_progress(ExtractProgress(place + 1, len(own), seconds, total_seconds))
    return report_shards(out_dir, info, own, tuple(written), tuple(kept), problems)


def describe_store(model: SpeechModel, manifest: Manifest, settings: ExtractSettings) -> StoreInfo:
    """The StoreInfo of the store that `extract_features` would write; its `fingerprint` names the values."""
    fitted = find_codec(settings.codec).fitted
    if not 0 < settings.variance_share < 1:
        raise UserError(f"variance_share: must be above 0 and below 1 (given {settings.variance_share})")
    for name in ("shard_minutes", "batch_seconds"):
        if not getattr(settings, name) > 0:
            raise UserError(f"{name}: must be above 0 (given {getattr(settings, name)})")
    last = len(model.widths) - 1
    layers = tuple(range(last + 1)) if settings.layers == "all" else tuple(sorted(set(settings.layers)))
    wrong = [layer for layer in layers if not 0 <= layer <= last]
    if wrong or not layers:
        raise UserError(f"layers: {model.name} has layers 0 to {last}; given {list(settings.layers)}")
    return StoreInfo(
        model=model.name,
        model_fingerprint=model.fingerprint,
        corpus_fingerprint=manifest.fingerprint,
        codec=settings.codec,
        layers=layers,
        widths=tuple(model.widths[layer] for layer in layers),
        convolutions=tuple((kernel, stride) for kernel, stride in model.convolutions),
        with_waveform=settings.with_waveform,
        variance_share=settings.variance_share if fitted else None,
    )


def _write(
    out_dir: Path, shard: PlannedShard, left: Sequence[PlannedShard], info: StoreInfo, rows: Iterable[EncodedRow]
) -> None:
    """Write one shard; a full disk becomes one line that says what the shards still `left` need."""
    # A damaged shard still occupies its place while its successor is written beside it.
    _check_space(out_dir, [shard])
    try:
        write_shard(out_dir, shard, info, rows)
    except UserError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            raise _no_space(out_dir, left) from error
        raise


def _encode_rows(states: Iterable[UtteranceStates], codecs: Sequence[Codec], info: StoreInfo) -> Iterator[EncodedRow]:
    for utterance in states:
        row = utterance.row
        samples = utterance.samples
        waveform = None if samples is None else samples.numpy().astype("<i2").tobytes()
        layers = tuple(encode_layer(hidden, codec) for hidden, codec in zip(utterance.layers, codecs, strict=True))
        yield EncodedRow(row.id, row.num_samples, row.num_frames, waveform, layers)


def _remove_foreign(
    out_dir: Path, shards: Sequence[PlannedShard], own: Sequence[PlannedShard], info: StoreInfo
) -> dict[str, str]:
    """Delete what killed writers left, bases and shards that this store has no use for, and own shards of another one.

    Done first, since their space is needed. The result says for each of the last what was foreign in it.
    """
    remove_leftovers(out_dir)
    names = {shard.name for shard in shards}
    for path in out_dir.glob(SHARD_PATTERN):
        if path.name not in names:
            path.unlink(missing_ok=True)
    for path in out_dir.glob(BASIS_PATTERN):
        if path.name != basis_name(info):
            path.unlink(missing_ok=True)
    foreign = {}
    for shard in own:
        reason = describe_foreign(out_dir / shard.name, shard, info)
        if reason is not None:
            foreign[shard.name] = reason
            (out_dir / shard.name).unlink(missing_ok=True)
    return foreign


def _check_space(out_dir: Path, wanted: Sequence[PlannedShard]) -> None:
    """Raise UserError where the shards in `wanted` do not fit on the disk."""
    if wanted and shutil.disk_usage(out_dir).free < _count_bytes(wanted):
        raise _no_space(out_dir, wanted)


def _no_space(out_dir: Path, wanted: Sequence[PlannedShard]) -> UserError:
    kept = len(list(out_dir.glob(SHARD_PATTERN)))
    return UserError(
        f"{out_dir}: not enough disk space: {len(wanted)} shards need {_count_bytes(wanted) / 1e9:.3f} GB and "
        f"{shutil.disk_usage(out_dir).free / 1e9:.3f} GB are free; the {kept} shards there are kept: "
        "free some space and run the same command again, or store fewer layers or a smaller codec"
    )


def _count_bytes(shards: Sequence[PlannedShard]) -> int:
    return int(sum(shard.num_bytes for shard in shards) * _OVERHEAD) + _SPARE_BYTES


def _count_seconds(shard: PlannedShard) -> float:
    return sum(row.num_samples for row in shard.rows) / SAMPLE_RATE_HZ
