"""Fully sharded data parallelism (FSDP2): which parts of a network the processes of a run share, and how.

Each process keeps an equal part of every weight, its gradient and its optimizer state. The weights of a layer are
gathered right before it runs and dropped after it, so that a device never holds all of them whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.distributed.device_mesh import DeviceMesh


def sharded_units(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a network that are gathered one at a time; what is left of it is one more.

    These are the layers of every stack: the items of the outermost ``nn.ModuleList``s, which is how transformers and
    this package hold their blocks. Items without weights are left out.
    """
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from sharded_units(child)


def shard_weights(network: nn.Module, mesh: DeviceMesh) -> None:
    """Share the weights of a network among the processes of a mesh, in place; a second call changes nothing.

    Args:
        network: network that is called as a whole.
        mesh: one-dimensional mesh of the processes.

    Raises:
        UserError: the trained weights of one unit are of several types, which cannot travel together.
    """
    if isinstance(network, FSDPModule):
        return
    for unit in (*sharded_units(network), network):
        _require_one_type(unit)
        fully_shard(unit, mesh=mesh)


def _require_one_type(unit: nn.Module) -> None:
    inner = {id(weight) for child in unit.modules() if isinstance(child, FSDPModule) for weight in child.parameters()}
    own = [weight for weight in unit.parameters() if weight.requires_grad and id(weight) not in inner]
    types = sorted({str(weight.dtype).removeprefix("torch.") for weight in own})
    if len(types) > 1:
        raise UserError(
            f"trainer.strategy=fsdp: a {type(unit).__name__} has trained weights of several types ({', '.join(types)})",
            remedy="hold all of them in one (llm.weights_dtype=float32), or freeze the language model's own weights"
            " (llm.trainable=none)",
        )


def is_sharded(module: nn.Module) -> bool:
    """Say whether a part of ``module`` is shared among processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a complete state dict into a module, of which each process takes its part where it is sharded.

    Raises:
        RuntimeError: keys or shapes differ.
    """
    if is_sharded(module):
        values: dict[str, Any] = dict(weights)
        strict = bool(getattr(module, "strict_loading", True))
        set_model_state_dict(module, values, options=StateDictOptions(full_state_dict=True, strict=strict))
    else:
        module.load_state_dict(weights)
