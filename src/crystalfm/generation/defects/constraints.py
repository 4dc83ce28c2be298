"""What an answer with the defects of a supercell has to fulfil."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crystalfm.chem.defects.rules import require_elements
from crystalfm.contracts import UserError
from crystalfm.generation.constraints import Constraint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.chem.defects.rules import DefectRule


@dataclass(frozen=True)
class DefectConstraint:
    """What an answer with the defects of a supercell has to fulfil; where the sites are is never up to the model.

    Args:
        supercell: the pristine supercell.
        rules: what may be done to its sites.
        min_defects: fewest defects.
        max_defects: most defects.
        counts: how many defects of each rule there have to be, among ``rules``; then the two numbers do not matter.
            None for any.

    Raises:
        UserError: the host lacks an element, a number is out of range, or there are not enough sites.
    """

    supercell: Supercell
    rules: tuple[DefectRule, ...]
    min_defects: int = 1
    max_defects: int = 3
    counts: Mapping[DefectRule, int] | None = None

    def __post_init__(self) -> None:
        host = self.supercell.host
        if not self.rules:
            raise UserError("there is no defect rule", remedy="rules=[v_S,Se_S,W_Mo]")
        require_elements(self.rules, host.name, host.elements)
        if self.counts is not None:
            self._check_counts(self.counts)
            return
        if not 0 <= self.min_defects <= self.max_defects or self.max_defects < 1:
            raise UserError(
                f"min_defects={self.min_defects}, max_defects={self.max_defects}: no answer has so many",
                remedy="max_defects=3, and min_defects not above it",
            )
        available = len(self.sites)
        if self.min_defects > available:
            raise UserError(
                f"{self.min_defects} defects do not fit on the {available} sites that the rules name",
                remedy=f"min_defects={available} or fewer, or a larger size",
            )

    @property
    def sites(self) -> frozenset[int]:
        """Sites that a rule may change."""
        return frozenset(site for element in {rule.removed for rule in self.rules} for site in self._sites_of(element))

    @property
    def fewest(self) -> int:
        """Fewest defects of an answer."""
        return self.min_defects if self.counts is None else sum(self.counts.values())

    @property
    def most(self) -> int:
        """Most defects of an answer."""
        return min(self.max_defects, len(self.sites)) if self.counts is None else sum(self.counts.values())

    @property
    def expected_size(self) -> int:
        """Measure of the length of an answer, to begin long ones first."""
        return self.most

    def allows(self, configuration: Configuration) -> bool:
        """Return whether a configuration fulfils it."""
        found = Counter(configuration.rules(self.supercell))
        if self.counts is not None:
            return found == Counter({rule: count for rule, count in self.counts.items() if count})
        return set(found) <= set(self.rules) and self.min_defects <= found.total() <= self.max_defects

    def _sites_of(self, element: str) -> list[int]:
        return self.supercell.sites_of(element)

    def _check_counts(self, counts: Mapping[DefectRule, int]) -> None:
        outside = sorted(rule.name for rule in set(counts) - set(self.rules))
        if outside:
            raise UserError(
                f"the counts name {', '.join(outside)}, which is not among the rules",
                remedy=f"rules: {', '.join(rule.name for rule in self.rules)}",
            )
        if not counts or min(counts.values()) < 0 or not any(counts.values()):
            raise UserError("the counts name no defect", remedy="one or more of a rule")
        wanted: Counter[str] = Counter()
        for rule, count in counts.items():
            wanted[rule.removed] += count
        for element, count in wanted.items():
            if count > len(self._sites_of(element)):
                raise UserError(
                    f"{count} defects do not fit on the {len(self._sites_of(element))} sites of {element}",
                    remedy="fewer defects, or a larger size",
                )


AnyConstraint = Constraint | DefectConstraint
