"""Mirrors: found under every accepted name, used in place, checked against pinned sums."""

from __future__ import annotations

import os

import pytest

from crystalfm.assets import content as content_module
from crystalfm.assets.errors import ChecksumError
from crystalfm.assets.registry import read_asset
from crystalfm.assets.store import AssetStore
from crystalfm.contracts import UserError


def fill(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{ }"}


def test_mirror_is_used_in_place_and_wins_over_the_network(tmp_path, server, url_asset, content):
    folder = fill(tmp_path / "mirror/tiny", {"data.bin": content})
    fetched = AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": url_asset}).fetch("tiny")
    assert fetched.folder == folder
    assert fetched.place == f"mirror {folder}"
    assert server.requests == []
    assert not (tmp_path / "cache/assets/tiny").exists()


def test_mirror_wins_over_the_cache_and_equal_content_has_an_equal_hash(tmp_path, url_asset, content):
    cached = AssetStore(tmp_path / "cache", assets={"tiny": url_asset}).fetch("tiny")
    folder = fill(tmp_path / "mirror/tiny", {"data.bin": content, "notes.txt": b"not part of it"})
    mirrored = AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": url_asset}).fetch("tiny")
    assert mirrored.folder == folder
    assert mirrored.sha256 == cached.sha256


def test_wrong_pinned_checksum_in_a_mirror(tmp_path, url_asset, content):
    fill(tmp_path / "mirror/tiny", {"data.bin": content[:-1] + b"!"})
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": url_asset})
    with pytest.raises(ChecksumError) as caught:
        store.fetch("tiny")
    assert url_asset.files[0].sha256 in str(caught.value)
    assert caught.value.found in str(caught.value)
    assert (tmp_path / "mirror/tiny/data.bin").exists()
    assert len(store.verify("tiny")) == 1


@pytest.mark.parametrize("folder", ["tiny", "someone/tiny-model", "tiny-model"])
def test_hub_model_is_found_under_every_name(tmp_path, hub_asset, folder):
    fill(tmp_path / "mirror" / folder, MODEL)
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", True, assets={"tiny": hub_asset})
    assert store.fetch("tiny").folder == tmp_path / "mirror" / folder
    assert store.location("tiny") == "mirror"


def test_own_mirror_folder_and_optional_files(tmp_path):
    table = {
        "kind": "data",
        "title": "t",
        "licence": "l",
        "citation": "c",
        "mirror": ["Some-Release"],
        "files": [{"name": "test.txt"}, {"name": "training.txt", "optional": True}],
    }
    store = AssetStore(tmp_path / "c", tmp_path / "mirror", assets={"x": read_asset("x", table)})
    fill(tmp_path / "mirror/Some-Release", {"test.txt": b"1"})
    without = store.fetch("x")
    assert without.folder.name == "Some-Release"
    with pytest.raises(UserError, match=r"no file 'training\.txt'"):
        store.path("x", "training.txt")
    fill(tmp_path / "mirror/Some-Release", {"training.txt": b"2"})
    assert store.fetch("x").sha256 != without.sha256
    assert store.path("x", "training.txt").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("files", "lacking"),
    [({"config.json": b"{}"}, "weights"), ({"model.safetensors": b"w"}, "config.json")],
)
def test_incomplete_model_in_a_mirror_is_passed_over_and_named(tmp_path, hub_asset, files, lacking):
    fill(tmp_path / "mirror/tiny", files)
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", True, assets={"tiny": hub_asset})
    assert not store.is_cached("tiny")
    with pytest.raises(UserError, match=f"lacks {lacking}"):
        store.fetch("tiny")


def test_missing_mirror_folder(tmp_path, hub_asset):
    store = AssetStore(tmp_path / "cache", tmp_path / "nowhere", assets={"tiny": hub_asset})
    with pytest.raises(UserError, match="nowhere does not exist"):
        store.fetch("tiny")


def test_large_files_are_hashed_once(tmp_path, hub_asset, monkeypatch):
    folder = fill(tmp_path / "mirror/tiny", MODEL)
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": hub_asset})
    hashed = []
    real = content_module.sha256_file
    monkeypatch.setattr(content_module, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    first = store.fetch("tiny")
    assert sorted(hashed) == sorted(MODEL)
    assert store.fetch("tiny") == first
    assert len(hashed) == len(MODEL)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    changed = store.fetch("tiny")
    assert hashed[len(MODEL) :] == ["model.safetensors"]
    assert changed.sha256 != first.sha256
    store.verify("tiny")
    assert len(hashed) == 2 * len(MODEL) + 1


def test_damaged_memo_is_ignored(tmp_path, hub_asset):
    fill(tmp_path / "mirror/tiny", MODEL)
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": hub_asset})
    first = store.fetch("tiny")
    (memo,) = (tmp_path / "cache/assets/.mirror").glob("*.json")
    for damage in ("{", "[]", '{"files": 3}', '{"files": {"config.json": [1]}}'):
        memo.write_text(damage)
        assert store.fetch("tiny").sha256 == first.sha256


def test_mirror_works_where_the_cache_cannot_be_written(tmp_path, hub_asset):
    fill(tmp_path / "mirror/tiny", MODEL)
    (tmp_path / "cache").write_text("a file where the folder should be")
    fetched = AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": hub_asset}).fetch("tiny")
    assert fetched.folder == tmp_path / "mirror/tiny"


def test_files_without_checksum_may_be_compressed_in_a_mirror(tmp_path, url_table, content):
    loose = {"name": "notes.csv"}
    asset = read_asset("tiny", url_table | {"files": [*url_table["files"], loose]})
    folder = fill(tmp_path / "mirror/tiny", {"data.bin": content, "notes.csv.gz": b"packed"})
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", True, assets={"tiny": asset})
    assert store.fetch("tiny").folder == folder
    assert store.verify("tiny") == []
    before = store.fetch("tiny").sha256
    (folder / "notes.csv.gz").write_bytes(b"other content")
    assert store.fetch("tiny").sha256 != before
    (folder / "notes.csv.gz").unlink()
    assert not store.is_cached("tiny")


def test_pinned_files_keep_their_names_in_a_mirror(tmp_path, url_asset, content):
    fill(tmp_path / "mirror/tiny", {"data.bin.gz": content})
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", True, assets={"tiny": url_asset})
    with pytest.raises(UserError, match=r"lacks data\.bin"):
        store.fetch("tiny")
