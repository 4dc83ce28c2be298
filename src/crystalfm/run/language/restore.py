"""A trained language model, ready to write crystals, from the checkpoint alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalfm.contracts import UserError
from crystalfm.encoders.pretrained import quiet
from crystalfm.generation.wording import prompts_from_state
from crystalfm.generation.writer import CrystalWriter
from crystalfm.io.checkpoints import WRITER_FILE
from crystalfm.run.checkpoints.payload import LANGUAGE, SavedModel, read_model
from crystalfm.run.exporting.folder import is_exported_predictor
from crystalfm.run.folder import find_checkpoint, find_checkpoints

if TYPE_CHECKING:
    from crystalfm.assets.store import AssetStore

_PREFIX = "network.model."


def restore_writer(location: Path | str, store: AssetStore) -> CrystalWriter:
    """Rebuild the language model of a run, a checkpoint file or an exported folder; on the CPU, in evaluation mode.

    Args:
        location: run folder, checkpoint file, or folder of ``crystalfm export``.
        store: where the frozen weights of a base model come from.

    Raises:
        UserError: there is no such checkpoint, or it is none of a language model.
    """
    folder = Path(location).expanduser()
    if (folder / WRITER_FILE).is_file():
        return _exported(folder)
    return writer_of(read_model(find_checkpoint(location)), store)


def language_checkpoint(location: Path | str) -> SavedModel | None:
    """Return the checkpoint of a run where it is a language model's, ``None`` where it or an export is a predictor's.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    if is_exported_predictor(location):
        return None
    saved = read_model(find_checkpoints(location)[0])
    return saved if saved.kind == LANGUAGE else None


def writer_of(saved: SavedModel, store: AssetStore) -> CrystalWriter:
    """Rebuild the language model of a checkpoint that has been read.

    Raises:
        UserError: it is a predictor's.
    """
    from crystalfm.models.language.build import restore_language_model

    if saved.kind != LANGUAGE or saved.architecture is None:
        name = saved.config.get("model", {}).get("name", saved.kind)
        raise UserError(
            f"{saved.path} is a checkpoint of '{name}', which predicts properties and writes no crystals",
            remedy="give a run of model=crystal_llm",
        )
    architecture = dict(saved.architecture)
    prompts = prompts_from_state(architecture.pop("prompts"))
    weights = {name.removeprefix(_PREFIX): value for name, value in saved.weights.items() if name.startswith(_PREFIX)}
    built = restore_language_model(architecture, weights, store)
    return CrystalWriter(built.model, built.tokenizer, prompts)


def _exported(folder: Path) -> CrystalWriter:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    state: dict[str, Any] = json.loads((folder / WRITER_FILE).read_text(encoding="utf-8"))
    prompts = prompts_from_state(state["prompts"])
    reader: Any = AutoModelForCausalLM
    with quiet():
        try:
            model = reader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} cannot be read: {error}", remedy="export the run again") from error
    return CrystalWriter(model.eval(), tokenizer, prompts)
