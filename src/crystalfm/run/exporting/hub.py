"""Exported folders in the Hugging Face hub: pushed there, and fetched from there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from crystalfm.contracts import UserError
from crystalfm.io.checkpoints import HUB_SCHEME, WRITER_FILE
from crystalfm.run.exporting.folder import is_exported_predictor, read_exported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


def local_folder(location: str | Path, *, offline: bool = False) -> str:
    """Return where a model lies here, after fetching it where ``location`` is ``hf://owner/name[@revision]``.

    Args:
        location: path, or address of a repository in the hub.
        offline: take what was fetched before, and never use the network.

    Raises:
        UserError: the repository cannot be fetched.
    """
    text = str(location)
    if not text.startswith(HUB_SCHEME):
        return text
    from huggingface_hub import snapshot_download

    repo, _, revision = text.removeprefix(HUB_SCHEME).partition("@")
    with _told(
        f"{text} cannot be fetched", "see that the repository exists and is yours to read, and that there is a network"
    ):
        return str(snapshot_download(repo, revision=revision or None, local_files_only=offline))


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload an exported folder, in one commit, to a repository that is made where it is not there.

    Args:
        folder: folder of ``crystalfm export``, of a predictor or a generator.
        repo: ``owner/name``.
        private: make a private repository; one that is there already must be private then.

    Returns:
        address of the repository.

    Raises:
        UserError: the folder is no export or is damaged, there is no login, or the hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    _require_export(folder)
    token = get_token()
    if token is None:
        raise UserError("there is no login to the Hugging Face hub", remedy=_LOGIN)
    api = HfApi(token=token)
    with _told(f"{repo} cannot be written", f"see that the name is owner/name and yours to write; {_LOGIN}"):
        address = str(api.create_repo(repo, private=private, exist_ok=True, repo_type="model"))
        if private and not api.model_info(repo).private:
            raise UserError(
                f"{repo} is there already and is public, and private=true was asked for",
                remedy="make it private in its settings, name another repository, or private=false",
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"crystalfm export of {folder.name}")
    return address


@contextmanager
def _told(what: str, remedy: str) -> Iterator[None]:
    """Turn what the hub and the way to it can say into an error of the user's."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are the errors of the library that makes the requests, which is not the same one in all versions.
    of_requests = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    told: tuple[type[Exception], ...] = (OSError, ValueError, *of_requests)
    try:
        yield
    except told as error:
        raise UserError(f"{what}: {error}", remedy=remedy) from error


def _require_export(folder: Path) -> None:
    """Refuse what is no exported folder, and one that has changed since it was written."""
    if is_exported_predictor(folder):
        read_exported(folder)
    elif not (folder / WRITER_FILE).is_file():
        raise UserError(
            f"{folder} is no folder of crystalfm export", remedy="crystalfm export RUN out=FOLDER, then push FOLDER"
        )
