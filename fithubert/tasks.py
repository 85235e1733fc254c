"""The ten SUPERB tasks as data: titles, metrics, corpora, quirks, budgets and published reference points."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fithubert.errors import UserError

#: Fields of a training budget (`config.superb.TaskBudget`) that differ from its defaults.
Budget = Mapping[str, int | bool | tuple[float, ...]]


@dataclass(frozen=True)
class Metric:
    """One figure of merit, in percent. `lower`: a smaller value is better.

    `fbank`, `best`: the leaderboard's reference points for filter banks and for the best system, which `superb_s` maps
    to 0 and 1000. Source: superbbenchmark/website-react, the code. Differs: MTWV is in percent, as every other metric.
    """

    name: str
    label: str
    lower: bool
    fbank: float = 0.0
    best: float = 0.0

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether `value` is strictly better than another; any value is better than None."""
        return than is None or (value < than if self.lower else value > than)


@dataclass(frozen=True)
class Task:
    """A task. `metrics`: those that are reported, the main one first. `selects`: another one that selects on dev.

    `corpus`: the leaderboard's corpus, as `data.source` names it; None for a task that is not one of SUPERB's.
    `outputs`: the size of the head's output on that corpus; None for a task without a head. `quirks`: the switches of
    `superb.quirks` that apply. `mini`, `official`: the training budgets of both protocols.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    selects: Metric | None = None
    corpus: str | None = None
    outputs: int | None = None
    quirks: tuple[str, ...] = ()
    mini: Budget = field(default_factory=dict)
    official: Budget = field(default_factory=dict)

    @property
    def selection(self) -> Metric:
        """The metric that selects learning rates, steps and layers on dev."""
        return self.selects or self.metrics[0]


#: Of a task with one label per utterance.
ACCURACY = Metric("acc", "Acc", lower=False)
#: Selects SD's checkpoint on dev; it is not reported.
FRAME_ACCURACY = Metric("frame_acc", "frame accuracy", lower=False)

_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
_MINI_POOLED: Budget = {"steps": 1500, "batch": 32, "eval_every": 100}
#: Two frames as one and layer norms: without them the recurrent heads output only blanks for hundreds of steps.
#: The rates among which small recurrent heads choose on dev.
_SEARCHED = (1e-3, 3e-3, 1e-2)
_MINI_RECURRENT: Budget = {"learning_rates": _SEARCHED, "head_width": 64, "stack_frames": 2, "layer_norm": True}
#: s3prl's settings with its default learning rates, here and in every `official`.
_POOLED: Budget = {"steps": 200_000, "batch": 32, "eval_every": 5_000, "learning_rates": (1e-4,)}
_RECURRENT: Budget = {
    "steps": 200_000,
    "batch": 32,
    "eval_every": 2_000,
    "learning_rates": (1e-4,),
    "head_width": 1024,
}

_PR = Task(
    "pr",
    "Phoneme recognition",
    (Metric("per", "PER", lower=True, fbank=82.01, best=3.53),),
    corpus="librispeech",
    outputs=74,
    quirks=("pr_stress", "overlapping_batches", "half_long_batches", "rounded_frames"),
    mini={"steps": 800, "batch": 16, "search_steps": 200, "learning_rates": (1e-3, 3e-3, 1e-2)},
    official={"steps": 100_000, "batch": 16, "accumulate": 2, "eval_every": 1_000, "learning_rates": (1e-2,)},
)
_ASR = Task(
    "asr",
    "Speech recognition",
    (Metric("wer", "WER", lower=True, fbank=23.18, best=3.62),),
    corpus="librispeech",
    outputs=32,
    quirks=("asr_half_batches", "spec_augment", "rounded_frames"),
    mini={"steps": 500, "batch": 16, "search_steps": 100, **_MINI_RECURRENT},
    official=_RECURRENT,
)
_KS = Task(
    "ks",
    "Keyword spotting",
    (Metric("acc", "Acc", lower=False, fbank=41.3826674, best=96.66),),
    corpus="speech_commands",
    outputs=12,
    quirks=("sox_gain", "ks_balanced_train", "ks_resampled_dev"),
    mini={**_MINI_POOLED, "learning_rates": _RATES},
    official=_POOLED,
)
_QBE = Task(
    "qbe",
    "Query by example",
    (Metric("mtwv", "MTWV", lower=False, fbank=0.58, best=7.36),),
    corpus="quesst14",
    quirks=("sox_gain",),
    mini={"steps": 0},
    official={"steps": 0},
)
_SID = Task(
    "sid",
    "Speaker identification",
    (Metric("acc", "Acc", lower=False, fbank=20.058174, best=90.3),),
    corpus="voxceleb1",
    outputs=1251,
    quirks=("sid_crops",),
    mini={**_MINI_POOLED, "learning_rates": (1e-3, 3e-3, 1e-2, 3e-2)},
    official={**_POOLED, "batch": 8, "accumulate": 4},
)
_ASV = Task(
    "asv",
    "Speaker verification",
    (Metric("eer", "EER", lower=True, fbank=9.56, best=5.11),),
    corpus="voxceleb1",
    # The speakers of VoxCeleb1's dev part.
    outputs=1211,
    quirks=("sox_gain", "asv_crops", "asv_silence_trim", "asv_extra_frame", "asv_test_selection"),
    mini={
        "steps": 200,
        "batch": 16,
        "eval_every": 50,
        "search_steps": 50,
        "learning_rates": (3e-4, 1e-3, 3e-3),
        "head_width": 64,
    },
    official={**_POOLED, "batch": 10, "accumulate": 5, "eval_every": 20_000, "head_width": 512},
)
_SD = Task(
    "sd",
    "Speaker diarisation",
    (Metric("der", "DER", lower=True, fbank=10.05, best=5.62),),
    selects=FRAME_ACCURACY,
    corpus="libri2mix",
    outputs=2,
    quirks=("sd_unidirectional", "sd_frame_accuracy", "sd_silent_full_chunks", "sd_test_postprocessing"),
    mini={
        "steps": 100,
        "batch": 4,
        "eval_every": 20,
        "search_steps": 20,
        "learning_rates": _SEARCHED,
        "head_width": 64,
    },
    official={**_POOLED, "steps": 30_000, "batch": 8, "accumulate": 4, "eval_every": 500, "head_width": 512},
)
_ER = Task(
    "er",
    "Emotion (prosody style)",
    (Metric("acc", "Acc", lower=False, fbank=48.23672168, best=67.62),),
    corpus="iemocap",
    outputs=4,
    quirks=("er_split_order",),
    mini={**_MINI_POOLED, "learning_rates": _RATES},
    official={"steps": 30_000, "batch": 4, "accumulate": 8, "eval_every": 1_000, "learning_rates": (1e-4,)},
)
_IC = Task(
    "ic",
    "Intent classification",
    (Metric("acc", "Acc", lower=False, fbank=9.649354219, best=98.76),),
    corpus="fluent_speech_commands",
    outputs=24,
    mini={**_MINI_POOLED, "learning_rates": _RATES},
    official=_POOLED,
)
_SF = Task(
    "sf",
    "Slot filling",
    (
        Metric("f1", "F1", lower=False, fbank=69.64, best=89.81),
        Metric("cer", "CER", lower=True, fbank=52.94, best=21.76),
    ),
    corpus="snips",
    outputs=109,
    quirks=("overlapping_batches", "half_long_batches", "spec_augment", "rounded_frames"),
    mini={"steps": 300, "batch": 32, "eval_every": 50, "search_steps": 50, **_MINI_RECURRENT},
    official=_RECURRENT,
)
TASKS = {task.name: task for task in (_PR, _ASR, _KS, _QBE, _SID, _ASV, _SD, _ER, _IC, _SF)}


def task_info(name: str, metrics: Sequence[str] = ()) -> Task:
    """The entry of `name` in `TASKS`, or, for any other task, one made of the names of its measured `metrics`."""
    return TASKS.get(name) or Task(name, name.upper(), tuple(find_metric(name, metric) for metric in metrics))


def find_metric(task: str, name: str) -> Metric:
    """A metric of `task` by name; a task that is not in `TASKS` may use the name of any metric of those that are.

    Raises UserError for another name: its label and direction are unknown.
    """
    for metric in _list_metrics(TASKS[task]) if task in TASKS else _list_metrics(*TASKS.values()):
        if metric.name == name:
            return metric if task in TASKS else Metric(name, metric.label, metric.lower)
    raise UserError(f"task {task!r}: unknown metric {name!r}; an entry of TASKS in fithubert/tasks.py describes it")


def metric_key(task: str, metric: str) -> str:
    """The name of a score outside of its task: the metric's if it is the only one of a single task, else `ks_acc`."""
    counts = Counter(found.name for known in TASKS.values() for found in known.metrics)
    alone = task in TASKS and len(TASKS[task].metrics) == 1
    return metric if alone and counts[metric] == 1 else f"{task.lower()}_{metric}"


def _list_metrics(*tasks: Task) -> list[Metric]:
    return [metric for task in tasks for metric in (*task.metrics, task.selection)]
