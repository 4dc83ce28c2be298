"""The command ``python -m crystalfm.fetch``: verbs, exit codes, and what it must not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from crystalfm.assets import cli
from crystalfm.assets.registry import ASSETS


@pytest.fixture
def registry(monkeypatch, url_asset):
    assets = {"tiny": url_asset}
    real = cli.AssetStore
    monkeypatch.setattr(cli, "ASSETS", assets)
    monkeypatch.setattr(cli, "AssetStore", lambda *args: real(*args, assets=assets))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("CRYSTALFM_MIRROR", raising=False)


def test_names_alone_mean_fetch(registry, tmp_path, capsys):
    assert cli.main(["tiny", "--cache", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "tiny ready" in out
    assert "licence: CC0" in out
    assert list(tmp_path.glob("assets/tiny/*/data.bin"))


@pytest.mark.parametrize(
    "words",
    [["--cache", "{}", "tiny"], ["fetch", "tiny", "--cache", "{}"], ["--cache", "{}", "fetch", "tiny"]],
)
def test_options_before_and_after(registry, tmp_path, words):
    assert cli.main([word.format(tmp_path) for word in words]) == 0
    assert list(tmp_path.glob("assets/tiny/*/data.bin"))


def test_list(registry, tmp_path, capsys):
    cache = ["--cache", str(tmp_path)]
    assert cli.main(["list", *cache]) == 0
    assert "cache " not in capsys.readouterr().out.split("at hand")[1].split("tiny")[1].splitlines()[0]
    cli.main(["tiny", *cache])
    capsys.readouterr()
    assert cli.main(cache) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "tiny" in line)
    for word in ("data", "1.0 MB", "cache", "address", "CC0"):
        assert word in row


def test_verify_and_refresh(registry, tmp_path, capsys, content):
    cache = ["--cache", str(tmp_path)]
    cli.main(["tiny", *cache])
    assert cli.main(["verify", *cache]) == 0
    (path,) = tmp_path.glob("assets/tiny/*/data.bin")
    path.chmod(0o644)
    path.write_bytes(content[:-1] + b"!")
    assert cli.main(["verify", "tiny", *cache]) == 1
    assert "fetch --refresh tiny" in capsys.readouterr().err
    assert cli.main(["fetch", "--refresh", "tiny", *cache]) == 0
    assert cli.main(["verify", *cache]) == 0


def test_user_errors_end_with_2_and_no_traceback(registry, tmp_path, capsys, server):
    cache = ["--cache", str(tmp_path)]
    assert cli.main(["tinny", *cache]) == 2
    assert cli.main(["verify", "tiny", *cache]) == 2
    assert cli.main(["tiny", "--offline", *cache]) == 2
    assert cli.main(["tiny", "--mirror", str(tmp_path / "no"), *cache]) == 2
    assert cli.main(["fetch", *cache]) == 2
    assert cli.main(["tiny", "--bogus"]) == 2
    streams = capsys.readouterr()
    assert "did you mean 'tiny'" in streams.err
    assert "Traceback" not in streams.out + streams.err
    assert server.requests == []


def test_a_wrong_name_stops_before_the_first_download(registry, tmp_path, server):
    assert cli.main(["tiny", "absent", "--cache", str(tmp_path)]) == 2
    assert server.requests == []


def test_interrupt(registry, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("crystalfm.assets.store.AssetStore.fetch", interrupt)
    assert cli.main(["tiny", "--cache", str(tmp_path)]) == 130
    assert "resumes" in capsys.readouterr().err


def test_help_ends_with_0(capsys):
    assert cli.main(["--help"]) == 0
    assert "fetch" in capsys.readouterr().out


def test_defaults_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CRYSTALFM_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("CRYSTALFM_MIRROR", str(tmp_path / "m"))
    assert cli.default_cache() == tmp_path / "c"
    assert cli.default_mirror() == tmp_path / "m"
    monkeypatch.delenv("CRYSTALFM_CACHE")
    monkeypatch.delenv("CRYSTALFM_MIRROR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.default_cache() == tmp_path / ".cache/crystalfm"
    assert cli.default_mirror() is None


def test_module_lists_the_real_registry_and_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys\n"
        "from crystalfm.fetch import main\n"
        "code = main(['list'])\n"
        "heavy = {'torch', 'requests', 'huggingface_hub', 'pandas', 'rdkit', 'numpy'} & set(sys.modules)\n"
        "sys.stderr.write(json.dumps([code, sorted(heavy)]))\n"
    )
    environment = {**os.environ, "CRYSTALFM_CACHE": str(tmp_path), "COLUMNS": "200"}
    environment.pop("CRYSTALFM_MIRROR", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert json.loads(done.stderr) == [0, []]
    for name in ASSETS:
        assert name in done.stdout
    assert "HF_TOKEN" in done.stdout


def test_module_runs_as_a_command(tmp_path):
    command = [sys.executable, "-m", "crystalfm.fetch", "nonsense", "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown asset 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_tells_source_archives_from_wheels(capsys, tmp_path):
    assert cli.main(["list", "--cache", str(tmp_path)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert " sdist " in rows["jarvis_sample"]
    assert " wheel " in rows["qm9"]
