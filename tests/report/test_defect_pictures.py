"""Pictures of defects: whole files, every mark where its site is, targets against values."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.patches import Wedge

from crystalfm.chem.defects.configurations import Configuration
from crystalfm.chem.defects.enumeration import random_configuration
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.contracts import TargetSpec
from crystalfm.metrics.defects import canonical_forms
from crystalfm.report import defect_pictures
from crystalfm.report.defect_pictures import DesignedValues, centred, design_plot, draw_configurations, rule_label

CELL = Supercell(HOSTS["MoS2"], (6, 6, 1))
GAP = TargetSpec("homo_lumo_gap", "eV")


@pytest.mark.parametrize("seed", range(5))
def test_centring_moves_by_a_symmetry_and_brings_defects_to_the_middle(seed):
    rng = np.random.default_rng(seed)
    found = random_configuration(CELL, parse_rules(["v_S", "Se_S", "v_Mo"]), 3, rng)
    moved = centred(found, CELL)
    one, other = canonical_forms([found, moved], CELL)
    assert one == other
    single = centred(Configuration(found.defects[:1]), CELL)
    assert CELL.places[single.defects[0][0]].tolist()[1:] in ([2, 2], [2, 3], [3, 2], [3, 3])


def test_a_cluster_across_the_edge_is_drawn_in_one_piece():
    cluster = Configuration.of((CELL.site(0, column, row), 0) for column in (0, 5) for row in (0, 5))
    places = CELL.places[[site for site, _ in centred(cluster, CELL).defects]]
    assert np.ptp(places[:, 1]) == np.ptp(places[:, 2]) == 1
    assert centred(Configuration(()), CELL) == Configuration(())


def test_atoms_above_each_other_are_halves():
    view = defect_pictures._TopView.of(CELL)
    metal, lower, upper = (view.wedges[CELL.site(basis, 0, 0)].tolist() for basis in range(3))
    assert metal == [0.0, 360.0]
    assert lower == [180.0, 360.0]
    assert upper == [0.0, 180.0]
    flat = defect_pictures._TopView.of(Supercell(HOSTS["BN"], (3, 3, 1)))
    assert (flat.wedges == [0.0, 360.0]).all()


def test_marks_are_where_the_sites_are(monkeypatch, tmp_path):
    marks = []
    original = defect_pictures._mark

    def marked(*arguments):
        marks.append(original(*arguments))
        return marks[-1]

    monkeypatch.setattr(defect_pictures, "_mark", marked)
    shown = Configuration(((CELL.site(0, 3, 3), 0), (CELL.site(2, 2, 2), 34)))
    draw_configurations([shown], CELL, tmp_path / "x.png")
    view = defect_pictures._TopView.of(CELL)
    expected = {site for site, _ in centred(shown, CELL).defects}
    assert all(isinstance(mark, Wedge) for mark in marks)
    assert {tuple(mark.center) for mark in marks} == {tuple(view.points[site]) for site in expected}
    vacancy, selenium = marks
    assert vacancy.get_facecolor()[:3] == (1.0, 1.0, 1.0)  # a ring
    assert selenium.get_facecolor()[:3] != (1.0, 1.0, 1.0)
    assert (selenium.theta1, selenium.theta2) == (0.0, 180.0)


@pytest.mark.parametrize(("host", "rules"), [("GaSe", ["v_Se", "S_Se"]), ("P", ["v_P"]), ("BN", ["C_N", "v_B"])])
def test_every_host_can_be_drawn(tmp_path, host, rules):
    supercell = Supercell(HOSTS[host], (4, 4, 1))
    rng = np.random.default_rng(0)
    shown = [random_configuration(supercell, parse_rules(rules), 2, rng) for _ in range(4)]
    path = draw_configurations(shown, supercell, tmp_path / "figures" / "x.png")
    image = imread(path)
    assert image.shape[1] == 4 * 600
    assert image[..., :3].std() > 0.01


def test_names_of_rules_are_written_with_the_site_lowered():
    assert rule_label("W_Mo + 2 v_S") == r"$\mathrm{W_{Mo}}$ + 2 $\mathrm{v_{S}}$"
    assert rule_label("homo_lumo_gap 0.4 eV") == "homo_lumo_gap 0.4 eV"


def test_one_target_is_drawn_beside_random_configurations_and_several_along_an_axis(tmp_path):
    values = np.array([0.35, 0.4, 0.9, np.nan])
    one = DesignedValues(GAP, np.full(4, 0.4), values, np.array([1.0, 0.41]))
    several = DesignedValues(GAP, np.array([0.2, 0.4, 0.8, 0.8]), values, np.empty(0))
    for name, columns in {"one": [one], "both": [one, several]}.items():
        image = imread(design_plot(columns, 0.05, tmp_path / f"{name}.png", title="MoS2"))
        assert image.shape[1] == 740 * len(columns)
        assert image[..., :3].min() < 0.5
    assert defect_pictures._hit_text(values, 0.4, 0.05 + 1e-9) == "2 of 4 within"


def test_scores_above_a_panel_name_the_full_sample_first():
    column = DesignedValues(GAP, np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.1, 1.0, 2.4, 3.9]), np.empty(0))
    full, quarter = defect_pictures._score_lines(column)
    assert full == "all 4: RMSE 0.495 eV, R² 0.804"
    assert quarter.startswith("best quarter: RMSE25 0")


def test_the_nearer_to_the_target_the_more_opaque():
    opacities = [colour[3] for colour in defect_pictures._faded("#0072B2", np.array([0.0, 0.1, 1.0]))]
    assert opacities[0] == 1.0
    assert opacities[0] > opacities[1] > opacities[2] == pytest.approx(0.12)
    assert defect_pictures._faded("#0072B2", np.zeros(2))[0][3] == 1.0
