"""Source archives: fetched by the real pip from a local folder, checked before their setup runs, unpacked by name."""

from __future__ import annotations

import hashlib
import io
import tarfile
from importlib.util import find_spec

import pytest

from crystalfm.assets.errors import PlaceFailedError
from crystalfm.assets.registry import read_asset
from crystalfm.assets.store import AssetStore
from crystalfm.assets.wheels import unpack_members
from crystalfm.contracts import UserError

FILES = {"id_prop.csv": b"a.vasp,1\n", "sub/a.vasp": b"POSCAR\n"}
ROOT = "tinydata-1.0"
SETUP = (
    b"from setuptools import setup\nopen(r'%s', 'w').write('x')\nsetup(name='tinydata', version='1.0', py_modules=[])\n"
)


def write_archive(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def ran(tmp_path):
    """A file that the archive's setup script writes when it runs."""
    return tmp_path / "setup_ran"


@pytest.fixture
def index(tmp_path, monkeypatch, ran):
    """A folder that pip takes for its only index, with one source archive."""
    if find_spec("setuptools") is None:
        pytest.skip("pip needs setuptools to ask a source archive for its metadata")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    members = {
        f"{ROOT}/PKG-INFO": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n",
        f"{ROOT}/setup.py": SETUP % str(ran).encode(),
        f"{ROOT}/data/other.txt": b"x",
    } | {f"{ROOT}/data/{name}": content for name, content in FILES.items()}
    return write_archive(tmp_path / "index" / "tinydata-1.0.tar.gz", members)


def asset_in(archive, **changes):
    def digest(content):
        return hashlib.sha256(content).hexdigest()

    place = {
        "distribution": "tinydata",
        "version": "1.0",
        "filename": archive.name,
        "size": archive.stat().st_size,
        "sha256": digest(archive.read_bytes()),
        "folder": f"{ROOT}/data/",
    }
    files = [{"name": name, "size": len(data), "sha256": digest(data)} for name, data in FILES.items()]
    table = {"kind": "data", "title": "t", "licence": "MIT", "citation": "nobody", "files": files}
    return read_asset("tiny", table | {"wheel": place | changes})


def test_real_pip_downloads_and_only_named_members_are_kept(tmp_path, index):
    store = AssetStore(tmp_path / "cache", assets={"tiny": asset_in(index)})
    fetched = store.fetch("tiny")
    names = {str(path.relative_to(fetched.folder)) for path in fetched.folder.rglob("*") if path.is_file()}
    assert names == {*FILES, "manifest.json"}
    assert (fetched.folder / "sub/a.vasp").read_bytes() == FILES["sub/a.vasp"]
    assert fetched.place == "sdist tinydata==1.0"
    assert store.verify("tiny") == []


def test_setup_of_an_archive_with_another_checksum_never_runs(tmp_path, index, ran):
    asset = asset_in(index, sha256="0" * 64)
    with pytest.raises(UserError, match=r"pip download tinydata==1\.0 failed"):
        AssetStore(tmp_path / "cache", assets={"tiny": asset}).fetch("tiny")
    assert not ran.exists()


def test_archive_in_the_mirror_needs_no_pip(tmp_path, index, ran):
    wheels = tmp_path / "mirror" / "wheels"
    wheels.mkdir(parents=True)
    index.rename(wheels / index.name)
    asset = asset_in(wheels / index.name)
    fetched = AssetStore(tmp_path / "cache", tmp_path / "mirror", True, assets={"tiny": asset}).fetch("tiny")
    assert (fetched.folder / "id_prop.csv").is_file()
    assert not ran.exists()


@pytest.mark.parametrize("evil", ["../evil.txt", "/evil.txt", f"{ROOT}/../../evil.txt"])
def test_member_that_leaves_the_folder_is_refused(tmp_path, evil):
    archive = write_archive(tmp_path / "a.tar.gz", {f"{ROOT}/a": b"1", evil: b"x"})
    with pytest.raises(PlaceFailedError, match="leaves its folder"):
        unpack_members(archive, {"a": f"{ROOT}/a"}, tmp_path / "out/deep")
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_and_absent_members_are_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    for member in ("link", "absent"):
        with pytest.raises(PlaceFailedError, match=f"no plain file {member}"):
            unpack_members(path, {"a": member}, tmp_path / "out")


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_broken_archive(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(PlaceFailedError, match="not a readable source archive"):
        unpack_members(tmp_path / "a.tar.gz", {"a": "a"}, tmp_path / "out")


def test_cut_archive(tmp_path):
    archive = write_archive(tmp_path / "a.tar.gz", {"a": bytes(range(256)) * 400})
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(PlaceFailedError, match="not a readable source archive"):
        unpack_members(archive, {"a": "a"}, tmp_path / "out")
