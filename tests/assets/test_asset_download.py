"""Downloads against a faulty server: cut bodies, errors that pass, wrong sums, servers that cannot resume."""

from __future__ import annotations

import hashlib

import pytest

from crystalfm.assets.download import Retries, download
from crystalfm.assets.errors import ChecksumError, PlaceFailedError
from crystalfm.assets.progress import NoProgress

FAST = Retries(attempts=3, delay_seconds=0.01)


class Recorder:
    """A progress sink that counts."""

    def __init__(self):
        self.totals = []
        self.seen = []

    def start(self, label, total_bytes):
        self.totals.append(total_bytes)
        self.seen.append(0)

    def advance(self, num_bytes):
        self.seen[-1] += num_bytes

    def finish(self):
        self.totals.append("finish")


@pytest.fixture
def get(server, content, tmp_path):
    server.files["/data.bin"] = content
    digest = hashlib.sha256(content).hexdigest()

    def call(*, size=1 << 20, sha256=digest, retries=FAST, progress=None, name="data.bin"):
        return download(
            f"{server.base}{name}",
            tmp_path / name,
            size=size,
            sha256=sha256,
            progress=progress or NoProgress(),
            retries=retries,
        )

    return call


def leftovers(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_whole_file(get, content, tmp_path):
    progress = Recorder()
    record = get(progress=progress)
    assert (tmp_path / "data.bin").read_bytes() == content
    assert record.size == len(content)
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert progress.totals == [len(content), "finish"]
    assert progress.seen == [len(content)]
    assert leftovers(tmp_path) == ["data.bin"]


def test_truncated_body_is_resumed_within_one_call(get, server, content, tmp_path):
    server.truncate_at = [300_000]
    progress = Recorder()
    get(progress=progress)
    assert (tmp_path / "data.bin").read_bytes() == content
    assert server.requests == [("/data.bin", None), ("/data.bin", "bytes=294912-")]  # whole chunks are kept
    assert progress.seen[-1] == len(content)


def test_truncated_body_fails_when_tries_run_out_and_the_next_call_resumes(get, server, content, tmp_path):
    server.truncate_at = [300_000, 100_000, 0, 0]
    with pytest.raises(PlaceFailedError, match="tried 2 times"):
        get(retries=Retries(2, 0.01))
    assert leftovers(tmp_path) == ["data.bin.etag", "data.bin.part"]
    get()
    assert server.requests[-1] == ("/data.bin", "bytes=393216-")
    assert (tmp_path / "data.bin").read_bytes() == content


def test_server_that_cannot_resume_sends_everything_again(get, server, content, tmp_path):
    server.ranges = False
    server.truncate_at = [300_000]
    get()
    assert (tmp_path / "data.bin").read_bytes() == content


def test_file_that_changed_in_between_is_not_mixed(get, server, content, tmp_path):
    server.truncate_at = [300_000, 0]
    with pytest.raises(PlaceFailedError):
        get(size=None, sha256=None, retries=Retries(1, 0.0))
    server.files["/data.bin"] = content[::-1]
    get(size=None, sha256=None)
    assert (tmp_path / "data.bin").read_bytes() == content[::-1]


def test_unpinned_file_without_the_servers_mark_starts_again(get, server, content, tmp_path):
    server.etag = False
    server.truncate_at = [300_000]
    get(size=None, sha256=None)
    assert [span for _, span in server.requests] == [None, None]
    assert (tmp_path / "data.bin").read_bytes() == content


def test_part_larger_than_the_file_is_dropped(get, content, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(content + b"more")
    get()
    assert (tmp_path / "data.bin").read_bytes() == content


def test_complete_part_needs_no_request(get, server, content, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(content)
    get()
    assert server.requests == []
    assert (tmp_path / "data.bin").read_bytes() == content


def test_range_beyond_the_end_starts_again(get, server, content, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(content)
    get(size=None)  # the size is unknown, so the server is asked for what would follow
    assert [span for _, span in server.requests] == [f"bytes={len(content)}-", None]
    assert (tmp_path / "data.bin").read_bytes() == content


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_are_retried(get, server, content, tmp_path, status):
    server.statuses = [status, status]
    get()
    assert len(server.requests) == 3
    assert (tmp_path / "data.bin").read_bytes() == content


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_lasting_errors_are_not_retried(get, server, status):
    server.statuses = [status]
    with pytest.raises(PlaceFailedError, match=f"HTTP {status}"):
        get()
    assert len(server.requests) == 1


def test_no_server(tmp_path):
    with pytest.raises(PlaceFailedError, match=r"Error: .*refused.*tried 2 times"):
        download(
            "http://127.0.0.1:9/data.bin",
            tmp_path / "data.bin",
            size=None,
            sha256=None,
            progress=NoProgress(),
            retries=Retries(2, 0.01),
        )


def test_wrong_checksum_names_both_and_removes_the_file(get, content, tmp_path):
    wrong = "0" * 64
    with pytest.raises(ChecksumError) as caught:
        get(sha256=wrong)
    assert wrong in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert leftovers(tmp_path) == []


def test_announced_size_differs(get, tmp_path):
    with pytest.raises(PlaceFailedError, match="5 expected"):
        get(size=5)
    assert leftovers(tmp_path) == []


def test_finished_file_of_an_earlier_run_is_proved_before_it_is_used(get, server, content, tmp_path):
    (tmp_path / "data.bin").write_bytes(content)
    get()
    assert server.requests == []
    (tmp_path / "data.bin").write_bytes(content[:-1] + b"!")
    get()
    assert len(server.requests) == 1
    assert (tmp_path / "data.bin").read_bytes() == content
