"""Exported folders pushed to a hub, which is a stand-in here, and fetched from it."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

import crystalfm
from crystalfm.cli.main import main
from crystalfm.contracts import UserError
from crystalfm.io.files import sha256_file
from crystalfm.run.exporting.hub import local_folder, push


class Hub:
    """Stands in for ``HfApi``: keeps what it is asked for."""

    def __init__(self, *, public: bool = False, refusal: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.token: str | None = None
        self._public = public
        self._refusal = refusal

    def __call__(self, *, token: str) -> Hub:
        self.token = token
        return self

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self._refusal is not None:
            raise self._refusal
        self.calls.append(("create", {"repo_id": repo_id, **options}))
        return f"https://hub.example/{repo_id}"

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(id=repo_id, private=not self._public)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload", {"repo_id": repo_id, "names": names, "message": commit_message}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return in_place(monkeypatch, Hub())


def in_place(monkeypatch: pytest.MonkeyPatch, hub: Any, token: str | None = "secret") -> Any:  # noqa: S107
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    return hub


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    """What ``push`` looks at in the folder of a generator."""
    folder = tmp_path / "writer"
    folder.mkdir()
    (folder / "crystalfm.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def predictor(tmp_path: Path) -> Path:
    """The folder of a predictor that predicts a mean."""
    folder = tmp_path / "gaps"
    folder.mkdir()
    (folder / "reference.json").write_text("{}")
    content = {
        "crystalfm_export": 1,
        "schema_version": 1,
        "kind": "classical",
        "config": {"model": {"name": "mean"}},
        "modalities": [],
        "targets": [{"name": "gap", "unit": "eV"}],
        "encoders": {},
        "scaling": None,
        "architecture": None,
        "intervals": None,
        "data": {},
        "members": [{"state": {"mean": [1.0]}, "files": {}}],
        "files": {"reference.json": sha256_file(folder / "reference.json")},
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_a_folder_is_uploaded_in_one_commit(hub: Hub, predictor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(predictor), "repo=me/gaps", "private=true"]) == 0
    assert hub.token == "secret"
    create, upload = hub.calls
    assert create == ("create", {"repo_id": "me/gaps", "private": True, "exist_ok": True, "repo_type": "model"})
    assert upload[1]["names"] == ["config.json", "reference.json"]
    assert "gaps" in upload[1]["message"]
    assert "https://hub.example/me/gaps" in capsys.readouterr().out


def test_generators_are_uploaded_too(hub: Hub, generator: Path) -> None:
    assert push(generator, "me/writer") == "https://hub.example/me/writer"
    assert [name for name, _ in hub.calls] == ["create", "upload"]
    assert hub.calls[0][1]["private"] is False


def test_nothing_is_uploaded_to_a_public_repository_that_was_to_be_private(
    monkeypatch: pytest.MonkeyPatch, generator: Path
) -> None:
    hub = in_place(monkeypatch, Hub(public=True))
    with pytest.raises(UserError, match="is public"):
        push(generator, "me/writer", private=True)
    assert [name for name, _ in hub.calls] == ["create"]


def test_a_login_is_needed(monkeypatch: pytest.MonkeyPatch, generator: Path) -> None:
    hub = in_place(monkeypatch, Hub(), token=None)
    with pytest.raises(UserError, match="no login") as caught:
        push(generator, "me/writer")
    assert "hf auth login" in str(caught.value)
    assert hub.calls == []


@pytest.mark.parametrize(
    "refusal",
    [
        HFValidationError("Repo id must be in the form owner/name"),
        ConnectionError("no way"),
        HfHubHTTPError.__bases__[0]("502 Bad Gateway"),
    ],
    ids=["name", "network", "hub"],
)
def test_what_the_hub_says_is_told(monkeypatch: pytest.MonkeyPatch, generator: Path, refusal: Exception) -> None:
    in_place(monkeypatch, Hub(refusal=refusal))
    with pytest.raises(UserError, match=rf"me/writer cannot be written: {refusal}"):
        push(generator, "me/writer")


def test_what_is_no_export_or_is_damaged_is_not_uploaded(hub: Hub, predictor: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="no folder of crystalfm export"):
        push(tmp_path / "other", "me/other")
    (predictor / "reference.json").write_text('{"changed": 1}')
    with pytest.raises(UserError, match="is not the file that was exported"):
        push(predictor, "me/gaps")
    assert hub.calls == []


@pytest.mark.parametrize("words", [["gaps"], ["gaps", "repo=a/b", "privat=true"], ["gaps", "repo=a/b", "private=1"]])
def test_arguments_that_are_not_understood(hub: Hub, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", *words]) == 2
    assert "crystalfm push FOLDER repo=OWNER/NAME" in capsys.readouterr().err
    assert hub.calls == []
    assert main(["push", "--help"]) == 0


@contextmanager
def served(answers: dict[str, Any]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serve fixed answers by path on this machine; yield the address and the bodies that came in."""
    bodies: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            bodies[path] = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = answers.get(path)
            content = json.dumps(found(bodies[path]) if callable(found) else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *given: Any) -> None:
            del given

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _every_file_in_the_commit(body: bytes) -> dict[str, Any]:
    paths = [item["path"] for item in json.loads(body)["files"]]
    return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}


def test_the_hubs_own_client_sends_the_files(monkeypatch: pytest.MonkeyPatch, generator: Path) -> None:
    """Its requests to a server that answers as the hub documents, files small enough to travel in the commit."""
    model = "/api/models/me/writer"
    answers = {
        "/api/repos/create": {"url": "https://huggingface.co/me/writer", "name": "me/writer"},
        model: {"id": "me/writer", "private": True, "sha": "0" * 40},
        f"{model}/preupload/main": _every_file_in_the_commit,
        f"{model}/commit/main": {
            "success": True,
            "commitOid": "1" * 40,
            "commitUrl": "https://huggingface.co/me/writer/commit/1111",
        },
        "/api/validate-yaml": {"errors": [], "warnings": []},
    }
    client = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # tests have no network but this machine
    with served(answers) as (address, bodies):
        in_place(monkeypatch, functools.partial(client, endpoint=address), token="hf_nothing")
        assert push(generator, "me/writer", private=True).endswith("/me/writer")
    created = json.loads(bodies["/api/repos/create"])
    assert (created["name"], created["organization"]) == ("writer", "me")
    assert created.get("private", created.get("visibility") == "private")
    lines = [json.loads(line) for line in bodies[f"{model}/commit/main"].splitlines()]
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    assert sent == {path.name: path.read_bytes() for path in generator.iterdir()}


def test_addresses_in_the_hub_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def fetch(repo: str, **options: Any) -> str:
        asked.append((repo, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert local_folder("hf://me/gaps@v1", offline=True) == str(tmp_path)
    assert local_folder("hf://me/gaps") == str(tmp_path)
    options = [{"revision": "v1", "local_files_only": True}, {"revision": None, "local_files_only": False}]
    assert asked == [("me/gaps", one) for one in options]
    assert local_folder(tmp_path / "run") == str(tmp_path / "run")
    with pytest.raises(UserError, match="holds no checkpoint"):
        crystalfm.load("hf://me/gaps")


@pytest.mark.parametrize("program", ["evaluate", "predict"])
def test_commands_take_an_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fetched").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(tmp_path / "fetched"))
    words = {"evaluate": ["paths.runs=runs"], "predict": ["input=CCO"]}[program]
    assert main([program, "ckpt=hf://me/gaps@v1", *words]) == 2
    assert f"{tmp_path / 'fetched'}: the folder holds no checkpoint" in capsys.readouterr().err


def test_an_address_that_cannot_be_fetched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(repo: str, **options: Any) -> str:
        raise FileNotFoundError(f"no snapshot of {repo}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(UserError, match="hf://me/gaps cannot be fetched: no snapshot of me/gaps"):
        crystalfm.load("hf://me/gaps", offline=True)
