"""Hugging Face repositories, the hub's client replaced: what is asked for, believed, and said."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from crystalfm.assets.errors import ChecksumError, DiskFullError
from crystalfm.assets.registry import read_asset
from crystalfm.assets.store import AssetStore
from crystalfm.contracts import UserError

COMMIT = "c" * 40
MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"safe weights",
    "pytorch_model.bin": b"pickled weights",
    "tokenizer.json": b"{ }",
    "README.md": b"card",
}


class FakeHub:
    """Stands for the hub: a repository's files, and what arrives of them."""

    def __init__(self, files):
        self.files = dict(files)
        self.arriving = self.files
        self.error = None
        self.calls = []

    def model_info(self, repo, *, revision=None, files_metadata=False):
        if self.error is not None:
            raise self.error
        siblings = []
        for name, data in self.files.items():
            lfs = None
            if name.endswith((".bin", ".safetensors")):
                lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())
            siblings.append(SimpleNamespace(rfilename=name, size=len(data), lfs=lfs))
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def snapshot_download(self, repo, *, revision, local_dir, allow_patterns):
        self.calls.append((repo, revision, tuple(allow_patterns)))
        for name in allow_patterns:
            if name in self.arriving:
                Path(local_dir, name).write_bytes(self.arriving[name])
        bookkeeping = Path(local_dir, ".cache/huggingface/download")
        bookkeeping.mkdir(parents=True, exist_ok=True)
        (bookkeeping / "config.json.metadata").write_text("x")
        return str(local_dir)


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub(MODEL)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


@pytest.fixture
def store(tmp_path, hub_asset):
    return AssetStore(tmp_path / "cache", assets={"tiny": hub_asset})


def test_wanted_files_at_one_commit(hub, store):
    fetched = store.fetch("tiny")
    assert hub.calls == [("someone/tiny-model", COMMIT, ("config.json", "model.safetensors", "tokenizer.json"))]
    assert {path.name for path in fetched.folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "manifest.json",
    }
    assert fetched.place == f"Hugging Face someone/tiny-model@{COMMIT}"
    store.fetch("tiny")
    assert len(hub.calls) == 1


def test_pytorch_weights_as_a_fallback(hub, store):
    del hub.files["model.safetensors"]
    assert (store.fetch("tiny").folder / "pytorch_model.bin").read_bytes() == MODEL["pytorch_model.bin"]


def test_same_content_in_a_mirror_has_the_same_hash(hub, store, tmp_path, hub_asset):
    fetched = store.fetch("tiny")
    folder = tmp_path / "mirror/tiny"
    folder.mkdir(parents=True)
    for name, data in MODEL.items():
        (folder / name).write_bytes(data)
    mirrored = AssetStore(tmp_path / "other", tmp_path / "mirror", assets={"tiny": hub_asset}).fetch("tiny")
    assert mirrored.sha256 == fetched.sha256


def test_repository_without_weights(hub, store):
    hub.files = {"config.json": b"{}"}
    with pytest.raises(UserError, match="neither"):
        store.fetch("tiny")


def test_incomplete_snapshot_is_not_believed(hub, store):
    hub.arriving = {"config.json": b"{}"}
    with pytest.raises(UserError, match="did not arrive"):
        store.fetch("tiny")
    assert not store.is_cached("tiny")
    hub.arriving = hub.files | {"model.safetensors": b"safe"}
    with pytest.raises(UserError, match="4 of 12 bytes"):
        store.fetch("tiny")
    hub.arriving = hub.files
    assert store.fetch("tiny").folder.is_dir()


def test_weights_with_a_wrong_sum(hub, store, tmp_path):
    hub.arriving = hub.files | {"model.safetensors": b"SAFE WEIGHTS"}
    with pytest.raises(ChecksumError, match=r"model\.safetensors"):
        store.fetch("tiny")
    assert not list(tmp_path.rglob("model.safetensors"))


def test_no_network_names_asset_mirror_and_command(hub, store, tmp_path):
    hub.error = LocalEntryNotFoundError("cannot reach the hub\nmore words")
    with pytest.raises(UserError) as caught:
        store.fetch("tiny")
    text = str(caught.value)
    assert "asset 'tiny'" in text
    assert "cannot reach the hub" in text
    assert "more words" not in text
    assert "python -m crystalfm.fetch tiny" in text
    assert "MIRROR/someone/tiny-model" in text


def test_offline_asks_nobody(hub, tmp_path, hub_asset):
    hub.error = AssertionError("asked the hub")
    store = AssetStore(tmp_path / "cache", offline=True, assets={"tiny": hub_asset})
    with pytest.raises(UserError, match="not tried: offline") as caught:
        store.fetch("tiny")
    assert "python -m crystalfm.fetch tiny" in str(caught.value)


def test_gated_repository_says_what_to_do(hub, tmp_path):
    table = {
        "kind": "weights",
        "title": "t",
        "licence": "l",
        "citation": "c",
        "files": [{"name": "config.json"}],
        "hub": {"repo": "meta/secret", "gated": True},
    }
    store = AssetStore(tmp_path / "cache", assets={"secret": read_asset("secret", table)})
    for error in (GatedRepoError, RepositoryNotFoundError):
        hub.error = error("401", response=Mock(headers={}))
        with pytest.raises(UserError, match="HF_TOKEN") as caught:
            store.fetch("secret")
        assert "https://huggingface.co/meta/secret" in str(caught.value)


def test_full_disk(hub, store, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(DiskFullError):
        store.fetch("tiny")
    assert not list((tmp_path / "cache/assets/tiny").iterdir())
