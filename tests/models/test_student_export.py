"""A student under torch.compile and torch.export, with any batch and any length."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fithubert.models.student import Student, StudentOutput
from tests.models.shapes import strong, tiny

#: Few convolutions: tracing them is what takes long.
SMALL = {"conv_layers": [[8, 10, 5], [16, 64, 64]], "depth": 2}


def student_with(kind: str, factor: int, before: int) -> Student:
    return strong(tiny(**SMALL, time_reduction={"kind": kind, "factor": factor, "before_layer": before}))


def assert_same_answers(student: Student, other: Callable[[Tensor, Tensor], StudentOutput]) -> None:
    for lengths in ([5001], [3000, 2900, 400]):
        inputs = torch.randn(len(lengths), lengths[0]) * 0.1, torch.tensor(lengths)
        with torch.no_grad():
            eager, theirs = student(*inputs), other(*inputs)
        assert torch.equal(theirs.lengths, eager.lengths)
        for row, count in enumerate(eager.lengths.tolist()):
            for one, two in zip(
                eager.hidden_states + eager.projections, theirs.hidden_states + theirs.projections, strict=True
            ):
                assert one.shape == two.shape
                torch.testing.assert_close(one[row, :count], two[row, :count], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "factor", "before"), [("conv1d", 2, 1)])
def test_exports_with_any_batch_and_length(kind: str, factor: int, before: int) -> None:
    student = student_with(kind, factor, before)
    batch, samples = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("samples", min=3000, max=480_000)
    example = torch.randn(2, 6000), torch.tensor([6000, 4000])
    shapes = {"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}}
    assert_same_answers(student, torch.export.export(student, example, dynamic_shapes=shapes).module())


def test_compiles_as_one_graph() -> None:
    student = student_with("fc2", 4, 0)
    # the capture is what may fail; the backend that generates code would take a minute
    assert_same_answers(student, torch.compile(student, backend="eager", fullgraph=True, dynamic=True))
