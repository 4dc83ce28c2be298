"""What a generation has written so far: a line for each sample, appended batch by batch, never changed."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from crystalfm.contracts import UserError
from crystalfm.generation.sampling import Sample
from crystalfm.io.files import append_lines, file_lock, whole_lines, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SAMPLES = "samples.jsonl"
REQUEST = "request.json"

_NAMES = frozenset(item.name for item in fields(Sample))


class Ledger:
    """The samples of a folder.

    Args:
        folder: folder of the generation; made if absent.
        identity: what decides the samples, as plain containers: a folder holds samples of one such set of settings.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.samples: dict[int, Sample] = {}
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))

    @contextmanager
    def opened(self, *, resume: bool) -> Iterator[Ledger]:
        """Hold the folder for this process alone, with the samples in it read.

        Args:
            resume: go on with the samples in the folder.

        Raises:
            UserError: another process writes to the folder, there is nothing to go on with, it was written with other
                settings, or there are samples that nobody asked to go on with.
        """
        lock = file_lock(self.folder / SAMPLES, timeout_seconds=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(f"{self.folder} is being written by another process", remedy="wait for its end") from error
        try:
            if resume:
                self._check_identity()
                self.samples = {sample.index: sample for sample in self._read()}
            elif (self.folder / SAMPLES).exists():
                raise UserError(f"{self.folder} holds samples already", remedy=f"go on with resume={self.folder}")
            else:
                write_json(self.folder / REQUEST, self._identity)
            yield self
        finally:
            lock.release()

    def append(self, samples: Sequence[Sample]) -> None:
        """Keep samples for good."""
        append_lines(self.folder / SAMPLES, [json.dumps(asdict(sample)) for sample in samples])
        self.samples.update({sample.index: sample for sample in samples})

    def missing(self, count: int) -> list[int]:
        """Return which of the first ``count`` samples are still to be written.

        Raises:
            UserError: the folder holds more.
        """
        if self.samples and max(self.samples) >= count:
            raise UserError(
                f"{self.folder} holds sample {max(self.samples)} already, n={count} are fewer",
                remedy=f"n={max(self.samples) + 1} or more",
            )
        return [index for index in range(count) if index not in self.samples]

    def _read(self) -> Iterator[Sample]:
        file = self.folder / SAMPLES
        for number, line in enumerate(whole_lines(file), start=1):
            try:
                content = json.loads(line)
            except ValueError:
                content = None
            if not isinstance(content, dict) or set(content) != _NAMES:
                raise UserError(f"{file}, line {number}: no sample", remedy="remove the line; it is written again")
            yield Sample(**content)

    def _check_identity(self) -> None:
        file = self.folder / REQUEST
        if not file.is_file():
            raise UserError(f"resume={self.folder} is no folder of a generation", remedy="it holds no request.json")
        try:
            before: Any = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} cannot be read: {error}", remedy="start a new generation") from error
        different = _differences(before, self._identity)
        if different:
            lines = [f"{key}: {old!r} then, {new!r} now" for key, old, new in different]
            raise UserError(
                f"resume={self.folder}: it was written with other settings\n    " + "\n    ".join(lines),
                remedy="repeat the settings, or start a new generation",
            )


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Return the leaves in which two trees of plain containers differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in sorted({*before, *now}):
            found += _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if before == now else [(key, before, now)]
