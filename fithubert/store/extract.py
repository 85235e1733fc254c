"""From a model and a manifest to a feature store: in batches, resumable shard by shard, with any number of workers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fithubert.code_version import code_version
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.records import StoreMetrics
from fithubert.store import (
    CACHE_COMMANDS,
    SHARD_PATTERN,
    Commands,
    StoreInfo,
    describe_difference,
    write,
)
from fithubert.store.basis import provide_basis
from fithubert.store.codec import find_codec, layer_codecs
from fithubert.store.shards import (
    Compute,
    PlannedRow,
    UtteranceStates,
    choose_layers,
    compute_hidden_states,
    order_rows,
    plan_rows,
    plan_shards,
    read_index,
)


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
    any other is written again. `worker`: its rank and the number of workers, on any machines that share `out_dir`; each
    writes its part of the shards. `on_progress` is called after each utterance.

    `repair`: codec, layers and shards are those of the existing store, and of `settings` only `batch_seconds` counts.
    Whole shards then stay, and a store of another model, corpus or code is refused.

    Raises UserError if a layer or codec does not exist, audio is unreadable, the model outputs NaN, the disk is too
    small, or there is nothing to repair.
    """
    _check_worker(*worker)
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
    own = shards[worker[0] :: worker[1]]
    foreign = write.remove_foreign(out_dir, shards, own, info)
    write.check_space(out_dir, shards)
    write.write_index(out_dir, shards, info, settings.commands, settings.shard_minutes, basis)
    note = f"/{len(own)} shards"
    if foreign:
        note += f", {len(foreign)} written again: {next(iter(foreign.values()))}"
        problems |= foreign
    total_seconds = sum(shard.seconds for shard in own)
    done_seconds, written, kept = 0.0, list[str](), list[str]()

    def report(more_seconds: float = 0.0) -> None:
        on_progress(done_seconds + more_seconds, total_seconds, f"{len(kept) + len(written)}{note}")

    report()
    codecs, compute_and_report = layer_codecs(info.codec, info.layers, basis), _reporting(compute, report)
    for shard, problem in write.write_missing(out_dir, own, info, codecs, compute_and_report):
        (kept if problem is None else written).append(shard.name)
        if problem is not None and problem != write.MISSING:
            problems[shard.name] = problem
        done_seconds += shard.seconds
        report()
    names = [shard.name for shard in own]
    return ExtractReport(write.measure_shards(out_dir, names, info), tuple(written), tuple(kept), problems)


def _check_worker(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise UserError(f"rank: must be at least 0 and below world_size ({world_size}); given {rank}")


def _reporting(compute: Compute, report: Callable[[float], None]) -> Compute:
    """`compute`, which calls `report` with the seconds of audio that are done after each row but the last."""

    def compute_and_report(rows: Sequence[PlannedRow]) -> Iterator[UtteranceStates]:
        seconds = 0.0
        for states in compute(rows):
            yield states
            seconds += states.row.num_samples / SAMPLE_RATE_HZ
            if states.row is not rows[-1]:
                report(seconds)

    return compute_and_report


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
