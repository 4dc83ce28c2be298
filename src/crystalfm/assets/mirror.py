"""Assets in a local mirror folder: found under several names, checked, used in place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crystalfm.assets.content import FileRecord, HashMemo
from crystalfm.assets.errors import ChecksumError
from crystalfm.assets.places import is_weight_file, wanted_hub_files
from crystalfm.contracts import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from crystalfm.assets.registry import Asset, AssetFile

WHEELS = "wheels"
"""Folder below the mirror in which wheel files may lie."""


@dataclass(frozen=True)
class MirrorCopy:
    """A complete copy of an asset in a mirror.

    Attributes:
        folder: where it lies.
        names: relative names of the asset's files in it.
    """

    folder: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class Mirror:
    """A folder the user filled with assets.

    Attributes:
        root: the folder.
    """

    root: Path

    def check(self) -> None:
        """Check that the folder is there.

        Raises:
            UserError: it is not.
        """
        if not self.root.is_dir():
            raise UserError(
                f"the mirror folder {self.root} does not exist",
                remedy="correct paths.mirror, --mirror or the variable CRYSTALFM_MIRROR",
            )

    def find(self, asset: Asset) -> tuple[MirrorCopy | None, list[str]]:
        """Look for a complete copy.

        Returns:
            The copy or ``None``, and why each folder that exists was passed over.

        Raises:
            UserError: the mirror folder is missing.
        """
        self.check()
        reasons: list[str] = []
        for folder in self.folders(asset):
            if not folder.is_dir():
                continue
            names, lacking = _contents(asset, folder)
            if not lacking:
                return MirrorCopy(folder, tuple(names)), reasons
            reasons.append(f"{folder} lacks {', '.join(lacking)}")
        return None, reasons

    def folders(self, asset: Asset) -> list[Path]:
        """Every folder in which a copy of the asset would be accepted."""
        return [self.root / name for name in asset.mirror_folders]

    def wheel(self, asset: Asset) -> Path | None:
        """The asset's wheel file, where the mirror holds it."""
        path = self.root / WHEELS / asset.wheel.filename if asset.wheel is not None else None
        return path if path is not None and path.is_file() else None


def _contents(asset: Asset, folder: Path) -> tuple[list[str], list[str]]:
    """Return the asset's files that lie in ``folder``, and what is lacking."""
    there = {file.name: _name_in(folder, file) for file in asset.files}
    lacking = [file.name for file in asset.required if there[file.name] is None]
    if asset.hub is None:
        return [name for name in there.values() if name is not None], lacking
    with os.scandir(folder) as entries:
        names = wanted_hub_files(entry.name for entry in entries if entry.is_file())
    if not any(map(is_weight_file, names)):
        lacking.append("weights (*.safetensors or pytorch_model.bin)")
    return names, lacking


def _name_in(folder: Path, file: AssetFile) -> str | None:
    """Return the name under which a file lies in ``folder``: its own or, where it is not pinned, with ``.gz``."""
    if (folder / file.name).is_file():
        return file.name
    compressed = f"{file.name}.gz"
    return compressed if file.sha256 is None and (folder / compressed).is_file() else None


def checked_records(asset: Asset, copy: MirrorCopy, memo_root: Path, *, fresh: bool = False) -> dict[str, FileRecord]:
    """Hash a mirror's copy (remembered between runs) and compare pinned files with the registry.

    Args:
        asset: the asset.
        copy: its copy in the mirror.
        memo_root: where checksums are remembered.
        fresh: compute every checksum again.

    Raises:
        ChecksumError: a pinned file has another checksum.
    """
    records = HashMemo(memo_root, copy.folder).records(copy.names, fresh=fresh)
    for name, record in records.items():
        file = asset.file(name)
        if file is not None and file.sha256 is not None and file.sha256 != record.sha256:
            raise ChecksumError(
                f"{copy.folder / name} (asset '{asset.name}' in the mirror)",
                expected=file.sha256,
                found=record.sha256,
                remedy="replace the file in the mirror, or remove the folder so that the next place is used",
            )
    return records
