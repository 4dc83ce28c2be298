"""What does not go together in a generation is told before anything is loaded."""

import pytest

from crystalfm.config import generating
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import preflight
from crystalfm.config.problems import ConfigError


@pytest.fixture(scope="module")
def composer():
    with Composer("generate") as composer:
        yield composer


@pytest.fixture
def given(tmp_path):
    """A checkpoint and a structure that are there."""
    (tmp_path / "x.cif").touch()
    return [f"ckpt={tmp_path}", f"infill.structure={tmp_path / 'x.cif'}"]


def problems_of(composer, *overrides):
    with pytest.raises(ConfigError) as caught:
        preflight(composer, list(overrides))
    return {problem.key: problem for problem in caught.value.problems}


def test_what_goes_together(composer, given, monkeypatch):
    monkeypatch.setattr(generating, "is_installed", lambda name: True)
    ckpt, structure = given
    for overrides in (
        [],
        ["condition.formula=NaCl", "condition.spacegroup=225", "condition.band_gap=5"],
        ["condition.formula=NaCl", "constraint=formula", "elements=[Na,Cl]"],
        ["condition.formula=NaCl", "constraint=none", "temperature=0", "top_p=0.9", "top_k=5"],
        [structure, "infill.element=Na", "elements=[K]"],
        ["engine=vllm", "trainer.precision=bf16-true"],
        ["data=2dmd", "condition.host=MoS2", "condition.homo_lumo_gap=[0.2,0.4]", "rules=[v_S]", "size=[8,8,1]"],
    ):
        assert preflight(composer, [ckpt, *overrides])[0].trainer.precision in {"32-true", "bf16-true"}


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["n=0"], "n", "at least 1"),
        (["temperature=-1"], "temperature", "at least 0"),
        (["top_p=0"], "top_p", "above 0 and at most 1"),
        (["top_k=0"], "top_k", "at least 1"),
        (["max_atoms=0"], "max_atoms", "at least 1"),
        (["min_distance=-1"], "min_distance", "at least 0"),
        (["min_distance=0.5", "constraint=none"], "min_distance", "constraint=parse"),
        (["condition.spacegroup=231"], "condition.spacegroup", "at most 230"),
        (["condition.colour=red"], "condition.colour", "choices: formula, spacegroup"),
        (["constraint=strict"], "constraint", "auto | none | parse | formula"),
        (["engine=llamacpp"], "engine", "transformers | vllm"),
        (["resume=nowhere"], "resume", ""),
        (["infill=x"], "infill", "infill.structure=..., infill.element=..."),
        (["constraint=formula"], "constraint", "condition.formula=..."),
        (["constraint=none", "elements=[Na]"], "elements", "constraint=parse"),
        (["infill.element=Na"], "infill.structure", "infill.structure=FILE"),
        (["min_defects=4"], "min_defects", "max_defects=3"),
        (["max_defects=0", "min_defects=0"], "max_defects", "at least 1"),
        (["tolerance=0"], "tolerance", "above 0"),
        (["surrogate=[nowhere]"], "surrogate", "nowhere: no such file or folder"),
        (["condition.homo_lumo_gap=wide"], "condition.homo_lumo_gap", "a number"),
        (["condition.homo_lumo_gab=1"], "condition.homo_lumo_gab", "homo_lumo_gap"),
        (["rules=v_S"], "rules", "a list"),
    ],
)
def test_what_does_not(composer, given, overrides, key, words):
    found = problems_of(composer, given[0], *overrides)
    assert set(found) == {key}
    assert words in f"{found[key].message} {found[key].remedy}"


def test_a_model_is_named_or_is_the_newest_on_a_data_set(composer):
    found = problems_of(composer, "n=3")
    assert set(found) == {"ckpt"}
    assert "data=2dmd" in found["ckpt"].remedy
    assert preflight(composer, ["data=2dmd"])[0].ckpt is None


def test_a_hidden_element_needs_its_symbol_and_no_conditions(composer, given):
    found = problems_of(composer, *given, "condition.band_gap=1")
    assert set(found) == {"infill", "infill.element"}
    assert "condition.band_gap" in found["infill"].message


def test_packages_that_are_not_installed_are_named_with_their_extra(composer, given, monkeypatch):
    monkeypatch.setattr(generating, "is_installed", lambda name: False)
    found = problems_of(composer, given[0], "condition.spacegroup=2", "engine=vllm")
    assert "smact, spglib" in found["ckpt"].message
    of_defects = problems_of(composer, given[0], "condition.homo_lumo_gap=0.4")
    assert "smact" not in of_defects["ckpt"].message
    assert "spglib" in of_defects["ckpt"].message
    assert found["ckpt"].remedy == "pip install 'crystalfm[generate]'"
    assert "pip install 'vllm>=0.12'" in found["engine"].remedy
