"""The engine: what it is given back as it was found, and what it refuses."""

import pytest
import torch

from fithubert.engine import deterministic_torch, on_first_rank, open_fabric
from fithubert.errors import UserError


def test_torch_settings_are_restored() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic_torch():
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_missing_device_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="accelerator cuda: torch finds no CUDA device"):
        open_fabric("cuda", "32-true", False)
    with pytest.raises(UserError, match="16-mixed needs a GPU"):
        open_fabric("auto", "16-mixed", False)


def test_the_first_rank_answers_for_all_and_its_mistakes_are_everyones() -> None:
    fabric = open_fabric("cpu", "32-true", False)
    assert on_first_rank(fabric, lambda: 3) == 3

    def fail() -> None:
        raise UserError("no such file")

    with pytest.raises(UserError, match="no such file"):
        on_first_rank(fabric, fail)
