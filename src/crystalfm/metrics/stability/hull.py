"""Convex hulls of energy: which mixture of reference phases a crystal competes with, and how far above it it lies.

The hull of a reference set is made of the energies that the calculator gives the set's crystals **as they are**. Those
of the Materials Project were relaxed with DFT, not with the calculator; relaxed with it they would lie a little lower.
Their energies are upper bounds, hence the hull is a little too high, and energies above it a little too low: samples
look somewhat more stable than they are. All parts of a reference set may take part, test rows too: a hull holds what
is known of phases, and nothing is learned from it.

Elements of which the set has no crystal get an energy by regression (see ``elements``) where its energies of formation
are known.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalfm.chem.crystals import SYMBOLS, atomic_number
from crystalfm.contracts import UserError
from crystalfm.io.files import atomic_write, sha256_file, sha256_json
from crystalfm.metrics.stability.elements import fit_elements
from crystalfm.metrics.stability.relaxation import energy_generator, single_point_energies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from crystalfm.chem.crystals import Crystal

FILE_FORMAT = """a JSON file, perhaps gzip-compressed: a list of entries, or an object with the list under "entries", or
the column "entry" of a table as pandas writes it. An entry holds "composition" (a formula or counts by element) and
"energy" in eV of that composition, or "energy_per_atom" in eV/atom; and perhaps "correction" in eV, or
"energy_adjustments" as pymatgen writes them, which are added."""
"""What ``read_entries`` reads."""

_EXPECTED = f"expected is {' '.join(FILE_FORMAT.split())}"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class HullEntry:
    """A phase of known energy.

    Attributes:
        counts: atoms by element symbol.
        energy_per_atom: energy in eV/atom.
        fitted: whether it is an element's energy by regression.
    """

    counts: Mapping[str, float]
    energy_per_atom: float
    fitted: bool = False

    @property
    def fractions(self) -> tuple[tuple[str, float], ...]:
        """Share of each element, ordered, to 1e-6: equal for equal compositions, a name for them."""
        total = math.fsum(self.counts.values())
        return tuple(sorted((name, round(count / total, 6)) for name, count in self.counts.items() if count > 0))

    @property
    def elements(self) -> frozenset[str]:
        """Elements there are atoms of."""
        return frozenset(name for name, count in self.counts.items() if count > 0)


def entry_of(crystal: Crystal, energy: float) -> HullEntry:
    """Return a crystal's entry, of its energy in eV of the cell."""
    counts: dict[str, float] = {}
    for number in crystal.atomic_numbers.tolist():
        symbol = SYMBOLS[number - 1]
        counts[symbol] = counts.get(symbol, 0.0) + 1.0
    return HullEntry(counts, energy / crystal.num_atoms)


class ConvexHull:
    """Convex hulls of every chemical system that is asked about, made when they are.

    Args:
        entries: phases; of each composition only the lowest counts.
        source: what they are, for reports.
        about: what else a report says of them.

    Attributes:
        num_entries: phases given, fitted elements among them.
        num_fitted: fitted elements.
        num_compositions: compositions among the phases.
        elements: elements with an entry of their own.
    """

    def __init__(self, entries: Iterable[HullEntry], source: str, about: Mapping[str, object] | None = None) -> None:
        lowest: dict[tuple[tuple[str, float], ...], HullEntry] = {}
        self.num_entries = self.num_fitted = 0
        for entry in entries:
            self.num_entries += 1
            self.num_fitted += entry.fitted
            known = lowest.setdefault(entry.fractions, entry)
            if entry.energy_per_atom < known.energy_per_atom:
                lowest[entry.fractions] = entry
        self.source = source
        self.about = dict(about or {})
        self.num_compositions = len(lowest)
        self.elements = frozenset(key[0][0] for key in lowest if len(key) == 1)
        self._by_system: dict[frozenset[str], list[HullEntry]] = {}
        for entry in lowest.values():
            self._by_system.setdefault(entry.elements, []).append(entry)
        self._diagrams: dict[frozenset[str], Any] = {}

    def missing(self, entry: HullEntry) -> list[str]:
        """Return the elements of an entry without a reference phase of their own, for which no hull is defined."""
        return sorted(entry.elements - self.elements)

    def energy_above(self, entry: HullEntry) -> float | None:
        """Return the energy above the hull in eV/atom: negative below it, ``None`` where no hull is defined.

        The hull is that of the reference alone; an entry below it would be a vertex of a new one.
        """
        if self.missing(entry):
            return None
        from pymatgen.core.composition import Composition

        diagram = self._diagram(entry.elements)
        return float(entry.energy_per_atom - diagram.get_hull_energy_per_atom(Composition(dict(entry.counts))))

    def _diagram(self, system: frozenset[str]) -> Any:
        if system not in self._diagrams:
            from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
            from pymatgen.core.composition import Composition

            phases = [phase for part, found in self._by_system.items() if part <= system for phase in found]
            compositions = [Composition(dict(phase.counts)) for phase in phases]
            pairs = zip(compositions, phases, strict=True)
            self._diagrams[system] = PhaseDiagram(
                [PDEntry(one, phase.energy_per_atom * one.num_atoms) for one, phase in pairs]
            )
        return self._diagrams[system]

    def as_dict(self) -> dict[str, object]:
        """Return what a report says of the hull."""
        return {
            "source": self.source,
            "entries": self.num_entries,
            "compositions": self.num_compositions,
            "elements_with_a_phase": len(self.elements),
            "elements_fitted": self.num_fitted,
            **self.about,
        }


def reference_hull(
    crystals: Sequence[Crystal],
    formation_energies: Sequence[float] | None,
    cache: Path,
    source: str,
    *,
    device: str = "auto",
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> ConvexHull:
    """Return the hull of reference crystals as they are, computed with the calculator.

    Its entries are kept in ``hulls/`` of the cache under a name made of the crystals and the versions, in the format
    that ``read_entries`` reads.

    Args:
        crystals: reference crystals.
        formation_energies: their energies of formation in eV/atom, NaN where unknown, from which the energies of
            elements without a crystal are fitted; ``None`` leaves such elements undefined.
        cache: root of the cache.
        source: what they are, for reports.
        device: see ``relaxation.RelaxationSettings``.
        batch_size: crystals computed at once.
        progress: called with (crystals done, crystals to do) now and then.

    Raises:
        UserError: a package is missing, or the cache cannot be written.
    """
    identity = energy_generator().identity()
    known = [None] * len(crystals) if formation_energies is None else [_rounded(one) for one in formation_energies]
    content = sorted(sha256_json([one.to_json(), value]) for one, value in zip(crystals, known, strict=True))
    path = cache / "hulls" / f"chgnet-{sha256_json([_FORMAT_VERSION, identity, content])[:16]}.json.gz"
    if path.is_file():
        return ConvexHull(read_entries(path), source, _about(path))
    energies = single_point_energies(crystals, cache, device=device, batch_size=batch_size, progress=progress)
    computed = [(row, energy) for row, energy in enumerate(energies) if isinstance(energy, float)]
    entries = [entry_of(crystals[row], energy) for row, energy in computed]
    about: dict[str, object] = {"crystals_without_energy": len(crystals) - len(entries), "fit": None}
    if formation_energies is not None:
        fitted, about["fit"] = _fitted_elements(entries, [formation_energies[row] for row, _ in computed])
        entries += fitted
    if entries:
        write_entries(path, entries, about | {"source": source, **identity})
    return ConvexHull(entries, source, about)


def _rounded(energy: float) -> float | None:
    return round(energy, 9) if math.isfinite(energy) else None


def _fitted_elements(
    entries: Sequence[HullEntry], formation_energies: Sequence[float]
) -> tuple[list[HullEntry], dict[str, object] | None]:
    """Return entries of the elements that have none, by regression, and how well it went."""
    energies = [entry.energy_per_atom for entry in entries]
    fit = fit_elements([entry.counts for entry in entries], energies, formation_energies)
    if fit is None:
        return [], None
    there = {name for entry in entries if len(entry.elements) == 1 for name in entry.elements}
    missing = {name: energy for name, energy in fit.energies.items() if name not in there}
    return [HullEntry({name: 1.0}, energy, fitted=True) for name, energy in missing.items()], fit.as_dict()


def write_entries(path: Path, entries: Sequence[HullEntry], about: Mapping[str, object]) -> None:
    """Write entries as gzip-compressed JSON, with what they are."""
    listed = [
        {"composition": dict(entry.counts), "energy_per_atom": entry.energy_per_atom}
        | ({"fitted": True} if entry.fitted else {})
        for entry in entries
    ]
    text = json.dumps({"about": dict(about), "entries": listed}, separators=(",", ":"))
    with atomic_write(path) as stream:
        stream.write(gzip.compress(text.encode(), mtime=0))


def _about(path: Path) -> dict[str, object]:
    """Return what ``reference_hull`` wrote about its entries."""
    about = _content(path)["about"]
    return {name: about[name] for name in ("crystals_without_energy", "fit")}


def read_entries(path: Path) -> list[HullEntry]:
    """Read the entries of a file; see ``FILE_FORMAT``.

    Raises:
        UserError: the file is missing or unreadable, or an entry lacks composition or energy.
    """
    entries = []
    for number, item in enumerate(_listed(_content(path))):
        try:
            entries.append(_entry(item))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, entry {number}: {error!r}", remedy=_EXPECTED) from error
    if not entries:
        raise UserError(f"{path} holds no entries of a hull", remedy=_EXPECTED)
    return entries


def _content(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        return json.loads(gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"the hull's entries {path} cannot be read: {error}", remedy=_EXPECTED) from error


def file_hull(path: Path) -> ConvexHull:
    """Return the hull of a file's entries, whose energies must compare with the calculator's.

    Raises:
        UserError: see ``read_entries``.
    """
    return ConvexHull(read_entries(path), f"{path.name}, SHA-256 {sha256_file(path)[:12]}")


def _listed(content: Any) -> Iterator[Any]:
    """Yield the entries of any of the layouts."""
    if isinstance(content, dict):
        content = content.get("entries", content.get("entry"))
    if isinstance(content, dict):
        content = list(content.values())
    yield from content if isinstance(content, list) else []


def _entry(item: Mapping[str, Any]) -> HullEntry:
    composition = item["composition"]
    if isinstance(composition, str):
        from pymatgen.core.composition import Composition

        composition = Composition(composition).get_el_amt_dict()
    counts = {str(name): float(count) for name, count in composition.items()}
    for name in counts:
        atomic_number(name)
    total = math.fsum(counts.values())
    if not total > 0:
        raise ValueError("a composition without atoms")
    per_atom = float(item["energy_per_atom"]) if "energy_per_atom" in item else float(item["energy"]) / total
    per_atom += _correction(item) / total
    if not math.isfinite(per_atom):
        raise ValueError("an energy that is no number")
    return HullEntry(counts, per_atom, fitted=item.get("fitted") is True)


def _correction(item: Mapping[str, Any]) -> float:
    """Return what is to be added to an entry's energy, in eV of its composition."""
    adjustments = item.get("energy_adjustments")
    if adjustments is None:
        return float(item.get("correction") or 0.0)
    return math.fsum(_adjustment(one) for one in adjustments)


def _adjustment(item: Mapping[str, Any]) -> float:
    """Return the value of one of pymatgen's adjustments: whole, or by atom or by formula unit times a number."""
    if "value" in item:
        return float(item["value"])
    return float(item["adj_per_atom"]) * float(item["n_atoms"])
