"""``crystalfm defects``: every symmetry-distinct configuration of a few defects, or random ones of many, as files."""

from __future__ import annotations

import csv
import time
import warnings
from dataclasses import dataclass
from math import comb, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalfm.chem.defects.configurations import Configuration, multiplicities
from crystalfm.chem.defects.enumeration import (
    all_types,
    enumerate_configurations,
    low_density_types,
    num_defects,
    random_configurations,
)
from crystalfm.chem.defects.hosts import Supercell, find_host
from crystalfm.chem.defects.rules import parse_rules, require_elements, type_name
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import UserError
from crystalfm.io.files import atomic_write, write_json, write_text
from crystalfm.metrics.crystals.structures import as_structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from crystalfm.chem.crystals import Crystal
    from crystalfm.chem.defects.enumeration import DefectType
    from crystalfm.chem.defects.rules import DefectRule

MAX_CONFIGURATIONS = 2_000_000
"""More than this many are not enumerated; they are drawn."""

TABLE = "configurations.csv"
CRYSTALS = "crystals"
"""Folder of the CIF files."""


@dataclass(frozen=True)
class FoundType:
    """Configurations of one combination of defects.

    Attributes:
        name: its name (``W_Mo + 2 Se_S``).
        configurations: in canonical form, no two of them equivalent.
        multiplicities: how many equivalent ones each stands for.
    """

    name: str
    configurations: list[Configuration]
    multiplicities: list[int]


@dataclass(frozen=True)
class FoundConfigurations:
    """What was enumerated or drawn.

    Attributes:
        supercell: the supercell they are of.
        types: by combination of defects.
        num_operations: symmetry operations of the supercell, translations among them.
        seconds: how long it took.
    """

    supercell: Supercell
    types: list[FoundType]
    num_operations: int
    seconds: float

    @property
    def total(self) -> int:
        """Number of configurations."""
        return sum(len(found.configurations) for found in self.types)


def enumerate_defects(cfg: DictConfig) -> FoundConfigurations:
    """Find every symmetry-distinct configuration of up to ``max_defects`` defects.

    Args:
        cfg: configuration of ``defects_enumerate.yaml``, checked.

    Raises:
        UserError: the host is unknown or lacks an element, the supercell is too small, or there are too many.
    """
    supercell, rules = _supercell(cfg)
    kinds = _types(cfg, supercell, rules)
    started = time.perf_counter()
    permutations = site_permutations(supercell)
    expected = sum(_expected(supercell, kind, len(permutations)) for kind in kinds)
    if expected > MAX_CONFIGURATIONS:
        raise UserError(
            f"there are more than {expected:,.0f} configurations of up to {cfg.max_defects} defects,"
            f" and at most {MAX_CONFIGURATIONS:,} are enumerated",
            remedy="a smaller max_defects, fewer rules, or draw some: crystalfm defects random",
        )
    found = [
        FoundType(type_name(kind), configurations, multiplicities(configurations, permutations))
        for kind, configurations in enumerate_configurations(supercell, kinds)
    ]
    return FoundConfigurations(supercell, found, len(permutations), time.perf_counter() - started)


def random_defects(cfg: DictConfig) -> FoundConfigurations:
    """Draw configurations of a concentration, no two of them equivalent, and sort them by type.

    Args:
        cfg: configuration of ``defects_random.yaml``, checked.

    Raises:
        UserError: the host is unknown or lacks an element, or the supercell is too small for the concentration.
    """
    supercell, rules = _supercell(cfg)
    started = time.perf_counter()
    count = num_defects(supercell, cfg.concentration)
    drawn = random_configurations(supercell, rules, count, cfg.number, np.random.default_rng(cfg.seed))
    permutations = site_permutations(supercell)
    by_type: dict[str, list[Configuration]] = {}
    for configuration in drawn:
        by_type.setdefault(configuration.type_name(supercell), []).append(configuration)
    found = [FoundType(name, own, multiplicities(own, permutations)) for name, own in sorted(by_type.items())]
    return FoundConfigurations(supercell, found, len(permutations), time.perf_counter() - started)


def require_new(output: str | None) -> Path | None:
    """Return the folder to write into; ``None`` where nothing is to be written.

    Raises:
        UserError: something is there already.
    """
    if output is None:
        return None
    folder = Path(output).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"output={output} is there already", remedy="give a new folder")
    return folder


def write_configurations(folder: Path, found: FoundConfigurations, *, cif: bool) -> None:
    """Write ``configurations.csv``, the pristine supercell and, where asked for, a CIF of each configuration.

    Columns: index, type, num_defects, defects (``[[site, atomic number], ...]``, 0 for a vacancy; sites are numbered as
    the atoms of ``pristine.cif``, from 0), sites (the same to read), multiplicity (equivalent configurations).
    """
    supercell = found.supercell
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "pristine.cif", _cif(Configuration(()).crystal(supercell)))
    with atomic_write(folder / TABLE, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["index", "type", "num_defects", "defects", "sites", "multiplicity"])
        for index, name, configuration, multiplicity in _numbered(found):
            words = _sites(configuration, supercell)
            writer.writerow([index, name, len(configuration), configuration.to_json(), words, multiplicity])
    if cif:
        for index, name, configuration, _ in _numbered(found):
            file = folder / CRYSTALS / f"{index:06d}_{name.replace(' ', '')}.cif"
            write_text(file, _cif(configuration.crystal(supercell)))
    write_json(
        folder / "report.json",
        {
            "host": supercell.host.name,
            "size": list(supercell.size),
            "num_sites": supercell.num_sites,
            "num_operations": found.num_operations,
            "types": {kind.name: len(kind.configurations) for kind in found.types},
            "total": found.total,
            "seconds": found.seconds,
        },
    )


def _supercell(cfg: DictConfig) -> tuple[Supercell, tuple[DefectRule, ...]]:
    host = find_host(cfg.host)
    rules = parse_rules(cfg.rules)
    require_elements(rules, host.name, host.elements)
    size = tuple(host.default_size if cfg.size is None else cfg.size)
    if len(size) != len(host.default_size):
        raise UserError(f"size={list(size)} is no supercell", remedy=f"size={list(host.default_size)}")
    return Supercell(host, (size[0], size[1], size[2])), rules


def _types(cfg: DictConfig, supercell: Supercell, rules: Sequence[DefectRule]) -> list[DefectType]:
    """Return the combinations of defects to enumerate."""
    if cfg.types == "all":
        return all_types(rules, cfg.max_defects)
    sites = {symbol: len(supercell.sites_of(symbol)) for symbol in supercell.host.elements}
    chalcogens = [symbol for symbol, number in sites.items() if number == max(sites.values())]
    if len(chalcogens) != 1 or len(sites) == 1:
        raise UserError(
            f"types=low_density is for hosts of a metal and twice as much of a chalcogen, not {supercell.host.name}",
            remedy="host=MoS2 or host=WSe2, or types=all",
        )
    names = {of: [rule.name for rule in rules if (rule.removed in chalcogens) is of] for of in (True, False)}
    if not names[True] or not names[False]:
        lacking = chalcogens[0] if not names[True] else next(symbol for symbol in sites if symbol not in chalcogens)
        raise UserError(f"types=low_density needs rules of {lacking} too", remedy=f"a rule such as v_{lacking}")
    return [kind for kind in low_density_types(names[False], names[True]) if len(kind) <= cfg.max_defects]


def _expected(supercell: Supercell, kind: DefectType, num_operations: int) -> float:
    """Return a lower bound of the number of configurations of a type: all of them by the number of operations."""
    ways = 1
    for symbol in {rule.removed for rule in kind}:
        counts = [kind.count(rule) for rule in dict.fromkeys(kind) if rule.removed == symbol]
        sites = len(supercell.sites_of(symbol))
        left = [sites - sum(counts[:place]) for place in range(len(counts))]
        ways *= prod(comb(max(free, 0), count) for free, count in zip(left, counts, strict=True))
    return ways / num_operations


def _numbered(found: FoundConfigurations) -> list[tuple[int, str, Configuration, int]]:
    rows = [
        (kind.name, configuration, multiplicity)
        for kind in found.types
        for configuration, multiplicity in zip(kind.configurations, kind.multiplicities, strict=True)
    ]
    return [(index, *row) for index, row in enumerate(rows)]


def _sites(configuration: Configuration, supercell: Supercell) -> str:
    """Return the defects to read: rule, then atom of the unit cell, column and row of each."""
    places = supercell.places
    return "; ".join(
        f"{rule.name} at {','.join(map(str, places[site].tolist()))}"
        for rule, (site, _) in zip(configuration.rules(supercell), configuration.defects, strict=True)
    )


def _cif(crystal: Crystal) -> str:
    from pymatgen.io.cif import CifWriter

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return str(CifWriter(as_structure(crystal)))
