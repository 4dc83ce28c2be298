"""A real headless Chromium for tests, with a new profile of its own and a record of what it asked for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("chromium", "chromium-driver")
PROGRAMS = ("chromium", "chromedriver")
NO_INSTALL = "CRYSTALFM_TEST_NO_INSTALL"
"""Environment variable that keeps the tests from installing packages."""

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    # WebGL on the processor.
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)


class NoBrowserError(Exception):
    """Chromium cannot be had here; the message says why."""


def require_programs() -> None:
    """Install Chromium and its driver where they are missing and this process may do so.

    Raises:
        NoBrowserError: they are missing and cannot be installed.
    """
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.environ.get(NO_INSTALL):
        raise NoBrowserError(f"Chromium is not installed, and {NO_INSTALL} is set")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoBrowserError(f"Chromium is not installed, and {' '.join(PACKAGES)} need root and apt-get")
    quick = ["apt-get", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "DPkg::Lock::Timeout=60"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES, "fonts-dejavu-core"]):
        try:
            done = subprocess.run(
                [*quick, *arguments],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
        except subprocess.TimeoutExpired as error:
            raise NoBrowserError(f"apt-get {arguments[0]} took too long") from error
        if done.returncode:
            raise NoBrowserError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-300:]}")
    if not all(map(shutil.which, PROGRAMS)):
        raise NoBrowserError(f"the packages {' '.join(PACKAGES)} lack some of {' '.join(PROGRAMS)}")


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Start Chromium with an empty profile in ``profile`` and yield Selenium's driver of it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def look_as(driver: Any, width: int, height: int, *, dark: bool) -> None:
    """Make the browser a screen of this size, light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def requests(driver: Any) -> list[str]:
    """Return what was asked for since the last call, without what the file itself holds."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # The browser's own pages, such as that of a new tab, are no request either.
    return [url for url in urls if not url.startswith(("data:", "blob:", "chrome:", "chrome-extension:"))]


def errors(driver: Any) -> list[str]:
    """Return what the console has said since the last call, without the graphics driver's remarks on speed."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["source"] != "rendering"]
