"""The section `superb`: models, budgets of the tasks, and the habits of s3prl that change numbers."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveFloat

from fithubert.config.base import Name, Seed, StrictModel
from fithubert.config.teacher import Device
from fithubert.errors import UserError
from fithubert.tasks import TASKS


class OfficialQuirks(StrictModel):
    """Habits of s3prl that change numbers. All are on in the official protocol; one that is off is a departure from it.

    Source: s3prl/downstream at ec8064b5, the code behind the leaderboard.
    """

    #: PR: vowels with their stress, 74 outputs; off: without, 44.
    pr_stress: bool = True
    #: PR, SF: a batch of neighbours in target length from any start, so that batches overlap; off: every utterance once
    #: an epoch.
    overlapping_batches: bool = True
    #: PR, SF: of a batch whose utterance with the longest target is over 300,000 samples, the shorter half is dropped.
    half_long_batches: bool = True
    #: PR, ASR, SF: in training, an utterance keeps round(samples / 320) frames of its padded batch, often a zero more.
    rounded_frames: bool = True
    #: ASR: every full bucket of 32 is trained as two batches of 16 (a threshold in frames, compared with samples).
    asr_half_batches: bool = True
    #: ASR, SF: time warp and masks on the weighted sum in training.
    spec_augment: bool = True
    #: KS: training draws with replacement, all classes equally often; off: shuffled epochs.
    ks_balanced_train: bool = True
    #: KS: dev is drawn likewise, the same draw at every evaluation; off: every dev clip once.
    ks_resampled_dev: bool = True
    #: KS, QbE, ASV: recordings are 3 dB quieter, as sox's `gain -3` makes them (`data.gain_db`).
    sox_gain: bool = True
    #: SID: training reads 8 s of longer recordings, one of the stored crops (`data.crops`) an epoch; off: all of it.
    sid_crops: bool = True
    #: ASV: training reads 8 s of longer recordings and leaves out those of at most 2 s; off: all, and whole.
    asv_crops: bool = True
    #: ASV: recordings without their silences, as sox cuts them out (`data.trim_silence`); off: with them.
    asv_silence_trim: bool = True
    #: ASV: statistics pooling takes one frame more than is valid.
    asv_extra_frame: bool = True
    #: ASV: the checkpoint with the lowest error on test is reported too, as eer_test_selected.
    asv_test_selection: bool = True
    #: SD: the recurrent layer reads forwards only; off: both ways.
    sd_unidirectional: bool = True
    #: SD: selected by frame accuracy on dev; off: by diarisation error on dev.
    sd_frame_accuracy: bool = True
    #: SD: a turn that covers more than a whole chunk of 2,000 frames at both ends is labelled as silence in it.
    sd_silent_full_chunks: bool = True
    #: SD: the threshold and median filter of lowest error on test are reported too, as der_test_selected.
    sd_test_postprocessing: bool = True
    #: ER: the dev split is drawn in the order of s3prl's lists (`data.lists` of IEMOCAP).
    er_split_order: bool = True


class TaskBudget(StrictModel):
    """Training budget of one downstream head. The learning rate is chosen on dev from `learning_rates`."""

    #: 0 and no learning rates for QbE, which trains nothing.
    steps: int = Field(ge=0)
    batch: int = Field(32, gt=0)
    #: Batches whose gradients are averaged in one step.
    accumulate: int = Field(1, gt=0)
    eval_every: int = Field(100, gt=0)
    learning_rates: tuple[PositiveFloat, ...] = ()
    #: Steps after which only the learning rate that is best on dev is trained further; None: all of them.
    search_steps: int | None = Field(None, gt=0)
    #: Width of recurrent layers (ASR, SF, SD) and of the x-vector network (ASV); linear heads are always 256 wide.
    head_width: int = Field(128, gt=0)
    #: Neighbouring frames that the recurrent head of ASR and SF reads as one (s3prl's `sample_rate`, style `concat`).
    stack_frames: int = Field(1, gt=0)
    #: Layer norms after the projector and every recurrent layer of ASR and SF (s3prl's `layer_norm`; official: none).
    layer_norm: bool = False


def mini_budgets() -> dict[str, TaskBudget]:
    """Budgets of the `mini` protocol for all tasks: a few seconds to half a minute a task and model on two cores."""
    return {name: TaskBudget.model_validate(task.mini) for name, task in TASKS.items()}


def official_budgets() -> dict[str, TaskBudget]:
    """s3prl's settings of all tasks with its default learning rates: micro-batches, accumulation, optimiser steps."""
    return {name: TaskBudget.model_validate(task.official) for name, task in TASKS.items()}


class ControlParams(StrictModel):
    """A row of the table that no student is needed for: some hidden states of the teacher, as they are."""

    #: Negative numbers count from the end: -1 is the last state.
    layers: tuple[int, ...] = Field(min_length=1)

    def choose(self, name: str, states: Sequence[int]) -> tuple[int, ...]:
        """The states of the control `name` among all `states`, sorted. Raises UserError if there are too few."""
        try:
            return tuple(sorted({states[layer] for layer in self.layers}))
        except IndexError:
            raise UserError(
                f"superb.controls.{name}.layers: {list(self.layers)}, but the teacher has {len(states)} states"
            ) from None


class SuperbParams(StrictModel):
    """Evaluation with frozen features: which models, by which protocol, and each task's budget."""

    models: tuple[str, ...]
    #: A student that does not beat them has not shown that its layers are worth their cost.
    controls: dict[Name, ControlParams] = {}
    #: `mini`: official heads and small budgets. `official`: s3prl's recipes with their `quirks`; a result lists its
    #: departures from them (none with experiments/presets/superb/official.yaml).
    protocol: Literal["mini", "official"] = "mini"
    quirks: OfficialQuirks = OfficialQuirks()
    tasks: dict[Name, TaskBudget] = Field(default_factory=mini_budgets)
    seeds: tuple[Seed, ...] = Field((1,), min_length=1)
    #: The device on which heads are trained; auto: a GPU if there is one.
    device: Device = "auto"
    #: Frozen features that a task holds in memory, as float16, the smallest splits first; the others are streamed from
    #: the feature store with a thread that reads ahead. Results are the same.
    memory_gb: float = Field(8.0, ge=0)
    #: Tasks of one model that run at once, each in a process.
    workers: int = Field(2, gt=0, le=1024)
    #: Threads of one task. Another number, or another machine, rounds otherwise, which changes recurrent heads as much
    #: as another seed does. The number of workers changes nothing.
    threads: int = Field(1, gt=0, le=1024)


class DepthParams(StrictModel):
    """Phone recognition from each of the teacher's hidden states alone."""

    budget: TaskBudget = TaskBudget(steps=800, batch=16, eval_every=100, learning_rates=(0.003,))
    seeds: tuple[Seed, ...] = Field((1,), min_length=1)
