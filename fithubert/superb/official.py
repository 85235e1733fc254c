"""The official protocol: s3prl's settings and habits as declarations over the same heads and loops as `mini`.

Features are stored (with the error of their codec), so what s3prl cuts again at every access is cut once. SID and ASV:
windows of 8 s of each longer recording are stored by seed, and an epoch reads one of them; without them the task is
refused. KS: silence is every whole second of the noises, drawn as often as any other class.
Differs: SD's error rate is counted by frames (s3prl: dscore), ASV's dev split is drawn from the training speakers
(s3prl has none), QbE's false alarms are those of the documents in English.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar

from fithubert.config.data import DataParams, IemocapData, LibriSpeechData, RealData
from fithubert.config.superb import OfficialQuirks, TaskBudget, official_budgets
from fithubert.data.corpora.speaker import ASV_MIN_SAMPLES, CROP_SAMPLES
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.records import SuperbMetrics
from fithubert.superb.bank import list_buckets, list_clamped_starts, list_disjoint, list_halved_buckets
from fithubert.superb.learners import Learner, MissingLabels
from fithubert.superb.learners.search import QueryLearner
from fithubert.superb.learners.verification import ADAMW
from fithubert.tasks import FRAME_ACCURACY, TASKS, Metric

AnyLearner = TypeVar("AnyLearner", bound=Learner[Any] | QueryLearner)
SOX_GAIN_DB = -3.0
#: Stored crops of a long recording, of which an epoch reads one.
_CROPS = 8
#: Fields that the official protocol fixes; the learning rate is free, as on the leaderboard.
_FIXED = ("steps", "batch", "accumulate", "eval_every", "head_width", "stack_frames", "layer_norm")
#: A result of emotion recognition is one of these folds; the leaderboard has their mean.
_FOLDS = tuple(f"iemocap/{fold}" for fold in range(1, 6))


def official_learner(learner: AnyLearner, quirks: OfficialQuirks) -> AnyLearner:
    """The learner of a task as s3prl runs it, except for the quirks that are off.

    Raises UserError for a task that is not one of SUPERB's.
    """
    if learner.name not in TASKS:
        raise UserError(f"superb task {learner.name!r}: not one of SUPERB's, so it has no official protocol")
    sequences = {
        "windows": list_clamped_starts if quirks.overlapping_batches else list_disjoint,
        "half_long": quirks.half_long_batches,
        "rounded_frames": quirks.rounded_frames,
    }
    fields: dict[str, dict[str, Any]] = {
        "pr": {**sequences, "fold": str if quirks.pr_stress else drop_stress},
        "asr": {
            "windows": list_halved_buckets if quirks.asr_half_batches else list_buckets,
            "by_audio": True,
            "spec_augment": quirks.spec_augment,
            "rounded_frames": quirks.rounded_frames,
        },
        "ks": {
            "sampling": "balanced" if quirks.ks_balanced_train else "shuffled",
            "dev": "resampled" if quirks.ks_resampled_dev else "plain",
        },
        "sid": {"crops": True, "keep_last": True},
        "asv": {
            "training": replace(ADAMW, test_selection=quirks.asv_test_selection),
            "pooled_width": 1500,
            "extra_frames": int(quirks.asv_extra_frame),
            "min_train_samples": ASV_MIN_SAMPLES if quirks.asv_crops else 0,
            "crops": True,
            "keep_last": True,
        },
        "sd": {
            "selection": FRAME_ACCURACY if quirks.sd_frame_accuracy else TASKS["sd"].metrics[0],
            "both_ways": not quirks.sd_unidirectional,
            "accuracy_by_chunk": True,
            "silent_full_chunks": quirks.sd_silent_full_chunks,
            "test_postprocessing": quirks.sd_test_postprocessing,
            "keep_last": True,
        },
        "er": {"keep_last": True},
        "ic": {"keep_last": True},
        "sf": {**sequences, "spec_augment": quirks.spec_augment},
    }
    changed: AnyLearner = replace(learner, **fields.get(learner.name, {}))  # type: ignore[type-var]
    return changed


def check_supported(task: str, manifest: Manifest, quirks: OfficialQuirks) -> None:
    """Raise MissingLabels in one line if these stored features do not allow the official protocol."""
    if task == "asv" and quirks.asv_silence_trim and not all(u.trimmed for u in manifest):
        raise MissingLabels(
            "the official asv reads recordings without their silences; prepare with data.trim_silence=true, or "
            "set superb.quirks.asv_silence_trim=false to read all of them"
        )
    louder = [u for u in manifest if u.gain_db != SOX_GAIN_DB]
    if "sox_gain" in TASKS[task].quirks and quirks.sox_gain and louder:
        raise MissingLabels(
            f"the official {task} reads recordings with sox's gain of {SOX_GAIN_DB:g} dB; prepare with "
            f"data.gain_db={SOX_GAIN_DB:g}, or set superb.quirks.sox_gain=false"
        )
    if (task == "sid" and quirks.sid_crops) or (task == "asv" and quirks.asv_crops):
        whole = [u for u in manifest.select("train", "sentence") if u.num_samples > CROP_SAMPLES]
        if whole:
            raise MissingLabels(
                f"the official {task} trains on 8 s of longer recordings and {len(whole)} are whole, first "
                f"{whole[0].id}; data.crops=8 stores eight crops of each, superb.quirks.{task}_crops=false takes all"
            )


def list_departures(task: str, budget: TaskBudget, quirks: OfficialQuirks, outputs: int | None) -> tuple[str, ...]:
    """How a result differs from the leaderboard's: settings, quirks that are off, the size of the label space."""
    official = official_budgets()[task]
    given = {name: (getattr(budget, name), getattr(official, name)) for name in _FIXED if official.steps}
    departures = [f"{name} {ours} instead of {theirs}" for name, (ours, theirs) in given.items() if ours != theirs]
    departures += [f"{name} is off" for name in TASKS[task].quirks if not getattr(quirks, name)]
    if outputs is not None and outputs != TASKS[task].outputs:
        departures.append(f"{outputs} outputs instead of {TASKS[task].outputs}")
    return tuple(departures)


def list_corpus_departures(task: str, data: DataParams, quirks: OfficialQuirks) -> tuple[str, ...]:
    """How the corpus differs from the one that the leaderboard scores `task` on."""
    if data.source != TASKS[task].corpus:
        return (f"corpus {data.source} instead of {TASKS[task].corpus}",)
    departures = []
    if isinstance(data, LibriSpeechData):
        given = {"train": data.train, "dev": data.dev, "test": data.test}
        official = {"train": ("train-clean-100",), "dev": ("dev-clean",), "test": ("test-clean",)}
        departures += [f"{split} {'+'.join(given[split])}" for split in official if given[split] != official[split]]
    if isinstance(data, IemocapData) and data.lists is None and quirks.er_split_order:
        departures.append("dev is not drawn in the order of s3prl's lists (data.lists)")
    return tuple(departures)


def describe_corpus(data: DataParams) -> str:
    """The source, and the fold of a corpus that has five, which are averaged."""
    return f"{data.source}/{data.fold}" if isinstance(data, IemocapData | RealData) else data.source


def corpus_settings(task: str, path: str, official: bool) -> dict[str, str | float | bool]:
    """The section `data` for the corpus of `task` in `path`, with the official preparation if `official`."""
    source = str(TASKS[task].corpus)
    settings: dict[str, str | float | bool] = {"source": source, "path": path}
    if source == "voxceleb1":
        settings |= {"task": task, "crops": _CROPS if official else 0}
        settings |= {"trim_silence": True} if official and task == "asv" else {}
    if official and "sox_gain" in TASKS[task].quirks:
        settings["gain_db"] = SOX_GAIN_DB
    return settings


def drop_stress(phone: str) -> str:
    """The phone without the digit of its stress."""
    return phone.rstrip("012")


#: Task -> metric -> value in percent.
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class OfficialScore:
    """`metrics`: task -> metric -> percent, those of the leaderboard. `superb_s` and `overall` over all ten tasks."""

    metrics: dict[str, dict[str, float]]
    superb_s: float
    overall: float


def superb_s(scores: Scores) -> float:
    """The leaderboard's score of one model over the ten tasks of the paper, from values in percent.

    Each metric maps fbank to 0 and the reference state of the art to 1000, unclamped; metrics are averaged inside a
    task (SF has two), then tasks. Only meaningful for the official protocol on the real corpora. Raises ValueError
    if a metric is missing: the leaderboard leaves the score undefined.
    """
    shares = [
        [1000.0 * (value - metric.fbank) / (metric.best - metric.fbank) for metric, value in of_task]
        for of_task in _find_values(scores)
    ]
    return fmean(fmean(of_task) for of_task in shares)


def overall_score(scores: Scores) -> float:
    """The mean of the eleven metrics with errors as 100 - x: `Overall` in the ARMHuBERT and STaRHuBERT papers."""
    values = [pair for of_task in _find_values(scores) for pair in of_task]
    return fmean(100.0 - value if metric.lower else value for metric, value in values)


def _find_values(scores: Scores) -> list[list[tuple[Metric, float]]]:
    """The metrics of each task with their values. Raises ValueError that names every missing one."""
    wanted = [(task.name, metric.name) for task in TASKS.values() for metric in task.metrics]
    missing = [f"{task} {metric}" for task, metric in wanted if metric not in scores.get(task, {})]
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}")
    return [[(metric, scores[task.name][metric.name]) for metric in task.metrics] for task in TASKS.values()]


def score_official(results: Sequence[SuperbMetrics]) -> OfficialScore:
    """The scores of one model from its results, one per task, and for ER one per fold.

    ASV and SD count as on the leaderboard, selected on test. Raises UserError naming everything that is in the way: a
    task that is missing or scored twice, another model, the mini protocol, a departure from the official one.
    """
    models = sorted({result.model for result in results})
    if len(models) != 1:
        given = f"results are of {', '.join(models)}" if models else "folders hold no results of it"
        raise UserError(f"superb_s is a score of one model, and these {given}")
    found: dict[str, list[SuperbMetrics]] = defaultdict(list)
    for result in results:
        if result.metrics:
            found[result.task].append(result)
    obstacles = [problem for task in TASKS for problem in _find_obstacles(task, found[task])]
    if obstacles:
        raise UserError(f"{models[0]} has no superb_s: {'; '.join(obstacles)}")
    scores = {
        name: {
            m.name: fmean(r.metrics.get(f"{m.name}_test_selected", r.metrics[m.name]) for r in found[name])
            for m in task.metrics
        }
        for name, task in TASKS.items()
    }
    return OfficialScore(scores, superb_s(scores), overall_score(scores))


def _find_obstacles(task: str, results: Sequence[SuperbMetrics]) -> list[str]:
    if not results:
        return [f"{task} is not scored"]
    expected = _FOLDS if task == "er" else (str(TASKS[task].corpus),)
    corpora = sorted(result.corpus for result in results)
    obstacles = []
    if any(result.protocol != "official" for result in results):
        obstacles.append(f"{task} is scored by the mini protocol")
    elif corpora != sorted(expected):
        obstacles.append(f"{task} is scored on {', '.join(corpora)} and not once on {', '.join(expected)}")
    departures = list(dict.fromkeys(d for result in results for d in result.departures))
    if departures:
        obstacles.append(f"{task} departs from the protocol ({', '.join(departures)})")
    return obstacles
