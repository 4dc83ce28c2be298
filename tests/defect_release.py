"""A small release in 2DMD's layout: every configuration of a few defects in MoS2, with energies that fit together."""

import csv
import gzip
import io
import tarfile

from crystalfm.chem.crystals import SYMBOLS
from crystalfm.chem.defects.enumeration import enumerate_configurations, low_density_types
from crystalfm.chem.defects.formation import formation_energy
from crystalfm.chem.defects.hosts import HOSTS, Supercell

POTENTIALS = {"Mo": -10.9, "S": -4.1, "W": -13.0, "Se": -3.5}
PRISTINE_EV = -200.0
RULES = (("v_Mo", "W_Mo"), ("v_S", "Se_S"))


def cif_text(crystal):
    a, b, c = ((row @ row) ** 0.5 for row in crystal.lattice)
    head = f"data_x\n_cell_length_a {a:.8f}\n_cell_length_b {b:.8f}\n_cell_length_c {c:.8f}\n"
    angles = "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 120\n"
    names = ("type_symbol", "label", "fract_x", "fract_y", "fract_z")
    columns = "".join(f" _atom_site_{name}\n" for name in names)
    pairs = zip(crystal.atomic_numbers.tolist(), crystal.frac_coords.tolist(), strict=True)
    sites = "".join(
        f" {SYMBOLS[number - 1]} {SYMBOLS[number - 1]}{place} {x:.8f} {y:.8f} {z:.8f}\n"
        for place, (number, (x, y, z)) in enumerate(pairs)
    )
    return f"{head}{angles}loop_\n _symmetry_equiv_pos_as_xyz\n 'x, y, z'\nloop_\n{columns}{sites}"


def configurations(supercell, count=40):
    """As many configurations of every type as there are, by turns, up to a number of all."""
    kinds = [found for _, found in enumerate_configurations(supercell, low_density_types(*RULES))]
    turns = [found[turn] for turn in range(max(map(len, kinds))) for found in kinds if turn < len(found)]
    return turns[:count]


def descriptor(rule):
    return (
        {"type": "substitution", "from": rule.removed, "to": rule.added}
        if rule.added
        else {"type": "vacancy", "element": rule.removed}
    )


def target_rows(supercell, found):
    rows = []
    for number, configuration in enumerate(found):
        rules = configuration.rules(supercell)
        atoms = configuration.crystal(supercell).num_atoms
        energy = PRISTINE_EV + sum(7.0 if not rule.added else 0.5 for rule in rules) + 0.01 * number
        total = formation_energy(energy, PRISTINE_EV, rules, POTENTIALS)
        homo, lumo = -0.6 + 0.002 * number, 0.2 - 0.1 * len(rules)
        rows.append(
            {
                "_id": f"id{number:04d}",
                "descriptor_id": f"d{number:04d}",
                "energy": energy,
                "energy_per_atom": energy / atoms,
                "fermi_level": -0.3,
                "homo": homo,
                "lumo": lumo,
                "homo_lumo_gap": lumo - homo,
                "formation_energy": total,
                "formation_energy_per_site": total / len(rules),
                "total_mag": 0.0,
            }
        )
    return rows


def csv_text(rows):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_part(
    part, *, host="MoS2", size=(4, 4, 1), count=40, found=None, rows=None, packed=True, pristine=PRISTINE_EV
):
    """Write one part of the release.

    Args:
        part: folder to write.
        host: name of the host.
        size: its supercell.
        count: structures.
        found: the configurations, in place of those that ``configurations`` gives.
        rows: changes the rows of the targets.
        packed: tables and structures compressed, or as plain files in a folder.
        pristine: pristine energy that the part states.
    """
    supercell = Supercell(HOSTS[host], size)
    found = configurations(supercell, count) if found is None else found
    targets = target_rows(supercell, found)
    targets = targets if rows is None else rows(targets)
    described = [
        {
            "_id": f"d{number:04d}",
            "description": f"X{number}",
            "base": host,
            "cell": str(list(size)),
            "pbc": "[True, True, False]",
            "defects": str([descriptor(rule) for rule in configuration.rules(supercell)]),
        }
        for number, configuration in enumerate(found)
    ]
    texts = {f"id{number:04d}": cif_text(one.crystal(supercell)) for number, one in enumerate(found)}
    (part / "unit_cells").mkdir(parents=True)
    (part / "unit_cells" / f"{host}.cif").write_text(cif_text(HOSTS[host].cell))
    elements = [{"element": name, "chemical_potential": value, "note": ""} for name, value in POTENTIALS.items()]
    (part / "elements.csv").write_text(csv_text(elements))
    stated = [{"base": host, "cell_size": str(list(size)), "energy": pristine, "E_1": -60.0, "E_VBM": -0.7}]
    (part / "initial_structures.csv").write_text(csv_text(stated))
    (part / "descriptors.csv").write_text(csv_text(described))
    if packed:
        (part / "targets.csv.gz").write_bytes(gzip.compress(csv_text(targets).encode()))
        with tarfile.open(part / "initial.tar.gz", "w:gz") as archive:
            for name, text in texts.items():
                member = tarfile.TarInfo(f"initial/{name}.cif")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
    else:
        (part / "targets.csv").write_text(csv_text(targets))
        (part / "initial").mkdir()
        for name, text in texts.items():
            (part / "initial" / f"{name}.cif").write_text(text)
    return part


def write_release(folder, **changes):
    """Write a release whose only part is MoS2 of low density; ``data.path`` reads the folder it returns."""
    write_part(folder / "low_density_defects" / "MoS2", **changes)
    return folder
