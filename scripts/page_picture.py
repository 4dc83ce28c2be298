"""Take a picture of parts of a run's page, for the documentation, with a headless Chromium.

python scripts/page_picture.py runs/evaluate/RUN/report.html docs/images/generator_page.png --sections figures gallery
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH = 1160
MARGIN = 16
MAX_COLOURS = 255
SECONDS_TO_DRAW = 4.0
OPTIONS = ("--headless", "--no-sandbox", "--hide-scrollbars", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def main() -> int:
    """Write the picture and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path, help="report.html of a run")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--sections", nargs="+", default=["figures", "gallery"], help="ids of the sections, in order")
    given = parser.parse_args()
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        parser.error("needs chromium and chromedriver")
    if not given.page.is_file():
        parser.error(f"{given.page}: no such file")
    parts = photographed(given.page, given.sections)
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + MARGIN), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.quantize(MAX_COLOURS).save(given.picture, optimize=True)
    sys.stdout.write(f"{given.picture}: {given.picture.stat().st_size:,} bytes\n")
    return 0


def photographed(page: Path, sections: list[str]) -> list[Image.Image]:
    """Return a picture of each section, with some ground around it."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            driver.get(page.resolve().as_uri())
            height = driver.execute_script("return document.documentElement.scrollHeight")
            size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            time.sleep(SECONDS_TO_DRAW)
            shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            places = [driver.find_element("id", name).rect for name in sections]
        finally:
            driver.quit()
    return [shot.crop((0, int(at["y"]), WIDTH, int(at["y"] + at["height"]) + MARGIN)) for at in places]


if __name__ == "__main__":
    sys.exit(main())
