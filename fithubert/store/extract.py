"""From a model and a manifest to a feature store: in batches, resumable shard by shard, with any number of workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fithubert.code_version import code_version
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import open_atomically
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.records import StoreMetrics
from fithubert.store import (
    CACHE_COMMANDS,
    SHARD_PATTERN,
    Commands,
    StoreInfo,
    basis_name,
    describe_difference,
    describe_error,
    read_basis,
    write,
)
from fithubert.store.codec import Basis, find_codec, fit_basis, layer_codecs, to_bytes
from fithubert.store.shards import (
    Compute,
    PlannedRow,
    choose_layers,
    compute_hidden_states,
    order_rows,
    plan_rows,
    plan_shards,
    read_index,
    sort_by_length,
)

#: Speech that axes are fitted on: 20 frames for each of 768 features, 0.6 GB of hidden states of HuBERT Base.
SAMPLE_SECONDS = 300.0


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
    commands: Commands = CACHE_COMMANDS


#: Called with the seconds of audio that this worker has done, all that it has to do, and a note on its shards.
OnProgress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class ExtractReport:
    """The contents of a store (with several workers: of this worker's shards), however often it was interrupted.

    `written` and `kept`: names of the shards that this run wrote or kept. `problems`: why it replaced an existing file.
    """

    metrics: StoreMetrics
    written: tuple[str, ...]
    kept: tuple[str, ...]
    problems: dict[str, str]

    def describe(self, directory: Path) -> str:
        """A line for each file that this run replaced or added in `directory`, and one for those that it kept."""
        reasons = {**dict.fromkeys(self.written, write.MISSING), **self.problems}
        lines = [f"{directory / name}: {reason}; written again" for name, reason in sorted(reasons.items())]
        total = len(self.kept) + len(self.written)
        return "\n".join([*lines, f"{directory}: {len(self.kept)} of {total} shards were whole"])


def extract_features(
    model: SpeechModel,
    manifest: Manifest,
    out_dir: Path,
    settings: ExtractSettings = ExtractSettings(),
    on_progress: OnProgress = lambda *_: None,
    *,
    worker: tuple[int, int] = (0, 1),
    repair: bool = False,
) -> ExtractReport:
    """Write the hidden states of every utterance of `manifest` as a feature store to `out_dir`.

    An existing shard is kept if it is whole and the same code made it from the same model, layers, corpus and codec;
    any other is written again. `worker`: its rank and the number of workers, which may run on any machines that share
    `out_dir`: each writes its part of the shards, without coordination.

    `repair`: codec, layers and shards are those of the existing store, and of `settings` only `batch_seconds` counts.
    Whole shards then stay, and a store of another model, corpus or code is refused.

    Raises UserError if a layer or codec does not exist, audio is unreadable, the model outputs NaN, the disk is too
    small, or there is nothing to repair.
    """
    rank, world_size = worker
    if not 0 <= rank < world_size:
        raise UserError(f"rank: must be at least 0 and below world_size ({world_size}); given {rank}")
    settings, info = _resolve(model, manifest, out_dir, settings, repair)
    rows = order_rows(plan_rows(manifest.utterances, info))
    out_dir.mkdir(parents=True, exist_ok=True)
    compute = partial(
        compute_hidden_states,
        model,
        manifest,
        layers=info.layers,
        batch_seconds=settings.batch_seconds,
        with_waveform=info.with_waveform,
    )
    basis, problems = provide_basis(out_dir, info, rows, compute)
    shards = plan_shards(rows, info, basis, settings.shard_minutes)
    own = shards[rank::world_size]
    foreign = write.remove_foreign(out_dir, shards, own, info)
    write.check_space(out_dir, shards)
    write.write_index(out_dir, shards, info, settings.commands, settings.shard_minutes, basis)
    note = f"/{len(own)} shards"
    if foreign:
        note += f", {len(foreign)} written again: {next(iter(foreign.values()))}"
        problems |= foreign
    done_seconds, total_seconds = 0.0, sum(shard.seconds for shard in own)
    on_progress(done_seconds, total_seconds, f"0{note}")
    written: list[str] = []
    kept: list[str] = []
    codecs = layer_codecs(info.codec, info.layers, basis)
    for shard, problem in write.write_missing(out_dir, own, info, codecs, compute):
        (kept if problem is None else written).append(shard.name)
        if problem is not None and problem != write.MISSING:
            problems[shard.name] = problem
        done_seconds += shard.seconds
        on_progress(done_seconds, total_seconds, f"{len(kept) + len(written)}{note}")
    metrics = write.measure_shards(out_dir, [shard.name for shard in own], info)
    return ExtractReport(metrics, tuple(written), tuple(kept), problems)


def measure_store(directory: Path) -> StoreMetrics:
    """The contents of a store that several workers have written; raises UserError if a shard is missing."""
    _, info, index = read_index(directory)
    names = sorted(path.name for path in directory.glob(SHARD_PATTERN))
    if len(names) < len(index.shard_keys):
        raise UserError(
            f"{directory}: {len(names)} of {len(index.shard_keys)} shards; run `{index.commands.rebuild}` again"
        )
    return write.measure_shards(directory, names, info)


def _resolve(
    model: SpeechModel, manifest: Manifest, directory: Path, settings: ExtractSettings, repair: bool
) -> tuple[ExtractSettings, StoreInfo]:
    """The settings, for a repair those of the existing store, and the store that they describe."""
    if not repair:
        return settings, describe_store(model, manifest, settings)
    _, existing, index = read_index(directory)
    settings = replace(
        settings,
        codec=existing.codec,
        variance_share=existing.variance_share or settings.variance_share,
        layers=existing.layers,
        shard_minutes=index.shard_minutes,
        with_waveform=existing.with_waveform,
        commands=index.commands,
    )
    info = describe_store(model, manifest, settings)
    difference = describe_difference(existing, info)
    if difference is not None:
        rebuild = index.commands.rebuild
        raise UserError(f"{directory}: cannot be repaired: {difference}; run `{rebuild}` to write it again")
    return settings, info


def describe_store(model: SpeechModel, manifest: Manifest, settings: ExtractSettings) -> StoreInfo:
    """The StoreInfo of the store that `extract_features` would write; its `fingerprint` identifies the values."""
    fitted = find_codec(settings.codec).fitted
    # All runtimes of a teacher give the same hidden states, so they count as the same code.
    modules = [__name__, "fithubert.models.runtime", type(model).__module__]
    if not 0 < settings.variance_share < 1:
        raise UserError(f"variance_share: must be above 0 and below 1 (given {settings.variance_share})")
    for name in ("shard_minutes", "batch_seconds"):
        if not getattr(settings, name) > 0:
            raise UserError(f"{name}: must be above 0 (given {getattr(settings, name)})")
    layers = choose_layers(model, settings.layers)
    return StoreInfo(
        model=model.name,
        model_fingerprint=model.fingerprint,
        corpus_fingerprint=manifest.fingerprint,
        codec=settings.codec,
        layers=layers,
        widths=tuple(model.widths[layer] for layer in layers),
        convolutions=tuple((kernel, stride) for kernel, stride in model.convolutions),
        frame_multiple=model.frame_multiple,
        with_waveform=settings.with_waveform,
        variance_share=settings.variance_share if fitted else None,
        code_version=code_version(*(module for module in modules if module.startswith("fithubert."))),
    )


def provide_basis(
    directory: Path, info: StoreInfo, rows: Sequence[PlannedRow], compute: Compute
) -> tuple[Basis | None, dict[str, str]]:
    """The basis of the store in `directory`, fitted and written if there is none; None if the codec needs none.

    The second result has the name of an unusable basis that was replaced, and the reason.

    The sample is the first `SAMPLE_SECONDS` of `rows`, whose order is that of digests: all workers draw the same one
    without coordination. Two machines may fit axes that differ in the last bit: the first to finish decides, and all
    use its file.
    """
    if info.variance_share is None:
        return None, {}
    path = directory / basis_name(info)
    problems = {}
    try:
        return read_basis(directory, info), {}
    except FileNotFoundError:
        pass
    except (OSError, pa.ArrowException, ValueError) as error:
        problems[path.name] = describe_error(error)
        path.unlink(missing_ok=True)
    limit = SAMPLE_SECONDS * SAMPLE_RATE_HZ
    sample: list[PlannedRow] = []
    for row in rows:
        if limit <= 0:
            break
        sample.append(row)
        limit -= row.num_samples
    states = [[layer.float().cpu() for layer in row.hidden_states] for row in compute(sort_by_length(sample))]
    _write_basis(directory, fit_basis(states, info.layers, info.variance_share), info)
    return read_basis(directory, info), problems


def _write_basis(directory: Path, basis: Basis, info: StoreInfo) -> None:
    """Write the basis of a store unless there is one: the first of several workers decides for all."""
    integers = [(name, pa.int32()) for name in ("layer", "width", "components")]
    others = [("step", pa.float32()), ("stored_share", pa.float64()), ("mean", pa.binary()), ("axes", pa.binary())]
    rows = [
        {
            "layer": layer,
            "width": part.axes.shape[1],
            "components": part.components,
            "step": part.step,
            "stored_share": part.stored_share,
            "mean": to_bytes(part.mean),
            "axes": to_bytes(part.axes),
        }
        for layer, part in sorted(basis.layers.items())
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(integers + others, info.metadata()))
    with open_atomically(directory / basis_name(info), replace=False) as file:
        pq.write_table(table, file, compression="none", write_page_checksum=True)
