"""Small releases of crystals in the layouts of the real ones: cubes whose edge tells them apart."""

import csv
import gzip
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

ELEMENTS = (("Na", "Cl"), ("K", "Br"), ("Cs", "I"), ("Mg", "O"))
MIRROR = os.environ.get("CRYSTALFM_MIRROR")


def edge(row):
    return round(4.0 + 0.07 * row, 6)


def cell_text(row):
    return f"{edge(row)} 0 0\n0 {edge(row)} 0\n0 0 {edge(row)}"


def poscar(row):
    symbols = " ".join(ELEMENTS[row % len(ELEMENTS)])
    return f"row {row}\n1.0\n{cell_text(row)}\n{symbols}\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"


def cif(row):
    first, second = ELEMENTS[row % len(ELEMENTS)]
    lengths = "".join(f"_cell_length_{axis} {edge(row)}\n" for axis in "abc")
    angles = "".join(f"_cell_angle_{name} 90\n" for name in ("alpha", "beta", "gamma"))
    head = "loop_\n _symmetry_equiv_pos_as_xyz\n 'x, y, z'\nloop_\n"
    columns = "".join(f" _atom_site_{name}\n" for name in ("type_symbol", "label", "fract_x", "fract_y", "fract_z"))
    sites = f" {first} {first}1 0.0 0.0 0.0\n {second} {second}1 0.5 0.5 0.5\n"
    return f"data_row{row}\n{lengths}{angles}_symmetry_space_group_name_H-M 'P 1'\n{head}{columns}{sites}"


def jarvis_atoms(row):
    a = edge(row)
    return {
        "lattice_mat": [[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]],
        "coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
        "elements": list(ELEMENTS[row % len(ELEMENTS)]),
        "cartesian": False,
    }


def table_text(rows, delimiter=","):
    """CSV text of dictionaries."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_parts(folder, rows, *, compressed=False, parts=(("train", 8), ("val", 4), ("test", 4))):
    """Write train.csv, val.csv and test.csv with as many of the rows as each part says."""
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for part, count in parts:
        content = table_text(rows[start : start + count]).encode()
        name = f"{part}.csv.gz" if compressed else f"{part}.csv"
        (folder / name).write_bytes(gzip.compress(content) if compressed else content)
        start += count
    return folder


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def fake_store(tmp_path, folders, *, at_hand=None):
    """A store that has assets in folders, and a cache; fetching anything else is an error of the test."""
    from crystalfm.assets.registry import ASSETS

    fetched = []

    def fetch(name):
        fetched.append(name)
        return SimpleNamespace(name=name, folder=Path(folders[name]), sha256=name.ljust(64, "0"))

    return SimpleNamespace(
        cache=tmp_path / "cache",
        fetch=fetch,
        fetched=fetched,
        is_cached=lambda name: name in (folders if at_hand is None else at_hand),
        asset=ASSETS.__getitem__,
    )


def real_store(tmp_path):
    """A store over the real mirror, with a cache of the test's own; skips where there is none."""
    from crystalfm.assets.store import AssetStore

    if MIRROR is None or not (Path(MIRROR) / "mp").is_dir():
        pytest.skip("needs the real data: set CRYSTALFM_MIRROR to a mirror that holds mp/, jarvis/ and perov_carbon/")
    return AssetStore(tmp_path / "cache", MIRROR, offline=True)
