"""Defect rules, hosts, supercells, records, and formation energies."""

import json

import numpy as np
import pytest

from crystalfm.chem.crystals import SYMBOLS, Crystal
from crystalfm.chem.defects.configurations import Configuration, read_configuration
from crystalfm.chem.defects.formation import formation_energy
from crystalfm.chem.defects.hosts import HOSTS, Host, Supercell, find_host
from crystalfm.chem.defects.records import DefectRecord, shared_supercell
from crystalfm.chem.defects.rules import DefectRule, parse_rules, require_elements, type_name
from crystalfm.contracts import UserError

MOS2 = Supercell(HOSTS["MoS2"], (3, 3, 1))


def test_rules_have_names():
    rule = DefectRule.parse(" Se_S ")
    assert (rule.removed, rule.added, rule.name, rule.number) == ("S", "Se", "Se_S", 34)
    vacancy = DefectRule.parse("v_Mo")
    assert (vacancy.removed, vacancy.added, vacancy.number) == ("Mo", "", 0)
    assert DefectRule.parse("V_Mo").number == 23  # vanadium
    assert type_name(parse_rules(["v_S"]) * 2 + parse_rules(["W_Mo"])) == "W_Mo + 2 v_S"
    assert type_name([]) == "pristine"


def test_rules_are_read_from_the_release():
    assert DefectRule.from_record({"type": "vacancy", "element": "S"}) == DefectRule("S")
    assert DefectRule.from_record({"type": "substitution", "from": "Mo", "to": "W"}) == DefectRule("Mo", "W")
    for record in ({"type": "vacancy"}, {"type": "substitution", "from": "Mo"}, {"type": "interstitial"}, {}):
        with pytest.raises(UserError, match="is no defect"):
            DefectRule.from_record(record)


@pytest.mark.parametrize(("name", "problem"), [
    ("vS", "is no defect rule"), ("v_Xx", "is no element"), ("S_S", "cannot put S where S is"), ("", "is no"),
])  # fmt: skip
def test_mistaken_rules(name, problem):
    with pytest.raises(UserError, match=problem):
        DefectRule.parse(name)


def test_lists_of_rules():
    with pytest.raises(UserError, match="v_S is given twice"):
        parse_rules(["v_S", "Se_S", "v_S"])
    with pytest.raises(UserError, match="there is no defect rule"):
        parse_rules([])
    with pytest.raises(UserError, match="v_Se takes an element that MoS2 does not have") as caught:
        require_elements(parse_rules(["v_S", "v_Se"]), "MoS2", ["Mo", "S"])
    assert "rules for Mo, S" in caught.value.remedy


@pytest.mark.parametrize("name", list(HOSTS))
def test_hosts_are_layers_with_numbered_sites(name):
    host = find_host(name)
    supercell = Supercell(host, host.default_size)
    assert supercell.num_sites == len(supercell.numbers) == len(supercell.frac_coords)
    assert [supercell.site(*place) for place in supercell.places.tolist()] == list(range(supercell.num_sites))
    pristine = Configuration(()).crystal(supercell)
    assert supercell.match(pristine).tolist() == list(range(supercell.num_sites))
    assert read_configuration(pristine, supercell) == Configuration(())
    assert set(host.elements) == {SYMBOLS[number - 1] for number in supercell.numbers.tolist()}


def test_hosts_have_other_names():
    assert find_host("BP") is HOSTS["P"]
    assert find_host("h-BN") is HOSTS["BN"]
    with pytest.raises(UserError, match="'MoTe2' is not known") as caught:
        find_host("MoTe2")
    assert "MoS2, WSe2" in caught.value.remedy


@pytest.mark.parametrize("size", [(8, 8, 2), (0, 8, 1), (8, 8)])
def test_sizes_that_are_no_layer(size):
    with pytest.raises(UserError, match="is no supercell of a layer"):
        Supercell(HOSTS["MoS2"], size)


def test_configurations_are_read_back_from_unrelaxed_structures():
    configuration = Configuration.of([(20, 34), (3, 0), (9, 0)])
    crystal = configuration.crystal(MOS2)
    assert crystal.num_atoms == MOS2.num_sites - 2
    assert configuration.type_name(MOS2) == "v_Mo + v_S + Se_S"
    order = np.random.default_rng(0).permutation(crystal.num_atoms)
    shaken = Crystal(crystal.lattice, crystal.atomic_numbers[order], crystal.frac_coords[order] + [1.0, -2.0, 0.002])
    assert read_configuration(shaken, MOS2) == configuration


def test_structures_of_something_else():
    crystal = Configuration(()).crystal(MOS2)
    with pytest.raises(UserError, match=r"its cell is not that of MoS2 \[3,3,1\]"):
        read_configuration(Crystal(crystal.lattice * 1.1, crystal.atomic_numbers, crystal.frac_coords), MOS2)
    moved = crystal.frac_coords.copy()
    moved[4] += [0.1, 0.0, 0.0]
    with pytest.raises(UserError, match="atom 5 is on no site"):
        read_configuration(Crystal(crystal.lattice, crystal.atomic_numbers, moved), MOS2)
    moved[4] = moved[0]
    with pytest.raises(UserError, match="two atoms are on one site"):
        read_configuration(Crystal(crystal.lattice, crystal.atomic_numbers, moved), MOS2)


def test_configurations_name_each_site_once():
    with pytest.raises(ValueError, match="each site once"):
        Configuration(((3, 0), (3, 34)))
    with pytest.raises(UserError, match=r"a site that MoS2 \[3, 3, 1\] does not have"):
        Configuration(((27, 0),)).rules(MOS2)
    configuration = Configuration(((3, 0), (20, 34)))
    assert Configuration.from_json(configuration.to_json()) == configuration


def test_records_are_whole_by_themselves():
    host = Host("MoS2", Crystal(HOSTS["MoS2"].cell.lattice * 1.01, *_atoms(HOSTS["MoS2"].cell)), (3, 3, 1))
    record = DefectRecord.of(Supercell(host, (3, 3, 1)), Configuration(((3, 0), (20, 34))))
    again = DefectRecord.from_json(record.to_json())
    assert again == record
    np.testing.assert_array_equal(again.supercell.lattice, host.cell.lattice * [[3], [3], [1]])
    assert (again.type_name, again.concentration) == ("v_Mo + Se_S", pytest.approx(2 / 27))
    assert again.crystal().num_atoms == 26
    # Records of one host share the supercell, whose symmetry is worked out once; other cells are others.
    assert again.supercell is record.supercell is shared_supercell("MoS2", record.cell, (3, 3, 1))
    assert DefectRecord.of(MOS2, record.configuration).supercell is not record.supercell


def _atoms(cell):
    return cell.atomic_numbers, cell.frac_coords


@pytest.mark.parametrize(
    "change", [{"size": [3, 3]}, {"defects": [[3]]}, {"host": None, "cell": "no"}, {"defects": None}]
)
def test_damaged_records(change):
    content = json.loads(DefectRecord.of(MOS2, Configuration(((3, 0),))).to_json())
    with pytest.raises(ValueError, match=r"no record of defects|unit cell|not enough values"):
        _ = DefectRecord.from_json(json.dumps(content | change)).supercell


def test_formation_energy_counts_what_was_taken_and_added():
    rules = parse_rules(["v_S", "W_Mo"])
    potentials = {"S": -4.0, "Mo": -11.0, "W": -13.0}
    # -50 + 60, minus 4 of the sulfur and 11 of the molybdenum, plus 13 of the tungsten.
    assert formation_energy(-50.0, -60.0, rules, potentials) == pytest.approx(10 - 4 - 11 + 13)
    with pytest.raises(UserError, match="no chemical potential is known of Mo, W") as caught:
        formation_energy(-50.0, -60.0, rules, {"S": -4.0})
    assert "the table has S" in caught.value.remedy
