"""What encoders of defects have in common: records out of texts, and the hosts and rules of the training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import Crystal
from crystalfm.chem.defects.hosts import Host
from crystalfm.chem.defects.recognition import recognise
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class KnownDefects:
    """Hosts and rules that a model has learned from.

    Attributes:
        hosts: distinct hosts of the training rows, with the unit cells of their release.
        rules: names of the rules of the training rows, sorted.
    """

    hosts: tuple[Host, ...] = ()
    rules: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Iterable[DefectRecord]) -> KnownDefects:
        """Return what records have."""
        hosts: dict[tuple[str, str], Host] = {}
        rules: set[str] = set()
        for record in records:
            hosts.setdefault((record.host, record.cell), record.supercell.host)
            rules.update(rule.name for rule in record.rules)
        return cls(tuple(hosts.values()), tuple(sorted(rules)))

    def state(self) -> dict[str, Any]:
        """Return plain containers from which ``of_state`` makes it again."""
        hosts = [
            {"name": host.name, "cell": host.cell.to_json(), "size": list(host.default_size)} for host in self.hosts
        ]
        return {"hosts": hosts, "rules": list(self.rules)}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> KnownDefects:
        """Return what ``state`` described."""
        hosts = []
        for host in state["hosts"]:
            columns, rows, layers = (int(number) for number in host["size"])
            hosts.append(Host(str(host["name"]), Crystal.from_json(str(host["cell"])), (columns, rows, layers)))
        return cls(tuple(hosts), tuple(str(name) for name in state["rules"]))

    @classmethod
    def of_encoders(cls, states: Mapping[str, Mapping[str, Any]]) -> KnownDefects:
        """Return what the first encoder of a model that looks at defects has learned; nothing where none does."""
        found = (state["known"] for state in states.values() if "known" in state)
        return cls.of_state(next(found, {"hosts": [], "rules": []}))

    def unknown(self, records: Iterable[DefectRecord]) -> list[str]:
        """Return the names of rules that the training rows have not, sorted."""
        return sorted({rule.name for record in records for rule in record.rules} - set(self.rules))

    def record_of(self, crystal: Crystal) -> DefectRecord:
        """Return the defects of an unrelaxed structure that a model can be asked about.

        Raises:
            UserError: it is of no known host, has no defect, or one of a rule that no training row has.
        """
        record = recognise(crystal, self.hosts)
        if not record.configuration.defects:
            raise UserError(f"it has no defect: it is pristine {record.host}")
        if unknown := self.unknown([record]):
            raise UserError(
                f"no training row has the defect {', '.join(unknown)} (they have {', '.join(self.rules)})",
            )
        return record


def read_records(values: Sequence[str | None]) -> list[DefectRecord]:
    """Return the records of the rows that have one, in order."""
    return [DefectRecord.from_json(value) for value in values if value is not None]
