"""Every SUPERB task on a miniature of its corpus: prepared, features extracted, head trained, test split scored."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.config.data import (
    IemocapData,
    Libri2MixData,
    LibriSpeechData,
    PlainCorpus,
    PublishedCorpus,
    SyntheticData,
    VoxCelebData,
)
from fithubert.config.params import Params, load_params
from fithubert.config.superb import OfficialQuirks, SuperbParams, TaskBudget
from fithubert.data import END, UNKNOWN
from fithubert.data.manifest import load_manifest, manifest_path
from fithubert.data.prepare import import_corpus, read_corpus
from fithubert.stages.extract import extract
from fithubert.stages.prepare import prepare
from fithubert.stages.superb import describe_score, describe_scores, describe_task, superb
from fithubert.superb.learners.ctc import PR
from fithubert.superb.learners.pooled import IC
from fithubert.superb.official import list_corpus_departures
from fithubert.tasks import TASKS
from fithubert.workspace import Workspace
from tests.data.corpora import miniatures
from tests.superb.fakes import PHONES, label_features, make_corpus, noise_features

BUDGET = TaskBudget(steps=4, batch=4, eval_every=2, learning_rates=(1e-2,), head_width=8)


@dataclass(frozen=True)
class Case:
    """How a task's corpus is written and described; the metrics that come out, on how many items of test."""

    write: Callable[[Path], Path]
    describe: Callable[[Path], PublishedCorpus]
    metrics: set[str]
    num_test: int


def plain(source: str) -> Callable[[Path], PublishedCorpus]:
    return lambda path: PlainCorpus.model_validate({"source": source, "path": path})


CASES = {
    "pr": Case(miniatures.write_librispeech, lambda path: LibriSpeechData(path=path), {"per"}, 8),
    "asr": Case(miniatures.write_librispeech, lambda path: LibriSpeechData(path=path), {"wer"}, 8),
    "ks": Case(miniatures.write_speech_commands, plain("speech_commands"), {"acc"}, 24),
    "sid": Case(miniatures.write_voxceleb1, lambda path: VoxCelebData(path=path, task="sid"), {"acc"}, 12),
    # The pairs of the trial list, not all pairs.
    "asv": Case(miniatures.write_voxceleb1, lambda path: VoxCelebData(path=path, task="asv"), {"eer"}, 4),
    "ic": Case(miniatures.write_fluent_speech_commands, plain("fluent_speech_commands"), {"acc"}, 8),
    # Two English queries in five English documents.
    "qbe": Case(miniatures.write_quesst14, plain("quesst14"), {"mtwv"}, 10),
    "sd": Case(miniatures.write_libri2mix, lambda path: Libri2MixData(path=path), {"der"}, 4),
    "er": Case(miniatures.write_iemocap, lambda path: IemocapData(path=path, lists=path / "meta_data"), {"acc"}, 10),
    "sf": Case(miniatures.write_snips, plain("snips"), {"f1", "cer"}, 6),
}


def test_every_task_has_its_corpus() -> None:
    assert set(CASES) == set(TASKS)


def score_miniature(task: str, case: Case, folder: Path, data: dict[str, object], **settings: Any) -> Any:
    """The task on filter banks of its miniature corpus, prepared with `data`, by `settings` of superb."""
    budget = TaskBudget(steps=0) if task == "qbe" else BUDGET
    params = Params(
        data=case.describe(case.write(folder / "corpora")).model_copy(update=data),
        students={},
        superb=SuperbParams(models=("fbank",), tasks={task: budget}, **settings),
    )
    workspace = Workspace(folder / "work")
    prepare(params, workspace)
    extract(params, workspace, "fbank")
    return superb(params, workspace, "fbank", task).tasks[task]


@pytest.mark.parametrize("task", CASES)
def test_the_task_runs_on_the_layout_of_its_corpus(task: str, tmp_path: Path) -> None:
    case = CASES[task]
    scored = score_miniature(task, case, tmp_path, {})
    assert set(scored.metrics) == case.metrics, scored.reason
    assert all(0 <= value < 1000 for value in scored.metrics.values())
    assert scored.num_test == case.num_test


@pytest.mark.parametrize("task", CASES)
def test_hidden_files_of_other_systems_are_not_recordings(task: str, tmp_path: Path) -> None:
    case = CASES[task]
    root = case.write(tmp_path / "corpora")
    plain = read_corpus(case.describe(root)).manifest.fingerprint
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07 AppleDouble")
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        (folder / ".git").mkdir()
    assert read_corpus(case.describe(root)).manifest.fingerprint == plain


def test_intents_have_the_official_24_outputs(tmp_path: Path) -> None:
    """6 actions, 14 objects and 4 locations side by side, each slot numbered for itself."""
    root = miniatures.write_fluent_speech_commands(tmp_path, miniatures.ALL_INTENTS)
    manifest = read_corpus(CASES["ic"].describe(root)).manifest
    learner = IC.bind(noise_features(manifest), manifest, BUDGET)
    assert learner.num_outputs == learner.new_head().output.out_features == 24  # type: ignore[union-attr]
    assert learner.slot_sizes == (6, 14, 4)
    assert learner.examples["train"].labels.amax(0).tolist() == [5, 13, 3]
    assert (learner.num_train, learner.num_dev, learner.num_test) == (28, 28, 28)


def test_the_end_symbol_ends_targets_and_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = replace(make_corpus(), inventories={"phones": (*PHONES, END, UNKNOWN)})
    learner = PR.bind(label_features(corpus), corpus, BUDGET)
    test = learner.examples["test"]
    end = 1 + corpus.inventories["phones"].index(END)
    assert all(int(row[n - 1]) == end for row, n in zip(test.targets, test.target_lengths, strict=True))
    # Outputs of every target, blanks between them, and the end symbol.
    outputs = torch.zeros(1, int(test.bank.offsets[-1]), 1 + len(PHONES) + 2)
    for row, count, first in zip(test.targets, test.target_lengths, test.bank.offsets[:-1], strict=True):
        outputs[0, int(first) + 2 * torch.arange(int(count)), row[: int(count)]] = 1.0
    monkeypatch.setattr(learner, "logits", lambda heads, features, lengths: outputs)
    assert learner.evaluate([torch.nn.Identity()], "test")[0]["per"].value == 0


#: Task -> how its corpus is prepared, and the departures of the result besides the budget.
OFFICIAL: dict[str, tuple[dict[str, object], set[str]]] = {
    "pr": ({}, set()),
    "asr": ({}, set()),
    "ks": ({"gain_db": -3.0}, set()),
    "sid": ({"crops": 2}, {"6 outputs instead of 1251"}),
    "asv": ({"gain_db": -3.0, "trim_silence": True, "crops": 2}, {"4 outputs instead of 1211"}),
    "ic": ({}, {"8 outputs instead of 24"}),
    "qbe": ({"gain_db": -3.0}, set()),
    "sd": ({}, set()),
    "er": ({}, set()),
    "sf": ({}, {"43 outputs instead of 109"}),
}


@pytest.mark.parametrize("task", CASES)
def test_the_official_protocol_runs_on_the_layout_of_its_corpus(task: str, tmp_path: Path) -> None:
    """The outputs of heads are the official ones where a miniature has the label space whole, or defines it."""
    case, (data, departures) = CASES[task], OFFICIAL[task]
    if task == "asv":  # It trains on recordings of more than 2 s.
        case = replace(case, write=partial(miniatures.write_voxceleb1, seconds=2.2))
    scored = score_miniature(task, case, tmp_path, data, protocol="official")
    assert scored.protocol == "official", scored.reason
    selected_on_test = {f"{m}_test_selected" for m in case.metrics & {"eer", "der"}}
    assert set(scored.metrics) == case.metrics | selected_on_test
    assert ("selected on test" in describe_scores(scored)) == bool(selected_on_test)
    settings_named = ("steps ", "batch ", "accumulate ", "eval_every ", "head_width ")
    assert {d for d in scored.departures if not d.startswith(settings_named)} == departures


def test_a_corpus_that_is_not_the_leaderboards_is_a_departure(tmp_path: Path) -> None:
    on, off = OfficialQuirks(), OfficialQuirks(er_split_order=False)
    assert list_corpus_departures("pr", SyntheticData(), on) == ("corpus synthetic instead of librispeech",)
    assert list_corpus_departures("pr", LibriSpeechData(path=tmp_path), on) == ()
    more = LibriSpeechData(path=tmp_path, train=("train-clean-100", "train-clean-360"), test=("test-other",))
    assert list_corpus_departures("asr", more, on) == ("train train-clean-100+train-clean-360", "test test-other")
    unordered = IemocapData(path=tmp_path)
    assert list_corpus_departures("er", unordered, on) == (
        "dev is not drawn in the order of s3prl's lists (data.lists)",
    )
    assert list_corpus_departures("er", unordered, off) == ()
    assert list_corpus_departures("er", IemocapData(path=tmp_path, lists=tmp_path), on) == ()


def test_the_gain_makes_recordings_quieter(tmp_path: Path) -> None:
    path = miniatures.write_speech_commands(tmp_path / "corpora")
    plain, quiet = (
        import_corpus(PlainCorpus(source="speech_commands", path=path, gain_db=gain), tmp_path / f"work{gain}").manifest
        for gain in (0.0, -3.0)
    )
    reloaded = load_manifest(manifest_path(tmp_path / "work-3.0"))
    assert reloaded.utterances == quiet.utterances
    assert plain.fingerprint != quiet.fingerprint
    for loud, soft in zip(plain.utterances[:5], reloaded.utterances[:5], strict=True):
        torch.testing.assert_close(reloaded.read(soft), plain.read(loud) * 0.7079457844)


def test_several_seeds_and_their_deviation_reach_the_metrics(tmp_path: Path) -> None:
    root = miniatures.write_fluent_speech_commands(tmp_path / "corpora")
    changes = [
        *describe_task("ic", root, official=False, seeds=3),
        "superb.models=[fbank]",
        "students={}",
        "ablation={}",
    ]
    small = f"superb.tasks.ic={json.dumps(BUDGET.model_dump(mode='json'))}"
    params = load_params(Path(__file__).parents[2] / "params.yaml", [*changes, small])
    workspace = Workspace(tmp_path / "work")
    prepare(params, workspace)
    extract(params, workspace, "fbank")
    scored = superb(params, workspace, "fbank", "ic").tasks["ic"]
    assert scored.seeds == (1, 2, 3)
    assert len(scored.selected_steps) == 3
    low, high = scored.intervals["acc"]
    line = describe_score(scored, "acc")
    value, deviation = scored.metrics["acc"], scored.seed_deviation["acc"]
    assert line == f"Acc {value:.2f} [{low:.2f}, {high:.2f}, {deviation:.2f} over seeds]"
    official = describe_task("ic", None, official=True)
    assert "superb.seeds=[1337]" in official
    assert describe_task("ic", None, official=True, seeds=2)[-1] == "superb.seeds=[1, 2]"
