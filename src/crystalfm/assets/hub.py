"""Files of Hugging Face repositories: the wanted ones, at one commit, checked against the hub's own list."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crystalfm.assets.content import FileRecord, record_file
from crystalfm.assets.errors import ChecksumError, PlaceFailedError, is_storage_error
from crystalfm.assets.places import HubPlace, is_weight_file, wanted_hub_files
from crystalfm.assets.progress import ProgressSink, growth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Listing:
    """What a repository offers at one commit.

    Attributes:
        commit: full commit hash.
        sizes: bytes of each wanted file (``None`` where the hub does not say).
        sums: SHA-256 of the wanted files that the hub keeps checksums of.
    """

    commit: str
    sizes: dict[str, int | None]
    sums: dict[str, str]

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all wanted files, where every size is known."""
        sizes = [size for size in self.sizes.values() if size is not None]
        return sum(sizes) if len(sizes) == len(self.sizes) else None


def fetch_repository(place: HubPlace, folder: Path, progress: ProgressSink) -> tuple[str, dict[str, FileRecord]]:
    """Download the wanted files of a repository into ``folder``; an interrupted download is resumed.

    Args:
        place: which repository.
        folder: where the files are put.
        progress: where arriving bytes are reported.

    Returns:
        The commit, and size and checksum of each file.

    Raises:
        PlaceFailedError: the hub cannot be reached, refuses, or the repository lacks weights.
        ChecksumError: a file is not what the hub announces; it has been removed.
    """
    from huggingface_hub import snapshot_download

    with _hub_failures(place):
        listing = _list(place)
        folder.mkdir(parents=True, exist_ok=True)
        with _silent_bars(), growth(progress, place.repo, folder, listing.total_bytes):
            snapshot_download(
                place.repo, revision=listing.commit, local_dir=folder, allow_patterns=sorted(listing.sizes)
            )
    records = {name: _checked(place, listing, folder, name) for name in listing.sizes}
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's bookkeeping of its own downloads
    return listing.commit, records


def _list(place: HubPlace) -> Listing:
    from huggingface_hub import HfApi

    info = HfApi().model_info(place.repo, revision=place.revision, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    wanted = wanted_hub_files(siblings)
    if not any(map(is_weight_file, wanted)):
        raise PlaceFailedError(f"{place.repo} holds neither *.safetensors nor pytorch_model.bin")
    sums = {name: lfs.sha256 for name in wanted if (lfs := siblings[name].lfs) is not None}
    return Listing(str(info.sha), {name: siblings[name].size for name in wanted}, sums)


def _checked(place: HubPlace, listing: Listing, folder: Path, name: str) -> FileRecord:
    path = folder / name
    # The client returns what lies in the folder when the line breaks: never take that for complete.
    if not path.is_file():
        raise PlaceFailedError(f"{place.repo}: {name} did not arrive")
    record = record_file(path)
    size = listing.sizes[name]
    if size is not None and size != record.size:
        raise PlaceFailedError(f"{place.repo}: {name} has {record.size:,} of {size:,} bytes")
    expected = listing.sums.get(name)
    if expected is not None and expected != record.sha256:
        path.unlink()
        raise ChecksumError(
            f"{name} of {place.repo}",
            expected=expected,
            found=record.sha256,
            remedy="the file has been removed; try again",
        )
    return record


@contextmanager
def _hub_failures(place: HubPlace) -> Iterator[None]:
    """Turn the hub client's many errors into one reason why this place failed."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    # The base is the error of whichever HTTP library the installed client uses.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    gated = f"gated: accept the licence at https://huggingface.co/{place.repo} and set the variable HF_TOKEN"
    try:
        yield
    except GatedRepoError as error:
        raise PlaceFailedError(gated) from error
    except RepositoryNotFoundError as error:
        hint = f"; {gated}" if place.gated else ""
        raise PlaceFailedError(f"repository or revision not found{hint}") from error
    except (transport_error, OSError, ValueError, RuntimeError) as error:
        if is_storage_error(error):
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        hint = f" ({gated})" if place.gated else ""
        raise PlaceFailedError(f"{type(error).__name__}: {lines[0]}{hint}") from error


@contextmanager
def _silent_bars() -> Iterator[None]:
    """Switch the hub client's own progress bars off; ours shows the bytes."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
