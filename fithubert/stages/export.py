"""One student in a form that other software runs, with its scores, its errors and its latency.

The forms are in export/; this module adds what tracking, report and profile contribute to them.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fithubert.errors import UserError
from fithubert.export.find import find_model, find_student
from fithubert.export.folder import describe_export, export_huggingface, export_s3prl, new_directory, write_portable
from fithubert.export.onnx import export_onnx
from fithubert.export.rvc import export_rvc
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.probes.graph import export_probe
from fithubert.profile.timing import paired_ratio, time_in_turn
from fithubert.records import (
    PROBE_FILE,
    CompressMetrics,
    DistillMetrics,
    ProbeRecord,
    SpeakerScores,
    Summary,
    load_summary,
)
from fithubert.superb.kept import read_head
from fithubert.superb.run import LEARNERS, keeps_head
from fithubert.tasks import task_info
from fithubert.tracking.models import TrackedStudent, register_student, write_model
from fithubert.workspace import Workspace, check_name

FORMS = ("onnx", "huggingface", "s3prl", "mlflow")
#: The error of int8 is measured on so many utterances of dev; latencies are those of so many seconds.
_UTTERANCES, _SECONDS, _ROUNDS = 16, 10.0, 7


def export(
    workspace: Workspace, student: str, to: str, out: Path, int8: bool = False, hub_name: str | None = None
) -> dict[str, Any]:
    """Write `student`, a folder or a name in the workspace, to `out` in the form `to`; return what the export records.

    `int8` (onnx only) also writes the int8 graph and measures its error on dev of the workspace's corpus. `hub_name`
    (huggingface only) is the repository that the model card names. Raises UserError if the student, form or corpus does
    not exist, or `out` is not new or empty.
    """
    check_name(to, FORMS, "form")
    if int8 and to != "onnx":
        raise UserError(f"--int8 works with --to onnx, not with --to {to}")
    readout = find_student(workspace, student)
    if to == "onnx":
        return export_onnx(readout, out, read_speech(workspace) if int8 else None, _time_models)
    if to == "huggingface":
        scores = _read_scores(workspace, readout.fingerprint)
        return export_huggingface(readout, out, scores, _describe_training(workspace, readout), hub_name or "DIR")
    if to == "mlflow":
        with new_directory(out) as aside:
            write_model(tracked_student(readout), aside)
        return describe_export(readout)
    return export_s3prl(readout, out)


def export_front_end(
    workspace: Workspace, model: str, out: Path, teacher: str | None = None, hop_aligned: bool = False
) -> dict[str, Any]:
    """Write `model`, a student or a teacher as `find_model` names it, to `out` as the graphs that RVC reads.

    The teacher's `final_proj` is that of the model, or of `teacher` for a student without. Returns what the export
    records. Raises UserError if a model does not exist or gives none of the graphs, or `out` is not new or empty.
    """
    loaded = find_model(workspace, model, "cpu")
    if not isinstance(loaded, ReadOut | HubertTeacher):
        raise UserError(f"model {model!r}: neither a student nor a teacher with layers")
    projection = loaded.student.final_proj if isinstance(loaded, ReadOut) else loaded.final_proj
    if teacher is not None:
        given = find_model(workspace, teacher, "cpu")
        projection = given.final_proj if isinstance(given, HubertTeacher) else None
        if projection is None:
            raise UserError(f"--teacher {teacher}: has no final_proj")
    return export_rvc(loaded, out, projection, hop_aligned, _time_models)


def export_task(workspace: Workspace, model: str, task: str, out: Path) -> ProbeRecord:
    """Write `model`, a student or a teacher as `find_model` names it, with its kept head of `task` to `out` as a graph.

    Returns what the export records. Raises UserError in one line if no head of these weights is kept, or `out` is not
    new or empty.
    """
    if not keeps_head(task):
        kept = ", ".join(name for name in LEARNERS if keeps_head(name))
        raise UserError(f"--task {task}: its head is no probe to take away; {kept} have one")
    loaded = find_model(workspace, model, "cpu")
    name = loaded.name if isinstance(loaded, ReadOut) else "teacher"
    folder = workspace.probe(name, task)
    if not (folder / PROBE_FILE).is_file():
        raise UserError(f"{folder}: no trained head; run `fithubert superb {name} {task}` first")
    record, head = read_head(folder)
    return export_probe(loaded, head, record, out)


def register(workspace: Workspace, student: str, name: str) -> str:
    """Add `student`, a folder or a name in the workspace, to MLflow's registry as `name`; return its version."""
    return register_student(tracked_student(find_student(workspace, student)), name, workspace.root)


def tracked_student(readout: ReadOut) -> TrackedStudent:
    """The student as tracking logs it to MLflow."""
    return TrackedStudent(readout.name, readout.fingerprint, partial(write_portable, readout))


def read_speech(workspace: Workspace) -> list[Tensor]:
    """Utterances of dev, evenly spread; of the whole corpus if it has no dev split."""
    manifest = workspace.load_manifest()
    utterances = manifest.select("dev").utterances or manifest.utterances
    chosen = utterances[:: -(-len(utterances) // _UTTERANCES)]
    return [manifest.read(utterance)[: round(_SECONDS * SAMPLE_RATE_HZ)] for utterance in chosen]


def describe_int8(record: Mapping[str, Any]) -> str:
    """How far the int8 graph is from float32 on speech, its time, which graph to use if it is no gain, exceptions."""
    whole, exact = record["int8"], record["float32"]
    error, time, plain = max(whole["relative_error"]), whole["latency_of_torch"], exact["latency_of_torch"]
    line = f"int8: {error:.1%} relative error on speech, {time:.0%} of torch's time; float32: {plain:.0%}"
    line = line if time < plain else f"{line}; int8 is no faster on this machine, so use model.onnx here"
    kept = whole.get("float32")
    return f"{line}\nint8: in float32 for the sake of the errors: {', '.join(kept)}" if kept else line


def describe_errors(done: CompressMetrics) -> str:
    """A table of the relative error of each teacher layer, in Markdown."""
    # A JSON file sorts them as text.
    lines = [f"| {layer} | {error:.1%} |" for layer, error in sorted(done.relative_error.items())]
    return "\n".join(["| teacher layer | relative error |", "| --- | --- |", *lines])


def describe_speakers(scores: SpeakerScores) -> str:
    """How well both models tell speakers apart, in one line."""
    return (
        f"speakers identified on {scores.recordings} held-out recordings of {scores.speakers}: teacher "
        f"{scores.teacher:.1f} %, student {scores.student:.1f} %"
    )


def _describe_training(workspace: Workspace, readout: ReadOut) -> str:
    """What is known about the training of these weights from the metrics of the workspace; else empty."""
    path, text = workspace.metrics(f"distill@{readout.name}"), ""
    trained = DistillMetrics.read(path) if path.is_file() else None
    if trained is not None and trained.fingerprint == readout.fingerprint:
        hours = f"{trained.audio_hours:.3g} h of audio"
        text = f"These weights come from update {trained.best_update:,} of {trained.updates:,}, which read {hours}.\n\n"
    path = workspace.metrics("compress")
    done = CompressMetrics.read(path) if path.is_file() else None
    if done is not None and done.fingerprint == readout.fingerprint:
        text += f"Errors of the predictions of the layers of {done.teacher} on held-out recordings (100 % is what a "
        text += f"constant gives):\n\n{describe_errors(done)}\n\n"
        text += f"{describe_speakers(done.speakers)}.\n\n" if done.speakers is not None else ""
    return text


def _read_scores(workspace: Workspace, fingerprint: str) -> list[dict[str, str]]:
    """The scores of the weights with this fingerprint in the workspace's summary, one row per metric."""
    path = workspace.reports / "summary.json"
    summary = load_summary(path) if path.is_file() else Summary(models={})
    model = next((found for found in summary.models.values() if found.fingerprint == fingerprint), None)
    rows: list[dict[str, str]] = []
    for task, scores in model.superb.items() if model is not None else ():
        info = task_info(task, tuple(scores))
        for metric in info.metrics:
            if metric.name in scores:
                ends = model.interval(task, metric.name) if model is not None else None
                interval = "" if ends is None else f"{ends[0]:.1f} to {ends[1]:.1f}"
                score = f"{scores[metric.name]:.1f} %"
                rows.append({"task": info.title, "metric": metric.label, "score": score, "95 % interval": interval})
    return rows


def _time_models(models: Mapping[str, SpeechModel]) -> dict[str, float]:
    """The latency of each model for ten seconds of audio, relative to the first; timed in turn."""
    taken = {name: times[_SECONDS] for name, times in time_in_turn(models, [_SECONDS], _ROUNDS).items()}
    first = next(iter(taken.values()))
    return {name: paired_ratio(times, first).median for name, times in taken.items()}
