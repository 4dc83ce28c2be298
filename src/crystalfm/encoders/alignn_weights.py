"""Where the weights of a pretrained ALIGNN come from: an asset, files of the ``alignn`` package, or a run of ours."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.contracts import UserError
from crystalfm.encoders.alignn import ALIGNN
from crystalfm.encoders.alignn_published import CONFIG_FILE, atom_table, load_published
from crystalfm.io.checkpoints import PAYLOAD_KEY, REFERENCE_FILE, find_checkpoint, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.assets.store import AssetStore

_FIRST_WEIGHT = "atom_embedding.layer.0.weight"
_HEAD = "fc."


@dataclass(frozen=True)
class AlignnWeights:
    """A pretrained ALIGNN without its head.

    Attributes:
        architecture: what ``ALIGNN`` is built with, and ``num_atom_features``.
        graphs: how the graphs were made on which it was trained.
        tensors: weights and running statistics by name.
        sha256: digest of ``tensors``.
        source: where they come from, for people.
    """

    architecture: dict[str, Any]
    graphs: GraphSettings
    tensors: dict[str, Tensor]
    sha256: str
    source: str

    def build(self) -> ALIGNN:
        """Return the network with its weights, in evaluation mode."""
        network = untrained(self.architecture)
        network.load_state_dict(self.tensors)
        return network.eval()

    def state(self) -> dict[str, Any]:
        """Return plain containers and tensors from which ``weights_of_state`` makes it again."""
        return {
            "architecture": dict(self.architecture),
            "graphs": self.graphs.identity(),
            "weights": dict(self.tensors),
            "sha256": self.sha256,
            "source": self.source,
        }


def untrained(architecture: Mapping[str, Any]) -> ALIGNN:
    """Return a new network without a head."""
    settings = dict(architecture)
    return ALIGNN(atom_table(int(settings.pop("num_atom_features"))), output_features=0, **settings)


def find_weights(weights: str, store: AssetStore, key: str) -> AlignnWeights:
    """Read pretrained weights.

    Args:
        weights: name of an asset; else a folder or zip of the ``alignn`` package, or a run folder or checkpoint of
            this framework whose model has an encoder of this kind.
        store: where assets come from.
        key: setting that says ``weights``, for messages.

    Raises:
        UserError: there is nothing of this name, or it holds no such network.
    """
    path = Path(weights).expanduser()
    if not path.exists():
        if path.name == weights and not path.suffix:
            return _of_package(store.fetch(weights).folder, weights, key)
        raise UserError(
            f"{key}={weights}: no such file or folder",
            remedy="give an asset's name (python -m crystalfm.fetch), a published folder or zip, or a run folder",
        )
    if _is_package(path):
        return _of_package(path, str(path), key)
    return _of_checkpoint(find_checkpoint(path, key=key), key)


def weights_of_state(state: Mapping[str, Any]) -> AlignnWeights:
    """Restore what ``AlignnWeights.state`` returned.

    Raises:
        UserError: graphs are made in another way by this release.
    """
    return AlignnWeights(
        dict(state["architecture"]),
        graphs_of_state(state["graphs"]),
        dict(state["weights"]),
        str(state["sha256"]),
        str(state["source"]),
    )


def graphs_of_state(identity: Mapping[str, Any]) -> GraphSettings:
    """Return the settings whose ``identity`` this is.

    Raises:
        UserError: there are none in this release.
    """
    names = GraphSettings.__dataclass_fields__
    settings = GraphSettings(**{name: value for name, value in identity.items() if name in names})
    if settings.identity() != dict(identity):
        raise UserError(
            f"the checkpoint has crystal graphs of {dict(identity)}, here they are made with {settings.identity()}",
            remedy="use the release that made the checkpoint",
        )
    return settings


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _is_package(path: Path) -> bool:
    """Say whether a path holds files of the ``alignn`` package; a checkpoint of torch is a zip as well."""
    if (path / REFERENCE_FILE).is_file():
        return False
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() or any(path.glob("*.zip"))
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == CONFIG_FILE for name in archive.namelist())


def _of_package(path: Path, source: str, key: str) -> AlignnWeights:
    found = load_published(path)
    if found.graphs is None:
        raise UserError(
            f"{key}={source}: neighbor_strategy={found.neighbor_strategy} is a way to make graphs that is unknown",
            remedy="use a network with the strategy k-nearest or pure_torch",
        )
    kept = {name: value for name, value in found.settings.items() if name not in {"output_features", "link"}}
    architecture = {**kept, "num_atom_features": int(found.network.features.shape[1])}
    found.network.fc = None
    tensors = found.network.state_dict()
    return AlignnWeights(architecture, found.graphs, tensors, digest(tensors), source)


def _of_checkpoint(path: Path, key: str) -> AlignnWeights:
    checkpoint = read_checkpoint(path)
    states = checkpoint[PAYLOAD_KEY]["encoders"].values()
    found = [state for state in states if "architecture" in state and "graphs" in state]
    if len(found) != 1:
        raise UserError(
            f"{key}={path}: the model has {len(found)} encoders of the kind alignn, not one",
            remedy="give a run with one, such as experiment=alignn_mp_formation_energy",
        )
    state = found[0]
    if "weights" in state:
        return weights_of_state(state)
    tensors = _part(checkpoint["state_dict"], path, key)
    return AlignnWeights(
        dict(state["architecture"]), graphs_of_state(state["graphs"]), tensors, digest(tensors), _run_name(path)
    )


def _run_name(path: Path) -> str:
    """Return name and time of the run that a checkpoint lies in, or the file's name."""
    resolved = path.resolve()
    return "/".join(resolved.parts[-4:-2]) if resolved.parent.name == "checkpoints" else path.name


def _part(weights: Mapping[str, Any], path: Path, key: str) -> dict[str, Tensor]:
    """Return the encoder's part of a model's weights, under the names that it has in the encoder."""
    starts = [name.removesuffix(_FIRST_WEIGHT) for name in weights if name.endswith(_FIRST_WEIGHT)]
    if len(starts) != 1:
        raise UserError(f"{key}={path}: the checkpoint holds the weights of {len(starts)} ALIGNN networks, not of one")
    names = {name.removeprefix(starts[0]): name for name in weights if name.startswith(starts[0])}
    found = {short: weights[name] for short, name in names.items() if not short.startswith(_HEAD)}
    return {short: tensor.float() if tensor.is_floating_point() else tensor for short, tensor in found.items()}
