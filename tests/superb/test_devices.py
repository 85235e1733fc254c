"""Heads on a GPU, without one: PyTorch's fake tensors refuse operands on two devices and values asked back from one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from fithubert.data.manifest import Manifest
from fithubert.superb.run import HeadRun
from tests.superb.fakes import MemoryStore, official, small

CORPUS_SIZES = (40, 48, 40, 24)
TRAINED = ("pr", "asr", "ks", "sid", "asv", "sd", "er", "ic", "sf")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Tensors on a GPU that have shapes but no values, and stand-ins for two kernels that would start its driver."""

    def lstm(module: nn.LSTM, x: Tensor) -> tuple[Tensor, None]:
        assert x.device == module.weight_hh_l0.device
        return (x @ module.weight_ih_l0.T)[..., : module.hidden_size], None

    def ctc_loss(log_probs: Tensor, targets: Tensor, lengths: Tensor, of_targets: Tensor, **_: object) -> Tensor:
        assert log_probs.device == targets.device
        assert {lengths.device.type, of_targets.device.type} == {"cpu"}, "lengths of a GPU are copied back"
        return log_probs.sum((0, 2))

    monkeypatch.setattr(nn.LSTM, "forward", lstm)
    monkeypatch.setattr(nn.functional, "ctc_loss", ctc_loss)
    # Modules cannot be moved to a fake device: parameters are made there instead.
    monkeypatch.setattr(nn.Module, "to", lambda module, device: move(module))
    return FakeTensorMode(allow_non_fake_inputs=True)


def move(module: nn.Module) -> nn.Module:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape, device="cuda")))
    return module


def bind(name: str, informed: MemoryStore, corpus: Manifest) -> Any:
    """A learner on the CPU whose heads are on a GPU."""
    learner: Any = official(name, asv_crops=False).bind(informed, corpus, small(name))
    learner.start_epochs(1, 4)
    learner.device = "cuda"
    return learner


@pytest.mark.parametrize("name", TRAINED)
def test_losses_are_on_the_device_and_copy_nothing_back(
    name: str, informed: MemoryStore, corpus: Manifest, gpu: FakeTensorMode
) -> None:
    learner = bind(name, informed, corpus)
    with gpu:
        if name in ("pr", "asr", "sf"):
            learner.examples = {k: replace(v, targets=v.targets.to("cuda")) for k, v in learner.examples.items()}
        heads = [learner.new_head() for _ in range(2)]
        for _ in range(3):
            losses = learner.losses(heads)
            assert losses.shape == (2,)
            assert losses.device.type == "cuda"


@pytest.mark.parametrize("name", ["pr", "asv"])
def test_an_update_copies_nothing_back(name: str, informed: MemoryStore, corpus: Manifest, gpu: FakeTensorMode) -> None:
    learner = bind(name, informed, corpus)
    with gpu:
        head = learner.new_head()
        run = HeadRun(1e-2, head, official(name))
        for parameter in head.parameters():
            parameter.grad = torch.empty_like(parameter)
        run.update()
        assert isinstance(run.skipped, FakeTensor)
        with pytest.raises(DataDependentOutputException):
            int(run.skipped)


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_optimiser_skips_what_the_device_says(optimiser: type[torch.optim.Adam]) -> None:
    """`update` relies on it: a skipped step has no effect."""
    results = []
    for skipped in (True, False):
        parameter = nn.Parameter(torch.ones(3))
        fused = optimiser([parameter], lr=0.1, fused=True)
        for value in (1.0, float("nan"), 2.0) if skipped else (1.0, 2.0):
            parameter.grad = torch.full((3,), value)
            fused.found_inf = (~parameter.grad.norm().isfinite()).float()  # type: ignore[attr-defined]
            fused.step()
        results.append(parameter.detach())
    assert torch.equal(*results)
    assert torch.isfinite(results[0]).all()


def test_a_step_that_is_not_finite_is_skipped_and_counted(informed: MemoryStore, corpus: Manifest) -> None:
    task = official("ks")
    head = task.bind(informed, corpus, small("ks")).new_head()
    run = HeadRun(1e-2, head, task)
    before = nn.utils.parameters_to_vector(head.parameters()).clone()
    for parameter in head.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    run.update()
    assert int(run.skipped) == 1
    assert torch.equal(before, nn.utils.parameters_to_vector(head.parameters()))
