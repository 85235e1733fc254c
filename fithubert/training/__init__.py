"""What both trainings share. Here its processes: one, or several under torchrun, on CPU or GPU, in any precision.

The only file that imports Lightning Fabric, which places the module, wraps it for DDP, scales fp16 losses and delays
gradient synchronisation.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor

from fithubert.config.teacher import Device
from fithubert.devices import choose_device, devices_in_use
from fithubert.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import Precision
    from lightning_fabric.wrappers import _FabricModule

Value = TypeVar("Value")
#: How long ranks wait for each other: the first one may read a whole corpus alone. The death of a rank still ends the
#: job at once, since torchrun stops the others.
_TIMEOUT = timedelta(hours=12)


def open_fabric(accelerator: Device, precision: str, unused_parameters: bool) -> "Fabric":
    """A launched Fabric for this process; under torchrun one rank of DDP with gloo (CPU) or nccl (GPU).

    `unused_parameters`: some parameters may get no gradient in an update. Raises UserError if Fabric is not installed,
    the accelerator does not exist, or a machine has fewer GPUs than processes.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ImportError:
        raise UserError("training needs Lightning Fabric: pip install fithubert[train]") from None
    accelerator = choose_device(accelerator)
    if precision == "16-mixed" and accelerator == "cpu":
        raise UserError("precision 16-mixed needs a GPU; use 32-true (or bf16-mixed) on the CPU")
    world = int(os.environ.get("WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world > 1 else 1
    if accelerator == "cuda" and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes on a machine with {torch.cuda.device_count()} GPU(s): give torchrun --nproc-per-node "
            f"{torch.cuda.device_count()}, or hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    # Read when CUDA starts; without it, matrix products on a GPU are not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    backend = "nccl" if accelerator == "cuda" else "gloo"
    ddp = DDPStrategy(process_group_backend=backend, timeout=_TIMEOUT, find_unused_parameters=unused_parameters)
    # Set, not detected: one process inside a cluster's job is one process.
    environment = TorchElasticEnvironment() if world > 1 else LightningEnvironment()
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy=ddp if world > 1 else "auto",
        plugins=[environment, _precision(precision, accelerator)],
    )
    fabric.launch()
    return fabric


def _precision(name: str, device: str) -> "Precision":
    """The plugin that runs a model in the precision `name`, and leaves its inputs alone."""
    from lightning_fabric.plugins.precision import MixedPrecision, Precision

    if name == "32-true":
        return Precision()

    class Mixed(MixedPrecision):
        def convert_input(self, data: Any) -> Any:
            # Fabric would round waveforms to half precision, before filter banks compute their energies.
            return data

    return Mixed(name, device)  # type: ignore[arg-type]


def on_first_rank(fabric: "Fabric", function: Callable[[], Value]) -> Value:
    """The result of `function`, run on rank 0 only, on every rank; its UserError is raised on every rank too."""
    value: Value | UserError | None = None
    if fabric.is_global_zero:
        try:
            value = function()
        except UserError as error:
            value = error
    value = fabric.broadcast(value)
    if isinstance(value, UserError):
        raise value
    return value  # type: ignore[return-value]


def sum_over_ranks(fabric: "Fabric", values: Tensor) -> Tensor:
    """`values` summed over all ranks, on every rank."""
    summed = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(summed, Tensor)  # Fabric returns a tensor for a tensor
    return summed


def delay_gradient_sync(fabric: "Fabric", module: "_FabricModule", delay: bool) -> AbstractContextManager[None]:
    """A block in which the gradients of `module` stay on their rank if `delay` is True and there are several ranks."""
    return fabric.no_backward_sync(module, enabled=delay and fabric.world_size > 1)


@contextmanager
def ends_with_its_ranks(fabric: "Fabric") -> Iterator[None]:
    """A block in which the death of another rank, or the SIGTERM of torchrun that follows it, is a UserError.

    After the death of a rank a collective fails, in one of many ways, or SIGTERM comes first.
    """
    if fabric.world_size == 1:
        yield
        return
    ended = UserError(
        f"rank {fabric.global_rank} of {fabric.world_size}: another rank has died, or the job was stopped; "
        "the same command resumes from the last checkpoint"
    )

    def stop(number: int, frame: object) -> NoReturn:
        # A second SIGTERM may come while this rank is ending.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ended

    # Python handles signals on the main thread only.
    handles = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if handles else None
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()):
            raise
        if handles:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ended from error
    finally:
        if handles and signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def deterministic_torch() -> Iterator[None]:
    """A block with deterministic algorithms if torch has them; restores the caller's random state and settings."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling every empty tensor only helps to find reads of unset memory, and costs time.
    memory.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng(devices_in_use()):
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
