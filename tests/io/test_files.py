"""Files are whole or absent, locks hold between processes, hashes do not depend on chance."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import Timeout

from crystalfm.io.files import (
    append_lines,
    atomic_write,
    file_lock,
    sha256_file,
    sha256_json,
    whole_lines,
    write_json,
    write_text,
)

KILLED = """
import os, signal, sys
from crystalfm.io.files import atomic_write
with atomic_write(sys.argv[1], "w") as stream:
    stream.write("half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""

HOLDER = """
import sys, time
from crystalfm.io.files import file_lock
with file_lock(sys.argv[1]):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.txt"
    write_text(path, "größer\n")
    assert path.read_text(encoding="utf-8") == "größer\n"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]


def test_an_exception_leaves_the_old_content_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail_halfway() -> None:
        with atomic_write(path, "w") as stream:
            stream.write("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_the_old_file_is_seen_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    assert path.read_text() == "old"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_json_is_sorted_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "é"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"')
    assert "é" in text
    assert text.endswith("\n")


def test_the_hash_of_a_file_is_sha256_over_all_its_chunks(tmp_path: Path) -> None:
    content = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_value_ignores_the_order_of_keys_only() -> None:
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
    assert sha256_json({"a": 1, "b": [1, 2]}) != sha256_json({"a": 1, "b": [2, 1]})
    assert sha256_json({"a": "1"}) != sha256_json({"a": 1})


def test_a_lock_is_held_against_another_process(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout), file_lock(path, timeout_seconds=0.2):
            pass
        holder.kill()
    started = time.monotonic()
    with file_lock(path, timeout_seconds=10):
        assert time.monotonic() - started < 5


def test_lines_are_appended_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lines.jsonl"
    assert whole_lines(path) == []
    append_lines(path, ["a", "größer\u2028\x85"])
    append_lines(path, [])
    append_lines(path, ["", "d"])
    assert whole_lines(path) == ["a", "größer\u2028\x85", "", "d"]


def test_a_line_cut_off_by_a_crash_is_left_out_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_lines(path, ["first", "größer"])
    path.write_bytes(path.read_bytes()[:-3])  # in the middle of nothing but the last line
    assert whole_lines(path) == ["first"]
    append_lines(path, ["second"])
    assert path.read_text() == "first\nsecond\n"
