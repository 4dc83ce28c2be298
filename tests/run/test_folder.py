"""Finding runs and checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crystalfm.contracts import UserError
from crystalfm.run.folder import RunFolder, find_checkpoint, folders_with, newest_resumable, run_folder_of


def make_run(root: Path, *names: str) -> RunFolder:
    folder = RunFolder(root).create()
    folder.config.write_text("seed: 1\n")
    for name in names:
        (folder.checkpoints / name).write_bytes(b"x")
    return folder


def test_best_is_preferred_for_evaluation_and_last_for_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "best.ckpt", "last.ckpt")
    assert find_checkpoint(run.root) == run.best
    assert find_checkpoint(run.root, prefer="last.ckpt") == run.last
    assert find_checkpoint(run.last) == run.last
    assert find_checkpoint(run.checkpoints) == run.best


def test_the_other_one_serves_where_only_it_exists(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "last.ckpt")
    assert find_checkpoint(run.root) == run.last


def test_a_missing_place_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


def test_the_folder_above_runs_suggests_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "qm9" / "first", "best.ckpt")
    with pytest.raises(UserError, match=f"did you mean {run.root}"):
        find_checkpoint(tmp_path / "qm9")


def test_auto_takes_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    old = make_run(tmp_path / "mine" / "old", "last.ckpt")
    new = make_run(tmp_path / "mine" / "new", "last.ckpt")
    make_run(tmp_path / "mine" / "empty")
    make_run(tmp_path / "other" / "newest", "last.ckpt")
    os.utime(old.last, (1, 1))
    os.utime(new.last, (2, 2))
    assert newest_resumable(tmp_path, "mine") == new
    assert newest_resumable(tmp_path, "absent") is None


def test_a_checkpoint_knows_its_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "best.ckpt")
    assert run_folder_of(run.best) == RunFolder(run.root.resolve())
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(b"x")
    assert run_folder_of(alone) is None


def test_a_folder_itself_or_those_in_it(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/deeper"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b", "a", "deep/deeper"):
        (tmp_path / name / "x.json").touch()
    (tmp_path / "file").touch()
    assert folders_with(str(tmp_path), "x.json", "") == [tmp_path / "a", tmp_path / "b"]
    assert folders_with(str(tmp_path / "b"), "x.json", "") == [tmp_path / "b"]
    assert folders_with(str(tmp_path), "other.json", "") == []
    with pytest.raises(UserError, match="no such folder") as found:
        folders_with(str(tmp_path / "none"), "x.json", "give runs")
    assert found.value.remedy == "give runs"
