"""The slices that the study of warm starts compares with cuts of the teacher (experiments/width_depth)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.width_depth.super_student import SuperStudent, interleave, keep_by_group, sort_base
from experiments.width_depth.train_super import largest_shape, slice_student
from fithubert.config.params import load_params
from fithubert.config.students import StudentConfig
from fithubert.models.recipes import resolve
from fithubert.search.space import make_student

PARAMS = load_params()
OF, SPACE = PARAMS.students["fithubert"], PARAMS.sweep.space
DEPTH = 12
WAVEFORMS, LENGTHS = torch.randn(2, 6000, generator=torch.Generator().manual_seed(1)), torch.tensor([6000, 4500])


@pytest.fixture(scope="module")
def whole() -> SuperStudent:
    torch.manual_seed(0)
    return SuperStudent(largest_shape(OF, SPACE, DEPTH)).eval()


def _config(**choices: Any) -> StudentConfig:
    student = make_student(OF, choices, DEPTH)
    return resolve(student.recipe, student.shape)


def test_the_largest_slice_is_the_whole(whole: SuperStudent) -> None:
    sliced, _ = whole.hints(whole.config, WAVEFORMS, LENGTHS)
    for ours, theirs in zip(sliced, whole.base.hints(WAVEFORMS, LENGTHS)[0], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sorting_changes_the_order_and_not_what_is_said() -> None:
    torch.manual_seed(0)
    base = SuperStudent(largest_shape(OF, SPACE, DEPTH)).base.eval()
    before, weight = base.hints(WAVEFORMS[:1], LENGTHS[:1])[0], base.layers[3].ffn_in.weight.clone()
    sort_base(base, list(WAVEFORMS))
    after = base.eval().hints(WAVEFORMS[:1], LENGTHS[:1])[0]
    torch.testing.assert_close(torch.stack(after), torch.stack(before), rtol=1e-4, atol=1e-4)
    assert not torch.equal(base.layers[3].ffn_in.weight, weight)


@given(choices=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SPACE}))
@settings(max_examples=8, deadline=None)
def test_every_shape_of_the_space_is_a_slice_that_trains_the_whole(
    whole: SuperStudent, choices: dict[str, Any]
) -> None:
    config = _config(**choices)
    sliced, lengths = whole.hints(config, WAVEFORMS, LENGTHS)
    built = slice_student(whole, config).eval()
    torch.testing.assert_close(torch.stack(sliced), torch.stack(built.hints(WAVEFORMS, LENGTHS)[0]))
    whole.zero_grad()
    torch.stack(sliced).square().mean().backward()
    assert whole.base.frontend.layers[0].conv.weight.grad[: config.conv_layers[0][0]].any()
    assert lengths.tolist() == whole.base.hints(WAVEFORMS, LENGTHS)[1].tolist()


def test_a_narrower_slice_is_part_of_a_wider_one(whole: SuperStudent) -> None:
    fixed = {"depth": 12, "front_end": 1.0, "time_reduction": "none", "position": 0.0, "readout": "last"}
    narrow, wide = (
        whole.slice(_config(width=width, ffn_width=ffn, attention_heads=12, **fixed))["layers.0.ffn_in.weight"]
        for width, ffn in ((48, 60), (96, 120))
    )
    kept = keep_by_group(96, 48, 12)
    assert torch.equal(wide[:60][:, kept], narrow)


@pytest.mark.parametrize(("inputs", "outputs"), [(40, 60), (120, 160)])
def test_a_slice_of_a_pointwise_layer_hears_what_it_passes_on(inputs: int, outputs: int) -> None:
    order = interleave(inputs, outputs).tolist()
    assert sorted(order) == list(range(outputs))
    for share in SPACE.front_end:
        heard, kept = int(inputs * share / 1.25), int(outputs * share / 1.25)
        passed = [index if index < inputs else index - inputs for index in order[:kept]]
        assert max(passed) < heard
