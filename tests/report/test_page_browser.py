"""The run's page in a real browser: it renders, turns, sorts and filters, says no error and asks for nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from browser import errors, look_as, requests
from page_driver import awaited, click, column, differs, ids, opened
from page_helpers import content

from crystalfm.report.page.build import build_page
from crystalfm.report.page.structures import molecule_structure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def page(tmp_path: Path, chromium: Any) -> Any:
    """The browser with a page of crystals and molecules open."""
    return opened(chromium, tmp_path / "report.html", build_page(content()))


def sodium_and_chlorine(picture: Any) -> tuple[int, int]:
    """Return how many pixels are violet, and how many green."""
    red, green, blue = (picture[..., place] for place in range(3))
    violet = (blue > green + 60) & (red > green + 20)
    return int(violet.sum()), int(((green > red + 60) & (green > blue + 60)).sum())


def first_of(driver: Any, kind: int) -> str:
    """Return the first row's id among those whose number leaves ``kind`` when divided by three."""
    return next(name for name in ids(driver) if int(name.removeprefix("row")) % 3 == kind)


def test_it_opens_without_errors_and_asks_for_nothing_else(page):
    assert page.title == "a run"
    assert errors(page) == []
    asked = requests(page)
    assert len(set(asked)) == 1
    assert asked[0].startswith("file:")
    assert asked[0].endswith("report.html")


def test_the_policy_stops_requests(page):
    page.execute_script("const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);")
    said: list[str] = []
    end = time.monotonic() + 30
    while not said and time.monotonic() < end:
        said += errors(page)
        time.sleep(0.1)
    assert any("Content Security Policy" in message for message in said)


def test_console_errors_would_be_seen(chromium, tmp_path):
    opened(chromium, tmp_path / "broken.html", "<!doctype html><script>nothing.there()</script>")
    assert any("nothing is not defined" in message for message in errors(chromium))


@pytest.mark.parametrize("dark", [False, True])
def test_the_crystal_is_drawn_and_turns(page, dark):
    look_as(page, 1200, 900, dark=dark)
    name = first_of(page, 0)
    click(page, f"tr[data-id='{name}']")
    picture = awaited(page, "#crystal", lambda seen: min(sodium_and_chlorine(seen)) > 200)
    background = picture[2, 2]
    assert (background.mean() < 80) == dark
    assert 0.03 < differs(picture, background) < 0.9
    assert min(sodium_and_chlorine(picture)) > 200
    assert page.find_element("css selector", "#view .legend").text.split() == ["Na", "Cl"]
    from selenium.webdriver import ActionChains

    ActionChains(page).drag_and_drop_by_offset(page.find_element("css selector", "#crystal canvas"), 80, 40).perform()
    assert differs(awaited(page, "#crystal", lambda seen: differs(seen, picture) > 0.01), picture) > 0.01
    assert errors(page) == []


def test_a_molecule_is_drawn(page):
    click(page, f"tr[data-id='{first_of(page, 2)}']")
    assert not page.find_element("css selector", "#crystal").is_displayed()
    picture = awaited(page, "#molecule", lambda seen: differs(seen, seen[2, 2]) > 0.003)
    assert differs(picture, picture[2, 2]) > 0.003
    assert page.find_element("css selector", "#view figcaption").text.startswith("CC(=O)N")


def test_the_table_sorts(page):
    assert column(page, 6) == sorted(column(page, 6), reverse=True)
    heading = "#rows th:nth-child(5)"
    click(page, heading)
    assert column(page, 4) == sorted(column(page, 4), reverse=True)
    click(page, heading)
    assert column(page, 4) == sorted(column(page, 4))
    assert page.find_element("css selector", heading).get_attribute("aria-sort") == "ascending"
    click(page, "#rows th:nth-child(1)")
    assert ids(page) == sorted(ids(page), key=lambda name: int(name.removeprefix("row")))
    assert page.find_element("css selector", heading).get_attribute("aria-sort") is None


def test_the_table_filters(page):
    everything = len(ids(page))
    assert everything == 60
    box = page.find_element("css selector", "#filter")
    box.send_keys("row12 GAP")
    assert ids(page) == ["row12"]
    assert page.find_element("css selector", "#count").text == "1 of 60 rows"
    box.clear()
    box.send_keys("ClNa")
    assert {int(name.removeprefix("row")) % 3 for name in ids(page)} == {0}
    box.clear()
    box.send_keys("nothing like it")
    assert ids(page) == []
    box.clear()
    box.send_keys(" ")
    page.execute_script(
        "const s = document.getElementById('group'); s.value = 'gap_eV'; s.dispatchEvent(new Event('change'))"
    )
    assert len(ids(page)) == everything / 2
    assert errors(page) == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(page, dark):
    look_as(page, 390, 800, dark=dark)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    script = "return getComputedStyle(document.body).backgroundColor"
    ground = page.execute_script(script)
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    click(page, f"tr[data-id='{first_of(page, 0)}']")
    narrow = page.execute_script("return document.querySelector('#crystal').getBoundingClientRect().width")
    assert 250 < narrow < 390


def test_without_webgl_it_says_so(tmp_path, chromium):
    text = build_page(content()).replace(
        "<body>", "<body><script>HTMLCanvasElement.prototype.getContext = () => null</script>", 1
    )
    driver = opened(chromium, tmp_path / "plain.html", text)
    click(driver, f"tr[data-id='{first_of(driver, 0)}']")
    assert "no 3D view in this browser" in driver.find_element("css selector", "#view figcaption").text
    assert len(ids(driver)) == 60


def test_a_page_of_molecules_has_no_3d_view(tmp_path, chromium):
    structures = {f"row{number}": molecule_structure("CCO") for number in range(30)}
    driver = opened(chromium, tmp_path / "molecules.html", build_page(content(structures=structures)))
    assert driver.execute_script("return typeof $3Dmol") == "undefined"
    assert driver.find_element("css selector", "#molecule svg").is_displayed()
    assert errors(driver) == []
