"""Texts about crystals on disk: each made once, kept in segments that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from crystalfm.chem.description_process import Outcome
from crystalfm.contracts import UserError
from crystalfm.io.files import atomic_write, file_lock, sha256_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Version of the layout; a change makes every key new."""

_MERGE_AT = 64
"""So many segments are merged into one."""


class SegmentError(ValueError):
    """A segment whose checksum does not fit."""


class DescriptionCache:
    """Outcomes by crystal, for one way of describing.

    The folder's name is made of the generator's name and the SHA-256 of its identity, which ``manifest.json`` spells
    out. Each segment is a file of JSON lines, the last with the checksum of those before. Processes that describe at
    the same time only add segments; a crystal that two of them have described counts once.

    Args:
        root: folder of the descriptions of all generators.
        identity: all that determines a text besides its crystal, ``generator`` among it, as plain values.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        key = sha256_json({**identity, "format": FORMAT_VERSION})[:16]
        self.folder = root / f"{identity['generator']}-{key}"
        self._identity = dict(identity)
        self._seen: set[str] = set()
        self._found: dict[str, Outcome] = {}

    def outcomes(self) -> dict[str, Outcome]:
        """Return all that is known, by the digest of the crystal, new segments of other processes included."""
        for path in sorted(self.folder.glob("*.jsonl")):
            if path.name in self._seen:
                continue
            try:
                self._found |= _read(path)
            except FileNotFoundError:
                continue  # merged into another meanwhile, which is read too or known already
            except SegmentError as error:
                _LOG.warning("descriptions: removed the damaged segment %s: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            self._seen.add(path.name)
        return self._found

    def add(self, outcomes: Mapping[str, Outcome]) -> None:
        """Keep outcomes, those that would come out otherwise another time excepted.

        Raises:
            UserError: the cache cannot be written.
        """
        lasting = {digest: outcome for digest, outcome in outcomes.items() if outcome.lasting}
        if not lasting:
            return
        try:
            if not (self.folder / "manifest.json").is_file():
                write_json(self.folder / "manifest.json", self._identity)
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
            _write(self.folder / name, lasting)
        except OSError as error:
            raise UserError(
                f"descriptions cannot be written in {self.folder}: {error.strerror or error}",
                remedy="free some space or point paths.cache (or CRYSTALFM_CACHE) at a folder of yours",
            ) from error
        self._seen.add(name)
        self._found |= lasting

    @contextmanager
    def making(self, *, wait: bool) -> Iterator[None]:
        """Tell other processes that texts are being made.

        Args:
            wait: until no other process makes any; else go on beside it.
        """
        from filelock import Timeout

        try:
            lock = file_lock(self.folder / "making")
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            _LOG.info("descriptions: another process describes crystals too (%s)", self.folder)
            yield
            return
        except OSError:  # ``add`` says what is wrong with the folder
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def merge(self) -> None:
        """Make one segment of many, unless another process is at it."""
        from filelock import Timeout

        if len(list(self.folder.glob("*.jsonl"))) < _MERGE_AT:
            return
        try:
            with file_lock(self.folder, timeout_seconds=0):
                self.outcomes()
                merged = sorted(path for path in self.folder.glob("*.jsonl") if path.name in self._seen)
                self.add(self._found)
                for path in merged:
                    path.unlink(missing_ok=True)
        except (Timeout, OSError) as error:
            _LOG.info("descriptions: segments are not merged now: %s", error)


def digest_of(structure: str) -> str:
    """Return the name under which a crystal's outcome is kept."""
    return hashlib.sha256(structure.encode()).hexdigest()[:32]


def _write(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    lines = [json.dumps({"crystal": digest, **_fields(outcome)}) for digest, outcome in sorted(outcomes.items())]
    content = "".join(line + "\n" for line in lines)
    with atomic_write(path, "w") as stream:
        stream.write(content)
        stream.write(json.dumps({"sha256": hashlib.sha256(content.encode()).hexdigest()}) + "\n")


def _fields(outcome: Outcome) -> dict[str, Any]:
    if outcome.text is not None:
        return {"text": outcome.text}
    return {"reason": outcome.reason, "limit_seconds": outcome.limit_seconds}


def _read(path: Path) -> dict[str, Outcome]:
    content = path.read_bytes()
    body, newline, last = content.rstrip(b"\n").rpartition(b"\n")
    try:
        expected = json.loads(last)["sha256"]
        if hashlib.sha256(body + newline).hexdigest() != expected:
            raise SegmentError("its checksum is wrong")
        entries = [json.loads(line) for line in body.splitlines()]
        return {
            entry["crystal"]: Outcome(entry.get("text"), entry.get("reason", ""), entry.get("limit_seconds"))
            for entry in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SegmentError(str(error)) from error
