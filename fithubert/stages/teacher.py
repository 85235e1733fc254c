"""The teacher in its canonical form, and what each of its layers knows of phones."""

import time
from typing import Any

import torch
from torch import Tensor

from fithubert.config.params import Params
from fithubert.data.manifest import Manifest, Utterance
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.frames import pad_waveforms, receptive_field
from fithubert.importers.registry import load_teacher
from fithubert.models.hubert import HubertModel, HubertTeacher, remove_weight_norm
from fithubert.models.runtime import prepare_teacher
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import read_teacher, save_teacher
from fithubert.superb.probe import frame_labels, probe_phones
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace

_BATCH = 8


def load_prepared(params: Params, workspace: Workspace) -> SpeechModel:
    """The workspace's teacher, run as `params.teacher` says."""
    how = params.teacher
    return prepare_teacher(read_teacher(workspace.teacher), how.device, how.precision, how.runtime)


def teacher(params: Params, workspace: Workspace) -> dict[str, Any]:
    """Write the teacher that `params.teacher.source` names to artifacts/teacher; the metrics.

    The phone probe is trained on train and measured on dev: of the teacher, of the same network untrained, and of log-
    mel filter banks. A corpus without phones is not probed.
    """
    begun = time.monotonic()
    loaded = load_teacher(params.teacher.source)
    if not isinstance(loaded, HubertTeacher):
        raise UserError(f"teacher.source {params.teacher.source!r}: has no layers to distil")
    save_teacher(loaded, workspace.teacher)
    metrics: dict[str, Any] = {
        "source": params.teacher.source,
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "layers": len(loaded.widths) - 1,
        "width": loaded.widths[-1],
        "params": sum(p.numel() for p in loaded.model.parameters()),
        "probe": _probe(loaded, workspace.load_manifest(), params.teacher.probe_utterances),
    }
    metrics["seconds"] = time.monotonic() - begun
    write_json(workspace.metrics("teacher"), metrics)
    return metrics


def _probe(trained: HubertTeacher, manifest: Manifest, count: int) -> dict[str, Any] | None:
    """Percent of dev frames whose phone is named, by layer; None where there are no phones to name."""
    train, dev = _sentences(manifest, "train", count), _sentences(manifest, "dev", count // 3)
    if not train or not dev:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = HubertTeacher(remove_weight_norm(HubertModel(trained.model.config)), "untrained")
    show = progress_line("phone probe")
    accuracies = {}
    for done, model in enumerate((trained, untrained, load_teacher("fbank"))):
        accuracies[model.name if done else "teacher"] = probe_phones(
            *_frames(model, manifest, train), *_frames(model, manifest, dev)
        )
        show(done + 1, 3)
    layers = {name: {str(layer): value for layer, value in values.items()} for name, values in accuracies.items()}
    return {
        "layers": layers["teacher"],
        "untrained": layers["untrained"],
        "fbank": layers["fbank"]["0"],
        "train_utterances": len(train),
        "dev_utterances": len(dev),
    }


def _sentences(manifest: Manifest, split: str, count: int) -> list[Utterance]:
    """`count` sentences with phones from all over the split, or as many as there are."""
    found = [u for u in manifest.select(split=split, kind="sentence") if u.phones]
    return found[:: max(1, len(found) // max(1, count))][:count]


def _frames(model: SpeechModel, manifest: Manifest, utterances: list[Utterance]) -> tuple[dict[int, Tensor], Tensor]:
    """Layer -> (frame, width) of all utterances one after another, and the (frame,) number of each frame's phone."""
    field, stride = receptive_field(model.convolutions)
    rows: dict[int, list[Tensor]] = {layer: [] for layer in range(len(model.widths))}
    labels = []
    for start in range(0, len(utterances), _BATCH):
        batch = utterances[start : start + _BATCH]
        out = model(*pad_waveforms([manifest.read(u) for u in batch]))
        for row, (utterance, frames) in enumerate(zip(batch, out.lengths.tolist(), strict=True)):
            labels.append(torch.from_numpy(frame_labels(utterance, frames, stride, field)))
            for layer, states in enumerate(out.hidden_states):
                rows[layer].append(states[row, :frames].cpu())
    # Clones, since what is made in inference mode cannot be trained on.
    return {layer: torch.cat(parts).clone() for layer, parts in rows.items()}, torch.cat(labels)
