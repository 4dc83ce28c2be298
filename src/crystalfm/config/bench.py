"""The settings of ``bench`` against the machine: with how many processes it can measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalfm.config import devices
from crystalfm.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

AUTO = "auto"
_GPU = frozenset({"auto", "gpu", "cuda"})


def num_gpus(accelerator: str) -> int:
    """Return how many GPUs a training on ``accelerator`` can have; 0 when it runs on CPUs."""
    if accelerator in _GPU and devices.num_cuda_devices() and not devices.torch_is_cpu_only():
        return devices.num_cuda_devices()
    return 1 if accelerator in {"auto", "gpu", "mps"} and devices.has_mps() else 0


def process_counts(processes: Sequence[int] | str, accelerator: str) -> list[int]:
    """Return the numbers of processes to measure, ascending; ``auto`` is 1 and 2 on CPUs, and 1, 2 and all on GPUs."""
    if not isinstance(processes, str):
        return sorted(int(number) for number in processes)
    gpus = num_gpus(accelerator)
    return sorted({1, min(2, gpus), gpus}) if gpus else [1, 2]


def bench_problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what of a checked tree cannot be measured.

    Args:
        tree: plain containers.
    """
    processes, trainer = tree["bench"]["processes"], tree["trainer"]
    counts = process_counts(processes, trainer["accelerator"])
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        yield Problem("bench.processes", f"{processes}: numbers from 1 on, each once, are needed", "use [1,2]")
        return
    gpus = num_gpus(trainer["accelerator"])
    if gpus and max(counts) > gpus:
        yield Problem(
            "bench.processes",
            f"{max(counts)} processes, but this process sees {gpus} GPUs",
            "ask for fewer, or measure on the CPUs with trainer=cpu",
        )
    if trainer["num_nodes"] != 1:
        yield Problem("trainer.num_nodes", "bench measures one machine", "use trainer.num_nodes=1")
    if tree["ckpt"] is not None:
        yield Problem("ckpt", "bench measures a training from its start", "remove it; nothing depends on the weights")
