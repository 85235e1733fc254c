"""Every SUPERB task on a miniature of its corpus: prepared, features extracted, head trained, test split scored."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fithubert.config.corpora import (
    IemocapData,
    Libri2MixData,
    LibriSpeechData,
    PlainCorpus,
    PublishedCorpus,
    VoxCelebData,
)
from fithubert.config.params import Params, SuperbParams, TaskBudget
from fithubert.stages.features import features
from fithubert.stages.prepare import prepare
from fithubert.stages.superb import superb
from fithubert.stages.workspace import Workspace
from fithubert.superb import run
from tests.data.corpora import miniatures

BUDGET = TaskBudget(steps=4, batch=4, eval_every=2, learning_rates=(1e-2,), head_width=8)
#: Task -> how its corpus is written, what `data` says of it, and the metrics that come out.
TASKS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], PublishedCorpus], set[str]]] = {
    "pr": (miniatures.write_librispeech, lambda path: LibriSpeechData(path=path), {"per"}),
    "asr": (miniatures.write_librispeech, lambda path: LibriSpeechData(path=path), {"wer"}),
    "ks": (miniatures.write_speech_commands, lambda path: PlainCorpus(source="speech_commands", path=path), {"acc"}),
    "sid": (miniatures.write_voxceleb1, lambda path: VoxCelebData(path=path, task="sid"), {"acc"}),
    "asv": (miniatures.write_voxceleb1, lambda path: VoxCelebData(path=path, task="asv"), {"eer"}),
    "ic": (
        miniatures.write_fluent_speech_commands,
        lambda path: PlainCorpus(source="fluent_speech_commands", path=path),
        {"acc"},
    ),
    "qbe": (miniatures.write_quesst14, lambda path: PlainCorpus(source="quesst14", path=path), {"mtwv"}),
    "sd": (miniatures.write_libri2mix, lambda path: Libri2MixData(path=path), {"der"}),
    "er": (miniatures.write_iemocap, lambda path: IemocapData(path=path, lists=path / "meta_data"), {"acc"}),
    "sf": (miniatures.write_snips, lambda path: PlainCorpus(source="snips", path=path), {"f1", "cer"}),
}


def test_every_task_has_its_corpus() -> None:
    assert set(TASKS) == set(run.TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_the_task_runs_on_the_layout_of_its_corpus(task: str, tmp_path: Path) -> None:
    write, describe, metrics = TASKS[task]
    params = Params(
        data=describe(write(tmp_path / "corpora")),
        students={},
        superb=SuperbParams(models=("fbank",), tasks={task: BUDGET}),
    )
    workspace = Workspace(tmp_path / "work")
    prepare(params, workspace)
    features(params, workspace, "fbank")
    scored = superb(params, workspace, "fbank", task)
    assert set(scored["metrics"]) == metrics, scored.get("reason")
    assert all(0 <= value < 1000 for value in scored["metrics"].values())
