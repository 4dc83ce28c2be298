"""What the processes of one run tell each other: flags, small states, and whether they agree.

Everything here works in a single process too, where there is nobody to ask. The calls are collective: every rank makes
the same ones in the same order.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOST_CONTACT = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")


class _CpuGroup:
    """Process group for tensors in host memory, so that no exchange waits for an accelerator."""

    def __init__(self) -> None:
        self._world: Any = None
        self._group: Any = None

    def get(self) -> Any:
        """Return the group; the first call after a start is collective."""
        world = distributed.group.WORLD
        if self._world is not world:
            self._group = world if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
            self._world = world
        return self._group


_CPU_GROUP = _CpuGroup()


def world_size() -> int:
    """Return the number of processes that are connected; 1 before they are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among the connected ones."""
    return distributed.get_rank() if world_size() > 1 else 0


def largest(value: int) -> int:
    """Return the largest ``value`` of all ranks."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.int64)
    distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX, group=_CPU_GROUP.get())
    return int(tensor)


def gather(value: Any) -> list[Any]:
    """Return the ``value`` of every rank, in the order of ranks.

    Args:
        value: tensors, numbers, strings, lists and dicts alone: it travels as a checkpoint does.
    """
    if world_size() == 1:
        return [value]
    buffer = io.BytesIO()
    torch.save(value, buffer)
    packed = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    room = largest(len(packed))
    padded = torch.zeros(room, dtype=torch.uint8)
    padded[: len(packed)] = packed
    received = [torch.empty(room, dtype=torch.uint8) for _ in range(world_size())]
    distributed.all_gather(received, padded, group=_CPU_GROUP.get())
    # A zip archive must end where its bytes end, so every rank also says how long its own is.
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in received]
    distributed.all_gather(lengths, torch.tensor([len(packed)]), group=_CPU_GROUP.get())
    return [
        torch.load(io.BytesIO(item[: int(length)].numpy().tobytes()), weights_only=True)
        for item, length in zip(received, lengths, strict=True)
    ]


def gather_rows(rows: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of all ranks, each once and in ascending order, with their values.

    Args:
        rows: (K,) row numbers of this rank; a row may come on several ranks.
        values: (K, T) values of these rows.

    Returns:
        (N,) rows and (N, T) values.
    """
    parts = gather({"rows": torch.from_numpy(rows), "values": torch.from_numpy(values)})
    all_rows = np.concatenate([part["rows"].numpy() for part in parts])
    all_values = np.concatenate([part["values"].numpy() for part in parts])
    unique, first = np.unique(all_rows, return_index=True)
    return unique, all_values[first]


def require_same(facts: dict[str, str]) -> None:
    """Check that every rank has the same facts, such as the run folder and the hash of the data.

    Raises:
        UserError: on all ranks, when they differ.
    """
    everywhere = gather(facts)
    for name in facts:
        values = {other[name]: number for number, other in reversed(list(enumerate(everywhere)))}
        if len(values) > 1:
            shown = "; ".join(f"rank {number}: {value}" for value, number in sorted(values.items(), key=lambda x: x[1]))
            raise UserError(
                f"the processes of this run differ in the {name} ({shown})",
                remedy="start all of them with the same arguments and files; to processes that another program starts,"
                " give the same CRYSTALFM_RUN_STAMP",
            )


def lost_contact(error: BaseException) -> bool:
    """Say whether an exception means that another process of the run is gone."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST_CONTACT)


def disconnect() -> None:
    """Leave the process group, so that the next run of this process can make its own."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
