"""What `evaluate.py` is told: a model or structures, one of them, with what goes with it."""

import pytest

from crystalfm.config import judging
from crystalfm.config.compose import Composer
from crystalfm.config.preflight import check_config, preflight
from crystalfm.config.problems import ConfigError


@pytest.fixture(scope="module")
def composer():
    with Composer("evaluate") as composer:
        yield composer


def problems(composer, *overrides):
    with pytest.raises(ConfigError) as error:
        preflight(composer, list(overrides))
    return {problem.key: problem for problem in error.value.problems}


def test_structures_with_a_reference_are_clean(composer, tmp_path):
    cfg = preflight(composer, [f"structures={tmp_path}", "reference=mp", "reference.limit=9", "stability=true"])[0]
    assert (cfg.reference.name, cfg.reference.limit, cfg.ckpt, cfg.data) == ("mp", 9, None, None)


@pytest.mark.parametrize("name", ["mp", "jarvis", "carbon24", "perov5"])
def test_every_reference_is_the_data_set_of_that_name(composer, tmp_path, name):
    cfg = preflight(composer, [f"structures={tmp_path}", f"reference={name}"])[0]
    assert cfg.reference == check_config("train", [f"data={name}", "model=alignn"]).data


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        ([], "ckpt", "a checkpoint or structures"),
        (["structures={}"], "reference", "to compare"),
        (["structures={}", "reference=mp", "ckpt={}"], "structures", "at once"),
        (["structures={}", "reference=mp", "data=mp"], "data", "not with data"),
        (["structures={}/absent", "reference=mp"], "structures", "no such file"),
        (["structures={}", "reference=mp", "reference.path={}/absent"], "reference.path", "no such file"),
        (["structures={}", "reference=mp", "relaxation.hull={}/absent"], "relaxation.hull", "no such file"),
        (["structures={}", "reference=mp", "relaxation.max_force=0"], "relaxation.max_force", "out of range"),
        (["structures={}", "reference=mp", "judging.references=0"], "judging.references", "out of range"),
        (["ckpt={}", "reference=mp"], "reference", "goes with structures"),
        (["ckpt={}", "stability=true"], "stability", "goes with structures"),
    ],
)
def test_what_does_not_go_together_is_told(composer, tmp_path, overrides, key, said):
    found = problems(composer, *(text.format(tmp_path) for text in overrides))
    assert said in found[key].message


def test_a_missing_package_is_told_before_anything_is_read(composer, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "is_installed", lambda name: name != "chgnet")
    preflight(composer, [f"structures={tmp_path}", "reference=mp"])
    found = problems(composer, f"structures={tmp_path}", "reference=mp", "stability=true")
    assert found["structures"].message == "chgnet is not installed"
    assert "crystalfm[generate]" in found["structures"].remedy
