"""Networks that the ``alignn`` package has trained and published, from their folders of config and weights."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from crystalfm.chem.atom_features import NUM_CGCNN_FEATURES, cgcnn_atom_features
from crystalfm.contracts import UserError
from crystalfm.encoders.alignn import ALIGNN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_FILE = "config.json"

_MODELS = ("alignn", "alignn_layernorm", "alignn_atomwise", "alignn_atomwise_pure")

_SIZES = (
    "alignn_layers",
    "gcn_layers",
    "edge_input_features",
    "triplet_input_features",
    "embedding_features",
    "hidden_features",
    "output_features",
)

_OTHER_HEADS = ("fc_atomwise.", "fc_additional_output.", "_species_table")
"""Starts of weights that have no part in what a crystal's prediction is made of."""

_PLAIN: Mapping[str, Any] = {
    "classification": False,
    "extra_features": 0,
    "use_cutoff_function": False,
    "conv_type": "alignn",
}
"""Settings that change the network, and the only values of them that are supported."""


@dataclass(frozen=True)
class PublishedAlignn:
    """A network from a published folder.

    Attributes:
        network: the network with its weights, in evaluation mode.
        settings: what ``ALIGNN`` was built with.
        max_neighbors: neighbours of each atom in its graphs.
        neighbor_strategy: name of the ``alignn`` package for how its graphs are built.
        ignored: weights of other heads that were left out.
    """

    network: ALIGNN
    settings: dict[str, Any]
    max_neighbors: int
    neighbor_strategy: str
    ignored: tuple[str, ...]


def load_published(folder: Path) -> PublishedAlignn:
    """Load a folder with ``config.json`` and weights, as on figshare and in the wheels of the ``alignn`` package.

    Args:
        folder: folder with the config and one ``.pt`` file, or several of which ``best_model.pt`` or else the last
            ``checkpoint_*.pt`` counts.

    Raises:
        UserError: files are missing or damaged, or the network is one that this class cannot express.
    """
    config = _read_config(folder / CONFIG_FILE)
    weights = _read_weights(_weights_file(folder))
    settings = alignn_settings(config["model"], weights)
    network = ALIGNN(atom_table(int(weights["atom_embedding.layer.0.weight"].shape[1])), **settings)
    ignored = tuple(name for name in weights if name.startswith(_OTHER_HEADS))
    try:
        network.load_state_dict({name: value for name, value in weights.items() if name not in ignored})
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{folder}: the weights do not fit {CONFIG_FILE}: {detail}") from error
    neighbors = config.get("max_neighbors")
    return PublishedAlignn(
        network.eval(),
        settings,
        max_neighbors=12 if neighbors is None else int(neighbors),
        neighbor_strategy=str(config.get("neighbor_strategy", "k-nearest")),
        ignored=ignored,
    )


def alignn_settings(model: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Map the section ``model`` of a published config to the settings of ``ALIGNN``.

    Raises:
        UserError: the network is another one, or has a part that ``ALIGNN`` has not.
    """
    name = model.get("name")
    if name not in _MODELS:
        raise UserError(
            f"the published model '{name}' is not an ALIGNN", remedy=f"models that load: {', '.join(_MODELS)}"
        )
    odd = [f"{key}={model[key]}" for key, plain in _PLAIN.items() if model.get(key, plain) != plain]
    if odd:
        raise UserError(
            f"the published model '{name}' is built with {', '.join(odd)}, which is not supported",
            remedy="use a model without it",
        )
    missing = [key for key in _SIZES if key not in model]
    if missing:
        raise UserError(f"the config of the published model '{name}' lacks {', '.join(missing)}")
    batch_norm = "atom_embedding.layer.1.running_mean" in weights
    centres = weights.get("edge_embedding.0.centers")
    if centres is None or "atom_embedding.layer.0.weight" not in weights:
        raise UserError(f"the weights of the published model '{name}' are not those of an ALIGNN")
    return {
        **{key: int(model[key]) for key in _SIZES},
        "cutoff_angstrom": float(centres[-1]),
        "norm": "batch" if batch_norm else "layer",
        "link": str(model.get("link", "identity")),
    }


def atom_table(num_features: int) -> Tensor:
    """Return the table (119, F) of the elements' features of which a network takes ``num_features``.

    Raises:
        UserError: neither CGCNN's features nor the atomic number alone.
    """
    if num_features == NUM_CGCNN_FEATURES:
        return torch.tensor(cgcnn_atom_features())
    if num_features == 1:
        return torch.arange(len(cgcnn_atom_features()), dtype=torch.float32)[:, None]
    raise UserError(
        f"the published model takes {num_features} features of an atom",
        remedy=f"use one that takes CGCNN's {NUM_CGCNN_FEATURES} features, or the atomic number",
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", remedy="give the folder of a published ALIGNN") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{path} has no section 'model'", remedy="give the folder of a published ALIGNN")
    return config


def _weights_file(folder: Path) -> Path:
    best = folder / "best_model.pt"
    if best.is_file():
        return best
    numbered = [path for path in folder.glob("checkpoint_*.pt") if path.stem.removeprefix("checkpoint_").isdigit()]
    found = sorted(numbered, key=lambda path: int(path.stem.removeprefix("checkpoint_"))) or sorted(folder.glob("*.pt"))
    if not found:
        raise UserError(f"{folder} holds no weights (*.pt)", remedy="give the folder of a published ALIGNN")
    return found[-1]


class _Inert:
    """Stands for the optimizer's and the schedule's objects in a checkpoint: nothing of the file is called."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint; only tensors and plain containers of it are loaded."""
    try:
        inert: list[Any] = [(_Inert, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
        with torch.serialization.safe_globals(inert):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a checkpoint: {error}", remedy="fetch it again") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no weights", remedy="give the folder of a published ALIGNN")
    return dict(weights)
