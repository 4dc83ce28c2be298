"""Which run of Weights & Biases a run folder belongs to, and whether it is online."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from crystalfm.contracts import UserError
from crystalfm.io.files import write_json

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalfm.run.folder import RunFolder

Mode = Literal["online", "offline", "disabled"]

IDENTITY_FILE = "wandb_run.json"
"""File of the run folder that says which W&B run it belongs to."""

_MODES: dict[str, Mode] = {"online": "online", "offline": "offline", "disabled": "disabled"}
_DEFAULT_HOST = "https://api.wandb.ai"
_ID_BYTES = 4


@dataclass(frozen=True)
class WandbIdentity:
    """Which W&B run a run folder belongs to.

    Attributes:
        id: the run's id, unique in its project.
        project: project.
        entity: user or team; ``None`` for the account's default.
        group: runs shown together: the jobs of a multirun.
    """

    id: str
    project: str
    entity: str | None
    group: str | None

    @classmethod
    def of(cls, cfg: DictConfig, folder: RunFolder, beside: WandbIdentity | None = None) -> WandbIdentity:
        """Return the identity in the run folder; a new one, written there, when it has none.

        Args:
            cfg: configuration.
            folder: run folder.
            beside: run whose project, team and group a new one shares.
        """
        found = cls.read(folder.root)
        if found is not None:
            return found
        group = _group(folder)
        # The agent of a W&B sweep names the run; jobs of a multirun would all get the same name.
        given = os.environ.get("WANDB_RUN_ID") if group is None else None
        settings = cfg.logger
        identity = cls(
            id=given or secrets.token_hex(_ID_BYTES),
            project=settings.wandb_project if beside is None else beside.project,
            entity=settings.wandb_entity if beside is None else beside.entity,
            group=settings.wandb_group or (None if beside is None else beside.group) or group,
        )
        write_json(folder.root / IDENTITY_FILE, asdict(identity))
        return identity

    @classmethod
    def read(cls, root: Path) -> WandbIdentity | None:
        """Return the identity that a folder holds."""
        path = root / IDENTITY_FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _group(folder: RunFolder) -> str | None:
    """Return a name for the ensemble or multirun that the run folder is a part of, ``None`` for a single run."""
    if folder.is_member:
        root = folder.root.resolve()
        return f"ensemble_{root.parents[2].name}_{root.parents[1].name}"
    if not HydraConfig.initialized():
        return None
    hydra_cfg: Any = HydraConfig.get()
    output = OmegaConf.select(hydra_cfg, "runtime.output_dir")
    if hydra_cfg.mode != RunMode.MULTIRUN or output is None or Path(output).resolve() != folder.root.resolve():
        return None
    return f"multirun_{folder.root.resolve().parent.name}"


def has_credentials() -> bool:
    """Say whether W&B could log in without asking: by an environment variable or the file of ``wandb login``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _DEFAULT_HOST)).netloc
    named = os.environ.get("NETRC")
    candidates = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for path in candidates:
        try:
            entry = netrc.netrc(path).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry is not None and entry[2]:
            return True
    return False


def resolve_mode(cfg: DictConfig) -> Mode:
    """Return the mode; ``auto`` is ``WANDB_MODE`` where set, else online with an API key and offline without.

    Raises:
        UserError: online was asked for, without a key or in spite of ``paths.offline``.
    """
    asked = str(cfg.logger.wandb_mode)
    if asked == "auto":
        fitting = "online" if has_credentials() and not cfg.paths.offline else "offline"
        asked = _MODES.get(os.environ.get("WANDB_MODE", ""), fitting)
    if asked == "online" and cfg.paths.offline:
        raise UserError("W&B cannot be online: paths.offline is true", remedy="use logger.wandb_mode=offline")
    if asked == "online" and not has_credentials():
        raise UserError(
            "W&B has no API key for online mode",
            remedy="run wandb login, set WANDB_API_KEY, or use logger.wandb_mode=offline",
        )
    return _MODES[asked]
