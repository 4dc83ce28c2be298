"""The run's page without a browser: what is on it, and that nothing in it can break it or leave it."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from page_helpers import DIAMOND, ENERGY, GAP, SALT, content, predictions

from crystalfm.chem.crystals import make_crystal
from crystalfm.contracts import TargetSpec
from crystalfm.report.page.build import build_page
from crystalfm.report.page.charts import bar_chart, curve_chart, parity_chart, residual_chart
from crystalfm.report.page.content import MAX_WORST, PageContent, Predictions, RejectedRows
from crystalfm.report.page.explained import read_explanations
from crystalfm.report.page.markup import sortable_table, table
from crystalfm.report.page.structures import Structure, crystal_structure, molecule_structure

EMPTY_ELEMENTS = {"meta", "link", "input", "img", "br"}


class Balanced(HTMLParser):
    """Remembers elements and their attributes, and that each is closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def numbers(chart: str) -> list[float]:
    return [float(text) for text in re.findall(r"(?<=[M L])-?\d+\.?\d*", re.search(r'd="([^"]+)"', chart)[1])]


def test_the_page_is_whole_and_asks_for_nothing():
    page = build_page(content())
    parsed = Balanced(page)
    assert parsed.open == []
    for tag, attributes in parsed.found:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    policy = next(a["content"] for t, a in parsed.found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    identifiers = [attributes["id"] for _, attributes in parsed.found if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_every_part_is_told():
    page = build_page(content())
    for text in (
        "a run",
        "python train.py experiment=quickstart",
        "made up",
        "no volume: flat",
        "2 rows were rejected",
    ):
        assert text in page
    links = re.findall(r'<a href="#(\w+)">', page)
    expected = ["overview", "scores", "parity", "worst", "curves", "explanations", "data", "environment"]
    assert links == expected
    for name in links:
        assert f'<section id="{name}">' in page


def test_parts_that_are_not_there_leave_no_trace():
    page = build_page(PageContent("bare", "training", facts={"model": "mean"}))
    assert re.findall(r'<a href="#(\w+)">', page) == ["overview"]
    assert "<table" not in page
    assert "$3Dmol" not in page.partition('"use strict"')[0]
    assert "To repeat it" not in page


def test_the_3d_view_is_there_for_crystals_alone_with_its_licence():
    with_crystals = build_page(content())
    assert "University of Pittsburgh" in with_crystals
    assert "Vitaly Puzrin" in with_crystals
    molecules = {"row1": molecule_structure("CCO")}
    without = build_page(content(structures=molecules))
    assert "University of Pittsburgh" not in without
    assert len(without) < 100_000
    assert len(with_crystals) > 500_000


def test_nothing_given_breaks_out_of_its_place():
    nasty = '</script><script>alert("1")</script>'
    found = predictions(2)
    page = build_page(
        content(
            title=nasty,
            command=nasty,
            facts={nasty: nasty},
            rejected=RejectedRows({nasty: 1}, [(nasty, nasty, nasty)]),
            predictions=Predictions(nasty, [nasty, "b"], (GAP, TargetSpec(nasty, nasty)), found.true, found.predicted),
            structures={nasty: Structure(nasty, svg=nasty)},
        )
    )
    assert nasty not in page
    assert page.count("<script") == page.count("</script") == 2
    text = page.partition('id="structures">')[2].partition("</script>")[0]
    assert json.loads(text)[nasty]["svg"] == nasty


def test_the_best_model_is_set_off():
    page = build_page(content())
    strong = re.findall(r'<tr class="strong">(.*?)</tr>', page)
    assert len(strong) == 2
    assert all("<td>hybrid</td>" in row for row in strong)


def test_worst_rows_come_by_their_error_beside_the_mean():
    true = np.zeros((4, 2))
    predicted = np.array([[1.0, 10.0], [2.0, np.nan], [9.0, 20.0], [np.inf, 90.0]])
    found = Predictions("test", list("abcd"), (GAP, ENERGY), true, predicted)
    worst = found.worst()
    assert [(one.row, one.column) for one in worst[:2]] == [(2, 0), (3, 1)]
    assert worst[0].relative == pytest.approx(9 / 4)
    assert (1, 1) not in {(one.row, one.column) for one in worst}
    assert found.num_not_finite == 2
    assert "2 predictions are no finite number" in build_page(content(predictions=found))
    unknown = Predictions("test", ["a"], (GAP,), np.array([[np.nan]]), np.array([[1.0]]))
    assert unknown.worst() == []
    many = np.random.default_rng(0).normal(size=(60, 900))
    targets = tuple(TargetSpec(f"t{n}", "eV") for n in range(900))
    assert len(Predictions("test", [str(n) for n in range(60)], targets, many, many * 2).worst()) == MAX_WORST


def test_the_column_of_the_target_goes_where_there_is_one_target():
    several = predictions()
    one = Predictions("test", several.ids, (GAP,), several.true[:, :1], several.predicted[:, :1])
    assert 'class="sortable single" id="rows"' in build_page(content(predictions=one))
    assert 'class="sortable" id="rows"' in build_page(content())


def test_perfect_predictions_have_no_error_to_divide_by():
    true = np.arange(3.0)[:, None]
    found = Predictions("test", list("abc"), (GAP,), true, true)
    assert [one.relative for one in found.worst()] == [0.0, 0.0, 0.0]
    assert "<svg" in build_page(content(predictions=found))


def test_parity_points_lie_where_they_belong():
    chart = parity_chart(np.array([0.0, 1.0, np.nan]), np.array([0.0, 1.0, 5.0]), GAP)
    points = re.search(r'class="points" d="([^"]+)"', chart)[1]
    places = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)h0", points)]
    assert len(places) == 2
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # upwards is towards smaller numbers
    assert "true (eV)" in chart
    assert parity_chart(np.array([np.nan]), np.array([1.0]), GAP) == ""


def test_many_points_are_counted_in_squares():
    rng = np.random.default_rng(0)
    true = rng.normal(size=50_000)
    chart = parity_chart(true, true + rng.normal(size=true.size) * 0.1, GAP)
    assert 'class="points"' not in chart
    assert chart.count('class="level"') == 6
    assert len(chart) < 60_000


def test_residuals_hold_every_row():
    residuals = np.concatenate([np.zeros(990), np.full(10, 50.0)])
    chart = residual_chart(np.zeros(1000), residuals, GAP)
    assert "10 rows beyond the axis" in chart
    assert "mean +0.5" in chart
    assert residual_chart(np.array([np.nan]), np.array([0.0]), GAP) == ""
    assert "<svg" in residual_chart(np.zeros(3), np.zeros(3), GAP)


def test_curves_are_logarithmic_where_they_span_much():
    wide = curve_chart({"a": ([1, 2, 3], [100.0, 1.0, 0.01])}, "loss")
    heights = numbers(wide.partition('class="curve c1"')[2])[1::2]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert 'class="curve c2"' in curve_chart({"validation": ([1], [2.0])}, "loss")
    flat = curve_chart({"a": ([1, 2], [1.0, 1.0]), "none": ([], [])}, "loss")
    assert "none" not in flat
    assert curve_chart({"none": ([], [])}, "loss") == ""
    assert "<svg" in curve_chart({"one": ([1], [0.0])}, "loss")


def test_bars_are_as_long_as_their_values():
    chart = bar_chart({"ours": 1.0, "mean": 4.0, "lost": float("nan")}, "MAE")
    assert re.findall(r"--share:([\d.]+)", chart) == ["0.2500", "1.0000"]
    assert chart.index("bar best") < chart.index("ours")
    assert "lost" not in chart
    assert bar_chart({}, "MAE") == ""


def test_tables_know_their_numbers():
    shown = table(("name", "value"), [("a<b", 1234), ("c", None)], strong=[1])
    assert "a&lt;b" in shown
    assert 'data-value="1234">1,234' in shown
    assert shown.count("number") == 2
    assert '<tr class="strong"><td>c</td>' in shown
    assert 'class="sortable"' in sortable_table(("a",), [(1.5,)])


def test_atoms_on_faces_are_drawn_on_all_of_them():
    shown = crystal_structure(SALT)
    lines = shown.crystal["xyz"].splitlines()
    assert lines[0] == "27"  # the conventional cell with all its corners, edges and faces
    assert sum(line.startswith("Na") for line in lines) == 14
    assert shown.label == "ClNa"
    assert shown.crystal["atoms"] == 8
    assert crystal_structure(DIAMOND).crystal["xyz"].splitlines()[0] == "2"
    almost = make_crystal(np.eye(3) * 3, [1], [[0.9999999, -0.2, 1.4]])
    places = crystal_structure(almost).crystal["xyz"].splitlines()[2:]
    assert places == ["H 0.000 2.400 1.200", "H 3.000 2.400 1.200"]


def test_a_large_cell_is_not_made_larger():
    coords = np.zeros((401, 3))
    coords[:, 0] = np.linspace(0, 0.9, 401)
    shown = crystal_structure(make_crystal(np.eye(3) * 100, [6] * 401, coords))
    assert shown.crystal["xyz"].splitlines()[0] == "401"


def test_molecules_follow_light_and_dark():
    shown = molecule_structure("CC(=O)N")
    assert shown.svg.startswith("<svg")
    assert "currentColor" in shown.svg
    assert "var(--nitrogen)" in shown.svg
    assert "#000000" not in shown.svg
    assert "width='360px'" not in shown.svg
    assert molecule_structure("no molecule").svg == ""
    assert shown.size > 500


def test_explanations_are_put_together(tmp_path: Path):
    assert read_explanations(tmp_path / "none") == []
    (tmp_path / "groups.csv").write_text("kind,group,mae\nsystem,cubic,0.5\nsystem,null,\n", encoding="utf-8")
    (tmp_path / "groups_gap.png").write_bytes(b"\x89PNG small")
    (tmp_path / "words.csv").write_text(
        "id,place,word,target,change\na,1,two<,gap_eV,0.5\na,0,one,gap_eV,-1.0\n", encoding="utf-8"
    )
    (tmp_path / "other.png").write_bytes(b"0" * 700_000)
    groups, other, words = read_explanations(tmp_path)
    assert groups.title == "Where the model errs"
    assert base64.b64encode(b"\x89PNG small").decode() in groups.html
    assert "<td>null</td>" in groups.html
    assert "&ndash;" in groups.html
    assert "too large" in other.html
    assert words.html.index("one") < words.html.index("two&lt;")
    assert "rgba(30,90,200,1.00)" in words.html
    assert Balanced(words.html + groups.html).open == []
