"""Groups and what their options say."""

import pytest

from crystalfm.config.location import conf_folder, user_conf_folders
from crystalfm.config.options import Catalog
from crystalfm.contracts import UserError


@pytest.fixture
def folder(tmp_path):
    group = tmp_path / "llm"
    group.mkdir()
    (group / "base.yaml").write_text("_target_: crystalfm.models.backbones.TinyBackbone\nname: base\nwidth: 4\n")
    (group / "wide.yaml").write_text("defaults:\n  - base\n  - _self_\n\nname: wide\nwidth: 8\n")
    (group / "broken.yaml").write_text("a: [\n")
    (group / "list.yaml").write_text("- 1\n")
    (group / "strange.yaml").write_text("_target_: crystalfm.models.backbones.NoSuchThing\nname: strange\n")
    return tmp_path


@pytest.fixture
def catalog(folder):
    return Catalog({"llm": ["base", "broken", "list", "strange", "wide"]}, [folder])


def test_an_option_starts_from_another(catalog):
    assert catalog.node("llm", "wide") == {
        "_target_": "crystalfm.models.backbones.TinyBackbone",
        "name": "wide",
        "width": 8,
    }


@pytest.mark.parametrize("name", ["broken", "list", "absent"])
def test_unreadable_options_say_nothing(catalog, name):
    assert catalog.node("llm", name) == {}


def test_nodes_are_options_with_a_class(catalog):
    assert sorted(catalog.nodes("llm")) == ["base", "strange", "wide"]
    assert catalog.nodes("nothing") == {}


def test_options_that_have_a_setting(catalog):
    assert catalog.options_with("llm", "num_heads") == ["base", "wide"]
    assert catalog.options_with("llm", "lora_rank") == []
    assert catalog.options_with("encoder", "num_heads") == []


def test_hint(catalog):
    assert catalog.hint("llm") == "llm=OPTION with one of: base, broken, list, strange, wide"
    assert catalog.hint("nothing") == ""


def test_shipped_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (conf_folder() / "train.yaml").is_file()


def test_missing_shipped_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("crystalfm.config.location._PACKAGE_FOLDER", tmp_path / "a" / "b" / "crystalfm")
    with pytest.raises(UserError, match="configuration files are missing") as caught:
        conf_folder()
    assert "install the package again" in caught.value.remedy


def test_installed_package_has_its_own_copy(tmp_path, monkeypatch):
    package = tmp_path / "crystalfm"
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train.yaml").touch()
    monkeypatch.setattr("crystalfm.config.location._PACKAGE_FOLDER", package)
    assert conf_folder() == package / "conf"


def test_folders_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert user_conf_folders() == []
    (tmp_path / "conf").mkdir()
    (tmp_path / "other").mkdir()
    assert user_conf_folders() == [tmp_path / "conf"]
    assert user_conf_folders("other") == [tmp_path / "other", tmp_path / "conf"]
    assert user_conf_folders("conf") == [tmp_path / "conf"]
    with pytest.raises(UserError, match="no such folder"):
        user_conf_folders("absent")


def test_the_shipped_folder_is_not_the_users(monkeypatch):
    monkeypatch.chdir(conf_folder().parent)
    assert user_conf_folders() == []
