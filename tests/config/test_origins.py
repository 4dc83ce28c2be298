"""Which file and line sets a key."""

from crystalfm.config.location import conf_folder
from crystalfm.config.origins import SourceFile, origin, shown, source_files


def test_line_below_a_package(tmp_path):
    path = tmp_path / "tokens.yaml"
    path.write_text("# comment\nwidth: 3\nnested:\n  deep: 1\n")
    file = SourceFile(path, "encoders.smiles")
    assert file.line_of("encoders.smiles.width") == 2
    assert file.line_of("encoders.smiles.nested.deep") == 4
    assert file.line_of("encoders.smiles.depth") is None
    assert file.line_of("data.width") is None


def test_last_file_wins_and_parents_stand_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("lr: 1\n")
    (tmp_path / "b.yaml").write_text("optimizer:\n  lr: 2\n")
    files = [SourceFile(tmp_path / "a.yaml", "optimizer"), SourceFile(tmp_path / "b.yaml", "")]
    assert origin("optimizer.lr", files) == "b.yaml:2"
    assert origin("optimizer.missing", files) == "b.yaml:1"
    assert origin("optimizer.missing", files[:1]) == "a.yaml"
    assert origin("trainer", files) == ""


def test_unreadable_files_are_no_origin(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\n")
    assert SourceFile(bad, "").line_of("a") is None
    assert SourceFile(tmp_path / "absent.yaml", "").line_of("a") is None


def test_shipped_files_are_shown_below_conf():
    assert shown(conf_folder() / "llm" / "tiny.yaml") == "conf/llm/tiny.yaml"


def test_first_folder_that_has_a_file_wins(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "llm").mkdir(parents=True)
        (tmp_path / name / "llm" / "x.yaml").touch()
    found = source_files(
        [("llm/x", "llm"), (None, None), ("llm/absent", ""), ("llm/x", "_global_")],
        [tmp_path / "one", tmp_path / "two"],
    )
    assert found == [
        SourceFile(tmp_path / "one" / "llm" / "x.yaml", "llm"),
        SourceFile(tmp_path / "one" / "llm" / "x.yaml", ""),
    ]
