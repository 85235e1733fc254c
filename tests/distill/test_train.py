"""Training from end to end on a tiny corpus: its files, its ends, its refusals."""

import json
import math
from pathlib import Path

import pytest
import torch

from fithubert.data.batching import Crop
from fithubert.distill.hints import HintLoss
from fithubert.distill.step import Stepper, UpdateLoss, find_problem
from fithubert.distill.targets import LiveTargets, TrainingData
from fithubert.distill.warmstart import draw_waveforms
from fithubert.errors import UserError
from fithubert.models.hubert import HubertTeacher
from fithubert.models.recipes import resolve
from fithubert.models.runtime import ReadOut
from fithubert.models.student import build_student
from fithubert.models.weights import fingerprint, load_student, parameter_counts, read_record
from fithubert.training import open_fabric
from fithubert.training.events import StepDone, TrainingListener
from fithubert.training.updates import PlannedUpdate
from tests.distill.fakes import (
    FakeTeacher,
    Recorder,
    StopAt,
    cut_params,
    distill_params,
    fake_manifest,
    reshaped,
    student_params,
    tiny_teacher,
    train,
)
from tests.kills import Stop


def test_training_learns_saves_the_best_student_and_its_record(tmp_path: Path) -> None:
    recorder = Recorder()
    result = train(tmp_path / "student", distill_params(updates=40, dev_every_updates=10), listeners=[recorder])
    ended = result.ended
    assert ended.end == "finished"
    assert [point.update for point in ended.curve] == [0, 10, 20, 30, 40]
    assert ended.best_dev_loss == min(point.dev_loss for point in ended.curve) < ended.curve[0].dev_loss
    assert [point.train_loss is None for point in ended.curve] == [True, False, False, False, False]
    assert set(ended.curve[0].layer_losses) == {(1, 1), (2, 3)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    record = read_record(tmp_path / "student")
    assert record["seed"] == 1
    assert record["updates"] == 40
    assert record["hints"]["hint_weight"] == 0.1
    assert record["audio_hours"] == ended.audio_hours
    assert set(record["curve"][0]["layer_losses"]) == {"1-1", "2-3"}
    assert "seconds" not in record["curve"][0]
    saved = load_student(tmp_path / "student")
    assert saved.config.width == 8
    assert result.fingerprint == fingerprint(saved) == ReadOut(saved, "student").fingerprint
    assert fingerprint(result.student) == result.fingerprint
    assert parameter_counts(result.student.config.released()) == parameter_counts(saved.config)
    assert [event.update for event in recorder.steps] == list(range(1, 41))
    assert recorder.steps[-1].audio_seconds == pytest.approx(3600 * ended.audio_hours)
    assert recorder.ended == [ended]


def test_the_dev_loss_is_that_of_the_saved_student(tmp_path: Path) -> None:
    result = train(tmp_path / "student", student_params=student_params(hint_weight=0.0))
    student = load_student(tmp_path / "student")
    teacher, manifest = FakeTeacher(), fake_manifest(5, seed=1)
    squares, frames = 0.0, 0
    with torch.no_grad():
        for utterance in manifest.utterances:
            waveform = manifest.read(utterance)[None]
            lengths = torch.tensor([waveform.shape[1]])
            projections, *_ = student.hints(waveform, lengths)
            error = projections[-1] - teacher(waveform, lengths).hidden_states[3]
            squares += error.square().mean(-1).sum().item()
            frames += error.shape[1]
    assert squares / frames == pytest.approx(result.ended.best_dev_loss, rel=1e-3)


def test_equal_calls_give_equal_students_and_leave_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tmp_path / "a")
    assert torch.equal(torch.rand(3), expected)
    train(tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    train(tmp_path / "c", distill_params(seed=2))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_accumulation_gives_the_update_of_one_pass(tmp_path: Path) -> None:
    losses = []
    for accumulate in (1, 3):
        recorder = Recorder()
        params = distill_params(accumulate=accumulate, gradient_clip=1.0)
        train(tmp_path / f"{accumulate}", params, student_params=student_params(dropout=0.0), listeners=[recorder])
        losses.append([step.loss for step in recorder.steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_its_utterances(tmp_path: Path) -> None:
    recorder = Recorder()
    targets = LiveTargets(fake_manifest(16, broken="utt-07"), FakeTeacher())
    with pytest.raises(UserError, match="the loss is nan at update") as caught:
        train(tmp_path / "student", train_targets=targets, listeners=[recorder])
    assert "\n" not in str(caught.value)
    (written,) = (tmp_path / "student.checkpoints").glob("stopped-at-*.json")
    assert str(written) in str(caught.value)
    (part,) = json.loads(written.read_text())["parts"]
    assert "utt-07" in part["utterances"]
    assert recorder.ended[0].end == "not_finite"
    assert not (tmp_path / "student").exists()


def test_an_exploding_loss_stops(tmp_path: Path) -> None:
    params = distill_params(learning_rate=1e4, explosion_factor=2.0, updates=50)
    with pytest.raises(UserError, match=r"more than 2 times the first at update|not finite|is nan|is inf"):
        train(tmp_path / "student", params)


def test_random_hints_train_and_name_only_the_heads_drawn(tmp_path: Path) -> None:
    recorder = Recorder()
    heads = {"teacher_width": 6, "layer_map": [[1, 1], [1, 2], [2, 3]]}
    params = reshaped(student_params(random_hints=1), heads=heads)
    train(tmp_path / "student", student_params=params, listeners=[recorder])
    assert all(len(step.layer_losses) == 2 and (2, 3) in step.layer_losses for step in recorder.steps)
    assert all(set(event.layer_losses) == {(1, 1), (1, 2), (2, 3)} for event in recorder.evaluations)


def test_two_heads_on_one_teacher_layer_train_and_are_recorded_apart(tmp_path: Path) -> None:
    params = reshaped(student_params(), heads={"teacher_width": 6, "layer_map": [[1, 3], [2, 3]]})
    result = train(tmp_path / "student", student_params=params)
    assert set(result.ended.curve[0].to_json()["layer_losses"]) == {"1-3", "2-3"}
    assert set(read_record(result.directory)["curve"][0]["layer_losses"]) == {"1-3", "2-3"}


@pytest.mark.parametrize("keep", [[], [1]])
def test_a_student_that_keeps_a_head_carries_the_projection(keep: list[int], tmp_path: Path) -> None:
    heads = {"teacher_width": 6, "layer_map": [[1, 1], [2, 3]], "keep": keep}
    teacher = tiny_teacher()
    teacher.final_proj = weight, _ = torch.randn(4, 6), torch.randn(4)
    trained = train(
        tmp_path, distill_params(updates=1), student_params=reshaped(student_params(), heads=heads), teacher=teacher
    )
    student = load_student(trained.directory)
    assert student.config.heads.layer_map == (((1, 1), (2, 3)) if keep else ((2, 3),))
    assert (student.final_proj is not None and torch.equal(student.final_proj[0], weight)) == bool(keep)


def test_frames_are_masked_in_the_last_part_of_a_training(tmp_path: Path) -> None:
    def run(name: str, masking: dict | None, masking_from: float) -> list[float]:
        recorder = Recorder()
        params = reshaped(student_params(masking_from=masking_from), masking=masking)
        train(tmp_path / name, student_params=params, listeners=[recorder])
        return [step.loss for step in recorder.steps]

    spans = {"share": 0.5, "span_frames": 2}
    always, late, never = (run(f"{start}", spans, start) for start in (0.0, 0.5, 0.99))
    assert late[:6] == never[:6]
    assert late[0] != always[0]
    assert late[6] != never[6]
    with pytest.raises(UserError, match=r"hints\.masking_from: nothing is masked; give shape\.masking"):
        run("refused", None, 0.5)


def test_the_teacher_of_masked_speech_begins_with_the_masks() -> None:
    params, given = reshaped(student_params(masked_teacher=True, masking_from=0.5), masking={}), distill_params()
    student = build_student(resolve(params.recipe, params.shape))
    hint_loss = HintLoss(params.hints, student.config.heads.layer_map)
    stepper = Stepper(open_fabric("cpu", "32-true", False), student, hint_loss, given)
    masked = [
        stepper.plan_job(PlannedUpdate(number, 0, number, (Crop(0, 0, 20),))).requests[0].masked for number in (5, 6)
    ]
    assert masked[0] is None
    assert masked[1] is not None
    assert masked[1].any()


class _Broken(TrainingListener):
    def __init__(self) -> None:
        self.calls = 0

    def on_step(self, event: StepDone) -> None:
        self.calls += 1
        raise OSError("the server is down")


def test_a_listener_that_fails_is_dropped_with_one_warning(tmp_path: Path) -> None:
    broken, recorder = _Broken(), Recorder()
    with pytest.warns(UserWarning, match="_Broken failed and is removed; training continues: the server is down"):
        train(tmp_path / "student", listeners=[broken, recorder])
    assert broken.calls == 1
    assert len(recorder.steps) == 12


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"teacher_width": 7, "layer_map": [[2, 3]]}, "heads.teacher_width: 7, but teacher layer 3 has 6"),
        ({"teacher_width": 6, "layer_map": [[2, 9]]}, "no targets for teacher layer 9, only for 0, 1, 2, 3"),
    ],
)
def test_heads_that_do_not_fit_the_targets_are_refused(tmp_path: Path, heads: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path / "student", student_params=reshaped(student_params(), heads=heads))


@pytest.mark.parametrize("init", ["teacher_layers", "cut_teacher"])
def test_init_from_the_teacher_needs_its_weights(tmp_path: Path, init: str) -> None:
    params = student_params().model_copy(update={"init": init})
    with pytest.raises(UserError, match=f"init {init} needs the teacher's weights"):
        train(tmp_path / "student", student_params=params)


def test_a_cut_student_is_the_same_each_time_and_another_from_another_teacher(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    one, two = (train(tmp_path / n, student_params=cut_params(), teacher=teacher).directory for n in ("one", "two"))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert read_record(one)["init_seconds"] == 2.0
    with torch.no_grad():
        teacher.model.projection.weight.mul_(1.5)
    other = HubertTeacher(teacher.model, "other")
    changed = train(tmp_path / "changed", student_params=cut_params(), teacher=other).directory
    assert (one / "model.safetensors").read_bytes() != (changed / "model.safetensors").read_bytes()


def test_a_cut_student_is_drawn_on_as_much_speech_as_requested() -> None:
    targets = LiveTargets(fake_manifest(16), FakeTeacher())
    data = TrainingData(targets, targets)
    drawn = draw_waveforms(data, 2.0, seed=1)
    assert 2.0 <= sum(len(w) for w in drawn) / 16_000 < 3.0
    assert [len(w) for w in drawn] == [len(w) for w in draw_waveforms(data, 2.0, seed=1)]
    assert [len(w) for w in drawn] != [len(w) for w in draw_waveforms(data, 2.0, seed=2)]
    assert len(draw_waveforms(data, 1e9, seed=1)) == 16


def test_a_students_own_learning_rate_is_the_one_it_is_trained_with(tmp_path: Path) -> None:
    recorder = Recorder()
    params = student_params().model_copy(update={"learning_rate": 0.25})
    result = train(tmp_path / "student", student_params=params, listeners=[recorder])
    assert max(step.learning_rate for step in recorder.steps) == 0.25
    assert read_record(result.directory)["distill"]["learning_rate"] == 0.25


def test_a_cut_student_that_was_stopped_and_resumed_is_the_one_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, recorder, resumed = tiny_teacher(), Recorder(), Recorder()
    whole = train(tmp_path / "whole", student_params=cut_params(), teacher=teacher, listeners=[recorder]).directory
    with pytest.raises(Stop):
        train(tmp_path / "other", student_params=cut_params(), teacher=teacher, listeners=[StopAt(7)])
    monkeypatch.setattr("fithubert.distill.set_first_weights", lambda *_: pytest.fail("cut again"))
    other = train(tmp_path / "other", student_params=cut_params(), teacher=teacher, listeners=[resumed]).directory
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, other)]
    assert (recorder.cut[-1].done, resumed.cut, weights[0]) == (recorder.cut[-1].total, [], weights[1])


@pytest.mark.parametrize(
    ("loss", "norm", "precision", "expected"),
    [
        (1.0, 2.0, "32-true", None),
        (math.nan, 2.0, "16-mixed", "the loss is nan"),
        (1.0, math.inf, "32-true", "the norm of the gradient is inf"),
        (1.0, math.inf, "16-mixed", None),
        (1.0, None, "16-mixed", None),
        (500.0, 1.0, "32-true", "the loss is 500, more than 100 times the first"),
    ],
)
def test_the_guard(loss: float, norm: float | None, precision: str, expected: str | None) -> None:
    assert find_problem(UpdateLoss(loss, {}, (), norm), distill_params(precision=precision), 2.0) == expected


def test_the_moving_average_follows_the_weights() -> None:
    params, given = student_params(), distill_params(ema_decay=0.75)
    student = build_student(resolve(params.recipe, params.shape))
    torch.nn.init.zeros_(student.encoder_norm.weight)
    hint_loss = HintLoss(params.hints, student.config.heads.layer_map)
    stepper = Stepper(open_fabric("cpu", "32-true", False), student, hint_loss, given)
    torch.nn.init.ones_(student.encoder_norm.weight)
    stepper.apply(0.0)
    stepper.apply(0.0)
    assert stepper.weights()["encoder_norm.weight"].tolist() == pytest.approx([1 - 0.75**2] * 8)
