"""What tests do with a page in a browser: open it, click, read its table, take pictures of its parts."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from browser import errors, look_as, requests
from PIL import Image


def opened(driver: Any, path: Path, text: str) -> Any:
    path.write_text(text, encoding="utf-8")
    look_as(driver, 1200, 900, dark=False)
    patient(lambda: driver.get("about:blank"))
    requests(driver), errors(driver)
    patient(lambda: driver.get(path.as_uri()))
    return driver


def patient(action: Callable[[], Any]) -> Any:
    """Do something again when the browser, drawing without a graphics card on a busy machine, takes too long."""
    from selenium.common.exceptions import TimeoutException

    for _ in range(8):
        try:
            return action()
        except TimeoutException:
            time.sleep(1)
    return action()


def pixels(driver: Any, selector: str) -> np.ndarray:
    script = """
        const element = document.querySelector(arguments[0]);
        element.scrollIntoView({block: "center"});
        const done = arguments[1];
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const box = element.getBoundingClientRect();
            done([box.left, box.top, box.right, box.bottom].map(Math.round));
        }));
    """
    box = driver.execute_async_script(script, selector)
    # Through DevTools: the driver's own command gives up after ten seconds, which drawing in software may take.
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    seen = Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")
    return np.asarray(seen.crop(box)).astype(int)


def ids(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#rows tbody tr')].filter(r => !r.hidden).map(r => r.dataset.id)"
    found: list[str] = driver.execute_script(script)
    return found


def column(driver: Any, number: int) -> list[float]:
    script = (
        "return [...document.querySelectorAll('#rows tbody tr')].map(r => Number(r.cells[arguments[0]].dataset.value))"
    )
    found: list[float] = driver.execute_script(script, number)
    return found


def click(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def differs(picture: Any, other: Any) -> float:
    """Return the share of the pixels that differ clearly from those of another picture, or from a colour."""
    return float((np.abs(picture - other).sum(axis=2) > 60).mean())


def awaited(driver: Any, selector: str, ready: Callable[[Any], bool]) -> Any:
    """Return the pixels of an element once they are ready; as they are after half a minute otherwise."""
    end = time.monotonic() + 30
    while not ready(picture := pixels(driver, selector)) and time.monotonic() < end:
        time.sleep(0.2)
    return picture
