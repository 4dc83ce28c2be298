"""Defects of one structure with the host they are in, as text that needs nothing else to be understood."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from crystalfm.chem.crystals import Crystal, CrystalError
from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.hosts import Host, Supercell

if TYPE_CHECKING:
    from crystalfm.chem.defects.rules import DefectRule


@dataclass(frozen=True)
class DefectRecord:
    """A configuration of defects and its supercell.

    The host's unit cell travels by value: releases differ in theirs, and a record out of a checkpoint or a table is
    whole without the files it came from.

    Attributes:
        host: the host's name (``MoS2``).
        size: unit cells along the three lattice vectors.
        cell: the host's unit cell, as ``Crystal.to_json`` writes it.
        configuration: the defects; their sites are numbered as ``Supercell`` says.
    """

    host: str
    size: tuple[int, int, int]
    cell: str
    configuration: Configuration

    @classmethod
    def of(cls, supercell: Supercell, configuration: Configuration) -> DefectRecord:
        """Return the record of a configuration of a supercell."""
        return cls(supercell.host.name, supercell.size, supercell.host.cell.to_json(), configuration)

    @property
    def supercell(self) -> Supercell:
        """The supercell; records of the same host and size share one, with its symmetry operations."""
        return shared_supercell(self.host, self.cell, self.size)

    @property
    def rules(self) -> tuple[DefectRule, ...]:
        """Rule of each defect, in the order of the configuration."""
        return self.configuration.rules(self.supercell)

    @property
    def type_name(self) -> str:
        """Name of its combination of defects (``W_Mo + 2 Se_S``)."""
        return self.configuration.type_name(self.supercell)

    @property
    def concentration(self) -> float:
        """Part of the sites that have a defect."""
        return len(self.configuration) / self.supercell.num_sites

    def crystal(self) -> Crystal:
        """Return the unrelaxed structure."""
        return self.configuration.crystal(self.supercell)

    def to_json(self) -> str:
        """Return compact JSON: host, size, unit cell, and the defects as ``[[site, atomic number], ...]``."""
        content = {
            "host": self.host,
            "size": list(self.size),
            "cell": json.loads(self.cell),
            "defects": [list(defect) for defect in self.configuration.defects],
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> DefectRecord:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: the text is no such JSON.
        """
        try:
            content = json.loads(text)
            columns, rows, layers = content["size"]
            cell = json.dumps(content["cell"], separators=(",", ":"))
            configuration = Configuration(tuple((int(site), int(number)) for site, number in content["defects"]))
            host = str(content["host"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no record of defects: {text[:80]!r}") from error
        return cls(host, (int(columns), int(rows), int(layers)), cell, configuration)


@lru_cache(maxsize=64)
def shared_supercell(host: str, cell: str, size: tuple[int, int, int]) -> Supercell:
    """Return a supercell; the same object for the same arguments, so that its symmetry is worked out once.

    Args:
        host: the host's name.
        cell: its unit cell, as ``Crystal.to_json`` writes it.
        size: unit cells along the three lattice vectors.

    Raises:
        ValueError: the cell is no crystal.
        UserError: the size is no layer's.
    """
    try:
        return Supercell(Host(host, Crystal.from_json(cell), size), size)
    except CrystalError as error:
        raise ValueError(f"the unit cell of {host} cannot be read: {error.reason}") from error
