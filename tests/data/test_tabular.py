"""Users' tables as text."""

import gzip

import pandas as pd
import pytest

from crystalfm.contracts import UserError
from crystalfm.data.tabular import read_columns, read_text, require_columns


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "smiles,gap\nCCO, 1.50 \nC,\n"),
        ("t.csv", "\ufeffsmiles,gap\nCCO,1.50\nC,\n"),
        ("t.csv", "smiles;gap\nCCO;1.50\nC;\n"),
        ("t.csv", "smiles\tgap\nCCO\t1.50\nC\t\n"),
        ("t.tsv", "smiles\tgap\nCCO\t1.50\nC\t\n"),
        ("t.csv", "smiles,gap\r\nCCO,1.50\r\nC,\r\n"),
        ("t.csv", ' smiles , gap,other\n"CCO","1.50",x\nC,"",y\n'),
        ("t.csv", "\n\nsmiles,gap\nCCO,1.50\nC,\n"),
    ],
)
def test_layouts_that_mean_the_same(tmp_path, name, text):
    cells = read_text(write(tmp_path / name, text), ["smiles", "gap"])
    assert cells == {"smiles": ["CCO", "C"], "gap": ["1.50", None]}


def test_gzip(tmp_path):
    with gzip.open(tmp_path / "t.csv.gz", "wt") as stream:
        stream.write("smiles,gap\nCCO,1\n")
    assert read_columns(tmp_path / "t.csv.gz") == ["smiles", "gap"]
    assert read_text(tmp_path / "t.csv.gz", ["gap"]) == {"gap": ["1"]}


def test_parquet_keeps_all_digits_and_missing_cells(tmp_path):
    frame = pd.DataFrame(
        {
            "smiles": ["C", None],
            "gap": [0.1 + 0.2, float("nan")],
            "count": pd.array([3, None], dtype="Int64"),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    text = read_text(tmp_path / "t.parquet", ["count", "smiles", "gap"])
    assert text == {"count": ["3", None], "smiles": ["C", None], "gap": ["0.30000000000000004", None]}
    assert list(text) == ["count", "smiles", "gap"]


def test_text_that_looks_like_missing_is_kept(tmp_path):
    path = write(tmp_path / "t.csv", "id,name\nNA,None\n1,nan\n")
    assert read_text(path, ["id", "name"]) == {"id": ["NA", "1"], "name": ["None", "nan"]}


@pytest.mark.parametrize("reader", [read_columns, lambda path: read_text(path, ["a"])])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n \n", "is empty"),
        ("t.csv", "a,b\nné,1\n".encode("latin1"), None),
        ("t.xlsx", b"PK", "files of this kind cannot be read"),
        ("t.csv.gz", b"not gzip", "cannot be read"),
        ("t.parquet", b"not parquet", "cannot be read as Parquet"),
        ("t.csv", b"a,a\n1,2\n", "several columns called a"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, reader, name, content, message):
    (tmp_path / name).write_bytes(content)
    if message is None and reader is read_columns:
        return  # the header is fine, the rows are not looked at
    with pytest.raises(UserError, match=message or "not UTF-8"):
        reader(tmp_path / name)


def test_header_that_is_not_utf8_says_how_to_convert(tmp_path):
    path = write(tmp_path / "t.csv", "smiles,énergie\nC,1\n", encoding="latin1")
    with pytest.raises(UserError, match="iconv -f latin1"):
        read_columns(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_columns(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_columns(tmp_path)


def test_header_without_rows(tmp_path):
    with pytest.raises(UserError, match="a header and no rows"):
        read_text(write(tmp_path / "t.csv", "smiles,gap\n"), ["smiles"])


def test_truncated_gzip(tmp_path):
    whole = gzip.compress(b"smiles,gap\n" + b"CCO,1\n" * 50_000)
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path / "t.csv.gz", ["smiles"])


@pytest.mark.parametrize("row", ["CCO,1,2,3", "CCO,1,", "CCO", '"CCO"x,1', '"CCO,1'])
def test_ragged_and_malformed_rows_are_an_error(tmp_path, row):
    path = write(tmp_path / "t.csv", f"\nsmiles,gap\nC,1\n{row}\n")
    with pytest.raises(UserError, match=r"line 4: |cannot be read as a table"):
        read_text(path, ["smiles", "gap"])


def test_blank_lines_and_line_breaks_in_quotes_are_fine(tmp_path):
    path = write(tmp_path / "t.csv", 'smiles,note\nC,"one\ntwo, three"\n\nN,four\n\n')
    assert read_text(path, ["note"]) == {"note": ["one\ntwo, three", "four"]}


def test_missing_column_hints_at_the_nearest(tmp_path):
    path = write(tmp_path / "t.csv", "SMILES,band_gap\nC,1\n")
    with pytest.raises(UserError) as caught:
        require_columns(path, ["smiles", "bandgap", "band_gap"])
    text = str(caught.value)
    assert "no column smiles, bandgap" in text
    assert "did you mean 'SMILES'?" in text
    assert "did you mean 'band_gap'?" in text
    assert "columns: SMILES, band_gap" in text
