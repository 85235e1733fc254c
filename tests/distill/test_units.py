"""The hint `units`: clusters of a teacher layer that a part of the student names, for training only."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.hints import HintParams, UnitsParams
from fithubert.distill.hints import HintLoss
from fithubert.distill.losses import unit_loss
from fithubert.errors import UserError
from fithubert.frames import padding_mask
from fithubert.models.recipes import resolve
from fithubert.models.student import build_student
from fithubert.models.weights import load_student, parameter_counts
from fithubert.tensors import read_tensors
from fithubert.training.units import Codebook, UnitModel, fit_codebook
from tests.distill.fakes import Recorder, StopAt, student_params, train
from tests.kills import Stop
from tests.models.shapes import strong, tiny

UNITS = {"teacher_layer": 2, "clusters": 5, "seconds": 3.0}


def draw_units(clusters: int = 5, width: int = 4) -> UnitModel:
    return UnitModel(torch.randn(clusters, width), torch.randn(width), torch.rand(width) + 0.5)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=3), rubbish=st.sampled_from([float("nan"), 1e30, -3.0]))
def test_the_loss_is_the_cross_entropy_of_the_nearest_centres_inside_utterances(
    lengths: list[int], rubbish: float
) -> None:
    units, valid = draw_units(), padding_mask(torch.tensor(lengths), 7)
    scores, target = torch.randn(len(lengths), 7, 5, requires_grad=True), torch.randn(len(lengths), 7, 4)
    value = unit_loss(scores, torch.where(valid[:, :, None], target, rubbish), valid, units)
    (gradient,) = torch.autograd.grad(value, scores)
    assert not gradient[~valid].any()
    if valid.any():
        nearest = torch.cdist(((target - units.mean) / units.scale)[valid], units.centres).argmin(1)
        torch.testing.assert_close(value, F.cross_entropy(scores[valid], nearest))
    else:
        assert value == 0


def test_scores_without_information_cost_the_entropy() -> None:
    frames = torch.randn(400, 3).cumsum(1)
    codebook = fit_codebook(UnitsParams(teacher_layer=1, clusters=6), frames.split(90), seed=1)
    share = torch.bincount(codebook.units.assign(frames), minlength=6) / len(frames)
    everywhere = torch.ones(1, len(frames), dtype=torch.bool)
    loss = unit_loss(share.log().expand(1, len(frames), -1), frames[None], everywhere, codebook.units)
    assert loss.item() == pytest.approx(codebook.entropy, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(-2, 2))
def test_a_normalised_loss_does_not_depend_on_the_teachers_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 40, 3, generator=generator)
    scores, lengths = torch.randn(2, 40, 5, generator=generator), torch.tensor([40, 31])
    params = HintParams(units=UnitsParams(teacher_layer=1, clusters=5, weight=0.5), normalise=True)
    totals = []
    for factor in (1.0, 10**scale):
        target = {1: factor * teacher}
        loss = HintLoss(params, ((1, 1),))
        loss.scales = loss.measure_scales([{1: x} for x in target[1]])
        assert params.units is not None
        loss.codebook = fit_codebook(params.units, target[1], seed=1)
        totals.append(loss([factor * teacher], lengths, target, scores=scores).total)
        valid = padding_mask(lengths, 40)
        alone = unit_loss(scores, target[1], valid, loss.codebook.units) / loss.codebook.entropy
        torch.testing.assert_close(totals[-1], 0.5 * alone)
    torch.testing.assert_close(*totals)


@pytest.mark.parametrize("reduction", [{"kind": "none"}, {"factor": 2}, {"factor": 3, "before_layer": 1}])
@pytest.mark.parametrize("layer", [1, 3])
def test_there_are_scores_for_every_teacher_frame_whatever_the_batch(reduction: dict, layer: int) -> None:
    """Two teacher frames of one student frame have scores of their own."""
    student = strong(tiny(time_reduction=reduction, units={"layer": layer, "clusters": 7}))
    waveforms = [torch.randn(8_300) * 0.1, torch.randn(5_111) * 0.1]
    batch = student.hints(waveforms)
    assert batch.units is not None
    for row, waveform in enumerate(waveforms):
        alone = student.hints(waveform[None]).units
        assert alone is not None
        assert alone.shape == (1, batch.lengths[row], 7)
        torch.testing.assert_close(alone[0], batch.units[row, : batch.lengths[row]], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(alone[:, 0], alone[:, 1])
    student.train()
    hinted = student.hints(waveforms)
    (hinted.units.square().mean() + sum(p.square().mean() for p in hinted.projections)).backward()
    without = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in without if not name.endswith("attention.key.bias")]


def test_the_unit_head_is_for_training_only(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    recorder = Recorder()
    params = student_params(units={**UNITS, "weight": 0.5})
    result = train(tmp_path / "student", student_params=params, listeners=[recorder])
    names = (read_tensors(path / "model.safetensors").keys() for path in (result.directory, plain.directory))
    assert set.__eq__(*map(set, names))
    assert load_student(result.directory).config == load_student(plain.directory).config
    counts, without = (parameter_counts(each.student.config) for each in (result, plain))
    # Two teacher frames for one of the student: a map 8 wide for each, and one to the five units.
    assert counts.trained - without.trained == 2 * 8 * 8 + 8 + 8 * 5 + 5
    assert counts.total == without.total
    losses = recorder.evaluations[-1]
    weighted = sum(w * loss for w, loss in zip((0.1, 1.0), losses.layer_losses.values(), strict=True))
    assert 0 < losses.dev_loss - weighted < recorder.evaluations[0].dev_loss


def test_a_resumed_training_has_the_units_of_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = student_params(units=UNITS, normalise=True, gram_of="layers", losses={"mse": 1.0, "gram": 1.0})
    whole = train(tmp_path / "whole", student_params=params).directory
    with pytest.raises(Stop):
        train(tmp_path / "other", student_params=params, listeners=[StopAt(7)])
    # Another number of threads may fit other clusters, so they are not fitted again.
    monkeypatch.setattr("fithubert.distill.fit_codebook", lambda *_: pytest.fail("fitted again"))
    other = train(tmp_path / "other", student_params=params).directory
    for name in ("model.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (other / name).read_bytes()


def test_a_codebook_comes_back_from_a_checkpoint() -> None:
    codebook = Codebook(draw_units(), 1.25)
    again = Codebook.from_state(codebook.state_dict())
    frames = torch.randn(30, 4)
    assert torch.equal(again.units.assign(frames), codebook.units.assign(frames))
    assert again.entropy == 1.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_layer": 9}, r"hints\.units\.teacher_layer: no targets for teacher layer 9, only for 0, 1, 2, 3"),
        ({"student_layer": 3}, r"hints\.units\.student_layer: 3 is not in 0\.\.2"),
        ({"clusters": 5000}, "5000 clusters need at least as many frames"),
    ],
)
def test_units_that_do_not_fit_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path / "student", student_params=student_params(units={**UNITS, **changes}))


def test_a_student_without_units_is_built_as_before() -> None:
    torch.manual_seed(0)
    plain = build_student(tiny()).state_dict()
    torch.manual_seed(0)
    other = build_student(resolve("fithubert", {**tiny().model_dump(), "units": {"layer": 3, "clusters": 4}}))
    assert all(torch.equal(other.state_dict()[name], weight) for name, weight in plain.items())
