"""The teacher in its canonical form, and how well each of its layers predicts phones."""

import sys
import time

import torch
from torch import Tensor

from fithubert.config.params import Params
from fithubert.data.manifest import Manifest, Utterance
from fithubert.errors import UserError
from fithubert.frames import pad_waveforms, receptive_field
from fithubert.importers import load_teacher
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.runtime import prepare_teacher
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import count_parameters, read_teacher, save_teacher
from fithubert.records import PhoneProbe, TeacherMetrics
from fithubert.superb.probe import frame_labels, probe_frames
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace

_BATCH = 8


def load_prepared(params: Params, workspace: Workspace) -> SpeechModel:
    """The workspace's teacher with the device, precision and runtime of `params.teacher`."""
    how = params.teacher
    return prepare_teacher(read_teacher(workspace.teacher), how.device, how.precision, how.runtime)


def teacher(params: Params, workspace: Workspace) -> TeacherMetrics:
    """Write the teacher that `params.teacher.source` names to artifacts/teacher; return the metrics.

    The phone probe is trained on train and measured on dev: of the teacher, of the same network untrained, and of
    log-mel filter banks. A corpus without phones is not probed. Prints what is to know of the teacher on this corpus.
    Raises UserError if the source has no layers to distil.
    """
    begun = time.monotonic()
    loaded = load_teacher(params.teacher.source)
    if not isinstance(loaded, HubertTeacher):
        raise UserError(f"teacher.source {params.teacher.source!r}: has no layers to distil")
    save_teacher(loaded, workspace.teacher)
    probe = _probe(loaded, workspace.load_manifest(), params.teacher.probe_utterances)
    metrics = TeacherMetrics(
        source=params.teacher.source,
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        layers=len(loaded.widths) - 1,
        width=loaded.widths[-1],
        params=count_parameters(loaded.model),
        probe=probe,
        seconds=time.monotonic() - begun,
    )
    metrics.write(workspace.metrics("teacher"))
    note = metrics.note_on(params.data.source)
    if note is not None:
        print(note, file=sys.stderr)
    return metrics


def _probe(trained: HubertTeacher, manifest: Manifest, count: int) -> PhoneProbe | None:
    """Percent of dev frames whose phone is named, by layer; None for a corpus without phones."""
    train, dev = _sentences(manifest, "train", count), _sentences(manifest, "dev", count // 3)
    if not train or not dev:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = HubertTeacher(prepare_for_inference(HubertModel(trained.model.config)), "untrained")
    show = progress_line("phone probe")
    accuracies = {}
    for done, model in enumerate((trained, untrained, load_teacher("fbank"))):
        (states, labels), (dev_states, dev_labels) = (_frames(model, manifest, part) for part in (train, dev))
        accuracies[model.name if done else "teacher"] = {
            layer: probe_frames(frames, labels, dev_states[layer], dev_labels) for layer, frames in states.items()
        }
        show(done + 1, 3)
    return PhoneProbe(
        layers=accuracies["teacher"],
        untrained=accuracies["untrained"],
        fbank=accuracies["fbank"][0],
        train_utterances=len(train),
        dev_utterances=len(dev),
    )


def _sentences(manifest: Manifest, split: str, count: int) -> list[Utterance]:
    """At most `count` sentences with phones, evenly spread over the split."""
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
    # Cloned, because autograd cannot use tensors that inference mode made.
    return {layer: torch.cat(parts).clone() for layer, parts in rows.items()}, torch.cat(labels)
