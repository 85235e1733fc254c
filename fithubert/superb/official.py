"""The official protocol: s3prl's settings and habits as declarations over the same heads and loops as `mini`.

Features are stored (with the error of their codec), so what s3prl cuts anew at every access is cut once. SID and ASV:
windows of 8 s of each longer recording are stored by seed, of which an epoch hears one; without them the task is
refused. KS: silence is every whole second of the noises, drawn as often as any other class. Differs in scoring: SD's
error rate is counted by frames (s3prl: dscore), ASV's dev split is drawn from the training speakers (s3prl has none),
QbE's false alarms are those of the documents in English.
"""

from dataclasses import replace

from fithubert.config.superb import OfficialQuirks, TaskBudget, official_budgets
from fithubert.data.corpora.voxceleb1 import ASV_MIN_SAMPLES, CROP_SAMPLES
from fithubert.data.manifest import Manifest
from fithubert.superb.learners.ctc import CtcTask
from fithubert.superb.learners.diarisation import SD
from fithubert.superb.learners.pooled import ER, IC, KS, SID, PooledTask
from fithubert.superb.learners.recognition import ASR, PR, SF
from fithubert.superb.learners.verification import ASV
from fithubert.superb.protocol import MissingLabels, Task
from fithubert.superb.sampling import (
    ListWindows,
    drop_half_of_long,
    list_buckets,
    list_clamped_starts,
    list_disjoint,
    list_halved_buckets,
)
from fithubert.tasks import TASKS

SOX_GAIN_DB = -3.0
#: What a budget has no say in under the official protocol; the learning rate is free, as on the leaderboard.
_FIXED = ("steps", "batch", "accumulate", "eval_every", "head_width", "stack_frames", "layer_norm")


def official_tasks(quirks: OfficialQuirks) -> tuple[Task, ...]:
    """The trained tasks as s3prl runs them, but for the quirks that are off."""
    return (
        replace(_pr(quirks), windows=_neighbours(quirks)),
        replace(
            ASR,
            windows=list_halved_buckets if quirks.asr_half_batches else list_buckets,
            by_audio=True,
            spec_augment=quirks.spec_augment,
        ),
        replace(
            KS,
            sampling="balanced" if quirks.ks_balanced_train else "shuffled",
            dev="resampled" if quirks.ks_resampled_dev else "plain",
        ),
        _keep_last(replace(SID, crops=True)),
        replace(
            ASV,
            training=replace(ASV.training, test_selection=quirks.asv_test_selection),
            pooled_width=1500,
            extra_frames=int(quirks.asv_extra_frame),
            min_train_samples=ASV_MIN_SAMPLES if quirks.asv_crops else 0,
            crops=True,
            keep_last=True,
        ),
        replace(
            SD,
            selection=SD.selection if quirks.sd_frame_accuracy else TASKS["sd"].metrics[0],
            both_ways=not quirks.sd_unidirectional,
            accuracy_by_chunk=True,
            silent_full_chunks=quirks.sd_silent_full_chunks,
            test_postprocessing=quirks.sd_test_postprocessing,
            keep_last=True,
        ),
        _keep_last(ER),
        _keep_last(IC),
        replace(SF, windows=_neighbours(quirks), spec_augment=quirks.spec_augment),
    )


def check_supported(task: str, manifest: Manifest, quirks: OfficialQuirks) -> None:
    """Raise MissingLabels in one line where the official protocol cannot be followed on these stored features."""
    if task == "asv" and quirks.asv_silence_trim and not all(u.trimmed for u in manifest):
        raise MissingLabels(
            "the official asv hears recordings without their silences; prepare with data.trim_silence=true, or "
            "superb.quirks.asv_silence_trim=false hears all of them"
        )
    louder = [u for u in manifest if u.gain_db != SOX_GAIN_DB]
    if "sox_gain" in TASKS[task].quirks and quirks.sox_gain and louder:
        raise MissingLabels(
            f"the official {task} reads recordings with sox's gain of {SOX_GAIN_DB:g} dB; prepare with "
            f"data.gain_db={SOX_GAIN_DB:g}, or superb.quirks.sox_gain=false goes without"
        )
    if (task == "sid" and quirks.sid_crops) or (task == "asv" and quirks.asv_crops):
        whole = [u for u in manifest.select("train", "sentence") if u.num_samples > CROP_SAMPLES]
        if whole:
            raise MissingLabels(
                f"the official {task} trains on 8 s of longer recordings and {len(whole)} are whole, first "
                f"{whole[0].id}; data.crops=8 stores eight crops of each, superb.quirks.{task}_crops=false takes all"
            )


def list_departures(task: str, budget: TaskBudget, quirks: OfficialQuirks, outputs: int | None) -> tuple[str, ...]:
    """In what a result differs from the leaderboard's: settings, quirks that are off, the size of the label space."""
    official = official_budgets()[task]
    given = {name: (getattr(budget, name), getattr(official, name)) for name in _FIXED if official.steps}
    departures = [f"{name} {ours} instead of {theirs}" for name, (ours, theirs) in given.items() if ours != theirs]
    departures += [f"{name} is off" for name in TASKS[task].quirks if not getattr(quirks, name)]
    if outputs is not None and outputs != TASKS[task].outputs:
        departures.append(f"{outputs} outputs instead of {TASKS[task].outputs}")
    return tuple(departures)


def drop_stress(phone: str) -> str:
    """The phone without the digit of its stress."""
    return phone.rstrip("012")


def _pr(quirks: OfficialQuirks) -> CtcTask:
    return PR if quirks.pr_stress else replace(PR, fold=drop_stress)


def _keep_last(task: PooledTask) -> PooledTask:
    return replace(task, keep_last=True)


def _neighbours(quirks: OfficialQuirks) -> ListWindows:
    windows = list_clamped_starts if quirks.overlapping_batches else list_disjoint
    return drop_half_of_long(windows) if quirks.half_long_batches else windows
