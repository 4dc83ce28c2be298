"""Files from public addresses: resumed where they stopped, retried with growing pauses, checked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from os import fsync
from typing import IO, TYPE_CHECKING

from crystalfm.assets.content import FileRecord, record_file
from crystalfm.assets.errors import ChecksumError, PlaceFailedError
from crystalfm.assets.progress import ProgressSink, transfer

if TYPE_CHECKING:
    from pathlib import Path

    from requests import RequestException, Response

_CHUNK_BYTES = 1 << 14  # a broken line loses at most this much
_TIMEOUT_SECONDS = (10.0, 60.0)
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206


@dataclass(frozen=True)
class Retries:
    """How often a transfer is tried.

    Attributes:
        attempts: tries in a row without a new byte; each resumes where the one before stopped.
        delay_seconds: pause after a failure; it doubles with each further one in a row.
    """

    attempts: int = 4
    delay_seconds: float = 1.0


class _InterruptedTransferError(Exception):
    """The transfer stopped early, but another try may go on from there."""


def download(
    url: str,
    target: Path,
    *,
    size: int | None,
    sha256: str | None,
    progress: ProgressSink,
    retries: Retries,
) -> FileRecord:
    """Download one file; what has arrived is kept in ``target.part`` and resumed by the next call.

    Args:
        url: address of the file.
        target: final path; it appears only when complete and verified.
        size: expected bytes, or ``None``.
        sha256: expected checksum, or ``None``.
        progress: where arriving bytes are reported.
        retries: how often to try in vain.

    Returns:
        The file's size and checksum.

    Raises:
        PlaceFailedError: the server does not have the file, announces another size, or keeps failing.
        ChecksumError: the content is not the expected one; the file has been removed.
    """
    if target.exists():  # finished by an earlier, interrupted run; still to be proved
        record = record_file(target)
        if sha256 is None or record.sha256 == sha256:
            return record
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target)
    _transfer_with_retries(url, part, size, pinned=sha256 is not None, progress=progress, retries=retries)
    record = record_file(part.path)
    if sha256 is not None and record.sha256 != sha256:
        part.remove()
        raise ChecksumError(
            f"{target.name} from {url}",
            expected=sha256,
            found=record.sha256,
            remedy="the file has been removed; try again, and if the source has changed use a mirror",
        )
    part.path.replace(target)
    part.remove()
    return record


class _Part:
    """The unfinished file beside its target, with the server's mark of the version it belongs to."""

    def __init__(self, target: Path) -> None:
        self.name = target.name
        self.path = target.with_name(target.name + ".part")
        self._mark = target.with_name(target.name + ".etag")

    @property
    def size(self) -> int:
        """Bytes that are there already."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def etag(self) -> str | None:
        """The server's mark of the version they belong to, if any."""
        return self._mark.read_text(encoding="utf-8") if self._mark.exists() else None

    def begin(self, response: Response) -> None:
        """Note which version the bytes to come belong to; weak marks cannot vouch for a resume."""
        self.remove()
        etag = response.headers.get("ETag")
        if etag and not etag.startswith("W/"):
            self._mark.write_text(etag, encoding="utf-8")

    def remove(self) -> None:
        """Forget what is there."""
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)


def _transfer_with_retries(
    url: str, part: _Part, size: int | None, *, pinned: bool, progress: ProgressSink, retries: Retries
) -> None:
    """Transfer until complete; only tries that bring no new byte count against the limit."""
    fruitless = 0
    arrived = part.size
    while True:
        try:
            _transfer(url, part, size, pinned=pinned, progress=progress)
        except _InterruptedTransferError as error:
            fruitless = 0 if part.size > arrived else fruitless + 1
            arrived = max(arrived, part.size)
            if fruitless >= retries.attempts:
                raise PlaceFailedError(
                    f"{part.name}: {error} (tried {fruitless} times; the next run resumes)"
                ) from error
            time.sleep(retries.delay_seconds * 2 ** max(0, fruitless - 1))
        else:
            return


def _transfer(url: str, part: _Part, size: int | None, *, pinned: bool, progress: ProgressSink) -> None:
    """Fetch the bytes still missing from ``part``.

    Raises:
        PlaceFailedError: trying again would not help.
        _InterruptedTransferError: trying again may help.
    """
    import requests

    # Without a checksum or the server's mark nothing shows that both halves are of one version.
    if part.size and not pinned and part.etag is None:
        part.remove()
    if size is not None and part.size > size:
        part.remove()
    done = part.size
    if size is not None and done == size:
        return
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if part.etag is not None:
            headers["If-Range"] = part.etag
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            done, total = _check_response(response, part, size)
            with transfer(progress, url.rsplit("/", 1)[-1], total), part.path.open("ab") as stream:
                progress.advance(done)
                for chunk in response.iter_content(_CHUNK_BYTES):
                    write_chunk(stream, chunk)
                    progress.advance(len(chunk))
                stream.flush()
                fsync(stream.fileno())
    except requests.RequestException as error:
        raise _InterruptedTransferError(_cause(error)) from error
    if total is not None and part.size != total:
        raise _InterruptedTransferError(f"the body ended after {part.size:,} of {total:,} bytes")


def _cause(error: RequestException) -> str:
    """Return the innermost reason of a failed request, without the layers of libraries around it."""
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return f"{type(error).__name__}: {str(inner).rsplit(': ', 1)[-1]}"


def write_chunk(stream: IO[bytes], chunk: bytes) -> None:
    """Append arriving bytes to the unfinished file."""
    stream.write(chunk)


def _check_response(response: Response, part: _Part, size: int | None) -> tuple[int, int | None]:
    """Judge the answer and prepare ``part`` for its body; return (bytes kept, total bytes or None)."""
    status = response.status_code
    if status == _RANGE_NOT_SATISFIABLE:
        part.remove()
        raise _InterruptedTransferError("the server could not resume; starting again")
    if status in _RETRY_STATUS:
        raise _InterruptedTransferError(f"HTTP {status} {response.reason}")
    if not response.ok:
        raise PlaceFailedError(f"{part.name}: HTTP {status} {response.reason}")
    length = response.headers.get("Content-Length")
    if status == _PARTIAL_CONTENT:
        done = part.size
        span = response.headers.get("Content-Range", "")
        if not span.startswith(f"bytes {done}-"):
            part.remove()
            raise _InterruptedTransferError(f"the server resumed at another place ({span or 'no Content-Range'})")
    else:
        done = 0
        part.begin(response)
    total = None if length is None else done + int(length)
    if size is not None and total is not None and total != size:
        part.remove()
        raise PlaceFailedError(f"{part.name}: the server announces {total:,} bytes, {size:,} expected")
    return done, total
