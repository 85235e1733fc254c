"""Models without memory, to count their parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_INITIAL_WEIGHTS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"}


class _NoInitialWeights(TorchFunctionMode):
    """Skips the functions that draw weights: on the meta device they change nothing and take most of the time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIAL_WEIGHTS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Build the modules inside on the meta device, without memory and without initial weights."""
    with torch.device("meta"), _NoInitialWeights():
        yield
