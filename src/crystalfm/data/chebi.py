"""``data=chebi``: the ChEBI-20 molecules with texts, and properties that RDKit computes."""

from __future__ import annotations

import gzip
import logging
import zlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np

from crystalfm.chem.molecules import canonicalize
from crystalfm.chem.properties import logp_and_qed
from crystalfm.contracts import SPLITS, DataSpec, TargetSpec, UserError
from crystalfm.data.dataset import Dataset, SharedSettings
from crystalfm.data.parsed_cache import cached_table
from crystalfm.data.records import RecordTable, Rejection, group_numbers
from crystalfm.data.splits import Splits, make_splits
from crystalfm.io.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray


_LOG = logging.getLogger(__name__)

READER_VERSION = 1
"""Part of the key of the parsed table: raise it when reading changes."""

ASSET = "chebi20"

_FILES = {
    "train": ("training.txt", "train_smiles_only.tsv.gz"),
    "val": ("validation.txt",),
    "test": ("test.txt",),
}
"""Files of each official part, the first that exists is read; the second training file has no texts."""

_COLUMNS = ("CID", "SMILES", "description")
_NUM_REQUIRED = 2
_DOUBLED_BACKSLASH = "\\\\"
_PRECEDENCE = ("test", "val", "train")
"""Official parts: a molecule that several of them have stays in the first."""

_SPEC = DataSpec(
    name="chebi",
    fields=("smiles", "description"),
    targets=(
        TargetSpec("logp", "1", "octanol/water partition coefficient, Crippen's sum over atoms (RDKit)"),
        TargetSpec("qed", "1", "quantitative estimate of drug-likeness (RDKit)"),
    ),
    default_targets=("logp", "qed"),
    licence="BSD-3-Clause (release), CC BY 4.0 (ChEBI)",
    citation="Edwards, Zhai, Ji, Text2Mol, EMNLP 2021; Edwards et al., MolT5, EMNLP 2022",
)


class ChEBI20(Dataset):
    """ChEBI-20: molecules of biological interest, each described in a few sentences, with an official split.

    Ids are PubChem's CIDs. The training file may be the release's ``training.txt`` or a table of its molecules
    without their texts (``train_smiles_only.tsv.gz``); a row without text takes part with what it has.

    Args:
        split: ``official``: the parts of the release. ``extended``: the official test file; of the validation file
            ``val_fraction`` validates and the rest trains together with the training file, so that text is learned
            where only the validation file has it. ``random``: drawn from all rows by the fractions.
        path: folder with the release's files; ``None`` for the asset store.
        targets: ``logp`` and ``qed``; both by default.
        batch_size: see ``Dataset``.
        eval_batch_size: see ``Dataset``.
        shared: see ``Dataset``. ``limit`` keeps the share of each official part, at least one row; ``split_file``
            goes before ``split``; ``test_fraction`` counts for ``split=random``, ``val_fraction`` for ``extended`` too,
            of the validation file.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        split: Literal["official", "extended", "random"] = "official",
        path: str | None = None,
        targets: list[str] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        **shared: Unpack[SharedSettings],
    ) -> None:
        super().__init__(targets=targets, batch_size=batch_size, eval_batch_size=eval_batch_size, **shared)
        self.split = split
        self.path = None if path is None else Path(path).expanduser()

    def spec(self) -> DataSpec:
        """Describe ChEBI-20; reads nothing."""
        return _SPEC

    def load(self) -> RecordTable:
        """Read the molecules, from the cache of the parsed table where there is one; see ``Dataset.load``.

        Unless the split is drawn at random, a training row with the same molecule as a validation or test row is
        rejected, and a validation row with the same molecule as a test row.

        Raises:
            UserError: a target is unknown, an id occurs twice, or the files are missing or not ChEBI-20's.
        """
        specs = self.selected_targets()
        files, content = self._locate()
        parsed = self._parsed(files, content)
        reasons = parsed["reason"].to_pylist()
        if self.split != "random":
            for row, reason in _shared_molecules(parsed):
                reasons[row] = reasons[row] or reason
        parts = np.array(parsed["part"].to_pylist(), dtype=np.str_)
        return _record_table(parsed, specs, parts, reasons, self.subset(len(parts), parts))

    def splits_of(self, table: RecordTable) -> Splits | None:
        """Return the official split, whole or extended, or ``None`` for ``split=random``; see ``Dataset``.

        Raises:
            UserError: there is no training row.
        """
        if self.split == "random":
            return None
        if self.split == "extended":
            return _extended_splits(table, self.val_fraction, self.drawing_seed)
        return super().splits_of(table)

    def _locate(self) -> tuple[dict[str, Path], str]:
        """Return the file of each part and the SHA-256 of their content."""
        if self.path is not None:
            files = _part_files(self.path)
            return files, sha256_json({file.name: sha256_file(file) for file in files.values()})
        if self.store is None:
            raise UserError("data=chebi needs an asset store or data.path", remedy="data.path=FOLDER")
        fetched = self.store.fetch(ASSET)
        return _part_files(Path(fetched.folder)), fetched.sha256

    def _parsed(self, files: Mapping[str, Path], content: str) -> pa.Table:
        """Return the parsed table (Arrow) from the cache, or read it, compute the properties and cache it."""
        if self.store is None:
            return _parse(files)
        parts = {"data": "chebi20", "raw": content, "reader": READER_VERSION, "rdkit": metadata.version("rdkit")}
        return cached_table(Path(self.store.cache), sha256_json(parts), "ChEBI-20", lambda: _parse(files))


def _part_files(folder: Path) -> dict[str, Path]:
    """Return the file of each official part that ``folder`` has.

    Raises:
        UserError: the folder is missing, or has no validation or test file.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"data.path={folder} {what}", remedy="give the folder with validation.txt and test.txt")
    found = {
        part: next((folder / name for name in names if (folder / name).is_file()), None)
        for part, names in _FILES.items()
    }
    missing = [_FILES[part][0] for part in ("val", "test") if found[part] is None]
    if missing:
        raise UserError(
            f"{folder} holds no ChEBI-20: it lacks {', '.join(missing)}",
            remedy="expected the release's training.txt, validation.txt and test.txt",
        )
    return {part: file for part, file in found.items() if file is not None}


def _parse(files: Mapping[str, Path]) -> pa.Table:
    """Read the files, find each molecule's canonical SMILES and compute its properties.

    Returns:
        an Arrow table with the columns id, part, smiles, description, canonical, reason (null where accepted), logp
        and qed.
    """
    import pyarrow as pa

    rows = [(part, *cells) for part, file in files.items() for cells in _read_file(file)]
    part, ids, smiles, texts, reasons = (list(column) for column in zip(*rows, strict=True))
    _require_unique(ids)
    _LOG.info("ChEBI-20: logP and QED of %d molecules", len(smiles))
    canonical, unreadable = canonicalize(smiles)
    readable = [None if known is None else text for text, known in zip(smiles, canonical, strict=True)]
    values, without_value = logp_and_qed(readable)
    for problem in (*unreadable, *without_value):
        reasons[problem.row] = reasons[problem.row] or problem.reason
    columns = {"id": ids, "part": part, "smiles": smiles, "description": texts}
    columns |= {"canonical": canonical, "reason": reasons}
    arrays = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    return pa.table(arrays | {"logp": pa.array(values[:, 0]), "qed": pa.array(values[:, 1])})


def _read_file(path: Path) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Yield (id, SMILES, description, reason) of each row; ``None`` where there is none.

    The release quotes nothing: a quotation mark is a part of the text.

    Raises:
        UserError: the file cannot be read or has other columns.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            header = stream.readline().rstrip("\n").split("\t")
            if tuple(header) not in (_COLUMNS, _COLUMNS[:_NUM_REQUIRED]):
                raise UserError(
                    f"{path} is not a file of ChEBI-20: its columns are {', '.join(header)}",
                    remedy=f"expected, between tabs: {', '.join(_COLUMNS)} (the last may be absent)",
                )
            for number, line in enumerate(stream, start=2):
                cells = [cell.strip() or None for cell in line.rstrip("\n").split("\t")]
                if any(cells):
                    yield _row(cells, len(header), f"{path.name} line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path} cannot be read as ChEBI-20: {error}") from error


def _row(cells: Sequence[str | None], width: int, place: str) -> tuple[str, str | None, str | None, str | None]:
    if not _NUM_REQUIRED <= len(cells) <= width:
        return place, None, None, f"{len(cells)} cells where the header has {width}"
    identifier, smiles, text = (*cells, None)[: len(_COLUMNS)]
    if smiles is None:
        return identifier or place, None, text, "no SMILES"
    reason = "no CID" if identifier is None else None
    # The release doubles the backslashes that mark the side of a double bond.
    return identifier or place, smiles.replace(_DOUBLED_BACKSLASH, "\\"), text, reason


def _require_unique(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for item in ids:
        if item in seen:
            raise UserError(f"ChEBI-20: CID {item} occurs twice", remedy="remove one of the rows from its file")
        seen.add(item)


def _shared_molecules(parsed: pa.Table) -> Iterator[tuple[int, str]]:
    """Yield row and reason of each molecule that a part with precedence has as well."""
    ids, parts, canonical, reasons = (parsed[name].to_pylist() for name in ("id", "part", "canonical", "reason"))
    rows = [row for row, reason in enumerate(reasons) if reason is None]
    owner: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: _PRECEDENCE.index(parts[row])):
        first = owner.setdefault(canonical[row], row)
        if parts[first] != parts[row]:
            yield row, f"same molecule as {parts[first]} id {ids[first]}"


def _record_table(
    parsed: pa.Table,
    specs: tuple[TargetSpec, ...],
    parts: NDArray[np.str_],
    reasons: Sequence[str | None],
    rows: NDArray[np.int64],
) -> RecordTable:
    """Turn ``rows`` of the parsed table into records with the chosen targets."""
    ids = np.array(parsed["id"].to_pylist(), dtype=np.str_)
    smiles: list[str | None] = parsed["smiles"].to_pylist()
    rejected = [
        Rejection(str(ids[row]), reason, smiles[row] or "")
        for row in rows.tolist()
        if (reason := reasons[row]) is not None
    ]
    whole = RecordTable(
        spec=_SPEC,
        ids=ids,
        fields={"smiles": smiles, "description": parsed["description"].to_pylist()},
        targets=np.stack([parsed[spec.name].to_numpy() for spec in specs], axis=1).astype(np.float64),
        target_specs=specs,
        groups=group_numbers(parsed["canonical"].to_pylist()),
        rejected=rejected,
        parts=parts,
    )
    return whole.select([row for row in rows.tolist() if reasons[row] is None])


def _extended_splits(table: RecordTable, val_fraction: float, seed: int) -> Splits:
    """Return the official split with all but ``val_fraction`` of the validation part moved to training."""
    rows = {name: np.flatnonzero(table.parts == name).astype(np.int64) for name in SPLITS}
    drawn = make_splits(table.select(rows["val"]), test_fraction=0.0, val_fraction=val_fraction, seed=seed)
    train = np.sort(np.concatenate([rows["train"], rows["val"][drawn.train]]))
    return Splits(train=train, val=rows["val"][drawn.val], test=rows["test"])
