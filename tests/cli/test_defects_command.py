"""``crystalfm defects enumerate|random``: tables, files, and mistakes."""

import ast
import csv
import json

import pytest
import yaml

from crystalfm.chem.crystal_io import read_crystal_file
from crystalfm.chem.defects.configurations import Configuration, read_configuration
from crystalfm.chem.defects.hosts import HOSTS, Supercell
from crystalfm.cli.main import main
from crystalfm.config.location import conf_folder
from crystalfm.config.schema import ENTRY_POINTS
from crystalfm.config.signatures import read_signature

pytest.importorskip("spglib", reason="needs spglib")

ENUMERATE = ["defects", "enumerate", "host=MoS2", "size=[3,3,1]", "rules=[v_S,Se_S,W_Mo]"]


def rows(folder):
    with (folder / "configurations.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_enumerate_writes_every_configuration(tmp_path, capsys):
    pytest.importorskip("pymatgen", reason="needs pymatgen")
    folder = tmp_path / "found"
    assert main([*ENUMERATE, "max_defects=2", f"output={folder}", "cif=true"]) == 0
    shown = capsys.readouterr().out
    found = rows(folder)
    assert f"{len(found)} configurations of 9 types under 108 operations" in shown
    assert "W_Mo + Se_S" in shown
    assert sum(int(row["multiplicity"]) for row in found if row["type"] == "2 v_S") == 18 * 17 // 2
    report = json.loads((folder / "report.json").read_text())
    assert (report["total"], report["num_operations"], report["size"]) == (len(found), 108, [3, 3, 1])
    supercell = Supercell(HOSTS["MoS2"], (3, 3, 1))
    crystals = sorted((folder / "crystals").iterdir())
    assert len(crystals) == len(found)
    for row, file in list(zip(found, crystals, strict=True))[::7]:
        configuration = Configuration.from_json(row["defects"])
        assert read_configuration(read_crystal_file(file), supercell) == configuration
        assert configuration.type_name(supercell) == row["type"]
        assert len(configuration) == int(row["num_defects"])
    pair, *_ = (row["sites"] for row in found if row["type"] == "2 W_Mo")
    assert pair.startswith("W_Mo at 0,0,0; W_Mo at 0,")


def test_low_density_types_and_the_usual_size(capsys):
    assert main(["defects", "enumerate", "host=WSe2", "rules=[v_Se,v_W]", "types=low_density", "max_defects=2"]) == 0
    shown = capsys.readouterr().out
    assert "WSe2 [8, 8, 1]" in shown
    assert "36 configurations of 4 types under 768 operations" in shown  # 1, 19, 1 and 15


def test_random_draws_by_seed(tmp_path, capsys):
    words = ["defects", "random", "host=BN", "rules=[v_N,C_B]", "concentration=0.05", "number=4", "size=[5,5,1]"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main([*words, f"seed={seed}", f"output={tmp_path / name}"]) == 0
    assert "4 configurations of" in capsys.readouterr().out
    first, again, other = (rows(tmp_path / name) for name in "abc")
    assert first == again != other
    assert {row["num_defects"] for row in first} == {"2"}  # of 50 sites, rounded to even
    assert not (tmp_path / "a" / "crystals").exists()


@pytest.mark.parametrize(("words", "problem"), [
    (["enumerate", "host=MoTe2", "rules=[v_Mo]"], "one of MoS2, WSe2"),
    (["enumerate", "host=MoS2", "rules=[v_Te]"], "v_Te takes an element that MoS2 does not have"),
    (["enumerate", "host=MoS2", "rules=[v_Mo]", "size=[1,1,1]"], "size=[2,2,1] or larger"),
    (["enumerate", "host=MoS2", "rules=[v_Mo]", "size=[8,8]"], "size=[8, 8, 1]"),
    (["enumerate", "host=MoS2", "rules=[vMo]"], "'vMo' is no defect rule"),
    (["enumerate", "host=MoS2", "rules=[v_Mo,v_S]", "max_defects=9"], "at most 2,000,000 are enumerated"),
    (["enumerate", "host=BN", "rules=[v_B]", "types=low_density"], "host=MoS2 or host=WSe2"),
    (["enumerate", "host=MoS2", "rules=[v_S]", "types=low_density"], "a rule such as v_Mo"),
    (["enumerate", "host=MoS2", "rules=[v_S]", "types=few"], "types"),
    (["enumerate", "host=MoS2", "rules=[v_S]", "max_defect=2"], "did you mean 'max_defects'"),
    (["enumerate", "rules=[v_S]"], "a value is needed here"),
    (["random", "host=MoS2", "rules=[v_S]", "size=[2,2,1]", "concentration=0.025"], "size=[3,3,1] or larger"),
    (["random", "host=MoS2", "rules=[v_S]", "concentration=1.2"], "concentration"),
    (["random", "host=MoS2", "rules=[v_S]", "concentration=0.9"], "do not fit on the 128 sites"),
    (["enumrate"], "did you mean 'enumerate'"),
])  # fmt: skip
def test_mistakes_end_with_what_fits(words, problem, capsys):
    assert main(["defects", *words]) == 2
    assert problem in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    assert main([*ENUMERATE, f"output={tmp_path / 'mine'}"]) == 2
    assert "give a new folder" in capsys.readouterr().err
    # A mistake leaves no folder behind.
    assert main(["defects", "enumerate", "host=MoS2", "rules=[v_Te]", f"output={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("task", ["defects_enumerate", "defects_random"])
def test_files_list_every_key_with_its_default(task):
    node = yaml.safe_load((conf_folder() / f"{task}.yaml").read_text(encoding="utf-8"))
    settings = read_signature(ENTRY_POINTS[task].values).settings
    assert {name: value for name, value in node.items() if value != "???"} == {
        name: ast.literal_eval(setting.default) for name, setting in settings.items() if setting.default
    }
    assert set(node) == set(settings)


def test_help_is_shown(capsys):
    assert main(["defects"]) == 0
    assert "types=low_density" in capsys.readouterr().out
