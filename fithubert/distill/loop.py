"""The training loop: updates, dev evaluations, early stop, checkpoints, exact resume."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from time import monotonic
from typing import NoReturn, TypeVar

from fithubert.config.distill import DistillParams
from fithubert.data.batching import Crop, plan_batches, plan_eval_batches
from fithubert.distill.step import Stepper, UpdateLoss, describe_update, find_problem
from fithubert.distill.targets import DistillBatch, Targets, stride_samples
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.training.checkpoint import Checkpoint, CheckpointFolder, CurvePoint, Progress
from fithubert.training.events import (
    CheckpointWritten,
    EndReason,
    Evaluated,
    Listeners,
    StepDone,
    TrainingEnded,
    TrainingStarted,
)
from fithubert.training.prefetch import prefetch
from fithubert.training.ranks import on_first_rank
from fithubert.training.schedule import learning_rate_share
from fithubert.training.updates import Part, PlannedUpdate, planned_updates, split_update

Item = TypeVar("Item")


class TrainingLoop:
    """One training from its first update, or its last checkpoint, to its end.

    Only the teacher layers that the heads of an update predict are read.
    """

    def __init__(
        self,
        stepper: Stepper,
        params: DistillParams,
        train_targets: Targets,
        dev_targets: Targets,
        checkpoints: CheckpointFolder,
        listeners: Listeners,
    ) -> None:
        self.stepper, self.params, self.checkpoints, self.listeners = stepper, params, checkpoints, listeners
        self.train_targets, self.dev_targets = train_targets, dev_targets
        self.fabric = stepper.fabric
        self.head_names = name_heads(stepper.hint_loss.layer_map)
        self.seconds_per_frame = stride_samples(train_targets) / SAMPLE_RATE_HZ
        self.progress = Progress()
        self.best = stepper.weights()
        self._begun = monotonic()
        self._spent_before = 0.0
        self._waited = 0.0

    def run(self) -> EndReason:
        """Train to the end; `progress` and `best` then hold the result.

        Raises UserError where the checkpoints are of another configuration, and where the loss is not finite or
        explodes: the utterances of that update are then in a file beside the checkpoints.
        """
        self._resume()
        self._begun = mark = monotonic()
        progress, params = self.progress, self.params
        left = 0 if progress.stopped_early else params.updates - progress.update
        jobs = ((*job, self._read(*job)) for job in self._jobs(progress.update, left))
        with closing(_timed(prefetch(jobs, params.prefetch_batches))) as stream:
            for (planned, heads, parts, batches), wait in stream:
                loss, rate = self._update(planned, heads, parts, batches)
                self._waited += wait
                self._tell_step(planned, loss, rate, monotonic() - mark, wait)
                if progress.update % params.dev_every_updates == 0 or progress.update == params.updates:
                    self._evaluate()
                if progress.update % params.checkpoint_every_updates == 0:
                    self._save()
                if progress.stopped_early:
                    break
                mark = monotonic()
        reason: EndReason = "early_stop" if progress.stopped_early else "finished"
        self._tell_end(reason)
        return reason

    def _jobs(self, done: int, left: int) -> Iterator[tuple[PlannedUpdate, tuple[int, ...], list[Part]]]:
        """The updates that are left after `done`, each with its heads and this rank's parts of it."""
        planned = planned_updates(self._plan_epoch, self.progress.epoch, self.progress.position)
        for number, update in enumerate(islice(planned, left), start=done):
            heads = self.stepper.heads_of(update.epoch, number)
            yield update, heads, self.stepper.my_parts(split_update(update, self.stepper.parts))

    def _plan_epoch(self, epoch: int) -> Sequence[Sequence[Crop]]:
        crop = self.params.crop_seconds
        return plan_batches(
            self.train_targets.num_frames,
            batch_frames=self._frames(self.params.batch_seconds),
            crop_frames=None if crop is None else self._frames(crop),
            seed=self.params.seed,
            epoch=epoch,
            group_of=self.train_targets.shards if self.params.shuffle == "shards" else None,
        )

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds / self.seconds_per_frame))

    def _read(self, planned: PlannedUpdate, heads: tuple[int, ...], parts: list[Part]) -> list[DistillBatch]:
        layers = self._layers(heads)
        return [self.train_targets.read(part.crops, layers) for part in parts]

    def _layers(self, heads: Iterable[int]) -> list[int]:
        """The teacher layers that `heads` predict."""
        return sorted({self.stepper.hint_loss.layer_map[head][1] for head in heads})

    def _update(
        self, planned: PlannedUpdate, heads: tuple[int, ...], parts: list[Part], batches: list[DistillBatch]
    ) -> tuple[UpdateLoss, float]:
        """One optimiser step from this rank's `parts`; the loss over all ranks and the learning rate."""
        progress, params = self.progress, self.params
        layers = self._layers(heads)
        finished = ((part, self._finish(part, batch, layers)) for part, batch in zip(parts, batches, strict=True))
        loss = self.stepper.backward(progress.update, heads, finished)
        first = loss.total if progress.first_loss is None else progress.first_loss
        problem = find_problem(loss, params, first)
        if problem is not None:
            self._stop(problem, planned, loss)
        rate = params.learning_rate * learning_rate_share(progress.update, params.updates, params.warmup_share)
        self.stepper.apply(rate)
        progress.first_loss = first
        progress.update += 1
        progress.epoch, progress.position = planned.epoch, planned.position + 1
        progress.frames += planned.num_frames
        progress.loss_sum += loss.total
        progress.loss_count += 1
        return loss, rate

    def _finish(self, part: Part, batch: DistillBatch, layers: list[int]) -> DistillBatch:
        """`batch` on the device, with its targets, and with its hidden frames where the teacher hears them too."""
        hidden = self.stepper.hide_frames(self.progress.update, part, batch)
        return self.train_targets.finish(hidden.to(self.fabric.device), part.crops, layers)

    def _stop(self, problem: str, planned: PlannedUpdate, loss: UpdateLoss) -> NoReturn:
        """Write down what the update was made of and end the training; the weights are still those before it."""
        number = self.progress.update
        path = self.checkpoints.folder / f"stopped-at-{number:08d}.json"
        if self.fabric.is_global_zero:
            write_json(path, describe_update(number, planned, loss, self.train_targets.ids))
        self._tell_end("not_finite")
        raise UserError(
            f"distill: {problem} at update {number}; its utterances are listed in {path}; "
            "check them, or lower distill.learning_rate and delete the checkpoints beside it"
        )

    def _evaluate(self) -> None:
        """Dev loss on the fixed batches; remembers the weights where it is the lowest so far."""
        progress = self.progress
        plan = plan_eval_batches(self.dev_targets.num_frames, batch_frames=self._frames(self.params.batch_seconds))
        mine = plan[self.fabric.global_rank :: self.fabric.world_size]
        layers = self._layers(range(self.stepper.num_heads))
        read = ((crops, self.dev_targets.read(crops, layers)) for crops in mine)
        with closing(_timed(prefetch(read, 2))) as stream:
            dev_loss, head_losses = self.stepper.evaluate(
                self.dev_targets.finish(batch.to(self.fabric.device), crops, layers) for (crops, batch), _ in stream
            )
        train_loss = progress.loss_sum / max(1, progress.loss_count)
        progress.loss_sum, progress.loss_count = 0.0, 0
        best = dev_loss < progress.best_loss
        if best:
            progress.best_loss, progress.best_update, progress.evaluations_without_gain = dev_loss, progress.update, 0
            self.best = self.stepper.weights()
        else:
            progress.evaluations_without_gain += 1
        progress.stopped_early = progress.evaluations_without_gain >= self.params.patience
        layer_losses = self._named(head_losses)
        audio_seconds = progress.frames * self.seconds_per_frame
        seconds = self._seconds()
        progress.curve.append(CurvePoint(progress.update, audio_seconds, seconds, train_loss, dev_loss, layer_losses))
        self.listeners.tell(
            Evaluated(progress.update, train_loss, dev_loss, layer_losses, best, audio_seconds, seconds)
        )

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        stepper = self.stepper
        checkpoint = Checkpoint(
            progress=replace(self.progress, seconds=self._seconds()),
            model=stepper.student.state_dict(),
            optimizer=stepper.optimizer.state_dict(),
            scaler=self.fabric.strategy.precision.state_dict(),
            best=self.best,
            average=None if stepper.average is None else stepper.average.weights,
        )
        path = self.checkpoints.save(checkpoint)
        self.listeners.tell(CheckpointWritten(self.progress.update, path))

    def _resume(self) -> None:
        """Take over the newest checkpoint, if there is one, and say that training starts."""
        checkpoint = on_first_rank(self.fabric, self.checkpoints.load_latest)
        if checkpoint is not None:
            stepper = self.stepper
            self.progress = checkpoint.progress
            self._spent_before = checkpoint.progress.seconds
            stepper.student.load_state_dict(checkpoint.model)
            stepper.optimizer.load_state_dict(dict(checkpoint.optimizer))
            self.fabric.strategy.precision.load_state_dict(dict(checkpoint.scaler))
            if stepper.average is not None and checkpoint.average is not None:
                stepper.average.load(checkpoint.average)
            self.best = dict(checkpoint.best)
        train, dev = self.train_targets.num_frames, self.dev_targets.num_frames
        self.listeners.tell(
            TrainingStarted(
                updates=self.params.updates,
                resumed_from=None if checkpoint is None else checkpoint.progress.update,
                parameters=sum(p.numel() for p in self.stepper.student.parameters() if p.requires_grad),
                train_utterances=len(train),
                train_seconds=sum(train) * self.seconds_per_frame,
                dev_utterances=len(dev),
                dev_seconds=sum(dev) * self.seconds_per_frame,
                device=str(self.fabric.device),
                precision=self.params.precision,
                world_size=self.fabric.world_size,
                seed=self.params.seed,
            )
        )

    def _tell_step(
        self, planned: PlannedUpdate, loss: UpdateLoss, rate: float, step_seconds: float, wait_seconds: float
    ) -> None:
        self.listeners.tell(
            StepDone(
                update=self.progress.update,
                epoch=planned.epoch,
                loss=loss.total,
                layer_losses=self._named(loss.heads),
                learning_rate=rate,
                gradient_norm=loss.gradient_norm,
                audio_seconds=self.progress.frames * self.seconds_per_frame,
                batch_audio_seconds=planned.num_frames * self.seconds_per_frame,
                step_seconds=step_seconds,
                wait_seconds=wait_seconds,
            )
        )

    def _named(self, losses: Mapping[int, float]) -> dict[str, float]:
        return {self.head_names[head]: loss for head, loss in losses.items()}

    def _seconds(self) -> float:
        return self._spent_before + monotonic() - self._begun

    def wait_share(self) -> float:
        """The share of this process's time that updates spent waiting for data."""
        return self._waited / max(monotonic() - self._begun, 1e-9)

    def _tell_end(self, reason: EndReason) -> None:
        progress = self.progress
        self.listeners.tell(
            TrainingEnded(
                reason=reason,
                updates=progress.update,
                best_update=progress.best_update,
                best_dev_loss=progress.best_loss,
                audio_seconds=progress.frames * self.seconds_per_frame,
                seconds=self._seconds(),
                wait_share=self.wait_share(),
            )
        )


def name_heads(layer_map: Sequence[tuple[int, int]]) -> list[str]:
    """The teacher layer of each head; with the student's before it where two heads predict the same one."""
    layers = [teacher for _, teacher in layer_map]
    return [str(teacher) if layers.count(teacher) == 1 else f"{student}-{teacher}" for student, teacher in layer_map]


def _timed(items: Iterator[Item]) -> Generator[tuple[Item, float], None, None]:
    """Each item with the seconds that were spent waiting for it."""
    while True:
        begun = monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, monotonic() - begun
