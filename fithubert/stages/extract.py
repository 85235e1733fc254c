"""A model's hidden states for SUPERB, extracted once for all tasks."""

import time
from dataclasses import replace

from fithubert.config.params import REFERENCES, Params
from fithubert.devices import choose_device
from fithubert.importers import load_teacher
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import SHIPPED_STUDENT, load_student
from fithubert.records import ExtractMetrics
from fithubert.stages.teacher import load_prepared
from fithubert.store import Commands
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace, check_name


def load_model(params: Params, workspace: Workspace, name: str) -> SpeechModel:
    """`fbank`, `teacher`, or the read-out of a finished student; `fithubert`, if there is none here, is the package's.

    Raises UserError with the names for any other.
    """
    known = dict.fromkeys((*REFERENCES, *params.students, *workspace.list_students()))
    if name == SHIPPED_STUDENT and name not in known:
        return ReadOut(load_student(name), name).to(choose_device(params.teacher.device))
    check_name(name, list(known), "model")
    if name == "fbank":
        return load_teacher("fbank")
    if name == "teacher":
        return load_prepared(params, workspace)
    return ReadOut(load_student(workspace.finished_student(name)), name).to(choose_device(params.teacher.device))


def extract(params: Params, workspace: Workspace, model: str) -> ExtractMetrics:
    """Write all hidden states of `model` for the whole corpus to data/extract/{model}; the metrics."""
    begun = time.monotonic()
    loaded = load_model(params, workspace, model)
    command = f"fithubert superb {model}"
    settings = ExtractSettings(
        layers="all", with_waveform=False, commands=Commands(command, command), **params.extract.model_dump()
    )
    report = extract_features(
        loaded, workspace.load_manifest(), workspace.extracted(model), settings, progress_line(f"extract {model}")
    )
    stored = replace(report.metrics, fingerprint=loaded.fingerprint)
    readout = loaded.student.config.readout if isinstance(loaded, ReadOut) else None
    metrics = ExtractMetrics(**vars(stored), seconds=time.monotonic() - begun, readout=readout)
    metrics.write(workspace.metrics(f"extract@{model}"))
    return metrics
