"""Networks that the ``alignn`` package has trained and published, from their folders or zips of config and weights."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from crystalfm.chem.atom_features import NUM_CGCNN_FEATURES, cgcnn_atom_features
from crystalfm.chem.crystal_graph import GraphSettings
from crystalfm.contracts import UserError
from crystalfm.encoders.alignn import ALIGNN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CONFIG_FILE = "config.json"

_MAX_NEIGHBORS = 12
_CUTOFF_ANGSTROM = 5.0
"""What the package takes where a config does not say."""

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
    """A network that was published.

    Attributes:
        network: the network with its weights, in evaluation mode.
        settings: what ``ALIGNN`` was built with.
        graphs: how its graphs are made, or ``None`` where that is not done here.
        neighbor_strategy: name of the ``alignn`` package for how its graphs are made.
        ignored: weights of other heads that were left out.
    """

    network: ALIGNN
    settings: dict[str, Any]
    graphs: GraphSettings | None
    neighbor_strategy: str
    ignored: tuple[str, ...]


def load_published(path: Path) -> PublishedAlignn:
    """Load ``config.json`` and weights, as on figshare and in the wheels of the ``alignn`` package.

    Args:
        path: folder with the config and one ``.pt`` file, or several of which ``best_model.pt`` or else the last
            ``checkpoint_*.pt`` counts; a zip with such a folder in it; or a folder with such a zip and no config.

    Raises:
        UserError: files are missing or damaged, or the network is one that this class cannot express.
    """
    files = _files_of(path)
    config = _read_config(files)
    weights = _read_weights(files, _weights_file(files))
    settings = alignn_settings(config["model"], weights)
    network = ALIGNN(atom_table(int(weights["atom_embedding.layer.0.weight"].shape[1])), **settings)
    ignored = tuple(name for name in weights if name.startswith(_OTHER_HEADS))
    try:
        network.load_state_dict({name: value for name, value in weights.items() if name not in ignored})
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit {CONFIG_FILE}: {detail}") from error
    return PublishedAlignn(
        network.eval(),
        settings,
        graphs=graph_settings(config),
        neighbor_strategy=str(config.get("neighbor_strategy", "k-nearest")),
        ignored=ignored,
    )


def graph_settings(config: Mapping[str, Any]) -> GraphSettings | None:
    """Return how a published config has graphs made, or ``None`` for a way that is not known here."""
    strategy = config.get("neighbor_strategy", "k-nearest")
    if strategy == "k-nearest":
        return GraphSettings("k_nearest", int(config.get("max_neighbors") or _MAX_NEIGHBORS), as_alignn=True)
    if strategy == "pure_torch":
        cutoff = float(config.get("cutoff") or _CUTOFF_ANGSTROM)
        angle_cutoff = float(config.get("three_body_cutoff") or cutoff)
        return GraphSettings(
            "radius", cutoff_angstrom=cutoff, angle_cutoff_angstrom=min(angle_cutoff, cutoff), as_alignn=True
        )
    return None


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


@dataclass(frozen=True)
class _Files:
    """Config and weights of a folder, or of the folder inside a zip.

    Attributes:
        path: folder or zip, for messages.
        names: names of its ``.pt`` files, and of the config.
        read: returns the content of one of them.
    """

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]


def _files_of(path: Path) -> _Files:
    zips = sorted(path.glob("*.zip")) if path.is_dir() and not (path / CONFIG_FILE).is_file() else []
    if len(zips) == 1:
        path = zips[0]
    if not path.is_file():
        return _Files(path, tuple(file.name for file in path.glob("*")), lambda name: (path / name).read_bytes())
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no zip of a published ALIGNN: {error}", remedy="fetch it again") from error
    config = next((name for name in sorted(members, key=len) if PurePosixPath(name).name == CONFIG_FILE), CONFIG_FILE)
    inner = config.removesuffix(CONFIG_FILE)
    names = [name.removeprefix(inner) for name in members if name.startswith(inner)]

    def read(name: str) -> bytes:
        with zipfile.ZipFile(path) as opened:
            return opened.read(inner + name)

    return _Files(path, tuple(names), read)


def _read_config(files: _Files) -> dict[str, Any]:
    remedy = "give the folder or zip of a published ALIGNN"
    try:
        config: Any = json.loads(files.read(CONFIG_FILE).decode("utf-8"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{files.path / CONFIG_FILE} cannot be read: {error}", remedy=remedy) from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{files.path / CONFIG_FILE} has no section 'model'", remedy=remedy)
    return config


def _weights_file(files: _Files) -> str:
    names = sorted(name for name in files.names if name.endswith(".pt") and "/" not in name)
    if "best_model.pt" in names:
        return "best_model.pt"
    numbers = {name: name.removeprefix("checkpoint_").removesuffix(".pt") for name in names}
    numbered = [name for name in names if name.startswith("checkpoint_") and numbers[name].isdigit()]
    found = sorted(numbered, key=lambda name: int(numbers[name])) or names
    if not found:
        raise UserError(f"{files.path} holds no weights (*.pt)", remedy="give the folder or zip of a published ALIGNN")
    return found[-1]


class _Inert:
    """Stands for the optimizer's and the schedule's objects in a checkpoint: nothing of the file is called."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def _read_weights(files: _Files, name: str) -> dict[str, Tensor]:
    """Return the weights of a checkpoint; only tensors and plain containers of it are loaded."""
    path = files.path / name
    try:
        stream = io.BytesIO(files.read(name))
        inert: list[Any] = [(_Inert, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(stream)]
        stream.seek(0)
        with torch.serialization.safe_globals(inert):
            content: Any = torch.load(stream, map_location="cpu", weights_only=True)
    except (
        OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise UserError(f"{path} is not a checkpoint: {error}", remedy="fetch it again") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no weights", remedy="give the folder or zip of a published ALIGNN")
    return dict(weights)
