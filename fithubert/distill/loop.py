"""The training loop: updates, dev evaluations, early stop, checkpoints, exact resume."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from time import monotonic
from typing import Any, NoReturn

from torch import Tensor

from fithubert.config.students import StudentConfig
from fithubert.data.batching import Crop, plan_batches
from fithubert.distill.augment import Surroundings, add_surroundings, draw_surroundings
from fithubert.distill.step import Job, Stepper, UpdateLoss, describe_update, find_problem
from fithubert.distill.targets import Request, TrainingData
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.frames import count_samples
from fithubert.models.student import Student, build_student
from fithubert.models.weights import parameter_counts
from fithubert.records import CurvePoint
from fithubert.store.read import HiddenStateBatch
from fithubert.training import on_first_rank
from fithubert.training.checkpoint import CheckpointFolder
from fithubert.training.events import (
    EndReason,
    Evaluated,
    Listeners,
    StepDone,
    TrainingEnded,
    TrainingStarted,
)
from fithubert.training.updates import Standing, learning_rate_share, prefetch

#: Audio of an evaluation's forward pass, at most: little on any GPU, and the same for any number of ranks.
_EVAL_SECONDS = 60.0
#: What is read ahead for one forward pass: its batch, and the surroundings of its crops if they have any.
Read = tuple[HiddenStateBatch, list[Surroundings]]


@dataclass
class Progress(Standing):
    """The position of a distillation, without its tensors: everything that decides its next updates."""

    #: Loss of update 0, against which an exploding loss is recognised.
    first_loss: float | None = None
    #: Sum and count of the training losses since the last evaluation.
    loss_sum: float = 0.0
    loss_count: int = 0
    best_update: int = 0
    best_loss: float = float("inf")
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    curve: list[CurvePoint] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The progress as JSON values."""
        return {**asdict(self), "curve": [point.to_json() for point in self.curve]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """The progress that `to_json` gave."""
        return cls(**{**values, "curve": [CurvePoint.from_json(point) for point in values["curve"]]})


class TrainingLoop:
    """One training from its first update, or its last checkpoint, to its end.

    Only the teacher layers that the heads of an update predict are read. If the stepper prunes, its student is replaced
    by the smaller one after that part of the updates; only the smaller one can be the best.
    """

    def __init__(
        self, stepper: Stepper, data: TrainingData, checkpoints: CheckpointFolder, listeners: Listeners
    ) -> None:
        self.stepper, self.data, self.checkpoints, self.listeners = stepper, data, checkpoints, listeners
        self.params, self.fabric = stepper.params, stepper.fabric
        self._pruned_at = 0 if stepper.pruning is None else stepper.pruning.updates
        self.standing = Progress()
        #: The weights with the lowest dev loss so far.
        self.best: dict[str, Tensor] = {}
        #: Of each dev utterance; 0 for those that evaluations do not read.
        self._dev_frames = data.sample_dev(self.params.dev_seconds)
        self._begun = monotonic()
        self._waited = 0.0

    def run(self) -> TrainingEnded:
        """Train to the end; `best` then holds the weights with the lowest dev loss, the first weights included.

        Raises UserError if the checkpoints are of another configuration, and if the loss is not finite or explodes:
        the utterances of that update are then in a file next to the checkpoints.
        """
        self._resume()
        self._begun = monotonic()
        standing, params = self.standing, self.params
        if standing.update == 0:
            # Nothing is random in an evaluation, so that the training stays the same.
            self._evaluate()
        begun = monotonic()
        with closing(prefetch(self._jobs(), params.prefetch_batches)) as jobs:
            for job, batches in jobs:
                self._update(job, batches, begun)
                if self.stepper.pruning is not None and standing.update == self._pruned_at:
                    self._continue_with(self.stepper.pruning.fold())
                if standing.update % params.dev_every_updates == 0 or standing.update == params.updates:
                    self._evaluate()
                if standing.update % params.checkpoint_every_updates == 0:
                    self._save()
                if standing.stopped_early:
                    break
                begun = monotonic()
        return self._end("early_stop" if standing.stopped_early else "finished")

    def _jobs(self) -> Iterator[tuple[Job, list[Read]]]:
        """The remaining updates, each with the batches of this rank."""
        updates = self.standing.update if self.standing.stopped_early else self.params.updates
        for update in self.standing.plan_rest(self._plan_epoch, updates):
            job = self.stepper.plan_job(update)
            yield (
                job,
                [(self.data.train.read(request), self._draw_surroundings(job, request)) for request in job.requests],
            )

    def _draw_surroundings(self, job: Job, request: Request) -> list[Surroundings]:
        """The surroundings of each crop; empty if the speech stays as it is."""
        params, train = self.params, self.data.train
        if params.augment is None:
            return []
        return [
            draw_surroundings(
                params.augment,
                params.seed,
                job.update.epoch,
                train.ids[crop.index],
                count_samples(crop.num_frames, train.convolutions),
            )
            for crop in request.crops
        ]

    def _finish(self, read: Read, request: Request) -> HiddenStateBatch:
        """The complete batch, on the device."""
        batch, drawn = read
        batch = self.data.train.finish(batch.to(self.fabric.device), request)
        if not drawn:
            return batch
        assert batch.waveforms is not None  # Targets always give them.
        return replace(batch, waveforms=add_surroundings(batch.waveforms, drawn, batch.lengths.tolist()))

    def _plan_epoch(self, epoch: int) -> Sequence[Sequence[Crop]]:
        crop = self.params.crop_seconds
        return plan_batches(
            self.data.train.num_frames,
            batch_frames=self.data.count_frames(self.params.batch_seconds),
            crop_frames=None if crop is None else self.data.count_frames(crop),
            seed=self.params.seed,
            epoch=epoch,
            group_of=self.data.train.shards if self.params.shuffle == "shards" else None,
        )

    def _update(self, job: Job, batches: Sequence[Read], begun: float) -> None:
        """One optimiser step from this rank's `batches`; `begun`: when the update before was done."""
        standing, params, update = self.standing, self.params, job.update
        wait_seconds = monotonic() - begun
        self._waited += wait_seconds
        ready = (self._finish(read, request) for read, request in zip(batches, job.requests, strict=True))
        loss = self.stepper.backward(job, ready)
        first_loss = loss.total if standing.first_loss is None else standing.first_loss
        problem = find_problem(loss, params, first_loss)
        if problem is not None:
            self._stop(problem, job, loss)
        rate = self._learning_rate()
        self.stepper.apply(rate)
        standing.first_loss = first_loss
        standing.advance(update)
        standing.loss_sum += loss.total
        standing.loss_count += 1
        self.listeners.notify(
            StepDone(
                update=standing.update,
                epoch=update.epoch,
                loss=loss.total,
                layer_losses=loss.heads,
                learning_rate=rate,
                gradient_norm=loss.gradient_norm,
                audio_seconds=self._audio_seconds(),
                batch_audio_seconds=update.num_frames * self.data.seconds_per_frame,
                step_seconds=monotonic() - begun,
                wait_seconds=wait_seconds,
            )
        )

    def _learning_rate(self) -> float:
        """The rate of the next update; the smaller student has a warm-up of its own."""
        update, params = self.standing.update, self.params
        first, end = (0, self._pruned_at) if update < self._pruned_at else (self._pruned_at, params.updates)
        warmup_updates = round(params.warmup_share * (end - first))
        return params.learning_rate * learning_rate_share(update - first, end - first, warmup_updates)

    def _continue_with(self, student: Student) -> None:
        """Train the smaller `student` from now on."""
        self.stepper = Stepper(self.fabric, student, self.stepper.hint_loss, self.params)

    def _stop(self, problem: str, job: Job, loss: UpdateLoss) -> NoReturn:
        """Record the contents of the update and end the training; the weights are still those before it."""
        number = job.update.number
        path = self.checkpoints.folder / f"stopped-at-{number:08d}.json"
        if self.fabric.is_global_zero:
            write_json(path, describe_update(job.update, loss, self.data.train.ids))
        self._end("not_finite")
        raise UserError(
            f"distill: {problem} at update {number}; its utterances are listed in {path}; "
            "check them, or lower distill.learning_rate and delete the checkpoints next to it"
        )

    def _evaluate(self) -> None:
        """Dev loss on the fixed batches; keeps the weights if it is the lowest so far and the pruning is over."""
        standing = self.standing
        batch_frames = self.data.count_frames(min(self.params.batch_seconds, _EVAL_SECONDS))
        dev_loss, head_losses = self.stepper.evaluate(self.data.dev, self._dev_frames, batch_frames)
        if not isfinite(dev_loss):
            self._end("not_finite")
            raise UserError(
                f"distill: the dev loss is {dev_loss} at update {standing.update}; lower distill.learning_rate or use "
                f"distill.precision 32-true, and delete {self.checkpoints.folder}"
            )
        train_loss = standing.loss_sum / standing.loss_count if standing.loss_count else None
        standing.loss_sum, standing.loss_count = 0.0, 0
        pruning = self.stepper.pruning is not None
        best = dev_loss < standing.best_loss and not pruning
        if best:
            standing.best_loss, standing.best_update, standing.evaluations_without_gain = dev_loss, standing.update, 0
            self.best = self.stepper.weights()
        elif not pruning:
            standing.evaluations_without_gain += 1
        standing.stopped_early = standing.evaluations_without_gain >= self.params.patience
        times = self._audio_seconds(), self._seconds()
        standing.curve.append(CurvePoint(standing.update, *times, train_loss, dev_loss, head_losses))
        self.listeners.notify(Evaluated(**vars(standing.curve[-1]), best=best))

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        progress = {**self.standing.to_json(), "seconds": self._seconds()}
        contents = {"progress": progress, "best": self.best, **self.stepper.state_dict()}
        if 0 < self._pruned_at <= self.standing.update:
            contents["pruned"] = self.stepper.student.config.model_dump(mode="json")
        self.checkpoints.save(self.standing.update, contents)

    def _resume(self) -> None:
        """Take over the newest checkpoint, if there is one, and report the start of the training."""
        newest = on_first_rank(self.fabric, self.checkpoints.find_latest)
        # Every rank reads it, from the folder that all of them share: sent over, it would be in memory several times.
        checkpoint = None if newest is None else self.checkpoints.load(newest)
        if checkpoint is not None and "pruned" in checkpoint:
            self._continue_with(build_student(StudentConfig.model_validate(checkpoint["pruned"])))
        if checkpoint is None:
            self.best = self.stepper.weights()
        else:
            self.standing = Progress.from_json(checkpoint["progress"])
            self.best = checkpoint["best"]
            self.stepper.load_state_dict(checkpoint)
        train, dev = self.data.train.num_frames, [frames for frames in self._dev_frames if frames]
        self.listeners.notify(
            TrainingStarted(
                updates=self.params.updates,
                resumed_from=None if checkpoint is None else self.standing.update,
                parameters=parameter_counts(self.stepper.student.config),
                train_utterances=len(train),
                train_seconds=sum(train) * self.data.seconds_per_frame,
                dev_utterances=len(dev),
                dev_seconds=sum(dev) * self.data.seconds_per_frame,
                device=str(self.fabric.device),
                precision=self.params.precision,
                world_size=self.fabric.world_size,
                seed=self.params.seed,
            )
        )

    def _audio_seconds(self) -> float:
        return self.standing.frames * self.data.seconds_per_frame

    def _seconds(self) -> float:
        return self.standing.seconds + monotonic() - self._begun

    def _end(self, end: EndReason) -> TrainingEnded:
        standing = self.standing
        ended = TrainingEnded(
            end=end,
            updates=standing.update,
            best_update=standing.best_update,
            best_dev_loss=standing.best_loss,
            audio_hours=self._audio_seconds() / 3600,
            seconds=self._seconds(),
            wait_share=self._waited / max(monotonic() - self._begun, 1e-9),
            curve=tuple(standing.curve),
        )
        self.listeners.notify(ended)
        return ended
