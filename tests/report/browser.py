"""A real headless Chromium for tests, with a new profile of its own and a record of what it asked for."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from debian_packages import require_programs

PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
PROGRAMS = ("chromium", "chromedriver")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    # WebGL on the processor.
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
    # A page that was left is gone, with its 3D view.
    "--disable-features=BackForwardCache",
)


def require_browser() -> None:
    """Install Chromium and its driver where they are missing and this process may do so.

    Raises:
        NoProgramError: they are missing and cannot be installed.
    """
    require_programs("Chromium", PACKAGES, PROGRAMS)


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
