"""ChEBI-20: reading, official and other splits, missing texts, limits, and the real files where they are."""

import gzip
import logging
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from crystalfm.contracts import UserError
from crystalfm.data import chebi
from crystalfm.data.chebi import ChEBI20
from crystalfm.data.records import represent
from crystalfm.data.splits import check_leakage, make_splits, read_splits, write_splits

TRAIN = ["C", "CC", "CCC", "CCCC", "CCCCC", "CCCCCC", "CO", "CCO"]
VAL = ["CN", "CCN", "CCCN", "CCCCN"]
TEST = ["CF", "CCF"]
HEADER = "CID\tSMILES\tdescription\n"
MIRROR = os.environ.get("CRYSTALFM_MIRROR")


def lines(smiles, start, text=True):
    return [
        f"{start + row}\t{value}" + (f"\tThe molecule is number {row}." if text else "")
        for row, value in enumerate(smiles)
    ]


def write(folder, *, train=TRAIN, val=VAL, test=TEST, text=True):
    """A release: CIDs from 100 train, from 200 validate, from 300 test."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "validation.txt").write_text(HEADER + "\n".join(lines(val, 200)) + "\n")
    (folder / "test.txt").write_text(HEADER + "\n".join(lines(test, 300)) + "\n")
    if train is not None and text:
        (folder / "training.txt").write_text(HEADER + "\n".join(lines(train, 100)) + "\n")
    elif train is not None:
        body = "CID\tSMILES\n" + "\n".join(lines(train, 100, text=False)) + "\n"
        (folder / "train_smiles_only.tsv.gz").write_bytes(gzip.compress(body.encode()))
    return folder


def ids(table, rows):
    return table.ids[rows].tolist()


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "chebi20")


@pytest.fixture
def store(tmp_path, folder):
    fetched = SimpleNamespace(folder=folder, sha256="1" * 64)
    return SimpleNamespace(cache=tmp_path / "cache", fetched=fetched, fetch=lambda name: fetched)


def test_spec_offers_every_modality_of_the_paper():
    spec = ChEBI20().spec()
    assert set(spec.modalities) == {"smiles", "selfies", "fingerprint", "molecular_graph", "description"}
    assert [(target.name, target.unit) for target in spec.targets] == [("logp", "1"), ("qed", "1")]


def test_records_know_their_part_and_have_texts_and_properties(folder):
    table = ChEBI20(path=str(folder)).load()
    assert Counter(table.parts.tolist()) == {"train": 8, "val": 4, "test": 2}
    assert table.fields["description"][0] == "The molecule is number 0."
    assert table.ids[0] == "100"
    # Crippen's methane: one C1 carbon and four hydrogens.
    assert table.targets[0, 0] == pytest.approx(0.1441 + 4 * 0.1230, abs=1e-6)
    assert np.all((table.targets[:, 1] > 0) & (table.targets[:, 1] < 1))


def test_targets_come_in_the_order_asked_for(folder):
    both = ChEBI20(path=str(folder)).load()
    turned = ChEBI20(path=str(folder), targets=["qed", "logp"]).load()
    np.testing.assert_array_equal(turned.targets, both.targets[:, ::-1])
    with pytest.raises(UserError, match="no target tpsa"):
        ChEBI20(path=str(folder), targets=["tpsa"]).load()


@pytest.mark.parametrize("marked", [r"C/C=C\\C", "C/C=C\\C"])
def test_doubled_backslashes_mean_one(tmp_path, marked):
    table = ChEBI20(path=str(write(tmp_path / "d", train=[*TRAIN, marked]))).load()
    assert "C/C=C\\C" in table.fields["smiles"]
    assert table.rejected == []


def test_quotation_marks_and_odd_line_breaks_belong_to_the_text(tmp_path):
    folder = write(tmp_path / "d")
    text = 'A "quoted\x85thing\u2028 of 5" length'
    (folder / "training.txt").write_text(f'{HEADER}1\tC\t{text}\n2\tCC\t"open\n', encoding="utf-8")
    table = ChEBI20(path=str(folder)).load()
    assert table.fields["description"][:2] == [text, '"open']


def test_training_file_without_texts(tmp_path):
    table = ChEBI20(path=str(write(tmp_path / "d", text=False))).load()
    known = [text is not None for text in table.fields["description"]]
    assert known == [False] * 8 + [True] * 6


def test_texts_of_some_rows_may_be_missing(tmp_path):
    folder = write(tmp_path / "d")
    (folder / "training.txt").write_text(f"{HEADER}1\tC\t\n2\tCC\n3\tCCC\tA gas.\n")
    table = ChEBI20(path=str(folder)).load()
    assert table.fields["description"][:3] == [None, None, "A gas."]
    assert table.rejected == []


def test_file_with_texts_goes_before_the_one_without(tmp_path):
    folder = write(write(tmp_path / "d", train=["CCl"], text=False))
    assert "CCl" not in ChEBI20(path=str(folder)).load().fields["smiles"]


def test_bad_rows_are_rejected_with_reason(tmp_path):
    folder = write(tmp_path / "d")
    (folder / "training.txt").write_text(f"{HEADER}1\tC1CC\tx\n2\t\tx\n\tCC\tx\n4\n5\tC\tx\ty\n\n6\tCCC\tx\n")
    table = ChEBI20(path=str(folder)).load()
    reasons = {item.id: item.reason for item in table.rejected}
    assert "ring" in reasons["1"]
    assert reasons["2"] == "no SMILES"
    assert reasons["training.txt line 4"] == "no CID"
    assert reasons["training.txt line 5"] == "1 cells where the header has 3"
    assert reasons["training.txt line 6"] == "4 cells where the header has 3"
    assert ids(table, table.parts == "train") == ["6"]


def test_molecules_without_a_property_are_rejected(folder, monkeypatch):
    from rdkit.Chem import QED

    compute = QED.qed
    monkeypatch.setattr(QED, "qed", lambda molecule: compute(molecule) if molecule.GetNumAtoms() > 1 else np.nan)
    table = ChEBI20(path=str(folder)).load()
    assert [(item.id, item.value) for item in table.rejected] == [("100", "C")]


def test_a_molecule_stays_in_the_test_then_in_the_validation(tmp_path):
    folder = write(tmp_path / "d", train=["C", "FC", "NC"], val=["CN", "CCN", "FCC"], test=["CF", "CCF"])
    dataset = ChEBI20(path=str(folder))
    table = dataset.load()
    assert {item.id: item.reason for item in table.rejected} == {
        "101": "same molecule as test id 300",
        "102": "same molecule as val id 200",
        "202": "same molecule as test id 301",
    }
    assert ids(table, dataset.splits_of(table).test) == ["300", "301"]
    check_leakage(table, dataset.splits_of(table))


def test_a_drawn_split_keeps_molecules_together_instead(tmp_path):
    folder = write(tmp_path / "d", train=["C", "FC", *TRAIN[1:]], test=["CF", "CCF"])
    dataset = ChEBI20(path=str(folder), split="random")
    table = dataset.load()
    assert table.rejected == []
    assert dataset.splits_of(table) is None
    assert table.groups[table.ids.tolist().index("101")] == table.groups[table.ids.tolist().index("300")]
    check_leakage(table, make_splits(table, test_fraction=0.3))


def test_official_split(folder):
    dataset = ChEBI20(path=str(folder))
    table = dataset.load()
    splits = dataset.splits_of(table)
    assert splits.sizes == {"train": 8, "val": 4, "test": 2}
    assert ids(table, splits.val) == ["200", "201", "202", "203"]


def test_extended_split_trains_on_most_of_the_validation_file(folder):
    def parts(**settings):
        dataset = ChEBI20(path=str(folder), split="extended", val_fraction=0.25, **settings)
        table = dataset.load()
        return {name: ids(table, rows) for name, rows in dataset.splits_of(table).parts.items()}

    drawn = parts()
    assert drawn["test"] == ["300", "301"]
    assert len(drawn["val"]) == 1
    assert sorted(drawn["train"] + drawn["val"]) == [str(n) for n in (*range(100, 108), *range(200, 204))]
    assert set(drawn["val"]) <= {"200", "201", "202", "203"}
    assert parts() == drawn
    assert any(parts(split_seed=seed)["val"] != drawn["val"] for seed in range(8))


def test_without_a_training_file(tmp_path):
    folder = write(tmp_path / "d", train=None)
    dataset = ChEBI20(path=str(folder))
    with pytest.raises(UserError, match=r"no row to train on here \(0 train, 4 val, 2 test\)"):
        dataset.splits_of(dataset.load())
    extended = ChEBI20(path=str(folder), split="extended")
    assert extended.splits_of(extended.load()).sizes == {"train": 3, "val": 1, "test": 2}


@pytest.mark.parametrize(("limit", "sizes"), [(3, (1, 1, 1)), (7, (4, 2, 1)), (14, (8, 4, 2)), (99, (8, 4, 2))])
def test_limit_keeps_the_parts_in_proportion(folder, limit, sizes):
    dataset = ChEBI20(path=str(folder), limit=limit)
    assert tuple(dataset.splits_of(dataset.load()).sizes.values()) == sizes


def test_a_smaller_limit_gives_a_part_of_the_rows(folder):
    drawn = [set(ChEBI20(path=str(folder), limit=limit).load().ids) for limit in range(3, 15)]
    assert all(few < more for few, more in pairwise(drawn))


def test_limit_below_the_number_of_parts(folder):
    with pytest.raises(UserError, match=r"data\.limit=2 is too small") as caught:
        ChEBI20(path=str(folder), limit=2).load()
    assert "at least 3" in str(caught.value)


def test_rejections_of_rows_outside_the_limit_do_not_count(tmp_path):
    folder = write(tmp_path / "d", train=["C1CC", *TRAIN])
    tables = [ChEBI20(path=str(folder), limit=5, seed=seed).load() for seed in range(6)]
    assert all(len(table) + len(table.rejected) == 5 for table in tables)
    assert {len(table.rejected) for table in tables} == {0, 1}


def test_split_file_round_trip(folder, tmp_path):
    dataset = ChEBI20(path=str(folder))
    table = dataset.load()
    write_splits(tmp_path / "split.json", table, dataset.splits_of(table))
    again = read_splits(tmp_path / "split.json", table)
    assert ids(table, again.test) == ["300", "301"]


def test_parsed_table_is_cached_by_content_and_reader(store, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    first = ChEBI20(store=store).load()
    parse = chebi._parse
    monkeypatch.setattr(chebi, "_parse", None)
    again = ChEBI20(store=store).load()
    assert again.content_hash == first.content_hash
    assert again.parts.tolist() == first.parts.tolist()
    assert "from the cache" in caplog.text
    monkeypatch.setattr(chebi, "_parse", parse)
    monkeypatch.setattr(chebi, "READER_VERSION", 99)
    ChEBI20(store=store).load()
    store.fetched.sha256 = "2" * 64
    ChEBI20(store=store).load()
    assert len(list((store.cache / "tables").glob("*.parquet"))) == 3


def test_repeated_id(tmp_path):
    folder = write(tmp_path / "d")
    (folder / "training.txt").write_text(f"{HEADER}300\tC\tx\n")
    with pytest.raises(UserError, match="CID 300 occurs twice"):
        ChEBI20(path=str(folder)).load()


def test_files_that_are_not_there_or_something_else(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ChEBI20(path=str(tmp_path / "none")).load()
    with pytest.raises(UserError, match=r"lacks validation\.txt, test\.txt"):
        ChEBI20(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="needs an asset store"):
        ChEBI20().load()
    folder = write(tmp_path / "d")
    (folder / "test.txt").write_text("id,smiles\n1,C\n")
    with pytest.raises(UserError, match="not a file of ChEBI-20: its columns are id,smiles"):
        ChEBI20(path=str(folder)).load()
    (folder / "test.txt").write_bytes(b"CID\tSMILES\n1\t\xff\n")
    with pytest.raises(UserError, match="cannot be read as ChEBI-20"):
        ChEBI20(path=str(folder)).load()


def test_damaged_archive(tmp_path):
    folder = write(tmp_path / "d", text=False)
    path = folder / "train_smiles_only.tsv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="cannot be read as ChEBI-20"):
        ChEBI20(path=str(folder)).load()


@pytest.fixture
def real_folder():
    """The release's files, from the mirror of the person who runs the tests; skips where there are none."""
    folder = Path(MIRROR or "") / "chebi20"
    if MIRROR is None or not (folder / "train_smiles_only.tsv.gz").is_file():
        pytest.skip("needs ChEBI-20's files: set CRYSTALFM_MIRROR to a folder with chebi20/")
    return folder


@pytest.mark.real_data
def test_real_files_hold_the_molecules_of_the_paper(real_folder, monkeypatch):
    # The properties of all 33,010 molecules take most of a minute; they are looked at below for a few.
    monkeypatch.setattr(chebi, "logp_and_qed", lambda smiles: (np.zeros((len(smiles), 2)), []))
    dataset = ChEBI20(path=str(real_folder))
    table = dataset.load()
    splits = dataset.splits_of(table)
    assert splits.sizes == {"train": 26_409, "val": 3_301, "test": 3_300}
    assert table.rejected == []
    assert len(np.unique(table.groups)) == 33_009
    check_leakage(table, splits)
    described = [text is not None for text in table.fields["description"]]
    assert sum(described) == 6_601
    assert not any("\\\\" in text for text in table.fields["smiles"])
    # The paper tests on 3,299 molecules: SELFIES cannot write one of them.
    left, _ = represent(table.select(splits.test), ["smiles", "selfies", "description"])
    assert [item.id for item in left.rejected] == ["339496"]


@pytest.mark.real_data
def test_real_molecules_have_properties(real_folder, tmp_path):
    folder = write(tmp_path / "few", train=None)
    for name in ("validation.txt", "test.txt"):
        rows = (real_folder / name).read_text(encoding="utf-8").split("\n")[:101]
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = ChEBI20(path=str(folder)).load()
    assert len(table) == 200
    assert np.isfinite(table.targets).all()
    assert 0 < table.targets[:, 1].min() < table.targets[:, 1].max() < 1
