"""The registry of assets: names, files, checksums, licences and places, read from ``registry.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Literal

from crystalfm.assets.places import HubPlace, MirrorPlace, Place, UrlPlace, WheelPlace

AssetKind = Literal["data", "weights"]

MANIFEST = "manifest.json"
"""Name of the description beside a cached asset's files; no asset may hold a file of this name."""


@dataclass(frozen=True)
class AssetFile:
    """One file of an asset.

    Attributes:
        name: relative POSIX path in the asset's folder.
        size: bytes, where pinned.
        sha256: checksum, where pinned; ``None`` is recorded on the first fetch (trust on first use).
        optional: whether a copy of the asset is complete without it.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Asset:
    """A named data set or set of weights.

    Attributes:
        name: identifier used in the config and on the command line.
        kind: ``data`` or ``weights``.
        title: one line that says what it is.
        licence: licence of the content.
        citation: what to cite.
        places: where it can come from, in the order in which they are tried.
        files: its files; for a Hugging Face repository the ones that must be there.
    """

    name: str
    kind: AssetKind
    title: str
    licence: str
    citation: str
    places: tuple[Place, ...]
    files: tuple[AssetFile, ...]

    @property
    def hub(self) -> HubPlace | None:
        """The Hugging Face place, if there is one."""
        return next((place for place in self.places if isinstance(place, HubPlace)), None)

    @property
    def wheel(self) -> WheelPlace | None:
        """The wheel place, if there is one."""
        return next((place for place in self.places if isinstance(place, WheelPlace)), None)

    @property
    def mirror_folders(self) -> tuple[str, ...]:
        """Folder names accepted below a mirror, in the order in which they are looked for."""
        return next((place.folders for place in self.places if isinstance(place, MirrorPlace)), (self.name,))

    @property
    def required(self) -> tuple[AssetFile, ...]:
        """Files without which a copy is incomplete."""
        return tuple(file for file in self.files if not file.optional)

    @property
    def is_pinned(self) -> bool:
        """Whether every required file has a checksum in the registry."""
        return self.hub is None and all(file.sha256 is not None for file in self.required)

    @property
    def approx_bytes(self) -> int | None:
        """Bytes of the asset's required files as far as they are known beforehand."""
        if self.hub is not None:
            return self.hub.approx_bytes
        sizes = [file.size for file in self.required]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def file(self, name: str) -> AssetFile | None:
        """Return the registry's entry of a file, or ``None`` where it has none."""
        return next((file for file in self.files if file.name == name), None)


class _Registry(Mapping[str, Asset]):
    """Every asset by name; the file behind it is read at the first look."""

    def __getitem__(self, name: str) -> Asset:
        return _load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_load())

    def __len__(self) -> int:
        return len(_load())


ASSETS: Mapping[str, Asset] = _Registry()
"""Every asset the framework knows, by name."""


@cache
def _load() -> dict[str, Asset]:
    text = resources.files("crystalfm.assets").joinpath("registry.toml").read_text(encoding="utf-8")
    return {name: read_asset(name, table) for name, table in tomllib.loads(text).items()}


def read_asset(name: str, table: Mapping[str, Any]) -> Asset:
    """Make an asset from its table in the registry file.

    Args:
        name: identifier of the asset.
        table: keys ``kind title licence citation files`` and optionally ``mirror url wheel hub``.

    Raises:
        ValueError: a file's name could leave the asset's folder, or a key is unknown.
    """
    unknown = set(table) - {"kind", "title", "licence", "citation", "files", "mirror", "url", "wheel", "hub"}
    if unknown:
        raise ValueError(f"asset {name}: unknown keys {sorted(unknown)}")
    files = tuple(AssetFile(**entry) for entry in table["files"])
    for file in files:
        if not is_safe_name(file.name) or file.name == MANIFEST:
            raise ValueError(f"asset {name}: bad file name {file.name!r}")
    hub = HubPlace(**table["hub"]) if "hub" in table else None
    folders = [name]
    if hub is not None:
        folders += [hub.repo, hub.repo.rsplit("/", 1)[-1]]
    folders += table.get("mirror", [])
    places: list[Place] = [MirrorPlace(tuple(dict.fromkeys(folders)))]
    if "url" in table:
        url = table["url"]
        offered = tuple(url.get("files", [file.name for file in files]))
        places.append(UrlPlace(url["base"], offered, url.get("remote_names", {})))
    if "wheel" in table:
        places.append(WheelPlace(**table["wheel"]))
    if hub is not None:
        places.append(hub)
    return Asset(
        name=name,
        kind=table["kind"],
        title=table["title"],
        licence=table["licence"],
        citation=table["citation"],
        places=tuple(places),
        files=files,
    )


def is_safe_name(name: str) -> bool:
    """Whether a relative path stays inside the folder it is joined to, on any operating system."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
