"""Subclasses of Robocrystallographer's classes that do the same work once; see ``robocrys_text``.

Importing this module imports the library, which takes seconds: only ``robocrys_text`` does so, on demand.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matminer.featurizers.site import CrystalNNFingerprint
from matminer.featurizers.structure import SiteStatsFingerprint
from pymatgen.core.lattice import Lattice
from pymatgen.core.local_env import CrystalNN
from pymatgen.core.structure import Structure
from robocrys import StructureCondenser, StructureDescriber
from robocrys.condense.mineral import MineralMatcher, ReducedAflowPrototypeMatcher
from robocrys.condense.molecule import MoleculeNamer
from robocrys.condense.site import SiteAnalyzer

from crystalfm.chem.crystals import SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from pymatgen.core.structure_matcher import StructureMatcher

    from crystalfm.chem.crystals import Crystal

_NUMBER = "number"
_MATCH = {"type": "mineral", "distance": "distance", "structure": "structure"}
"""What the library tells about a match, and the columns it is taken from."""

_NO_OFFSET = (0, 0, 0)


class FastDescriber:
    """Describes crystals as the library does with its default settings."""

    def __init__(self) -> None:
        self._sites = _SiteFingerprints()
        self._condenser = _Condenser(self._sites)
        self._describer = StructureDescriber()

    def __call__(self, crystal: Crystal) -> str:
        """Return the library's text."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._sites.forget()
            return str(self._describer.describe(self._condenser.condense_structure(as_structure(crystal))))


def as_structure(crystal: Crystal) -> Structure:
    """Return the crystal as a pymatgen structure."""
    symbols = [SYMBOLS[number - 1] for number in crystal.atomic_numbers.tolist()]
    return Structure(Lattice(crystal.lattice), symbols, crystal.frac_coords)


def _with_names(function: Callable[..., Any], **names: object) -> Callable[..., Any]:
    """Return a function of the library that finds other helpers under some global names; the library stays as it is.

    A method becomes a function of the object and its arguments.
    """
    plain = getattr(function, "__func__", function)
    if not isinstance(plain, FunctionType):
        raise TypeError(f"{function} is not a function written in Python")
    scope = {**plain.__globals__, **names}
    found = FunctionType(plain.__code__, scope, plain.__name__, plain.__defaults__, plain.__closure__)
    found.__kwdefaults__ = plain.__kwdefaults__
    return found


# --------------------------------------------------------------------------- neighbours and fingerprints of sites


def _exact_key(structure: Iterable[Any]) -> tuple[Any, ...]:
    """Return a key that two structures share only if every site has the same element and the same coordinates."""
    sites = list(structure)
    return (
        sites[0].lattice.matrix.tobytes(),
        tuple(site.specie for site in sites),
        b"".join(site.frac_coords.tobytes() for site in sites),
    )


class _Neighbours(CrystalNN):
    """The library's neighbour search with its default settings, done once for each site of a crystal."""

    @cached_property
    def _found(self) -> dict[tuple[Any, ...], CrystalNN.NNData]:
        return {}

    def forget(self) -> None:
        """Drop what was found for earlier crystals."""
        self._found.clear()

    def get_nn_data(self, structure: Structure, n: int, length: int | None = None) -> CrystalNN.NNData:
        """Return the neighbours of site ``n``; see ``CrystalNN``."""
        key = (*_exact_key(structure), n, length)
        if key not in self._found:
            self._found[key] = super().get_nn_data(structure, n, length)
        return self._found[key]


class _SiteFingerprints:
    """The site fingerprints that the library asks for when it looks for minerals, and again for each site."""

    def __init__(self) -> None:
        self.neighbours = cast("Callable[[], _Neighbours]", _Neighbours)()
        self._vectors: dict[tuple[Any, ...], list[float]] = {}
        # What the preset "CrystalNNFingerprint_ops" stands for, and what the search for minerals takes.
        self._featurizer = CrystalNNFingerprint.from_preset("ops", cation_anion=False)
        self._featurizer.cnn = self.neighbours
        self._all_sites = SiteStatsFingerprint(self, stats=None)
        self._statistics = SiteStatsFingerprint(self, stats=("mean", "std_dev"))

    def forget(self) -> None:
        """Drop what was found for earlier crystals."""
        self.neighbours.forget()
        self._vectors.clear()

    def featurize(self, structure: Structure, site: int) -> list[float]:
        """Return the fingerprint of one site, as matminer's featurizer of sites."""
        key = (*_exact_key(structure), site)
        if key not in self._vectors:
            self._vectors[key] = self._featurizer.featurize(structure, site)
        return self._vectors[key]

    def feature_labels(self) -> list[str]:
        """Return the names of a fingerprint's numbers."""
        labels: list[str] = self._featurizer.feature_labels()
        return labels

    def of_sites(self, structure: Structure) -> list[dict[str, float]]:
        """Return what ``robocrys.condense.fingerprint.get_site_fingerprints`` returns."""
        vectors = np.array(self._all_sites.featurize(structure)).T
        labels = self._all_sites.feature_labels()
        return [dict(zip(labels, vector, strict=True)) for vector in vectors]

    def of_structure(self, structure: Structure) -> NDArray[np.float64]:
        """Return what ``robocrys.condense.fingerprint.get_structure_fingerprint`` returns."""
        return np.array(self._statistics.featurize(structure))


# --------------------------------------------------------------------------- minerals


@dataclass(frozen=True)
class _Prototype:
    """A mineral's cell as ``StructureMatcher`` reduces it, and the atoms of each element in it."""

    cell: Structure
    stoichiometry: tuple[float, ...] | None


def _stoichiometry(structure: Structure) -> tuple[float, ...] | None:
    """Return the atoms of each element in a cell, ascending; ``None`` where sites are partly occupied."""
    return tuple(sorted(structure.composition.values())) if structure.is_ordered else None


class _PrototypeMatcher(ReducedAflowPrototypeMatcher):
    """The library's matcher that passes over prototypes whose stoichiometry cannot match.

    An anonymous match needs as many sites in the primitive cell, and as many of each kind.

    Args:
        prototypes: all prototypes.
        database: the library's table of them, ordered, with their number among ``prototypes``.
        tolerances: of length, sites and angles.
    """

    def __init__(self, prototypes: Sequence[_Prototype], database: Any, tolerances: tuple[float, float, float]) -> None:
        super().__init__(*tolerances, mineral_db=database)
        self._prototypes = prototypes

    def _match_prototype(self, structure_matcher: StructureMatcher, s: Structure) -> list[dict[str, Any]]:
        reduced = _reduced(s)
        wanted = _stoichiometry(reduced)
        matches = []
        for place, number in enumerate(self._mineral_db[_NUMBER]):
            prototype = self._prototypes[number]
            if prototype.stoichiometry not in (None, wanted):
                continue
            if structure_matcher.fit_anonymous(prototype.cell, reduced, skip_structure_reduction=True):
                row = self._mineral_db.iloc[place]
                matches.append({name: row[column] for name, column in _MATCH.items()})
        return matches


def _reduced(structure: Structure) -> Structure:
    """Return the cell that ``StructureMatcher`` makes of a structure before it compares."""
    cell = structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
    return Structure.from_sites(cell)


class _MineralMatcher(MineralMatcher):
    """The library's matcher with the prototypes' cells and fingerprints made ready once."""

    def __init__(self, sites: _SiteFingerprints) -> None:
        super().__init__()
        self._sites = sites
        cells = [_reduced(structure) for structure in self.mineral_db["structure"]]
        self._prototypes = [_Prototype(cell, _stoichiometry(cell)) for cell in cells]
        self.mineral_db = self.mineral_db.assign(**{_NUMBER: np.arange(len(cells))})
        self._fingerprints = [np.array(vector) for vector in self.mineral_db["fingerprint"]]

    def get_aflow_matches(self, structure: Structure) -> list[dict[str, Any]] | None:
        """Return the prototypes that a structure matches, or ``None``."""
        self._set_distance_matrix(structure)
        tolerances = (self.initial_ltol, self.initial_stol, self.initial_angle_tol)
        matcher = _PrototypeMatcher(self._prototypes, self._mineral_db, tolerances)
        return matcher.get_prototypes(structure)

    def _set_distance_matrix(self, structure: Structure) -> None:
        """Order the prototypes by the distance of their fingerprint from the structure's."""
        if self._structure is structure:
            return
        # The library computes a fingerprint of small norm once more, in the same way.
        own = self._sites.of_structure(structure)
        distances = [np.linalg.norm(other - own) for other in self._fingerprints]
        self._mineral_db = self.mineral_db.assign(distance=distances).sort_values(by="distance")
        self._structure = structure


# --------------------------------------------------------------------------- sites and components


class _BondedStructure:
    """The part of a bonded structure that the analysis of sites looks at, each answer kept.

    Args:
        graph: pymatgen's ``StructureGraph``.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._connected: dict[tuple[int, tuple[int, ...]], list[Any]] = {}
        self.structure = _Sites.from_sites(graph.structure)

    def get_connected_sites(self, n: int, jimage: tuple[int, int, int] = _NO_OFFSET) -> list[Any]:
        """Return the sites bonded to site ``n`` of a cell; see ``StructureGraph``."""
        key = (n, tuple(jimage))
        if key not in self._connected:
            self._connected[key] = self._graph.get_connected_sites(n, jimage)
        return self._connected[key]


class _Sites(Structure):
    """A structure that is not changed, so that its array of coordinates is made once."""

    @cached_property
    def frac_coords(self) -> NDArray[np.float64]:
        """Fractional coordinates (N, 3)."""
        return np.array([site.frac_coords for site in self])


class _SiteAnalyzer(SiteAnalyzer):
    """The library's analysis of sites, which looks at each site's surroundings once instead of four times."""

    def __init__(self, fingerprints: _SiteFingerprints, bonded_structure: Any, **settings: Any) -> None:
        self._surroundings: dict[int, list[dict[str, Any]]] = {}
        # Each site stands for itself until the library has found out which are alike.
        self.equivalent_sites = list(range(len(bonded_structure.structure)))
        start = _with_names(SiteAnalyzer.__init__, get_site_fingerprints=fingerprints.of_sites)
        start(self, _BondedStructure(bonded_structure), **settings)

    def get_next_nearest_neighbors(
        self, site_index: int, inc_inequivalent_site_index: bool = True
    ) -> list[dict[str, Any]]:
        """Return the next nearest neighbours of a site; see ``SiteAnalyzer``."""
        if site_index not in self._surroundings:
            self._surroundings[site_index] = super().get_next_nearest_neighbors(site_index)
        found = [dict(neighbour) for neighbour in self._surroundings[site_index]]
        for neighbour in found:
            site = neighbour.pop("inequiv_index")
            if inc_inequivalent_site_index:
                neighbour["inequiv_index"] = self.equivalent_sites[site]
        return found


class _MoleculeNamer:
    """The library's names of molecules, read when the first molecule is met; PubChem is never asked."""

    @cached_property
    def _namer(self) -> MoleculeNamer:
        return MoleculeNamer(use_online_pubchem=False)

    def get_name_from_molecule_graph(self, graph: Any) -> str | None:
        """Return the name of a molecule, or ``None``; without Open Babel no molecule has one."""
        if MoleculeNamer.molecule_graph_to_smiles(graph) is None:
            return None
        name: str | None = self._namer.get_name_from_molecule_graph(graph)
        return name


class _Condenser(StructureCondenser):
    """The library's condenser over the classes above."""

    def __init__(self, sites: _SiteFingerprints) -> None:
        super().__init__(near_neighbors=sites.neighbours, mineral_matcher=_MineralMatcher(sites))
        namer = _MoleculeNamer()
        self._condense = _with_names(super().condense_structure, SiteAnalyzer=partial(_SiteAnalyzer, sites))
        self._components = _with_names(super()._condense_components, MoleculeNamer=lambda: namer)

    def condense_structure(self, structure: Structure) -> dict[str, Any]:
        """Return the facts that the text tells; see ``StructureCondenser``."""
        facts: dict[str, Any] = self._condense(self, structure)
        return facts

    def _condense_components(
        self, components: list[Any], spacegroup_analyzer: Any, site_analyzer: SiteAnalyzer
    ) -> tuple[dict[int, dict[str, Any]], list[int]]:
        found: tuple[dict[int, dict[str, Any]], list[int]] = self._components(
            self, components, spacegroup_analyzer, site_analyzer
        )
        return found
