"""The page of a generator without a browser: figures with denominators, samples, distributions."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from gallery_helpers import NUM_ROWS, POTASSIUM, gallery, generator_content
from page_helpers import DIAMOND, SALT, content

from crystalfm.report.page.build import build_page
from crystalfm.report.page.content import Card, Distribution, Figure, Gallery, GalleryRow, PageContent
from crystalfm.report.page.distributions import distribution_chart, percent
from crystalfm.report.page.gallery import figures_section, gallery_section, headline_section
from crystalfm.report.page.markup import definitions
from crystalfm.report.page.structures import crystal_structure


def path(chart: str, name: str) -> list[tuple[float, float]]:
    """Return the corners of a chart's path of a class as (x, height above the axis)."""
    drawn = re.search(rf'class="{name}" d="([^"]+)"', chart)[1]
    x, y = (float(part) for part in re.match(r"M([\d.]+) ([\d.]+)", drawn).groups())
    base, corners = y, []
    for letter, number in re.findall(r"([MVH])([\d.]+)", drawn):
        if letter == "V":
            y = float(number)
        else:
            x = float(number)
        corners.append((x, round(base - y, 1)))
    return corners


def test_the_parts_of_a_generators_page_come_in_order():
    page = build_page(generator_content())
    assert re.findall(r'<a href="#([\w-]+)">', page) == [
        *("overview", "figures", "gallery", "distributions", "all-figures", "environment"),
    ]
    for text in ("A solid that could be made.", "What the model was asked", "16 of 24 samples", "The first ones."):
        assert text in page
    identifiers = re.findall(r' id="([\w-]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_a_predictors_page_has_none_of_them():
    page = build_page(content())
    for absent in ('id="gallery"', 'id="figures"', 'id="distributions"', "What the model was asked"):
        assert absent not in page
    assert page.count('id="rows"') == 1


def test_figures_stand_with_what_they_are_taken_over():
    shown = figures_section(generator_content().figures)
    assert "--share:0.6667" in shown
    assert "<small>16 of 24 samples</small>" in shown
    assert shown.count("<b class") == 1  # a quantity is no bar
    tiles = headline_section([Figure("valid", "1%", "1 of 100")])
    assert "<dt>valid</dt><dd>1%</dd><dd>1 of 100</dd>" in tiles
    assert headline_section([]) == figures_section([]) == ""


def test_every_sample_has_its_row_and_says_why_it_has_no_crystal():
    found = generator_content()
    shown = gallery_section(found.gallery, found.structures, 0)
    rows = re.findall(r"<tr tabindex[^>]*>", shown)
    assert len(rows) == NUM_ROWS
    assert 'data-groups="valid\nnew"' in rows[0]
    assert "data-absent" not in rows[0]
    assert 'data-absent="it could not be read"' in rows[2]
    assert '<option value="new">valid and new</option>' in shown
    assert shown.count('class="crystal"') == 2  # the third card has no crystal
    assert 'data-value="-0.01"' in shown
    assert "<td>&ndash;</td>" in shown


def test_crystals_that_are_left_out_are_counted():
    found = generator_content()
    assert "3 crystals are left out for the size of the page." in gallery_section(found.gallery, {}, 3)
    assert 'id="view"' not in gallery_section(found.gallery, {}, 3)
    assert "left out" not in gallery_section(found.gallery, found.structures, 0)
    assert gallery_section(None, {}, 0) == gallery_section(Gallery("none", (), ()), {}, 0) == ""


def test_names_of_samples_cannot_break_the_page():
    nasty = "</script><img src=x onerror=alert(1)>\"'"
    row = GalleryRow(nasty, [nasty, nasty, nasty, nasty], nasty, [nasty], nasty)
    changed = replace(gallery(), rows=[row], groups={nasty: nasty, "b": "b"}, cards=[Card(nasty, nasty)], note=nasty)
    structure = replace(crystal_structure(SALT), label=nasty)
    figure = Figure(nasty, nasty, nasty, 0.5)
    distribution = Distribution(nasty, {nasty: [1.0]}, kinds=[nasty], note=nasty)
    for structures in ({}, {nasty: structure}):
        page = build_page(
            generator_content(
                gallery=changed, structures=structures, headline=[figure], distributions=[distribution], prompt=nasty
            )
        )
        assert nasty not in page
        assert "<img src=x" not in page


def test_relaxed_crystals_go_with_those_that_were_written():
    found = crystal_structure(DIAMOND, relaxed=POTASSIUM, marks=np.array([[1.0, 2.0, 3.00049]]))
    assert found.relaxed["atoms"] == 2
    assert "K 0.000 0.000 0.000" in found.relaxed["xyz"]
    assert found.crystal["marks"] == [[1.0, 2.0, 3.0]]
    assert found.size > crystal_structure(DIAMOND).size
    page = build_page(generator_content())
    structures = json.loads(page.partition('id="structures">')[2].partition("</script>")[0])
    assert structures["0"]["relaxed"] is None
    assert structures["1"]["relaxed"]["atoms"] == 2
    assert "marks" not in structures["1"]["crystal"]


def test_a_histogram_is_as_high_as_its_shares():
    density = generator_content().distributions[0]
    chart = distribution_chart(density)
    samples = path(chart, "stairs samples")
    highest = max(height for _, height in samples)
    assert [height for _, height in samples[1:-1:2]] == pytest.approx([highest, 0, highest])
    filled = path(chart, "filled reference")
    assert max(height for _, height in filled) == pytest.approx(highest)
    assert samples[2][0] == pytest.approx(filled[2][0])  # the same bins
    assert "samples</span>" in chart
    assert "reference</span>" in chart


def test_bands_are_filled_in_their_colours():
    chart = distribution_chart(generator_content().distributions[2])
    for name in ("stable", "metastable", "unstable"):
        assert f'class="filled {name}"' in chart
    assert "stairs" not in chart


def test_kinds_stand_side_by_side():
    chart = distribution_chart(generator_content().distributions[1])
    assert re.findall(r"--share:([\d.]+)", chart) == ["0.0500", "1.0000", "0.9500", "0.0000"]
    assert re.findall(r"<span>([\d.]+%)</span>", chart) == ["5.0%", "100%", "95%", "0%"]
    assert "of 24" in chart
    assert percent(0.0) == "0%"


def test_nothing_counted_is_not_drawn():
    assert distribution_chart(Distribution("none", {"samples": [0, 0]}, edges=(0, 1, 2))) == ""
    assert 'id="distributions"' not in build_page(PageContent("bare", "sampling"))


def test_a_single_set_is_filled_and_unknown_sets_have_a_colour():
    chart = distribution_chart(Distribution("one", {"test": [1.0, 2.0]}, edges=(0, 1, 2)))
    assert 'class="filled samples"' in chart
    both = distribution_chart(Distribution("two", {"validation": [1, 2], "test": [2, 1]}, edges=(0, 1, 2)))
    assert 'class="filled reference"' in both
    assert 'class="stairs samples"' in both


def test_long_values_take_the_whole_width():
    shown = definitions({"short": "x", "long": "y" * 41})
    assert shown == (
        f'<dl><div><dt>short</dt><dd>x</dd></div><div class="wide"><dt>long</dt><dd>{"y" * 41}</dd></div></dl>'
    )
