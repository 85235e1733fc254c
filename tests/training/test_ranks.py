"""The processes of a training: restored settings, refused devices, one error for a lost rank."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from fithubert.errors import UserError
from fithubert.training import deterministic_torch, ends_with_its_ranks, on_first_rank, open_fabric


def test_torch_settings_are_restored() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic_torch():
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_missing_device_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device cuda: torch finds no CUDA device"):
        open_fabric("cuda", "32-true", False)
    with pytest.raises(UserError, match="16-mixed needs a GPU"):
        open_fabric("auto", "16-mixed", False)


def test_every_rank_gets_the_result_or_the_error_of_the_first() -> None:
    fabric = open_fabric("cpu", "32-true", False)
    assert on_first_rank(fabric, lambda: 3) == 3

    def fail() -> None:
        raise UserError("no such file")

    with pytest.raises(UserError, match="no such file"):
        on_first_rank(fabric, fail)


_TWO_RANKS = SimpleNamespace(world_size=2, global_rank=1)


def _lose_a_rank() -> None:
    raise RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer")


def _receive_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("happening", [_lose_a_rank, _receive_sigterm])
def test_a_lost_rank_is_one_error_that_a_second_sigterm_does_not_interrupt(happening: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(UserError, match="rank 1 of 2: another rank has died"), ends_with_its_ranks(_TWO_RANKS):
            happening()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), UserError("the loss is nan")])
def test_other_errors_are_not_changed(error: Exception) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(type(error), match=str(error)), ends_with_its_ranks(_TWO_RANKS):
        raise error
    assert signal.getsignal(signal.SIGTERM) is before
    with ends_with_its_ranks(_TWO_RANKS):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_single_rank_changes_no_error() -> None:
    with pytest.raises(RuntimeError, match="gloo"), ends_with_its_ranks(SimpleNamespace(world_size=1)):
        raise RuntimeError("gloo")


def test_fewer_gpus_than_processes_are_named_with_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"TORCHELASTIC_RUN_ID": "run", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"2 processes on a machine with 1 GPU\(s\): give torchrun --nproc-per-node 1, or"
    ):
        open_fabric("auto", "32-true", False)
