"""Folders that appear when they are complete."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError
from crystalfm.io.files import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


def require_free(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        UserError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out={folder} is there already", remedy="name a new folder, or remove it")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` to write to; it takes its place when the block ends without an exception.

    Raises:
        UserError: ``folder`` holds something already.
    """
    require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True) as name:
        stage = Path(name) / "export"
        stage.mkdir()
        yield stage
        if folder.exists():
            folder.rmdir()
        shutil.move(stage, folder)
    fsync_folder(folder.parent)
