"""What the rooms agree on: data specifications, model requirements, batch keys, and the user's errors.

This module imports nothing heavy and nothing of ours; every other room may import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HARTREE_TO_EV = 27.211386245988
"""One Hartree in electronvolt (CODATA 2018)."""

SPLITS = ("train", "val", "test")
"""Names of the three parts of a data set, in the order in which they are reported."""


class UserError(Exception):
    """A mistake the user can mend: shown without a traceback, and the process ends with exit code 2.

    Args:
        message: what is wrong and where.
        remedy: what would fit, in one sentence or a list of choices.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  {self.remedy}"


@dataclass(frozen=True)
class TargetSpec:
    """A quantity to predict.

    Attributes:
        name: identifier used in the config (``gap``).
        unit: physical unit in which it is stored and reported (``hartree``, ``eV``, ``1`` when dimensionless).
        description: one line for tables and cards.
    """

    name: str
    unit: str
    description: str = ""

    @property
    def label(self) -> str:
        """Name with its unit, fit for a metric's or column's name (``gap_hartree``)."""
        unit = self.unit.replace("/", "_per_").replace("^", "").replace(" ", "_")
        return self.name if unit in {"", "1"} else f"{self.name}_{unit}"


@dataclass(frozen=True)
class ModalitySpec:
    """A view of a record that an encoder can eat.

    Attributes:
        name: identifier used in the config and as the prefix of batch keys.
        source_field: raw field of the record it is made from.
        description: one line for messages.
    """

    name: str
    source_field: str
    description: str


MODALITIES: Mapping[str, ModalitySpec] = {
    spec.name: spec
    for spec in (
        ModalitySpec("smiles", "smiles", "SMILES string as given by the data set"),
        ModalitySpec("selfies", "smiles", "SELFIES string made from the SMILES"),
        ModalitySpec("fingerprint", "smiles", "Morgan fingerprint of the molecule"),
        ModalitySpec("molecular_graph", "smiles", "atoms of the molecule and how each two are related"),
        ModalitySpec("crystal_graph", "structure", "atoms of the crystal, their neighbours and the angles between"),
        ModalitySpec("composition", "structure", "elements of the crystal and their shares"),
        ModalitySpec("crystal_text", "structure", "the crystal as text: cell, elements and coordinates"),
        ModalitySpec("defects", "defects", "point defects of a layer: how many, how far apart, on which side"),
        ModalitySpec("defect_graph", "defects", "point defects of a layer and the nearest defects of each"),
        ModalitySpec("description", "description", "text that describes the material or molecule"),
    )
}
"""Every modality the framework knows, by name."""


@dataclass(frozen=True)
class DataSpec:
    """What a data set provides.

    Attributes:
        name: config name of the data set.
        fields: raw fields each record can have (``smiles``, ``description``, ``structure``, ``defects``).
        targets: every target on offer; the config chooses among them.
        default_targets: the targets used when the config names none.
        licence: licence of the data.
        citation: reference to cite.
    """

    name: str
    fields: tuple[str, ...]
    targets: tuple[TargetSpec, ...]
    default_targets: tuple[str, ...]
    licence: str = ""
    citation: str = ""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that can be made from the fields, in registry order."""
        return tuple(m.name for m in MODALITIES.values() if m.source_field in self.fields)

    def select_targets(self, names: Sequence[str]) -> tuple[TargetSpec, ...]:
        """Return the chosen targets in the order asked for.

        Raises:
            UserError: a name is not among the data set's targets.
        """
        by_name = {target.name: target for target in self.targets}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise UserError(
                f"data set '{self.name}' has no target {', '.join(unknown)}",
                remedy=f"targets on offer: {', '.join(by_name)}",
            )
        return tuple(by_name[name] for name in names)


@dataclass(frozen=True)
class Requirements:
    """What a model needs of a data set.

    Attributes:
        modalities: modalities the model can use; it needs at least ``min_modalities`` of them.
        min_modalities: how many of them must be there (0 for models that look at targets alone).
        max_modalities: how many it can take at once, or ``None`` for no limit.
        frozen: those of ``modalities`` of which it takes a frozen encoder's vectors and nothing else.
        raw: those of ``modalities`` that it takes as they are, without an encoder.
    """

    modalities: tuple[str, ...] = ()
    min_modalities: int = 1
    max_modalities: int | None = None
    frozen: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()

    def problems(self, spec: DataSpec, chosen: Iterable[str]) -> list[str]:
        """Say why ``chosen`` modalities of ``spec`` do not fit; an empty list means they fit."""
        chosen = list(chosen)
        found = [
            f"data set '{spec.name}' has no {name} (it provides: {', '.join(spec.modalities) or 'none'})"
            for name in chosen
            if name not in spec.modalities
        ]
        found += [
            f"the model cannot use the modality {name} (it takes: {', '.join(self.modalities) or 'none'})"
            for name in chosen
            if name not in self.modalities
        ]
        if len(chosen) < self.min_modalities:
            found.append(f"the model needs at least {self.min_modalities} modality, {len(chosen)} chosen")
        if self.max_modalities is not None and len(chosen) > self.max_modalities:
            found.append(f"the model takes at most {self.max_modalities} modality, {len(chosen)} chosen")
        return found


@dataclass(frozen=True)
class BatchKey:
    """One named tensor of a batch.

    Attributes:
        pattern: key, with ``{m}`` for a modality name.
        shape: shape with symbols B (rows), R (packs of several rows' texts), T (targets; of triplets: their number), L
            (tokens or atoms), D (vector width), W (packed bytes), F (features of an atom), A (atoms of the batch), E
            (edges of the batch).
        dtype: torch dtype name.
        unit: physical unit or what the numbers mean.
    """

    pattern: str
    shape: str
    dtype: str
    unit: str = field(default="1")


BATCH_KEYS: tuple[BatchKey, ...] = (
    BatchKey("row", "(B,)", "int64", "row of the record table"),
    BatchKey("targets", "(B, T)", "float32", "the target's physical unit; 0 where missing"),
    BatchKey("target_mask", "(B, T)", "bool", "true where the target is known"),
    BatchKey("{m}.present", "(B,)", "bool", "true where the row has this modality"),
    BatchKey("{m}.embedding", "(B, D)", "float32", "output of a frozen encoder, from the cache"),
    BatchKey("{m}.tokens", "(B, L) or (R, L)", "int64", "token ids, padded on the right"),
    BatchKey("{m}.mask", "(B, L)", "bool", "true on real tokens or atoms"),
    BatchKey("{m}.labels", "(R, L)", "int64", "the token itself where it is learned, -100 elsewhere"),
    BatchKey("{m}.positions", "(R, L)", "int64", "place of the token in its own text, from 0"),
    BatchKey("{m}.segments", "(R, L)", "int64", "row of the batch to which the token belongs; -1 where padded"),
    BatchKey("{m}.decided", "(R, L)", "bool", "true where the grammar leaves a choice about the token"),
    BatchKey("{m}.bits", "(B, W)", "uint8", "fingerprint bits, eight to a byte, most significant first"),
    BatchKey("{m}.atoms", "(B, L, F)", "uint8", "features of each atom, see chem.molecular_graph.ATOM_FEATURES"),
    BatchKey("{m}.relations", "(B, L, L)", "uint8", "how two atoms are related, see chem.molecular_graph"),
    BatchKey(
        "{m}.atomic_numbers", "(A,)", "int64", "atomic number of each atom; of defects see chem.defects.sparse_graph"
    ),
    BatchKey("{m}.num_atoms", "(B,)", "int64", "atoms of each row; 0 where the modality is absent"),
    BatchKey("{m}.edge_source", "(E,)", "int64", "atom at which each edge starts, counted over the batch"),
    BatchKey("{m}.edge_target", "(E,)", "int64", "atom to an image of which it leads; ascending"),
    BatchKey("{m}.edge_vector", "(E, 3)", "float32", "angstrom, from the source to the target's image"),
    BatchKey("{m}.num_edges", "(B,)", "int64", "edges of each row"),
    BatchKey("{m}.triplet_first", "(T,)", "int64", "edge u → v of each pair of edges u → v, v → w of the line graph"),
    BatchKey("{m}.triplet_second", "(T,)", "int64", "edge v → w of each pair; ascending"),
)
"""The registry of batch tensors: no other key may appear in a batch."""


def batch_key(modality: str, kind: str) -> str:
    """Return the key of a modality's tensor (``batch_key("smiles", "tokens") == "smiles.tokens"``).

    Raises:
        KeyError: ``{m}.kind`` is not in the registry.
    """
    if f"{{m}}.{kind}" not in {key.pattern for key in BATCH_KEYS}:
        raise KeyError(f"no batch key of kind {kind!r}; add it to contracts.BATCH_KEYS")
    return f"{modality}.{kind}"
