"""Where the configuration files lie: inside the installed package, or in the repository of an editable install."""

from __future__ import annotations

from pathlib import Path

from crystalfm.contracts import UserError

_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """Return the folder of the shipped configuration, whatever the current folder is.

    Raises:
        UserError: the installation lacks it.
    """
    candidates = (_PACKAGE_FOLDER / "conf", _PACKAGE_FOLDER.parents[1] / "conf")
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(
        f"the configuration files are missing: no train.yaml in {' or '.join(map(str, candidates))}",
        remedy="install the package again (pip install --force-reinstall crystalfm)",
    )


def user_conf_folders(config_dir: str | Path | None = None) -> list[Path]:
    """Return the user's own configuration folders, searched after the shipped one.

    A folder ``conf`` in the current folder counts, so that an installed crystalfm finds ``conf/experiment/mine.yaml``.

    Args:
        config_dir: folder of ``--config-dir``.

    Raises:
        UserError: ``config_dir`` is not a folder.
    """
    folders: list[Path] = []
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(
                f"--config-dir {config_dir}: no such folder", remedy="it holds groups, such as experiment/mine.yaml"
            )
        folders.append(folder)
    local = Path.cwd() / "conf"
    if local.is_dir() and local.resolve() not in {conf_folder().resolve(), *folders}:
        folders.append(local.resolve())
    return folders
