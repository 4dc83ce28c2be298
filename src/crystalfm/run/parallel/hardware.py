"""What the machine offers and what ``auto`` means there: devices, strategy, precision."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from crystalfm.run.parallel.sharding import ShardedStrategy
from crystalfm.run.parallel.stamp import is_child_rank, shared_stamp

if TYPE_CHECKING:
    from lightning import Trainer
    from omegaconf import DictConfig

_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_GPU = {"gpu", "cuda"}
_ALL = -1


_KERNEL_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_KEPT_KERNELS = "64"


def bound_kernel_cache() -> None:
    """Have oneDNN keep 64 kernels in place of 1,024, unless the variable is set; call it before anything is computed.

    Each kernel belongs to shapes and holds memory, in bfloat16 up to the size of the weights: trainings whose batches
    differ in shape grew by gigabytes. Layers of the same shape share a kernel, so that a step needs few.
    """
    os.environ.setdefault(_KERNEL_CACHE, _KEPT_KERNELS)


def cpu_has_bf16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bfloat16 matrices itself, as far as Linux says so."""
    if not cpu_info.is_file():
        return False
    for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return bool(_BF16_CPU_FLAGS & set(flags.split()))
    return False


def has_bf16() -> bool:
    """Return whether the device that work is put on by default, a CUDA one if there is one, multiplies bfloat16."""
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()


def resolve_precision(cfg: DictConfig) -> str:
    """Return the precision of the training step; ``auto`` is bf16 where the hardware has it, else full."""
    if cfg.trainer.precision != "auto":
        return str(cfg.trainer.precision)
    if cfg.trainer.accelerator in {"auto", *_GPU} and torch.cuda.is_available():
        return "bf16-mixed" if has_bf16() else "32-true"
    on_cpu = cfg.trainer.accelerator in {"auto", "cpu"} and not torch.backends.mps.is_available()
    return "bf16-mixed" if on_cpu and cpu_has_bf16() else "32-true"


def prediction_precision(cfg: DictConfig) -> str:
    """Return the precision of predictions: full with ``auto``.

    Rounded to bfloat16, a prediction would depend on the batch that its row happens to be in.
    """
    return "32-true" if cfg.trainer.precision == "auto" else str(cfg.trainer.precision)


def num_devices(cfg: DictConfig) -> int:
    """Return how many devices of this machine ``trainer`` asks for."""
    devices = cfg.trainer.devices
    if isinstance(devices, int) and devices != _ALL:
        return devices
    if not isinstance(devices, (int, str)):
        return len(devices)
    on_gpus = cfg.trainer.accelerator in {"auto", *_GPU} and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpus else 1


def threads_of_a_process(cfg: DictConfig) -> int | None:
    """Return the CPU threads this process should use; ``None`` leaves it to torch.

    CPU processes that this one starts share its threads. A scheduler that starts every process has divided the cores.
    """
    if cfg.trainer.num_threads is not None:
        return int(cfg.trainer.num_threads)
    processes = num_devices(cfg)
    on_cpu = cfg.trainer.accelerator == "cpu" or (
        cfg.trainer.accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
    if processes == 1 or not on_cpu or is_child_rank() or shared_stamp() is not None:
        return None
    return max(1, torch.get_num_threads() // processes)


def resolve_strategy(cfg: DictConfig) -> DDPStrategy | ShardedStrategy | str:
    """Return how the processes of a run share its work; ``auto`` is data-parallel where there are several."""
    asked = str(cfg.trainer.strategy)
    num_processes = int(cfg.trainer.num_nodes) * num_devices(cfg)
    if asked == "auto" and num_processes == 1:
        return asked
    if asked == "fsdp":
        return ShardedStrategy(num_processes)
    # All buffers are constants. Sent around at every forward pass, they would make the ranks wait for each other in
    # validation, where some have a batch more. (Newer versions of PyTorch have renamed the argument.)
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    arguments: dict[str, Any] = {buffers: False}
    return DDPStrategy(
        find_unused_parameters=asked == "ddp_find_unused_parameters_true",
        gradient_as_bucket_view=True,
        **arguments,
    )


def trainer_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Return the Trainer's arguments that training and the prediction after it share."""
    return {
        "accelerator": cfg.trainer.accelerator,
        "devices": cfg.trainer.devices,
        "num_nodes": cfg.trainer.num_nodes,
        "strategy": resolve_strategy(cfg),
        "precision": resolve_precision(cfg),
        "deterministic": cfg.trainer.deterministic,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def one_device_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Return the Trainer's arguments for a command that works in one process, on the first device asked for."""
    devices = cfg.trainer.devices
    first = 1 if isinstance(devices, (int, str)) else [devices[0]]
    return {**trainer_arguments(cfg), "devices": first, "num_nodes": 1, "strategy": "auto"}


def local_processes(trainer: Trainer) -> int | None:
    """Return the processes that this one has to start, itself included.

    ``None`` when there is nothing to start: a plain process, a rank of another one, or a job scheduler's task.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy | ShardedStrategy) or strategy.cluster_environment is None:
        return None
    return None if strategy.cluster_environment.creates_processes_externally else strategy.num_processes


def describe_device(trainer: Trainer) -> str:
    """Return the device and how many of it a trainer uses (``cpu``, ``4 x cuda``)."""
    kind = trainer.strategy.root_device.type
    return kind if trainer.world_size == 1 else f"{trainer.world_size} x {kind}"


def peak_device_memory_gib() -> float | None:
    """Return the peak memory of the CUDA device, ``None`` where there is none."""
    return torch.cuda.max_memory_allocated() / 1024**3 if torch.cuda.is_available() else None
