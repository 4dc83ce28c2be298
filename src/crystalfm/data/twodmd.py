"""``data=2dmd``: point defects in two-dimensional materials, with the energies and levels of the 2DMD release."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from crystalfm.chem.crystals import Crystal, CrystalError
from crystalfm.chem.defects.configurations import canonical
from crystalfm.chem.defects.hosts import ALIASES
from crystalfm.chem.defects.records import DefectRecord
from crystalfm.chem.defects.symmetry import site_permutations
from crystalfm.contracts import DataSpec, UserError
from crystalfm.data.crystal_dataset import CrystalDataset, CrystalSettings
from crystalfm.data.crystal_table import RawCrystal, crystal_records, crystal_spec, parse_crystals, target_specs
from crystalfm.data.parsed_cache import cached_table
from crystalfm.data.splits import Splits, split_sizes
from crystalfm.data.twodmd_files import content_digest, find_parts, read_part
from crystalfm.io.files import sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from crystalfm.chem.defects.configurations import Configuration
    from crystalfm.chem.defects.hosts import Supercell
    from crystalfm.data.records import RecordTable
    from crystalfm.data.twodmd_files import ReleasePart

_LOG = logging.getLogger(__name__)

ASSET = "2dmd"
READER_VERSION = 1
"""Part of the key of every parsed table: raise it when reading changes."""

_LEVELS = {
    "homo": "highest occupied level",
    "lumo": "lowest unoccupied level",
    "homo_lumo_gap": "gap between the highest occupied and the lowest unoccupied level",
    "normalized_homo": "highest occupied level, from the pristine host's valence band",
    "normalized_lumo": "lowest unoccupied level, from the pristine host's valence band",
    "E_1": "lowest level",
}
_SPINS = {
    "majority": "majority spin",
    "minority": "minority spin",
    "max": "larger of the two spins'",
    "min": "smaller of the two spins'",
}
_TARGETS = {
    "formation_energy_per_site": ("eV", "energy of formation of the defects, by their number"),
    "formation_energy": ("eV", "energy of formation of all defects of the cell"),
    "energy": ("eV", "total energy of the cell"),
    "energy_per_atom": ("eV/atom", "total energy"),
    "fermi_level": ("eV", "Fermi level"),
    **{name: ("eV", text) for name, text in _LEVELS.items()},
    **{
        f"{name}_{spin}": ("eV", f"{text}, {which}") for name, text in _LEVELS.items() for spin, which in _SPINS.items()
    },
    "total_mag": ("muB", "magnetic moment of the cell"),
}

_SPEC = replace(
    crystal_spec(
        "2dmd",
        target_specs(_TARGETS),
        ("formation_energy_per_site",),
        "MIT",
        "Huang et al., npj 2D Materials and Applications 7, 6 (2023);"
        " Kazeev et al., npj Computational Materials 9, 113 (2023)",
    ),
    fields=("structure", "defects"),
)


class TwoDMD(CrystalDataset):
    """2DMD: supercells of a two-dimensional host with point defects, unrelaxed, and what was computed of them.

    Ids are the release's (``_id``). The field ``structure`` is the unrelaxed crystal and ``defects`` a
    ``chem.defects.records.DefectRecord`` as JSON. Every structure is matched to its host's supercell, its defects are
    compared with its descriptor, and its formation energies with those that follow from the total energies: data that
    contradict themselves are refused (``twodmd_files``).

    Args:
        split: ``random``: drawn, equivalent configurations on one side. ``type``: whole types of defects
            (``W_Mo + 2 Se_S``) are tested on; which, is drawn.
        test_types: types to test on with ``split=type``, in place of a drawn choice; validation types are drawn.
        density: ``low`` or ``high``: the parts of that density; ``all``: every part that is there.
        hosts: hosts to read (``MoS2``); ``None`` for all.
        path: folder of the release, or of one part of it; ``None`` for the asset store.
        targets: names of targets; ``formation_energy_per_site`` by default.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset`` and ``CrystalDataset``. ``split_file`` goes before ``split``.

    Raises:
        UserError: a setting is out of range, or does not fit the others.
    """

    def __init__(
        self,
        *,
        split: Literal["random", "type"] = "random",
        test_types: list[str] | None = None,
        density: Literal["all", "low", "high"] = "all",
        hosts: list[str] | None = None,
        path: str | None = None,
        targets: list[str] | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        **shared: Unpack[CrystalSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        if test_types is not None and (split != "type" or not test_types):
            problem = "is empty" if not test_types else f"is not read by data.split={split}"
            raise UserError(f"data.test_types={test_types} {problem}", remedy="data.split=type data.test_types=[2v_S]")
        self.split = split
        self.test_types = test_types
        self.density = density
        self.hosts = hosts
        self.path = None if path is None else Path(path).expanduser()

    def spec(self) -> DataSpec:
        """Describe the targets on offer; reads nothing."""
        return self._with_description(_SPEC)

    def load(self) -> RecordTable:
        """Read the structures, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Raises:
            UserError: a target is unknown or nowhere given, files are missing or unreadable, or they contradict each
                other.
        """
        specs = self.selected_targets()
        parsed = self._parsed()
        table = crystal_records(parsed, self, specs, None)
        defects = dict(zip(parsed["id"].to_pylist(), parsed["defects"].to_pylist(), strict=True))
        return replace(table, fields={**table.fields, "defects": [defects[name] for name in table.ids.tolist()]})

    def splits_of(self, table: RecordTable) -> Splits | None:
        """Return the split by types of defects, or ``None`` where rows are drawn; see ``Dataset``.

        Raises:
            UserError: a type is not there, or there are too few of them.
        """
        if self.split == "random":
            return None
        types = [DefectRecord.from_json(text or "").type_name for text in table.fields["defects"]]
        return split_by_type(
            types,
            test_types=self.test_types,
            test_fraction=self.test_fraction,
            val_fraction=self.val_fraction,
            seed=self.drawing_seed,
        )

    def _parsed(self) -> pa.Table:
        parts = self._parts()
        names = list(_TARGETS)
        if self.store is None:
            return _parse(parts, names)
        content = {"2dmd": content_digest(parts), "reader": READER_VERSION, "targets": names}
        return cached_table(Path(self.store.cache), sha256_json(content), "2DMD", lambda: _parse(parts, names))

    def _parts(self) -> list[ReleasePart]:
        """Return the parts to read."""
        if self.path is not None:
            root = self.path
        elif self.store is not None:
            root = Path(self.store.fetch(ASSET).folder)
        else:
            raise UserError("data=2dmd needs an asset store or data.path", remedy="data.path=FOLDER")
        there = find_parts(root)
        wanted = None if self.hosts is None else {ALIASES.get(host, host) for host in self.hosts}
        chosen = [
            part
            for part in there
            if self.density in {"all", part.density}
            and (wanted is None or wanted & {ALIASES.get(h, h) for h in part.hosts})
        ]
        missing = sorted((wanted or set()) - {ALIASES.get(host, host) for part in chosen for host in part.hosts})
        if missing or not chosen:
            what = f"{', '.join(missing)} of density {self.density}" if missing else f"density {self.density}"
            found = "; ".join(f"{part.name} ({', '.join(part.hosts)})" for part in there)
            raise UserError(f"data=2dmd: {root} has no part of {what}", remedy=f"it has {found}")
        return chosen


def split_by_type(
    types: Sequence[str], *, test_types: Sequence[str] | None, test_fraction: float, val_fraction: float, seed: int
) -> Splits:
    """Return a split in which no type of defects is on two sides.

    Types are gone through in a random order, and each goes to the test where that brings its size nearer to the share
    that is wanted; then those left to the validation in the same way.

    Args:
        types: name of each row's type.
        test_types: types to test on; ``None`` draws them.
        test_fraction: part of the rows that is wanted for the test.
        val_fraction: part of the rows left that is wanted for validation.
        seed: seed of the draw.

    Raises:
        UserError: there are too few types, or one is not there.
    """
    names = np.array(types, dtype=np.str_)
    known, counts = np.unique(names, return_counts=True)
    sizes = dict(zip(known.tolist(), counts.tolist(), strict=True))
    drawn = [str(known[index]) for index in np.random.default_rng(seed).permutation(len(known))]
    _, num_val, num_test = split_sizes(len(names), test_fraction, val_fraction)
    if test_types is None:
        test = _nearest(drawn, sizes, num_test)
    else:
        test = _known_types(test_types, sizes)
        num_val = ceil(round(val_fraction * (len(names) - sum(sizes[name] for name in test)), 9))
    val = _nearest([name for name in drawn if name not in test], sizes, num_val)
    if len(test) + len(val) >= len(known):
        raise UserError(
            f"data.split=type leaves no type to train on: {len(known)} types of defects are there",
            remedy="data.split=random, fewer data.test_types, or data.val_fraction=0",
        )
    for part, chosen in (("test", test), ("val", val)):
        _LOG.info("2dmd: types of %s: %s", part, "; ".join(sorted(chosen)) or "none")
    parts = {"test": set(test), "val": set(val), "train": set(sizes) - set(test) - set(val)}
    rows = {part: np.flatnonzero(np.isin(names, sorted(chosen))).astype(np.int64) for part, chosen in parts.items()}
    return Splits(train=rows["train"], val=rows["val"], test=rows["test"])


def _nearest(drawn: Sequence[str], sizes: dict[str, int], wanted: int) -> list[str]:
    """Return the types that make up a number of rows as nearly as their order allows, one at least."""
    chosen: list[str] = []
    size = 0
    for name in drawn:
        if abs(size + sizes[name] - wanted) < abs(size - wanted):
            chosen.append(name)
            size += sizes[name]
    if wanted and not chosen and drawn:
        chosen.append(min(drawn, key=lambda name: sizes[name]))
    return chosen


def _known_types(given: Sequence[str], sizes: dict[str, int]) -> list[str]:
    """Return the types as they are called here; blanks do not count (``W_Mo+2Se_S``)."""
    plain = {_plain(name): name for name in sizes}
    unknown = [name for name in given if _plain(name) not in plain]
    if unknown:
        raise UserError(
            f"data.test_types: no structure has the defects {', '.join(unknown)}",
            remedy=f"types there: {', '.join(sorted(map(_plain, sizes)))}",
        )
    return list(dict.fromkeys(plain[_plain(name)] for name in given))


def _plain(name: str) -> str:
    return "".join(name.split())


def _parse(parts: Sequence[ReleasePart], names: Sequence[str]) -> pa.Table:
    """Read all parts; the table of ``crystal_table`` with a column ``defects``."""
    import pyarrow as pa

    records: list[DefectRecord | None] = []

    def rows() -> Iterator[RawCrystal]:
        for part in parts:
            for row in read_part(part, names):
                records.append(row.record)
                yield RawCrystal(row.id, row.crystal, row.targets)

    table = parse_crystals(rows(), names, _given, "2DMD", key_of=lambda _: None)
    texts = [None if record is None else record.to_json() for record in records]
    keys = pa.array(_keys(records), pa.string())
    table = table.set_column(table.column_names.index("key"), "key", keys)
    return table.append_column("defects", pa.array(texts, pa.string()))


def _given(source: Crystal | CrystalError) -> Crystal:
    if isinstance(source, CrystalError):
        raise source
    return source


def _keys(records: Sequence[DefectRecord | None]) -> list[str | None]:
    """Return for each record a text that equivalent configurations of a supercell share."""
    keys: list[str | None] = [None] * len(records)
    members: dict[Supercell, list[tuple[int, Configuration]]] = {}
    for row, record in enumerate(records):
        if record is not None:
            members.setdefault(record.supercell, []).append((row, record.configuration))
    for supercell, found in members.items():
        first = canonical([configuration for _, configuration in found], site_permutations(supercell))
        for (row, _), configuration in zip(found, first, strict=True):
            keys[row] = f"{supercell.host.name} {list(supercell.size)} {configuration.to_json()}"
    return keys
