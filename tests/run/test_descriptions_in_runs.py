"""Descriptions of crystals in a run: made when asked for, rejected rows, prediction, the command that makes them."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from crystalfm.chem.crystals import make_crystal
from crystalfm.cli.describe_command import describe_command
from crystalfm.contracts import DataSpec, TargetSpec, UserError
from crystalfm.data import descriptions as data_descriptions
from crystalfm.data.descriptions import Generator
from crystalfm.data.records import RecordTable, group_numbers
from crystalfm.run import descriptions as run_descriptions
from crystalfm.run.crystal_inputs import crystal_fields
from crystalfm.run.descriptions import with_descriptions
from crystalfm.run.prepare import load_table

FAKE = """
from crystalfm.chem.crystals import CrystalError

def describe(crystal):
    if crystal.formula == "BrK":
        raise CrystalError("not described: no bromides")
    return f"a crystal of {crystal.formula}"
"""


def cube(edge, numbers=(11, 17)):
    return make_crystal(np.eye(3) * edge, list(numbers), [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).to_json()


@pytest.fixture(autouse=True)
def _fake_generator(monkeypatch, tmp_path):
    (tmp_path / "describers").mkdir()
    (tmp_path / "describers" / "fake_describer_of_runs.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "describers")
    generator = Generator("chemnlp", "fake_describer_of_runs:describe", 1, (), dict)
    monkeypatch.setitem(data_descriptions.GENERATORS, "chemnlp", generator)


def configuration(tmp_path, description="chemnlp"):
    node = {
        "data": {"name": "folder", "description": description},
        "descriptions": {"backend": "sequential", "jobs": None, "time_limit_seconds": 20},
        "paths": {"cache": str(tmp_path / "cache")},
    }
    return OmegaConf.create(node)


def crystals(num_rows=10, *, failing=()):
    structures = [cube(4.0 + 0.05 * row, (19, 35) if row in failing else (11, 17)) for row in range(num_rows)]
    target = TargetSpec("gap", "eV")
    return RecordTable(
        spec=DataSpec("toy", ("structure", "description"), (target,), ("gap",)),
        ids=np.array([f"c{row}" for row in range(num_rows)]),
        fields={"structure": structures},
        targets=np.arange(num_rows, dtype=np.float64)[:, None],
        target_specs=(target,),
        groups=group_numbers([str(row) for row in range(num_rows)]),
    )


class Crystals:
    """A data set of the table above."""

    split_file = None
    limit = None
    test_fraction = 0.2
    val_fraction = 0.2
    drawing_seed = 0

    def __init__(self, table):
        self.table = table

    def load(self):
        return self.table

    def splits_of(self, table):
        return None


@pytest.mark.parametrize(("description", "modalities"), [(None, ["description"]), ("chemnlp", ["crystal_graph"])])
def test_nothing_is_described_unless_setting_and_modality_ask_for_it(tmp_path, description, modalities):
    table = crystals()
    assert with_descriptions(configuration(tmp_path, description), table, modalities) is table
    assert not (tmp_path / "cache").exists()


def test_crystals_that_cannot_be_described_are_rejected_with_the_reason(tmp_path):
    table = with_descriptions(configuration(tmp_path), crystals(4, failing={1}), ["description"])
    assert table.fields["description"] == ["a crystal of ClNa"] * 3
    assert table.ids.tolist() == ["c0", "c2", "c3"]
    assert [(item.id, item.reason) for item in table.rejected] == [("c1", "not described: no bromides")]


def test_splits_are_those_of_a_run_without_descriptions(tmp_path):
    def describe(table, modalities):
        return with_descriptions(configuration(tmp_path), table, modalities)

    source = Crystals(crystals(20, failing={0, 7, 13}))
    limits = {"max_rejected_fraction": 0.5, "all_rows": False}
    table, values, splits = load_table(source, ["description"], describe=describe, **limits)
    whole, _, expected = load_table(source, ["crystal_graph"], **limits)
    assert set(values) == {"description"}
    assert None not in values["description"]
    for name, rows in expected.parts.items():
        kept = [one for one in whole.ids[rows].tolist() if one not in {"c0", "c7", "c13"}]
        assert table.ids[splits.parts[name]].tolist() == kept


def test_too_many_failures_stop_the_run(tmp_path):
    def describe(table, modalities):
        return with_descriptions(configuration(tmp_path), table, modalities)

    with pytest.raises(UserError, match="no bromides"):
        load_table(
            Crystals(crystals(10, failing={2})),
            ["description"],
            max_rejected_fraction=0.01,
            all_rows=True,
            describe=describe,
        )


def test_old_configuration_without_the_section_has_its_defaults(tmp_path):
    cfg = configuration(tmp_path)
    del cfg.descriptions
    assert run_descriptions._settings(cfg) == data_descriptions.DescriptionSettings()
    assert run_descriptions._settings(configuration(tmp_path)).time_limit_seconds == 20


def test_inputs_of_a_prediction_are_described_where_they_bring_no_text(tmp_path):
    structures = [cube(4.0), None, cube(4.1, (19, 35)), cube(4.2, (19, 35))]
    given = [None, None, None, "my own text"]
    fields, problems = crystal_fields(structures, given, ["description"], configuration(tmp_path))
    assert fields == {"structure": structures, "description": ["a crystal of ClNa", None, None, "my own text"]}
    assert [(problem.row, problem.reason) for problem in problems] == [(2, "not described: no bromides")]


def test_inputs_of_a_model_without_texts_are_not_described(tmp_path):
    fields, problems = crystal_fields([cube(4.0)], None, ["crystal_graph"], configuration(tmp_path))
    assert (fields["description"], problems) == ([None], [])
    assert not (tmp_path / "cache").exists()


# --------------------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path):
    """Four crystals of a user, one of which cannot be described."""
    place = tmp_path / "mine"
    place.mkdir()
    lines = ["file,gap"]
    for row in range(4):
        symbols = "K Br" if row == 2 else "Na Cl"
        cell = f"{4 + row / 10} 0 0\n0 4 0\n0 0 4"
        text = f"row {row}\n1.0\n{cell}\n{symbols}\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
        (place / f"POSCAR-{row}").write_text(text)
        lines.append(f"POSCAR-{row},{row}")
    (place / "id_prop.csv").write_text("\n".join(lines) + "\n")
    return place


def described(folder, tmp_path, *more):
    words = ["data=folder", f"data.path={folder}", "data.targets=[gap]", f"paths.cache={tmp_path / 'cache'}"]
    return describe_command([*words, "descriptions.backend=sequential", *more])


def test_command_describes_and_then_knows(folder, tmp_path, capsys):
    assert described(folder, tmp_path, "data.description=chemnlp") == 0
    out = capsys.readouterr().out
    assert "folder, chemnlp: 4 crystals, 1 without a text" in out
    assert "4 made in" in out
    assert "1 x not described: no bromides" in out
    described(folder, tmp_path, "data.description=chemnlp")
    assert "0 made in 0 s, 4 known before" in capsys.readouterr().out


def test_command_asks_for_a_way_of_describing(folder, tmp_path):
    with pytest.raises(UserError, match=r"data.description does not say") as error:
        described(folder, tmp_path)
    assert "data.description=robocrys" in error.value.remedy


def test_command_shows_its_help(capsys):
    assert describe_command(["--help"]) == 0
    assert "data.description=robocrys|chemnlp" in capsys.readouterr().out


def test_command_checks_the_configuration(folder, tmp_path):
    with pytest.raises(UserError, match=r"data.description"):
        described(folder, tmp_path, "data.description=poem")
    with pytest.raises(UserError, match=r"descriptions.time_limit_seconds"):
        described(folder, tmp_path, "data.description=chemnlp", "descriptions.time_limit_seconds=0")


def test_modality_without_a_way_of_describing_names_both(folder, tmp_path):
    with pytest.raises(UserError, match="has no description") as error:
        described(folder, tmp_path, "modalities=[description]")
    assert "set data.description=robocrys or data.description=chemnlp" in str(error.value)
