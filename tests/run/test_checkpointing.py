"""Checkpoints are whole or absent, and hold nothing that could run code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from crystalfm.contracts import UserError
from crystalfm.run.checkpoints.checkpointing import (
    PAYLOAD_KEY,
    SCHEMA_VERSION,
    AtomicCheckpointIO,
    read_checkpoint,
    require_plain,
)

KILLED = """
import os, signal, sys, torch
from crystalfm.run.checkpoints import checkpointing
real = torch.save
def cut_short(value, stream):
    real(value, stream)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = cut_short
writer = checkpointing.AtomicCheckpointIO({"schema_version": 1})
writer.save_checkpoint({"state_dict": {"w": torch.ones(9)}}, sys.argv[1])
"""


def writer() -> AtomicCheckpointIO:
    return AtomicCheckpointIO({"schema_version": SCHEMA_VERSION})


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    writer().save_checkpoint({"state_dict": {"w": torch.arange(3)}, "loops": [1, None, "x", (2.0,)]}, path)
    loaded = read_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(3))
    assert loaded[PAYLOAD_KEY] == {"schema_version": SCHEMA_VERSION}


def test_the_temporary_file_lies_beside_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(torch, "save", lambda *_: seen.append([path.name for path in tmp_path.iterdir()]))
    writer().save_checkpoint({}, tmp_path / "a.ckpt")
    assert len(seen[0]) == 1
    assert seen[0][0].startswith(".a.ckpt.")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_killed_writer_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    writer().save_checkpoint({"step": 1}, path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert read_checkpoint(path)["step"] == 1


@pytest.mark.parametrize(
    "bad", [{"path": Path("a")}, {"module": torch.nn.Linear(1, 1)}, {"a": [{"b": object()}]}, {(1, 2): 3}]
)
def test_what_is_not_plain_is_refused_before_anything_is_written(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(TypeError, match="checkpoint"):
        writer().save_checkpoint(bad, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_the_message_names_the_place() -> None:
    with pytest.raises(TypeError, match=r"checkpoint\['a'\]\[1\] holds a PosixPath"):
        require_plain({"a": [1, Path("x")]})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_damaged_file_is_the_users_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.ckpt cannot be read"):
        read_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (time.sleep, (30,))

    path = tmp_path / "bomb.ckpt"
    torch.save({PAYLOAD_KEY: Bomb()}, path)
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)
    assert time.monotonic() - started < 10


def test_other_files_and_other_schemas_are_told_apart(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="not a crystalfm checkpoint"):
        read_checkpoint(tmp_path / "foreign.ckpt")
    torch.save({PAYLOAD_KEY: {"schema_version": 99}}, tmp_path / "newer.ckpt")
    with pytest.raises(UserError, match="schema 99"):
        read_checkpoint(tmp_path / "newer.ckpt")
