"""Pictures of crystals: whole PNG files, an atom on a face drawn on both, at most four side by side."""

import numpy as np
import pytest
from matplotlib.image import imread

from crystalfm.chem.crystals import make_crystal
from crystalfm.report import crystal_pictures
from crystalfm.report.crystal_pictures import draw_crystals


def crystal(coords, numbers=None):
    return make_crystal(np.eye(3) * 4, numbers or [11] * len(coords), coords)


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ([0.0, 0.0, 0.0], 8),
        ([0.5, 0.0, 0.0], 4),
        ([0.5, 0.5, 0.0], 2),
        ([0.5, 0.5, 0.5], 1),
        ([1.0, 0.995, -0.003], 8),
        ([0.3, 0.97, 0.03], 1),
    ],
)
def test_atoms_on_corners_edges_and_faces_are_drawn_on_all_of_them(place, count):
    atoms = crystal_pictures._shown_atoms(crystal([place]))
    assert len(atoms) == count
    assert len({tuple(row) for row in atoms.positions.round(3).tolist()}) == count
    assert (atoms.get_scaled_positions(wrap=False) > -0.02).all()
    assert (atoms.get_scaled_positions(wrap=False) < 1.02).all()


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, 4, 2)])
def test_a_picture_has_a_panel_a_crystal(tmp_path, count, columns, rows):
    shown = [crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [11, 9 + number]) for number in range(count)]
    path = draw_crystals(shown, tmp_path / "figures" / "crystals.png")
    image = imread(path)
    assert image.shape[:2] == (rows * 560, columns * 500)
    assert (image[..., :3].min(axis=(0, 1)) < 0.5).all()
    for panel in range(count):
        top, left = 560 * (panel // columns), 500 * (panel % columns)
        assert image[top : top + 560, left : left + 500, :3].min() < 0.5  # something is drawn


def test_numbers_of_a_formula_are_lowered():
    assert crystal_pictures._subscripted("CaH2O12") == "CaH$_{2}$O$_{12}$"
