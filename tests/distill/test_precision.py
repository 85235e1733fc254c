"""Half precision: the student computes in it on one device as on several, and what needs float32 keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from fithubert.errors import UserError
from fithubert.models.frontend import ConvFrontend
from tests.distill.fakes import FakeTeacher, LiveTargets, distill_params, fake_manifest, train
from tests.kills import run_ranks

HALF = {"precision": "bf16-mixed", "learning_rate": 1e-3}


@contextmanager
def recorded_dtypes() -> Iterator[dict[str, set[torch.dtype]]]:
    """A block with the dtypes of what front ends read and linear maps give, in training and evaluation."""
    found: dict[str, set[torch.dtype]] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        mode = "training" if module.training else "evaluation"
        if isinstance(module, ConvFrontend):
            found.setdefault(f"waveforms, {mode}", set()).add(inputs[0].dtype)
        if isinstance(module, nn.Linear) and isinstance(output, Tensor):
            found.setdefault(f"linear, {mode}", set()).add(output.dtype)

    handle = register_module_forward_hook(record)
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_one_device_computes_in_the_precision_of_the_parameters(
    precision: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    with recorded_dtypes() as found:
        train(tmp_path / "student", distill_params(updates=2, precision=precision))
    assert found == {
        "waveforms, training": {torch.float32},
        "waveforms, evaluation": {torch.float32},
        "linear, training": {dtype},
        "linear, evaluation": {dtype},
    }


@pytest.mark.slow
def test_ranks_train_the_student_of_one_device_in_half_precision_too(tmp_path: Path) -> None:
    train(tmp_path / "one", distill_params(accumulate=4, **HALF))
    arguments = ("accumulate=2", 'precision="bf16-mixed"', "learning_rate=1e-3")
    done = run_ranks(2, "tests.distill.tiny_run", str(tmp_path / "two"), *(f"--set={value}" for value in arguments))
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=0)


def test_a_dev_loss_that_is_not_a_number_ends_the_training_in_one_line(tmp_path: Path) -> None:
    broken = LiveTargets(fake_manifest(5, seed=1, broken="utt-01"), FakeTeacher())
    with pytest.raises(UserError, match=r"^distill: the dev loss is nan at update 0; lower distill\.learning_rate or"):
        train(tmp_path / "student", dev_targets=broken)
