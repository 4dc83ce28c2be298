"""The asset store: finds or fetches named data sets and weights, and keeps verified copies.

A cached copy is an immutable folder ``CACHE/assets/<name>/<content id>/`` with a ``manifest.json``. It is
built in a folder beside it under an inter-process lock, and renamed into place when complete and verified.
What a killed run has downloaded is resumed by the next; nothing unfinished is ever taken for an asset.
"""

from __future__ import annotations

import difflib
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.assets.build import Builder, Built
from crystalfm.assets.content import (
    FileRecord,
    Manifest,
    content_hash,
    new_manifest,
    read_manifest,
    record_file,
    size_problems,
    write_manifest,
)
from crystalfm.assets.download import Retries
from crystalfm.assets.errors import ChecksumError, DiskFullError, PlaceFailedError, storage_errors
from crystalfm.assets.mirror import WHEELS, Mirror, MirrorCopy, checked_records
from crystalfm.assets.progress import NoProgress, ProgressSink, transfer
from crystalfm.assets.registry import ASSETS, Asset
from crystalfm.contracts import UserError
from crystalfm.io.files import file_lock, fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ID_DIGITS = 16
_BUILDING = ".building"


@dataclass(frozen=True)
class FetchedAsset:
    """A complete copy of an asset on this machine.

    Attributes:
        name: the asset.
        folder: where its files lie; read-only by agreement.
        sha256: content hash over names and checksums of its files; equal wherever equal content lies.
        place: where it came from.
        licence: licence of the content.
    """

    name: str
    folder: Path
    sha256: str
    place: str
    licence: str


class AssetStore:
    """Fetches assets by name, from a mirror, the cache, or the places of the registry.

    Args:
        cache: folder of cached copies; made when something is fetched.
        mirror: folder the user filled; its copies win over cached ones and are used in place.
        offline: use only mirror and cache.
        progress: where arriving bytes are reported.
        assets: the registry.
        retries: how often a download is tried.
    """

    def __init__(
        self,
        cache: Path | str,
        mirror: Path | str | None = None,
        offline: bool = False,
        progress: ProgressSink | None = None,
        *,
        assets: Mapping[str, Asset] = ASSETS,
        retries: Retries | None = None,
    ) -> None:
        self.cache = Path(cache).expanduser().absolute()
        self.mirror = None if mirror is None else Path(mirror).expanduser().absolute()
        self.offline = offline
        self._mirror = None if self.mirror is None else Mirror(self.mirror)
        self._progress: ProgressSink = progress if progress is not None else NoProgress()
        self._assets = assets
        self._retries = retries if retries is not None else Retries()

    def asset(self, name: str) -> Asset:
        """Look an asset up.

        Raises:
            UserError: there is no asset of this name.
        """
        if name in self._assets:
            return self._assets[name]
        near = difflib.get_close_matches(name, list(self._assets), n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"unknown asset '{name}'", remedy=f"{remedy}assets: {', '.join(self._assets)}")

    def fetch(self, name: str, *, refresh: bool = False) -> FetchedAsset:
        """Return a complete copy, fetching it where none is at hand.

        Args:
            name: the asset.
            refresh: fetch again although a cached copy exists (a mirror's copy still wins).

        Raises:
            UserError: the asset is unknown, no place delivered it, or the disk is full.
            ChecksumError: a file's checksum is wrong.
        """
        asset = self.asset(name)
        failures: list[tuple[str, str]] = []
        found = self._from_mirror(asset, failures)
        if found is None and not refresh:
            found = self._from_cache(asset, failures)
        if found is not None:
            return found
        with storage_errors(self._folder(asset)), self._locked(asset):
            if not refresh and (found := self._from_cache(asset)) is not None:  # another process was faster
                return found
            return self._build(asset, failures)

    def path(self, name: str, file: str) -> Path:
        """Return the path of one file of an asset, fetching the asset where needed.

        Raises:
            UserError: the asset's copy has no such file, or the asset cannot be had.
        """
        fetched = self.fetch(name)
        path = fetched.folder / file
        if path.is_file():
            return path
        there = sorted(str(entry.relative_to(fetched.folder)) for entry in fetched.folder.rglob("*") if entry.is_file())
        near = difflib.get_close_matches(file, there, n=1)
        remedy = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(
            f"asset '{name}' has no file '{file}' in {fetched.folder} ({fetched.place})",
            remedy=f"{remedy}files there: {', '.join(there)}",
        )

    def is_cached(self, name: str) -> bool:
        """Whether a complete copy (by sizes) is at hand without network, in the mirror or the cache."""
        return self.location(name) is not None

    def location(self, name: str) -> str | None:
        """Say where a complete copy is at hand: ``"mirror"``, ``"cache"`` or ``None``.

        Raises:
            UserError: the asset is unknown or the mirror folder is missing.
        """
        asset = self.asset(name)
        if self._mirror is not None and self._mirror.find(asset)[0] is not None:
            return "mirror"
        return "cache" if self._cached(asset) is not None else None

    def cached_names(self) -> list[str]:
        """Names of the assets at hand without network, in registry order."""
        return [name for name in self._assets if self.is_cached(name)]

    def verify(self, name: str) -> list[str]:
        """Compute every checksum of the copy at hand again.

        Returns:
            What is wrong, one line each; empty when the copy is intact.

        Raises:
            UserError: no copy is at hand.
        """
        asset = self.asset(name)
        copy = None if self._mirror is None else self._mirror.find(asset)[0]
        if copy is not None:
            return self._verify_mirror(asset, copy)
        manifests = self._manifests(asset)
        if not manifests:
            raise UserError(f"asset '{name}' is not at hand", remedy=f"fetch it: python -m crystalfm.fetch {name}")
        folder, manifest = manifests[0]
        problems = size_problems(folder, manifest.files)
        with transfer(self._progress, f"verify {name}", sum(record.size for record in manifest.files.values())):
            for file, record in manifest.files.items():
                if not any(problem.startswith(f"{file} ") for problem in problems):
                    found = record_file(folder / file).sha256
                    if found != record.sha256:
                        problems.append(f"{file}: expected sha256 {record.sha256}, found {found}")
                    self._progress.advance(record.size)
        return [f"{folder}: {problem}" for problem in problems]

    def _verify_mirror(self, asset: Asset, copy: MirrorCopy) -> list[str]:
        try:
            with transfer(self._progress, f"verify {asset.name}", None):
                checked_records(asset, copy, self._memo_root, fresh=True)
        except ChecksumError as error:
            return [error.message]
        return []

    @property
    def _memo_root(self) -> Path:
        return self.cache / "assets" / ".mirror"

    def _folder(self, asset: Asset) -> Path:
        return self.cache / "assets" / asset.name

    def _from_mirror(self, asset: Asset, failures: list[tuple[str, str]]) -> FetchedAsset | None:
        if self._mirror is None:
            return None
        copy, reasons = self._mirror.find(asset)
        failures += [("mirror", reason) for reason in reasons]
        if copy is None:
            if not reasons:
                names = ", ".join(f"{folder}/" for folder in asset.mirror_folders)
                failures.append(("mirror", f"{self.mirror} has none of {names}"))
            return None
        records = checked_records(asset, copy, self._memo_root)
        return FetchedAsset(asset.name, copy.folder, content_hash(records), f"mirror {copy.folder}", asset.licence)

    def _from_cache(self, asset: Asset, failures: list[tuple[str, str]] | None = None) -> FetchedAsset | None:
        cached = self._cached(asset, failures)
        if cached is None:
            return None
        folder, manifest = cached
        return FetchedAsset(asset.name, folder, manifest.sha256, manifest.place, manifest.licence)

    def _cached(self, asset: Asset, failures: list[tuple[str, str]] | None = None) -> tuple[Path, Manifest] | None:
        """Return the newest cached copy whose files have the recorded sizes."""
        for folder, manifest in self._manifests(asset):
            problems = size_problems(folder, manifest.files)
            if not problems:
                return folder, manifest
            if failures is not None:
                failures.append(("cache", f"the copy in {folder} is damaged: {'; '.join(problems)}"))
        return None

    def _manifests(self, asset: Asset) -> list[tuple[Path, Manifest]]:
        """Return cached copies that agree with the registry's checksums, newest first."""
        root = self._folder(asset)
        if not root.is_dir():
            return []
        pairs = [(folder, read_manifest(folder)) for folder in sorted(root.iterdir()) if folder.name[:1] != "."]
        kept = [(folder, manifest) for folder, manifest in pairs if manifest and _agrees(asset, manifest)]
        return sorted(kept, key=lambda pair: pair[1].fetched_at, reverse=True)

    @contextmanager
    def _locked(self, asset: Asset) -> Iterator[None]:
        """Hold the asset's lock; while another process fetches it, wait and say so."""
        from filelock import Timeout

        folder = self._folder(asset)
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with transfer(self._progress, f"{asset.name}: another process is fetching it, waiting", None):
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _build(self, asset: Asset, failures: list[tuple[str, str]]) -> FetchedAsset:
        stage = self._folder(asset) / _BUILDING
        builder = Builder(asset, stage, self._mirror, self._progress, self._retries)
        for place, deliver in builder.deliveries():
            if self.offline and place.needs_network:
                failures.append((place.label, "not tried: offline"))
                continue
            try:
                with storage_errors(stage, place.needed_bytes):
                    built = deliver()
                    return self._publish(asset, built, stage)
            except PlaceFailedError as error:
                failures.append((place.label, error.reason))
            except DiskFullError:
                shutil.rmtree(stage, ignore_errors=True)  # half a file on a full disk helps nobody
                raise
        raise self._nothing_delivered(asset, failures)

    def _publish(self, asset: Asset, built: Built, stage: Path) -> FetchedAsset:
        """Move a finished and verified folder into place."""
        manifest = new_manifest(asset, built.place, built.records)
        for name in built.records:
            (built.folder / name).chmod(0o444)
        write_manifest(built.folder, manifest)
        target = self._folder(asset) / manifest.sha256[:_ID_DIGITS]
        if target.exists():  # damaged, or fetched again on request
            old = stage / "old"
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
        built.folder.replace(target)
        fsync_folder(target.parent)
        shutil.rmtree(stage, ignore_errors=True)
        return FetchedAsset(asset.name, target, manifest.sha256, manifest.place, manifest.licence)

    def _nothing_delivered(self, asset: Asset, failures: list[tuple[str, str]]) -> UserError:
        tried = "".join(f"\n  - {label}: {reason}" for label, reason in failures)
        state = "is not at hand and offline is set" if self.offline else "could not be had from any place"
        root = "MIRROR" if self.mirror is None else str(self.mirror)
        names = ", ".join(file.name for file in asset.required)
        if asset.hub is not None:
            names += " and weights"
        accepted = " or ".join(f"{root}/{folder}" for folder in asset.mirror_folders)
        wheel = "" if asset.wheel is None else f", or the wheel as {root}/{WHEELS}/{asset.wheel.filename}"
        return UserError(
            f"asset '{asset.name}' {state}; tried:{tried or ' nothing'}",
            remedy=f"on a machine with network, e.g. a login node: python -m crystalfm.fetch {asset.name} "
            f"--cache {self.cache}\n  or put {names} into {accepted}{wheel}",
        )


def _agrees(asset: Asset, manifest: Manifest) -> bool:
    """Whether a cached copy has every required file, with the registry's checksum where pinned."""
    for file in asset.files:
        record: FileRecord | None = manifest.files.get(file.name)
        if record is None:
            if not file.optional:
                return False
        elif file.sha256 is not None and file.sha256 != record.sha256:
            return False
    return True
