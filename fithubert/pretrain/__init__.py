"""Pre-training by iterations: cluster frames, predict the clusters of masked frames, cluster the result, repeat."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import Tensor

from fithubert.config.pretrain import ManifestData, PretrainParams, load_pretrain_params
from fithubert.config.teacher import Device
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.data.prepare import prepare_corpus
from fithubert.errors import UserError
from fithubert.files import digest_json, only_writer, read_json, remove_leftovers, write_json
from fithubert.importers import load_teacher
from fithubert.models.canonical import canonical_state, fill_model, prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.weights import save_teacher
from fithubert.pretrain.corpus import WaveformBank, count_units, describe_units, discover_units, write_waveforms
from fithubert.pretrain.loop import Iteration, IterationLoop, Report
from fithubert.pretrain.objective import UnitPredictor
from fithubert.training import deterministic_torch, ends_with_its_ranks, on_first_rank, open_fabric
from fithubert.training.progress import progress_line
from fithubert.workspace import check_name

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Raised when the contents of a folder of pre-training change their meaning.
FORMAT = 2
#: Parameters without influence on the teacher. The corpus is identified by its contents, not by its source.
_FREE = {"data", "checkpoint_every_updates"}
#: The recipe's precision -> Lightning Fabric's.
_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def pretrain_recipe(recipe: Path, out: Path, device: str = "auto") -> Path:
    """Pre-train the teacher that `recipe` describes in `out`; the folder of the finished teacher.

    A corpus that is not prepared yet is prepared in `out`/data. A second call resumes a stopped one. Under torchrun
    every rank makes the same call. Raises UserError if the parameters are wrong or `out` belongs to other parameters.
    """
    check_name(device, get_args(Device), "device")
    params = load_pretrain_params(recipe)
    fabric = open_fabric(
        cast(Device, device), _PRECISIONS[params.precision], unused_parameters=params.layer_dropout > 0
    )

    def report(line: str) -> None:
        if fabric.is_global_zero:
            print(f"pretrain: {line}", file=sys.stderr, flush=True)

    with ends_with_its_ranks(fabric):
        root = on_first_rank(fabric, lambda: _prepare(params, out / "data"))
        manifest = load_manifest(manifest_path(root), root)
        return pretrain(params, manifest, out, fabric, report)


def _prepare(params: PretrainParams, root: Path) -> Path:
    """The data folder of the recipe's corpus: `root`, prepared if needed, or a folder prepared before."""
    if isinstance(params.data, ManifestData):
        return params.data.path
    mine, marker = digest_json(params.data.model_dump(mode="json")), root / "made_from.json"
    if marker.exists() and read_json(marker) == mine:
        return root
    prepare_corpus(params.data, root, on_progress=progress_line("corpus"))
    write_json(marker, mine)
    return root


def pretrain(params: PretrainParams, manifest: Manifest, work: Path, fabric: "Fabric", report: Report) -> Path:
    """Pre-train on the train split of `manifest`; the directory of the finished teacher, `work`/teacher.

    Every iteration writes its units and its checkpoint to `work`/iteration-N. A second call resumes a stopped one and
    gives the same teacher, on any number of ranks, which share `work`. Unit quality and curves are in
    `work`/pretrain.json. Raises UserError if `work` belongs to other parameters or another corpus, if there is no
    audio, and if the loss is not finite.
    """
    if params.drops and params.passes < fabric.world_size:
        raise UserError(
            f"passes: {params.passes} forward passes an update are too few for {fabric.world_size} ranks with dropout; "
            f"set passes to {fabric.world_size} or more"
        )
    train, result, waveforms = manifest.select(split="train"), work / "pretrain.json", work / "waveforms.int16"
    on_first_rank(fabric, lambda: _claim(work, params, manifest))
    if on_first_rank(fabric, result.exists):
        report(f"{result}: finished before")
        return work / "teacher"
    on_first_rank(fabric, lambda: write_waveforms(train, waveforms))
    bank = WaveformBank(train, waveforms)
    with deterministic_torch(), ExitStack() as held:
        on_first_rank(fabric, lambda: held.enter_context(only_writer(work, "the same pre-training")))
        model, records = _run_iterations(params, bank, work, fabric, report)
        teacher = HubertTeacher(prepare_for_inference(model.hubert.cpu()), params.name, model.mask_embedding.detach())
        record = {"pretrain": params.model_dump(mode="json"), "hours": bank.hours}
        on_first_rank(fabric, lambda: save_teacher(teacher, work / "teacher", torch.float16, record))
        on_first_rank(fabric, lambda: write_json(result, {**record, "iterations": records}))
        on_first_rank(fabric, waveforms.unlink)
    return work / "teacher"


def _run_iterations(
    params: PretrainParams, bank: WaveformBank, work: Path, fabric: "Fabric", report: Report
) -> tuple[UnitPredictor, list[dict[str, Any]]]:
    """The model of the last iteration, and the results of every iteration."""
    report(f"{len(bank.utterances)} utterances, {bank.hours:.2f} h, on {fabric.world_size} x {fabric.device}")
    if bank.num_speakers < 2 and any(iteration.speakers for iteration in params.iterations):
        raise UserError("iterations: speakers needs a corpus with two speakers or more")
    hubert, embedding = (None, None) if params.start_from is None else _read_start(params, fabric.device)
    records = []
    for number, iteration in enumerate(params.iterations, start=1):
        folder = work / f"iteration-{number}"
        units = discover_units(iteration.units, params.seed, bank, hubert, folder / "units.int32", fabric)
        quality = describe_units(units, bank.utterances)
        features, count = iteration.units.features, count_units(iteration.units, bank)
        source = features if isinstance(features, str) else f"layer {features}"
        report(f"iteration {number}: {count} units of {source}: {quality or 'no phones to compare'}")
        torch.manual_seed(params.seed * 1000 + number)
        model = UnitPredictor(params, count, iteration.speakers, bank.num_speakers)
        if hubert is not None and (iteration.warm_start or number == 1):
            model.hubert.load_state_dict(hubert.state_dict())
            if embedding is not None:
                model.mask_embedding.data.copy_(embedding)
        curve = IterationLoop(fabric, params, Iteration(number, folder, bank, units), model, report).run()
        hubert, embedding = model.hubert, model.mask_embedding.detach()
        records.append(
            {
                "params": iteration.model_dump(),
                "units": None if quality is None else asdict(quality),
                "curve": [asdict(point) for point in curve],
            }
        )
    return model, records


def _read_start(params: PretrainParams, device: torch.device) -> tuple[HubertModel, Tensor | None]:
    """The teacher that `params.start_from` names, with weight norm as in training, and its mask embedding."""
    started = load_teacher(params.start_from or "")
    if not isinstance(started, HubertTeacher) or started.model.config != params.model:
        raise UserError(f"start_from {params.start_from!r}: not a teacher of the recipe's model; copy its shape")
    hubert = HubertModel(params.model, params.dropout)
    fill_model(hubert, canonical_state(started.model), f"start_from {params.start_from!r}")
    return hubert.to(device), started.mask_embedding


def _claim(work: Path, params: PretrainParams, manifest: Manifest) -> None:
    """Mark `work` as belonging to these parameters and this corpus, or refuse it; delete temporary files."""
    identity = digest_json(params.model_dump(mode="json", exclude=_FREE))
    mine = {"format": FORMAT, "params": identity, "corpus": manifest.fingerprint}
    marker = work / "owner.json"
    if marker.exists() and read_json(marker) != mine:
        raise UserError(f"{work}: holds a pre-training with other parameters or another corpus; choose another folder")
    write_json(marker, mine)
    for folder in (work, *work.glob("iteration-*")):
        remove_leftovers(folder)
