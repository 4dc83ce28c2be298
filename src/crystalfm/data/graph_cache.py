"""Crystal graphs in the cache: built once, in parallel, for a set of crystals and a way to build them."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalfm.chem.crystals import Crystal
from crystalfm.chem.graph_arrays import GraphArrays, build_arrays, concatenate
from crystalfm.io.files import atomic_write, file_lock, sha256_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crystalfm.chem.crystal_graph import GraphSettings

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Version of the file's layout."""

_CHUNK_CRYSTALS = 4096
"""Crystals built at once, half a second's work: a process is started for no fewer."""

_LENGTH_BYTES = 8
_CHECKSUM = "sha256"
_TYPES = {f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "ui" for size in (1, 2, 4, 8)} | {"F32": "<f4"}
"""NumPy's names of the types in a safetensors header."""


def cached_graphs(
    cache: Path, structures: Sequence[str], settings: GraphSettings, *, num_workers: int | None = None
) -> GraphArrays:
    """Return the graphs of crystals, memory-mapped, of an earlier run or built now.

    The file's name is a digest of the structures, the settings, and the versions of the builder and of the library
    that searches for neighbours. It appears whole or not at all, and its checksum is verified at every opening.

    Args:
        cache: root of the cache; where it cannot be written the graphs are built and kept in memory.
        structures: K distinct crystals as ``Crystal.to_json`` writes them, checked before.
        settings: how to build them.
        num_workers: processes that build; by default one a core, but no more than there is work for.

    Raises:
        CrystalError: a string is not a crystal's JSON.
    """
    digest = hashlib.sha256()
    for structure in structures:
        digest.update(structure.encode() + b"\n")
    identity = {**settings.identity(), "format": FORMAT_VERSION, "neighbours": search_version()}
    key = sha256_json({"structures": digest.hexdigest(), **identity})[:32]
    path = cache / "crystal_graphs" / f"{key}.safetensors"
    try:
        with file_lock(path):
            found = _open(path)
            if found is None:
                _write(path, build_graphs(structures, settings, num_workers=num_workers))
                found = _open(path)
    except PermissionError:
        # A cache shared by a group may be read-only on compute nodes: use what is there, without a lock.
        _LOG.warning("crystal graphs: the cache %s cannot be written", path.parent)
        found = _open(path)
    return build_graphs(structures, settings, num_workers=num_workers) if found is None else found


def build_graphs(structures: Sequence[str], settings: GraphSettings, *, num_workers: int | None = None) -> GraphArrays:
    """Return the graphs of crystals, built by several processes where there are many.

    Args:
        structures: crystals as ``Crystal.to_json`` writes them.
        settings: how to build them.
        num_workers: processes that build; by default one a core, but no more than there is work for.

    Raises:
        CrystalError: a string is not a crystal's JSON.
    """
    start = time.perf_counter()
    chunks = [structures[i : i + _CHUNK_CRYSTALS] for i in range(0, len(structures), _CHUNK_CRYSTALS)]
    workers = min(_num_cores(), len(chunks)) if num_workers is None else min(num_workers, len(chunks))
    parts = _in_processes(chunks, settings, workers)
    graphs = concatenate([_build_chunk(chunk, settings) for chunk in chunks or [[]]] if parts is None else parts)
    seconds = time.perf_counter() - start
    used = 1 if parts is None else workers
    _LOG.info("crystal graphs: %d built in %.1f s by %d processes", len(graphs), seconds, used)
    return graphs


def _in_processes(
    chunks: Sequence[Sequence[str]], settings: GraphSettings, num_workers: int
) -> list[GraphArrays] | None:
    """Return each chunk's graphs, or ``None`` where no other processes are wanted or can be started."""
    # A worker of a data loader or of a pool may not have children.
    if num_workers <= 1 or multiprocessing.current_process().daemon:
        return None
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
            return list(pool.map(_build_chunk, chunks, repeat(settings)))
    except BrokenProcessPool as error:
        _LOG.warning("crystal graphs: building in this process, as others ended early: %s", error)
        return None


def _build_chunk(structures: Sequence[str], settings: GraphSettings) -> GraphArrays:
    return build_arrays((Crystal.from_json(structure) for structure in structures), settings)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def search_version() -> str:
    """Return the version of pymatgen, whose compiled part is in a package of its own in newer releases."""
    try:
        return version("pymatgen-core")
    except PackageNotFoundError:
        return version("pymatgen")


def _write(path: Path, graphs: GraphArrays) -> None:
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in graphs.arrays().items()}
    with atomic_write(path) as stream:
        stream.write(save(arrays, metadata={_CHECKSUM: _checksum(arrays)}))


def _open(path: Path) -> GraphArrays | None:
    """Return the graphs of a file, memory-mapped, or ``None`` where there is none or it is damaged."""
    try:
        graphs = _mapped(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOG.warning("crystal graphs: %s is damaged and made again: %s", path, error)
        return None
    _LOG.info("crystal graphs: %d from the cache (%s)", len(graphs), path.name[:12])
    return graphs


def _mapped(path: Path) -> GraphArrays:
    """Map a safetensors file into memory; its own reader would copy it.

    The file begins with the length of a JSON header, which has type, shape and place of each array in what follows.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    header = json.loads(content[_LENGTH_BYTES:start].tobytes())
    arrays = {}
    for name in GraphArrays.names():
        entry = header[name]
        first, last = entry["data_offsets"]
        arrays[name] = content[start + first : start + last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    if _checksum(arrays) != header["__metadata__"][_CHECKSUM]:
        raise ValueError("its checksum is wrong")
    return GraphArrays.of(arrays)


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
