"""The embedding cache: every distinct string once, whatever happens to processes and files."""

import gc
import json
import logging
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from crystalfm.contracts import UserError
from crystalfm.encoders import cache as cache_module
from crystalfm.encoders.cache import EmbeddingCache
from crystalfm.encoders.segments import SegmentError

IDENTITY = {"encoder": "fake", "version": 1, "max_length": 8}
WIDTH = 6


def expected(strings):
    """Rows that depend on their string alone."""
    return np.array([[len(s), *(float(ord(c)) for c in s.ljust(WIDTH - 1)[: WIDTH - 1])] for s in strings])


class Encoder:
    """Counts what it is asked for."""

    def __init__(self):
        self.seen = []
        self.calls = 0

    def __call__(self, strings):
        self.calls += 1
        self.seen.extend(strings)
        return expected(strings).astype(np.float32)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "embeddings", segment_rows=8)


def names(count, start=0):
    return [f"s{number}" for number in range(start, start + count)]


def folder_of(cache):
    return next(path for path in cache.root.iterdir() if path.is_dir())


def segments_of(cache):
    return sorted(folder_of(cache).glob("*.segment"))


def check(lookup, values):
    np.testing.assert_array_equal(lookup.vectors[lookup.index], expected(values).astype(np.float32))


def test_each_distinct_string_is_encoded_exactly_once(cache):
    encoder = Encoder()
    values = names(30) + names(10) + ["s3"] * 5
    lookup = cache.vectors(IDENTITY, values, encoder, WIDTH)
    check(lookup, values)
    assert (lookup.hits, lookup.misses) == (0, 30)
    assert sorted(encoder.seen) == sorted(names(30))
    again = EmbeddingCache(cache.root).vectors(IDENTITY, names(40)[::-1], encoder, WIDTH)
    check(again, names(40)[::-1])
    assert (again.hits, again.misses) == (30, 10)
    assert sorted(encoder.seen) == sorted(names(40))


def test_a_second_run_encodes_and_writes_nothing(cache):
    cache.vectors(IDENTITY, names(20), Encoder(), WIDTH)
    before = {path: path.stat().st_mtime_ns for path in folder_of(cache).iterdir()}
    encoder = Encoder()
    lookup = cache.vectors(IDENTITY, names(20), encoder)
    assert encoder.calls == 0
    assert (lookup.hits, lookup.misses, lookup.reason) == (20, 0, "")
    assert {path: path.stat().st_mtime_ns for path in folder_of(cache).iterdir()} == before


def test_encoder_gets_at_most_a_segment_of_strings_of_like_length(cache):
    lengths = []

    def encode(strings):
        assert len(strings) <= 8
        lengths.append([len(string) for string in strings])
        return expected(strings).astype(np.float32)

    cache.vectors(IDENTITY, ["x" * (number % 20 + 1) + str(number) for number in range(32)], encode, WIDTH)
    assert len(lengths) == 4
    flat = [length for chunk in lengths for length in chunk]
    assert flat == sorted(flat, reverse=True)


@pytest.mark.parametrize(
    ("key", "value"), [("max_length", 9), ("version", 2), ("encoder", "other"), ("pooling", "cls")]
)
def test_a_changed_identity_misses(cache, key, value):
    cache.vectors(IDENTITY, names(3), Encoder(), WIDTH)
    encoder = Encoder()
    lookup = cache.vectors({**IDENTITY, key: value}, names(3), encoder, WIDTH)
    assert (lookup.hits, lookup.misses) == (0, 3)
    assert lookup.reason.startswith("identity new")
    assert len(encoder.seen) == 3


def test_a_changed_type_misses_and_is_kept(cache):
    cache.vectors(IDENTITY, names(3), Encoder(), WIDTH)
    lookup = cache.vectors(IDENTITY, names(3), Encoder(), WIDTH, dtype="float16")
    assert lookup.misses == 3
    assert lookup.vectors.dtype == np.float16


def test_the_log_says_hits_misses_and_why(cache, caplog):
    caplog.set_level(logging.INFO)
    cache.vectors(IDENTITY, names(3), Encoder(), WIDTH)
    cache.vectors(IDENTITY, names(5), Encoder(), WIDTH)
    cache.vectors(IDENTITY, names(5), Encoder(), WIDTH)
    cache.vectors({**IDENTITY, "max_length": 4}, names(1), Encoder(), WIDTH)
    lines = [record.getMessage() for record in caplog.records if "hits" in record.getMessage()]
    assert "0 hits, 3 misses (identity new)" in lines[0]
    assert "3 hits, 2 misses (strings new)" in lines[1]
    assert lines[2].endswith("5 hits, 0 misses")
    assert "other max_length than before" in lines[3]
    assert folder_of(cache).name[:12] in lines[0] + lines[3]


def test_manifest_names_the_identity(cache):
    cache.vectors(IDENTITY, names(1), Encoder(), WIDTH)
    manifest = json.loads((folder_of(cache) / "manifest.json").read_text())
    assert manifest["identity"] == IDENTITY
    assert (manifest["width"], manifest["dtype"]) == (WIDTH, "float32")
    assert {"created", "format"} <= manifest.keys()


def test_a_lost_manifest_loses_no_vectors(cache):
    cache.vectors(IDENTITY, names(20), Encoder(), WIDTH)
    (folder_of(cache) / "manifest.json").unlink()
    encoder = Encoder()
    check(cache.vectors(IDENTITY, names(21), encoder), names(21))
    assert encoder.seen == ["s20"]
    assert (folder_of(cache) / "manifest.json").is_file()


def test_no_strings_make_no_folder(cache):
    lookup = cache.vectors(IDENTITY, [], Encoder(), WIDTH)
    assert lookup.vectors.shape == (0, WIDTH)
    assert lookup.index.shape == (0,)
    assert not cache.root.exists()


def test_strings_of_any_kind_are_kept_apart(cache):
    values = ["", " ", "\0", "\0\0", "é", "e\u0301", "\ud800", "a" * 10_000]

    def encode(strings):
        return np.array([[values.index(string)] for string in strings], dtype=np.float32)

    lookup = cache.vectors(IDENTITY, values, encode, 1)
    np.testing.assert_array_equal(lookup.vectors[lookup.index][:, 0], np.arange(len(values)))


def test_bits_are_kept_as_they_are(cache):
    rows = np.arange(40, dtype=np.uint8).reshape(10, 4)
    lookup = cache.vectors(IDENTITY, names(8), lambda chunk: rows[[int(s[1:]) for s in chunk]], dtype="uint8")
    assert lookup.vectors.dtype == np.uint8
    np.testing.assert_array_equal(lookup.vectors[lookup.index], rows[:8])


@pytest.mark.parametrize("shape", [(2, WIDTH), (3, WIDTH + 1), (3,)])
def test_an_encoder_of_another_shape_is_refused(cache, shape):
    with pytest.raises(ValueError, match="shape"):
        cache.vectors(IDENTITY, names(3), lambda _: np.zeros(shape, dtype=np.float32), WIDTH)
    assert not list(folder_of(cache).glob("*.segment"))


def test_a_width_other_than_the_cached_one_is_refused(cache):
    cache.vectors(IDENTITY, names(3), Encoder(), WIDTH)
    with pytest.raises(ValueError, match="width"):
        cache.vectors(IDENTITY, names(3), Encoder(), WIDTH + 1)


@pytest.mark.parametrize(("bad", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e6, "float16")])
def test_numbers_that_are_not_finite_never_enter_the_cache(cache, bad, dtype):
    def encode(strings):
        vectors = expected(strings).astype(np.float32)
        vectors[strings.index("s1")] = bad
        return vectors

    with pytest.raises(UserError, match="'s1'"):
        cache.vectors(IDENTITY, names(3), encode, WIDTH, dtype=dtype)
    assert not list(folder_of(cache).glob("*.segment"))


# ------------------------------------------------------------------- damage

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from crystalfm.encoders.cache import EmbeddingCache
calls = 0
def encode(strings):
    global calls
    calls += 1
    if calls == 3 and sys.argv[2] == "encoding":
        os.kill(os.getpid(), signal.SIGKILL)
    return np.array([[float(s[1:])] for s in strings], dtype=np.float32)
if sys.argv[2] == "writing":
    fsync = os.fsync
    def killing(descriptor):
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
    os.fsync = killing
EmbeddingCache(Path(sys.argv[1]), segment_rows=8).vectors({"e": 1}, [f"s{i}" for i in range(40)], encode, 1)
"""


@pytest.mark.parametrize("moment", ["encoding", "writing"])
def test_a_killed_build_loses_at_most_one_segment(tmp_path, moment):
    root = tmp_path / "embeddings"
    process = subprocess.run([sys.executable, "-c", KILLED, str(root), moment], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    cache = EmbeddingCache(root, segment_rows=8)
    assert len(segments_of(cache)) == 2
    assert len(list(folder_of(cache).glob(".*.tmp"))) == (moment == "writing")
    seen = []

    def encode(strings):
        seen.extend(strings)
        return np.array([[float(s[1:])] for s in strings], dtype=np.float32)

    lookup = cache.vectors({"e": 1}, names(40), encode, 1)
    assert len(seen) == 24
    assert lookup.hits == 16
    np.testing.assert_array_equal(lookup.vectors[lookup.index][:, 0], np.arange(40))
    assert not list(folder_of(cache).glob(".*.tmp"))


def truncate(path):
    with path.open("rb+") as stream:
        stream.truncate(path.stat().st_size - 1)


def cut_to_header(path):
    with path.open("rb+") as stream:
        stream.truncate(10)


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_digest(path):
    data = bytearray(path.read_bytes())
    data[80] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def other_file(path):
    path.write_bytes(b"not a segment, but long enough to hold the header of one, whatever it says")


@pytest.mark.parametrize("damage", [truncate, cut_to_header, flip_last_byte, flip_digest, empty, other_file])
def test_a_damaged_segment_is_removed_and_made_again(cache, caplog, damage):
    cache.vectors(IDENTITY, names(24), Encoder(), WIDTH)
    victim = segments_of(cache)[1]
    damage(victim)
    encoder = Encoder()
    lookup = cache.vectors(IDENTITY, names(24), encoder, WIDTH)
    check(lookup, names(24))
    assert (lookup.hits, lookup.misses, lookup.reason) == (16, 8, "a segment is damaged")
    assert len(encoder.seen) == 8
    assert not victim.exists()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert victim.name in warnings[0]


def test_a_damaged_segment_that_is_not_needed_does_not_stop_a_reader(cache):
    cache.vectors(IDENTITY, names(8), Encoder(), WIDTH)
    (folder_of(cache) / "0-broken.segment").write_bytes(b"")
    encoder = Encoder()
    check(cache.vectors(IDENTITY, names(8), encoder, WIDTH), names(8))
    assert encoder.calls == 0


def test_a_cache_that_cannot_be_written_is_the_users_matter(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"paths\.cache"):
        EmbeddingCache(tmp_path / "file").vectors(IDENTITY, names(1), Encoder(), WIDTH)


def test_a_full_disk_is_the_users_matter(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_segment", full)
    with pytest.raises(UserError, match="No space left"):
        cache.vectors(IDENTITY, names(1), Encoder(), WIDTH)


# ------------------------------------------------------------- many processes

SHARING = """
import os, sys, time
from pathlib import Path
import numpy as np
from crystalfm.encoders.cache import EmbeddingCache
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def encode(strings):
    os.write(log, "".join(s + "\\n" for s in strings).encode())
    time.sleep(0.05)
    return np.array([[float(s[1:])] for s in strings], dtype=np.float32)
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
found = EmbeddingCache(Path(sys.argv[1]), segment_rows=8).vectors({"e": 1}, [f"s{i}" for i in range(40)], encode, 1)
assert (found.vectors[found.index][:, 0] == np.arange(40)).all()
"""


def test_processes_at_once_share_the_work(tmp_path):
    log, go = tmp_path / "log", tmp_path / "go"
    command = [sys.executable, "-c", SHARING, str(tmp_path / "embeddings"), str(log), str(go)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    time.sleep(1.0)
    go.touch()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert sorted(log.read_text().split()) == sorted(names(40))


def test_threads_at_once_share_the_work(cache):
    encoder = Encoder()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(cache.vectors, IDENTITY, names(40), encoder, WIDTH) for _ in range(4)]
    for call in calls:
        check(call.result(), names(40))
    assert sorted(encoder.seen) == sorted(names(40))


# ----------------------------------------------------------------- many segments


def test_many_small_segments_are_merged(cache):
    values = []
    for start in range(0, 40, 2):
        values += names(2, start)
        check(cache.vectors(IDENTITY, values, Encoder(), WIDTH), values)
    assert len(segments_of(cache)) < 16
    encoder = Encoder()
    check(cache.vectors(IDENTITY, names(40), encoder, WIDTH), names(40))
    assert encoder.calls == 0


def test_merging_keeps_to_the_largest_size_and_drops_repetitions(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_MERGED_ROWS", 50)
    cache.vectors(IDENTITY, names(128), Encoder(), WIDTH)
    assert len(segments_of(cache)) == 3
    copy = segments_of(cache)[0]
    (folder_of(cache) / "9-copy.segment").write_bytes(copy.read_bytes())
    monkeypatch.setattr(cache_module, "_MERGED_ROWS", 1000)
    monkeypatch.setattr(cache_module, "_MERGE_AT", 2)
    lookup = cache.vectors(IDENTITY, names(129), Encoder(), WIDTH)
    assert lookup.vectors.shape == (129, WIDTH)
    check(lookup, names(129))


def test_who_reads_merged_segments_is_not_disturbed(cache, monkeypatch):
    reader = cache.vectors(IDENTITY, names(32), Encoder(), WIDTH)
    rebuild, arguments = reader.vectors.__reduce__()  # as for a worker process
    monkeypatch.setattr(cache_module, "_MERGE_AT", 2)
    cache.vectors(IDENTITY, names(33), Encoder(), WIDTH)
    assert len(segments_of(cache)) == 1
    check(reader, names(32))
    np.testing.assert_array_equal(rebuild(*arguments)[reader.index], reader.vectors[reader.index])


def test_retired_segments_go_after_their_time(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_MERGE_AT", 2)
    cache.vectors(IDENTITY, names(32), Encoder(), WIDTH)
    retired = list(folder_of(cache).glob("*.retired"))
    assert len(retired) == 4
    monkeypatch.setattr(cache_module, "_RETIRED_SECONDS", -1)
    cache.vectors(IDENTITY, names(40), Encoder(), WIDTH)
    assert not any(path.exists() for path in retired)


# --------------------------------------------------------------------- gathering


def test_rows_of_several_segments_are_gathered_in_order(cache):
    lookup = cache.vectors(IDENTITY, names(30), Encoder(), WIDTH)
    rows = np.random.default_rng(0).integers(0, 30, 200)
    np.testing.assert_array_equal(
        lookup.vectors[lookup.index[rows]], expected([f"s{row}" for row in rows]).astype(np.float32)
    )
    assert len(lookup.vectors) == 30
    assert lookup.vectors[np.empty(0, dtype=np.int64)].shape == (0, WIDTH)


@pytest.mark.parametrize("rows", [[-1], [30], [0, 99]])
def test_rows_that_do_not_exist_are_refused(cache, rows):
    lookup = cache.vectors(IDENTITY, names(30), Encoder(), WIDTH)
    with pytest.raises(IndexError):
        lookup.vectors[np.array(rows)]


def test_gathered_rows_are_copies(cache):
    lookup = cache.vectors(IDENTITY, names(3), Encoder(), WIDTH)
    lookup.vectors[lookup.index][:] = 0
    check(lookup, names(3))


def test_progress_is_reported_by_segment(cache):
    steps = []
    cache.vectors(IDENTITY, names(20), Encoder(), WIDTH, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(8, 20), (16, 20), (20, 20)]


def test_a_file_cut_off_in_use_is_an_error_and_no_noise(cache):
    lookup = cache.vectors(IDENTITY, names(3), Encoder(), WIDTH)
    truncate(segments_of(cache)[0])
    with pytest.raises(SegmentError, match="cut off"):
        lookup.vectors[lookup.index]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's list of open files")
def test_files_are_closed_with_the_rows(cache):
    gc.collect()  # what earlier tests left open
    before = open_files()
    lookup = cache.vectors(IDENTITY, names(30), Encoder(), WIDTH)
    assert open_files() == before + 4
    del lookup
    gc.collect()
    assert open_files() == before
