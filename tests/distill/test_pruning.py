"""Learned pruning: gates behave as defined, the cost reaches its target, and the smaller student is the gated one."""

from contextlib import suppress
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.hints import PruneParams
from fithubert.config.students import StudentConfig, StudentParams
from fithubert.config.teacher import hubert_base
from fithubert.distill.gates import draw_gates, fold, gated, open_probability
from fithubert.distill.pruning import GatedStudent, Pruning, macs_per_second
from fithubert.errors import UserError
from fithubert.models.recipes import resolve
from fithubert.models.student import build_student
from fithubert.models.weights import load_student, read_record
from tests.distill.fakes import StopAt, distill_params, prune_params, student_params, tiny_teacher, train
from tests.kills import Stop
from tests.models.shapes import strong, tiny

NO_REDUCTION = {"time_reduction": {"kind": "none"}}
LATER = {"time_reduction": {"kind": "fc1", "before_layer": 1}}
MEAN = {"time_reduction": {"kind": "mean", "factor": 3}}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("fithubert", {}),
    "reduced later, pre-norm": (
        "fithubert",
        {**LATER, "layer_norm_first": True},
    ),
    "mean, repeated": (
        "fithubert",
        {**MEAN, "heads": {"upsampling": "repeat"}},
    ),
    "layer norms, biases": ("fithubert", {"conv_norm": "layer", "conv_bias": True, **NO_REDUCTION}),
    "shared heads": ("distilhubert", {"time_reduction": {"kind": "conv1d"}}),
    "reused maps": ("armhubert", {"masking": None, **NO_REDUCTION}),
    "layers of their own": ("fithubert", {"ffn_width": [20, 9, 31], "attention_heads": [4, 1, 3], "head_width": 5}),
    "unit head": ("fithubert", {"units": {"layer": 3, "clusters": 9}}),
    "stacked frames": ("fithubert", {"time_reduction": {"kind": "stack", "factor": 3}}),
    "filter banks": ("fithubert", {"frontend": "mel", "conv_layers": [], "mel_bands": 9}),
    "no heads": ("starhubert", {"time_reduction": {"kind": "conv1d"}}),
}


def gates_of(config: StudentConfig, spread: float = 2.0) -> GatedStudent:
    """A student in evaluation mode with random gates, about half of them open."""
    gated_student = GatedStudent(strong(config)).eval()
    with torch.no_grad():
        for log_alpha in gated_student.log_alpha.values():
            log_alpha.copy_(torch.randn_like(log_alpha) * spread - 1.6)
    return gated_student


@settings(max_examples=10, deadline=None)
@given(log_alpha=st.floats(-4, 4), seed=st.integers(0, 2**31))
def test_gates_are_open_and_whole_as_often_as_their_distribution_says(log_alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    count = 100_000
    values = draw_gates(torch.full((count,), log_alpha))
    tolerance = 5 * 0.5 / count**0.5
    assert float((values > 0).float().mean()) == pytest.approx(
        float(open_probability(torch.tensor(log_alpha))), abs=tolerance
    )
    # A concrete variable stretched to -0.1..1.1 is above 1 if its logit is above log 11.
    whole = torch.sigmoid(torch.tensor(log_alpha - 2 / 3 * log(11.0)))
    assert float((values == 1).float().mean()) == pytest.approx(float(whole), abs=tolerance)
    assert values.min() >= 0


@pytest.mark.parametrize(("recipe", "changes"), SHAPES.values(), ids=SHAPES.keys())
@torch.no_grad()
def test_the_folded_student_is_the_gated_one(recipe: str, changes: dict[str, Any]) -> None:
    whole = gates_of(tiny(recipe, **changes))
    masks = whole.harden()
    assert all(0 < mask.count_nonzero() < len(mask) for name, mask in masks.items() if len(mask) > 4), (
        "something is cut"
    )
    smaller = fold(whole.student, masks).eval()
    waveforms = [torch.randn(9000), torch.randn(6123)]
    with gated(whole.student, masks):
        expected = whole.student(waveforms)
    out = smaller(waveforms)
    assert torch.equal(out.lengths, expected.lengths)
    kept = masks["width"].nonzero().flatten()
    with gated(whole.student, masks):
        scores = whole.student.hints(waveforms).units
    if scores is not None:
        torch.testing.assert_close(smaller.hints(waveforms).units[0], scores[0], atol=2e-4, rtol=2e-4)
    for row, count in enumerate(out.lengths.tolist()):
        for ours, theirs in zip(out.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours[row, :count], theirs[row, :count, kept], atol=2e-4, rtol=2e-4)
        if smaller.config.heads.kind != "none":
            for ours, theirs in zip(out.projections, expected.projections, strict=True):
                torch.testing.assert_close(ours[row, :count], theirs[row, :count], atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_gram_terms_of_a_student_without_heads_stay_when_it_is_folded() -> None:
    whole = gates_of(tiny("starhubert"))
    waveforms = [torch.randn(9000)]
    before = whole.hints(waveforms)
    after = fold(whole.student, whole.harden()).eval().hints(waveforms)
    for x, y in zip((*before.projections, *before.states), (*after.projections, *after.states), strict=True):
        assert y.shape[2] < x.shape[2]
        grams = [z @ z.transpose(1, 2) / z.shape[2] for z in (x, y)]
        torch.testing.assert_close(*grams, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("recipe", "changes"), SHAPES.values(), ids=SHAPES.keys())
def test_sure_gates_cost_what_the_folded_student_costs(recipe: str, changes: dict[str, Any]) -> None:
    whole = gates_of(tiny(recipe, **changes))
    masks = whole.harden()
    with torch.no_grad():
        for name, log_alpha in whole.log_alpha.items():
            log_alpha.copy_((masks[name] > 0).float() * 60 - 30)
    cost = macs_per_second(fold(whole.student, masks).config)
    assert float(whole.expected_macs().detach()) == pytest.approx(cost, rel=1e-5)
    assert cost < macs_per_second(whole.config)


@settings(max_examples=10, deadline=None)
@given(share=st.floats(0.1, 0.95), seed=st.integers(0, 99))
def test_a_target_is_reached_from_below_whatever_the_gates_are(share: float, seed: int) -> None:
    torch.manual_seed(seed)
    whole = GatedStudent(
        build_student(tiny(ffn_width=200, conv_layers=[[32, 10, 5], *[[48, 3, 2]] * 4, *[[48, 2, 2]] * 2]))
    )
    with torch.no_grad():
        for log_alpha in whole.log_alpha.values():
            log_alpha.copy_(torch.randn_like(log_alpha) + 2 * share - 2)
    most = share * macs_per_second(whole.config)
    cost = macs_per_second(fold(whole.student, whole.harden(most)).config)
    assert 0.9 * most < cost <= most


def test_a_large_residual_stream_is_normalised_in_half_precision_too() -> None:
    torch.manual_seed(0)
    whole, waveforms = gates_of(tiny()), [torch.randn(8000), torch.randn(7000)]
    with torch.no_grad():
        whole.student.layers[0].ffn_out.weight *= 20_000
        whole_precision = whole.hints(waveforms).projections
        with torch.autocast("cpu", torch.float16):
            half = whole.hints(waveforms).projections
    for ours, exact in zip(half, whole_precision, strict=True):
        assert (ours - exact).norm() < 0.05 * exact.norm()


def test_every_gate_gets_a_gradient_from_the_hints_and_from_the_cost() -> None:
    torch.manual_seed(0)
    whole = GatedStudent(build_student(tiny(dropout=0.0)))
    for log_alpha in whole.log_alpha.values():
        log_alpha.data.zero_()
    for _ in range(16):  # In one pass some gates are 0 or 1, without a gradient.
        projections = whole.hints([torch.randn(8000), torch.randn(7000)]).projections
        sum(p[:, :20].square().mean() for p in projections).backward()
    for name, log_alpha in whole.log_alpha.items():
        assert log_alpha.grad is not None
        assert (log_alpha.grad != 0).all(), name
    assert not [n for n, p in whole.student.named_parameters() if p.grad is None]
    whole.zero_grad()
    pruning = Pruning(whole, PruneParams(share=1e-4), hubert_base(), 10)
    pruning.multipliers.data.fill_(1.0)
    pruning.penalty(9).backward()
    assert all((log_alpha.grad > 0).all() for log_alpha in whole.log_alpha.values())
    assert (pruning.multipliers.grad > 0).all()


@pytest.mark.slow
def test_the_expected_cost_reaches_its_target_and_the_parts_that_matter_stay() -> None:
    torch.manual_seed(0)
    whole = GatedStudent(build_student(tiny()))
    cost = macs_per_second(whole.config)
    pruning = Pruning(whole, PruneParams(macs_per_second=0.4 * cost, learning_rate=0.1), hubert_base(), 400)
    optimizer = torch.optim.AdamW(pruning.groups)
    for update in range(pruning.updates):
        values = {name: draw_gates(a) for name, a in whole.log_alpha.items()}
        # Closed gates cost more the further behind they are.
        loss = sum((torch.linspace(0, 1, len(z)) * (1 - z)).mean() for z in values.values())
        (loss + pruning.penalty(update)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(whole.expected_macs().detach()) == pytest.approx(0.4 * cost, abs=0.05 * cost)
    smaller = pruning.fold()
    assert 0.36 * cost < macs_per_second(smaller.config) <= 0.4 * cost
    for name, mask in whole.harden().items():
        if name.startswith("units"):
            first, second = mask.chunk(2)
            assert second.count_nonzero() > first.count_nonzero()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruning training that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "student"
    return train(out, student_params=prune_params(), teacher=tiny_teacher()).directory


def test_a_training_ends_with_a_student_at_its_target_that_loads_like_any_other(whole: Path) -> None:
    student, params = load_student(whole), prune_params()
    start = resolve(params.recipe, params.shape)
    assert params.prune is not None
    assert macs_per_second(student.config) <= (params.prune.macs_per_second or 0.0)
    assert student.config.width < start.width
    record = read_record(whole)
    assert record["init"] == "prune"
    assert record["prune"]["macs_per_second"] == params.prune.macs_per_second
    assert record["best_update"] >= 6


@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_stopped_anywhere_and_resumed_is_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, stops: list[int]
) -> None:
    out = tmp_path_factory.mktemp("stopped") / "student"
    given_too: dict[str, Any] = {"student_params": prune_params(), "teacher": tiny_teacher()}
    for update in stops:
        with suppress(Stop):
            train(out, listeners=[StopAt(update)], **given_too)
    train(out, **given_too)
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("changes", [{"ema_decay": 0.5}, {"accumulate": 2}])
def test_other_ways_of_training_prune_too(tmp_path: Path, changes: dict[str, Any]) -> None:
    result = train(tmp_path / "x", distill_params(**changes), student_params=prune_params(), teacher=tiny_teacher())
    assert result.ended.updates == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": {"time_reduction": {"kind": "fc2"}}}, "fc2"),
        ({"shape": {"conv_layers": [[4, 10, 5], *[[4, 3, 2]] * 4, [4, 2, 2], [6, 2, 2]]}}, "needs a projection"),
        ({"hints": {"random_hints": 1}}, "random_hints"),
        ({"prune": {"macs_per_second": 1e9}}, "not between those of the smallest"),
        ({"prune": {"updates_share": 0.99}}, "leave none"),
    ],
)
def test_what_cannot_be_pruned_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path / "x", student_params=prune_params().changed(changes), teacher=tiny_teacher())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("values", [{"init": "prune"}, {"prune": {"share": 0.2}}, {"init": "prune", "prune": {}}])
def test_a_target_is_needed_and_only_one(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="share"):
        StudentParams(recipe="fithubert", shape=student_params().shape, **values)
