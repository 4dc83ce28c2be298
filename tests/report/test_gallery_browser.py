"""The page of a generator in a real browser: pictures, crystals to turn, the table, no errors, no requests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from browser import errors, look_as, requests
from gallery_helpers import NUM_ROWS, generator_content
from page_driver import awaited, click, differs, ids, opened, pixels

from crystalfm.report.page.build import build_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GREEN, VIOLET = 1, 0


@pytest.fixture
def page(tmp_path: Path, chromium: Any) -> Any:
    """The browser with a generator's page open."""
    return opened(chromium, tmp_path / "report.html", build_page(generator_content()))


def coloured(picture: Any, kind: int) -> int:
    """Return how many pixels are green as chlorine, or violet as sodium and potassium."""
    red, green, blue = (picture[..., place] for place in range(3))
    if kind == GREEN:
        return int(((green > red + 60) & (green > blue + 60)).sum())
    return int(((blue > green + 60) & (red > green + 20)).sum())


def waited(driver: Any, script: str) -> Any:
    """Return what a script returns once that is true; as it is after half a minute otherwise."""
    end = time.monotonic() + 30
    while not (found := driver.execute_script(script)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def caption(driver: Any) -> str:
    found: str = driver.execute_script("return document.querySelector('#view figcaption').textContent")
    return found


def energies(driver: Any) -> list[float | None]:
    script = (
        "return [...document.querySelectorAll('#rows tbody tr')].map((row) => row.cells[2].dataset.value)"
        ".map((value) => value === undefined ? null : Number(value))"
    )
    found: list[float | None] = driver.execute_script(script)
    return found


def chosen(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.chosen')].map((one) => one.dataset.id)"
    found: list[str] = driver.execute_script(script)
    return found


def test_it_opens_without_errors_and_asks_for_nothing_else(page):
    waited(page, "window.scrollTo(0, 1e6); return document.querySelector('#crystal canvas')")
    assert errors(page) == []
    assert [url.rpartition("/")[2] for url in set(requests(page))] == ["report.html"]


def test_nothing_is_drawn_before_it_is_seen(chromium, tmp_path):
    tall = build_page(generator_content()).replace("<main>", '<main><div style="height:5000px"></div>', 1)
    driver = opened(chromium, tmp_path / "tall.html", tall)
    drawn = "return document.querySelectorAll('#crystal canvas, #cards .picture svg').length"
    assert driver.execute_script(drawn) == 0
    driver.execute_script("document.querySelector('#cards').scrollIntoView({behavior: 'instant'})")
    assert waited(driver, "return document.querySelectorAll('#cards .picture svg').length === 2")
    driver.execute_script("document.querySelector('#view').scrollIntoView({behavior: 'instant'})")
    assert waited(driver, "return document.querySelectorAll('#crystal canvas').length === 1")
    assert chosen(driver) == ["0", "0"]  # the first row and its picture


def test_pictures_show_the_crystals(page):
    assert waited(page, "return document.querySelectorAll('#cards .picture svg').length === 2")
    # 27 atoms with their shades, for salt's cell with all its corners, edges and faces.
    counts = page.execute_script(
        "return [...document.querySelectorAll('#cards svg')].map((one) => one.querySelectorAll('circle').length)"
    )
    assert counts == [54, 4]
    picture = pixels(page, "#cards button[data-id='0'] .picture")
    assert coloured(picture, GREEN) > 100
    assert coloured(picture, VIOLET) > 100


@pytest.mark.parametrize("dark", [False, True])
def test_a_picture_brings_its_crystal_to_turn(page, dark):
    from selenium.webdriver import ActionChains

    look_as(page, 1200, 900, dark=dark)
    click(page, "#cards button[data-id='0']")
    assert chosen(page) == ["0", "0"]
    picture = awaited(page, "#crystal", lambda seen: min(coloured(seen, GREEN), coloured(seen, VIOLET)) > 200)
    assert min(coloured(picture, GREEN), coloured(picture, VIOLET)) > 200
    assert (picture[2, 2].mean() < 80) == dark
    ActionChains(page).drag_and_drop_by_offset(page.find_element("css selector", "#crystal canvas"), 80, 40).perform()
    assert differs(awaited(page, "#crystal", lambda seen: differs(seen, picture) > 0.01), picture) > 0.01
    assert caption(page).startswith("ClNa")
    assert errors(page) == []


def test_a_crystal_is_shown_as_written_and_relaxed(page):
    click(page, "tr[data-id='1']")
    button = page.find_element("css selector", "#state")
    assert button.text == "show it relaxed"
    assert "2 atoms a cell, as it was written" in caption(page)
    written = awaited(page, "#crystal", lambda seen: differs(seen, seen[2, 2]) > 0.005)
    assert coloured(written, VIOLET) == 0
    click(page, "#state")
    assert "relaxed" in caption(page)
    assert button.text == "show it as it was written"
    assert coloured(awaited(page, "#crystal", lambda seen: coloured(seen, VIOLET) > 100), VIOLET) > 100
    click(page, "tr[data-id='0']")
    assert not button.is_displayed()


def test_a_sample_without_a_crystal_says_why(page):
    click(page, "tr[data-id='2']")
    assert caption(page) == "2sample 2; it could not be read"
    assert not page.find_element("css selector", "#crystal").is_displayed()


def test_what_is_not_known_comes_last_either_way(page):
    for descending in (True, False):
        click(page, "#rows th:nth-child(3)")
        known = [value for value in energies(page) if value is not None]
        assert known == sorted(known, reverse=descending)
        assert energies(page) == known + [None] * (NUM_ROWS // 3)


def test_groups_and_words_choose_samples(page):
    choose = "const g = document.getElementById('group'); g.value = arguments[0]; g.dispatchEvent(new Event('change'))"
    for key, kinds in {"new": {0}, "valid": {0, 1}, "unread": {2}, "": {0, 1, 2}}.items():
        page.execute_script(choose, key)
        assert {int(name) % 3 for name in ids(page)} == kinds
        assert len(ids(page)) == NUM_ROWS * len(kinds) // 3
    page.execute_script(choose, "valid")
    page.find_element("css selector", "#filter").send_keys("ClNa")
    assert {int(name) % 3 for name in ids(page)} == {0}
    assert page.find_element("css selector", "#count").text == f"{NUM_ROWS // 3} of {NUM_ROWS} rows"


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(page, dark):
    look_as(page, 390, 800, dark=dark)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    pictures = page.find_elements("css selector", "#cards button")
    assert len({button.rect["y"] for button in pictures}) == 1  # a strip to push
    assert {button.rect["width"] for button in pictures} == {136}
    click(page, "#cards button[data-id='1']")
    shown = "const r = document.querySelector('#view').getBoundingClientRect(); return r.top < 800 && r.bottom > 0"
    assert waited(page, shown)
    assert caption(page).startswith("C")


def test_without_webgl_there_are_pictures(tmp_path, chromium):
    text = build_page(generator_content()).replace(
        "<body>", "<body><script>HTMLCanvasElement.prototype.getContext = () => null</script>", 1
    )
    driver = opened(chromium, tmp_path / "plain.html", text)
    click(driver, "#cards button[data-id='0']")
    assert "no 3D view in this browser" in caption(driver)
    assert waited(driver, "return document.querySelectorAll('#cards .picture svg').length === 2")
