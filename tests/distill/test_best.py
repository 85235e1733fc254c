"""Which weights are the best: those of the lowest dev loss, the first weights included."""

from pathlib import Path

from fithubert.data.batching import draw_sample
from fithubert.distill.targets import LiveTargets, Request
from fithubert.models.weights import fingerprint, load_student
from fithubert.store.read import HiddenStateBatch
from tests.distill.fakes import cut_params, distill_params, fake_manifest, tiny_teacher, train


def test_training_stops_early_when_the_dev_loss_does_not_fall(tmp_path: Path) -> None:
    params = distill_params(learning_rate=1e-20, dev_every_updates=1, patience=3)
    ended = train(tmp_path / "student", params).ended
    assert ended.end == "early_stop"
    assert ended.updates == ended.best_update + 3 < 12


def test_a_training_that_ruins_the_student_gives_the_first_weights(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    train_targets, dev_targets = (LiveTargets(fake_manifest(n, seed), teacher) for n, seed in ((16, 0), (5, 1)))
    given = {"student_params": cut_params(), "teacher": teacher, "train_targets": train_targets}
    cut = train(tmp_path / "cut", distill_params(updates=0), dev_targets=dev_targets, **given)
    params = distill_params(learning_rate=1.0, dev_every_updates=2, patience=3, explosion_factor=1e9)
    ruined = train(tmp_path / "ruined", params, dev_targets=dev_targets, **given).ended
    assert (ruined.end, ruined.updates, ruined.best_update) == ("early_stop", 6, 0)
    assert min(point.dev_loss for point in ruined.curve[1:]) > ruined.best_dev_loss == cut.ended.best_dev_loss
    assert fingerprint(load_student(tmp_path / "ruined")) == cut.fingerprint


def test_evaluations_read_a_sample_of_dev_and_training_stays_the_same(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    train_targets, dev_targets = (LiveTargets(fake_manifest(n, seed), teacher) for n, seed in ((16, 0), (9, 1)))
    given = {"teacher": teacher, "train_targets": train_targets}
    read: list[int] = []

    class Counted(LiveTargets):
        def read(self, request: Request) -> HiddenStateBatch:
            read.extend(crop.index for crop in request.crops)
            return super().read(request)

    sampled = Counted(fake_manifest(9, 1), teacher)
    frames = draw_sample(sampled.ids, sampled.num_frames, 50)
    drawn = [index for index, count in enumerate(frames) if count]
    assert 1 < len(drawn) < 9
    part = train(tmp_path / "part", distill_params(dev_seconds=1.0), dev_targets=sampled, **given).ended
    assert sorted(read) == sorted(drawn * len(part.curve))
    whole = train(tmp_path / "whole", distill_params(dev_seconds=None), dev_targets=dev_targets, **given).ended
    assert [point.train_loss for point in part.curve] == [point.train_loss for point in whole.curve]
    assert part.curve[-1].dev_loss != whole.curve[-1].dev_loss


def test_the_moving_average_is_what_is_evaluated_and_saved(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain").ended
    averaged = train(tmp_path / "averaged", distill_params(ema_decay=0.9999)).ended
    # A slow average hardly leaves the first weights.
    assert averaged.curve[-1].train_loss == plain.curve[-1].train_loss
    assert averaged.curve[-1].dev_loss > plain.curve[-1].dev_loss
