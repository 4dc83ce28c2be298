"""Descriptions of crystals: texts for many crystals at once, over processes, each made once and kept.

What else is computed crystal by crystal can be made the same way, as a text in JSON.

Backends are joblib's. Whichever it is, each of its workers keeps a child that does the describing (see
``chem.description_process``), so that the time limit holds and no crystal can end more than itself.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from crystalfm.chem import chemnlp_text, robocrys_text, slices_text
from crystalfm.chem.description_process import Call, DescriberProcess, Outcome
from crystalfm.contracts import UserError
from crystalfm.data.description_cache import DescriptionCache, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_LOG = logging.getLogger(__name__)

DescriptionName = Literal["robocrys", "chemnlp", "slices"]

_CHUNK_CRYSTALS = 4
"""Crystals given to a worker at once; few, as the largest come last and take a minute each."""

_TASKS_OF_A_ROUND = 4
"""Tasks a worker has until results come back, where a backend gives them back together."""

_COMMIT_SECONDS = 10.0
_COMMIT_CRYSTALS = 256
"""Finished texts are on disk after so many, or so many seconds: what a killed run can lose."""

_BACKEND_PACKAGES = {"dask": "distributed", "ray": "ray"}


@dataclass(frozen=True)
class DescriptionSettings:
    """How descriptions of crystals are made; which ones is ``data.description``.

    Attributes:
        backend: joblib's ``loky`` for the processes of this machine, ``dask`` or ``ray`` for those of a cluster, or
            ``sequential`` for one.
        jobs: crystals described at a time; ``None`` for as many as there are cores or workers.
        time_limit_seconds: a crystal that takes longer is rejected.
    """

    backend: Literal["loky", "dask", "ray", "sequential"] = "loky"
    jobs: int | None = None
    time_limit_seconds: float = 60.0


@dataclass(frozen=True)
class Generator:
    """A way of describing.

    Attributes:
        name: value of ``data.description``.
        function: ``module:function`` that maps a ``Crystal`` to a text.
        version: version of our part of it.
        packages: import names of the packages it needs.
        library_versions: returns the versions of the packages on which its texts depend.
        arguments: keyword arguments of the function, plain values; a text depends on them.
        verb: what the function does to a crystal, as a participle, for reasons.
        kind: what it makes, in the plural: the name of the folder in the cache.
        setting: key of the configuration that asks for it.
        extra: optional dependencies of this package that bring the packages.
        remedy: how to get them where no extra brings them, and what else would do.
    """

    name: str
    function: str
    version: int
    packages: tuple[str, ...]
    library_versions: Callable[[], Mapping[str, str]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    verb: str = "described"
    kind: str = "descriptions"
    setting: str = "data.description"
    extra: str = "describe"
    remedy: str = ""

    @property
    def call(self) -> Call:
        """What a describing process needs to know."""
        return self.function, dict(self.arguments), self.verb

    @property
    def how_to_install(self) -> str:
        """What a message says where a package is missing."""
        return self.remedy or f"pip install 'crystalfm[{self.extra}]'"

    def identity(self) -> dict[str, Any]:
        """Return all that determines a text besides the crystal.

        Raises:
            UserError: a package is missing.
        """
        self.require()
        identity = {"generator": self.name, "version": self.version, "libraries": dict(self.library_versions())}
        return identity | ({"arguments": dict(self.arguments)} if self.arguments else {})

    def require(self) -> None:
        """Look whether the packages are installed, without importing them.

        Raises:
            UserError: one is missing.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise UserError(
                f"{self.setting}={self.name}: {', '.join(missing)} is not installed",
                remedy=self.how_to_install,
            )


GENERATORS: Mapping[str, Generator] = {
    "robocrys": Generator(
        "robocrys",
        f"{robocrys_text.__name__}:describe",
        robocrys_text.TEXT_VERSION,
        ("robocrys", "matminer", "pymatgen"),
        robocrys_text.library_versions,
    ),
    "chemnlp": Generator(
        "chemnlp",
        f"{chemnlp_text.__name__}:describe",
        chemnlp_text.TEXT_VERSION,
        ("jarvis",),
        chemnlp_text.library_versions,
    ),
    "slices": Generator(
        "slices",
        f"{slices_text.__name__}:describe",
        slices_text.TEXT_VERSION,
        slices_text.PACKAGES,
        slices_text.library_versions,
        remedy=slices_text.REMEDY,
    ),
}
"""Every way of describing, by the value of ``data.description``."""


@dataclass(frozen=True)
class DescribedCrystals:
    """Descriptions of a list of crystals.

    Attributes:
        outcomes: text or reason of each crystal, in the order given.
        num_cached: distinct crystals whose outcome was known.
        num_made: distinct crystals described now.
        seconds: time that took, with several processes at once.
    """

    outcomes: list[Outcome]
    num_cached: int
    num_made: int
    seconds: float

    @property
    def num_failed(self) -> int:
        """Crystals of the list without a text."""
        return sum(outcome.text is None for outcome in self.outcomes)


def describe_crystals(
    structures: Sequence[str],
    generator: Generator,
    cache: Path,
    settings: DescriptionSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
    wait: bool = False,
) -> DescribedCrystals:
    """Return the description of each crystal, from the cache where there is one.

    What is made is kept as it comes, so that an interrupted call goes on where it stopped. Small crystals come first.

    Args:
        structures: crystals as ``Crystal.to_json`` writes them.
        generator: how to describe them.
        cache: root of the cache.
        settings: where and how long.
        progress: called with (crystals done, crystals to do) now and then.
        wait: let another process that describes at this time finish first, as it may do the same.

    Raises:
        UserError: a package of the generator or the backend is missing, or the cache cannot be written.
    """
    started = time.monotonic()
    kept = DescriptionCache(cache / generator.kind, generator.identity())
    names = [digest_of(structure) for structure in structures]
    distinct = dict(zip(names, structures, strict=True))
    made: dict[str, Outcome] = {}
    if missing := _missing(distinct, kept, settings):
        with kept.making(wait=wait):
            missing = _missing(distinct, kept, settings) if wait else missing
            made = _describe_missing(missing, generator, kept, settings, progress)
    known = {**kept.outcomes(), **made}
    seconds = time.monotonic() - started
    found = [known[name] for name in names]
    done = DescribedCrystals(found, len(distinct) - len(missing), len(missing), seconds)
    _LOG.info(
        "%s (%s): %d from the cache, %d made in %.0f s, %d of %d crystals without; %s",
        *(
            generator.kind,
            generator.name,
            done.num_cached,
            done.num_made,
            seconds,
            done.num_failed,
            len(found),
            kept.folder,
        ),
    )
    return done


def _missing(distinct: Mapping[str, str], kept: DescriptionCache, settings: DescriptionSettings) -> dict[str, str]:
    """Return the crystals whose outcome is not known."""
    known = kept.outcomes()
    return {name: structure for name, structure in distinct.items() if not _holds(known.get(name), settings)}


def _holds(outcome: Outcome | None, settings: DescriptionSettings) -> bool:
    """Say whether a known outcome stands: a time-out does up to the limit at which it came."""
    if outcome is None:
        return False
    return outcome.limit_seconds is None or outcome.limit_seconds >= settings.time_limit_seconds


def _describe_missing(
    missing: Mapping[str, str],
    generator: Generator,
    kept: DescriptionCache,
    settings: DescriptionSettings,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Outcome]:
    """Describe crystals over processes and keep the outcomes as they come."""
    ordered = sorted(missing.items(), key=lambda item: (len(item[1]), item[0]))
    chunks = [ordered[start : start + _CHUNK_CRYSTALS] for start in range(0, len(ordered), _CHUNK_CRYSTALS)]
    _LOG.info("%s (%s): %d crystals to do", generator.kind, generator.name, len(ordered))
    made: dict[str, Outcome] = {}
    waiting: dict[str, Outcome] = {}
    last = time.monotonic()
    try:
        for outcomes in _over_workers(chunks, generator.call, settings):
            waiting |= outcomes
            made |= outcomes
            if progress is not None:
                progress(len(made), len(ordered))
            if len(waiting) >= _COMMIT_CRYSTALS or time.monotonic() - last > _COMMIT_SECONDS:
                kept.add(waiting)
                waiting, last = {}, time.monotonic()
    finally:
        kept.add(waiting)
    kept.merge()
    return made


Chunk = list[tuple[str, str]]
"""Digests and crystals of one task."""


def _over_workers(chunks: Sequence[Chunk], call: Call, settings: DescriptionSettings) -> Iterator[dict[str, Outcome]]:
    """Yield the outcomes of chunks in the order in which they are done."""
    from joblib import Parallel, delayed, parallel_config

    limit = settings.time_limit_seconds
    if settings.backend == "sequential":
        try:
            yield from (_describe_chunk(chunk, call, limit) for chunk in chunks)
        finally:
            _close_describer()
        return
    with _backend(settings, len(chunks)) as (name, jobs), parallel_config(backend=name, n_jobs=jobs):
        if name == "ray":  # its pool gives results back only when all are there
            size = _TASKS_OF_A_ROUND * jobs
            for start in range(0, len(chunks), size):
                tasks = chunks[start : start + size]
                yield from Parallel(batch_size=1)(delayed(_describe_chunk)(chunk, call, limit) for chunk in tasks)
            return
        parallel = Parallel(return_as="generator_unordered", batch_size=1)
        yield from parallel(delayed(_describe_chunk)(chunk, call, limit) for chunk in chunks)


@contextmanager
def _backend(settings: DescriptionSettings, num_tasks: int) -> Iterator[tuple[str, int]]:
    """Yield joblib's name of a backend and the number of tasks at a time, and end what was started for it."""
    name = settings.backend
    package = _BACKEND_PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"descriptions.backend={name}: the package {package} is not installed",
            remedy=f"pip install {name if name == 'ray' else 'dask distributed'}, or descriptions.backend=loky",
        )
    if name == "dask":
        with _dask_client() as cores:
            yield name, min(settings.jobs or cores, num_tasks)
        return
    if name == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        if not ray.is_initialized():
            ray.init(address=None, log_to_driver=False)
        yield name, min(settings.jobs or int(ray.cluster_resources().get("CPU", 1)), num_tasks)
        return
    from joblib import cpu_count
    from joblib.externals.loky import get_reusable_executor

    try:
        yield name, min(settings.jobs or cpu_count(), num_tasks)
    finally:
        _close_describer()  # with one job, joblib works in this process
        # Idle workers would keep their children, half a gigabyte each, through the training.
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def _dask_client() -> Iterator[int]:
    """Yield the threads of the cluster that is there (``DASK_SCHEDULER_ADDRESS``), else of one on this machine."""
    import dask
    from distributed import Client, default_client

    try:
        yield sum(default_client().nthreads().values())
    except ValueError:
        address = dask.config.get("scheduler-address", None)
        with Client(address) if address else Client(threads_per_worker=1, dashboard_address=None) as client:
            yield sum(client.nthreads().values())


# --------------------------------------------------------------------------- in a worker

_HELD = threading.local()
"""The child of each thread of a worker, kept from task to task."""


def _describe_chunk(chunk: Chunk, call: Call, limit_seconds: float) -> dict[str, Outcome]:
    describer: DescriberProcess | None = getattr(_HELD, "describer", None)
    if describer is None or describer.call != call:
        _close_describer()
        _HELD.describer = describer = DescriberProcess(*call)
    return {name: describer.describe(structure, limit_seconds) for name, structure in chunk}


def _close_describer() -> None:
    describer = getattr(_HELD, "describer", None)
    if describer is not None:
        describer.close()
        _HELD.describer = None
