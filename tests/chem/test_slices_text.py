"""SLICES strings through a package that is rarely there: what it is asked, and what a person is told without it."""

import sys
from types import ModuleType

import pytest

from crystalfm.chem import slices_text
from crystalfm.chem.crystals import make_crystal
from crystalfm.config.extras import missing_describer
from crystalfm.contracts import UserError
from crystalfm.data.descriptions import GENERATORS

ROCK_SALT = make_crystal([[5, 0, 0], [0, 5, 0], [0, 0, 5]], [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture(autouse=True)
def new_encoder():
    slices_text._encoder.cache_clear()
    yield
    slices_text._encoder.cache_clear()


def install(monkeypatch, core):
    package = ModuleType("slices")
    monkeypatch.setitem(sys.modules, "slices", package)
    monkeypatch.setitem(sys.modules, "slices.core", core)


def test_the_package_is_given_the_structure_and_loads_no_model(monkeypatch):
    class Encoder:
        def __init__(self, relax_model):
            assert relax_model == ""

        def structure2SLICES(self, structure):  # noqa: N802
            return " ".join([*(site.specie.symbol for site in structure), "0 1 ooo"])

    core = ModuleType("slices.core")
    core.SLICES = Encoder
    install(monkeypatch, core)
    assert slices_text.describe(ROCK_SALT) == "Na Cl 0 1 ooo"


def test_a_package_that_cannot_be_imported_names_what_else_would_do(monkeypatch):
    install(monkeypatch, None)
    with pytest.raises(UserError, match=r"data\.description=slices") as caught:
        slices_text.describe(ROCK_SALT)
    assert "modalities=[defects]" in caught.value.remedy


def test_a_missing_package_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("crystalfm.config.extras.is_installed", lambda module: module != "tensorflow")
    (problem,) = missing_describer({"description": "slices"})
    assert problem.key == "data.description"
    assert "tensorflow is not installed" in problem.message
    assert "modalities=[defects]" in problem.remedy
    monkeypatch.setattr("crystalfm.data.descriptions.find_spec", lambda name: None)
    with pytest.raises(UserError, match="slices, m3gnet, tensorflow is not installed"):
        GENERATORS["slices"].require()
