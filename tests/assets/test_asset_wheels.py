"""Wheels: fetched by the real pip from a local folder, unpacked by name, never outside their folder."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from crystalfm.assets import wheels
from crystalfm.assets.errors import ChecksumError, DiskFullError, PlaceFailedError
from crystalfm.assets.store import AssetStore
from crystalfm.assets.wheels import unpack_members
from crystalfm.contracts import UserError

FILES = {"config.json": b"{}", "sub/vocab.txt": b"a\nb\n"}
MEMBERS = {f"tinydata/data/{name}": data for name, data in FILES.items()} | {
    "tinydata/__init__.py": b"raise RuntimeError('a wheel must never be imported')\n",
    "tinydata/data/training_args.bin": b"pickle",
}


@pytest.fixture
def index(tmp_path, monkeypatch, make_wheel):
    """A folder that pip takes for its only index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return make_wheel(tmp_path / "index", MEMBERS)


def test_real_pip_downloads_and_only_named_members_are_kept(tmp_path, index, wheel_asset):
    store = AssetStore(tmp_path / "cache", assets={"tiny": wheel_asset(index, FILES)})
    fetched = store.fetch("tiny")
    names = {str(path.relative_to(fetched.folder)) for path in fetched.folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "sub/vocab.txt", "manifest.json"}
    assert (fetched.folder / "sub/vocab.txt").read_bytes() == FILES["sub/vocab.txt"]
    assert fetched.place == "wheel tinydata==1.0"
    assert "tinydata" not in sys.modules
    assert not (tmp_path / "cache/assets/tiny/.building").exists()
    assert store.verify("tiny") == []


def test_missing_version_says_what_pip_said(tmp_path, index, wheel_asset):
    asset = wheel_asset(index, FILES, version="9.9")
    with pytest.raises(UserError, match=r"pip download tinydata==9\.9 failed.*No matching distribution"):
        AssetStore(tmp_path / "cache", assets={"tiny": asset}).fetch("tiny")


def test_wrong_wheel_checksum(tmp_path, index, wheel_asset):
    asset = wheel_asset(index, FILES, sha256="0" * 64)
    with pytest.raises(ChecksumError) as caught:
        AssetStore(tmp_path / "cache", assets={"tiny": asset}).fetch("tiny")
    assert "0" * 64 in str(caught.value)
    assert hashlib.sha256(index.read_bytes()).hexdigest() in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_wheel_of_an_interrupted_run_is_used_again(tmp_path, index, wheel_asset, monkeypatch):
    asset = wheel_asset(index, FILES)
    kept = tmp_path / "cache/assets/tiny/.building/wheel" / index.name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(index.read_bytes())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    AssetStore(tmp_path / "cache", assets={"tiny": asset}).fetch("tiny")


def test_no_pip(tmp_path, index, wheel_asset, monkeypatch):
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="has no pip"):
        AssetStore(tmp_path / "cache", assets={"tiny": wheel_asset(index, FILES)}).fetch("tiny")


def test_pip_without_space(tmp_path, index, wheel_asset, monkeypatch):
    full = SimpleNamespace(returncode=1, stdout="ERROR: [Errno 28] No space left on device\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: full)
    with pytest.raises(DiskFullError, match="no space left"):
        AssetStore(tmp_path / "cache", assets={"tiny": wheel_asset(index, FILES)}).fetch("tiny")
    assert not list((tmp_path / "cache/assets/tiny").iterdir())


def test_pip_delivers_something_else(tmp_path, index, wheel_asset):
    asset = wheel_asset(index, FILES, filename="tinydata-1.0-cp311-cp311-linux_x86_64.whl")
    with pytest.raises(UserError, match=r"delivered tinydata-1\.0-py3-none-any\.whl instead"):
        AssetStore(tmp_path / "cache", assets={"tiny": asset}).fetch("tiny")


def test_wheel_in_the_mirror_serves_offline(tmp_path, make_wheel, wheel_asset):
    wheel = make_wheel(tmp_path / "mirror/wheels", MEMBERS)
    store = AssetStore(tmp_path / "cache", tmp_path / "mirror", True, assets={"tiny": wheel_asset(wheel, FILES)})
    fetched = store.fetch("tiny")
    assert fetched.folder.is_relative_to(tmp_path / "cache")
    assert str(wheel) in fetched.place
    assert wheel.exists()


def test_damaged_wheel_in_the_mirror_is_an_error_and_is_left_alone(tmp_path, make_wheel, wheel_asset):
    wheel = make_wheel(tmp_path / "mirror/wheels", MEMBERS)
    asset = wheel_asset(wheel, FILES)
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(ChecksumError):
        AssetStore(tmp_path / "cache", tmp_path / "mirror", assets={"tiny": asset}).fetch("tiny")
    assert wheel.exists()


@pytest.mark.parametrize("evil", ["../evil.txt", "/evil.txt", "tinydata/../../evil.txt"])
def test_member_that_leaves_the_folder_is_refused(tmp_path, make_wheel, evil):
    wheel = make_wheel(tmp_path / "w", {"tinydata/data/config.json": b"{}", evil: b"x"})
    with pytest.raises(PlaceFailedError, match="leaves its folder"):
        unpack_members(wheel, {"config.json": "tinydata/data/config.json"}, tmp_path / "out/deep")
    assert not list(tmp_path.rglob("evil.txt"))
    assert not (tmp_path / "out").exists()


def test_target_name_that_leaves_the_folder_is_refused(tmp_path, make_wheel):
    wheel = make_wheel(tmp_path / "w", {"good.txt": b"x"})
    with pytest.raises(PlaceFailedError, match="leaves its folder"):
        unpack_members(wheel, {"../good.txt": "good.txt"}, tmp_path / "out")
    with pytest.raises(PlaceFailedError, match="leaves its folder"):
        unpack_members(wheel, {"..": "good.txt"}, tmp_path / "out")


def test_link_member_is_refused(tmp_path):
    wheel = tmp_path / "link.whl"
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(PlaceFailedError, match="not a plain file"):
        unpack_members(wheel, {"link": "link"}, tmp_path / "out")


def test_missing_member_and_broken_zip(tmp_path, make_wheel):
    wheel = make_wheel(tmp_path / "w", {"good.txt": b"x"})
    with pytest.raises(PlaceFailedError, match=r"no member absent\.txt"):
        unpack_members(wheel, {"absent.txt": "absent.txt"}, tmp_path / "out")
    wheel.write_bytes(b"no zip")
    with pytest.raises(PlaceFailedError, match="not a readable wheel"):
        unpack_members(wheel, {"good.txt": "good.txt"}, tmp_path / "out")
