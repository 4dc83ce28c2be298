"""The store: order of places, immutability, locks, kills, full disks, and messages that name the remedy."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from crystalfm.assets import download as download_module
from crystalfm.assets.content import read_manifest
from crystalfm.assets.download import Retries
from crystalfm.assets.errors import ChecksumError, DiskFullError
from crystalfm.assets.registry import read_asset
from crystalfm.assets.store import AssetStore
from crystalfm.contracts import UserError

FETCH = """
import json, sys
from crystalfm.assets.registry import read_asset
from crystalfm.assets.store import AssetStore
cache, table = sys.argv[1:]
store = AssetStore(cache, assets={"tiny": read_asset("tiny", json.loads(table))})
print(store.fetch("tiny").folder)
"""
ONCE = Retries(1, 0.0)


@pytest.fixture
def store(tmp_path, url_asset):
    return AssetStore(tmp_path / "cache", assets={"tiny": url_asset}, retries=ONCE)


def spawn(cache, table):
    command = [sys.executable, "-c", FETCH, str(cache), json.dumps(table)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_fetch_caches_and_describes(store, server, content, url_asset):
    fetched = store.fetch("tiny")
    assert fetched.folder.parent == store.cache / "assets/tiny"
    assert fetched.folder.name == fetched.sha256[:16]
    assert (fetched.folder / "data.bin").read_bytes() == content
    assert (fetched.place, fetched.licence) == (server.base, "CC0")
    manifest = read_manifest(fetched.folder)
    assert manifest.files["data.bin"].sha256 == url_asset.files[0].sha256
    assert manifest.citation == "nobody"
    assert not os.access(fetched.folder / "data.bin", os.W_OK) or os.geteuid() == 0
    assert sorted(path.name for path in fetched.folder.parent.iterdir()) == [
        fetched.folder.name,
        "first_sha256.json",
    ]


def test_second_fetch_needs_no_server(store, server):
    first = store.fetch("tiny")
    server.files.clear()
    assert store.fetch("tiny") == first
    assert store.location("tiny") == "cache"
    assert store.cached_names() == ["tiny"]
    assert len(server.requests) == 1


def test_offline_uses_the_cache(store, tmp_path, url_asset):
    offline = AssetStore(tmp_path / "cache", offline=True, assets={"tiny": url_asset})
    with pytest.raises(UserError, match="offline is set"):
        offline.fetch("tiny")
    folder = store.fetch("tiny").folder
    assert offline.fetch("tiny").folder == folder


def test_unknown_name(store):
    with pytest.raises(UserError, match="unknown asset 'tinny'") as caught:
        store.fetch("tinny")
    assert "did you mean 'tiny'?" in str(caught.value)


def test_path(store):
    assert store.path("tiny", "data.bin").is_file()
    with pytest.raises(UserError, match=r"did you mean 'data\.bin'"):
        store.path("tiny", "data.bim")


def test_404_falls_to_the_next_place(server, url_table, tmp_path, make_wheel, wheel_asset, content):
    wheel = make_wheel(tmp_path / "mirror/wheels", {"tinydata/data/data.bin": content})
    server.files.clear()
    place = wheel_asset(wheel, {"data.bin": content}).wheel
    table = url_table | {"wheel": vars(place)}
    (tmp_path / "index").mkdir()
    shutil.move(wheel, tmp_path / "index" / wheel.name)
    environment = pytest.MonkeyPatch()
    with environment.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
        fetched = AssetStore(tmp_path / "cache", assets={"tiny": read_asset("tiny", table)}, retries=ONCE).fetch("tiny")
    assert server.asked == ["/data.bin"]
    assert fetched.place == "wheel tinydata==1.0"


def test_every_place_and_reason_is_listed(server, url_table, tmp_path, monkeypatch):
    server.files.clear()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = {"distribution": "absent", "version": "1", "filename": "absent-1-py3-none-any.whl", "size": 1}
    table = url_table | {"wheel": {**wheel, "sha256": "0" * 64, "folder": ""}}
    (tmp_path / "mirror").mkdir()
    store = AssetStore(
        tmp_path / "cache", tmp_path / "mirror", assets={"tiny": read_asset("tiny", table)}, retries=ONCE
    )
    with pytest.raises(UserError) as caught:
        store.fetch("tiny")
    text = str(caught.value)
    assert f"mirror: {tmp_path / 'mirror'} has none of tiny/" in text
    assert "HTTP 404" in text
    assert "pip download absent==1 failed" in text
    assert f"put data.bin into {tmp_path / 'mirror'}/tiny" in text
    assert f"{tmp_path / 'mirror'}/wheels/absent-1-py3-none-any.whl" in text
    assert f"python -m crystalfm.fetch tiny --cache {tmp_path / 'cache'}" in text


def test_wrong_checksum_leaves_nothing(store, server, content):
    server.files["/data.bin"] = content[:-1] + b"!"
    with pytest.raises(ChecksumError):
        store.fetch("tiny")
    assert not list(store.cache.rglob("data.bin*"))
    assert not store.is_cached("tiny")
    server.files["/data.bin"] = content
    assert store.fetch("tiny").folder.is_dir()


def test_unpinned_file_is_trusted_on_first_use_only(server, url_table, tmp_path, content):
    table = url_table | {"files": [{"name": "data.bin"}]}
    asset = read_asset("tiny", table)
    assert not asset.is_pinned
    store = AssetStore(tmp_path / "cache", assets={"tiny": asset}, retries=ONCE)
    first = store.fetch("tiny")
    server.files["/data.bin"] = b"other"
    with pytest.raises(ChecksumError, match="recorded at the first fetch"):
        store.fetch("tiny", refresh=True)
    assert store.fetch("tiny") == first
    (tmp_path / "cache/assets/tiny/first_sha256.json").unlink()
    second = store.fetch("tiny", refresh=True)
    assert second.sha256 != first.sha256
    assert (first.folder / "data.bin").read_bytes() == content


def test_damaged_copy_is_noticed_and_replaced(store, server):
    folder = store.fetch("tiny").folder
    (folder / "data.bin").chmod(0o644)
    (folder / "data.bin").write_bytes(b"short")
    assert not store.is_cached("tiny")
    assert "5 bytes" in store.verify("tiny")[0]
    server.statuses = [404]
    with pytest.raises(UserError, match=r"is damaged: data\.bin has 5 bytes"):
        store.fetch("tiny")
    assert store.fetch("tiny").folder == folder
    assert store.verify("tiny") == []


def test_verify_sees_what_sizes_cannot_show(store, content):
    path = store.fetch("tiny").folder / "data.bin"
    path.chmod(0o644)
    path.write_bytes(content[:-1] + b"!")
    assert store.is_cached("tiny")
    (problem,) = store.verify("tiny")
    assert "expected sha256" in problem
    store.fetch("tiny", refresh=True)
    assert store.verify("tiny") == []


def test_verify_of_what_is_not_there(store):
    with pytest.raises(UserError, match="not at hand"):
        store.verify("tiny")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": {}}', '{"files": {"../x": {"size": 1, "sha256": "0"}}}'])
def test_copy_with_a_damaged_manifest_does_not_count(store, damage):
    folder = store.fetch("tiny").folder
    (folder / "manifest.json").write_text(damage)
    assert not store.is_cached("tiny")
    assert store.fetch("tiny").folder == folder


def test_registry_with_a_new_checksum_fetches_again(store, server, url_table, tmp_path):
    old = store.fetch("tiny")
    server.files["/data.bin"] = b"new"
    digest = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    table = url_table | {"files": [{"name": "data.bin", "size": 3, "sha256": digest}]}
    new = AssetStore(tmp_path / "cache", assets={"tiny": read_asset("tiny", table)}, retries=ONCE).fetch("tiny")
    assert new.folder != old.folder
    assert old.folder.is_dir()
    assert store.fetch("tiny") == old


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["qm9", "minilm", "rxnfp", "smollm2_135m"])
def test_real_cached_copy_is_intact(name, asset_cache):
    store = AssetStore(asset_cache, offline=True)
    if not store.is_cached(name):
        pytest.skip(f"{name} is not in the cache {store.cache}; fetch it: python -m crystalfm.fetch {name}")
    assert store.verify(name) == []


def test_disk_full_in_the_middle(store, monkeypatch):
    def full(stream, chunk):
        stream.write(chunk[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "write_chunk", full)
        with pytest.raises(DiskFullError, match=r"needed 1,048,576 bytes, free [\d,]+ bytes"):
            store.fetch("tiny")
    assert list((store.cache / "assets/tiny").iterdir()) == []
    assert store.fetch("tiny").folder.is_dir()


def test_too_little_space_is_said_before_anything_is_asked(store, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match="needed 1,048,576 bytes, free 1,000 bytes"):
        store.fetch("tiny")
    assert server.requests == []


def test_forbidden_cache(store, monkeypatch):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("crystalfm.assets.store.file_lock", forbidden)
    with pytest.raises(UserError, match="cannot write the cache folder"):
        store.fetch("tiny")


def test_killed_in_the_middle_then_resumed(server, url_table, tmp_path, content):
    server.stall_at = 500_000
    cache = tmp_path / "cache"
    part = cache / "assets/tiny/.building/url/data.bin.part"
    process = spawn(cache, url_table)
    deadline = time.monotonic() + 20
    # What has arrived reaches the file in whole chunks.
    while not (part.exists() and part.stat().st_size >= 1 << 18):
        assert time.monotonic() < deadline, process.stderr.read() if process.poll() is not None else "stuck"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.resume.set()
    server.stall_at = None
    arrived = part.stat().st_size
    assert 0 < arrived < len(content)

    store = AssetStore(cache, assets={"tiny": read_asset("tiny", url_table)})
    assert not store.is_cached("tiny")
    fetched = store.fetch("tiny")
    assert (fetched.folder / "data.bin").read_bytes() == content
    assert server.requests[-1] == ("/data.bin", f"bytes={arrived}-")
    assert not part.parent.exists()
    assert store.verify("tiny") == []


def test_two_processes_at_once_fetch_once(server, url_table, tmp_path):
    server.delay_seconds = 1.0
    processes = [spawn(tmp_path / "cache", url_table) for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert server.asked == ["/data.bin"]


def test_waiting_for_another_process_is_shown(store, url_asset):
    import threading

    from crystalfm.io.files import file_lock

    shown = []
    sink = SimpleNamespace(start=lambda label, total: shown.append(label), advance=lambda n: None, finish=lambda: None)
    waiting = AssetStore(store.cache, progress=sink, assets={"tiny": url_asset})
    lock = file_lock(store.cache / "assets/tiny")
    with lock:
        thread = threading.Thread(target=waiting.fetch, args=("tiny",))
        thread.start()
        deadline = time.monotonic() + 10
        while not shown and time.monotonic() < deadline:
            time.sleep(0.01)
    thread.join(10)
    assert "another process is fetching it" in shown[0]
    assert waiting.is_cached("tiny")


def test_address_may_call_a_file_something_else(tmp_path, server, url_table, content):
    server.files["/files/38521619"] = content
    url = {"base": f"{server.base}files/", "remote_names": {"data.bin": "38521619"}}
    asset = read_asset("tiny", url_table | {"url": url})
    fetched = AssetStore(tmp_path / "cache", assets={"tiny": asset}).fetch("tiny")
    assert (fetched.folder / "data.bin").read_bytes() == content
    assert server.asked == ["/files/38521619"]
