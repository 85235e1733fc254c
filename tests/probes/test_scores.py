"""Probes on recordings have the very scores that stored features gave: with torch, and as a graph, alone and padded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fithubert import load_probe
from fithubert.config.params import Params
from fithubert.data.manifest import Manifest, Utterance
from fithubert.models.recipes import resolve
from fithubert.models.weights import save_student
from fithubert.probes import Label, Probe, Voice
from fithubert.stages.export import export_task
from fithubert.stages.extract import extract
from fithubert.stages.superb import superb
from fithubert.superb.metrics import Measure, Verification, accuracy, error_rate
from fithubert.workspace import Workspace
from tests.models.shapes import strong
from tests.tiny_params import BUDGET, STUDENT, TINY_PARAMS

TASKS = ("pr", "ks", "sid", "er", "ic", "asv")
SHAPE = {**STUDENT["shape"], "readout": "layers"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Manifest) -> Workspace:
    """A workspace with a student `thin` that is scored on all tasks with probes."""
    workspace = Workspace(tmp_path_factory.mktemp("scored"))
    (workspace.root / "data").mkdir()
    for folder in ("audio", "manifests"):
        (workspace.data / folder).symlink_to(tiny_corpus.root / folder)
    save_student(strong(resolve("fithubert", SHAPE)), workspace.student("thin"))
    budget = {**BUDGET, "steps": 30, "eval_every": 15, "head_width": 16}
    # Voices of a head that has hardly been trained are so alike that rounding orders them.
    tasks = {
        **dict.fromkeys(TASKS, budget),
        "asv": {**budget, "steps": 150, "eval_every": 75, "learning_rates": [0.005]},
    }
    settings = {**TINY_PARAMS["superb"], "tasks": tasks, "workers": 1}
    # float16 would round features, and that decides between trials of ASV that score alike.
    params = Params.model_validate({**TINY_PARAMS, "superb": settings, "extract": {"codec": "float32"}})
    extract(params, workspace, "thin")
    superb(params, workspace, "thin")
    return workspace


def measure(probe: Probe, manifest: Manifest, split: str) -> Measure:
    """The metric of the task of `probe` from its answers to the recordings of a split, without stored features."""
    task = probe.record.task
    kind = {"ks": "keyword", "ic": "command"}.get(task, "sentence")
    rows = manifest.select("verification" if (task, split) == ("asv", "test") else split, kind).utterances
    if task == "asv":
        rows = tuple(sorted(rows, key=lambda u: (u.num_samples, u.id)))
        voices = [probe(manifest.read(u)) for u in rows]
        first, second = np.triu_indices(len(rows), 1)
        vectors = torch.tensor([voice.embedding for voice in voices])  # type: ignore[union-attr]
        # Single precision, as superb has it.
        unit = torch.nn.functional.normalize(vectors, dim=1)
        scores = (unit @ unit.T).double().numpy()[first, second]
        cosines = [voices[i].score(voices[j]) for i, j in zip(first, second, strict=True)]  # type: ignore[union-attr]
        np.testing.assert_allclose(cosines, scores, atol=1e-6)
        speakers = np.unique([str(u.speaker) for u in rows], return_inverse=True)[1]
        targets = speakers[first] == speakers[second]
        return Verification(scores, targets, speakers[np.stack([first, second])])
    if task == "pr":
        answers = [probe(manifest.read(u)) for u in rows]
        found = [[symbol.label for symbol in answer.symbols] for answer in answers]  # type: ignore[union-attr]
        return error_rate([[phone.label for phone in u.phones or ()] for u in rows], found)
    labels: dict[str, Callable[[Utterance], tuple[Any, ...]]] = {
        "ks": lambda u: (u.keyword,),
        "sid": lambda u: (u.speaker,),
        "er": lambda u: (u.style,),
        "ic": lambda u: () if u.intent is None else (u.intent.action, u.intent.object, u.intent.location),
    }
    wanted = [(u, labels[task](u)) for u in rows]
    known = [(u, w) for u, w in wanted if all(x in slot for x, slot in zip(w, probe.record.labels, strict=True))]
    return accuracy(np.array([probe(manifest.read(u)).parts == w for u, w in known]))  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_recordings_score_as_stored_features_did(task: str, scored: Workspace) -> None:
    probe, manifest = load_probe(scored.probe("thin", task)), scored.load_manifest()
    reported = json.loads(scored.metrics("superb@thin").read_text())["tasks"][task]
    assert dict(probe.record.test) == reported["metrics"]
    assert dict(probe.record.dev) == reported["dev"]
    assert list(probe.record.layer_weights) == pytest.approx(reported["layer_weights"])
    assert measure(probe, manifest, "test").value == pytest.approx(next(iter(reported["metrics"].values())))
    if task != "ks":  # whose accuracy on dev counts classes
        assert measure(probe, manifest, "dev").value == pytest.approx(next(iter(reported["dev"].values())))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pr", "ic", "asv"])
def test_the_graph_scores_the_same_alone_and_padded(task: str, scored: Workspace, tmp_path: Path) -> None:
    import onnxruntime

    record = export_task(scored, "thin", task, tmp_path / "out")
    probe, manifest = load_probe(tmp_path / "out"), scored.load_manifest()
    assert probe.record == record
    assert measure(probe, manifest, "test").value == pytest.approx(next(iter(record.test.values())))

    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    speech = [manifest.read(u).numpy() for u in manifest.select("dev").utterances[:3]] + [np.ones(401, np.float32)]
    lengths = np.array([len(waveform) for waveform in speech])
    batch = np.full((4, lengths.max() + 999), 7.0, np.float32)  # padding that would be heard
    for row, waveform in zip(batch, speech, strict=True):
        row[: len(waveform)] = waveform
    together = session.run(None, {"waveforms": batch, "lengths": lengths})
    for row, waveform in enumerate(speech):
        alone = session.run(None, {"waveforms": waveform[None], "lengths": lengths[row : row + 1]})
        valid = slice(int(alone[1][0])) if task == "pr" else slice(None)
        np.testing.assert_allclose(together[0][row][valid], alone[0][0][valid], rtol=1e-3, atol=1e-3)
        torch_says = load_probe(scored.probe("thin", task))(waveform)
        graph_says = probe(waveform)
        if isinstance(torch_says, Voice) and isinstance(graph_says, Voice):
            assert torch_says.score(graph_says) == pytest.approx(1.0, abs=1e-4) or not any(torch_says.embedding)
        elif isinstance(torch_says, Label) and isinstance(graph_says, Label):
            assert graph_says.parts == torch_says.parts
            assert graph_says.probability == pytest.approx(torch_says.probability, abs=1e-4)
        else:
            assert graph_says == torch_says
