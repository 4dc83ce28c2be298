"""Programs that tests need from Debian's packages: installed where they are missing and that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

NO_INSTALL = "CRYSTALFM_TEST_NO_INSTALL"
"""Environment variable that keeps the tests from installing packages."""

_QUICK = ("apt-get", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "DPkg::Lock::Timeout=60")
_STEP_SECONDS = 240


class NoProgramError(Exception):
    """A program cannot be had here; the message says why."""


def require_programs(what: str, packages: Sequence[str], programs: Sequence[str]) -> None:
    """Install packages where one of their programs is missing and this process may do so.

    Raises:
        NoProgramError: one is missing and cannot be installed.
    """
    if _are_there(programs):
        return
    if os.environ.get(NO_INSTALL):
        raise NoProgramError(f"{what} is not installed, and {NO_INSTALL} is set")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoProgramError(f"{what} is not installed, and {' '.join(packages)} need root and apt-get")
    # Two installations at a time would fail for each other's locks.
    with FileLock(Path(tempfile.gettempdir()) / "crystalfm-tests-apt.lock"):
        if not _are_there(programs):
            _install(packages)
    if not _are_there(programs):
        raise NoProgramError(f"the packages {' '.join(packages)} lack some of {' '.join(programs)}")


def _are_there(programs: Sequence[str]) -> bool:
    return all(map(shutil.which, programs))


def _install(packages: Sequence[str]) -> None:
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                [*_QUICK, *arguments],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
                timeout=_STEP_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise NoProgramError(f"apt-get {arguments[0]} took too long") from error
        if done.returncode:
            raise NoProgramError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-300:]}")
