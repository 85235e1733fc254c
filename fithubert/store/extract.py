"""From a model and a manifest to a feature store: in batches, resumable shard by shard, with any number of workers."""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import remove_leftovers
from fithubert.models.speech_model import SpeechModel
from fithubert.store.codec import Codec, find_codec, layer_codecs
from fithubert.store.format import (
    BASIS_PATTERN,
    SHARD_PATTERN,
    IndexInfo,
    StoreInfo,
    basis_name,
    describe_difference,
    parse_index,
    parse_info,
)
from fithubert.store.pca import provide_basis
from fithubert.store.read import read_index
from fithubert.store.report import ExtractReport, report_shards
from fithubert.store.shards import (
    PlannedRow,
    PlannedShard,
    UtteranceStates,
    compute_hidden_states,
    order_rows,
    plan_shards,
)
from fithubert.store.write import EncodedRow, describe_foreign, encode_layer, find_problem, write_index, write_shard

#: Room besides the coded values: footers, page headers and the index.
_OVERHEAD, _SPARE_BYTES = 1.02, 4 * 2**20


@dataclass(frozen=True)
class ExtractSettings:
    """How hidden states are extracted and stored.

    `variance_share`: the share of the variance that a codec with a basis keeps; other codecs ignore it.
    `batch_seconds`: padded audio in one forward pass of the model.
    """

    codec: str = "int8"
    variance_share: float = 0.9999
    layers: Literal["all"] | tuple[int, ...] = "all"
    shard_minutes: float = 5.0
    batch_seconds: float = 120.0
    with_waveform: bool = True


@dataclass(frozen=True)
class Worker:
    """Worker `rank` of `world_size` workers that fill one store together."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Commands:
    """The commands that a reader of the store recommends.

    `rebuild` if the store is not the expected one, `repair` if a part of it is missing or damaged.
    """

    rebuild: str = "fithubert cache"
    repair: str = "fithubert cache --repair"


@dataclass(frozen=True)
class ExtractProgress:
    """The progress of one worker, counting its own shards only."""

    shards: int
    total_shards: int
    audio_seconds: float
    total_audio_seconds: float


OnProgress = Callable[[ExtractProgress], None]


def extract_features(
    model: SpeechModel,
    manifest: Manifest,
    out_dir: Path,
    settings: ExtractSettings | None = None,
    on_progress: OnProgress | None = None,
    *,
    worker: Worker = Worker(),
    commands: Commands = Commands(),
) -> ExtractReport:
    """Write the hidden states of every utterance of `manifest` as a feature store to `out_dir`.

    An existing shard is kept if it is whole and of the same model, layers, corpus and codec; any other is written
    again. Workers may run on any machines that share `out_dir`: each writes every `world_size`-th shard, without
    coordination. Raises UserError if a layer or codec does not exist, audio is unreadable, the model outputs NaN, or
    the disk is too small.
    """
    settings = settings or ExtractSettings()
    if not 0 <= worker.rank < worker.world_size:
        raise UserError(f"rank: must be at least 0 and below world_size ({worker.world_size}); given {worker.rank}")
    info = describe_store(model, manifest, settings)
    rows = order_rows([u.id for u in manifest.utterances], [u.num_samples for u in manifest.utterances], info)
    out_dir.mkdir(parents=True, exist_ok=True)

    def compute(rows: Sequence[PlannedRow]) -> Iterator[UtteranceStates]:
        return compute_hidden_states(model, manifest, rows, info.layers, settings.batch_seconds, info.with_waveform)

    basis, problems = provide_basis(out_dir, info, rows, compute)
    shards = plan_shards(rows, info, basis, settings.shard_minutes)
    own = shards[worker.rank :: worker.world_size]
    problems |= _remove_foreign(out_dir, shards, own, info)
    _check_space(out_dir, [s for s in shards if not (out_dir / s.name).exists()])
    keys = tuple(shard.key for shard in shards)
    basis_digest = None if basis is None else basis.digest
    index = IndexInfo(keys, commands.rebuild, commands.repair, basis_digest, settings.shard_minutes)
    write_index(out_dir, shards, info, index)
    codecs = layer_codecs(info.codec, info.layers, basis)
    written, kept = [], []
    done_seconds, total_seconds = 0.0, sum(shard.seconds for shard in own)
    for place, shard in enumerate(own):
        problem = find_problem(out_dir / shard.name, shard, info)
        if problem is None:
            kept.append(shard.name)
        else:
            if (out_dir / shard.name).exists():
                problems[shard.name] = problem
            _write(out_dir, own[place:], info, _encode_rows(compute(shard.rows), codecs))
            written.append(shard.name)
        done_seconds += shard.seconds
        if on_progress is not None:
            on_progress(ExtractProgress(place + 1, len(own), done_seconds, total_seconds))
    return report_shards(out_dir, info, own, tuple(written), tuple(kept), problems)


def repair_features(
    model: SpeechModel,
    manifest: Manifest,
    directory: Path,
    batch_seconds: float,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Read every page of the store in `directory` and write again what is missing or damaged.

    Codec, layers and shards are those of its index, so whole shards stay; `extract_features` would replace a store of
    other settings. Raises UserError if there is no index, or `model` or `manifest` are not those of the store.
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
        raise UserError(f"{directory}: cannot be repaired: {difference}; run `{index.rebuild}` to write it again")
    commands = Commands(index.rebuild, index.repair)
    return extract_features(model, manifest, directory, settings, on_progress, commands=commands)


def describe_store(model: SpeechModel, manifest: Manifest, settings: ExtractSettings) -> StoreInfo:
    """The StoreInfo of the store that `extract_features` would write; its `fingerprint` identifies the values."""
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


def _write(out_dir: Path, missing: Sequence[PlannedShard], info: StoreInfo, rows: Iterable[EncodedRow]) -> None:
    """Write the first of the `missing` shards; if the disk is full, the error names the size of all of them."""
    # A damaged shard still occupies its place while its successor is written next to it.
    _check_space(out_dir, missing[:1])
    try:
        write_shard(out_dir, missing[0], info, rows)
    except UserError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            raise _no_space(out_dir, missing) from error
        raise


def _encode_rows(utterances: Iterable[UtteranceStates], codecs: Sequence[Codec]) -> Iterator[EncodedRow]:
    for utterance in utterances:
        row, samples = utterance.row, utterance.samples
        waveform = None if samples is None else samples.numpy().astype("<i2").tobytes()
        layers = tuple(encode_layer(x, codec) for x, codec in zip(utterance.hidden_states, codecs, strict=True))
        yield EncodedRow(row.id, row.num_samples, row.num_frames, waveform, layers)


def _remove_foreign(
    out_dir: Path, shards: Sequence[PlannedShard], own: Sequence[PlannedShard], info: StoreInfo
) -> dict[str, str]:
    """Delete leftovers of killed writers, foreign bases, shards that are not planned, and own shards of another store.

    This comes first, because their space is needed. The result has the reason for each deleted own shard.
    """
    remove_leftovers(out_dir)
    names = {shard.name for shard in shards} | {basis_name(info)}
    for path in [*out_dir.glob(SHARD_PATTERN), *out_dir.glob(BASIS_PATTERN)]:
        if path.name not in names:
            path.unlink(missing_ok=True)
    foreign = {}
    for shard in own:
        reason = describe_foreign(out_dir / shard.name, shard, info)
        if reason is not None:
            foreign[shard.name] = reason
            (out_dir / shard.name).unlink(missing_ok=True)
    return foreign


def _check_space(out_dir: Path, missing: Sequence[PlannedShard]) -> None:
    """Raise UserError if the `missing` shards do not fit on the disk."""
    if missing and shutil.disk_usage(out_dir).free < _count_bytes(missing):
        raise _no_space(out_dir, missing)


def _no_space(out_dir: Path, missing: Sequence[PlannedShard]) -> UserError:
    kept = len(list(out_dir.glob(SHARD_PATTERN)))
    return UserError(
        f"{out_dir}: not enough disk space: {len(missing)} shards need {_count_bytes(missing) / 1e9:.3f} GB and "
        f"{shutil.disk_usage(out_dir).free / 1e9:.3f} GB are free; the {kept} existing shards are kept: "
        "free some space and run the same command again, or store fewer layers or use a smaller codec"
    )


def _count_bytes(shards: Sequence[PlannedShard]) -> int:
    return int(sum(shard.num_bytes for shard in shards) * _OVERHEAD) + _SPARE_BYTES
